"""Checks a data set: every record's checksums, its image and label, and the set as a whole.

    python -m dataset_processing.verify --dataset curv_contour_length_14_full
    python -m dataset_processing.verify train.tfrecords val.tfrecords

Exit status: 0 nothing is wrong; 1 something is, and is named; 2 there is nothing to check.
"""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from scipy import ndimage

from config import Config
from dataset_processing.base import out_of_balance
from dataset_processing.encode import read_all
from dataset_processing.folds import FOLDS, StoredFold, times
from dataset_processing.generated import read_description
from dataset_processing.images import BadImageError, check_scale
from dataset_processing.records import RecordReader
from dataset_processing.sets import DiskSet, data_sets
from support import shell
from support.errors import UserError
from support.files import read_array

SHOWN = 20  # findings of a kind that are printed


@dataclass
class Findings:
    """What is known of a fold."""

    title: str
    drawn: bool = False  # by the generator, so that there are discs, of whatever size
    wrong: dict[str, list[str]] = field(default_factory=dict)  # by kind
    labels: Counter[int] = field(default_factory=Counter)  # records of each label
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)  # records of each (H, W)
    total: np.ndarray | float = 0.0  # the sum of the images, (H, W) float64
    low: float = math.inf  # the range of the pixels
    high: float = -math.inf
    no_discs: list[str] = field(default_factory=list)  # images in which no disc was found

    def note(self, kind: str, what: str) -> None:
        """Adds a finding."""
        self.wrong.setdefault(kind, []).append(what)

    def read(self, fold: StoredFold, seen: dict[bytes, str], threads: int) -> Self:
        """Takes account of every record; ``seen`` has the images met so far, by a hash of their
        pixels."""
        records = read_all(fold.reader.read, len(fold), threads, "verify", UserError)
        for number, record in enumerate(records):
            if isinstance(record, UserError):
                self.note("corrupt records", str(record))
                continue
            image, label, _ = record
            name, low, high = fold.name(number), float(image.min()), float(image.max())
            try:
                unusual = check_scale(image, name)
            except BadImageError as error:
                unusual = str(error)
            if unusual:
                self.note("pixels that are not on the scale 0–255", unusual)
            elif high - low <= 1:
                self.note("images without contrast", f"{name}: {low:g} to {high:g}")
            elif not (self.drawn or has_discs(image)):
                self.no_discs.append(name)
            self.labels[label] += 1
            self.sizes[image.shape] += 1
            self.low, self.high = min(self.low, low), max(self.high, high)
            if len(self.sizes) == 1:
                self.total = self.total + image
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            first = seen.setdefault(digest, name)
            if first is not name:
                self.note("duplicate images", f"{name} is the image of {first}")
        self.close()
        return self

    def close(self) -> None:
        """Looks at the set as a whole: labels, sizes, discs."""
        for label in sorted(set(self.labels) - {0, 1}):
            self.note("labels other than 0 and 1", f"{self.labels[label]} of label {label}")
        ones, count = self.labels[1], self.labels.total()
        if out_of_balance(ones, count):
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

    def check_mean(self, path: Path) -> None:
        """Whether a mean image beside the records is theirs."""
        expected = self.total / max(self.labels.total(), 1)
        try:
            mean = read_array(path)
            same = mean.shape == np.shape(expected) and np.allclose(mean, expected, 0, 1e-3)
            if not same and "corrupt records" not in self.wrong:
                self.note("mean image", f"{path}: is not the mean of these records")
        except UserError as error:
            self.note("mean image", str(error))

    def report(self) -> str:
        """All of it in lines; of each kind of finding the number and the first few."""
        labels = ", ".join(f"{n} of label {label}" for label, n in sorted(self.labels.items()))
        lines = [self.title, f"  read: {self.labels.total()} records; {labels or 'none'}"]
        if labels:
            lines.append(f"  pixels: {self.low:g} to {self.high:g}")
        for kind, found in self.wrong.items():
            lines.append(f"  {kind}: {len(found)}")
            lines += [f"    {what}" for what in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"    … and {len(found) - SHOWN} more")
        return "\n".join(lines)


def has_discs(image: np.ndarray) -> bool:
    """Whether anything bright in an image, (H, W), is about as thick as a marker.

    What is above half of the brightest pixel is eroded once for each 150 pixels of height: a disc
    of the published sizes (a radius of 5 in 300, 3 in 64) is left, a paddle (2 pixels) is not.
    """
    times = max(1, round(image.shape[0] / 150))
    return bool(ndimage.binary_erosion(image > image.max() / 2, iterations=times).any())


def check_set(name: str, config: Config, threads: int = 8) -> list[Findings]:
    """Checks both folds of a data set, records or else images.

    Raises:
        UserError: the name is not known or is that of a stream, the set's labels are in doubt, or
            there is nothing to check.
    """
    data = DiskSet(name, config, {}, "skip")
    generated = config.tf_records / f"{name}.generated.json"
    seen: dict[bytes, str] = {}
    result, records = [], 0
    expected = tuple((data.source.named_size or [])[:2])
    for fold in FOLDS:
        path = config.tf_records / f"{name}_{fold}.tfrecords"
        if data.paths is not None and not data.paths[fold]:
            result.append(Findings(f"{name} {fold}"))
            result[-1].note("missing files", str(path))
            continue
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            stored = data.raw(fold)
        result.append(Findings(stored.describe(), drawn=data.drawn(fold) is not None))
        for caution in said:
            result[-1].note("files that are left out", str(caution.message))
        result[-1].read(stored, seen, threads)
        for size, _ in result[-1].sizes.most_common(1):
            expected = expected or size
            if size != expected:
                told = f"they are {times(size)}; im_size of the data set is {times(expected)}"
                result[-1].note("images of another size", told)
        means = path.with_name(f"{path.stem}_means.npy")
        if data.paths is not None and means.is_file():
            result[-1].check_mean(means)
        records += len(stored)
        there = len(data.images(fold)[0]) if data.source.on_disk() else len(stored)
        if len(stored) != there and not generated.is_file():
            told = f"{len(stored)} of the {there} images of the data set"
            result[-1].note("missing records", told)
    if generated.is_file():
        count = read_description(generated)["count"]
        if records != count:
            told = f"{records} in both folds; {generated} has {count}"
            result[0].note("missing records", told)
    return result


def check_files(paths: list[Path], threads: int = 8) -> list[Findings]:
    """Checks record files by themselves; MissingError if one is missing."""
    seen: dict[bytes, str] = {}
    folds = [StoredFold(path.name, RecordReader([path], keep_damaged=True)) for path in paths]
    return [Findings(fold.describe()).read(fold, seen, threads) for fold in folds]


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
