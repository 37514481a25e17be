"""Checks a data set: every record's checksums, its image and label, and the set as a whole.

    python -m dataset_processing.verify --dataset curv_contour_length_14_full
    python -m dataset_processing.verify train.tfrecords val.tfrecords

Exit status: 0 nothing is wrong; 1 something is, and is named; 2 there is nothing to check.
"""

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from config import Config
from dataset_processing import FOLDS, data_sets, is_stream, load_set, missing
from dataset_processing.datasets import ImageDataset, RecordDataset, record_files
from dataset_processing.encode import read_ahead
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
    """

    title: str
    wrong: dict[str, list[str]] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf
    total: np.ndarray | float = 0.0

    def note(self, kind: str, what: str) -> None:
        """Adds a finding."""
        self.wrong.setdefault(kind, []).append(what)

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


def check(
    dataset: RecordDataset | ImageDataset, seen: dict[bytes, str], threads: int = 8
) -> Findings:
    """Reads every record of a fold.

    Args:
        dataset: the fold.
        seen: the images met so far, by a hash of their pixels; this fold's are added, so that
            images shared by two folds are found too.
        threads: that read.
    """
    findings = Findings(dataset.describe())
    with ThreadPoolExecutor(threads) as pool:
        facts = read_ahead(pool, lambda number: _read(dataset, number), range(len(dataset)))
        bar = Progress(facts, total=len(dataset), desc="verify", unit=" records")
        for number, found in enumerate(bar):
            if isinstance(found, ValueError):
                findings.note("corrupt records", str(found))
                continue
            _add(findings, dataset.name(number), seen, *found)
    _check_labels(findings)
    return findings


def _read(
    dataset: RecordDataset | ImageDataset, number: int
) -> tuple[np.ndarray, int, bytes] | ValueError:
    """Image, label and a hash of the pixels; or what is wrong with the record."""
    try:
        image, label = dataset[number]
    except ValueError as error:
        return error
    return image, label, hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _add(
    findings: Findings,
    name: str,
    seen: dict[bytes, str],
    image: np.ndarray,
    label: int,
    digest: bytes,
) -> None:
    """Takes account of one record."""
    findings.labels[label] += 1
    low, high = float(image.min()), float(image.max())
    findings.low, findings.high = min(findings.low, low), max(findings.high, high)
    if not (low >= 0 and high <= 255):  # also where they are not numbers
        findings.note("images outside 0–255", f"{name}: {low:g} to {high:g}")
    elif high - low <= 1:
        findings.note("images without contrast", f"{name}: {low:g} to {high:g}")
    if np.shape(findings.total) in ((), image.shape):
        findings.total = findings.total + image
    if digest in seen:
        findings.note("duplicate images", f"{name} is the image of {seen[digest]}")
    else:
        seen[digest] = name


def _check_labels(findings: Findings) -> None:
    """Labels other than 0 and 1, and a share of label 1 that chance does not give."""
    for label in sorted(set(findings.labels) - set(LABELS)):
        findings.note("labels other than 0 and 1", f"{findings.labels[label]} of label {label}")
    ones, count = findings.labels[1], findings.good
    if count and abs(ones - count / 2) > 5 * math.sqrt(count) / 2:
        findings.note("labels out of balance", f"{ones} of {count} are 1, {ones / count:.1%}")


def check_set(name: str, config: Config, threads: int = 8) -> list[Findings]:
    """Checks both folds of a data set, records or else images.

    Raises:
        ValueError: the name is not known, or is that of a stream.
        FileNotFoundError: there is nothing to check.
    """
    if is_stream(name):
        raise ValueError(f"{name!r} is drawn while training; there are no files to check")
    data_set = load_set(name, config)
    paths = {fold: record_files(config.tf_records, name, data_set.folds[fold]) for fold in FOLDS}
    images = data_set.get_data() if data_set.on_disk() else None
    if not any(paths.values()) and images is None:
        raise FileNotFoundError(missing(name, config, data_set))
    seen: dict[bytes, str] = {}
    result = []
    for fold in FOLDS:
        title = f"{name} {fold}"
        if not any(paths.values()) and images is not None:
            files, labels = images[0][fold], images[1][fold]
            result.append(
                check(ImageDataset(title, files, labels, data_set.im_size), seen, threads)
            )
        elif not paths[fold]:
            result.append(Findings(title))
            result[-1].note("missing files", str(config.tf_records / f"{name}_{fold}.tfrecords"))
        else:
            dataset = RecordDataset(title, paths[fold], data_set.im_size, True, binary=False)
            result.append(check(dataset, seen, threads))
            _check_mean(result[-1], config.tf_records / f"{name}_{fold}_means.npy")
    _check_count(result, config.tf_records / f"{name}.generated.json", images)
    return result


def _check_mean(findings: Findings, path: Path) -> None:
    """The mean image beside the records is theirs."""
    if not path.is_file():
        return
    try:
        mean = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        findings.note("mean image", f"{path}: cannot be read ({error})")
        return
    expected = findings.total / max(findings.good, 1)
    if "corrupt records" in findings.wrong:
        return
    if mean.shape != np.shape(expected) or not np.allclose(mean, expected, rtol=0, atol=1e-3):
        findings.note("mean image", f"{path}: is not the mean of these records")


def _check_count(folds: list[Findings], generated: Path, images: tuple[dict, dict] | None) -> None:
    """No record is missing, by what is known of the set: how it was generated, or its images."""
    if generated.is_file():
        found = sum(map(_records, folds))
        wanted = json.loads(generated.read_text(encoding="utf-8"))["count"]
        if found != wanted:
            folds[0].note("missing records", f"{found} in both folds; {generated} has {wanted}")
    elif images is not None:
        for fold, findings in zip(FOLDS, folds, strict=True):
            found, wanted = _records(findings), len(images[0][fold])
            if found != wanted:
                findings.note("missing records", f"{found} of the {wanted} images of the data set")


def _records(findings: Findings) -> int:
    return findings.good + len(findings.wrong.get("corrupt records", []))


def check_files(paths: list[Path], threads: int = 8) -> list[Findings]:
    """Checks record files by themselves; FileNotFoundError if one is missing."""
    seen: dict[bytes, str] = {}
    return [
        check(RecordDataset(path.name, [path], None, True, binary=False), seen, threads)
        for path in paths
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        if bool(options.dataset) == bool(options.files):
            raise ValueError("name a data set (--dataset) or record files, one of the two")
        if options.dataset:
            found = check_set(options.dataset, Config(), options.threads)
        else:
            found = check_files(options.files, options.threads)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the end", file=sys.stderr)
        return 130
    print("\n".join(findings.report() for findings in found))
    wrong = sum(len(what) for findings in found for what in findings.wrong.values())
    print(f"{wrong} findings" if wrong else "nothing wrong")
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m dataset_processing.verify",
        description="Reads every record of a data set: corrupt, duplicate and missing records, "
        "label balance, image ranges. Exit status: 0 nothing wrong, 1 something is, 2 nothing to "
        "check.",
    )
    result.add_argument("--dataset", help=", ".join(data_sets()))
    result.add_argument("files", nargs="*", type=Path, help="record files, without --dataset")
    result.add_argument("--threads", type=int, default=8, help="that read (8)")
    return result


if __name__ == "__main__":
    sys.exit(main())
