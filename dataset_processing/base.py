"""What the Pathfinder sets on disk share: their settings, where they lie, how they are split."""

import math
import warnings
from pathlib import Path

import numpy as np

from config import Config
from dataset_processing.generated import ARENA_SETS, ARENA_SETTINGS, GENERATED, is_arena
from dataset_processing.layouts import list_images
from support.errors import MissingError, UserError, refusals, unknown
from support.kinds import FILE_NAME, SIZE, TEXT, TRUTH, Kind, number, or_none, whole

NO_RECORDS = (".partial", ".json", ".npy")
RELEASE = "curvy_2snakes_300"  # the folder in which the 2018 release's sets lie
# What a class of a set's own may give, and what each may be; see :class:`PathfinderSet`.
ATTRIBUTES: dict[str, Kind] = {
    "name": TEXT,
    "data_name": TEXT,
    "negative": FILE_NAME,
    "im_size": or_none(SIZE),
    "model_input_image_size": or_none(SIZE),
    "max_ims": or_none(whole(0)),
    "balance": TRUTH,
    "shuffle": TRUTH,
    "cv_split": number(above=0, below=1),
    "meta": TEXT,
}


class PathfinderSet:
    """A Pathfinder set on disk, as the 2018 release describes one, or of Long Range Arena. What it
    may be called and where it is looked for: docs/data.md, "Known sets".

    Args:
        config: the paths; None reads the project's.
        name: of a set that has no class of its own; its folder is ``name`` or, where there is none
            of that name, ``name`` without ``_full``.

    Attributes:
        named_size: (H, W) that its class or name says its images have, in pixels; None: neither.
        own_input_size: (H, W) or (H, W, channels) that its class says networks are given; None: it
            does not.
    """

    name: str  # in ``experiment_params``, of its record files and of the module
    data_name: str  # of its folder, or the way to it: study/mine
    negative = ""  # folder of its negatives (layout of 2018); "": its own with ``_neg``
    im_size: list[int] | None = None  # (H, W) that its images must have; None: the usual one
    model_input_image_size: list[int] | None = None  # (H, W) for the networks; None: half of it
    max_ims: int | None = 125000  # images kept of each class; 0 or None keeps all
    balance = True  # cut both classes to the smaller one
    shuffle = True  # before the split and after
    cv_split = 0.9  # share of the images that train; the rest validates
    meta = "metadata/combined.npy"  # in a class's folder (layout of 2018)
    score_metric = "accuracy"  # that the release reports
    default_loss_function = "cce"  # that it trains by

    def __init__(self, config: Config | None = None, name: str | None = None) -> None:
        self.config = config or Config()
        root = self.config.data_root
        self.contour_dir = root / RELEASE  # holds the folders of both classes
        self.arena_tops: list[Path] = []
        if name is not None:
            self.name = self.data_name = name
            with refusals(root, "cannot be read"):
                if not any(map(Path.is_dir, self.places())):
                    self.data_name = name.removesuffix("_full")
        side = GENERATED.get(self.name, {}).get("window", 300)  # pixels, as released
        if is_arena(self.name):
            size, _, rest = self.name.partition("_")
            self.data_name = rest if name is not None else self.data_name
            self.arena_tops = arena_folders(root, size)
            side = int(size.removeprefix("pathfinder"))
            self.im_size = self.im_size or [side, side]
            if not self.data_name:
                with refusals(root, "cannot be read"):
                    there = [one for one in ARENA_SETS if any(map(Path.is_dir, self.places(one)))]
                self.data_name = there[0] if len(there) == 1 else ARENA_SETS[0]
        self.negative = self.negative or f"{Path(self.data_name).name}_neg"
        self.folds = {"train": "train", "val": "val"}
        self.named_size, self.own_input_size = self.im_size, self.model_input_image_size
        self.im_size = self.im_size or [side, side]
        half = [max(1, round(one / 2)) for one in self.im_size]
        self.model_input_image_size = self.model_input_image_size or [*half, 1]
        self.output_size = [1]  # numbers in a label

    def places(self, data_name: str | None = None) -> list[Path]:
        """Folders that may be the set's, or of that name, in the order they are tried."""
        root, name = self.config.data_root, data_name or self.data_name
        tops = self.arena_tops or [Path(self.contour_dir)]
        return [top / name for top in (*tops, root)] + [root] * (root.name == name)

    def folder(self) -> Path:
        """The set's folder: the first of its places that is there; else, where its name does not
        say a size, the one that an image size of Long Range Arena has in its release.

        Raises:
            UserError: there are several of the last kind.
        """
        root = self.config.data_root
        with refusals(root, "cannot be read"):
            found = [place for place in self.places() if place.is_dir()]
            sizes = {
                top.name: top / self.data_name
                for size in (() if self.arena_tops else ARENA_SETTINGS)
                for top in arena_folders(root, size)
                if (top / self.data_name).is_dir()
            }
        if len(sizes) > 1 and not found:
            raise UserError(
                f"{root}: has {self.data_name} in several sizes ({', '.join(sizes)}); name one: "
                f"--set dataset={next(iter(sizes))}"
            )
        return [*found, *sizes.values(), *self.places()][0]

    def on_disk(self) -> bool:
        """Whether there are images to read."""
        with refusals(self.config.data_root, "cannot be read"):
            return self.folder().is_dir()

    def get_data(self, seed: int = 0) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
        """Image files and labels of both folds.

        Lists both classes, shuffles each, cuts both to the smaller class and to ``max_ims``, joins
        them, shuffles; the first ``cv_split`` of them train, the rest validates.

        Args:
            seed: of the shuffles; the same seed gives the same split on every machine.

        Returns:
            {'train': files, 'val': files} and {'train': labels, 'val': labels}, labels int64, 1
            where both discs sit on one snake.

        Raises:
            UserError: the images or their metadata are missing or cannot be used, the labels are
                in doubt, or a fold would be empty.
        """

        def order(items: list) -> list:
            return [items[i] for i in random.permutation(len(items))] if self.shuffle else items

        random = np.random.default_rng(seed)
        folder = self.folder()
        classes = list_images(folder, folder.with_name(self.negative), self.meta)
        shuffled = [order(files) for files in classes]
        counts = [len(files) for files in classes]
        keep = self.max_ims or max(counts)
        if self.balance and keep > min(counts):
            keep = min(counts)
            if out_of_balance(counts[0], sum(counts)):
                warnings.warn(
                    f"{folder}: {counts[0]} images of label 1 and {counts[1]} of label 0; {keep} "
                    "of each are used, as balance in the set's class says",
                    stacklevel=2,
                )
        both = zip((1, 0), shuffled, strict=True)
        pairs = order([(file, label) for label, own in both for file in own[:keep]])
        cut = round(self.cv_split * len(pairs))
        files, labels = {}, {}
        for fold, images in (("train", pairs[:cut]), ("val", pairs[cut:])):
            if not images:
                raise UserError(
                    f"{folder}: {len(pairs)} images ({len(classes[0])} of label 1 and "
                    f"{len(classes[1])} of label 0 listed) leave none for {fold!r} at "
                    f"cv_split {self.cv_split}"
                )
            files[fold] = [file for file, _ in images]
            labels[fold] = np.array([label for _, label in images])
        return files, labels

    def missing(self) -> MissingError:
        """What to say where it has no data: where that was looked for, and what was found near."""
        name, config = self.name, self.config
        near = list(dict.fromkeys([*self.near(), *near_records(config)]))
        found = f" Found nearby: {', '.join(map(str, near[:6]))}." if near else ""
        return MissingError(
            f"no data for {name!r}: no images in {' or '.join(map(str, self.places()))} and no "
            f"records {name}_train.tfrecords (or {name}_train-00000-of-00004.tfrecords …) in "
            f"{config.tf_records}.{found} Put images there and run 'python -m "
            f"dataset_processing.encode --dataset {name}', or make some with 'python -m "
            f"dataset_processing.generate --dataset {name}'"
        )

    def near(self) -> list[Path]:
        """Records and folders that look like the set's, near where they are looked for."""
        records = near_records(self.config)
        own = [one for one in records if self.name in one.name or self.data_name in str(one)]
        return [*own, *self.near_images()]

    def near_images(self) -> list[Path]:
        """Folders that look like the set's, near where it is looked for."""
        root, name = self.config.data_root, self.data_name
        tops = [root, root.parent, *sorted(root.glob("*")), *sorted(root.glob(f"{RELEASE}/*"))]
        found = [one for top in tops for one in (top / name, top / RELEASE / name, top)]
        others = [path for path in dict.fromkeys(found) if path not in self.places()]
        named = [path for path in others if path.name.lower().startswith(name.lower())]
        return [path for path in named if path.is_dir()]


def out_of_balance(ones: int, count: int) -> bool:
    """Whether so many labels 1 of a count are more than 5 standard deviations from half of it."""
    return abs(ones - count / 2) > 5 * math.sqrt(count) / 2


def check_class(own: type[PathfinderSet], module: str) -> None:
    """UserError where what a module gives for its set is no class of a set, has an attribute that
    none has, or a value that cannot be, or is called otherwise than the module."""
    where = f"{Path(__file__).parent / module}.py"
    if not (isinstance(own, type) and issubclass(own, PathfinderSet)):
        raise UserError(
            f"{where}: data_processing must be a class of PathfinderSet, as in "
            f"curv_contour_length_14_full.py; found {own!r}"
        )
    parts = own.__mro__[: own.__mro__.index(PathfinderSet)]
    written = {key: value for part in reversed(parts) for key, value in vars(part).items()}
    for key, value in {"name": None, "data_name": None, **written}.items():
        if key.startswith("_") or hasattr(value, "__get__"):  # Python's own, a method
            continue
        if key not in ATTRIBUTES:
            raise unknown(f"{where}: attribute", key, ATTRIBUTES)
        ATTRIBUTES[key].of(f"{where}: {key}", value)
    if own.negative == own.data_name:
        raise UserError(
            f"{where}: negative is the folder of the positives too, {own.negative!r}; leave it out "
            "where one folder holds both classes"
        )
    if own.name != module:
        raise UserError(f"{where}: name must be the file's, {module!r}; found {own.name!r}")


def near_records(config: Config) -> list[Path]:
    """Files that look like records, where they are read and a folder up or down."""
    project, records = config.project_directory, config.tf_records
    folders = [records, *sorted(records.glob("*")), project, project.parent]
    folders += [project.parent / "tf_records", config.data_root]
    found = [
        path for folder in dict.fromkeys(folders) for path in sorted(folder.glob("*tfrecord*"))
    ]
    return [path for path in found if path.is_file() and path.suffix not in NO_RECORDS]


def arena_folders(root: Path, size: str) -> list[Path]:
    """Where Long Range Arena's folder ``pathfinder<size>`` may lie under a data root."""
    return [root / inside / size for inside in ("", "lra_release", "lra_release/lra_release")]
