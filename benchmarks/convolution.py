"""One horizontal convolution: every method's error against float64, and its time.

    python -m benchmarks.convolution [--device cuda] [--batch 32] [--size 150] [--kernel 15]

Error is ‖difference‖ / ‖reference‖ of the output and of both gradients against the direct
convolution in float64.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import begin, in_turn, machine, parser, ratio, set_tf32, text, write
from layers.horizontal import HorizontalKernel
from support import shell

Problem = tuple[Tensor, Tensor, Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("convolution", __doc__, batch=32, channels=25, size=150, kernel=15, rounds=7)
    options = parse.parse_args(arguments)
    sizes = options.batch, options.channels, options.size, options.kernel
    device = begin(options, "images {}, channels {}, width {}, kernel {}".format(*sizes), None)
    given = problem(*sizes, device)
    exact, rows = _exact(given), []
    for tf32 in (True, False) if device.type == "cuda" else (False,):
        set_tf32(tf32)
        rows += _compare(given, exact, tf32, options.rounds)
    write(options.output, machine(device), rows)


def problem(batch: int, channels: int, size: int, taps: int, device: torch.device) -> Problem:
    """Random activity (N, K, H, W), kernel (K, K, h, w) and gradient of the result (N, K, H, W)."""
    torch.manual_seed(0)
    x = torch.randn(batch, channels, size, size, device=device, requires_grad=True)
    W = torch.randn(channels, channels, taps, taps, device=device) / taps / channels**0.5
    return x, W.requires_grad_(), torch.randn_like(x)


def forward(given: Problem, method: str) -> Tensor:
    with torch.no_grad():
        return HorizontalKernel(given[1], method=method)(given[0])


def both(given: Problem, method: str) -> list[Tensor]:
    """The convolution, and the gradients of activity and kernel."""
    x, W, g = given
    y = HorizontalKernel(W, method=method)(x)
    return [y.detach(), *torch.autograd.grad(y, (x, W), g)]


def _exact(given: Problem) -> list[Tensor]:
    """Output and both gradients in float64, an image at a time."""
    x, W, g = (one.detach() for one in given)
    kernel = W.double().requires_grad_()
    outputs, inputs, total = [], [], torch.zeros_like(kernel)
    for image, gradient in zip(x.split(1), g.split(1), strict=True):
        one = image.double().requires_grad_(), kernel, gradient.double()
        y, grad_image, grad_W = both(one, "direct")
        outputs.append(y)
        inputs.append(grad_image)
        total += grad_W
    return [torch.cat(outputs), torch.cat(inputs), total]


def _compare(given: Problem, exact: list[Tensor], tf32: bool, rounds: int) -> list[dict[str, Any]]:
    x, W, _ = given
    methods = ["direct", "fft"]
    if HorizontalKernel(W).method_for(x) == "triton":
        methods.append("triton")
    calls = 5 if x.is_cuda else 1
    once, twice = (
        in_turn({m: partial(call, given, m) for m in methods}, x.device, rounds, calls)
        for call in (forward, both)
    )
    print(f"\nTF32 {'allowed' if tf32 else 'forbidden'}" if x.is_cuda else "")
    rows = []
    for m in methods:
        errors = [
            float((a - b).norm() / b.norm()) for a, b in zip(both(given, m), exact, strict=True)
        ]
        print(
            f"{m:7} error of output, activity's and kernel's gradient "
            f"{' '.join(f'{e:.1e}' for e in errors)}; forward {text(once[m])}, "
            f"{ratio(once['direct'], once[m])}; with backward {text(twice[m])}, "
            f"{ratio(twice['direct'], twice[m])}"
        )
        found = {"errors": errors, "forward": once[m], "both": twice[m]}
        rows.append({"method": m, "tf32": tf32, **found})
    return rows


if __name__ == "__main__":
    shell.run_command(main)
