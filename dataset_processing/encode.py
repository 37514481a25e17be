"""Writes a data set's images as TFRecords, with the mean image of each fold.

    python -m dataset_processing.encode --dataset curv_contour_length_14_full

Files appear only when all of them are whole; stopped and run again, the command gives the same
bytes. An image that cannot be used is left out, counted and named.

Exit status: 0 all is encoded; 1 some images are left out, and named; 2 nothing is written, and why;
130, 143 stopped by a signal, nothing is written.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from config import Config
from dataset_processing.folds import ImageFold
from dataset_processing.images import BadImageError, is_grey_png, read_bytes
from dataset_processing.records import RecordWriter, encode_image
from dataset_processing.sets import FOLDS, data_sets, load_set, missing
from support import shell
from support.errors import MissingError, UserError
from support.files import WholeFile, npy_bytes
from support.progress import Progress

AT_ONCE = 256  # images read ahead of the one that is written
MAX_DROPPED = 100

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass
class Fold:
    """What became of a fold.

    Attributes:
        path: the record file.
        counts: records of label 0 and of label 1.
        dropped: images left out, each with the reason.
        total: the sum of its images, (H, W) float64.
    """

    path: Path
    counts: list[int]
    dropped: list[str]
    total: np.ndarray

    def mean(self) -> np.ndarray:
        """The mean image, (H, W) float64, 0–255."""
        return self.total / sum(self.counts)


@dataclass
class Encoder:
    """How a data set is encoded.

    Args:
        name: of the set.
        config: the paths.
        folder: where the records go.
        compact: PNG images; False writes the 2018 release's float32 pixels.
        seed: of the split.
        threads: that read images.
        max_dropped: stop when more images than this cannot be used.
    """

    name: str
    config: Config
    folder: Path
    compact: bool = True
    seed: int = 0
    threads: int = 8
    max_dropped: int = MAX_DROPPED
    dropped: list[str] = field(default_factory=list)

    def encode(self) -> dict[str, Fold]:
        """Writes the records and the mean images of all folds.

        Raises:
            MissingError: there are no images.
            UserError: the metadata cannot be used, too many images cannot be used, a fold is left
                without images of a class, or the folder holds other records of the set.
            SystemRefusal: a file cannot be written (a full disk).
        """
        source = load_set(self.name, self.config)
        if not source.on_disk():
            raise MissingError(missing(source))
        refuse_others(self.name, self.folder)
        files, labels = source.get_data(self.seed)
        folds = {
            fold: ImageFold(f"{self.name} {fold}", files[fold], labels[fold]) for fold in FOLDS
        }
        size = None
        for images in folds.values():
            images.look(size)
            size = images.im_size
        result = {}
        with ExitStack() as whole:  # all files take their names together, at the end
            for fold in FOLDS:
                stem = f"{self.name}_{source.folds[fold]}"
                path = self.folder / f"{stem}.tfrecords"
                writer = whole.enter_context(RecordWriter(path, self.compact))
                result[fold] = self._encode_fold(fold, writer, folds[fold])
                means = whole.enter_context(WholeFile(self.folder / f"{stem}_means.npy"))
                means.append(npy_bytes(result[fold].mean()))
                writer.sync()
                means.sync()
        return result

    def _encode_fold(self, fold: str, writer: RecordWriter, images: ImageFold) -> Fold:
        assert images.im_size is not None
        result = Fold(writer.path, [0, 0], [], np.zeros(images.im_size))

        def read(number: int) -> tuple[bytes, np.ndarray, int] | str:
            """An image as its record holds it and as it is, its label; or why it is left out."""
            try:
                image, label = images[number]
                data = read_bytes(Path(images.place(number)))
            except (BadImageError, MissingError) as error:
                return str(error)
            if not self.compact:
                return encode_image(image.astype(np.float32), False), image, label
            return data if is_grey_png(data) else encode_image(image, True), image, label

        with ThreadPoolExecutor(self.threads) as pool:
            ahead = read_ahead(pool, read, range(len(images)))
            for found in Progress(ahead, total=len(images), desc=f"encode {fold}", unit=" images"):
                if isinstance(found, str):
                    self._drop(result, found)
                    continue
                encoded, image, label = found
                writer.write_encoded(encoded, label)
                result.counts[label] += 1
                result.total += image
        if any(result.counts[label] == 0 for label in np.unique(images.labels)):
            raise UserError(
                f"{fold}: {len(result.dropped)} of {len(images)} images cannot be used, which "
                f"leaves {result.counts[0]} of label 0 and {result.counts[1]} of label 1; "
                f"{first_of(result.dropped)}"
            )
        return result

    def _drop(self, fold: Fold, what: str) -> None:
        fold.dropped.append(what)
        self.dropped.append(what)
        if len(self.dropped) > self.max_dropped:
            raise UserError(
                f"more than {self.max_dropped} images cannot be used (--max-dropped); "
                f"{first_of(self.dropped)}"
            )


def read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Item], Found], items: Sequence[Item]
) -> Iterator[Found]:
    """What ``read`` gives for each item, in order, read by the pool a block ahead."""
    blocks = [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]
    ahead = pool.map(read, blocks[0]) if blocks else iter(())
    for following in [*blocks[1:], []]:
        now, ahead = ahead, pool.map(read, following)
        yield from now


def refuse_others(name: str, folder: Path) -> None:
    """UserError if the folder holds records of this set that another command wrote."""
    others = [path for path in (folder / f"{name}.generated.json",) if path.exists()]
    others += [path for fold in FOLDS for path in sorted(folder.glob(f"{name}_{fold}-*.tfrecords"))]
    if others:
        raise UserError(
            f"{others[0]}: a generated set of this name is there; move {name}* out of {folder}, or "
            "name another --output"
        )


def first_of(dropped: Sequence[str]) -> str:
    """The first few of what was dropped."""
    more = f"; and {len(dropped) - 5} more" if len(dropped) > 5 else ""
    return "the first: " + "; ".join(dropped[:5]) + more


def report(folds: dict[str, Fold]) -> str:
    """What was written and what was dropped, each image named."""
    lines = []
    for name, fold in folds.items():
        lines.append(
            f"{name}: {sum(fold.counts)} records ({fold.counts[1]} of label 1, {fold.counts[0]} of "
            f"label 0), {fold.path.stat().st_size / 1e6:.1f} MB in {fold.path}; "
            f"{len(fold.dropped)} images dropped"
        )
        lines += [f"  dropped {what}" for what in fold.dropped]
    return "\n".join(lines)


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
        "--max-dropped",
        type=shell.whole(0),
        default=MAX_DROPPED,
        help="stop when more images than this cannot be used",
    )
    options = parse.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the clean-up
    config = Config()
    encoder = Encoder(
        options.dataset,
        config,
        options.output or config.tf_records,
        not options.float32,
        options.seed,
        options.threads,
        options.max_dropped,
    )
    print(report(encoder.encode()))
    if encoder.dropped:
        print(
            f"error: {len(encoder.dropped)} images could not be used and are left out; "
            f"{first_of(encoder.dropped)}",
            file=sys.stderr,
        )
    return 1 if encoder.dropped else 0


if __name__ == "__main__":
    shell.run_command(main)
