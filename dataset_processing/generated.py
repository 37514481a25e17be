"""Sets that have a name: how each is generated, and the file that describes one on disk."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from dataset_processing.images import read_bytes
from support.errors import UserError
from support.kinds import FILE_NAME

ARENA_SETS = ("curv_contour_length_14", "curv_contour_length_9", "curv_baseline")
# A set that hgru.py learns on two cores in minutes. It is easy because the images are small, the
# paddles few and close together, so that the horizontal kernel spans a contour, and because nothing
# distracts.
SMALL_SET = "curv_contour_length_3_small"
# What the generator is told for sets that have a name.
GENERATED: dict[str, dict[str, Any]] = {
    "curv_baseline_full": {"contour_length": 6},
    **{f"curv_contour_length_{n}_full": {"contour_length": n} for n in (9, 14, 18, 20, 25)},
    SMALL_SET: {"contour_length": 3, "window": 40, "border": 2, "paddle_length": 4, "margin": 1,
                "seed_distance": 8, "marker_radius": 2.5, "distractors": 0},
}  # fmt: skip
# Long Range Arena's, by the size of the images, as the release documents them
# (lra_benchmarks/data/pathfinder.py); what it leaves open (no single paddles, the border and the
# seeds' distance at 256) is as the published generator's script has it.
ARENA_SETTINGS: dict[str, dict[str, Any]] = {
    "pathfinder32": {"window": 32, "border": 1, "paddle_length": 2, "paddle_thickness": 0.5,
                     "margin": 1, "continuity": 1.0, "seed_distance": 7, "marker_radius": 1.5,
                     "snake_contrasts": (2.0,), "paddle_contrasts": (0.75,)},
    "pathfinder64": {"window": 64, "border": 1, "paddle_thickness": 1, "margin": 1,
                     "seed_distance": 12, "marker_radius": 2.5, "snake_contrasts": (0.8,)},
    "pathfinder128": {"window": 128, "border": 1, "paddle_thickness": 1.5, "margin": (2, 3),
                      "seed_distance": 20, "marker_radius": 3, "snake_contrasts": (0.9,)},
    "pathfinder256": {"window": 256},
}  # fmt: skip
ARENA_DISTRACTORS = {"pathfinder32": 20, "pathfinder64": 22, "pathfinder128": 35}  # paddles; 30


def is_arena(name: str) -> bool:
    """Whether a name means a set of Long Range Arena."""
    sizes, sets = "|".join(ARENA_SETTINGS), "|".join(ARENA_SETS)
    return re.fullmatch(f"({sizes})(_({sets}))?", name) is not None


def contour_length(name: str) -> int | None:
    """Paddles in a target contour, where a set's name tells."""
    known = r"(pathfinder\d+_)?(curv_baseline|(pathfinder|curv_contour_length)_(?P<length>\d+))"
    match = re.match(known, name)
    return int(match["length"] or 6) if match else None


def check_name(name: str) -> None:
    """UserError where no set on disk can be called so."""
    FILE_NAME.of("dataset", name)
    if name.endswith("_stream"):
        raise UserError(
            f"dataset {name!r}: a name that ends in _stream means images drawn while training; "
            "expected another for a set on disk"
        )


def set_settings(name: str) -> dict[str, Any]:
    """The generator's settings of a set that has a name; none of another."""
    if not is_arena(name):
        return dict(GENERATED.get(name, {}))
    size, length = name.partition("_")[0], contour_length(name) or 14
    distractors = ARENA_DISTRACTORS.get(size, 30) // max(length // 3, 1)
    return {**ARENA_SETTINGS[size], "distractors": distractors, "contour_length": length}


def read_description(path: Path) -> dict[str, Any]:
    """What a set's description file holds; UserError if it is damaged."""
    data = read_bytes(path)
    with suppress(ValueError, TypeError, KeyError):
        found = json.loads(data)
        if isinstance(found["count"], int):
            return dict(found)
    raise UserError(f"{path}: not the description of a generated set; move it away with its files")
