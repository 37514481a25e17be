"""Folds: map-style data sets of images and labels, in record files, in image files, or drawn."""

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_processing.images import BadImageError, check_scale, decode_image, read_bytes
from dataset_processing.pathfinder import Pathfinder, Settings, Stimulus
from dataset_processing.records import FOOTER, RecordReader
from support.errors import MissingError, UserError, refusals

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.tfrecords$")
FINGERPRINT_SAMPLES = 64  # records of a file, or images of a fold, that a fingerprint looks at
LOOKED_AT = 24  # images of a fold that are looked at when it is opened
FIRST = {"val": 2**62, "test": 2**62 + 2**61}  # first image of drawn folds; far beyond training


class StoredFold:
    """What folds in records and in image files share: what is looked at, what is refused.

    Attributes:
        title: what it is called in messages.
        im_size: (H, W) of its images; None until :meth:`look`.
        binary: labels must be 0 or 1.
    """

    title: str
    im_size: tuple[int, int] | None = None
    binary = True
    _told = False  # that images were converted

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, number: int) -> tuple[np.ndarray, int, str]:
        """An image as it is, its label, and how it was converted to grey."""
        raise NotImplementedError

    def place(self, number: int) -> str:
        """An image's file, and its number there, for messages."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """A shorter name for messages."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line: what it is and where."""
        raise NotImplementedError

    def number(self, index: int) -> int:
        """The number, below the length, of the image that an index of any epoch means."""
        return index % len(self)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W), uint8 or float32, and label; any index, taken modulo the length.

        Raises:
            BadImageError: the image is missing or damaged, not of ``im_size`` or not finite, or
                the label is no class.
        """
        number = self.number(index)
        image, label, converted = self.read(number)
        if self.im_size is not None and image.shape != self.im_size:
            raise BadImageError(
                f"{self.place(number)}: the image is {times(image.shape)}; im_size of the data set "
                f"is {times(self.im_size)}"
            )
        if image.dtype != np.uint8 and not np.isfinite(image).all():
            count = int((~np.isfinite(image)).sum())
            raise BadImageError(
                f"{self.place(number)}: {count} of its {image.size} pixels are not finite (nan or "
                "infinite); expected 0–255"
            )
        if self.binary and label not in (0, 1):
            raise BadImageError(f"{self.place(number)}: its label is {label}; expected 0 or 1")
        if converted and not self._told:
            self._told = True
            warnings.warn(
                f"{self.title}: images are converted to grey; {self.place(number)} is {converted}",
                stacklevel=2,
            )
        return image, label

    def look(self, im_size: Sequence[int] | None = None, meant: bool = False) -> None:
        """Look at some images: their size, their scale, whether they must be converted.

        Args:
            im_size: (H, W) that they must have; None takes the size of most of them.
            meant: another scale than 0–255 may be meant.

        Raises:
            UserError: none can be read, or they are not of that size or on that scale.
        """
        numbers = np.unique(np.linspace(0, len(self) - 1, LOOKED_AT).astype(int)).tolist()
        images, names, failure = [], [], None
        for number in numbers:
            try:
                images.append(self[number][0])
                names.append(self.place(number))
            except UserError as error:
                failure = failure or error
        if failure is not None and not images:
            raise UserError(
                f"{self.title}: none of the {len(numbers)} images looked at can be used; the "
                f"first: {failure}"
            )
        sizes = Counter(image.shape for image in images)
        found = sizes.most_common(1)[0][0]
        self.im_size = (int(found[0]), int(found[1]))
        if im_size is not None and self.im_size != tuple(im_size[:2]):
            raise UserError(
                f"{self.title}: its images are {times(found)} ({names[0]} for one); im_size of the "
                f"data set is {times(im_size[:2])}"
            )
        check_scale(self.title, images, names, meant)


class RecordFold(StoredFold):
    """A fold held in record files.

    Args:
        title: what it is called in messages.
        paths: its record files, in order; some may be without a record.
        keep_damaged: see :class:`RecordReader`.
        binary: labels must be 0 or 1.

    Raises:
        MissingError, BadImageError: as :class:`RecordReader` does.
        UserError: there is no record in any of the files.
    """

    def __init__(
        self, title: str, paths: Sequence[Path], keep_damaged: bool = False, binary: bool = True
    ) -> None:
        self.title, self.binary = title, binary
        self.reader = RecordReader(paths, keep_damaged)
        if not len(self.reader):
            raise UserError(f"{', '.join(map(str, paths))}: no record in it; encode the set again")

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, number: int) -> tuple[np.ndarray, int, str]:
        return self.reader.read(number)

    def place(self, number: int) -> str:
        return self.reader.place(number)

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
            with refusals(path, "cannot be read"), open(path, "rb") as file:
                for end in offsets[np.unique(picked)] if len(offsets) > 1 else ():
                    file.seek(max(int(end) - FOOTER, 0))
                    digest.update(file.read(FOOTER))
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """One line: what it is and where."""
        size = sum(int(offsets[-1]) for offsets in self.reader.offsets)
        files = len(self.reader.paths)
        return (
            f"{self.title}: {len(self)} records{_of_size(self.im_size)} in {files} "
            f"file{'s' * (files > 1)} ({size / 1e6:.1f} MB) of {self.reader.paths[0].parent}"
        )


class ImageFold(StoredFold):
    """A fold read from the images themselves.

    Args:
        title: what it is called in messages.
        files: paths of the images.
        labels: their labels, (len(files),).
    """

    def __init__(self, title: str, files: list[str], labels: np.ndarray) -> None:
        self.title, self.files, self.labels = title, files, labels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> tuple[np.ndarray, int, str]:
        path = self.files[number]
        image, converted = decode_image(read_bytes(Path(path)), path)
        return image, int(self.labels[number]), converted

    def place(self, number: int) -> str:
        return self.files[number]

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
            with refusals(file, "cannot be read"):
                digest.update(str(file.stat().st_size if file.exists() else None).encode())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """One line: what it is and where."""
        place = Path(self.files[0]).parents[2]
        return f"{self.title}: {len(self)} images{_of_size(self.im_size)}, read from {place}"


class GeneratedFold:
    """Pathfinder images that are drawn when they are asked for.

    Args:
        name: of the set.
        fold: 'train': an index means the image of that number, however large, so an epoch that
            asks for ``epoch * len + i`` sees fresh images. 'val' and 'test': fixed sets, indices
            modulo len, that no training reaches.
        settings: of the images.
        seed: of the images.
        count: images an epoch, or images of the fixed set.
    """

    def __init__(self, name: str, fold: str, settings: Settings, seed: int, count: int) -> None:
        self.title, self.fold, self.count = name, fold, count
        self.pathfinder = Pathfinder(settings, seed)
        self.pathfinder.images([0])  # compiles the kernel once, before workers are started
        self.im_size = settings.shape

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W) uint8 and its label."""
        return self.pathfinder.image(self.image_number(index))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Several at once, which is faster."""
        images, labels = self.pathfinder.images([self.image_number(index) for index in indices])
        return list(zip(images, labels.tolist(), strict=True))

    def stimulus(self, index: int) -> Stimulus:
        """One image with what it is made of: masks, paddles, markers."""
        return self.pathfinder.stimulus(self.image_number(index))

    def image_number(self, index: int) -> int:
        """The generator's number of an image."""
        return index if self.fold == "train" else FIRST[self.fold] + index % self.count

    def name(self, index: int) -> str:
        """An image's name for messages."""
        number = self.image_number(index)
        return f"{self.title} {self.fold} image {number} of seed {self.pathfinder.seed}"

    def fingerprint(self) -> str:
        """A short hash of settings, seed, fold and length."""
        settings, seed = self.pathfinder.settings.fingerprint(), self.pathfinder.seed
        if self.fold == "test":  # the form in which evaluations have been kept
            return f"{settings[:16]}-{seed}-{self.count}"
        text = f"{settings} {seed} {self.fold} {self.count}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line: what it is."""
        kind = "fresh images an epoch" if self.fold == "train" else "images, always the same"
        return (
            f"{self.title} {self.fold}: {self.count} {kind}, {times(self.im_size)}, contours of "
            f"{self.pathfinder.settings.contour_length} paddles, seed {self.pathfinder.seed}"
        )


def record_files(folder: Path, name: str, fold: str) -> list[Path]:
    """The record files of a fold: one, or all shards of it; none if there are none.

    Raises:
        MissingError: some shards are there and some are missing.
        UserError: there are several versions of the fold.
    """
    whole = folder / f"{name}_{fold}.tfrecords"
    shards = sorted(p for p in folder.glob(f"{name}_{fold}-*.tfrecords") if SHARD.search(p.name))
    if not shards:
        return [whole] if whole.is_file() else []
    numbers = [[int(n) for n in SHARD.findall(path.name)[0]] for path in shards]
    counts = {count for _, count in numbers}
    if whole.is_file() or len(counts) > 1:
        raise UserError(
            f"{folder}: holds {name}_{fold} in several versions "
            f"({', '.join([whole.name] * whole.is_file() + [path.name for path in shards[:4]])}, …)"
            "; keep one"
        )
    missing = set(range(counts.pop())) - {number for number, _ in numbers}
    if missing:
        raise MissingError(
            f"{folder}: {name}_{fold} lacks {len(missing)} of its {len(missing) + len(shards)} "
            f"shards: {', '.join(map(str, sorted(missing)[:8]))}; run the command that writes them "
            "again"
        )
    return shards


def times(size: Sequence[int]) -> str:
    """64×64."""
    return "×".join(map(str, size))


def _of_size(im_size: Sequence[int] | None) -> str:
    return f" of {times(im_size)} pixels" if im_size else ""
