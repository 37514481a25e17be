"""What the Pathfinder sets on disk share: their settings, and their split into train and val."""

import re
from pathlib import Path

import numpy as np

from config import Config
from dataset_processing.layouts import list_images
from support.errors import UserError, refusals

ARENA = ("pathfinder32", "pathfinder64", "pathfinder128", "pathfinder256")
ARENA_SETS = ("curv_contour_length_14", "curv_contour_length_9", "curv_baseline")


class PathfinderSet:
    """A Pathfinder set on disk, as the 2018 release describes one.

    Attributes:
        name: the set's name in ``experiment_params`` and of its record files.
        data_name, negative: its folder, and the folder of its negatives (layout of 2018).
        contour_dir: the folder that holds these two.
        im_size: (H, W) of its images as released, in pixels. The images that are read say
            themselves how large they are.
        model_input_image_size: (H, W, channels) that the networks are given of these.
        max_ims: images kept of each class; 0 or None keeps all.
        output_size: numbers in a label.
        balance: cut both classes to the smaller one.
        shuffle: shuffle before the split and after.
        cv_split: share of the images that train; the rest validates.
        folds: names of the folds.
        meta: the metadata file in a class's folder (layout of 2018).
        score_metric, default_loss_function: what the release reports and trains by.

    Args:
        config: the paths; None reads the project's.
        name: of a set that has no class of its own; its folder is ``name`` without ``_full``.
    """

    name: str
    data_name: str
    named_size: list[int] | None = None  # (H, W) that its name says, not its images
    max_ims: int | None = 125000
    balance = True
    shuffle = True
    cv_split = 0.9
    meta = "metadata/combined.npy"
    score_metric = "accuracy"
    default_loss_function = "cce"

    def __init__(self, config: Config | None = None, name: str | None = None) -> None:
        self.config = config or Config()
        if name is not None:
            self.name, self.data_name = name, name.removesuffix("_full")
        self.negative = f"{self.data_name}_neg"
        self.contour_dir = self.config.data_root / "curvy_2snakes_300"
        self.folds = {"train": "train", "val": "val"}
        self.im_size = [300, 300]
        self.model_input_image_size = [150, 150, 1]
        self.output_size = [1]

    def places(self) -> list[Path]:
        """Folders that may be the set's, in the order they are tried."""
        root = self.config.data_root
        inside = [Path(self.contour_dir) / self.data_name, root / self.data_name]
        return inside + [root] * (root.name == self.data_name)

    def folder(self) -> Path:
        """The set's folder: in ``contour_dir``, in the data root, or the data root itself; else
        the one that an image size of Long Range Arena has in its release.

        Raises:
            UserError: there are several of the last kind.
        """
        root = self.config.data_root
        with refusals(root, "cannot be read"):
            for place in self.places():
                if place.is_dir():
                    return place
            found = [
                s for s in ARENA for top in arena_roots(root) if (top / s / self.data_name).is_dir()
            ]
        if len(found) > 1:
            raise UserError(
                f"{root}: has {self.data_name} in several sizes ({', '.join(found)}); name one: "
                f"--set dataset={found[0]}"
            )
        if found:
            return ArenaSet(found[0], self.config, self.data_name).folder()
        return self.places()[0]

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
            MissingError: the images or their metadata are missing.
            UserError: the metadata cannot be used, its labels are in doubt, or a fold would be
                empty.
        """
        folder = self.folder()
        random = np.random.default_rng(seed)
        classes = list_images(folder, folder.with_name(self.negative), self.meta)
        positives, negatives = (self._order(files, random) for files in classes)
        keep = self.max_ims or max(len(positives), len(negatives))
        if self.balance:
            keep = min(keep, len(positives), len(negatives))
        positives, negatives = positives[:keep], negatives[:keep]
        joined = [(file, 1) for file in positives] + [(file, 0) for file in negatives]
        joined = self._order(joined, random)
        cut = round(self.cv_split * len(joined))
        folds = {self.folds["train"]: joined[:cut], self.folds["val"]: joined[cut:]}
        for fold, images in folds.items():
            if not images:
                raise UserError(
                    f"{folder}: {len(joined)} images ({len(classes[0])} of label 1 and "
                    f"{len(classes[1])} of label 0 listed) leave none for {fold!r} at "
                    f"cv_split {self.cv_split}"
                )
        return (
            {fold: [file for file, _ in images] for fold, images in folds.items()},
            {fold: np.array([label for _, label in images]) for fold, images in folds.items()},
        )

    def _order(self, items: list, random: np.random.Generator) -> list:
        """The items shuffled, if this set shuffles."""
        return [items[i] for i in random.permutation(len(items))] if self.shuffle else items


class ArenaSet(PathfinderSet):
    """A set of Long Range Arena's release: ``pathfinder<size>/<data_name>``.

    The data root may be the release's folder, ``pathfinder<size>`` or the set's folder.

    Args:
        name: ``pathfinder32`` (64, 128, 256), or with the set: ``pathfinder32_curv_baseline``.
        config: the paths; None reads the project's.
        data_name: the set; None: the one in the name, else ``curv_contour_length_14``, which the
            benchmark reports, else the only one that is there.
    """

    def __init__(
        self, name: str, config: Config | None = None, data_name: str | None = None
    ) -> None:
        self.name, (self.size, _, named) = name, name.partition("_")
        self.config = config or Config()
        self.data_name = data_name or named or ARENA_SETS[0]
        if not (data_name or named):
            there = [one for one in ARENA_SETS if any(p.is_dir() for p in self._places(one))]
            self.data_name = there[0] if len(there) == 1 else ARENA_SETS[0]
        super().__init__(self.config)
        side = int(self.size.removeprefix("pathfinder"))
        self.im_size = self.named_size = [side, side]
        self.model_input_image_size = [side // 2, side // 2, 1]

    def _places(self, data_name: str) -> list[Path]:
        root = self.config.data_root
        places = [top / self.size / data_name for top in arena_roots(root)] + [root / data_name]
        return places + [root] * (root.name == data_name)

    def places(self) -> list[Path]:
        return self._places(self.data_name)

    def folder(self) -> Path:
        there = [place for place in self.places() if place.is_dir()]
        return (there or self.places())[0]


def arena_roots(root: Path) -> list[Path]:
    """Where Long Range Arena's ``pathfinder<size>`` folders may lie under a data root."""
    return [root, root / "lra_release", root / "lra_release" / "lra_release"]


def is_arena(name: str) -> bool:
    """Whether a name means a set of Long Range Arena."""
    return re.fullmatch(f"({'|'.join(ARENA)})(_({'|'.join(ARENA_SETS)}))?", name) is not None
