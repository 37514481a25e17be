"""What Pathfinder images measure, beside the published generator's.

    python -m benchmarks.pathfinder_statistics --count 1000 --workers 2

``pathfinder_statistics.json`` holds means, spreads and numbers of 1,000 images that the published
generator made of each length. Lit pixels are those over half the full brightness (127); components
are 8-connected; markers are what an erosion by a disc of radius 3 leaves.
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, stats

from dataset_processing.pathfinder import Pathfinder, Settings
from dataset_processing.pathfinder.templates import disc
from dataset_processing.workers import processes
from support import shell
from support.progress import Progress
from support.tables import text_table

PUBLISHED = Path(__file__).with_name("pathfinder_statistics.json")
ROUNDING = 1e-4 / math.sqrt(12)  # the published numbers have four decimals


def table(count: int, seed: int, workers: int) -> str:
    """A table of all quantities for the lengths 6, 9 and 14: ours, the published, and by how many
    standard errors they differ."""
    rows = []
    for length, reference in json.loads(PUBLISHED.read_text(encoding="utf-8")).items():
        found = measure(int(length), count, seed, workers)
        for name, *numbers in compare(found, reference):
            ours, our_error, theirs, their_error = numbers
            heads = "ours", "± s.e.", "published", "its s.e."
            row = {"length": length, "quantity": name}
            row |= {head: f"{value:.4f}" for head, value in zip(heads, numbers, strict=True)}
            z = (ours - theirs) / math.hypot(our_error, their_error)
            rows.append({**row, "z": f"{z:.2f}"})
    head = f"{count} images of each length, seed {seed}; z: difference in standard errors"
    return f"{head}\n{text_table(rows)}"


def measure(length: int, count: int, seed: int, workers: int = 1) -> dict[str, np.ndarray]:
    """The quantities of each of ``count`` images, by name, (count,) each; nan where undefined."""
    generator = Pathfinder(Settings(contour_length=length), seed)
    generator.images([])
    work = partial(measure_image, generator)
    with processes("measurements", workers) as over:
        measured = over(work, range(count))
        rows = list(Progress(measured, total=count, desc=f"measuring length {length}"))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def measure_image(generator: Pathfinder, index: int) -> dict[str, float]:
    """The quantities of one image."""
    (image,), (label,) = generator.images([index])
    lit = image > 127
    row, col = np.nonzero(lit)
    left, markers = ndimage.label(ndimage.binary_erosion(lit, disc(3)), np.ones((3, 3)))
    distance = math.nan
    if markers == 2:
        one, two = ndimage.center_of_mass(left > 0, left, [1, 2])
        distance = math.dist(one, two)
    return {
        "label": int(label),
        "mean intensity": float(image.mean()),
        "lit fraction": float(lit.mean()),
        "components": ndimage.label(lit, np.ones((3, 3)))[1],
        "row spread of lit pixels": float(row.std()),
        "column spread of lit pixels": float(col.std()),
        "two markers found": float(markers == 2),
        "marker distance, label 1": distance if label else math.nan,
        "marker distance, label 0": math.nan if label else distance,
        "full brightness": float((image == 255).sum() / (image > 0).sum()),
    }


def compare(
    found: dict[str, np.ndarray], reference: dict[str, Any]
) -> list[tuple[str, float, float, float, float]]:
    """Rows of (quantity, ours, its standard error, published, its standard error).

    A published spread's error is taken from the shape of our distribution.
    """
    n, positive, label = reference["n"], reference["positive fraction"], found["label"]
    error = math.sqrt(positive * (1 - positive) / n)
    rows = [("positive fraction", float(label.mean()), stats.sem(label), positive, error)]
    for name, (mean, spread, number) in reference["means, spreads and numbers"].items():
        values = found[name][np.isfinite(found[name])]
        their_error = math.hypot(spread / math.sqrt(number), ROUNDING)
        rows.append((name, float(values.mean()), stats.sem(values), mean, their_error))
        # A standard deviation's standard error, as a share of it, from the fourth moment.
        shape = math.sqrt((stats.kurtosis(values, fisher=False) - 1) / 4)
        our_error = shape * values.std() / math.sqrt(len(values))
        their_error = math.hypot(shape * spread / math.sqrt(number), ROUNDING)
        rows.append((f"{name}, s.d.", float(values.std()), our_error, spread, their_error))
    for name, mean in reference["means"].items():
        error = stats.sem(found[name])
        their_error = math.hypot(error * math.sqrt(len(found[name]) / n), ROUNDING)
        rows.append((name, float(found[name].mean()), error, mean, their_error))
    two, published = found["two markers found"], reference["two markers found"]
    return [*rows, ("two markers found", float(two.mean()), 1 / len(two), published, 1 / n)]


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("pathfinder_statistics", __doc__, package="benchmarks")
    parse.add_argument("--count", type=shell.whole(100), default=1000, help="images of each length")
    parse.add_argument("--seed", type=shell.whole(0), default=0, help="of the images")
    parse.add_argument("--workers", type=shell.whole(1), default=1, help="processes")
    options = parse.parse_args(arguments)
    print(table(options.count, options.seed, options.workers))


if __name__ == "__main__":
    shell.run_command(main)
