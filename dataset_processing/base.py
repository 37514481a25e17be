"""What the Pathfinder sets on disk share: their settings, where they lie, how they are split."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from config import Config
from dataset_processing.layouts import list_images
from support.errors import UserError, refusals

ARENA = ("pathfinder32", "pathfinder64", "pathfinder128", "pathfinder256")
ARENA_SETS = ("curv_contour_length_14", "curv_contour_length_9", "curv_baseline")


class PathfinderSet:
    """A Pathfinder set on disk, as the 2018 release describes one.

    Args:
        config: the paths; None reads the project's.
        name: of a set that has no class of its own; its folder is ``name`` without ``_full``.
        side: of its images as released, in pixels.
    """

    name: str  # in ``experiment_params`` and of its record files
    data_name: str  # of its folder
    named_size: list[int] | None = None  # (H, W) that its name says, not its images
    max_ims: int | None = 125000  # images kept of each class; 0 or None keeps all
    balance = True  # cut both classes to the smaller one
    shuffle = True  # before the split and after
    cv_split = 0.9  # share of the images that train; the rest validates
    meta = "metadata/combined.npy"  # in a class's folder (layout of 2018)
    score_metric = "accuracy"  # that the release reports
    default_loss_function = "cce"  # that it trains by

    def __init__(
        self, config: Config | None = None, name: str | None = None, side: int = 300
    ) -> None:
        self.config = config or Config()
        if name is not None:
            self.name, self.data_name = name, name.removesuffix("_full")
        self.negative = f"{self.data_name}_neg"  # folder of its negatives (layout of 2018)
        self.contour_dir = self.config.data_root / "curvy_2snakes_300"  # holds both folders
        self.folds = {"train": "train", "val": "val"}
        self.im_size = [side, side]  # as released; the images that are read say their own
        self.model_input_image_size = [side // 2, side // 2, 1]  # that the networks are given
        self.output_size = [1]  # numbers in a label

    def places(self) -> list[Path]:
        """Folders that may be the set's, in the order they are tried."""
        return places(self.config.data_root, [Path(self.contour_dir)], self.data_name)

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
                for size in (ARENA if self.named_size is None else ())
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
        keep = self.max_ims or max(map(len, classes))
        if self.balance:
            keep = min(keep, *map(len, classes))
        pairs = [(file, label) for label in (1, 0) for file in shuffled[1 - label][:keep]]
        pairs = order(pairs)
        cut = round(self.cv_split * len(pairs))
        files, labels = {}, {}
        for fold, images in (("train", pairs[:cut]), ("val", pairs[cut:])):
            if not images:
                raise UserError(
                    f"{folder}: {len(pairs)} images ({len(classes[0])} of label 1 and "
                    f"{len(classes[1])} of label 0 listed) leave none for {fold!r} at "
                    f"cv_split {self.cv_split}"
                )
            files[self.folds[fold]] = [file for file, _ in images]
            labels[self.folds[fold]] = np.array([label for _, label in images])
        return files, labels


class ArenaSet(PathfinderSet):
    """A set of Long Range Arena's release: ``pathfinder<size>/<data_name>``.

    The data root may be the release's folder, ``pathfinder<size>`` or the set's folder.

    Args:
        name: ``pathfinder32`` (64, 128, 256), or with the set: ``pathfinder32_curv_baseline``.
            Without it the set is ``curv_contour_length_14``, which the benchmark reports, or the
            only one that is there.
        config: the paths; None reads the project's.
    """

    def __init__(self, name: str, config: Config | None = None) -> None:
        self.name, (size, _, self.data_name) = name, name.partition("_")
        config = config or Config()
        root = config.data_root
        self.tops = arena_folders(root, size)
        if not self.data_name:
            with refusals(root, "cannot be read"):
                there = [
                    one for one in ARENA_SETS if any(map(Path.is_dir, places(root, self.tops, one)))
                ]
            self.data_name = there[0] if len(there) == 1 else ARENA_SETS[0]
        super().__init__(config, side=int(size.removeprefix("pathfinder")))
        self.named_size = self.im_size

    def places(self) -> list[Path]:
        return places(self.config.data_root, self.tops, self.data_name)


def places(root: Path, tops: Iterable[Path], data_name: str) -> list[Path]:
    """Folders that may be a set's: in ``tops``, in the data root, or the data root itself."""
    return [top / data_name for top in (*tops, root)] + [root] * (root.name == data_name)


def arena_folders(root: Path, size: str) -> list[Path]:
    """Where Long Range Arena's folder ``pathfinder<size>`` may lie under a data root."""
    return [root / inside / size for inside in ("", "lra_release", "lra_release/lra_release")]


def is_arena(name: str) -> bool:
    """Whether a name means a set of Long Range Arena."""
    return re.fullmatch(f"({'|'.join(ARENA)})(_({'|'.join(ARENA_SETS)}))?", name) is not None
