"""The feedforward drive: a bank of 25 Gabor filters, squared: X = (Gabor ⊛ I + b)²."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.kinds import whole

ORIENTATIONS = 12
# The release set its second phase to 90 radians where 90 degrees were meant; everyone trained so.
PHASES = (0.0, 90.0)


def gabor_bank(size: int = 7) -> Tensor:
    """The 25 kernels where training starts, float32 (25, 1, size, size).

    Kernels 0–11 and 12–23 have the orientations −90°…75° in steps of 15° and the two phases;
    kernel 24 is a disc. The formula meets the weights of the 2018 release to 6e-8.

    Args:
        size: width of a kernel in pixels, odd.

    Raises:
        UserError: ``size`` is no odd number of at least 3.
    """
    size = whole(3, odd=True).of("gabor_size", size)
    r = size // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float64)
    disc = x**2 + y**2 <= r**2
    wavelength = size / 2  # λ
    sigma, aspect = 0.8 * wavelength, 0.3  # σ, γ

    kernels = []
    for phase in PHASES:
        for i in range(ORIENTATIONS):
            theta = math.radians(-90 + 15 * i)
            u = x * math.cos(theta) - y * math.sin(theta)
            v = x * math.sin(theta) + y * math.cos(theta)
            envelope = np.exp(-(u**2 + aspect**2 * v**2) / (2 * sigma**2))
            g = envelope * np.cos(2 * math.pi * u / wavelength + phase) * disc
            g -= g.mean()
            kernels.append(g / np.linalg.norm(g))
    kernels.append(disc / disc.mean())
    return torch.from_numpy(np.stack(kernels)[:, None].astype(np.float32))


class GaborDrive(nn.Module):
    """X = (Gabor ⊛ I + b)², stride 1, same padding; kernels and bias are trained.

    Shapes: images (N, 1, H, W) in 0–1 → feedforward drive X (N, 25, H, W), X ≥ 0.

    Args:
        size: width of a kernel in pixels, odd (7 in the release's scripts; 11 exists too).
    """

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        bank = gabor_bank(size).to(torch.empty(0))  # PyTorch's default type and device, as others
        self.weight = nn.Parameter(bank)
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    @property
    def channels(self) -> int:
        return len(self.weight)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 1:
            raise ValueError(
                f"images must have the shape (N, 1, H, W), found {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise ValueError(f"images must be floating-point numbers in 0–1, found {images.dtype}")
        return F.conv2d(images, self.weight, self.bias, padding="same").square()

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.weight.shape[-1]}"
