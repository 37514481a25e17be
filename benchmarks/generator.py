"""How fast Pathfinder images are made:  python -m benchmarks.generator

For each contour length, in alternating rounds within one run:

- the compiled generator against `tests.oracles.pathfinder`, the same rules with
  whole-window dilations for each paddle in numpy and Pillow, on the same images (checked equal);
- the compiled generator on one worker process against two.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool

import numba
import numpy as np

from dataset_processing.pathfinder import Pathfinder, Settings
from support import shell
from support.progress import Progress
from tests.oracles.pathfinder import Reference

BLOCK = 64  # images of a task


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison and prints two tables."""
    options = parser().parse_args(arguments)
    print(f"{machine()}; {options.rounds} rounds, seed {options.seed}")
    generators = {
        length: Pathfinder(Settings(contour_length=length), options.seed)
        for length in options.lengths
    }
    compile_seconds = seconds(partial(generators[options.lengths[0]].images, [0]))
    print(
        f"first image (compiling, or loading what was compiled before): {compile_seconds:.1f} s\n"
    )
    print("compiled against plain reference, the same images, one process")
    print(f"{'length':>6}{'compiled ms':>13}{'reference ms':>14}{'ratio':>8}   lowest to highest")
    for length, generator in generators.items():
        print(against_reference(length, generator, options))
    print("\ncompiled, on worker processes")
    print(f"{'length':>6}{'1 worker':>12}{'2 workers':>12}  images/s   share of linear")
    context = get_context("fork")
    with context.Pool(1) as one, context.Pool(2) as two:
        for length, generator in generators.items():
            print(on_workers(length, generator, one, two, options))


def against_reference(length: int, generator: Pathfinder, options: argparse.Namespace) -> str:
    """One line: both times for an image and their ratio."""
    reference = Reference(generator)
    ours, theirs = [], []
    with Progress(total=options.rounds, unit="round", desc=f"reference, {length}") as bar:
        for number in range(options.rounds):
            indices = range(number * options.images, (number + 1) * options.images)
            pictures: list[np.ndarray] = []
            theirs.append(seconds(partial(draw_all, reference, indices, pictures)))
            again = [seconds(partial(generator.images, indices)) for _ in range(20)]
            ours.append(statistics.median(again[1:]))  # the first still loads its tables
            if not np.array_equal(generator.images(indices)[0], np.stack(pictures)):
                raise RuntimeError(f"length {length}: the reference made other images")
            bar.update()
    ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    per_image = [1000 * statistics.median(times) / options.images for times in (ours, theirs)]
    return (
        f"{length:>6}{per_image[0]:13.3f}{per_image[1]:14.1f}{statistics.median(ratios):8.0f}"
        f"   {min(ratios):.0f} to {max(ratios):.0f}"
    )


def draw_all(reference: Reference, indices: range, pictures: list[np.ndarray]) -> None:
    """The reference's images, appended to ``pictures``."""
    pictures.extend(reference.image(index)[0] for index in indices)


def on_workers(
    length: int, generator: Pathfinder, one: Pool, two: Pool, options: argparse.Namespace
) -> str:
    """One line: images a second on one and on two processes."""
    blocks = [range(start, start + BLOCK) for start in range(0, options.many, BLOCK)]
    work = partial(make, generator)
    for pool in (one, two):
        pool.map(work, blocks[:4])
    singles, doubles = [], []
    for _ in range(options.rounds):
        singles.append(seconds(partial(pool_run, one, work, blocks)))
        doubles.append(seconds(partial(pool_run, two, work, blocks)))
    shares = [single / double / 2 for single, double in zip(singles, doubles, strict=True)]
    rates = [len(blocks) * BLOCK / statistics.median(times) for times in (singles, doubles)]
    return (
        f"{length:>6}{rates[0]:12.0f}{rates[1]:12.0f}{'':12}"
        f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
    )


def make(generator: Pathfinder, indices: range) -> int:
    """Makes a block of images; how many."""
    return len(generator.images(indices)[0])


def pool_run(pool: Pool, work: Callable[[range], int], blocks: list[range]) -> None:
    """All blocks, on a pool."""
    pool.map(work, blocks, chunksize=1)


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> str:
    """What this ran on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        name += " (model not told)"
    cores = len(os.sched_getaffinity(0))
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    versions = f"Python {platform.python_version()}, numba {numba.__version__}"
    return f"{name}, {cores} cores, {load}; {versions}"


def parser() -> shell.Parser:
    """The command's options."""
    result = shell.Parser("generator", __doc__, package="benchmarks")
    result.add_argument("--lengths", type=int, nargs="+", default=[6, 9, 14, 25])
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--images", type=int, default=4, help="a round, against the reference (4)")
    result.add_argument("--many", type=int, default=2048, help="a round, on workers (2048)")
    result.add_argument("--seed", type=int, default=0)
    return result


if __name__ == "__main__":
    shell.run_command(main)
