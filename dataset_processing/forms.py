"""The forms in which a generated set is written: what a set is, its shards, and how each is filled.

docs/data.md describes the forms; ``compact`` and ``float32`` are both records (see `records`).

A file of records or a tar file takes its name when it is whole. A shard of a folder is whole once
its metadata are there: what a killed run leaves is not listed, and written over by the same bytes.
"""

import hashlib
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dataset_processing.images import encode_png
from dataset_processing.pathfinder import CHUNK, Pathfinder, Settings
from dataset_processing.records import RecordReader, RecordWriter
from dataset_processing.workers import heed
from support.errors import UserError, refusals
from support.files import WholeFile, npy_bytes, write_bytes

RECORDS, FOLDERS = ("compact", "float32"), ("png", "png2020", "lra", "png2025")
AGAIN = "delete it and run the same command again"
Add = Callable[[int, np.ndarray, int], None]  # takes an image's index, the image, its label


@dataclass(frozen=True)
class Job:
    """A set to be written.

    Args:
        name: of the set, as ``exp['dataset']`` has it; of its folder where it is one.
        settings, seed: of its images.
        count: images in all; their indices are start … start + count - 1.
        folder: where its files or its folder go.
        form: see the head of this file.
        val_fraction: share of the images, the last ones, that validate; folders have no folds.
        shard_images: images in a shard at most.
        masks: write each image's contour mask beside it (``seg/`` beside ``imgs/``, or
            ``.seg.png``): the contour with the first marker; not in records.
        start: index of the first image; machines that share a set take a range each.

    Raises:
        UserError: an argument is out of range.
    """

    name: str
    settings: Settings
    seed: int
    count: int
    folder: Path
    form: str = "compact"
    val_fraction: float = 0.1
    shard_images: int = 5000
    masks: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(
                f"val_fraction: a share from 0 to below 1 is expected, not {self.val_fraction}"
            )
        if self.masks and self.form in RECORDS:
            raise UserError("masks have no place in records: add --format png or webdataset")
        _ = self.generator

    @cached_property
    def generator(self) -> Pathfinder:
        """Of its images."""
        return Pathfinder(self.settings, self.seed)

    def folds(self) -> dict[str, range]:
        """The indices of each fold's images; those of a folder, which has no folds, train."""
        held_out = 0 if self.form in FOLDERS else round(self.count * self.val_fraction)
        end = self.start + self.count
        return {"train": range(self.start, end - held_out), "val": range(end - held_out, end)}

    def shards(self) -> list["Shard"]:
        """All shards, in the order of their images."""
        result = []
        for fold, indices in self.folds().items():
            parts = math.ceil(len(indices) / self.shard_images)
            for part in range(parts):
                first, end = (len(indices) * at // parts for at in (part, part + 1))
                result.append(Shard(self, fold, part, parts, indices[first:end]))
        return result

    def description(self) -> dict[str, Any]:
        """What the set consists of, as the file beside it holds it."""
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        images = f"{self.settings.fingerprint()} {self.seed} {self.start} {self.count}"
        values["fingerprint"] = hashlib.sha256(images.encode()).hexdigest()[:16]
        return dict(json.loads(json.dumps(values)))

    @property
    def suffix(self) -> str:
        """Of its files, where it is no folder."""
        return "tfrecords" if self.form in RECORDS else "tar"

    def root(self, label: int) -> Path:
        """The folder of a class."""
        apart = self.form == "png" and label == 0
        return self.folder / (f"{self.name}_neg" if apart else self.name)


@dataclass(frozen=True)
class Shard:
    """A run of a set's images that is written at once."""

    job: Job
    fold: str
    part: int
    parts: int
    indices: range

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def file(self) -> Path:
        """The file of records, or the tar file."""
        number = f"-{self.part:05d}-of-{self.parts:05d}" if self.parts > 1 else ""
        return self.job.folder / f"{self.job.name}_{self.fold}{number}.{self.job.suffix}"

    def metadata(self, label: int) -> Path:
        """The file that lists a class's images in a folder; it is written last."""
        return self.job.root(label) / "metadata" / f"{self.part}.npy"

    def place(self, label: int) -> str:
        """Where a class's images lie, below ``imgs/`` in the folder."""
        return ("neg", "pos")[label] if self.job.form == "png2025" else str(self.part)

    def is_written(self) -> bool:
        """Whether the shard is there and whole.

        Raises:
            UserError: its file holds another number of images.
        """
        if self.job.form in FOLDERS:
            return all(self.metadata(label).is_file() for label in (0, 1))
        if not self.file.is_file():
            return False
        if self.job.form in RECORDS:
            found = len(RecordReader([self.file]))
        else:
            try:
                with refusals(self.file, "cannot be read"), tarfile.open(self.file) as file:
                    found = sum(name.endswith(".cls") for name in file.getnames())
            except tarfile.TarError:
                raise UserError(f"{self.file}: is no tar file; {AGAIN}") from None
        if found != len(self):
            raise UserError(f"{self.file}: holds {found} images where {len(self)} belong; {AGAIN}")
        return True

    def make(self) -> np.ndarray:
        """Writes the shard if it is not there; the sum of its images, (H, W) float64."""
        job, total = self.job, np.zeros(self.job.settings.shape)
        opened = _folder if job.form in FOLDERS else _records if job.form in RECORDS else _tar
        with nullcontext() if self.is_written() else opened(self) as add:
            for first in range(0, len(self), CHUNK):
                heed()
                indices = self.indices[first : first + CHUNK]
                images, labels = job.generator.images(indices)
                total += images.sum(axis=0, dtype=np.uint32)
                if add:
                    for index, image, label in zip(indices, images, labels.tolist(), strict=True):
                        add(index, image, label)
        return total


@contextmanager
def _records(shard: Shard) -> Iterator[Add]:
    with RecordWriter(shard.file, shard.job.form == "compact") as file:
        yield lambda index, image, label: file.write(image, label)


@contextmanager
def _tar(shard: Shard) -> Iterator[Add]:
    """Members of one name follow each other, as WebDataset's readers want it."""
    with WholeFile(shard.file) as file:

        def add(index: int, image: np.ndarray, label: int) -> None:
            told = json.dumps(_facts(shard.job, index, label))
            members = {"png": encode_png(image), "cls": str(label).encode(), "json": told.encode()}
            if shard.job.masks:
                members["seg.png"] = encode_png(_mask(shard.job, index))
            for suffix, data in members.items():
                header = tarfile.TarInfo(f"sample_{index}.{suffix}")
                header.size = len(data)
                padding = bytes(-len(data) % tarfile.BLOCKSIZE)
                file.append(header.tobuf(tarfile.USTAR_FORMAT) + data + padding)

        yield add
        file.append(bytes(2 * tarfile.BLOCKSIZE))


@contextmanager
def _folder(shard: Shard) -> Iterator[Add]:
    job = shard.job
    rows: dict[Path, list[list[str]]] = {shard.metadata(label): [] for label in (0, 1)}
    written = list(rows)

    def add(index: int, image: np.ndarray, label: int) -> None:
        name, place = f"sample_{index}.png", shard.place(label)
        pictures = {"imgs": image} | ({"seg": _mask(job, index)} if job.masks else {})
        for kind, picture in pictures.items():
            file = job.root(label) / kind / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            written.append(file)
            file.write_bytes(encode_png(picture))
        told = _facts(job, index, label)
        del told["label" if job.form == "png" else "distractors"]
        rows[shard.metadata(label)].append([f"imgs/{place}", name, *map(str, told.values())])

    try:
        with refusals(job.folder / job.name, "cannot be written; nothing of this shard was kept"):
            yield add
            for file, table in rows.items():
                text = "".join(" ".join(row) + "\n" for row in table).encode()
                write_bytes(file, text if job.form == "lra" else npy_bytes(np.array(table, "U")))
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise


def _facts(job: Job, index: int, label: int) -> dict[str, Any]:
    """What metadata tell of an image, in the order of the published generator's columns."""
    s = job.settings
    return {
        "index": index,
        "label": label,
        "continuity": s.continuity,
        "contour_length": s.contour_length,
        "distractor_length": s.paddles_a_distractor,
        "distractors": s.distractor_count,
        "paddle_length": s.paddle_length,
        "paddle_thickness": s.paddle_thickness,
        "margin": job.generator.margin(index),
        "paddle_contrasts": len(s.paddle_contrasts),
    }


def _mask(job: Job, index: int) -> np.ndarray:
    """(H, W) uint8: 255 on the contour with the first marker."""
    return 255 * job.generator.stimulus(index).contour_mask.view("u1")


def combine_metadata(shards: list[Shard]) -> None:
    """``metadata/combined.npy`` of both classes of the layout of 2018, from the shards'."""
    for label in (0, 1):
        tables = [np.load(shard.metadata(label)) for shard in shards]
        tables = [table for table in tables if table.size]
        if tables:
            path = shards[0].metadata(label).with_name("combined.npy")
            write_bytes(path, npy_bytes(np.concatenate(tables)))
