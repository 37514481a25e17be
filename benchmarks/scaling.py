"""Time of one convolution with backward against image size and kernel size, with the direct one's.

    python -m benchmarks.scaling [--output scaling.json] [--figure scaling.png]

Shows from where on the spectral convolution is the faster one, which is where the automatic choice
(layers/horizontal.py) should switch. On a CUDA device both sides are captured and replayed, as a
training step is, so that the device's time is measured and not the host's launches.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.convolution import both, problem
from benchmarks.timing import begin, captured, in_turn, machine, parser, ratio, text, write
from layers.horizontal import HorizontalKernel
from support import shell

SIZES = (75, 150, 300, 450, 600)
KERNELS = (3, 5, 7, 9, 11, 15, 20, 25, 31)


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("scaling", __doc__, batch=8, channels=25, rounds=5)
    parse.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parse.add_argument("--kernels", nargs="+", type=int, default=KERNELS)
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    parse.add_argument("--figure", help="draw them in this file")
    options = parse.parse_args(arguments)
    what = f"batch {options.batch}, {options.channels} channels, with backward"
    device = begin(options, what, not options.strict)
    rows = [_measure(size, 15, options, device) for size in options.sizes]
    rows += [_measure(150, kernel, options, device) for kernel in options.kernels]
    write(options.output, machine(device), rows)
    if options.figure:
        _draw(rows, len(options.sizes), machine(device), options.figure)


def _measure(
    size: int, taps: int, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    given = x, W, _ = problem(options.batch, options.channels, size, taps, device)
    chosen = HorizontalKernel(W).method_for(x)
    fits = chosen == "triton" or HorizontalKernel(W)._fits_triton(x)
    spectral = "triton" if fits else "fft"
    sides: Any = {method: partial(both, given, method) for method in ("direct", spectral)}
    if fits:  # PyTorch's FFT makes its tables anew at each call, which no graph can hold
        sides = {name: captured(side, device) for name, side in sides.items()}
    calls = 3 if device.type == "cuda" else 1
    times = in_turn(sides, device, options.rounds, calls, warm_up=2)
    print(
        f"image {size:3}, kernel {taps:2}: direct {text(times['direct'])}, {spectral} "
        f"{text(times[spectral])}; {ratio(times['direct'], times[spectral])}; "
        f"the automatic choice is {chosen}",
        flush=True,
    )
    return {"size": size, "kernel": taps, "spectral": spectral, "chosen": chosen, "times": times}


def _draw(rows: list[dict[str, Any]], sizes: int, head: str, path: str) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, part, key in ((left, rows[:sizes], "size"), (right, rows[sizes:], "kernel")):
        for side in ("direct", "spectral"):
            y = [1e3 * statistics.median(r["times"][r.get(side, side)]) for r in part]
            axes.plot([r[key] for r in part], y, "o-", label=side, markersize=4)
        axes.set_yscale("log")
    left.set(xlabel="image width (pixels), kernel 15×15", ylabel="ms, forward and backward")
    right.set(xlabel="kernel width (pixels), image 150×150")
    left.legend(frameon=False)
    figure.suptitle(head, fontsize=9)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    shell.run_command(main)
