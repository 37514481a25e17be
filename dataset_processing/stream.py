"""Pathfinder images that are drawn while a network trains: nothing on disk, no image twice.

A stream is named in ``experiment_params``: ``exp['dataset'] = 'pathfinder_14_stream'`` for contours
of 14 paddles. Each epoch shows fresh images; validation always shows the same ones, which are never
trained on.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dataset_processing.pathfinder import Pathfinder, Settings

FIRST_VALIDATION_IMAGE = 2**62  # far beyond what training can reach


class PathfinderStream:
    """One fold of a stream, as a map-style data set.

    Args:
        name: of the stream.
        fold: 'train': an index means the image of that number, however large, so an epoch that
            asks for ``epoch * len + i`` sees fresh images. 'val': a fixed set, indices modulo len.
        settings: of the images.
        seed: of the images.
        count: images an epoch, or images of the validation set.
    """

    def __init__(self, name: str, fold: str, settings: Settings, seed: int, count: int) -> None:
        self.title, self.fold, self.count = name, fold, count
        self.generator = Pathfinder(settings, seed)
        self.generator.images([0])  # compiles the kernel once, before workers are started

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W) uint8 and its label."""
        return self.generator.image(self.image_number(index))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Several at once, which is faster."""
        images, labels = self.generator.images([self.image_number(index) for index in indices])
        return list(zip(images, labels.tolist(), strict=True))

    def image_number(self, index: int) -> int:
        """The generator's number of an image."""
        if self.fold == "val":
            return FIRST_VALIDATION_IMAGE + index % self.count
        return index

    def name(self, index: int) -> str:
        """An image's name for messages."""
        number = self.image_number(index)
        return f"{self.title} {self.fold} image {number} of seed {self.generator.seed}"

    def fingerprint(self) -> str:
        """A short hash of settings, seed, fold and length."""
        generator = self.generator
        text = f"{generator.settings.fingerprint()} {generator.seed} {self.fold} {self.count}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line: what it is."""
        height, width = self.generator.settings.shape
        kind = "fresh images an epoch" if self.fold == "train" else "images, always the same"
        return (
            f"{self.title} {self.fold}: {self.count} {kind}, {height}×{width}, contours of "
            f"{self.generator.settings.contour_length} paddles, seed {self.generator.seed}"
        )


def open_stream(name: str, fold: str, params: Mapping[str, Any]) -> PathfinderStream:
    """A fold of a stream, by name.

    Args:
        name: ``pathfinder_<contour length>_stream``.
        fold: 'train' or 'val'.
        params: ``stream_epoch_images`` (900000), ``stream_val_images`` (10000), ``stream_seed``
            (0) and ``stream_settings`` ({}), which holds any other of
            `dataset_processing.pathfinder.Settings`, for example ``{'continuity': 0.8}``.

    Raises:
        ValueError: the name, a count or a setting cannot be used.
    """
    match = re.fullmatch(r"pathfinder_(\d+)_stream", name)
    if match is None:
        raise ValueError(
            f"dataset {name!r}: a stream is named pathfinder_<contour length>_stream, for example "
            "pathfinder_14_stream"
        )
    key, default = {"train": ("stream_epoch_images", 900000), "val": ("stream_val_images", 10000)}[
        fold
    ]
    count = params.get(key, default)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{key}: a whole number of at least 1 is expected, not {count!r}")
    others = dict(params.get("stream_settings") or {})
    others.setdefault("contour_length", int(match[1]))
    try:
        settings = Settings(**others)
    except TypeError as error:
        raise ValueError(f"stream_settings: {error}") from error
    return PathfinderStream(name, fold, settings, params.get("stream_seed", 0), count)
