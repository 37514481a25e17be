"""How fast Pathfinder images are made:  python -m benchmarks.generator

For each contour length, in alternating rounds within one run:

- the compiled generator against `tests.oracles.pathfinder`, the same rules with
  whole-window dilations for each paddle in numpy and Pillow, on the same images (checked equal);
- the compiled generator on one worker process against two.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool

import numba
import numpy as np
import torch

from benchmarks.timing import in_turn, processor, ratio, seconds, text
from dataset_processing.pathfinder import Pathfinder, Settings
from support import shell
from support.progress import Progress
from tests.oracles.pathfinder import Reference

BLOCK = 64  # images of a task
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("generator", __doc__, package="benchmarks")
    parse.add_argument("--lengths", type=int, nargs="+", default=[6, 9, 14, 25])
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--images", type=int, default=4, help="a round, against the reference")
    parse.add_argument("--many", type=int, default=2048, help="a round, on workers")
    parse.add_argument("--seed", type=int, default=0)
    options = parse.parse_args(arguments)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{processor()}, {cores} cores, load {load:.1f} at the start, numba {numba.__version__}")
    settings = {length: Settings(contour_length=length) for length in options.lengths}
    generators = {length: Pathfinder(one, options.seed) for length, one in settings.items()}
    first = seconds(partial(generators[options.lengths[0]].images, [0]), CPU)
    print(f"first image (compiling, or loading what was compiled before): {first:.1f} s")
    print("\ncompiled against plain reference, the same images, one process: an image")
    for length, generator in generators.items():
        print(f"length {length}: {against_reference(generator, options)}", flush=True)
    print("\ncompiled, one worker process against two")
    with get_context("fork").Pool(1) as one, get_context("fork").Pool(2) as two:
        for length, generator in generators.items():
            print(f"length {length}: {on_workers(generator, one, two, options)}", flush=True)


def against_reference(generator: Pathfinder, options: argparse.Namespace) -> str:
    """Both times for an image and their ratio."""
    reference = Reference(generator)
    ours, theirs = [], []
    for number in Progress(range(options.rounds), unit="round", leave=False):
        indices = range(number * options.images, (number + 1) * options.images)
        began = time.perf_counter()
        images = [reference.image(index)[0] for index in indices]
        theirs.append((time.perf_counter() - began) / options.images)
        again = [seconds(partial(generator.images, indices), CPU) for _ in range(20)]
        ours.append(statistics.median(again[1:]) / options.images)  # the first loads its tables
        if not np.array_equal(generator.images(indices)[0], np.stack(images)):
            raise RuntimeError("the reference made other images")
    return f"{text(ours)}, reference {text(theirs)}; {ratio(theirs, ours)}"


def on_workers(generator: Pathfinder, one: Pool, two: Pool, options: argparse.Namespace) -> str:
    """Images a second on one and on two processes, and their ratio."""
    blocks = [range(start, start + BLOCK) for start in range(0, options.many, BLOCK)]
    work = partial(make, generator)
    sides = {str(n): partial(pool.map, work, blocks, 1) for n, pool in enumerate((one, two), 1)}
    times = in_turn(sides, CPU, options.rounds, warm_up=1)
    rates = [len(blocks) * BLOCK / statistics.median(spent) for spent in times.values()]
    return f"{rates[0]:.0f} and {rates[1]:.0f} images/s; {ratio(times['1'], times['2'])}"


def make(generator: Pathfinder, indices: range) -> int:
    """Makes a block of images; how many."""
    return len(generator.images(indices)[0])


if __name__ == "__main__":
    shell.run_command(main)
