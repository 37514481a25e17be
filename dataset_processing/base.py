"""What the three Pathfinder sets share: their settings, and their split into train and val."""

from pathlib import Path

import numpy as np

from config import Config
from dataset_processing.layouts import list_images


class PathfinderSet:
    """A Pathfinder set on disk, as the 2018 release describes one.

    Attributes:
        name: the set's name in ``experiment_params`` and of its record files.
        data_name, negative: its folder, and the folder of its negatives (layout of 2018).
        contour_dir: the folder that holds these two.
        im_size: (H, W) of its images, in pixels.
        model_input_image_size: (H, W, channels) that the networks are given.
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
    """

    name: str
    data_name: str
    max_ims: int | None = 125000
    balance = True
    shuffle = True
    cv_split = 0.9
    meta = "metadata/combined.npy"
    score_metric = "accuracy"
    default_loss_function = "cce"

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.negative = f"{self.data_name}_neg"
        self.contour_dir = self.config.data_root / "curvy_2snakes_300"
        self.folds = {"train": "train", "val": "val"}
        self.im_size = [300, 300]
        self.model_input_image_size = [150, 150, 1]
        self.output_size = [1]

    def folder(self) -> Path:
        """The set's folder: in ``contour_dir`` or, where that has none, in the data root itself."""
        inside = Path(self.contour_dir) / self.data_name
        beside = self.config.data_root / self.data_name
        return beside if beside.is_dir() and not inside.is_dir() else inside

    def on_disk(self) -> bool:
        """Whether there are images to read."""
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
            FileNotFoundError: the images or their metadata are missing.
            ValueError: the metadata cannot be used, or a fold would be empty.
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
                raise ValueError(
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
