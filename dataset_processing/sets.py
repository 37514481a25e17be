"""Data sets by name, on disk or drawn while training."""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from dataset_processing.base import PathfinderSet, check_class
from dataset_processing.folds import (
    FIRST,
    FOLDS,
    GeneratedFold,
    ImageFiles,
    StoredFold,
    record_files,
    times,
)
from dataset_processing.forms import FOLDERS, Job
from dataset_processing.generated import (
    ARENA_SETTINGS,
    GENERATED,
    check_name,
    contour_length,
    is_arena,
    read_description,
)
from dataset_processing.layouts import list_images
from dataset_processing.pathfinder import Settings
from dataset_processing.records import RecordReader
from support.errors import MissingError, UserError, refusals, unknown
from support.kinds import whole

STREAM = re.compile(r"pathfinder_(\d+)_stream")
STREAMS = tuple(f"pathfinder_{length}_stream" for length in (6, 9, 14, 18, 20, 25))
COUNTS = {"train": ("stream_epoch_images", 900_000), "val": ("stream_val_images", 10_000)}


class DataSet:
    """A data set, on disk or drawn while training; see :func:`open_set` for its arguments.

    Attributes:
        is_generated: its images are drawn while training.
        splits: whether its images are split into train and val here, by ``split_seed``.
        contour_length: paddles in a target contour; None where the name does not tell.
        own_input_size: (H, W) that the set gives a network; None: half of the images'.
    """

    is_generated = False
    own_input_size: Sequence[int] | None = None
    splits = False

    def __init__(
        self, name: str, config: Config, params: Mapping[str, Any], on_bad_record: str
    ) -> None:
        self.name, self.config = name, config
        self.params, self.on_bad_record = params, on_bad_record
        self.contour_length = contour_length(name)
        self._folds: dict[str, Any] = {}

    def fold(self, fold: str) -> Any:
        """A fold, 'train' or 'val': ``len``; ``[index] -> (image (H, W) uint8 or float32, label)``;
        ``name(index)``; ``fingerprint()``; ``describe()``; ``im_size``.

        Raises:
            UserError: it is not known or not there, or its files cannot be used.
        """
        if fold not in FOLDS:
            raise unknown("fold", fold, FOLDS)
        if fold not in self._folds:
            self._folds[fold] = self._open(fold)
        return self._folds[fold]

    @property
    def im_size(self) -> tuple[int, int]:
        """(H, W) of the images as stored."""
        return (next(iter(self._folds.values()), None) or self.fold("train")).im_size

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) that the network is given: as named, else the set's own, else half."""
        named = self.params.get("model_input_image_size") or self.own_input_size
        height, width, *_ = named or (max(1, round(side / 2)) for side in self.im_size)
        return int(height), int(width)

    def describe(self) -> str:
        """One line: what it is, and what of it the network is given."""
        kind = "drawn while training" if self.is_generated else "on disk"
        return (
            f"{self.name}: {times(self.im_size)} images {kind}, given to the network as "
            f"{times(self.input_size)}"
        )

    def drawn(self, fold: str, epochs: int = 1) -> tuple[str, int, range] | None:
        """Which of the generator's images a fold has, in so many epochs: the fingerprint of their
        settings, their seed and their numbers. None where it has others, or that is not known."""
        return None

    _open: Callable[[str], Any]  # opens a fold


class StreamSet(DataSet):
    """Images that are drawn while a network trains (:class:`GeneratedFold`).

    Of the parameters it reads ``stream_epoch_images``, ``stream_val_images``, ``stream_seed`` and
    ``stream_settings``: any other of `dataset_processing.pathfinder.Settings`.
    """

    is_generated = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings = generator_settings(self.name, self.params)
        assert settings is not None
        self.settings, self.contour_length = settings, settings.contour_length
        self.seed = self.params.get("stream_seed", 0)
        wanted = self.params.get("im_size")
        if wanted and tuple(wanted[:2]) != settings.shape:
            raise UserError(
                f"{self.name}: its images are {times(settings.shape)}; im_size of the data set is "
                f"{times(wanted[:2])}. window in stream_settings draws others"
            )

    @property
    def im_size(self) -> tuple[int, int]:
        return self.settings.shape

    def drawn(self, fold: str, epochs: int = 1) -> tuple[str, int, range] | None:
        first, rounds = FIRST.get(fold, 0), epochs if fold == "train" else 1
        numbers = range(first, first + rounds * self._count(fold))
        return self.settings.fingerprint(), self.seed, numbers

    def _count(self, fold: str) -> int:
        key, default = COUNTS[fold]
        return int(whole(1).of(key, self.params.get(key, default)))

    def _open(self, fold: str) -> GeneratedFold:
        return GeneratedFold(self.name, fold, self.settings, self.seed, self._count(fold))


class DiskSet(DataSet):
    """A set in record files or, where there are none, in image files."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        name, config = self.name, self.config
        self.source = load_set(name, config)
        self.own_input_size = self.source.own_input_size
        self.contour_length = contour_length(self.source.data_name)
        with refusals(config.tf_records, "cannot be read"):
            paths = {f: record_files(config.tf_records, name, f) for f in FOLDS}
            generated = config.tf_records / f"{name}.generated.json"
            twice = any(paths.values()) and generated.exists() and self.source.on_disk()
        if twice:
            raise UserError(
                f"{name!r} is there twice: generated, as {generated} says, and as images in "
                f"{self.source.folder()}; move one of them away"
            )
        self.paths = paths if any(paths.values()) else None
        self.splits = self.paths is None
        self._listed: Any = None
        if self.paths is None and not self.source.on_disk():
            raise self.source.missing()

    def drawn(self, fold: str, epochs: int = 1) -> tuple[str, int, range] | None:
        with suppress(UserError, KeyError, TypeError):  # no description, or an edited one
            for place in (self.config.tf_records / self.name, self.source.folder()):
                file = place.with_name(f"{place.name}.generated.json")
                if file.is_file():
                    told = read_description(file)
                    told.pop("fingerprint", None)
                    told["settings"] = Settings(**told["settings"])
                    job = Job(folder=place.parent, **told)
                    part = "train" if job.form in FOLDERS else fold  # a folder is split here
                    return job.settings.fingerprint(), job.seed, job.folds()[part]
        return None

    def images(self, fold: str) -> tuple[list[str], np.ndarray]:
        """The files and labels of a fold's images on disk."""
        if self._listed is None:
            self._listed = self.source.get_data(seed=int(self.params.get("split_seed") or 0))
        files, labels = self._listed
        return files[fold], labels[fold]

    def raw(self, fold: str) -> StoredFold:
        """A fold whose images have not been looked at."""
        title = f"{self.name} {fold}"
        if self.paths is None:
            return StoredFold(title, ImageFiles(self.source.folder(), *self.images(fold)))
        if not self.paths[fold]:
            raise MissingError(
                f"{self.config.tf_records / f'{self.name}_{fold}.tfrecords'}: missing, though the "
                "other fold is there; encode both:  python -m dataset_processing.encode --dataset "
                f"{self.name}  (a set of generate's: by another --val-fraction or --count)"
            )
        return StoredFold(title, RecordReader(self.paths[fold], self.on_bad_record == "skip"))

    def _open(self, fold: str) -> StoredFold:
        size = next((one.im_size for one in self._folds.values()), None)
        size = size or self.params.get("im_size") or self.source.named_size
        key = "data_augmentations" if fold == "train" else "val_augmentations"
        names = self.params.get(key)
        opened = self.raw(fold)
        opened.look(size, meant=names is not None and not rescales(names))
        return opened


def open_set(
    name: str,
    config: Config,
    params: Mapping[str, Any] | None = None,
    on_bad_record: str = "error",
) -> DataSet:
    """A data set, by name.

    Args:
        name: of a module of this package that has a class ``data_processing``; ``pathfinder32``,
            64, 128 or 256 (Long Range Arena), also with the set: ``pathfinder32_curv_baseline``; a
            stream, ``pathfinder_<contour length>_stream``; or what record files or an image folder
            are called.
        config: the paths to look under.
        params: experiment parameters: sizes, augmentations, ``split_seed``, a stream's.
        on_bad_record: 'error' refuses a record file whose lengths are damaged or whose end is
            missing; 'skip' opens it, and the damaged records raise when they are read.

    Raises:
        UserError: the name is not known, or the files cannot be used.
        MissingError: there is no data; see :meth:`PathfinderSet.missing`.
    """
    kind = StreamSet if is_stream(name) else DiskSet
    return kind(name, config, params or {}, on_bad_record)


def open_path(path: Path, meant: bool = False) -> StoredFold:
    """All images of a record file, or of a folder in one of the layouts; UserError if none can be
    read. ``meant``: another scale than 0–255 may be meant.
    """
    if path.is_dir():
        classes = list_images(path, path.with_name(f"{path.name}_neg"), PathfinderSet.meta)
        labels = [1] * len(classes[0]) + [0] * len(classes[1])
        fold = StoredFold(path.name, ImageFiles(path, classes[0] + classes[1], labels))
    else:
        fold = StoredFold(path.stem, RecordReader([path]))
    fold.look(meant=meant)
    return fold


def drawn_twice(trained: Iterable[DataSet], epochs: int, held_out: DataSet) -> str:
    """A warning where images that validate are drawn for training too, in so many epochs of one of
    the sets ``trained``; "" where that is not known. A set beside itself has folds of its own."""
    *how, val = held_out.drawn("val") or (None, range(0))
    for data in trained:
        *same, train = data.drawn("train", epochs) or (None, range(0))
        both = range(max(train.start, val.start), min(train.stop, val.stop))
        if data.name != held_out.name and same == how and both:
            return (
                f"images of {held_out.name} are those of {data.name} that are trained on: the same "
                f"settings and seed draw them, numbers {both[0]} to {both[-1]}; another seed "
                "(stream_seed, generate --seed) draws others"
            )
    return ""


def load_set(name: str, config: Config) -> PathfinderSet:
    """The settings of a set on disk; UserError, with the nearest name or what was found near, if
    there is none, or where its class cannot be used."""
    if name in _modules():
        own = importlib.import_module(f"{__package__}.{name}").data_processing
        check_class(own, name)
        return own(config)
    check_name(name)
    own = PathfinderSet(config, name)
    if is_arena(name) or name in GENERATED or own.on_disk() or has_records(name, config):
        return own
    raise own.missing() if own.near() else unknown("data set", name, [*data_sets(), *STREAMS])


def has_records(name: str, config: Config) -> bool:
    """Whether there are record files of a set."""
    return any(record_files(config.tf_records, name, fold) for fold in FOLDS)


def data_sets() -> list[str]:
    """The sets on disk that are known; any other name means a user's own records or folder."""
    return [*dict.fromkeys([*_modules(), *GENERATED]), *ARENA_SETTINGS]


def _modules() -> list[str]:
    modules = sorted(Path(__file__).parent.glob("[!.]*.py"))  # without an editor's .#mine.py
    return [m.stem for m in modules if "\nclass data_processing" in m.read_text(encoding="utf-8")]


def is_stream(name: str) -> bool:
    """Whether a name means images drawn while training; UserError if it is no such name."""
    if not name.endswith("_stream"):
        return False
    if STREAM.fullmatch(name) is None:
        raise unknown("data set", name, [*data_sets(), *STREAMS])
    return True


def generator_settings(name: str, params: Mapping[str, Any]) -> Settings | None:
    """The generator's settings of a stream or of a set that has a name; else None. UserError:
    ``stream_settings`` cannot be used."""
    match = STREAM.fullmatch(name)
    named = GENERATED.get(name)
    if match:
        named = {"contour_length": int(match[1]), **(params.get("stream_settings") or {})}
    try:
        return Settings(**named) if named else None
    except TypeError as error:
        raise UserError(f"stream_settings: {error}") from error


def rescales(names: Any) -> bool:
    """Whether augmentations divide by 255: pixels are then expected to be 0–255."""
    if isinstance(names, str):
        return names.startswith("uint8_rescale")
    return any(rescales(name) for name in names)
