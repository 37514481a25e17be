"""Time of one convolution with backward against image size and kernel size, with the direct one's.

    python -m benchmarks.scaling [--output scaling.json] [--figure scaling.png]

Shows from where on the spectral convolution is the faster one, which is where the automatic choice
(layers/horizontal.py) should switch. On a CUDA device both sides are captured and replayed, as a
training step is, so that the device's time is measured and not the host's launches.
"""

import statistics
from collections.abc import Sequence

import torch

from benchmarks.timing import (
    captured,
    chosen_device,
    in_turn,
    machine,
    ratio,
    set_tf32,
    text,
    write,
)
from layers.horizontal import HorizontalKernel
from support import shell

SIZES = (75, 150, 300, 450, 600)
KERNELS = (3, 5, 7, 9, 11, 15, 20, 25, 31)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = shell.Parser("scaling", __doc__, package="benchmarks")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=25)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--kernels", nargs="+", type=int, default=KERNELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="forbid TF32")
    parser.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    parser.add_argument("--figure", help="draw them in this file")
    options = parser.parse_args(arguments)
    device = chosen_device(options.device)
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        set_tf32(not options.strict)
    print(f"{machine(device)}; batch {options.batch}, {options.channels} channels, with backward")
    rows = [_measure(size, 15, options, device) for size in options.sizes]
    rows += [_measure(150, kernel, options, device) for kernel in options.kernels]
    write(options.output, machine(device), rows)
    if options.figure:
        _draw(rows, len(options.sizes), machine(device), options.figure)


def _measure(size: int, taps: int, options, device: torch.device) -> dict:
    K = options.channels
    x = torch.randn(options.batch, K, size, size, device=device, requires_grad=True)
    W = (torch.randn(K, K, taps, taps, device=device) / taps / K**0.5).requires_grad_()
    g = torch.randn_like(x)
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
