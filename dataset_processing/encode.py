"""Writes a data set's images as TFRecords, with the mean image of each fold.

    python -m dataset_processing.encode --dataset curv_contour_length_14_full

Files appear only when all of them are whole; stopped and run again, the command gives the same
bytes. An image that cannot be used is left out, counted and named.

Exit status: 0 all is encoded; 1 some images are left out, and named; 2 nothing is written, and why;
130, 143 stopped by a signal, nothing is written.
"""

import glob
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from dataset_processing.folds import FOLDS, ImageFiles, StoredFold
from dataset_processing.images import BadImageError
from dataset_processing.records import RecordWriter, encode_image
from dataset_processing.sets import data_sets, load_set
from support import shell
from support.errors import MissingError, UserError, refusals
from support.files import WholeFile, npy_bytes
from support.progress import Progress

AT_ONCE = 256  # images read ahead of the one that is written


def encode(asked: Namespace, config: Config) -> list[str]:
    """Writes the records and the mean images of both folds, as the command's options ask for.

    Returns:
        Of each image that was left out, its name and why.

    Raises:
        UserError: there are no images, the metadata or too many images cannot be used, a fold is
            left without images of a class, the folder holds other records of the set, or a file
            cannot be written (a full disk).
    """
    name, folder = asked.dataset, asked.output or config.tf_records
    source = load_set(name, config)
    if not source.on_disk():
        raise source.missing()
    patterns = [".generated.json", *(f"_{fold}-*.tfrecords" for fold in FOLDS)]
    others = [path for end in patterns for path in sorted(folder.glob(glob.escape(name) + end))]
    if others:
        raise UserError(
            f"{others[0]}: a generated set of this name is there; move {name}* out of {folder}, or "
            "name another --output"
        )
    files, labels = source.get_data(asked.seed)
    folds = [
        StoredFold(f"{name} {fold}", ImageFiles(source.folder(), files[fold], labels[fold]))
        for fold in FOLDS
    ]
    folds[0].look(source.named_size)
    folds[1].look(folds[0].im_size)
    dropped: list[str] = []
    with ExitStack() as whole:  # all files take their names together, at the end
        lines = []
        for fold, images in zip(FOLDS, folds, strict=True):
            path = folder / f"{name}_{fold}.tfrecords"
            lines += _encode_fold(images, labels[fold], path, whole, asked, dropped)
    print("\n".join(lines))
    return dropped


def _encode_fold(
    images: StoredFold,
    labels: np.ndarray,
    path: Path,
    whole: ExitStack,
    asked: Namespace,
    dropped: list[str],
) -> list[str]:
    """Writes a fold's records and mean image, which take their names when ``whole`` ends.

    Adds to ``dropped`` what is left out; returns what is to be said.
    """

    def read(number: int) -> tuple[np.ndarray, int, bytes]:
        image, label = images[number]
        return image, label, encode_image(image, writer.compact)

    fold = images.title.split()[-1]
    writer = whole.enter_context(RecordWriter(path, compact=not asked.float32))
    counts, total, before = [0, 0], np.zeros(images.im_size or ()), len(dropped)
    errors = (BadImageError, MissingError)
    for found in read_all(read, len(images), asked.threads, f"encode {fold}", *errors):
        if isinstance(found, UserError):
            dropped.append(str(found))
            if len(dropped) > asked.max_dropped:
                raise UserError(
                    f"more than {asked.max_dropped} images cannot be used (--max-dropped); "
                    f"{first_of(dropped)}"
                )
        else:
            image, label, encoded = found
            writer.write_encoded(encoded, label)
            counts[label] += 1
            np.add(total, image, out=total)
    told = f"{sum(counts)} records ({counts[1]} of label 1, {counts[0]} of label 0)"
    if any(counts[label] == 0 for label in np.unique(labels)):
        raise UserError(
            f"{fold}: {len(dropped) - before} of {len(images)} images cannot be used, which leaves "
            f"{told}; {first_of(dropped[before:])}"
        )
    means = whole.enter_context(WholeFile(path.with_name(f"{path.stem}_means.npy")))
    means.append(npy_bytes(total / sum(counts)))
    for file in (writer, means):
        file.sync()
    size = writer.partial.stat().st_size / 1e6
    said = f"{fold}: {told}, {size:.1f} MB in {path}; {len(dropped) - before} images dropped"
    return [said, *(f"  dropped {what}" for what in dropped[before:])]


def read_all(
    read: Callable[[int], Any], count: int, threads: int, do: str, *bad: type[Exception]
) -> Iterator[Any]:
    """``read(number)`` of each number below ``count``, in order, or the error it raised, if it is a
    ``bad`` one. Threads read, some images ahead, under a bar."""

    def attempt(number: int) -> Any:
        try:
            return read(number)
        except bad as error:
            return error

    ahead: Iterator[Any] = iter(())
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(total=count, desc=do, unit=" images") as bar,
    ):
        for start in range(0, count + AT_ONCE, AT_ONCE):
            with refusals("a thread that reads images", "cannot be started"):
                more = pool.map(attempt, range(start, min(start + AT_ONCE, count)))
            now, ahead = ahead, more
            for found in now:
                yield found
                bar.update()


def first_of(dropped: Sequence[str]) -> str:
    """The first few of what was dropped."""
    more = f"; and {len(dropped) - 5} more" if len(dropped) > 5 else ""
    return "the first: " + "; ".join(dropped[:5]) + more


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where some images had to be left out."""
    parse = shell.Parser("encode", __doc__, package="dataset_processing")
    parse.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(data_sets()))
    parse.add_argument("--float32", action="store_true", help="the 2018 release's form (360 kB)")
    parse.add_argument("--seed", type=shell.whole(0), default=0, help="of the split")
    parse.add_argument(
        "--output", type=Path, metavar="DIR", help="default: tf_records of config.py"
    )
    parse.add_argument("--threads", type=shell.whole(1), default=8, help="that read images")
    parse.add_argument(
        "--max-dropped", type=shell.whole(0), default=100, help="stop at more unusable images"
    )
    asked = parse.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the clean-up
    try:
        dropped = encode(asked, Config())
    finally:
        signal.signal(signal.SIGTERM, before)
    if dropped:
        print(
            f"error: {len(dropped)} images could not be used and are left out; {first_of(dropped)}",
            file=sys.stderr,
        )
    return 1 if dropped else 0


if __name__ == "__main__":
    shell.run_command(main)
