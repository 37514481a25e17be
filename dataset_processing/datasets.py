"""Data sets on disk as PyTorch's map-style data sets: records, or the images themselves."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_processing.records import FOOTER, CorruptRecordError, RecordReader, read_png

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.tfrecords$")
FINGERPRINT_SAMPLES = 64  # records of a file, or images of a fold, that a fingerprint looks at


class RecordDataset:
    """A fold held in record files.

    Args:
        name: what it is called in messages.
        paths: its record files, in order.
        im_size: (H, W) that its images must have; None takes them as they are.
        keep_damaged: see :class:`RecordReader`.
        binary: labels must be 0 or 1.

    Raises:
        FileNotFoundError, CorruptRecordError: as :class:`RecordReader` does.
        ValueError: there is no record in the files.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        im_size: Sequence[int] | None,
        keep_damaged: bool = False,
        binary: bool = True,
    ) -> None:
        self.title, self.im_size, self.binary = name, im_size, binary
        self.reader = RecordReader(paths, keep_damaged)
        if not len(self.reader):
            raise ValueError(f"{', '.join(map(str, paths))}: no record in it; encode the set again")

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W), uint8 or float32, and label; any index, taken modulo the length.

        Raises:
            CorruptRecordError: a checksum does not match, the image is not of ``im_size``, or the
                label is no class.
        """
        image, label = self.reader[self.number(index)]
        if self.im_size is not None and image.shape != tuple(self.im_size):
            raise self._unusable(index, wrong_size(image.shape, self.im_size))
        if self.binary and label not in (0, 1):
            raise self._unusable(index, f"its label is {label}; expected 0 or 1")
        return image, label

    def _unusable(self, index: int, what: str) -> CorruptRecordError:
        file, number = self.reader.locate(self.number(index))
        return CorruptRecordError(self.reader.paths[file], number, what)

    def number(self, index: int) -> int:
        """The number, below the length, of the record that an index of any epoch means."""
        return index % len(self)

    def name(self, index: int) -> str:
        """A record's name for messages: ``train.tfrecords record 17``."""
        return self.reader.name(self.number(index))

    def fingerprint(self) -> str:
        """A short hash of the files' lengths and of some of their records' checksums.

        It stays the same where the files are moved or copied.
        """
        digest = hashlib.sha256()
        for path, offsets in zip(self.reader.paths, self.reader.offsets, strict=True):
            digest.update(f"{path.name} {len(offsets)} {offsets[-1]}".encode())
            picked = np.linspace(1, len(offsets) - 1, FINGERPRINT_SAMPLES).astype(int)
            with open(path, "rb") as file:
                for end in offsets[np.unique(picked)]:
                    file.seek(max(int(end) - FOOTER, 0))
                    digest.update(file.read(FOOTER))
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """One line: what it is and where."""
        size = sum(int(offsets[-1]) for offsets in self.reader.offsets)
        files = len(self.reader.paths)
        return (
            f"{self.title}: {len(self)} records in {files} file{'s' * (files > 1)} "
            f"({size / 1e6:.1f} MB) of {self.reader.paths[0].parent}"
        )


class ImageDataset:
    """A fold read from the images themselves.

    Args:
        name: what it is called in messages.
        files: paths of the images.
        labels: their labels, (len(files),).
        im_size: (H, W) that they must have.
    """

    def __init__(
        self, name: str, files: list[str], labels: np.ndarray, im_size: Sequence[int]
    ) -> None:
        self.title, self.files, self.labels, self.im_size = name, files, labels, im_size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W) uint8 and label; any index, taken modulo the length.

        Raises:
            CorruptRecordError: the image is missing, damaged, or not of ``im_size``.
        """
        number = self.number(index)
        path = Path(self.files[number])
        try:
            image = read_png(path)
        except OSError as error:
            raise CorruptRecordError(path, number, reason(error)) from error
        if image.shape != tuple(self.im_size):
            raise CorruptRecordError(path, number, wrong_size(image.shape, self.im_size))
        return image, int(self.labels[number])

    def number(self, index: int) -> int:
        """The number, below the length, of the image that an index of any epoch means."""
        return index % len(self)

    def name(self, index: int) -> str:
        """An image's name for messages: its path."""
        return self.files[self.number(index)]

    def fingerprint(self) -> str:
        """A short hash of the list of files and labels and of some files' sizes."""
        digest = hashlib.sha256(self.labels.tobytes())
        for path in self.files:
            digest.update("/".join(path.split("/")[-3:]).encode())
        for number in np.unique(np.linspace(0, len(self) - 1, FINGERPRINT_SAMPLES).astype(int)):
            file = Path(self.files[number])
            digest.update(str(file.stat().st_size if file.exists() else None).encode())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """One line: what it is and where."""
        return f"{self.title}: {len(self)} images, read from {Path(self.files[0]).parents[2]}"


def record_files(folder: Path, name: str, fold: str) -> list[Path]:
    """The record files of a fold: one, or all shards of it; none if there are none.

    Raises:
        FileNotFoundError: some shards are there and some are missing.
        ValueError: there are several versions of the fold.
    """
    whole = folder / f"{name}_{fold}.tfrecords"
    shards = sorted(p for p in folder.glob(f"{name}_{fold}-*.tfrecords") if SHARD.search(p.name))
    if not shards:
        return [whole] if whole.is_file() else []
    counts = {shard_number(path)[1] for path in shards}
    if whole.is_file() or len(counts) > 1:
        raise ValueError(
            f"{folder}: holds {name}_{fold} in several versions "
            f"({', '.join([whole.name] * whole.is_file() + [path.name for path in shards[:4]])}, …)"
            "; keep one"
        )
    missing = set(range(counts.pop())) - {shard_number(path)[0] for path in shards}
    if missing:
        raise FileNotFoundError(
            f"{folder}: {name}_{fold} lacks {len(missing)} of its {len(missing) + len(shards)} "
            f"shards: {', '.join(map(str, sorted(missing)[:8]))}; run the command that writes them "
            "again"
        )
    return shards


def shard_number(path: Path) -> tuple[int, int]:
    """(3, 16) of ``…-00003-of-00016.tfrecords``."""
    match = SHARD.search(path.name)
    if match is None:
        raise ValueError(f"{path}: not the name of a shard")
    return int(match[1]), int(match[2])


def wrong_size(found: tuple[int, ...], expected: Sequence[int]) -> str:
    """What is wrong with an image of another size."""
    found_text, expected_text = ("×".join(map(str, size)) for size in (found, expected))
    return f"the image is {found_text}; im_size of the data set is {expected_text}"


def reason(error: OSError) -> str:
    """Why an image could not be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"the image cannot be read ({error.strerror or error})"
