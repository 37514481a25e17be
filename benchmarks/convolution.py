"""One horizontal convolution: every method's error against float64, and its time.

    python -m benchmarks.convolution [--device cuda] [--batch 32] [--size 150] [--kernel 15]

Error is ‖difference‖ / ‖reference‖ of the output and of both gradients against the direct
convolution in float64.
"""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.timing import chosen_device, in_turn, machine, ratio, set_tf32, text, write
from layers.horizontal import HorizontalKernel, direct_convolution
from support import shell


def main(arguments: Sequence[str] | None = None) -> None:
    parser = shell.Parser("convolution", __doc__, package="benchmarks")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=25)
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--kernel", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    options = parser.parse_args(arguments)
    device = chosen_device(options.device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    K = options.channels
    shape = (options.batch, K, options.size, options.size)
    x = torch.randn(shape, device=device, requires_grad=True)
    W = torch.randn(K, K, options.kernel, options.kernel, device=device) / options.kernel / K**0.5
    W.requires_grad_()
    g = torch.randn(shape, device=device)
    print(f"{machine(device)}; activity {tuple(shape)}, kernel {tuple(W.shape)}")
    exact = _exact(x, W, g)
    rows = []
    for tf32 in (True, False) if device.type == "cuda" else (False,):
        set_tf32(tf32)
        rows += _compare(x, W, g, exact, tf32, device, options.rounds)
    write(options.output, machine(device), rows)


def _exact(x: torch.Tensor, W: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
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


def _compare(x, W, g, exact, tf32: bool, device: torch.device, rounds: int) -> list[dict]:
    methods = ["direct", "fft"]
    if HorizontalKernel(W).method_for(x) == "triton":
        methods.append("triton")

    def forward(method):
        with torch.no_grad():
            return HorizontalKernel(W, method=method)(x)

    def both(method):
        y = HorizontalKernel(W, method=method)(x)
        return [y, *torch.autograd.grad(y, (x, W), g)]

    errors = {
        m: [float((a - b).norm() / b.norm()) for a, b in zip(both(m), exact, strict=True)]
        for m in methods
    }
    calls = 5 if device.type == "cuda" else 1
    once = in_turn({m: partial(forward, m) for m in methods}, device, rounds, calls)
    twice = in_turn({m: partial(both, m) for m in methods}, device, rounds, calls)
    print(f"\nTF32 {'allowed' if tf32 else 'forbidden'}" if device.type == "cuda" else "")
    rows = []
    for m in methods:
        error = " ".join(f"{e:.1e}" for e in errors[m])
        print(
            f"{m:7} error of output, activity's and kernel's gradient {error}; forward "
            f"{text(once[m])}, {ratio(once['direct'], once[m])}; with backward {text(twice[m])}, "
            f"{ratio(twice['direct'], twice[m])}"
        )
        rows.append(
            {"method": m, "tf32": tf32, "errors": errors[m], "forward": once[m], "both": twice[m]}
        )
    return rows


if __name__ == "__main__":
    shell.run_command(main)
