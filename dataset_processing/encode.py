"""Writes a data set's images as TFRecords, with the mean image of each fold.

    python -m dataset_processing.encode --dataset curv_contour_length_14_full

Files appear only when all of them are whole; stopped and run again, the command gives the same
bytes. An image that cannot be used is left out, counted and named.
"""

import argparse
import io
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
from dataset_processing import FOLDS, data_sets, load_set, missing
from dataset_processing.base import PathfinderSet
from dataset_processing.datasets import reason, wrong_size
from dataset_processing.records import RecordWriter, encode_image, read_png
from support.files import WholeFile
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
        data_set: the set.
        folder: where the records go.
        compact: PNG images; False writes the 2018 release's float32 pixels.
        seed: of the split.
        threads: that read images.
        max_dropped: stop when more images than this cannot be used.
    """

    data_set: PathfinderSet
    folder: Path
    compact: bool = True
    seed: int = 0
    threads: int = 8
    max_dropped: int = MAX_DROPPED
    dropped: list[str] = field(default_factory=list)

    def encode(self) -> dict[str, Fold]:
        """Writes the records and the mean images of all folds.

        Raises:
            FileNotFoundError: there are no images.
            ValueError: the metadata cannot be used, too many images cannot be used, a fold is left
                without images of a class, or the folder holds other records of the set.
            RuntimeError: a file cannot be written (a full disk).
        """
        if not self.data_set.on_disk():
            raise FileNotFoundError(
                missing(self.data_set.name, self.data_set.config, self.data_set)
            )
        refuse_others(self.data_set.name, self.folder)
        files, labels = self.data_set.get_data(self.seed)
        folds = {}
        with ExitStack() as whole:  # all files take their names together, at the end
            for fold in FOLDS:
                stem = f"{self.data_set.name}_{self.data_set.folds[fold]}"
                path = self.folder / f"{stem}.tfrecords"
                writer = whole.enter_context(RecordWriter(path, self.compact))
                folds[fold] = self._encode_fold(fold, writer, files[fold], labels[fold])
                means = whole.enter_context(WholeFile(self.folder / f"{stem}_means.npy"))
                means.append(npy_bytes(folds[fold].mean()))
                writer.sync()
                means.sync()
        return folds

    def _encode_fold(
        self, fold: str, writer: RecordWriter, files: Sequence[str], labels: np.ndarray
    ) -> Fold:
        result = Fold(writer.path, [0, 0], [], np.zeros(self.data_set.im_size))
        with ThreadPoolExecutor(self.threads) as pool:
            read = read_ahead(pool, self._read, files)
            bar = Progress(read, total=len(files), desc=f"encode {fold}", unit=" images")
            for file, label, found in zip(files, labels.tolist(), bar, strict=True):
                if isinstance(found, str):
                    self._drop(result, f"{file}: {found}")
                    continue
                encoded, image = found
                writer.write_encoded(encoded, label)
                result.counts[label] += 1
                result.total += image
        if any(result.counts[label] == 0 for label in np.unique(labels)):
            raise ValueError(
                f"{fold}: {len(result.dropped)} of {len(files)} images cannot be used, which "
                f"leaves {result.counts[0]} of label 0 and {result.counts[1]} of label 1; "
                f"{first_of(result.dropped)}"
            )
        return result

    def _read(self, file: str) -> tuple[bytes, np.ndarray] | str:
        """An image as its record holds it and as it is; or why it cannot be used."""
        try:
            data = Path(file).read_bytes()
            image = read_png(io.BytesIO(data))
        except OSError as error:
            return reason(error)
        if list(image.shape) != list(self.data_set.im_size):
            return wrong_size(image.shape, self.data_set.im_size)
        if self.compact:
            return (data if is_grey_png(data) else encode_image(image, True)), image
        return encode_image(image.astype(np.float32), False), image

    def _drop(self, fold: Fold, what: str) -> None:
        fold.dropped.append(what)
        self.dropped.append(what)
        if len(self.dropped) > self.max_dropped:
            raise ValueError(
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


def is_grey_png(data: bytes) -> bool:
    """Whether a PNG file is 8-bit grey: it is then a compact record's image as it is."""
    return data[24:26] == b"\x08\x00"  # the header's bit depth and colour type


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def refuse_others(name: str, folder: Path) -> None:
    """ValueError if the folder holds records of this set that another command wrote."""
    others = [folder / f"{name}.generated.json"] if folder.is_dir() else []
    others = [path for path in others if path.exists()]
    others += sorted(path for fold in FOLDS for path in folder.glob(f"{name}_{fold}-*.tfrecords"))
    if others:
        raise ValueError(
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


def main(arguments: list[str] | None = None) -> int:
    """The command.

    Returns:
        0: every image is encoded; 1: some had to be left out, and are named; 2: nothing was
        written, and why; 130, 143: stopped by a signal, nothing was written.
    """
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the clean-up
    try:
        config = Config()
        folder = Path(options.output) if options.output else config.tf_records
        data_set = load_set(options.dataset, config)
        encoder = Encoder(
            *(data_set, folder, not options.float32, options.seed),
            *(options.threads, options.max_dropped),
        )
        folds = encoder.encode()
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(folds))
    if encoder.dropped:
        print(
            f"error: {len(encoder.dropped)} images could not be used and are left out; "
            f"{first_of(encoder.dropped)}",
            file=sys.stderr,
        )
    return 1 if encoder.dropped else 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m dataset_processing.encode",
        description="Writes a data set's images as TFRecords, with the mean image of each fold. "
        "Exit status: 0 all encoded, 1 some images left out (each is named), 2 nothing written.",
    )
    result.add_argument("--dataset", required=True, help=", ".join(data_sets()))
    result.add_argument("--float32", action="store_true", help="the 2018 release's form (360 kB)")
    result.add_argument("--seed", type=int, default=0, help="of the split in train and val (0)")
    result.add_argument("--output", help="folder (tf_records of config.py)")
    result.add_argument("--threads", type=int, default=8, help="that read images (8)")
    result.add_argument(
        "--max-dropped",
        type=int,
        default=MAX_DROPPED,
        help="stop when more images than this cannot be used (%(default)s)",
    )
    return result


if __name__ == "__main__":
    sys.exit(main())
