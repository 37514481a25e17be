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
from layers.horizontal import HorizontalKernel, direct_convolution
from support import shell


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("convolution", __doc__)
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--channels", type=int, default=25)
    parse.add_argument("--size", type=int, default=150)
    parse.add_argument("--kernel", type=int, default=15)
    parse.add_argument("--rounds", type=int, default=7)
    options = parse.parse_args(arguments)
    sizes = options.batch, options.channels, options.size, options.kernel
    device = begin(options, "images {}, channels {}, width {}, kernel {}".format(*sizes), None)
    x, W, g = problem(*sizes, device)
    exact = _exact(x, W, g)
    rows = []
    for tf32 in (True, False) if device.type == "cuda" else (False,):
        set_tf32(tf32)
        rows += _compare(x, W, g, exact, tf32, options.rounds)
    write(options.output, machine(device), rows)


def problem(
    batch: int, channels: int, size: int, taps: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Random activity (N, K, H, W), kernel (K, K, h, w) and gradient of the result (N, K, H, W)."""
    torch.manual_seed(0)
    x = torch.randn(batch, channels, size, size, device=device, requires_grad=True)
    W = torch.randn(channels, channels, taps, taps, device=device) / taps / channels**0.5
    return x, W.requires_grad_(), torch.randn_like(x)


def _exact(x: Tensor, W: Tensor, g: Tensor) -> list[Tensor]:
    """Output and both gradients in float64, an image at a time."""
    W = W.detach().double().requires_grad_()
    outputs, inputs = [], []
    total = torch.zeros_like(W)
    for image, gradient in zip(x.detach().split(1), g.split(1), strict=True):
        image = image.double().requires_grad_()
        y = direct_convolution(image, W)
        grad_image, grad_W = torch.autograd.grad(y, (image, W), gradient.double())
        outputs.append(y.detach())
        inputs.append(grad_image)
        total += grad_W
    return [torch.cat(outputs), torch.cat(inputs), total]


def _compare(
    x: Tensor, W: Tensor, g: Tensor, exact: list[Tensor], tf32: bool, rounds: int
) -> list[dict[str, Any]]:
    methods = ["direct", "fft"]
    if HorizontalKernel(W).method_for(x) == "triton":
        methods.append("triton")

    def forward(method: str) -> Tensor:
        with torch.no_grad():
            return HorizontalKernel(W, method=method)(x)

    def both(method: str) -> list[Tensor]:
        y = HorizontalKernel(W, method=method)(x)
        return [y.detach(), *torch.autograd.grad(y, (x, W), g)]

    calls = 5 if x.is_cuda else 1
    errors = {
        m: [float((a - b).norm() / b.norm()) for a, b in zip(both(m), exact, strict=True)]
        for m in methods
    }
    once = in_turn({m: partial(forward, m) for m in methods}, x.device, rounds, calls)
    twice = in_turn({m: partial(both, m) for m in methods}, x.device, rounds, calls)
    print(f"\nTF32 {'allowed' if tf32 else 'forbidden'}" if x.is_cuda else "")
    for m in methods:
        error = " ".join(f"{e:.1e}" for e in errors[m])
        print(
            f"{m:7} error of output, activity's and kernel's gradient {error}; forward "
            f"{text(once[m])}, {ratio(once['direct'], once[m])}; with backward {text(twice[m])}, "
            f"{ratio(twice['direct'], twice[m])}"
        )
    return [
        {"method": m, "tf32": tf32, "errors": errors[m], "forward": once[m], "both": twice[m]}
        for m in methods
    ]


if __name__ == "__main__":
    shell.run_command(main)
