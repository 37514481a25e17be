"""Writes sets of Pathfinder images: TFRecords for the scripts, or PNG files in the lab's layout.

    python -m dataset_processing.generate --length 14 --count 1000000 --seed 0 --workers 16
    python -m dataset_processing.generate --length 9 --format png --masks
    python -m dataset_processing.generate --preview
    python -m dataset_processing.generate --statistics

A set is written in shards, each set aside until it is whole. Stopped in any way and started again
by the same command, it goes on with the shards that are missing and ends with the same bytes.
"""

import argparse
import fcntl
import io
import json
import math
import os
import shutil
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from config import Config
from dataset_processing.pathfinder import CHUNK, Pathfinder, Settings
from dataset_processing.records import RecordReader, RecordWriter
from support.files import WholeFile
from support.progress import Progress

SETS: dict[str, dict[str, Any]] = {  # sets with a name of their own
    "curv_baseline_full": {"contour_length": 6},
    "curv_contour_length_9_full": {"contour_length": 9},
    "curv_contour_length_14_full": {"contour_length": 14},
    "curv_contour_length_18_full": {"contour_length": 18},
    "curv_contour_length_20_full": {"contour_length": 20},
    "curv_contour_length_25_full": {"contour_length": 25},
    # Easy and quick: hgru.py learns it on a CPU in minutes.
    "curv_contour_length_3_small": {
        "contour_length": 3, "window": 64, "border": 4, "seed_distance": 12, "marker_radius": 3,
        "distractors": 2,
    },
}  # fmt: skip
DEFAULT_COUNT = 400  # images that stand in for a missing data set
DEFAULT_COUNTS = {"curv_contour_length_3_small": 13_400}  # where it is another number
VAL_FRACTION = 0.1
SHARD_IMAGES = 5000
FORMATS = ("tfrecords", "png")


class Stopped(Exception):
    """Another shard failed, or the user stopped the command."""


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
        ValueError: an argument is out of range.
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
        if self.count < 1:
            raise ValueError(f"count: at least 1 is expected, not {self.count}")
        if self.start < 0:
            raise ValueError(f"start: at least 0 is expected, not {self.start}")
        if self.shard_images < 1:
            raise ValueError(f"shard_images: at least 1 is expected, not {self.shard_images}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"val_fraction: a share from 0 to below 1 is expected, not {self.val_fraction}"
            )
        if self.masks and self.form != "png":
            raise ValueError("masks are written beside PNG files: add --format png")
        if self.form == "float32" and len(set(self.settings.shape)) > 1:
            raise ValueError("the float32 form holds square images only: choose another window")
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
        ValueError: the images cannot be made, or other data stands in the place.
        RuntimeError: a file cannot be written (a full disk), or another process is writing the set.
    """
    if workers < 1:
        raise ValueError(f"workers: at least 1 is expected, not {workers}")
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
    made = sum(shard.stop - shard.start for shard in missing)
    place = job.folder / job.name if job.form == "png" else job.folder
    return (
        f"{job.name}: {job.count} images in {place} ({made} of them written now, "
        f"{made / seconds:.0f} images/s)"
    )


def generate_default(
    name: str, config: Config, count: int | None = None, seed: int = 0, workers: int = 1
) -> None:
    """Fills in for a data set that is missing: a small one of the same kind, as TFRecords.

    Args:
        name: one of `SETS`.
        config: the paths.
        count: images, a tenth of which validate; None takes the set's usual number.
        seed: of the images.
        workers: processes.

    Raises:
        ValueError: no settings are known for this name.
        RuntimeError: the files cannot be written.
    """
    settings = named_settings(name)
    count = count or DEFAULT_COUNTS.get(name, DEFAULT_COUNT)
    print(
        f"{name}: no data found and no path of your own is set; generating {count} images with "
        f"contours of {settings.contour_length} paddles (seed {seed}) in {config.tf_records}. "
        "The first start on a machine also compiles the generator.",
        file=sys.stderr,
    )
    line = generate_set(Job(name, settings, seed, count, config.tf_records), workers)
    print(line, file=sys.stderr)


def named_settings(name: str) -> Settings:
    """The settings of a set that has a name."""
    if name not in SETS:
        raise ValueError(f"no stimulus settings are known for {name!r}; known: {', '.join(SETS)}")
    return Settings(**SETS[name])


# Shards


def write_shard(job: Job, shard: Shard, tell: Callable[[int], None]) -> np.ndarray | None:
    """Writes one shard; ``tell`` is called with the number of images done and may raise.

    Returns the sum of its images, (H, W), where the set has a mean image.
    """
    if job.form == "png":
        write_png_shard(job, shard, tell)
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
            tell(len(images))
    return total


def write_png_shard(job: Job, shard: Shard, tell: Callable[[int], None]) -> None:
    """One shard in the layout of 2018: a folder for each class, ``imgs/<shard>`` in it."""
    kinds = ("imgs", "seg") if job.masks else ("imgs",)
    finals = {
        (label, kind): class_folder(job, label) / kind / str(shard.part)
        for label in (0, 1)
        for kind in kinds
    }
    partials = {key: path.with_name(path.name + ".partial") for key, path in finals.items()}
    rows: dict[int, list[list[str]]] = {0: [], 1: []}
    generator = Pathfinder(job.settings, job.seed)
    try:
        for path in (*partials.values(), *finals.values()):
            if path.exists():  # left by a run that was killed; its metadata was not written yet
                shutil.rmtree(path)
        for path in partials.values():
            path.mkdir(parents=True)
        for first in range(shard.start, shard.stop, CHUNK):
            indices = range(first, min(first + CHUNK, shard.stop))
            images, labels = generator.images(indices)
            for index, image, label in zip(indices, images, labels.tolist(), strict=True):
                file = f"sample_{index}.png"
                (partials[label, "imgs"] / file).write_bytes(encode_png(image))
                if job.masks:
                    mask = generator.stimulus(index).contour_mask
                    (partials[label, "seg"] / file).write_bytes(encode_png(255 * mask.view("u1")))
                rows[label].append(metadata_row(job, shard, file, index))
            tell(len(images))
        for key, path in partials.items():
            path.rename(finals[key])
        for label in (0, 1):
            save_array(shard_metadata(job, shard, label), np.array(rows[label], dtype=np.str_))
    except OSError as error:
        discard(job, shard, [*partials.values(), *finals.values()])
        raise RuntimeError(
            f"{job.folder / job.name}: could not write images ({os.strerror(error.errno or 0)}); "
            "nothing of this shard was kept. Make room or name another folder, then run the same "
            "command again"
        ) from error
    except BaseException:
        discard(job, shard, [*partials.values(), *finals.values()])
        raise


def discard(job: Job, shard: Shard, folders: list[Path]) -> None:
    """Deletes what there is of a shard of PNG files that is not whole."""
    for label in (0, 1):
        shard_metadata(job, shard, label).unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def metadata_row(job: Job, shard: Shard, file: str, index: int) -> list[str]:
    """An image's line in the metadata, in the columns of the published generator."""
    s = job.settings
    margin = Pathfinder(s, job.seed).margin(index)
    values = [
        f"imgs/{shard.part}",
        file,
        index,
        s.continuity,
        s.contour_length,
        s.paddles_a_distractor,
        s.distractor_count,
        s.paddle_length,
        s.paddle_thickness,
        margin,
        len(s.paddle_contrasts),
    ]
    return [str(value) for value in values]


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
    found, expected = len(RecordReader([path])), shard.stop - shard.start
    if found != expected:
        raise ValueError(
            f"{path}: holds {found} records where {expected} belong; delete it and run the same "
            "command again"
        )
    return True


def image_chunks(job: Job, shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A shard's images and labels, some at a time."""
    generator = Pathfinder(job.settings, job.seed)
    for first in range(shard.start, shard.stop, CHUNK):
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
        ValueError: other data stands in the place.
        RuntimeError: another process is writing the set.
    """
    path = job.folder / f"{job.name}.generated.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        differences = [
            f"{key} {found.get(key)!r} (asked for: {value!r})"
            for key, value in job.identity().items()
            if found.get(key) != value
        ]
        if differences:
            raise ValueError(
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
    """ValueError if the set's place holds files that this command did not write."""
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
        raise ValueError(
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
    raise RuntimeError(f"{path}: another process is writing this set; let that one finish")


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
            save_array(path, total / (parts[-1].stop - parts[0].start))


def sum_shard(job: Job, shard: Shard, tell: Callable[[int], None]) -> np.ndarray:
    """The sum of a shard's images, drawn again: quicker than reading them."""
    total = np.zeros(job.settings.shape)
    for images, _ in image_chunks(job, shard):
        total += images.sum(axis=0, dtype=np.uint32)
        tell(len(images))
    return total


def combine_metadata(job: Job, shards: list[Shard]) -> None:
    """``metadata/combined.npy`` of both classes, from the shards'."""
    for label in (0, 1):
        tables = [np.load(shard_metadata(job, shard, label)) for shard in shards]
        tables = [table for table in tables if table.size]
        if tables:
            path = class_folder(job, label) / "metadata" / "combined.npy"
            save_array(path, np.concatenate(tables))


def save_array(path: Path, array: np.ndarray) -> None:
    """An .npy file that appears only whole."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    with WholeFile(path) as file:
        file.append(buffer.getvalue())


# Processes


def run_all(
    work: Callable[..., Any], job: Job, shards: list[Shard], workers: int, what: str
) -> list[Any]:
    """Calls ``work(job, shard, tell)`` for all shards under a progress bar; results in order."""
    total = sum(shard.stop - shard.start for shard in shards)
    if not shards:
        return []
    Pathfinder(job.settings, job.seed).images([])  # compiled once, then inherited by the workers
    if workers == 1 or len(shards) == 1:
        with Progress(total=total, unit="image", desc=what) as bar:
            return [work(job, shard, bar.update) for shard in shards]
    context = get_context("fork")
    done = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(workers, len(shards)), context, initializer=start_worker, initargs=(done, os.getpid())
    )
    with pool:
        futures = [pool.submit(in_worker, work, job, shard) for shard in shards]
        try:
            with Progress(total=total, unit="image", desc=what) as bar:
                follow(futures, lambda: bar.update(max(done.value - bar.n, 0)))
        except BaseException:
            done.value = STOP
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def follow(futures: list[Future], show: Callable[[], Any]) -> None:
    """Waits for all, showing progress; raises what the first to fail raised."""
    open_ones = set(futures)
    while open_ones:
        finished, open_ones = wait(open_ones, timeout=0.5, return_when=FIRST_EXCEPTION)
        show()
        for future in finished:
            future.result()


STOP = -(2**62)  # a count that tells workers to stop
_worker: dict[str, Any] = {}  # what a worker process was started with


def start_worker(done: Any, parent: int) -> None:
    """Notes where to count images; leaves Ctrl-C to the parent and ends when that is gone."""
    _worker["done"] = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end_with, args=(parent,), daemon=True).start()


def end_with(parent: int) -> None:
    """Ends this process once it has lost its parent, even one that was killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def in_worker(work: Callable[..., Any], job: Job, shard: Shard) -> Any:
    """One shard, in a worker process."""

    def tell(count: int) -> None:
        done = _worker["done"]
        with done.get_lock():
            if done.value <= STOP:
                raise Stopped
            done.value += count

    return work(job, shard, tell)


# Command line


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        if options.preview is not None:
            from dataset_processing.pathfinder.sheet import write_sheet

            lengths = [options.length] if options.length else [6, 9, 14]
            chosen = [Settings(contour_length=n, **changed_settings(options)) for n in lengths]
            print(write_sheet(Path(options.preview), chosen, options.seed))
        elif options.statistics:
            from benchmarks.pathfinder_statistics import table

            print(table(options.count or 1000, options.seed, options.workers))
        else:
            print(generate_set(job_of(options), options.workers))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def job_of(options: argparse.Namespace) -> Job:
    """What the command line asks for."""
    known = {values["contour_length"]: name for name, values in SETS.items() if len(values) == 1}
    if options.dataset is None:
        length = options.length or 14
        name = known.get(length, f"curv_contour_length_{length}_full")
    else:
        name = options.dataset
        if options.length is None and name not in SETS:
            named_settings(name)  # says which names are known
        length = options.length or SETS[name]["contour_length"]
    chosen = {**SETS.get(name, {}), "contour_length": length, **changed_settings(options)}
    settings = Settings(**chosen)
    config = Config()
    if options.format == "png":
        folder = config.data_root / "curvy_2snakes_300"
        name, form = name.removesuffix("_full"), "png"
        options.val_fraction = 0.0
    else:
        folder, form = config.tf_records, "float32" if options.float32 else "compact"
    return Job(
        name,
        settings,
        options.seed,
        DEFAULT_COUNTS.get(name, 10000) if options.count is None else options.count,
        Path(options.output) if options.output else folder,
        form,
        options.val_fraction,
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


def parser() -> argparse.ArgumentParser:
    """The command's options; those of the stimuli are the fields of `Settings`."""
    result = argparse.ArgumentParser(
        prog="python -m dataset_processing.generate",
        description="Writes Pathfinder images as TFRecords or PNG files. Stopped and started "
        "again, it goes on; the files depend on the settings, seed and count alone.",
    )
    result.add_argument("--length", type=int, help="paddles in a target contour (14)")
    result.add_argument("--dataset", help=f"name of the set: {', '.join(SETS)}, or another")
    result.add_argument("--count", type=int, help="images (10000)")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument(
        "--start", type=int, default=0, help="index of the first image: a range for each machine"
    )
    result.add_argument("--workers", type=int, default=1, help="processes (1)")
    result.add_argument("--format", choices=FORMATS, default="tfrecords")
    result.add_argument("--float32", action="store_true", help="records as the 2018 release's")
    result.add_argument("--masks", action="store_true", help="with png: the contour's mask (seg/)")
    result.add_argument("--output", help="folder (tf_records, or curvy_2snakes_300 of data_root)")
    result.add_argument("--val-fraction", type=float, default=VAL_FRACTION, help="records: (0.1)")
    result.add_argument("--shard-images", type=int, default=SHARD_IMAGES, help="in a file (5000)")
    result.add_argument(
        "--preview",
        nargs="?",
        const="pathfinder_preview.png",
        metavar="FILE",
        help="write a sheet of examples, contours and markers coloured, and stop",
    )
    result.add_argument(
        "--statistics",
        action="store_true",
        help="measure 1000 images (--count) of lengths 6, 9 and 14 beside the published ones",
    )
    stimuli = result.add_argument_group("stimuli", "see dataset_processing/pathfinder.py, Settings")
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
    sys.exit(main())
