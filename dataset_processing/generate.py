"""Writes sets of Pathfinder images, in a form for the scripts or for other programs.

    python -m dataset_processing.generate --length 14 --count 1000000 --seed 0 --workers 16
    python -m dataset_processing.generate --length 9 --format webdataset --masks
    python -m dataset_processing.generate --dataset pathfinder32 --format lra
    python -m dataset_processing.generate --preview

A set is written in shards, each set aside until it is whole. Stopped in any way and started again
by the same command, it goes on with the shards that are missing and ends with the same bytes.
docs/data.md says what each form is read by.
"""

import argparse
import fcntl
import glob
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from config import Config
from dataset_processing.base import RELEASE
from dataset_processing.folds import FOLDS, times
from dataset_processing.forms import FOLDERS, RECORDS, Job, Shard, combine_metadata
from dataset_processing.generated import (
    ARENA_SETS,
    ARENA_SETTINGS,
    GENERATED,
    SMALL_SET,
    check_name,
    contour_length,
    read_description,
    set_settings,
)
from dataset_processing.pathfinder import Settings
from dataset_processing.pathfinder.sheet import write_sheet
from dataset_processing.sets import data_sets, load_set
from dataset_processing.workers import processes
from support import shell
from support.errors import SystemRefusal, UserError, unknown
from support.files import held_elsewhere, npy_bytes, write_bytes, write_json
from support.progress import Progress

COUNT, SMALL_COUNT = 10_000, 12_000  # images, and those of the demonstration's set
FORMATS = ("tfrecords", "webdataset", *FOLDERS)


def generate_set(job: Job, workers: int = 1) -> str:
    """Writes a set, or what is missing of it; returns a line on what was written.

    Args:
        job: the set.
        workers: processes; the files do not depend on their number.

    Raises:
        UserError: the images cannot be made, other data stands in the place, a file cannot be
            written (a full disk), or another process writes the set.
    """
    begin = time.monotonic()
    with described(job):
        shards = job.shards()
        lacking = [shard for shard in shards if not shard.is_written()]
        means = {shard.fold: job.folder / f"{job.name}_{shard.fold}_means.npy" for shard in shards}
        to_write = [f for f in means if job.form in RECORDS and not means[f].exists()]
        # For a mean image, shards that are there are drawn again: quicker than reading them.
        todo = [shard for shard in shards if shard in lacking or shard.fold in to_write]
        job.generator.images([job.start] if todo else [])  # compiled once, for all workers
        total, sums = sum(map(len, todo)), {}
        with (
            Progress(total=total, unit="image", desc="images", disable=not todo) as bar,
            processes(f"{job.name} in {job.folder}", min(workers, len(todo)) or 1) as over,
        ):
            for shard, drawn in zip(todo, over(Shard.make, todo), strict=True):
                sums[shard] = drawn
                bar.update(len(shard))
        for fold in to_write:
            parts = [shard for shard in todo if shard.fold == fold]
            mean = sum(sums[shard] for shard in parts) / sum(map(len, parts))
            write_bytes(means[fold], npy_bytes(mean))
        if job.form == "png":
            combine_metadata(shards)
    seconds = time.monotonic() - begin
    made = sum(map(len, lacking))
    place = job.root(1) if job.form in FOLDERS else job.folder
    return (
        f"{job.name}: {job.count} images in {place} ({made} of them written now, "
        f"{made / seconds:.0f} images/s)"
    )


def generate_small(config: Config, count: int = SMALL_COUNT) -> None:
    """Writes the demonstration's set; a tenth of it validates."""
    print(
        f"Demonstration: generating {count} easy images ({SMALL_SET}, seed 0) in "
        f"{config.tf_records}. The first start on a machine also compiles the generator.",
        file=sys.stderr,
    )
    settings = Settings(**GENERATED[SMALL_SET])
    print(generate_set(Job(SMALL_SET, settings, 0, count, config.tf_records)), file=sys.stderr)


@contextmanager
def described(job: Job) -> Iterator[None]:
    """Holds the set's description file, which tells a later run whether it goes on with this set.

    Where the block raises and no image is written, the file is taken away again.

    Raises:
        UserError: other data stands in the place, or another process is writing the set.
    """
    path = job.folder / f"{job.name}.generated.json"
    wanted = job.description()
    if path.exists():
        found = {"fingerprint": wanted["fingerprint"], **read_description(path)}
        differences = [
            f"{key} {found.get(key)!r} (asked for: {value!r})"
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        if differences:
            raise UserError(
                f"{path}: another set of this name is there: {'; '.join(differences)}. Delete it "
                "with its files, or name another --output"
            )
    else:
        if there := written(job):
            raise UserError(
                f"{there[0]}: is there already and was not written by this command; move it away, "
                "or name another --output"
            )
        write_json(path, wanted)
    with open(path, "rb") as held:
        hold(held.fileno(), path)
        try:
            yield
        except BaseException:
            for folder in [job.root(label) for label in (1, 0)] if job.form in FOLDERS else []:
                drop_empty(folder)
            if not written(job):
                path.unlink()
            raise


def written(job: Job) -> list[Path]:
    """Files of a set that are there, or its folders."""
    if job.form in FOLDERS:
        return [job.root(label) for label in (1, 0) if job.root(label).exists()]
    name = glob.escape(job.name)
    patterns = [f"{name}_{fold}{end}.{job.suffix}" for fold in FOLDS for end in ("", "-*")]
    return sorted(path for pattern in patterns for path in job.folder.glob(pattern))


def drop_empty(folder: Path) -> None:
    """Removes a folder and those in it, as far as there is no file in them."""
    if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder)


def hold(descriptor: int, path: Path) -> None:
    """Locks a set for this process; workers of a killed run let go within a moment."""
    for _ in range(30):
        if not held_elsewhere(fcntl.flock, descriptor):
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return
            break  # the other process came to nothing, and took the file away
        time.sleep(0.1)
    raise SystemRefusal(f"{path}: another process is writing this set; let that one finish")


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
    if options.dataset or options.length:
        chosen = [asked(options)[1]]
    else:
        chosen = [Settings(contour_length=n, **changed_settings(options)) for n in (6, 9, 14)]
    print(write_sheet(options.preview, chosen, options.seed))


def asked(options: argparse.Namespace) -> tuple[str, Settings]:
    """The set that the command line names, and its stimuli."""
    length, name = options.length, options.dataset
    if name is None:
        length = length or 14
        name = "curv_baseline_full" if length == 6 else f"curv_contour_length_{length}_full"
    check_name(name)
    named = set_settings(name)
    own = named.get("contour_length") or contour_length(name)
    if length and own not in (None, length):
        raise UserError(
            f"--length {length}: {name} means contours of {own} paddles; leave --length out, or "
            "give the set a name of your own"
        )
    if length:
        named["contour_length"] = length
    if "contour_length" not in named:
        raise unknown("set of the generator", name, [*GENERATED, *ARENA_SETTINGS])
    return name, Settings(**{**named, **changed_settings(options)})


def job_of(options: argparse.Namespace) -> Job:
    """What the command line asks for."""
    name, settings = asked(options)
    config, form, share = Config(), options.format, options.val_fraction
    folder = config.tf_records
    meant = load_set(name, config).named_size if name in data_sets() else None
    if meant and tuple(meant[:2]) != settings.shape:
        raise UserError(
            f"{name} means images of {times(meant[:2])}, not of {times(settings.shape)}: set "
            "--window, or give the set a name of your own"
        )
    count = options.count or (SMALL_COUNT if name == SMALL_SET else COUNT)
    if options.float32 and form != "tfrecords":
        raise UserError(f"--float32 is a form of records: it has no place beside --format {form}")
    if form == "tfrecords":
        form = "float32" if options.float32 else "compact"
    elif form in FOLDERS:
        if share:
            raise UserError(f"--val-fraction has no place beside --format {form}: it has no folds")
        share = 0.0
        folder, name = config.data_root / RELEASE, name.removesuffix("_full")
        size, _, rest = name.partition("_")
        if size in ARENA_SETTINGS:
            folder, name = config.data_root / size, rest or ARENA_SETS[0]
    return Job(
        name, settings, options.seed, count, options.output or folder, form,
        Job.val_fraction if share is None else share,
        options.shard_images, options.masks, options.start,
    )  # fmt: skip


def changed_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The stimulus settings given on the command line."""
    names = {field.name for field in fields(Settings)}
    return {name: value for name, value in vars(options).items() if name in names}


def parser() -> shell.Parser:
    """The command's options; those of the stimuli are the fields of `Settings`."""
    result = shell.Parser("generate", __doc__, package="dataset_processing")
    add, preview = result.add_argument, Path("pathfinder_preview.png")
    sets = f"{', '.join([*GENERATED, *ARENA_SETTINGS])} (also with _{', _'.join(ARENA_SETS)})"
    add("--length", type=shell.whole(2), help="paddles in a target contour (14)")
    add("--dataset", help=f"name of the set: {sets}, or another")
    add("--count", type=shell.whole(1), help=f"images ({COUNT})")
    add("--seed", type=shell.whole(0), default=0, help="of the images")
    add("--start", type=shell.whole(0), default=0, help="index of the first image: machines that "
        "share a set take a range each")  # fmt: skip
    add("--workers", type=shell.whole(1), default=1, help="processes")
    add("--format", choices=FORMATS, default="tfrecords", help="what is written")
    add("--float32", action="store_true", help="records as the 2018 release's")
    add("--masks", action="store_true", help="with png or webdataset: the contour's mask")
    add("--output", type=Path, help="folder (tf_records, or for images one below data_root)")
    add("--val-fraction", type=float, help="share that validates (0.1); not of folders")
    add("--shard-images", type=shell.whole(1), default=5000, help="images in a file")
    add("--preview", nargs="?", type=Path, const=preview, metavar="FILE",
        help="write a sheet of examples, contours and markers coloured, and stop")  # fmt: skip
    stimuli = result.add_argument_group("stimuli", "dataset_processing/pathfinder/settings.py")
    for field in fields(Settings):
        if field.name != "contour_length":
            kind = float if "float" in str(field.type) else int
            stimuli.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=number_or_auto if field.name == "single_paddles" else kind,
                nargs="+" if "tuple" in str(field.type) else None,
                default=argparse.SUPPRESS,
                help=f"({field.default})",
            )
    return result


def number_or_auto(text: str) -> int | None:
    """A whole number; None for ``auto``."""
    return None if text == "auto" else int(text)


if __name__ == "__main__":
    shell.run_command(main)
