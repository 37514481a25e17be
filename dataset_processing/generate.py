"""Writes sets of Pathfinder images: TFRecords for the scripts, or PNG files in the lab's layout.

    python -m dataset_processing.generate --length 14 --count 1000000 --seed 0 --workers 16
    python -m dataset_processing.generate --length 9 --format png --masks
    python -m dataset_processing.generate --preview

A set is written in shards, each set aside until it is whole. Stopped in any way and started again
by the same command, it goes on with the shards that are missing and ends with the same bytes.
"""

import argparse
import fcntl
import json
import math
import multiprocessing
import os
import shutil
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from dataset_processing.generated import GENERATED, SMALL_SET, read_description
from dataset_processing.pathfinder import CHUNK, Pathfinder, Settings
from dataset_processing.records import RecordReader, RecordWriter
from support import shell
from support.errors import SystemRefusal, UserError, refusals, unknown
from support.files import WholeFile, npy_bytes, write_bytes
from support.progress import Progress

COUNT, SMALL_COUNT = 10_000, 13_400  # images, and those of the demonstration's set
VAL_FRACTION = 0.1
SHARD_IMAGES = 5000
FORMATS = ("tfrecords", "png")


@dataclass(frozen=True)
class Job:
    """A set to be written.

    Args:
        name: of the set, as ``exp['dataset']`` has it.
        settings, seed: of its images.
        count: images in all; their indices are start … start + count - 1.
        folder: for records the folder they go to; for PNG files the one that holds the set's.
        form: 'compact' or 'float32' records, or 'png'.
        val_fraction: share of the images, the last ones, that validate; records only.
        shard_images: images in a shard at most.
        masks: write the target contour's mask beside each image; PNG only.
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
    val_fraction: float = VAL_FRACTION
    shard_images: int = SHARD_IMAGES
    masks: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(
                f"val_fraction: a share from 0 to below 1 is expected, not {self.val_fraction}"
            )
        if self.masks and self.form != "png":
            raise UserError("masks are written beside PNG files: add --format png")
        if self.form == "float32" and len(set(self.settings.shape)) > 1:
            raise UserError("the float32 form holds square images only: choose another window")
        Pathfinder(self.settings, self.seed)

    def shards(self) -> list["Shard"]:
        """All shards, in the order of their images."""
        held_out = round(self.count * self.val_fraction) if self.form != "png" else 0
        folds = {
            "train": range(self.start, self.start + self.count - held_out),
            "val": range(self.start + self.count - held_out, self.start + self.count),
        }
        result = []
        for fold, indices in folds.items():
            parts = math.ceil(len(indices) / self.shard_images)
            for part in range(parts):
                cut = [indices.start + len(indices) * at // parts for at in (part, part + 1)]
                result.append(Shard(fold, part, parts, cut[0], cut[1]))
        return result

    def identity(self) -> dict[str, Any]:
        """What the set consists of, as its description file holds it."""
        values = asdict(self)
        del values["folder"]
        return dict(json.loads(json.dumps(values)))


@dataclass(frozen=True)
class Shard:
    """A run of a set's images that is written at once."""

    fold: str
    part: int
    parts: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def record_path(self, job: Job) -> Path:
        """The record file."""
        number = f"-{self.part:05d}-of-{self.parts:05d}" if self.parts > 1 else ""
        return job.folder / f"{job.name}_{self.fold}{number}.tfrecords"


def generate_set(job: Job, workers: int = 1) -> str:
    """Writes a set, or what is missing of it.

    Args:
        job: the set.
        workers: processes; the files do not depend on their number.

    Returns:
        One line on what was written.

    Raises:
        UserError: the images cannot be made, or other data stands in the place.
        SystemRefusal: a file cannot be written (a full disk), or another process writes the set.
    """
    begin = time.monotonic()
    with described(job):
        shards = job.shards()
        missing = [shard for shard in shards if not is_written(job, shard)]
        sums = run_all(write_shard, job, missing, workers, "images")
        if job.form == "png":
            combine_metadata(job, shards)
        else:
            write_means(job, shards, dict(zip(missing, sums, strict=True)), workers)
    seconds = time.monotonic() - begin
    made = sum(map(len, missing))
    place = job.folder / job.name if job.form == "png" else job.folder
    return (
        f"{job.name}: {job.count} images in {place} ({made} of them written now, "
        f"{made / seconds:.0f} images/s)"
    )


def generate_small(config: Config, count: int = SMALL_COUNT, seed: int = 0) -> None:
    """Writes the demonstration's set; a tenth of it validates.

    Raises:
        SystemRefusal: the files cannot be written.
    """
    print(
        f"Demonstration: generating {count} easy images ({SMALL_SET}, seed {seed}) in "
        f"{config.tf_records}. The first start on a machine also compiles the generator.",
        file=sys.stderr,
    )
    settings = Settings(**GENERATED[SMALL_SET])
    print(generate_set(Job(SMALL_SET, settings, seed, count, config.tf_records)), file=sys.stderr)


# Shards


def write_shard(job: Job, shard: Shard) -> np.ndarray | None:
    """Writes one shard; the sum of its images, (H, W), where the set has a mean image."""
    if job.form == "png":
        write_png_shard(job, shard)
        return None
    total = np.zeros(job.settings.shape)
    with RecordWriter(shard.record_path(job), compact=job.form == "compact") as writer:
        for images, labels in image_chunks(job, shard):
            for image, label in zip(images, labels.tolist(), strict=True):
                if job.form == "compact":
                    writer.write_encoded(encode_png(image), label)
                else:
                    writer.write(image.astype(np.float32), label)
            total += images.sum(axis=0, dtype=np.uint32)
    return total


def write_png_shard(job: Job, shard: Shard) -> None:
    """One shard in the layout of 2018: a folder for each class, ``imgs/<shard>`` in it.

    Its metadata, written last, say that it is whole. What a killed run leaves is not listed there,
    and is written over by the same bytes.
    """
    rows: dict[int, list[list[str]]] = {0: [], 1: []}
    kinds = ("imgs", "seg") if job.masks else ("imgs",)
    places = {
        (label, kind): class_folder(job, label) / kind / str(shard.part)
        for label in rows
        for kind in kinds
    }
    generator = Pathfinder(job.settings, job.seed)
    try:
        with refusals(job.folder / job.name, "cannot be written; nothing of this shard was kept"):
            for place in places.values():
                place.mkdir(parents=True, exist_ok=True)
            for first in range(shard.start, shard.stop, CHUNK):
                Worker.heed()
                indices = range(first, min(first + CHUNK, shard.stop))
                images, labels = generator.images(indices)
                for index, image, label in zip(indices, images, labels.tolist(), strict=True):
                    file = f"sample_{index}.png"
                    (places[label, "imgs"] / file).write_bytes(encode_png(image))
                    if job.masks:
                        mask = 255 * generator.stimulus(index).contour_mask.view("u1")
                        (places[label, "seg"] / file).write_bytes(encode_png(mask))
                    rows[label].append(metadata_row(job, shard, file, index))
        for label, table in rows.items():
            write_bytes(
                shard_metadata(job, shard, label), npy_bytes(np.array(table, dtype=np.str_))
            )
    except BaseException:
        for label in rows:
            shard_metadata(job, shard, label).unlink(missing_ok=True)
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
        raise


def metadata_row(job: Job, shard: Shard, file: str, index: int) -> list[str]:
    """An image's line in the metadata, in the columns of the published generator."""
    s = job.settings
    margin = Pathfinder(s, job.seed).margin(index)
    paddle = s.paddle_length, s.paddle_thickness
    distractors = s.paddles_a_distractor, s.distractor_count
    values = index, s.continuity, s.contour_length, *distractors, *paddle, margin
    return [f"imgs/{shard.part}", file, *map(str, values), str(len(s.paddle_contrasts))]


def class_folder(job: Job, label: int) -> Path:
    """The folder of a class in the layout of 2018."""
    return job.folder / (job.name if label == 1 else f"{job.name}_neg")


def shard_metadata(job: Job, shard: Shard, label: int) -> Path:
    """The metadata of one shard and class; it is written last."""
    return class_folder(job, label) / "metadata" / f"{shard.part}.npy"


def is_written(job: Job, shard: Shard) -> bool:
    """Whether a shard is there and whole."""
    if job.form == "png":
        return all(shard_metadata(job, shard, label).is_file() for label in (0, 1))
    path = shard.record_path(job)
    if not path.is_file():
        return False
    found, expected = len(RecordReader([path])), len(shard)
    if found != expected:
        raise UserError(
            f"{path}: holds {found} records where {expected} belong; delete it and run the same "
            "command again"
        )
    return True


def image_chunks(job: Job, shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A shard's images and labels, some at a time."""
    generator = Pathfinder(job.settings, job.seed)
    for first in range(shard.start, shard.stop, CHUNK):
        Worker.heed()
        yield generator.images(range(first, min(first + CHUNK, shard.stop)))


def encode_png(image: np.ndarray) -> bytes:
    """An (H, W) uint8 image as an 8-bit grey PNG.

    Rows unfiltered, runs compressed (zlib's Z_RLE): for these sparse images a third smaller in time
    and smaller in size than Pillow's default.
    """
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = image
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    data = squeeze.compress(rows.tobytes()) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# What belongs to the whole set


@contextmanager
def described(job: Job) -> Iterator[None]:
    """Holds the set's description file, which tells a later run whether it goes on with this set.

    Raises:
        UserError: other data stands in the place.
        SystemRefusal: another process is writing the set.
    """
    path = job.folder / f"{job.name}.generated.json"
    if path.exists():
        found = read_description(path)
        differences = [
            f"{key} {found.get(key)!r} (asked for: {value!r})"
            for key, value in job.identity().items()
            if found.get(key) != value
        ]
        if differences:
            raise UserError(
                f"{path}: another set of this name is there: {'; '.join(differences)}. Delete it "
                "with its files, or name another --output"
            )
    else:
        refuse_foreign(job)
        with WholeFile(path) as file:
            file.append((json.dumps(job.identity(), indent=1) + "\n").encode())
    with open(path, "rb") as held:
        hold(held.fileno(), path)
        yield


def refuse_foreign(job: Job) -> None:
    """UserError if the set's place holds files that this command did not write."""
    if job.form == "png":
        there = [class_folder(job, label) for label in (1, 0) if class_folder(job, label).exists()]
    else:
        there = sorted(
            path
            for fold in ("train", "val")
            for pattern in (f"{job.name}_{fold}.tfrecords", f"{job.name}_{fold}-*.tfrecords")
            for path in job.folder.glob(pattern)
        )
    if there:
        raise UserError(
            f"{there[0]}: is there already and was not written by this command; move it away, or "
            "name another --output"
        )


def hold(descriptor: int, path: Path) -> None:
    """Locks a set for this process; workers of a killed run let go within a moment."""
    for _ in range(30):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
    raise SystemRefusal(f"{path}: another process is writing this set; let that one finish")


def write_means(job: Job, shards: list[Shard], sums: dict[Shard, np.ndarray], workers: int) -> None:
    """The mean image of each fold, (H, W) float64, as the 2018 release keeps it.

    Args:
        job: the set.
        shards: all its shards.
        sums: the summed images of those that were written just now.
        workers: processes.
    """
    for fold in ("train", "val"):
        path = job.folder / f"{job.name}_{fold}_means.npy"
        parts = [shard for shard in shards if shard.fold == fold]
        if parts and not path.exists():
            older = [shard for shard in parts if shard not in sums]
            redrawn = run_all(sum_shard, job, older, workers, f"mean image, {fold}")
            total = sum(redrawn) + sum(sums[shard] for shard in parts if shard in sums)
            write_bytes(path, npy_bytes(total / (parts[-1].stop - parts[0].start)))


def sum_shard(job: Job, shard: Shard) -> np.ndarray:
    """The sum of a shard's images, drawn again: quicker than reading them."""
    total = np.zeros(job.settings.shape)
    for images, _ in image_chunks(job, shard):
        total += images.sum(axis=0, dtype=np.uint32)
    return total


def combine_metadata(job: Job, shards: list[Shard]) -> None:
    """``metadata/combined.npy`` of both classes, from the shards'."""
    for label in (0, 1):
        tables = [np.load(shard_metadata(job, shard, label)) for shard in shards]
        tables = [table for table in tables if table.size]
        if tables:
            path = class_folder(job, label) / "metadata" / "combined.npy"
            write_bytes(path, npy_bytes(np.concatenate(tables)))


# Processes


def run_all(
    work: Callable[[Job, Shard], Any], job: Job, shards: list[Shard], workers: int, what: str
) -> list[Any]:
    """``work(job, shard)`` for all shards under a progress bar; results in order."""
    if not shards:
        return []
    Pathfinder(job.settings, job.seed).images([])  # compiled once, then inherited by the workers
    results = []
    with (
        Progress(total=sum(map(len, shards)), unit="image", desc=what) as bar,
        processes(job, min(workers, len(shards))) as over,
    ):
        for shard, result in zip(shards, over(partial(work, job), shards), strict=True):
            results.append(result)
            bar.update(len(shard))
    return results


@contextmanager
def processes(job: Job, workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """``map`` over worker processes, which end with the block, at once if it raises."""
    if workers == 1:
        yield map
        return
    others = multiprocessing.active_children()
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, fork, start_worker, (os.getpid(),))
    try:
        yield lambda work, shards: pool.map(partial(Worker.run, work), shards)
    except BaseException as error:
        for worker in set(multiprocessing.active_children()) - set(others):
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            raise SystemRefusal(
                f"{job.folder}: a process that writes {job.name} was ended from outside (for want "
                "of memory?); run the same command again, with fewer --workers"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class Worker:
    """A worker that is told to end does so between chunks: an exit may not fall into a clean-up."""

    busy = False
    told = False

    @classmethod
    def tell(cls, *_: Any) -> None:
        """The signal: at once where nothing is in hand."""
        cls.told = True
        if not cls.busy:
            os._exit(143)

    @classmethod
    def heed(cls) -> None:
        """Between chunks: leave through the clean-up of what is written."""
        if cls.told:
            raise SystemExit(143)

    @classmethod
    def run(cls, work: Callable[[Shard], Any], shard: Shard) -> Any:
        """``work(shard)``, after which no other shard is taken up if the worker was told to end."""
        cls.busy = True
        try:
            return work(shard)
        finally:
            cls.busy = False
            if cls.told:
                os._exit(143)


def start_worker(parent: int) -> None:
    """Ends with the parent, even one that was killed; leaves Ctrl-C to it.

    A terminated worker leaves through the clean-up of what it was writing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, Worker.tell)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Command line


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.preview is None:
        try:
            print(generate_set(job_of(options), options.workers))
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            raise
        return
    from dataset_processing.pathfinder.sheet import write_sheet

    lengths = [options.length] if options.length else [6, 9, 14]
    chosen = [Settings(contour_length=n, **changed_settings(options)) for n in lengths]
    print(write_sheet(options.preview, chosen, options.seed))


def job_of(options: argparse.Namespace) -> Job:
    """What the command line asks for."""
    known = {
        values["contour_length"]: name for name, values in GENERATED.items() if len(values) == 1
    }
    length, name = options.length, options.dataset
    if name is None:
        length = length or 14
        name = known.get(length, f"curv_contour_length_{length}_full")
    elif length is None and name not in GENERATED:
        raise unknown("set of the generator", name, GENERATED)
    chosen = dict(GENERATED.get(name, {})) | ({"contour_length": length} if length else {})
    settings = Settings(**{**chosen, **changed_settings(options)})
    config = Config()
    folder, form, share = config.tf_records, "compact", options.val_fraction
    if options.format == "png":
        folder, form, share = config.data_root / "curvy_2snakes_300", "png", 0.0
        name = name.removesuffix("_full")
    elif options.float32:
        form = "float32"
    return Job(
        name,
        settings,
        options.seed,
        options.count or (SMALL_COUNT if name == SMALL_SET else COUNT),
        options.output or folder,
        form,
        share,
        options.shard_images,
        options.masks,
        options.start,
    )


def changed_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The stimulus settings given on the command line."""
    changed = {}
    for field in fields(Settings):
        value = getattr(options, field.name, None)
        if isinstance(value, list):
            value = value[0] if len(value) == 1 and "contrasts" not in field.name else tuple(value)
        if value is not None:
            changed[field.name] = value
    if changed.get("single_paddles") == "auto":
        changed["single_paddles"] = None
    return changed


def parser() -> shell.Parser:
    """The command's options; those of the stimuli are the fields of `Settings`."""
    result = shell.Parser("generate", __doc__, package="dataset_processing")
    result.add_argument("--length", type=shell.whole(2), help="paddles in a target contour (14)")
    result.add_argument("--dataset", help=f"name of the set: {', '.join(GENERATED)}, or another")
    result.add_argument("--count", type=shell.whole(1), help=f"images ({COUNT})")
    result.add_argument("--seed", type=shell.whole(0), default=0, help="of the images")
    result.add_argument(
        "--start",
        type=shell.whole(0),
        default=0,
        help="index of the first image, where machines take a range each",
    )
    result.add_argument("--workers", type=shell.whole(1), default=1, help="processes")
    result.add_argument("--format", choices=FORMATS, default="tfrecords", help="what is written")
    result.add_argument("--float32", action="store_true", help="records as the 2018 release's")
    result.add_argument("--masks", action="store_true", help="with png: the contour's mask (seg/)")
    result.add_argument(
        "--output", type=Path, help="folder (tf_records, or curvy_2snakes_300 of data_root)"
    )
    result.add_argument(
        "--val-fraction", type=float, default=VAL_FRACTION, help="share of records that validates"
    )
    result.add_argument(
        "--shard-images", type=shell.whole(1), default=SHARD_IMAGES, help="images in a file"
    )
    result.add_argument(
        "--preview",
        nargs="?",
        type=Path,
        const=Path("pathfinder_preview.png"),
        metavar="FILE",
        help="write a sheet of examples, contours and markers coloured, and stop",
    )
    stimuli = result.add_argument_group("stimuli", "dataset_processing/pathfinder/images.py")
    for field in fields(Settings):
        if field.name == "contour_length":
            continue
        kind = float if "float" in str(field.type) else int
        stimuli.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=number_or_auto if field.name == "single_paddles" else kind,
            nargs="+" if "tuple" in str(field.type) else None,
            help=f"({field.default})",
        )
    return result


def number_or_auto(text: str) -> int | str:
    """``auto``, or a whole number."""
    return text if text == "auto" else int(text)


if __name__ == "__main__":
    shell.run_command(main)
