"""Images to evaluate on: records, image folders in any layout, or generated ones of any length."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from dataset_processing import data_sets, open_dataset
from dataset_processing.base import PathfinderSet
from dataset_processing.datasets import ImageDataset, RecordDataset
from dataset_processing.generate import SETS
from dataset_processing.layouts import list_images
from dataset_processing.pathfinder import Pathfinder, Settings, Stimulus
from dataset_processing.records import read_png
from support.errors import unknown

GENERATED = re.compile(r"pathfinder_(\d+)")
OWN = "own"  # images generated as those that a run trained on
FIRST = 2**62 + 2**61  # generated test images: beyond any that a stream trains or validates on
MARKER_CORE = 2  # radius, in pixels, of a disc that fits into a marker and into no paddle
MARKER_RADIUS = 5  # of the largest marker


class GeneratedSet:
    """Pathfinder images that no training has seen, made when they are read.

    Args:
        settings: of the images.
        count: number of images.
        seed: of the images.
    """

    def __init__(self, settings: Settings, count: int, seed: int = 0) -> None:
        self.pathfinder = Pathfinder(settings, seed)
        self.count = count
        self.pathfinder.images([FIRST])  # compiles the kernel once, before workers are started

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.pathfinder.image(FIRST + index % self.count)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        images, labels = self.pathfinder.images([FIRST + i % self.count for i in indices])
        return list(zip(images, labels.tolist(), strict=True))

    def stimulus(self, index: int) -> Stimulus:
        """One image with what it is made of: masks, paddles, markers."""
        return self.pathfinder.stimulus(FIRST + index % self.count)

    def name(self, index: int) -> str:
        """An image's name for messages."""
        return f"generated image {index % self.count}"

    def fingerprint(self) -> str:
        """A hash of settings, seed and number."""
        settings = self.pathfinder.settings
        return f"{settings.fingerprint()[:16]}-{self.pathfinder.seed}-{self.count}"

    def describe(self) -> str:
        """One line: what it is."""
        length = self.pathfinder.settings.contour_length
        return f"{self.count} generated images of length {length}, seed {self.pathfinder.seed}"


def open_images(
    name: str, config: Config, params: dict[str, Any], count: int, seed: int = 0, fold: str = "val"
) -> Any:
    """A set of images with labels.

    Args:
        name: ``pathfinder_<length>``: ``count`` images generated for the purpose, of any contour
            length; ``own``: the same, of the settings that the run trained on; or a data set or
            stream by name (its validation fold unless ``fold`` says otherwise); or the path of a
            .tfrecords file, or of a folder in the layout of 2018 (the folder of the positives),
            2020 or 2025, all of whose images are taken.
        config, params: the paths, and the run's parameters (a stream's settings are among them).
        count, seed: of generated images.
        fold: 'train' or 'val', of a data set or stream.

    Returns:
        A data set as :func:`dataset_processing.open_dataset` gives.

    Raises:
        ValueError, FileNotFoundError: there is no such set, or it cannot be read.
    """
    match = GENERATED.fullmatch(name)
    if match:
        return GeneratedSet(Settings(contour_length=int(match[1])), count, seed)
    if name == OWN:
        settings = own_settings(params)
        if settings is None:
            raise ValueError(f"the settings of {params['dataset']} are not known: name another set")
        return GeneratedSet(settings, count, seed)
    if name in data_sets() or name.endswith("_stream"):
        return open_dataset(name, fold, config, params)
    path = Path(name)
    if path.is_file():
        return RecordDataset(path.stem, [path], None)
    if path.is_dir():
        positives, negatives = list_images(
            path, path.with_name(f"{path.name}_neg"), PathfinderSet.meta
        )
        labels = np.array([1] * len(positives) + [0] * len(negatives))
        size = read_png(Path((positives + negatives)[0])).shape
        return ImageDataset(path.name, positives + negatives, labels, size)
    if "/" in name or name.endswith(".tfrecords"):
        raise FileNotFoundError(f"{name}: no such file or folder")
    generated = ["pathfinder_<length>", "pathfinder_<length>_stream", OWN]
    raise unknown("data set", name, [*generated, *data_sets()])


def own_settings(params: dict[str, Any]) -> Settings | None:
    """The generator's settings of the set that a run trained on; None where they are not known."""
    name = str(params["dataset"])
    if name in SETS:
        return Settings(**SETS[name])
    if name.endswith("_stream"):
        return Settings(
            **{"contour_length": contour_length(name), **(params.get("stream_settings") or {})}
        )
    return None


def example_set(params: dict[str, Any]) -> str:
    """Where examples for a run's figures come from: images like its own, with masks if possible."""
    return OWN if own_settings(params) is not None else str(params["dataset"])


def title(name: str) -> str:
    """A set's name for figures and tables, without its path."""
    return Path(name).stem if "/" in name else name


def contour_length(name: str) -> int | None:
    """Paddles in a target snake, where a set's name tells."""
    if name.startswith("curv_baseline"):
        return 6
    match = re.match(r"(?:pathfinder|curv_contour_length)_(\d+)", name)
    return int(match[1]) if match else None


def marker_distance(images: np.ndarray) -> np.ndarray:
    """Distance between the two discs of Pathfinder images, found in the images themselves.

    What is left of the pixels above 127 after erosion by a disc of radius 2 belongs to the discs;
    their centres are the means of its two clusters.

    Args:
        images: (N, H, W), 0–255.

    Returns:
        (N,) pixels; not a number where there are not two discs.
    """
    return np.array([_distance(_marker_cores(image > 127)) for image in np.asarray(images)])


def _marker_cores(lit: np.ndarray) -> np.ndarray:
    """Pixels (m, 2) of a mask (H, W) that a disc of lit pixels surrounds: an erosion."""
    r = MARKER_CORE
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    disc = np.argwhere(x * x + y * y <= r * r)
    padded = np.pad(lit, r)
    places = np.argwhere(lit)[:, None] + disc  # in the padded mask
    return np.argwhere(lit)[padded[places[..., 0], places[..., 1]].all(1)]


def _distance(pixels: np.ndarray) -> float:
    """Distance of the centres of two clusters of pixels (m, 2)."""
    if not len(pixels):
        return math.nan
    from_first = np.linalg.norm(pixels - pixels[0], axis=1)
    other = pixels[from_first.argmax()]
    nearer = from_first > np.linalg.norm(pixels - other, axis=1)
    clusters = pixels[~nearer], pixels[nearer]
    if not len(clusters[1]):
        return math.nan
    centres = [cluster.mean(0) for cluster in clusters]
    spread = max(
        np.linalg.norm(cluster - centre, axis=1).max()
        for cluster, centre in zip(clusters, centres, strict=True)
    )
    apart = float(np.linalg.norm(centres[0] - centres[1]))
    if spread > MARKER_RADIUS or apart < MARKER_RADIUS:  # more than two discs, or one
        return math.nan
    return apart
