"""Data sets by name: on disk or drawn while training, and what is said where there is none."""

import importlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from dataset_processing.base import ARENA, ArenaSet, PathfinderSet, is_arena
from dataset_processing.folds import GeneratedFold, ImageFold, RecordFold, record_files, times
from dataset_processing.generated import GENERATED, SMALL_SET
from dataset_processing.layouts import list_images
from dataset_processing.pathfinder import Settings
from support.errors import MissingError, UserError, refusals, unknown

FOLDS = ("train", "val")
# What suits the small images of the demonstration.
DEMONSTRATION = (f"dataset={SMALL_SET}", "batch_size=16", "validation_iters=250")
STREAM = re.compile(r"pathfinder_(\d+)_stream")
STREAMS = tuple(f"pathfinder_{length}_stream" for length in (6, 9, 14, 18, 20, 25))
COUNTS = {"train": ("stream_epoch_images", 900_000), "val": ("stream_val_images", 10_000)}


class DataSet:
    """A data set, on disk or drawn while training.

    Args:
        name: of the set.
        config: the paths.
        params: experiment parameters.
        on_bad_record: see :func:`open_set`.

    Attributes:
        name: as ``experiment_params`` has it.
        is_generated: its images are drawn while training.
        contour_length: paddles in a target contour; None where the name does not tell.
    """

    is_generated = False

    def __init__(
        self, name: str, config: Config, params: Mapping[str, Any], on_bad_record: str
    ) -> None:
        self.name, self.config, self.params = name, config, params
        self.on_bad_record = on_bad_record
        self.contour_length = contour_length(name)
        self._folds: dict[str, Any] = {}

    def fold(self, fold: str) -> Any:
        """A fold, 'train' or 'val': ``len``; ``[index] -> (image (H, W) uint8 or float32, label)``;
        ``name(index)``; ``fingerprint()``; ``describe()``; ``im_size``.

        Raises:
            UserError: the fold is not known, or its files cannot be used.
            MissingError: it is not there.
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
        """(H, W) that the network is given: as named, else by the set's own factor."""
        named = self.params.get("model_input_image_size")
        if named:
            return int(named[0]), int(named[1])
        height, width = (
            max(1, round(side * factor))
            for side, factor in zip(self.im_size, self._factors(), strict=True)
        )
        return height, width

    def describe(self) -> str:
        """One line: what it is, and what of it the network is given."""
        kind = "drawn while training" if self.is_generated else "on disk"
        return (
            f"{self.name}: {times(self.im_size)} images {kind}, given to the network as "
            f"{times(self.input_size)}"
        )

    def _open(self, fold: str) -> Any:
        raise NotImplementedError

    def _factors(self) -> tuple[float, float]:
        return 0.5, 0.5


class StreamSet(DataSet):
    """Images that are drawn while a network trains: nothing on disk, no image twice.

    Each epoch shows fresh images; validation always shows the same ones, which are never trained
    on. Of the parameters it reads ``stream_epoch_images``, ``stream_val_images``, ``stream_seed``
    and ``stream_settings``: any other of `dataset_processing.pathfinder.Settings`.
    """

    is_generated = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings = generator_settings(self.name, self.params)
        assert settings is not None
        self.settings = settings
        self.contour_length = settings.contour_length

    @property
    def im_size(self) -> tuple[int, int]:
        return self.settings.shape

    def _open(self, fold: str) -> GeneratedFold:
        key, default = COUNTS[fold]
        count = self.params.get(key, default)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"{key}: a whole number of at least 1 is expected, not {count!r}")
        seed = self.params.get("stream_seed", 0)
        return GeneratedFold(self.name, fold, self.settings, seed, count)


class DiskSet(DataSet):
    """A set in record files or, where there are none, in image files."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        name, config = self.name, self.config
        self.source = load_set(name, config)
        with refusals(config.tf_records, "cannot be read"):
            paths = {f: record_files(config.tf_records, name, self.source.folds[f]) for f in FOLDS}
            generated = config.tf_records / f"{name}.generated.json"
            twice = any(paths.values()) and generated.exists() and self.source.on_disk()
        if twice:
            raise UserError(
                f"{name!r} is there twice: generated, as {generated} says, and as images in "
                f"{self.source.folder()}; move one of them away"
            )
        self.paths = paths if any(paths.values()) else None
        self._listed: Any = None
        if self.paths is None and not self.source.on_disk():
            raise MissingError(missing(self.source))
        if self.source.data_name:
            self.contour_length = contour_length(self.source.data_name)

    def images(self, fold: str) -> tuple[list[str], np.ndarray]:
        """The files and labels of a fold's images on disk."""
        if self._listed is None:
            self._listed = self.source.get_data(seed=int(self.params.get("split_seed") or 0))
        files, labels = self._listed
        return files[fold], labels[fold]

    def raw(self, fold: str, binary: bool = True) -> RecordFold | ImageFold:
        """A fold whose images have not been looked at."""
        title = f"{self.name} {fold}"
        if self.paths is None:
            return ImageFold(title, *self.images(fold))
        if not self.paths[fold]:
            raise MissingError(
                f"{self.config.tf_records / f'{self.name}_{fold}.tfrecords'}: missing, though the "
                "other fold is there; encode both:  python -m dataset_processing.encode --dataset "
                f"{self.name}"
            )
        return RecordFold(title, self.paths[fold], self.on_bad_record == "skip", binary)

    def _open(self, fold: str) -> RecordFold | ImageFold:
        size = next((one.im_size for one in self._folds.values()), None)
        size = size or self.params.get("im_size") or self.source.named_size
        key = "data_augmentations" if fold == "train" else "val_augmentations"
        names = self.params.get(key)
        opened = self.raw(fold)
        opened.look(size, meant=names is not None and not rescales(names))
        return opened

    def _factors(self) -> tuple[float, float]:
        (height, width), given = self.source.im_size, self.source.model_input_image_size
        return given[0] / height, given[1] / width


def open_set(
    name: str,
    config: Config,
    params: Mapping[str, Any] | None = None,
    on_bad_record: str = "error",
) -> DataSet:
    """A data set, by name.

    Args:
        name: a module of this package that has a class ``data_processing``; ``pathfinder32``, 64,
            128 or 256 (Long Range Arena), also with the set: ``pathfinder32_curv_baseline``; a
            stream, ``pathfinder_<contour length>_stream``; or any other name that record files or
            an image folder have.
        config: the paths to look under.
        params: experiment parameters: ``im_size``, ``model_input_image_size``, ``split_seed`` (of
            the split where images are read without records), a stream's.
        on_bad_record: 'error' refuses a record file whose lengths are damaged or whose end is
            missing; 'skip' opens it, and the damaged records raise when they are read.

    Raises:
        UserError: the name is not known, or the files cannot be used.
        MissingError: there is no data; the message has the paths looked at, what was found near
            them, and the commands that fill them.
    """
    kind = StreamSet if is_stream(name) else DiskSet
    return kind(name, config, params or {}, on_bad_record)


def open_path(path: Path, meant: bool = False) -> RecordFold | ImageFold:
    """All images of a record file, or of a folder in one of the layouts.

    Args:
        path: of the file or folder.
        meant: another scale than 0–255 may be meant.

    Raises:
        UserError, MissingError: it cannot be read.
    """
    if path.is_dir():
        negative = path.with_name(f"{path.name}_neg")
        positives, negatives = list_images(path, negative, PathfinderSet.meta)
        labels = np.array([1] * len(positives) + [0] * len(negatives))
        fold: RecordFold | ImageFold = ImageFold(path.name, positives + negatives, labels)
    else:
        fold = RecordFold(path.stem, [path])
    fold.look(meant=meant)
    return fold


def prepare(name: str, config: Config) -> None:
    """Makes the demonstration's set where it is asked for by its name and no path has been set."""
    if name != SMALL_SET or not _all_default(config):
        return
    if load_set(name, config).on_disk() or _records(name, config):
        return
    from dataset_processing.generate import generate_small

    generate_small(config)


def demonstration(
    name: str, config: Config, set_by_user: Collection[str] = (), model_name: str = "hgru"
) -> list[str]:
    """What to train on where the user has set nothing and has nothing.

    Args:
        name: the data set that ``experiment_params`` names.
        config: the paths.
        set_by_user: the parameters that the command line sets.
        model_name: what the run's name begins with.

    Returns:
        Overrides (``key=value``) that make a demonstration of the script: an easy set of small
        images, in smaller batches, under a name that says so. None where a path or the data set
        was set, or records or images are there, under whatever name.
    """
    if is_stream(name) or "dataset" in set_by_user or not _all_default(config):
        return []
    source = load_set(name, config)
    others = [path for path in _near_records(config) if not path.name.startswith(SMALL_SET)]
    if others or source.on_disk() or _near_images(source):
        return []
    named = [f"exp_name={model_name}_{SMALL_SET}_demonstration"] * ("exp_name" not in set_by_user)
    return [text for text in DEMONSTRATION if text.partition("=")[0] not in set_by_user] + named


def demonstration_notice(name: str) -> str:
    """What the first and the last line of a demonstration say."""
    return (
        f"a demonstration: no data for {name} was found and no path is set, so easy "
        f"generated images ({SMALL_SET}) are trained on instead. README, 'Your data', says how to "
        "train on your own"
    )


def load_set(name: str, config: Config) -> PathfinderSet:
    """The settings of a set on disk; UserError, with the nearest name, if there is none."""
    if is_arena(name):
        return ArenaSet(name, config)
    if name in _modules():
        return importlib.import_module(f"{__package__}.{name}").data_processing(config)
    if "/" not in name:
        own = PathfinderSet(config, name)
        if name in GENERATED or own.on_disk() or _records(name, config):
            return own
    raise unknown("data set", name, [*data_sets(), *STREAMS])


def data_sets() -> list[str]:
    """The sets on disk that are known; any other name means a user's own records or folder."""
    return [*dict.fromkeys([*_modules(), *GENERATED]), *ARENA]


def _modules() -> list[str]:
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [m.stem for m in modules if "\nclass data_processing" in m.read_text(encoding="utf-8")]


def is_stream(name: str) -> bool:
    """Whether a name means images drawn while training; UserError if it is no such name."""
    if not name.endswith("_stream"):
        return False
    if STREAM.fullmatch(name) is None:
        raise unknown("data set", name, [*data_sets(), *STREAMS])
    return True


def generator_settings(name: str, params: Mapping[str, Any]) -> Settings | None:
    """The generator's settings of a stream or of a set that has a name; else None.

    Raises:
        UserError: ``stream_settings`` cannot be used.
    """
    if name in GENERATED:
        return Settings(**GENERATED[name])
    match = STREAM.fullmatch(name)
    if match is None:
        return None
    others = {"contour_length": int(match[1]), **(params.get("stream_settings") or {})}
    try:
        return Settings(**others)
    except TypeError as error:
        raise UserError(f"stream_settings: {error}") from error


def contour_length(name: str) -> int | None:
    """Paddles in a target contour, where a set's name tells."""
    name = re.sub(rf"^({'|'.join(ARENA)})_", "", name)
    if name.startswith("curv_baseline"):
        return 6
    match = re.match(r"(?:pathfinder|curv_contour_length)_(\d+)", name)
    return int(match[1]) if match else None


def missing(source: PathfinderSet) -> str:
    """What to say where a set has no data: where it was looked for, and what was found nearby."""
    name, config = source.name, source.config
    near = [p for p in _near_records(config) if name in p.name or source.data_name in str(p)]
    near += _near_images(source) + [p for p in _near_records(config) if p not in near]
    found = f" Found nearby: {', '.join(map(str, near[:6]))}." if near else ""
    return (
        f"no data for {name!r}: no images in {' or '.join(map(str, source.places()))} and no "
        f"records {name}_train.tfrecords (or {name}_train-00000-of-00004.tfrecords …) in "
        f"{config.tf_records}.{found} Put images there and run 'python -m "
        f"dataset_processing.encode --dataset {name}', or make some with 'python -m "
        f"dataset_processing.generate --dataset {name}'"
    )


def _near_records(config: Config) -> list[Path]:
    """Files that look like records, where they are read and a folder up or down."""
    project, root = config.project_directory, config.data_root
    folders = [config.tf_records, project, project.parent, project.parent / "tf_records", root]
    patterns = ("*tfrecord*", "*/*tfrecord*")
    found: dict[Path, None] = {}
    for folder in dict.fromkeys(folders):
        for pattern in patterns if folder == config.tf_records else patterns[:1]:
            found |= dict.fromkeys(path for path in _glob(folder, pattern) if path.is_file())
    return [path for path in found if not path.name.endswith((".partial", ".json", ".npy"))]


def _near_images(source: PathfinderSet) -> list[Path]:
    """Folders that look like the set's, near where it is looked for."""
    root, name = source.config.data_root, source.data_name
    tops = [root, root.parent, *_glob(root, "*"), *(_glob(root, "curvy_2snakes_300/*"))]
    found: dict[Path, None] = {}
    for top in tops:
        for place in (top / name, top / "curvy_2snakes_300" / name, top):
            if place.name.lower().startswith(name) and place.is_dir():
                found[place] = None
    usual = source.places()
    return [path for path in found if path not in usual]


def _glob(folder: Path, pattern: str) -> Iterable[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _records(name: str, config: Config) -> bool:
    return any(record_files(config.tf_records, name, fold) for fold in FOLDS)


def _all_default(config: Config) -> bool:
    return config.data_root_is_default and config.project_directory_is_default


def rescales(names: Any) -> bool:
    """Whether augmentations divide by 255: pixels are then expected to be 0–255."""
    if isinstance(names, str):
        return names.startswith("uint8_rescale")
    return any(rescales(name) for name in names)
