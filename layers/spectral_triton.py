"""The spectral horizontal convolution on a CUDA device, in Triton.

The transforms are dense matrix products, made small by choosing the frequencies well. Positions d
are counted from the image's middle and frequencies are the half-integer ones, θ = 2π(u + ½)/N. A
row x is kept as two real numbers a frequency,

    p(θ) = Σ_d cos(θd) (x(d) + x(−d))        q(θ) = Σ_d sin(θd) (x(d) − x(−d))        (d > 0)

so that Σ_d x(d) exp(−iθd) = p − iq. Each product is a quarter of a plain complex matrix's (cosines
of pairs of half-integers: a type IV cosine transform), no frequency is its own negative, and 150
pixels at N = 160 make exactly 80 frequencies each way. Half-integer frequencies wrap round with a
change of sign; as N is at least the image and the kernel's reach, nothing that wraps is kept.
Columns are transformed the same way, p and q apart. Only the product with the kernel's spectrum
joins the four numbers of a pair of frequencies into the complex values at (u, v) and (u, −v).

Layouts. An axis is *folded* when it lists the pixels from the middle to the right, then those from
the middle to the left, each padded with zeros to a multiple of four (`Axis.pitch` numbers in all):
the pairs above are then two plain runs. The middle pixel of an odd size stands in the first run and
the second begins with a zero.

    activity        (N, K, H, W), or folded (N, K, H', W')
    row spectrum    (N, H', K, pq, u)           pq of the row transform
    spectrum        (u, v, pq, pq, K, N)        pq of the column transform, then of the row's
    kernel spectrum (u, v, sign, c, O, I)       sign of v; c real, imaginary

Precision. Where TF32 is allowed, spectra are stored as half-precision numbers, whose significand is
TF32's: what the matrix units would round away is not written either. Their exponent is too short
for any activity or gradient, so a power of two is kept beside them: for each row of a row spectrum,
and, the largest of those, for each image. Otherwise spectra are float32, and three TF32 products
make each float32 one.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers.horizontal import GradientSum, refuse_double_backward

STEP: tl.constexpr = tl.constexpr(16)  # frequencies or pairs that a product takes at a time
ROWS = 64  # of a program, channels counted: a matrix unit's height on four warps
HALF_PRECISION, FLOAT32 = "half", "float32"


@dataclass(frozen=True)
class Axis:
    """One axis of the transform: `size` pixels, `taps` of the kernel, `half` frequencies."""

    size: int
    taps: int

    @property
    def half(self) -> int:
        return _round_up((self.size + self.taps // 2 + 1) // 2, 16)

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
    def width(self) -> int:
        """Frequencies that all the blocks cover."""
        first, second, groups = self.blocks
        return (first + second) * groups

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
    rounding to TF32 leaves of each comes after them. Zero beyond the last pair and frequency."""
    number = torch.arange(axis.width, dtype=torch.float64)
    d = number + (0.0 if axis.odd else 0.5)
    angle = torch.outer(math.pi / axis.half * (number + 0.5), d)
    known = torch.outer(number < axis.half, number < axis.pairs)
    exact = torch.stack([torch.cos(angle), torch.sin(angle)]) * known
    if by_pair:
        exact = exact.transpose(1, 2)
    if precision == HALF_PRECISION:
        return exact.half().contiguous().to(device)
    bits = exact.float().contiguous().view(torch.int32)
    high = ((bits + 0x1000) & -0x2000).view(torch.float32)
    return torch.cat([high, (exact - high).float()]).contiguous().to(device)


# -- what kernels share ----------------------------------------------------------------------------


@triton.jit
def rounded(x):
    """To the nearest TF32 value. (The matrix units would cut the digits off: a bias.)"""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def split(x):
    """x to TF32, and what that leaves out."""
    high = rounded(x)
    return high, x - high


@triton.jit
def matmul(a, b, PRECISION: tl.constexpr):
    """a @ b of float32 blocks: in TF32, or as three products of TF32 for float32."""
    a, a_low = split(a)
    b, b_low = split(b)
    sum = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    if PRECISION == "float32":
        sum = tl.dot(a_low, b, sum, input_precision="tf32")
        sum = tl.dot(a, b_low, sum, input_precision="tf32")
    return tl.dot(a, b, sum, input_precision="tf32")


@triton.jit
def times_waves(x, waves, sum, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    """sum + x @ the waves at these addresses, which are SIZE numbers from what their rounding
    leaves. In half precision x may be float32, which is taken in TF32."""
    if PRECISION == "half":
        m = tl.load(waves)
        if x.dtype == tl.float16:
            return tl.dot(x, m, sum)
        else:
            return tl.dot(rounded(x), m.to(tl.float32), sum, input_precision="tf32")
    else:
        x, low = split(x)
        m = tl.load(waves)
        sum = tl.dot(low, m, sum, input_precision="tf32")
        sum = tl.dot(x, tl.load(waves + SIZE), sum, input_precision="tf32")
        return tl.dot(x, m, sum, input_precision="tf32")


@triton.jit
def waves_times(waves, x, sum, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    """The same with the waves on the left."""
    if PRECISION == "half":
        return tl.dot(tl.load(waves), x, sum)
    else:
        x, low = split(x)
        m = tl.load(waves)
        sum = tl.dot(m, low, sum, input_precision="tf32")
        sum = tl.dot(tl.load(waves + SIZE), x, sum, input_precision="tf32")
        return tl.dot(m, x, sum, input_precision="tf32")


@triton.jit
def _power_above(x):
    """The power of two above x ≥ 0 (2⁻¹²⁶ for 0)."""
    bits = tl.minimum(x.to(tl.int32, bitcast=True), 0x7D000000)
    return ((bits & 0x7F800000) + 0x00800000).to(tl.float32, bitcast=True)


@triton.jit
def _largest(a, b):
    return tl.max(tl.max(tl.maximum(tl.abs(a), tl.abs(b)), 1), 0)


@triton.jit
def lines(n, y, k, height, channels, SIZE: tl.constexpr):
    """Where rows y of channels k begin in a tensor (N, K, height, SIZE)."""
    return ((n * channels + k) * height + y) * SIZE


@triton.jit
def row_spectra(n, y, k, height, channels, HALF: tl.constexpr):
    """Where rows y of channels k begin in a row spectrum."""
    return ((n * height + y) * channels + k) * (2 * HALF)


@triton.jit
def add_pairs(
    p1, q1, p2, q2, far, near, waves, j,
    FIRST: tl.constexpr, SECOND: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the share of the pairs j (rows, STEP) to a row spectrum: FIRST frequencies of p and q,
    and SECOND more. `waves` are by pair, from the first of these frequencies on."""
    SIZE: tl.constexpr = WIDTH * WIDTH
    wave = waves + j[:, None] * WIDTH + tl.arange(0, FIRST)[None, :]
    even, odd = far + near, far - near
    p1 = times_waves(even, wave, p1, 2 * SIZE, PRECISION)
    q1 = times_waves(odd, wave + SIZE, q1, 2 * SIZE, PRECISION)
    if SECOND > 0:
        wave = waves + j[:, None] * WIDTH + FIRST + tl.arange(0, SECOND)[None, :]
        p2 = times_waves(even, wave, p2, 2 * SIZE, PRECISION)
        q2 = times_waves(odd, wave + SIZE, q2, 2 * SIZE, PRECISION)
    return p1, q1, p2, q2


@triton.jit
def store_row_spectrum(
    p1, q1, p2, q2, spectrum, line, known, first_u, row_scales, image_scale, unit,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectra to `spectrum` + `line`. In half precision they are divided by a power of two,
    which goes to the rows' `row_scales` and, if it is the largest, to `image_scale`."""
    factor = 1.0
    if PRECISION == "half":
        size = _largest(p1, q1)
        if SECOND > 0:
            size = tl.maximum(size, _largest(p2, q2))
        scale = _power_above(size) / unit
        tl.store(row_scales, tl.zeros_like(line).to(tl.float32) + scale)
        tl.atomic_max(image_scale, scale)
        factor = 1.0 / scale
    u = first_u + tl.arange(0, FIRST)
    at = spectrum + line[:, None] + u[None, :]
    mask = known[:, None] & (u < HALF)[None, :]
    tl.store(at, (p1 * factor).to(spectrum.dtype.element_ty), mask=mask)
    tl.store(at + HALF, (q1 * factor).to(spectrum.dtype.element_ty), mask=mask)
    if SECOND > 0:
        u = first_u + FIRST + tl.arange(0, SECOND)
        at = spectrum + line[:, None] + u[None, :]
        mask = known[:, None] & (u < HALF)[None, :]
        tl.store(at, (p2 * factor).to(spectrum.dtype.element_ty), mask=mask)
        tl.store(at + HALF, (q2 * factor).to(spectrum.dtype.element_ty), mask=mask)


# -- transforms ------------------------------------------------------------------------------------


@triton.jit
def _plain_row(y, height, right, left, RUN: tl.constexpr, ODD: tl.constexpr):
    """The row of an image that is row y of its folded axis, and whether there is one."""
    known = (y < height - right) | ((y >= RUN + ODD) & (y <= RUN + left))
    return tl.where(y < RUN, right + y, left - (y - RUN)), known


@triton.jit
def _rows_there_kernel(
    x, spectrum, waves, row_scales, image_scales, channels, height, width,
    right_y, left_y, right, left, unit,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD_Y: tl.constexpr, ODD: tl.constexpr,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of an activity (N, K, H, W) → their spectra, a group of frequencies."""
    WIDTH: tl.constexpr = (FIRST + SECOND) * GROUPS
    n, group = tl.program_id(1), tl.program_id(2)
    r = tl.arange(0, ROWS)
    k = r % K
    folded = tl.program_id(0) * (ROWS // K) + r // K
    y, inside = _plain_row(folded, height, right_y, left_y, RUN_Y, ODD_Y)
    known = k < channels
    at = x + ((n * channels + k) * height + y)[:, None] * width
    inside = (known & inside)[:, None]
    p1 = tl.zeros((ROWS, FIRST), tl.float32)
    q1 = tl.zeros((ROWS, FIRST), tl.float32)
    p2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    q2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    first_u = group * (FIRST + SECOND)
    for start in range(0, RUN, STEP):
        j = start + tl.arange(0, STEP)
        far = tl.load(at + right + j[None, :], mask=inside & (j < width - right), other=0.0)
        mask = inside & ((j >= ODD) & (j <= left))[None, :]
        near = tl.load(at + left - j[None, :], mask=mask, other=0.0)
        p1, q1, p2, q2 = add_pairs(
            p1, q1, p2, q2, far, near, waves + first_u, j, FIRST, SECOND, WIDTH, PRECISION
        )
    store_row_spectrum(
        p1, q1, p2, q2, spectrum, row_spectra(n, folded, k, 2 * RUN_Y, channels, HALF), known,
        first_u, row_scales + (n * (2 * RUN_Y) + folded) * GROUPS + group, image_scales + n, unit,
        HALF, FIRST, SECOND, PRECISION,
    )  # fmt: skip


@triton.jit
def _rows_back_kernel(
    spectrum, x, waves, image_scales, kernel_scale, channels, height, width,
    right_y, left_y, right, left, unit,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD_Y: tl.constexpr, ODD: tl.constexpr,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectra → those rows of an activity (N, K, H, W), a group of pairs."""
    WIDTH: tl.constexpr = (FIRST + SECOND) * GROUPS
    SIZE: tl.constexpr = WIDTH * WIDTH
    n = tl.program_id(1)
    r = tl.arange(0, ROWS)
    k = r % K
    folded = tl.program_id(0) * (ROWS // K) + r // K
    y, inside = _plain_row(folded, height, right_y, left_y, RUN_Y, ODD_Y)
    known = k < channels
    line = spectrum + row_spectra(n, folded, k, 2 * RUN_Y, channels, HALF)
    j1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    even1 = tl.zeros((ROWS, FIRST), tl.float32)
    odd1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        j2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        even2 = tl.zeros((ROWS, SECOND), tl.float32)
        odd2 = tl.zeros((ROWS, SECOND), tl.float32)
    for start in range(0, HALF, STEP):
        u = start + tl.arange(0, STEP)
        at = line[:, None] + u[None, :]
        p = tl.load(at, mask=known[:, None], other=0.0)
        q = tl.load(at + HALF, mask=known[:, None], other=0.0)
        wave = waves + u[:, None] * WIDTH
        even1 = times_waves(p, wave + j1[None, :], even1, 2 * SIZE, PRECISION)
        odd1 = times_waves(q, wave + SIZE + j1[None, :], odd1, 2 * SIZE, PRECISION)
        if SECOND > 0:
            even2 = times_waves(p, wave + j2[None, :], even2, 2 * SIZE, PRECISION)
            odd2 = times_waves(q, wave + SIZE + j2[None, :], odd2, 2 * SIZE, PRECISION)
    factor = unit * tl.load(kernel_scale) * tl.load(image_scales + n)
    to = x + ((n * channels + k) * height + y)[:, None] * width
    inside = (known & inside)[:, None]
    j = j1[None, :]
    tl.store(to + right + j, (even1 + odd1) * factor, mask=inside & (j < width - right))
    tl.store(to + left - j, (even1 - odd1) * factor, mask=inside & (j >= ODD) & (j <= left))
    if SECOND > 0:
        j = j2[None, :]
        tl.store(to + right + j, (even2 + odd2) * factor, mask=inside & (j < width - right))
        tl.store(to + left - j, (even2 - odd2) * factor, mask=inside & (j >= ODD) & (j <= left))


@triton.jit
def _paired(x, at, mask, row_scales, scale_at, shrink, PRECISION: tl.constexpr):
    """Numbers of a row spectrum (pair, image, u), brought to their image's scale."""
    x = tl.load(x + at, mask=mask[:, :, None], other=0.0).to(tl.float32)
    if PRECISION == "half":
        x *= (tl.load(row_scales + scale_at, mask=mask, other=0.0) * shrink)[:, :, None]
    return x


@triton.jit
def _columns_there_kernel(
    rows, spectrum, waves, row_scales, image_scales, images, channels, unit,
    HALF_X: tl.constexpr, GROUPS_X: tl.constexpr, GROUP_X: tl.constexpr,
    RUN: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    GROUPS: tl.constexpr, IMAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectra of IMAGES images, STEP frequencies of a channel's p or q → spectra, a group of
    column frequencies."""
    WIDTH: tl.constexpr = (FIRST + SECOND) * GROUPS
    SIZE: tl.constexpr = WIDTH * WIDTH
    U_BLOCKS: tl.constexpr = HALF_X // STEP
    u = tl.program_id(0) % U_BLOCKS * STEP + tl.arange(0, STEP)
    pq = tl.program_id(0) // U_BLOCKS % 2
    k = tl.program_id(0) // (2 * U_BLOCKS)
    n = tl.program_id(1) * IMAGES + tl.arange(0, IMAGES)
    pitch = channels * (2 * HALF_X)
    column = n[None, :, None] * (2 * RUN * pitch) + k * (2 * HALF_X) + pq * HALF_X
    column += u[None, None, :]
    group = tl.program_id(0) % U_BLOCKS * STEP // GROUP_X
    shrink = unit / tl.load(image_scales + n, mask=n < images, other=1.0)[None, :]
    v1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    p1 = tl.zeros((FIRST, IMAGES * STEP), tl.float32)
    q1 = tl.zeros((FIRST, IMAGES * STEP), tl.float32)
    if SECOND > 0:
        v2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        p2 = tl.zeros((SECOND, IMAGES * STEP), tl.float32)
        q2 = tl.zeros((SECOND, IMAGES * STEP), tl.float32)
    for start in range(0, HALF, STEP):
        j = start + tl.arange(0, STEP)
        mask = (j < RUN)[:, None] & (n < images)[None, :]
        at = column + (j * pitch)[:, None, None]
        scale_at = (n[None, :] * (2 * RUN) + j[:, None]) * GROUPS_X + group
        far = _paired(rows, at, mask, row_scales, scale_at, shrink, PRECISION)
        near = _paired(rows + RUN * pitch, at, mask, row_scales + RUN * GROUPS_X, scale_at, shrink, PRECISION)
        even = tl.reshape((far + near).to(rows.dtype.element_ty), (STEP, IMAGES * STEP))
        odd = tl.reshape((far - near).to(rows.dtype.element_ty), (STEP, IMAGES * STEP))
        wave = waves + j[None, :]
        p1 = waves_times(wave + v1[:, None] * WIDTH, even, p1, 2 * SIZE, PRECISION)
        q1 = waves_times(wave + SIZE + v1[:, None] * WIDTH, odd, q1, 2 * SIZE, PRECISION)
        if SECOND > 0:
            p2 = waves_times(wave + v2[:, None] * WIDTH, even, p2, 2 * SIZE, PRECISION)
            q2 = waves_times(wave + SIZE + v2[:, None] * WIDTH, odd, q2, 2 * SIZE, PRECISION)
    planes = channels * images
    to = spectrum + (u * (HALF * 4) + pq)[None, :, None] * planes + k * images + n[None, None, :]
    _store_frequencies(to, p1, v1, n < images, planes, HALF, IMAGES)
    _store_frequencies(to + 2 * planes, q1, v1, n < images, planes, HALF, IMAGES)
    if SECOND > 0:
        _store_frequencies(to, p2, v2, n < images, planes, HALF, IMAGES)
        _store_frequencies(to + 2 * planes, q2, v2, n < images, planes, HALF, IMAGES)


@triton.jit
def _store_frequencies(to, values, v, inside, planes, HALF: tl.constexpr, IMAGES: tl.constexpr):
    """Values (v, image · u) at `to` (·, u, image)."""
    values = tl.permute(tl.reshape(values, (v.shape[0], IMAGES, STEP)), (0, 2, 1))
    mask = (v < HALF)[:, None, None] & inside[None, None, :]
    to += (v * 4)[:, None, None] * planes
    tl.store(to, values.to(to.dtype.element_ty), mask=mask)


@triton.jit
def _columns_back_kernel(
    spectrum, rows, waves, images, channels, scale,
    HALF_X: tl.constexpr, RUN: tl.constexpr, HALF: tl.constexpr, ODD: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, GROUPS: tl.constexpr, IMAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectra → row spectra, a group of pairs of rows; blocks as in _columns_there_kernel."""
    WIDTH: tl.constexpr = (FIRST + SECOND) * GROUPS
    SIZE: tl.constexpr = WIDTH * WIDTH
    U_BLOCKS: tl.constexpr = HALF_X // STEP
    u = tl.program_id(0) % U_BLOCKS * STEP + tl.arange(0, STEP)
    pq = tl.program_id(0) // U_BLOCKS % 2
    k = tl.program_id(0) // (2 * U_BLOCKS)
    n = tl.program_id(1) * IMAGES + tl.arange(0, IMAGES)
    planes = channels * images
    column = (u * (HALF * 4) + pq)[None, :, None] * planes + k * images + n[None, None, :]
    mask = (n < images)[None, None, :]
    j1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    even1 = tl.zeros((FIRST, IMAGES * STEP), tl.float32)
    odd1 = tl.zeros((FIRST, IMAGES * STEP), tl.float32)
    if SECOND > 0:
        j2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        even2 = tl.zeros((SECOND, IMAGES * STEP), tl.float32)
        odd2 = tl.zeros((SECOND, IMAGES * STEP), tl.float32)
    for start in range(0, HALF, STEP):
        v = start + tl.arange(0, STEP)
        at = spectrum + column + (v * 4)[:, None, None] * planes
        p = tl.permute(tl.load(at, mask=mask, other=0.0), (0, 2, 1))
        q = tl.permute(tl.load(at + 2 * planes, mask=mask, other=0.0), (0, 2, 1))
        p = tl.reshape(p, (STEP, IMAGES * STEP))
        q = tl.reshape(q, (STEP, IMAGES * STEP))
        wave = waves + v[None, :]
        even1 = waves_times(wave + j1[:, None] * WIDTH, p, even1, 2 * SIZE, PRECISION)
        odd1 = waves_times(wave + SIZE + j1[:, None] * WIDTH, q, odd1, 2 * SIZE, PRECISION)
        if SECOND > 0:
            even2 = waves_times(wave + j2[:, None] * WIDTH, p, even2, 2 * SIZE, PRECISION)
            odd2 = waves_times(wave + SIZE + j2[:, None] * WIDTH, q, odd2, 2 * SIZE, PRECISION)
    pitch = channels * (2 * HALF_X)
    to = rows + n[None, :, None] * (2 * RUN * pitch) + k * (2 * HALF_X) + pq * HALF_X
    to += u[None, None, :]
    inside = n < images
    far, near = (even1 + odd1) * scale, (even1 - odd1) * scale
    if ODD:
        near = tl.where((j1 == 0)[:, None], 0.0, near)
    _store_rows(to, far, j1, inside, pitch, RUN, IMAGES)
    _store_rows(to + RUN * pitch, near, j1, inside, pitch, RUN, IMAGES)
    if SECOND > 0:
        _store_rows(to, (even2 + odd2) * scale, j2, inside, pitch, RUN, IMAGES)
        _store_rows(to + RUN * pitch, (even2 - odd2) * scale, j2, inside, pitch, RUN, IMAGES)


@triton.jit
def _store_rows(to, values, j, inside, pitch, RUN: tl.constexpr, IMAGES: tl.constexpr):
    """Values (pair, image · u) at `to` (·, image, u)."""
    values = tl.reshape(values, (j.shape[0], IMAGES, STEP))
    mask = (j < RUN)[:, None, None] & inside[None, :, None]
    to += (j * pitch)[:, None, None]
    tl.store(to, values.to(to.dtype.element_ty), mask=mask)


# -- products at each frequency --------------------------------------------------------------------


@triton.jit
def _join(spectrum, at, size, mask):
    """The complex values at (u, v) and (u, −v) from the four real numbers of a pair."""
    pp = tl.load(spectrum + at, mask=mask, other=0.0).to(tl.float32)
    qp = tl.load(spectrum + at + size, mask=mask, other=0.0).to(tl.float32)
    pq = tl.load(spectrum + at + 2 * size, mask=mask, other=0.0).to(tl.float32)
    qq = tl.load(spectrum + at + 3 * size, mask=mask, other=0.0).to(tl.float32)
    return pp - qq, -qp - pq, pp + qq, pq - qp


@triton.jit
def _dot(a, b, sum, PRECISION: tl.constexpr):
    if PRECISION == "half":
        return tl.dot(a.to(tl.float16), b.to(tl.float16), sum)
    else:
        return sum + matmul(a, b, PRECISION)


@triton.jit
def _complex_product(a_r, a_i, b_r, b_i, sum_r, sum_i, PRECISION: tl.constexpr):
    """sum + a @ b."""
    sum_r = _dot(a_r, b_r, sum_r, PRECISION)
    sum_i = _dot(a_r, b_i, sum_i, PRECISION)
    sum_r = _dot(-a_i, b_i, sum_r, PRECISION)
    sum_i = _dot(a_i, b_r, sum_i, PRECISION)
    return sum_r, sum_i


@triton.jit
def _kernel_values(kernel, at, size, mask, CONJUGATE: tl.constexpr):
    re = tl.load(kernel + at, mask=mask, other=0.0)
    im = tl.load(kernel + at + size, mask=mask, other=0.0)
    if CONJUGATE:
        im = -im
    return re, im


@triton.jit
def _product_kernel(
    kernel, spectrum, out, images, inputs, outputs, stride_out, stride_in,
    CONJUGATE: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, n] = Σ_i kernel[o, i] spectrum[i, n] at one pair of frequencies, with the kernel's
    conjugate if CONJUGATE. The kernel's strides make it transposed or not."""
    blocks = tl.cdiv(images, IMAGES)
    f = tl.program_id(0) // blocks
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    n = tl.program_id(0) % blocks * IMAGES + tl.arange(0, IMAGES)
    size = inputs * outputs
    w = f * 4 * size + o[:, None] * stride_out + i[None, :] * stride_in
    w_mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    x = f * 4 * inputs * images + i[:, None] * images + n[None, :]
    x_mask = (i < inputs)[:, None] & (n < images)[None, :]
    plus_r, plus_i, minus_r, minus_i = _join(spectrum, x, inputs * images, x_mask)
    zero = tl.zeros((OUT, IMAGES), tl.float32)
    w_r, w_i = _kernel_values(kernel, w, size, w_mask, CONJUGATE)
    yp_r, yp_i = _complex_product(w_r, w_i, plus_r, plus_i, zero, zero, PRECISION)
    w_r, w_i = _kernel_values(kernel, w + 2 * size, size, w_mask, CONJUGATE)
    ym_r, ym_i = _complex_product(w_r, w_i, minus_r, minus_i, zero, zero, PRECISION)
    step = outputs * images
    y = out + f * 4 * step + o[:, None] * images + n[None, :]
    y_mask = (o < outputs)[:, None] & (n < images)[None, :]
    kind: tl.constexpr = out.dtype.element_ty
    tl.store(y, (yp_r + ym_r).to(kind), mask=y_mask)
    tl.store(y + step, (-yp_i - ym_i).to(kind), mask=y_mask)
    tl.store(y + 2 * step, (ym_i - yp_i).to(kind), mask=y_mask)
    tl.store(y + 3 * step, (ym_r - yp_r).to(kind), mask=y_mask)


@triton.jit
def _correlate_kernel(
    gradient, spectrum, gradient_scales, spectrum_scales, out, images, inputs, outputs,
    pairs, gradient_step, spectrum_step, scale_step,
    ADD: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    ALL_IMAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, i] (+)= Σ_pairs Σ_n conj(gradient[o, n]) spectrum[i, n] at one pair of frequencies.
    The pairs lie so many numbers apart."""
    f = tl.program_id(0)
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    largest = 0.0
    every = tl.arange(0, ALL_IMAGES)
    for pair in range(0, pairs):
        scale = tl.load(
            gradient_scales + pair * scale_step + every, mask=every < images, other=0.0
        )
        scale *= tl.load(
            spectrum_scales + pair * scale_step + every, mask=every < images, other=0.0
        )
        largest = tl.maximum(largest, tl.max(scale, 0))
    largest = tl.maximum(largest, 1e-37)
    plus_r = tl.zeros((OUT, IN), tl.float32)
    plus_i = tl.zeros((OUT, IN), tl.float32)
    minus_r = tl.zeros((OUT, IN), tl.float32)
    minus_i = tl.zeros((OUT, IN), tl.float32)
    for _ in range(0, pairs):
        for start in range(0, images, IMAGES):
            n = start + tl.arange(0, IMAGES)
            inside = n < images
            weight = tl.load(gradient_scales + n, mask=inside, other=0.0)
            weight *= tl.load(spectrum_scales + n, mask=inside, other=0.0)
            weight = (weight / largest)[None, :]
            g = f * 4 * outputs * images + o[:, None] * images + n[None, :]
            mask = (o < outputs)[:, None] & inside[None, :]
            gp_r, gp_i, gm_r, gm_i = _join(gradient, g, outputs * images, mask)
            gp_r, gp_i, gm_r, gm_i = gp_r * weight, gp_i * weight, gm_r * weight, gm_i * weight
            x = f * 4 * inputs * images + i[None, :] * images + n[:, None]
            mask = (i < inputs)[None, :] & inside[:, None]
            xp_r, xp_i, xm_r, xm_i = _join(spectrum, x, inputs * images, mask)
            plus_r, plus_i = _complex_product(gp_r, -gp_i, xp_r, xp_i, plus_r, plus_i, PRECISION)
            minus_r, minus_i = _complex_product(
                gm_r, -gm_i, xm_r, xm_i, minus_r, minus_i, PRECISION
            )
        gradient += gradient_step
        spectrum += spectrum_step
        gradient_scales += scale_step
        spectrum_scales += scale_step
    size = inputs * outputs
    a = out + f * 4 * size + o[:, None] * inputs + i[None, :]
    mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    _put(a, plus_r * largest, mask, ADD)
    _put(a + size, plus_i * largest, mask, ADD)
    _put(a + 2 * size, minus_r * largest, mask, ADD)
    _put(a + 3 * size, minus_i * largest, mask, ADD)


@triton.jit
def _put(at, x, mask, ADD: tl.constexpr):
    if ADD:
        x += tl.load(at, mask=mask, other=0.0)
    tl.store(at, x, mask=mask)


# -- launching -------------------------------------------------------------------------------------

# Images (or 0), warps and pipeline stages of a program, from measurements on an H200.
LAUNCH = {
    "rows": (0, 4, 2),
    "columns_there": (8, 8, 2),
    "columns_back": (8, 8, 2),
    "product": (32, 1, 1),
    "product_float32": (16, 1, 1),
    "correlate": (16, 2, 1),
}


class Rows(NamedTuple):
    """Row spectra: values (N, H', K, 2, u), and the powers of two that they are multiplied by: rows,
    for each group of frequencies (N, H', groups), or, where `rows` is None, images (N,)."""

    values: Tensor
    rows: Tensor | None
    images: Tensor


class Spectrum(NamedTuple):
    """Spectra: values (u, v, 2, 2, K, N), and the powers of two that images (N,) are multiplied
    by."""

    values: Tensor
    images: Tensor


class Kernel(NamedTuple):
    """A kernel's spectrum: values (u, v, 2, 2, O, I), and what they are multiplied by, a scalar."""

    values: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Plan:
    """Sizes and precision of a pass's convolutions; its methods launch their kernels."""

    sizes: Sizes
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.precision == HALF_PRECISION else torch.float32

    @property
    def unit_x(self) -> float:
        return self.sizes.x.unit if self.precision == HALF_PRECISION else 1.0

    @property
    def unit_y(self) -> float:
        return self.sizes.y.unit if self.precision == HALF_PRECISION else 1.0

    @property
    def back(self) -> float:
        """What the inverse row transform multiplies by: 2 / N, and the units taken back."""
        return 1 / (self.sizes.x.half * self.unit_x * self.unit_y)

    def waves(self, axis: Axis, by_pair: bool, device: torch.device) -> Tensor:
        return waves(axis, self.precision, by_pair, device)

    def row_options(self, channels: int) -> dict:
        """What every kernel that works on rows is given."""
        x, K = self.sizes.x, block(channels)
        first, second, _ = x.blocks
        return dict(
            RUN=x.run, ODD=x.odd, HALF=x.half, FIRST=first, SECOND=second, K=K,
            ROWS=max(K, ROWS), PRECISION=self.precision,
        )  # fmt: skip

    def row_programs(self, channels: int) -> int:
        """How many programs share an image's rows."""
        return self.sizes.y.pitch * block(channels) // max(block(channels), ROWS)

    def image_scales(self, count: int, images: int, device: torch.device) -> Tensor:
        """Where so many row transforms put their images' powers of two, (count, N)."""
        make = torch.zeros if self.precision == HALF_PRECISION else torch.ones
        return make(count, images, device=device)

    def new_rows(self, images: int, channels: int, image_scales: Tensor) -> Rows:
        y, x = self.sizes.y, self.sizes.x
        shape = (images, y.pitch, channels, 2, x.half)
        values = image_scales.new_empty(shape, dtype=self.dtype)
        scales = image_scales.new_empty(images, y.pitch, x.blocks[2])
        return Rows(values, scales, image_scales)

    def new_spectra(self, count: int, channels: int, images: int, device: torch.device) -> Tensor:
        shape = (count, self.sizes.x.half, self.sizes.y.half, 2, 2, channels, images)
        return torch.empty(shape, dtype=self.dtype, device=device)

    def rows_there(self, x: Tensor) -> Rows:
        """Activity (N, K, H, W) → row spectra."""
        images, channels = x.shape[:2]
        rows = self.new_rows(images, channels, self.image_scales(1, images, x.device)[0])
        self._launch_rows(
            _rows_there_kernel, x, rows.values, self.waves(self.sizes.x, True, x.device),
            rows.rows, rows.images, unit=self.unit_x,
        )  # fmt: skip
        return rows

    def rows_back(self, rows: Rows, kernel_scale: Tensor) -> Tensor:
        """Row spectra → activity (N, K, H, W)."""
        images, _, channels = rows.values.shape[:3]
        x = rows.images.new_empty(images, channels, self.sizes.y.size, self.sizes.x.size)
        self._launch_rows(
            _rows_back_kernel, rows.values, x, self.waves(self.sizes.x, False, x.device),
            rows.images, kernel_scale, unit=self.back,
        )  # fmt: skip
        return x

    def _launch_rows(self, kernel, source: Tensor, out: Tensor, *others, unit: float) -> None:
        y, x = self.sizes.y, self.sizes.x
        images, channels = (out if kernel is _rows_back_kernel else source).shape[:2]
        _, warps, stages = LAUNCH["rows"]
        kernel[(self.row_programs(channels), images, x.blocks[2])](
            source, out, *others, channels, y.size, x.size, y.right, y.left, x.right, x.left, unit,
            **self.row_options(channels), RUN_Y=y.run, ODD_Y=y.odd, GROUPS=x.blocks[2],
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def columns_there(self, rows: Rows, out: Tensor | None = None) -> Spectrum:
        """Row spectra → spectra, put into `out` (u, v, 2, 2, K, N) if given."""
        images, _, channels = rows.values.shape[:3]
        if out is None:
            out = self.new_spectra(1, channels, images, rows.values.device)[0]
        y, (grid, options) = self.sizes.y, self._columns("columns_there", channels, images)
        _columns_there_kernel[grid](
            rows.values, out, self.waves(y, False, out.device), rows.rows, rows.images,
            images, channels, self.unit_y, GROUPS_X=self.sizes.x.blocks[2],
            GROUP_X=sum(self.sizes.x.blocks[:2]), **options,
        )  # fmt: skip
        return Spectrum(out, rows.images)

    def columns_back(self, spectrum: Spectrum) -> Rows:
        """Spectra → row spectra."""
        channels, images = spectrum.values.shape[-2:]
        y, x = self.sizes.y, self.sizes.x
        rows = spectrum.values.new_empty(images, y.pitch, channels, 2, x.half)
        grid, options = self._columns("columns_back", channels, images)
        _columns_back_kernel[grid](
            spectrum.values, rows, self.waves(y, True, rows.device), images, channels,
            0.5 / y.half, ODD=y.odd, **options,
        )  # fmt: skip
        return Rows(rows, None, spectrum.images)

    def _columns(self, name: str, channels: int, images: int) -> tuple[tuple[int, ...], dict]:
        y, x = self.sizes.y, self.sizes.x
        first, second, groups = y.blocks
        together, warps, stages = LAUNCH[name]
        together = min(together, triton.next_power_of_2(images))
        grid = 2 * channels * (x.half // 16), triton.cdiv(images, together), groups
        return grid, dict(
            HALF_X=x.half, RUN=y.run, HALF=y.half, FIRST=first, SECOND=second, GROUPS=groups,
            IMAGES=together, PRECISION=self.precision, num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def product(self, kernel: Kernel, spectrum: Spectrum, adjoint: bool = False) -> Spectrum:
        """A kernel's spectrum (…, O, I) times spectra (…, I, N) → (…, O, N); `adjoint`: its
        conjugate transpose, from (…, O, N) to (…, I, N)."""
        outputs, inputs = kernel.values.shape[-2:]
        strides = (inputs, 1)
        if adjoint:
            outputs, inputs, strides = inputs, outputs, (1, inputs)
        values, images = spectrum.values, spectrum.values.shape[-1]
        out = values.new_empty(*values.shape[:-2], outputs, images)
        name = "product" if self.precision == HALF_PRECISION else "product_float32"
        together, warps, stages = _images_block(name, images)
        _product_kernel[(triton.cdiv(images, together) * values.shape[:2].numel(),)](
            kernel.values, values, out, images, inputs, outputs, *strides,
            CONJUGATE=adjoint, OUT=block(outputs), IN=block(inputs), IMAGES=together,
            PRECISION=self.precision, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return Spectrum(out, spectrum.images)

    def convolve(
        self, rows: Rows, kernel: Kernel, out: Tensor | None = None
    ) -> tuple[Rows, Spectrum]:
        """Row spectra of an activity → those of its convolution, to be multiplied by the kernel's
        scale, and the activity's spectra, put into `out` if given."""
        spectrum = self.columns_there(rows, out)
        return self.columns_back(self.product(kernel, spectrum)), spectrum

    def correlate(
        self,
        gradients: Spectrum,
        spectra: Spectrum,
        out: Tensor | None,
        like: Kernel,
        stride: int = 1,
    ) -> Tensor:
        """Σ over pairs and images of conj(gradient (…, O, N)) · spectrum (…, I, N), put or added
        into `out` (u, v, 2, 2, O, I), which is returned.

        Args:
            gradients, spectra: as many of each, along an axis before the others.
            out: the sum so far, None where it begins.
            like: the kernel whose gradient this is.
            stride: take every so-many-th.
        """
        add = out is not None
        if out is None:
            out = torch.empty_like(like.values, dtype=torch.float32)
        outputs, inputs = out.shape[-2:]
        count, images = len(gradients.values), gradients.values.shape[-1]
        together, warps, stages = _images_block("correlate", images)
        _correlate_kernel[(out.shape[:2].numel(),)](
            gradients.values, spectra.values, gradients.images, spectra.images, out,
            images, inputs, outputs, -(-count // stride), stride * gradients.values[0].numel(),
            stride * spectra.values[0].numel(), stride * images,
            ADD=add, OUT=block(outputs), IN=block(inputs), IMAGES=together,
            ALL_IMAGES=triton.next_power_of_2(images), PRECISION=self.precision,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out

    def kernel(self, W: Tensor) -> Kernel:
        """W (O, I, h, w) → Σ_d W(d) exp(iθd) as (u, v, s, c, O, I)."""
        outputs, inputs = W.shape[:2]
        sizes = self.sizes
        down, along = _tap_waves(sizes.y, True, W.device), _tap_waves(sizes.x, False, W.device)
        taps = W.permute(3, 2, 0, 1).reshape(sizes.x.taps, -1).to(along.dtype)
        rows = (along @ taps).view(sizes.x.half, sizes.y.taps, -1)
        full = torch.view_as_real(torch.matmul(down, rows)).movedim(-1, 2)
        scale = W.new_ones(())
        if self.precision == HALF_PRECISION:
            scale = _kernel_bound(W)
            full = (full / scale).half()
        shape = (sizes.x.half, sizes.y.half, 2, 2, outputs, inputs)
        return Kernel(full.contiguous().view(shape), scale)

    def kernel_gradient(self, gradient: Tensor, like: Tensor) -> Tensor:
        """The correlations' sum (u, v, s, c, O, I) → the gradient of W (O, I, h, w)."""
        sizes, (outputs, inputs) = self.sizes, like.shape[:2]
        device = like.device
        down, along = _tap_waves(sizes.y, True, device), _tap_waves(sizes.x, False, device)
        parts = gradient.view(sizes.x.half, 2 * sizes.y.half, 2, -1).movedim(2, -1).contiguous()
        rows = torch.matmul(down.t(), torch.view_as_complex(parts))  # (u, h, O·I)
        scale = sizes.scale / (self.unit_x * self.unit_y) ** 2
        taps = (along.t() @ rows.view(sizes.x.half, -1)).real * scale
        taps = taps.view(sizes.x.taps, sizes.y.taps, outputs, inputs)
        return taps.permute(2, 3, 1, 0).contiguous()


def _kernel_bound(W: Tensor) -> Tensor:
    """A power of two that no sum over channels of the sizes of W's spectrum exceeds."""
    sizes = W.abs().sum((2, 3))
    bound = torch.maximum(sizes.sum(0).amax(), sizes.sum(1).amax())
    return torch.exp2(torch.ceil(torch.log2(bound.clamp(1e-30, 1e30))))


def block(channels: int) -> int:
    """Channels of a program's tile: a power of two."""
    return max(16, triton.next_power_of_2(channels))


def _images_block(name: str, images: int) -> tuple[int, int, int]:
    together, warps, stages = LAUNCH[name]
    return (16 if images <= 16 else together), warps, stages


@functools.cache
def _tap_waves(axis: Axis, both_signs: bool, device: torch.device) -> Tensor:
    """exp(±iθd) at every tap: (frequency, tap), or (frequency and sign, tap)."""
    d = torch.arange(axis.taps, dtype=torch.float64) - (axis.taps - 1) // 2
    θ = math.pi / axis.half * (torch.arange(axis.half, dtype=torch.float64) + 0.5)
    if both_signs:
        θ = torch.stack([θ, -θ], 1).flatten()
    angle = torch.outer(θ, d)
    return torch.complex(torch.cos(angle), torch.sin(angle)).to(device, torch.complex64)


# -- the convolution -------------------------------------------------------------------------------


class TritonKernel:
    """W's spectrum for one image size, to be called on activities (see HorizontalKernel)."""

    def __init__(self, W: Tensor, sizes: tuple[int, int, int, int]):
        self.plan = Plan(Sizes.of(*sizes), chosen_precision())
        self.sum = GradientSum()
        self.joint, *self.kernel = _SpectrumFunction.apply(W, self.plan)

    def __call__(self, activity: Tensor) -> Tensor:
        return _ConvolutionFunction.apply(
            activity.contiguous(), self.joint, *self.kernel, self.plan, self.sum
        )


class _SpectrumFunction(torch.autograd.Function):
    """W → what carries its spectrum's gradient (float32, without values), and the spectrum."""

    @staticmethod
    def forward(ctx, W, plan):
        ctx.plan = plan
        ctx.save_for_backward(W)
        kernel = plan.kernel(W)
        ctx.mark_non_differentiable(*kernel)
        return W.new_empty(()).expand(kernel.values.shape), *kernel

    @staticmethod
    def backward(ctx, total, *_):
        refuse_double_backward()
        return ctx.plan.kernel_gradient(total, ctx.saved_tensors[0]), None


class _ConvolutionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activity, joint, values, scale, plan, gradient_sum):
        kernel = Kernel(values, scale)
        rows, spectrum = plan.convolve(plan.rows_there(activity), kernel)
        ctx.plan, ctx.sum = plan, gradient_sum
        kept = spectrum if ctx.needs_input_grad[1] else (None, None)
        ctx.save_for_backward(*kernel, *kept)
        return plan.rows_back(rows, kernel.scale)

    @staticmethod
    def backward(ctx, gradient):
        refuse_double_backward()
        plan, kernel = ctx.plan, Kernel(*ctx.saved_tensors[:2])
        transformed = plan.columns_there(plan.rows_there(gradient.contiguous()))
        grad_activity = grad_joint = None
        if ctx.needs_input_grad[1]:
            pair = [Spectrum(s[None], m[None]) for s, m in (transformed, ctx.saved_tensors[2:])]
            grad_joint = ctx.sum.add(
                lambda: plan.correlate(*pair, None, kernel),
                lambda sum: plan.correlate(*pair, sum, kernel),
            )
        if ctx.needs_input_grad[0]:
            rows = plan.columns_back(plan.product(kernel, transformed, adjoint=True))
            grad_activity = plan.rows_back(rows, kernel.scale)
        return grad_activity, grad_joint, None, None, None, None


def tf32_allowed() -> bool:
    """Whether PyTorch's own convolutions may round their inputs to TF32 on this machine's GPU."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    precision = getattr(conv, "fp32_precision", None)
    return torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32"


def chosen_precision() -> str:
    """How spectra are kept: HALF_PRECISION where TF32 is allowed, or FLOAT32."""
    return HALF_PRECISION if tf32_allowed() else FLOAT32
