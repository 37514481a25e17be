"""Folds: map-style data sets of images and labels, in record files, in image files, or drawn."""

import contextlib
import glob
import hashlib
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_processing.images import BadImageError, check_scale, decode_image, read_bytes
from dataset_processing.pathfinder import Pathfinder, Settings, Stimulus
from dataset_processing.records import SAMPLES, RecordReader
from support.errors import MissingError, UserError, refusals

FOLDS = ("train", "val")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.tfrecords$")
LOOKED_AT = 24  # images of a fold that are looked at when it is opened
FIRST = {"val": 2**62, "test": 2**62 + 2**61}  # first image of drawn folds; far beyond training


class ImageFiles:
    """Image files of a set, in ``folder``, and their labels, read by number as
    :class:`RecordReader` reads records."""

    def __init__(self, folder: Path, paths: list[str], labels: Sequence[int] | np.ndarray) -> None:
        self.folder, self.paths = folder, paths
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> tuple[np.ndarray, int, str]:
        """The image, (H, W) uint8, its label, and what it was before it was converted."""
        image, converted = decode_image(read_bytes(Path(self.paths[number])), self.paths[number])
        return image, int(self.labels[number]), converted

    def place(self, number: int) -> str:
        """An image's path."""
        return self.paths[number]

    name = place

    def fingerprint(self) -> str:
        """Short hashes, joined by -, of the list of files and labels and of some files' sizes; and
        of what these files hold, which an earlier version left out (:func:`is_same`)."""
        listed, held = hashlib.sha256(self.labels.tobytes()), hashlib.sha256()
        for path in self.paths:
            listed.update(os.fsencode("/".join(path.split("/")[-3:])))
        for number in np.unique(np.linspace(0, len(self) - 1, SAMPLES).astype(int)):
            file = Path(self.paths[number])
            with refusals(file, "cannot be read"):
                listed.update(str(file.stat().st_size if file.exists() else None).encode())
            with contextlib.suppress(UserError):  # it is told of when its turn comes
                held.update(read_bytes(file))
        return f"{listed.hexdigest()[:16]}-{held.hexdigest()[:16]}"

    def describe(self, size: str = "") -> str:
        """How many images of what ``size`` in which folder."""
        return f"{len(self)} images{size}, read from {self.folder}"


class StoredFold:
    """A fold in record files or in image files; messages call it ``title``.

    Raises:
        UserError: there is no record in any of the files.
    """

    def __init__(self, title: str, reader: RecordReader | ImageFiles) -> None:
        self.title, self.reader = title, reader
        self.im_size: tuple[int, int] | None = None  # (H, W) of its images, after :meth:`look`
        self.meant = False
        self._warned: set[str] = set()
        if not len(reader):
            raise UserError(f"{reader.paths[0]}: no record in it, nor in another file of {title}")

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W), uint8 or float32, and label; any index, taken modulo the length.

        What was converted, and what is unusual about the pixels, is warned of once.

        Raises:
            BadImageError: the image is missing or damaged, not of ``im_size`` or not on the scale
                0–255, or the label is no class.
        """
        number = index % len(self)
        place = self.reader.place(number)
        image, label, converted = self.reader.read(number)
        scale = check_scale(image, place, self.meant)
        if self.im_size is not None and image.shape != self.im_size:
            raise BadImageError(
                f"{place}: the image is {times(image.shape)}; im_size of the data set is "
                f"{times(self.im_size)}"
            )
        if label not in (0, 1):
            raise BadImageError(f"{place}: its label is {label}; expected 0 or 1")
        told = converted and f"images are converted; {place} is {converted}"
        for kind, text in (("scale", scale), ("form", told)):
            if text and kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(f"{self.title}: {text}", stacklevel=2)
        return image, label

    def look(self, im_size: Sequence[int] | None = None, meant: bool = False) -> None:
        """Look at some images: whether they can be used, their labels, and their size.

        A warning tells of a fold that seems to be of one label.

        Args:
            im_size: (H, W) that they must have; None takes the size of most of them.
            meant: another scale than 0–255 may be meant.

        Raises:
            UserError: none can be used, or they are of another size.
        """
        self.meant = meant
        sizes: dict[tuple[int, int], list[str]] = defaultdict(list)
        labels, failures = [], []
        for number in np.unique(np.linspace(0, len(self) - 1, LOOKED_AT).astype(int)).tolist():
            place = self.reader.place(number)
            try:
                image, label = self[number]
            except UserError as error:
                failures.append(str(error))
                continue
            labels.append(label)
            if image.any():
                sizes[image.shape].append(place)
            else:
                failures.append(f"{place}: all of its pixels are 0")
        if not sizes:
            raise UserError(
                f"{self.title}: none of the {len(failures)} images looked at can be used; the "
                f"first: {failures[0]}"
            )
        found = max(sizes, key=lambda size: len(sizes[size]))
        if im_size is not None and found != tuple(im_size[:2]):
            raise UserError(
                f"{self.title}: its images are {times(found)} ({sizes[found][0]} for one); im_size "
                f"of the data set is {times(im_size[:2])}"
            )
        if len(labels) > LOOKED_AT / 2 and len(set(labels)) == 1:
            warnings.warn(
                f"{self.title}: each of the {len(labels)} images looked at is of label {label}",
                stacklevel=2,
            )
        self.im_size = found

    def name(self, index: int) -> str:
        """An image's name in tables."""
        return self.reader.name(index % len(self))

    def fingerprint(self) -> str:
        """A short hash of what the files hold."""
        return self.reader.fingerprint()

    def describe(self) -> str:
        """One line: what it is and where."""
        size = f" of {times(self.im_size)} pixels" if self.im_size else ""
        return f"{self.title}: {self.reader.describe(size)}"


class GeneratedFold:
    """Pathfinder images that are drawn when they are asked for.

    Args:
        name: of the set, in messages.
        fold: 'train': an index means the image of that number, however large, so an epoch that
            asks for ``epoch * len + i`` sees fresh images. 'val' and 'test': fixed sets, indices
            modulo len, that no training reaches.
        settings, seed, count: of the images; ``count`` is that of an epoch or of the fixed set.
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


def is_same(recorded: object, here: object) -> bool:
    """Whether a fingerprint that a run recorded, by this version or an earlier one, is that of the
    images here."""
    return recorded == here or str(here).startswith(f"{recorded}-")


def record_files(folder: Path, name: str, fold: str) -> list[Path]:
    """The record files of a fold: one, or all shards of it; none if there are none.

    Raises:
        MissingError: some shards are there and some are missing.
        UserError: there are several versions of the fold.
    """
    whole = folder / f"{name}_{fold}.tfrecords"
    named = folder.glob(f"{glob.escape(name)}_{fold}-*.tfrecords")
    shards = sorted(path for path in named if SHARD.search(path.name))
    if not shards:
        return [whole] if whole.is_file() else []
    numbers = [[int(n) for n in SHARD.findall(path.name)[0]] for path in shards]
    counts = {count for _, count in numbers}
    if whole.is_file() or len(counts) > 1:
        names = [path.name for path in (whole, *shards[:4]) if path.is_file()]
        raise UserError(
            f"{folder}: holds {name}_{fold} in several versions ({', '.join(names)}, …); keep one"
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
