"""Checks a data set: every record's checksums, its image and label, and the set as a whole.

    python -m dataset_processing.verify --dataset curv_contour_length_14_full
    python -m dataset_processing.verify train.tfrecords val.tfrecords

Exit status: 0 nothing is wrong; 1 something is, and is named; 2 there is nothing to check.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from config import Config
from dataset_processing.encode import read_ahead
from dataset_processing.folds import RecordFold, StoredFold, times
from dataset_processing.generated import read_description
from dataset_processing.sets import FOLDS, DiskSet, data_sets, is_stream
from support import shell
from support.errors import UserError
from support.files import DAMAGED_ARRAY
from support.progress import Progress

SHOWN = 20  # findings of a kind that are printed
LABELS = (0, 1)


@dataclass
class Findings:
    """What is known of a fold after every record has been read.

    Attributes:
        title: what was read.
        wrong: what is wrong, by kind.
        labels: records of each label.
        low, high: the range of the pixels.
        total: the sum of the images, (H, W) float64.
        sizes: records of each (H, W).
        no_discs: images in which no disc was found.
    """

    title: str
    wrong: dict[str, list[str]] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf
    total: np.ndarray | float = 0.0
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    no_discs: list[str] = field(default_factory=list)

    def note(self, kind: str, what: str) -> None:
        """Adds a finding."""
        self.wrong.setdefault(kind, []).append(what)

    def add(self, name: str, image: np.ndarray, label: int, seen: dict[bytes, str]) -> None:
        """Takes account of a record."""
        self.labels[label] += 1
        self.sizes[image.shape] += 1
        low, high = float(image.min()), float(image.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not (low >= 0 and high <= 255):
            self.note("images outside 0–255", f"{name}: {low:g} to {high:g}")
        elif high - low <= 1:
            self.note("images without contrast", f"{name}: {low:g} to {high:g}")
        elif not has_discs(image):
            self.no_discs.append(name)
        if np.shape(self.total) in ((), image.shape):
            self.total = self.total + image
        first = seen.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), name)
        if first is not name:
            self.note("duplicate images", f"{name} is the image of {first}")

    def close(self) -> None:
        """Looks at the set as a whole: labels, sizes, discs."""
        for label in sorted(set(self.labels) - set(LABELS)):
            self.note("labels other than 0 and 1", f"{self.labels[label]} of label {label}")
        ones, count = self.labels[1], self.good
        if count and abs(ones - count / 2) > 5 * math.sqrt(count) / 2:
            self.note("labels out of balance", f"{ones} of {count} are 1, {ones / count:.1%}")
        if len(self.sizes) > 1:
            told = ", ".join(f"{n} of {times(size)}" for size, n in self.sizes.most_common())
            self.note("images of several sizes", told)
        if 2 * len(self.no_discs) > count:
            self.note(
                "images without discs",
                f"{len(self.no_discs)} of {count}, {self.no_discs[0]} for one: nothing round and "
                "bright that is thicker than the paddles; the labels are about two such discs",
            )

    @property
    def good(self) -> int:
        """Records that could be read."""
        return sum(self.labels.values())

    def report(self) -> str:
        """All of it in lines; of each kind of finding the number and the first few."""
        labels = ", ".join(
            f"{count} of label {label}" for label, count in sorted(self.labels.items())
        )
        lines = [f"{self.title}", f"  read: {self.good} records; {labels or 'none'}"]
        if self.good:
            lines.append(f"  pixels: {self.low:g} to {self.high:g}")
        for kind, found in self.wrong.items():
            lines.append(f"  {kind}: {len(found)}")
            lines += [f"    {what}" for what in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"    … and {len(found) - SHOWN} more")
        return "\n".join(lines)


def check(dataset: StoredFold, seen: dict[bytes, str], threads: int = 8) -> Findings:
    """Reads every record of a fold.

    Args:
        dataset: the fold.
        seen: the images met so far, by a hash of their pixels; this fold's are added, so that
            images shared by two folds are found too.
        threads: that read.
    """

    def read(number: int) -> tuple[np.ndarray, int] | UserError:
        try:
            return dataset[number]
        except UserError as error:
            return error

    findings = Findings(dataset.describe())
    with ThreadPoolExecutor(threads) as pool:
        facts = read_ahead(pool, read, range(len(dataset)))
        bar = Progress(facts, total=len(dataset), desc="verify", unit=" records")
        for number, found in enumerate(bar):
            if isinstance(found, UserError):
                findings.note("corrupt records", str(found))
            else:
                findings.add(dataset.name(number), found[0], found[1], seen)
    findings.close()
    return findings


def has_discs(image: np.ndarray) -> bool:
    """Whether anything bright in an image, (H, W), is about as thick as a marker.

    What is above half of the brightest pixel is eroded once for each 75 pixels of height: a disc
    of the published sizes (a radius of 5 in 300, 3 in 64) is left, a paddle (2 pixels) is not.
    """
    lit = image > image.max() / 2
    for _ in range(max(1, round(image.shape[0] / 150))):
        inner = lit[1:-1, 1:-1].copy()
        inner &= lit[:-2, 1:-1] & lit[2:, 1:-1] & lit[1:-1, :-2] & lit[1:-1, 2:]
        lit = inner
    return bool(lit.any())


def check_set(name: str, config: Config, threads: int = 8) -> list[Findings]:
    """Checks both folds of a data set, records or else images.

    Raises:
        UserError: the name is not known, is that of a stream, or the set's labels are in doubt.
        MissingError: there is nothing to check.
    """
    if is_stream(name):
        raise UserError(f"{name!r} is drawn while training; there are no files to check")
    data = DiskSet(name, config, {}, "skip")
    on_disk = data.source.on_disk()
    seen: dict[bytes, str] = {}
    result = []
    for fold in FOLDS:
        if data.paths is not None and not data.paths[fold]:
            result.append(Findings(f"{name} {fold}"))
            result[-1].note("missing files", str(config.tf_records / f"{name}_{fold}.tfrecords"))
            continue
        result.append(check(data.raw(fold, binary=False), seen, threads))
        if data.paths is not None:
            _check_mean(result[-1], config.tf_records / f"{name}_{fold}_means.npy")
    generated = config.tf_records / f"{name}.generated.json"
    wanted = [len(data.images(fold)[0]) for fold in FOLDS] if on_disk else None
    _check_count(result, generated, wanted)
    return result


def _check_mean(findings: Findings, path: Path) -> None:
    """The mean image beside the records is theirs."""
    if not path.is_file():
        return
    try:
        mean = np.load(path, allow_pickle=False)
    except (OSError, *DAMAGED_ARRAY) as error:
        findings.note("mean image", f"{path}: cannot be read ({error})")
        return
    expected = findings.total / max(findings.good, 1)
    if "corrupt records" in findings.wrong:
        return
    if mean.shape != np.shape(expected) or not np.allclose(mean, expected, rtol=0, atol=1e-3):
        findings.note("mean image", f"{path}: is not the mean of these records")


def _check_count(folds: list[Findings], generated: Path, wanted: list[int] | None) -> None:
    """No record is missing, by what is known of the set: how it was generated, or its images."""
    found = [fold.good + len(fold.wrong.get("corrupt records", [])) for fold in folds]
    if generated.is_file():
        count = read_description(generated)["count"]
        if sum(found) != count:
            folds[0].note("missing records", f"{sum(found)} in both folds; {generated} has {count}")
    elif wanted is not None:
        for findings, here, there in zip(folds, found, wanted, strict=True):
            if here != there:
                findings.note("missing records", f"{here} of the {there} images of the data set")


def check_files(paths: list[Path], threads: int = 8) -> list[Findings]:
    """Checks record files by themselves; MissingError if one is missing."""
    seen: dict[bytes, str] = {}
    return [
        check(RecordFold(path.name, [path], True, binary=False), seen, threads) for path in paths
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where something is wrong."""
    parse = shell.Parser("verify", __doc__, package="dataset_processing")
    parse.add_argument("--dataset", metavar="NAME", help=", ".join(data_sets()))
    parse.add_argument("files", nargs="*", type=Path, help="record files, without --dataset")
    parse.add_argument("--threads", type=shell.whole(1), default=8, help="that read")
    options = parse.parse_args(arguments)
    if bool(options.dataset) == bool(options.files):
        raise UserError("name a data set (--dataset) or record files, one of the two")
    if options.dataset:
        found = check_set(options.dataset, Config(), options.threads)
    else:
        found = check_files(options.files, options.threads)
    print("\n".join(findings.report() for findings in found))
    wrong = sum(len(what) for findings in found for what in findings.wrong.values())
    print(f"{wrong} findings" if wrong else "nothing wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    shell.run_command(main)
