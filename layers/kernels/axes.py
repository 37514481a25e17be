"""The axes of the spectral convolution: their sizes, frequencies, and the matrices that transform
along them. docs/kernels.md says why the frequencies are half-integer."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 16  # a matrix unit's depth: the frequencies are a multiple of it
HALF_PRECISION, FLOAT32 = "half", "float32"


@dataclass(frozen=True)
class Axis:
    """One axis of the transform: `size` pixels, `taps` of the kernel, `half` frequencies."""

    size: int
    taps: int

    @property
    def half(self) -> int:
        return _round_up((self.size + self.taps // 2 + 1) // 2, STEP)

    @property
    def right(self) -> int:
        """The first pixel of the right run (of an odd size, the middle one)."""
        return self.size // 2

    @property
    def left(self) -> int:
        """The pixel that mirrors it."""
        return (self.size - 1) // 2

    @property
    def pairs(self) -> int:
        """Pixels of the right run."""
        return self.size - self.right

    @property
    def odd(self) -> bool:
        return self.size % 2 == 1

    @property
    def run(self) -> int:
        """Length of a padded run."""
        return _round_up(self.pairs, 4)

    @property
    def pitch(self) -> int:
        """Length of the folded axis."""
        return 2 * self.run

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Two powers of two that a program covers side by side (the second may be 0), and how many
        programs cover the frequencies."""
        if self.half > 128:
            return 64, 16, -(-self.half // 80)
        first = 1 << (self.half.bit_length() - 1)
        rest = self.half - first
        return first, max(16, 1 << (rest - 1).bit_length()) if rest else 0, 1

    @property
    def unit(self) -> float:
        """What half-precision spectra are multiplied by along this axis, so that none overflows:
        a sum over pairs of numbers below 2 then stays below 256."""
        return 2.0 ** min(0, 7 - (self.run - 1).bit_length())


@dataclass(frozen=True)
class Sizes:
    """Both axes of one convolution."""

    y: Axis
    x: Axis

    @classmethod
    def of(cls, height: int, width: int, taps_y: int, taps_x: int) -> Sizes:
        return cls(Axis(height, taps_y), Axis(width, taps_x))

    @property
    def scale(self) -> float:
        """Of the inverse transform: half of the row frequencies stand for all."""
        return 1 / (2 * self.y.half * self.x.half)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


@functools.cache
def waves(axis: Axis, precision: str, by_pair: bool, device: torch.device) -> Tensor:
    """cos(θd) and sin(θd) as (2, frequency, pair), or by pair first; for float32, four: what
    rounding to TF32 leaves of each comes after them. Zero beyond the last pair."""
    number = torch.arange(axis.half, dtype=torch.float64, device="cpu")
    d = number + (0.0 if axis.odd else 0.5)
    angle = torch.outer(math.pi / axis.half * (number + 0.5), d)
    exact = torch.stack([torch.cos(angle), torch.sin(angle)]) * (number < axis.pairs)
    if by_pair:
        exact = exact.transpose(1, 2)
    if precision == HALF_PRECISION:
        return exact.half().contiguous().to(device)
    bits = exact.float().contiguous().view(torch.int32)
    high = ((bits + 0x1000) & -0x2000).view(torch.float32)
    return torch.cat([high, (exact - high).float()]).contiguous().to(device)


def covered(n: int) -> tuple[int, int]:
    """Two powers of two side by side that cover n numbers."""
    first = max(STEP, 1 << ((n - 1).bit_length() - 1))
    return first, max(STEP, 1 << max(n - first - 1, 0).bit_length())


@functools.cache
def whole_matrix(axis: Axis, back: bool, device: torch.device) -> Tensor:
    """The transform of a folded axis as one matrix: cosine and sine of each frequency in turn, by
    pixels and times the axis's unit; or pixels by those, if `back`. Padded with zeros as `covered`
    says."""
    c, s = waves(axis, HALF_PRECISION, True, device)[:, : axis.run].float()
    left = (torch.arange(axis.run, device=device) >= axis.odd)[:, None].float()  # no second middle
    exact = torch.stack([torch.cat([c, left * c]), torch.cat([s, -left * s])], 2).flatten(1)
    out = torch.zeros(sum(covered(axis.pitch)), sum(covered(2 * axis.half)), device=device)
    out[: axis.pitch, : 2 * axis.half] = exact
    return (out.t() if back else axis.unit * out).half().contiguous()


@functools.cache
def tap_waves(axis: Axis, both_signs: bool, device: torch.device) -> Tensor:
    """exp(±iθd) at every tap: (frequency, tap), or (frequency and sign, tap)."""
    d, k = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (axis.taps, axis.half))
    d, θ = d - (axis.taps - 1) // 2, math.pi / axis.half * (k + 0.5)
    if both_signs:
        θ = torch.stack([θ, -θ], 1).flatten()
    angle = torch.outer(θ, d)
    return torch.complex(torch.cos(angle), torch.sin(angle)).to(device, torch.complex64)
