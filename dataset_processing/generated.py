"""Generated sets: those that have a name, and the file that describes one on disk."""

import json
from pathlib import Path
from typing import Any

from dataset_processing.images import read_bytes
from support.errors import UserError

# A set that hgru.py learns on two cores in minutes.
SMALL_SET = "curv_contour_length_3_small"
# What the generator is told for sets that have a name.
GENERATED: dict[str, dict[str, Any]] = {
    "curv_baseline_full": {"contour_length": 6},
    **{f"curv_contour_length_{n}_full": {"contour_length": n} for n in (9, 14, 18, 20, 25)},
    SMALL_SET: {
        "contour_length": 3,
        "window": 64,
        "border": 4,
        "seed_distance": 12,
        "marker_radius": 3,
        "distractors": 2,
    },
}


def read_description(path: Path) -> dict[str, Any]:
    """What a set's description file holds; UserError if it is damaged."""
    try:
        found = json.loads(read_bytes(path))
        if isinstance(found["count"], int):
            return dict(found)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
    raise UserError(f"{path}: not the description of a generated set; move it away with its files")
