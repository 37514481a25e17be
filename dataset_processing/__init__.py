"""Data sets, stimuli, records: everything up to a batch.

``open_dataset`` finds a set by its name: records first, then images on disk. A name that ends in
``_stream`` is not on disk: its images are drawn while training.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from config import Config
from dataset_processing.base import PathfinderSet
from dataset_processing.datasets import ImageDataset, RecordDataset, record_files
from support.errors import unknown

FOLDS = ("train", "val")
# A set that hgru.py learns on two cores in minutes, and what suits its small images.
DEMONSTRATION = ("dataset=curv_contour_length_3_small", "batch_size=16", "validation_iters=250")
STREAMS = tuple(f"pathfinder_{length}_stream" for length in (6, 9, 14, 18, 20, 25))


class Dataset(Protocol):
    """What every data set offers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]: ...

    def name(self, index: int) -> str: ...

    def fingerprint(self) -> str: ...

    def describe(self) -> str: ...


def open_dataset(
    name: str,
    fold: str,
    config: Config,
    params: Mapping[str, Any] | None = None,
    on_bad_record: str = "error",
) -> Dataset:
    """A fold of a data set, by name.

    Args:
        name: a module of this package that has a class ``data_processing``, or a stream.
        fold: 'train' or 'val'.
        config: the paths to look under.
        params: experiment parameters; ``split_seed`` (0) is the seed of the split where images are
            read without records, the others are a stream's.
        on_bad_record: 'error' refuses a record file whose lengths are damaged or whose end is
            missing; 'skip' opens it, and the damaged records raise when they are read.

    Returns:
        ``len``; ``[index] -> (image (H, W) uint8 or float32, label)``; ``name(index)``;
        ``fingerprint()``; ``describe()``.

    Raises:
        ValueError: the name or the fold is not known, or the files cannot be used.
        FileNotFoundError: there is no data; the message has the paths looked at and the commands
            that fill them.
    """
    params = params or {}
    if fold not in FOLDS:
        raise unknown("fold", fold, FOLDS)
    if is_stream(name):
        from dataset_processing.stream import open_stream

        return open_stream(name, fold, params)
    data_set = load_set(name, config)
    title = f"{name} {fold}"
    paths = record_files(config.tf_records, name, data_set.folds[fold])
    generated = config.tf_records / f"{name}.generated.json"
    if paths and generated.exists() and data_set.on_disk():
        raise ValueError(
            f"{name!r} is there twice: generated, as {generated} says, and as images in "
            f"{data_set.folder()}; move one of them away"
        )
    if paths:
        return RecordDataset(title, paths, data_set.im_size, on_bad_record == "skip")
    if _any_records(name, config):
        raise FileNotFoundError(
            f"{config.tf_records / f'{name}_{fold}.tfrecords'}: missing, though the other fold is "
            f"there; encode both:  python -m dataset_processing.encode --dataset {name}"
        )
    if data_set.on_disk():
        files, labels = data_set.get_data(seed=int(params.get("split_seed", 0)))
        return ImageDataset(title, files[fold], labels[fold], data_set.im_size)
    raise FileNotFoundError(missing(name, config, data_set))


def prepare(name: str, config: Config, params: Mapping[str, Any] | None = None) -> None:
    """Makes sure that a data set can be opened.

    Does nothing where data is there. Where there is none and the user has set no path of their own,
    says so and generates a small set of the same kind.

    Raises:
        ValueError: the name is not known.
        FileNotFoundError: there is no data under the path that the user has set.
    """
    if is_stream(name):
        return
    data_set = load_set(name, config)
    if _any_records(name, config) or data_set.on_disk():
        return
    if not config.data_root_is_default:
        raise FileNotFoundError(missing(name, config, data_set))
    from dataset_processing.generate import generate_default

    generate_default(name, config)


def stand_in(name: str, config: Config) -> list[str]:
    """What to train on where a script's own data set is missing and no path was set.

    Args:
        name: the data set that ``experiment_params`` names.
        config: the paths.

    Returns:
        Overrides (``key=value``) that make a demonstration of the script: an easy set of small
        images, in smaller batches; none where the data is there or the user has set a path.
    """
    if is_stream(name) or not config.data_root_is_default:
        return []
    if _any_records(name, config) or load_set(name, config).on_disk():
        return []
    return list(DEMONSTRATION)


def load_set(name: str, config: Config) -> PathfinderSet:
    """The data-set object of a name; ValueError, with the nearest name, if there is none."""
    if name not in data_sets():
        raise unknown("data set", name, [*data_sets(), *STREAMS])
    return importlib.import_module(f"{__name__}.{name}").data_processing(config)


def data_sets() -> list[str]:
    """The sets on disk that have a module here."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [m.stem for m in modules if "\nclass data_processing" in m.read_text(encoding="utf-8")]


def missing(name: str, config: Config, data_set: PathfinderSet) -> str:
    """What to say where a set has no data."""
    return (
        f"no data for {name!r}: no images in {data_set.folder()} and no records "
        f"{name}_train.tfrecords in {config.tf_records}. Put the images there and run "
        f"'python -m dataset_processing.encode --dataset {name}', or make some with "
        f"'python -m dataset_processing.generate --dataset {name}'"
    )


def is_stream(name: str) -> bool:
    """Whether a name means images drawn while training; ValueError if it is no known stream."""
    if not name.endswith("_stream"):
        return False
    if name not in STREAMS:
        raise unknown("data set", name, [*data_sets(), *STREAMS])
    return True


def _any_records(name: str, config: Config) -> bool:
    return any(record_files(config.tf_records, name, fold) for fold in FOLDS)
