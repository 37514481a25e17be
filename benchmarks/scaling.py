"""Time of one convolution with backward against image size and kernel size, with the direct one's.

    python -m benchmarks.scaling [--output scaling.json] [--figure scaling.png]

Shows from where on the spectral convolution is the faster one, which is where the automatic choice
(layers/horizontal.py) should switch. On a CUDA device both sides are captured and replayed, as a
training step is, so that the device's time is measured and not the host's launches.
"""

import statistics
from collections.abc import Sequence

import torch

from benchmarks.convolution import problem
from benchmarks.timing import begin, captured, in_turn, machine, parser, ratio, text, write
from layers.horizontal import HorizontalKernel
from support import shell

SIZES = (75, 150, 300, 450, 600)
KERNELS = (3, 5, 7, 9, 11, 15, 20, 25, 31)


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("scaling", __doc__)
    parse.add_argument("--batch", type=int, default=8)
    parse.add_argument("--channels", type=int, default=25)
    parse.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parse.add_argument("--kernels", nargs="+", type=int, default=KERNELS)
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    parse.add_argument("--figure", help="draw them in this file")
    options = parse.parse_args(arguments)
    what = f"batch {options.batch}, {options.channels} channels, with backward"
    device = begin(options, what, tf32=not options.strict)
    rows = [_measure(size, 15, options, device) for size in options.sizes]
    rows += [_measure(150, kernel, options, device) for kernel in options.kernels]
    write(options.output, machine(device), rows)
    if options.figure:
        _draw(rows, len(options.sizes), machine(device), options.figure)


def _measure(size: int, taps: int, options, device: torch.device) -> dict:
    x, W, g = problem(options.batch, options.channels, size, taps, device)
    chosen = HorizontalKernel(W).method_for(x)
    fits = chosen == "triton" or HorizontalKernel(W)._fits_triton(x)
    spectral = "triton" if fits else "fft"

    def call(method):
        return torch.autograd.grad(HorizontalKernel(W, method=method)(x), (x, W), g)

    sides = {"direct": lambda: call("direct"), spectral: lambda: call(spectral)}
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


def _draw(rows: list[dict], sizes: int, head: str, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    parts = (rows[:sizes], "size", "image width (pixels), kernel 15×15"), (
        rows[sizes:], "kernel", "kernel width (pixels), image 150×150",
    )  # fmt: skip
    for axis, (part, key, label) in zip(axes, parts, strict=True):
        for side in ("direct", "spectral"):
            y = [1e3 * statistics.median(r["times"][r.get(side, side)]) for r in part]
            axis.plot([r[key] for r in part], y, "o-", label=side, markersize=4)
        axis.set_xlabel(label)
        axis.set_yscale("log")
    axes[0].set_ylabel("ms, forward and backward")
    axes[0].legend(frameon=False)
    figure.suptitle(head, fontsize=9)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    shell.run_command(main)
