"""Initial values of the 2018 release: its Xavier rule and the gates' "chronos" biases.

Every function draws from the generator that it is given (None: PyTorch's default one).
"""

import math

import torch
from torch import Tensor

from layers.methods import transformed

TRUNCATION = 2.0  # the normal rule draws again beyond this many standard deviations


def xavier_(
    tensor: Tensor,
    fan: tuple[int, int, int, int],
    uniform: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill ``tensor`` in place by the release's Xavier rule.

    With n = h·w·(in + out)/2: uniform on ±√(3/n), or normal with standard deviation √(1.3/n),
    truncated at two of them.

    Args:
        tensor: any shape, layout and device.
        fan: (h, w, in, out), the shape that the original's variable has.
        uniform: uniform rather than truncated normal.
        generator: source of the random numbers, on the tensor's device.
    """
    h, w, inputs, outputs = fan
    n = h * w * (inputs + outputs) / 2
    with torch.no_grad():
        if uniform:
            bound = math.sqrt(3 / n)
            return tensor.uniform_(-bound, bound, generator=generator)
        # A uniform number between the normal's quantiles at ±2 sd, sent through its inverse.
        bound = math.erf(TRUNCATION / math.sqrt(2))
        tensor.uniform_(-bound, bound, generator=generator).erfinv_()
        return tensor.mul_(math.sqrt(2) * math.sqrt(1.3 / n))


def kernel(
    outputs: int, inputs: int, size: int, uniform: bool, generator: torch.Generator | None = None
) -> Tensor:
    """A convolution kernel (out, in, size, size) by the Xavier rule."""
    shape = torch.empty(outputs, inputs, size, size)
    return xavier_(shape, (size, size, inputs, outputs), uniform, generator)


def letter(channels: int, uniform: bool, generator: torch.Generator | None = None) -> Tensor:
    """A Greek letter (K, 1, 1): the original's variable has the shape (1, 1, 1, K)."""
    return xavier_(torch.empty(channels, 1, 1), (1, 1, 1, channels), uniform, generator)


def chronos(channels: int, timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """Gain bias (K,): −log u, with u uniform on 1…T − 1, so that gates span the T steps.

    The mix bias is its negative (Tallec & Ollivier 2018, "Can recurrent neural networks warp
    time?").
    """
    u = torch.empty(channels).uniform_(1, max(timesteps - 1, 1), generator=generator)
    return -u.log()


def symmetric(weight: Tensor) -> Tensor:
    """½(W + Wᵀ) over the in and out channels of a kernel (K, K, h, w)."""
    return 0.5 * (weight + weight.transpose(0, 1))


class _SymmetricGradient(torch.autograd.Function):
    """Identity whose gradient is made symmetric."""

    @staticmethod
    def forward(ctx, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return symmetric(gradient)


def symmetric_gradient(weight: Tensor) -> Tensor:
    """The kernel itself, with a gradient that is symmetrised over in and out channels.

    A kernel that starts symmetric then stays symmetric (the release's ``SymmetricConv`` gradient).
    """
    if transformed():  # the same in operations that compilers and transforms can follow
        even = symmetric(weight)
        return even + (weight - even).detach()
    return _SymmetricGradient.apply(weight)
