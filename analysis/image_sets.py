"""Images to evaluate on: records, image folders in any layout, or generated ones of any length."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from config import Config
from dataset_processing import data_sets, generator_settings, open_path, open_set
from dataset_processing.folds import GeneratedFold
from dataset_processing.pathfinder import Settings
from dataset_processing.pathfinder.templates import disc
from dataset_processing.sets import rescales
from support.errors import MissingError, UserError

GENERATED = re.compile(r"pathfinder_(\d+)")
OWN = "own"  # images generated as those that a run trained on
MARKER_CORE = 2  # radius, in pixels, of a disc that fits into a marker and into no paddle
MARKER_RADIUS = 5  # of the largest marker


def open_images(
    name: str,
    config: Config,
    params: dict[str, Any],
    count: int,
    seed: int = 0,
    fold: str = "val",
    on_bad_record: str = "error",
) -> Any:
    """A set of images with labels, as :meth:`dataset_processing.DataSet.fold` gives.

    Args:
        name: ``pathfinder_<length>``: ``count`` images generated for the purpose, of any contour
            length; ``own``: the same, of the settings that the run trained on; or a data set or
            stream by name (its validation fold unless ``fold`` says otherwise); or the path of a
            .tfrecords file, or of a folder in the layout of 2018 (the folder of the positives),
            2020 or 2025, all of whose images are taken. UserError where there is none.
        config, params: the paths, and the run's parameters (a stream's settings are among them).
        count, seed: of generated images.
        fold: 'train' or 'val', of a data set or stream; UserError for 'train' of another set.
        on_bad_record: see :func:`dataset_processing.open_set`.
    """
    match = GENERATED.fullmatch(name)
    path = name not in data_sets() and Path(name).exists()
    if fold == "train" and (match or name == OWN or path):
        what = "all of them are evaluated" if path else "they are generated anew"
        raise UserError(
            f"--fold train: the images of {name} have no training fold, {what}; name a data set or "
            "a stream"
        )
    if match or name == OWN:
        own = None if match else generator_settings(str(params["dataset"]), params)
        settings = Settings(contour_length=int(match[1])) if match else own
        if settings is None:
            raise UserError(f"the settings of {params['dataset']} are not known: name another set")
        return GeneratedFold(name, "test", settings, seed, count)
    if path:
        names = params.get("val_augmentations")
        return open_path(Path(name), meant=names is not None and not rescales(names))
    if "/" in name or name.endswith(".tfrecords"):
        raise MissingError(f"{name}: no such file or folder")
    # Another set may be of another size than the run's own, and a stream is of its name's length.
    drawn = dict(params.get("stream_settings") or {})
    if name != params.get("dataset"):
        drawn.pop("contour_length", None)
    other = {**params, "im_size": None, "stream_settings": drawn}
    return open_set(name, config, other, on_bad_record).fold(fold)


def example_set(params: dict[str, Any]) -> str:
    """Where examples for a run's figures come from: images like its own, with masks if possible."""
    dataset = str(params["dataset"])
    return OWN if generator_settings(dataset, params) is not None else dataset


def title(name: str, fold: str = "val") -> str:
    """A set's name for figures and tables, without its path; of its training fold, with that."""
    told = Path(name).stem if "/" in name else name
    return told if fold == "val" else f"{told} (training images)"


def marker_distance(images: Tensor) -> np.ndarray:
    """Distance between the two discs of Pathfinder images (N, H, W), 0–255, on any device, found in
    the images themselves: (N,) pixels; not a number where there are not two discs.

    What is left of the pixels above 127 after erosion by a disc of radius 2 belongs to the discs.
    """
    lit = functional.pad(images > 127, [MARKER_CORE] * 4)
    height, width = images.shape[1:]
    cores = torch.ones_like(images, dtype=torch.bool)
    for top, left in np.argwhere(disc(MARKER_CORE)):
        cores &= lit[:, top : top + height, left : left + width]
    found = cores.nonzero().cpu().numpy()
    ends = np.searchsorted(found[:, 0], np.arange(1, len(images)))
    return np.array([_distance(points[:, 1:]) for points in np.split(found, ends)])


def _distance(points: np.ndarray) -> float:
    """Distance of the centres of the two discs that points (n, 2) are of."""
    if not len(points):
        return math.nan
    at = tuple((points - points.min(axis=0)).T)
    mask = np.zeros([side.max() + 1 for side in at], bool)
    mask[at] = True
    discs, count = ndimage.label(mask, np.ones((3, 3)))
    parts = [points[discs[at] == 1], points[discs[at] == 2]]
    if count != 2 or max(np.ptp(part, axis=0).max() + 1 for part in parts) > 2 * MARKER_RADIUS:
        return math.nan
    return float(np.linalg.norm(parts[0].mean(axis=0) - parts[1].mean(axis=0)))
