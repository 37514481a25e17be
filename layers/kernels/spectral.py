"""The spectral horizontal convolution on a CUDA device, in Triton.

The transforms are dense matrix products with cosines and sines of half-integer frequencies, and the
four real numbers of a pair of frequencies are joined only for the product with the kernel's
spectrum; docs/kernels.md says how and in what precision. The layouts:

    activity        (N, K, H, W), or folded (N, K, H', W')
    row spectrum    (u, pq, N, K, H')           pq of the row transform
    spectrum        (u, v, pq, pq, K, N)        pq of the column transform, then of the row's
    kernel spectrum (u, v, sign, c, O, I)       sign of v; c real, imaginary

A folded axis lists the pixels from the middle to the right, then those from the middle to the left,
each padded with zeros to a multiple of four (`Axis.pitch` numbers in all).
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers.kernels import compiled
from layers.methods import GradientSum, own_backward

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
    number = torch.arange(axis.half, dtype=torch.float64)
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


# -- what kernels share ----------------------------------------------------------------------------


@triton.jit
def rounded(x):
    """To the nearest TF32 value. (The matrix units would cut the digits off: a bias.)"""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def split(x, PRECISION: tl.constexpr):
    """x as a product with :func:`add_product` takes it, and what that leaves out."""
    if PRECISION == "half":
        return x.to(tl.float16), x
    else:
        high = rounded(x)
        return high, x - high


@triton.jit
def add_product(high, low, m_high, m_low, sum, PRECISION: tl.constexpr):
    """sum + (high + low) @ (m_high + m_low): three products of TF32; in half precision, one of what
    is high."""
    if PRECISION == "half":
        return tl.dot(high, m_high, sum)
    else:
        sum = tl.dot(low, m_high, sum, input_precision="tf32")
        sum = tl.dot(high, m_low, sum, input_precision="tf32")
        return tl.dot(high, m_high, sum, input_precision="tf32")


@triton.jit
def power_above(x):
    """The power of two above x ≥ 0 (2⁻¹²⁶ for 0)."""
    # Of a float32, bits 23 to 30 are the exponent: kept, and one more. 0x7D000000 is 2¹²³: NaN,
    # infinity and what is near them count as that, so that the result stays finite.
    bits = tl.minimum(x.to(tl.int32, bitcast=True), 0x7D000000)
    return ((bits & 0x7F800000) + 0x00800000).to(tl.float32, bitcast=True)


@triton.jit
def image_scale(largest, n, mask, PRECISION: tl.constexpr):
    """What images n were divided by: a power of two above their `largest` pixels."""
    if PRECISION == "half":
        return power_above(tl.load(largest + n, mask=mask, other=1.0))
    else:
        return tl.where(mask, 1.0, 1.0)


# -- transforms ------------------------------------------------------------------------------------
#
# A transform's matrix is square, HALF × HALF, larger than a power of two as a rule: a program
# covers FIRST + SECOND of its columns, two powers of two side by side (SECOND 0: only one).


@triton.jit
def _waves(waves, column, depth, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """A block (depth, column) of cosines and sines: high, high, low, low."""
    at = waves + column[:, None] * HALF + depth[None, :]
    mask = (column < HALF)[:, None] & (depth < HALF)[None, :]
    size: tl.constexpr = HALF * HALF
    c = tl.trans(tl.load(at, mask=mask, other=0.0))
    s = tl.trans(tl.load(at + size, mask=mask, other=0.0))
    if PRECISION == "half":
        return c, s, c, s
    else:
        c_low = tl.trans(tl.load(at + 2 * size, mask=mask, other=0.0))
        s_low = tl.trans(tl.load(at + 3 * size, mask=mask, other=0.0))
        return c, s, c_low, s_low


@triton.jit
def _add_waves(
    even, odd, waves, column, depth, p, q, HALF: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """p + even @ cosines and q + odd @ sines of these (depth, column)."""
    even, even_low = split(even, PRECISION)
    odd, odd_low = split(odd, PRECISION)
    c, s, c_low, s_low = _waves(waves, column, depth, HALF, PRECISION)
    p = add_product(even, even_low, c, c_low, p, PRECISION)
    return p, add_product(odd, odd_low, s, s_low, q, PRECISION)


@triton.jit
def _line(
    r, inside, rows, planes, images, channels, batch, height, width, right_y, left_y,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD_Y: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """Where rows of pixels begin, and which of them there are.

    FOLDED: rows of 2 · RUN numbers, (batch, pq, N, K) of them taken in the order (pq, K, N).
    Otherwise an activity (planes, height, width), whose rows are taken in the order of the folded
    column axis of 2 · RUN_Y.
    """
    if FOLDED:
        plane = r % planes
        row = r - plane + plane % images * channels + plane // images
        return (batch * rows + row) * (2 * RUN), inside
    else:
        y = r % (2 * RUN_Y)
        inside &= (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
        y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
        return ((r // (2 * RUN_Y)).to(tl.int64) * height + y) * width, inside


@triton.jit
def _put_frequencies(to, r, rows, u, p, q, HALF: tl.constexpr):
    at = to + r[:, None] + u[None, :].to(tl.int64) * (2 * rows)
    mask = (r < rows)[:, None] & (u < HALF)[None, :]
    tl.store(at, p.to(to.dtype.element_ty), mask=mask)
    tl.store(at + rows, q.to(to.dtype.element_ty), mask=mask)


@triton.jit
def _put_pixels(
    to, j, far, near, inside, width, right, left,
    RUN: tl.constexpr, ODD: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """The pairs j of rows at `to`, right and left."""
    kind: tl.constexpr = to.dtype.element_ty
    if FOLDED:
        if ODD:
            near = tl.where((j == 0)[None, :], 0.0, near)
        keep = inside[:, None] & (j < RUN)[None, :]
        tl.store(to[:, None] + j[None, :], far.to(kind), mask=keep)
        tl.store(to[:, None] + RUN + j[None, :], near.to(kind), mask=keep)
    else:
        keep = inside[:, None] & (j < width - right)[None, :]
        tl.store(to[:, None] + (right + j)[None, :], far, mask=keep)
        keep = inside[:, None] & ((j >= ODD) & (j <= left))[None, :]
        tl.store(to[:, None] + (left - j)[None, :], near, mask=keep)


@triton.jit
def _there_kernel(
    x, out, waves, largest, unit, per_image, rows, planes, images, channels, height, width,
    right_y, left_y, right, left,
    HALF: tl.constexpr, RUN: tl.constexpr, RUN_Y: tl.constexpr, FOLDED: tl.constexpr,
    ODD: tl.constexpr, ODD_Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of pixels (see _line) → (frequency, pq, rows), for each of a batch. They are multiplied
    by `unit` and, where the `largest` pixels of their images, of so many rows each, are given,
    divided by a power of two above those."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    batch = tl.program_id(1).to(tl.int64)
    u1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    p1 = tl.zeros((ROWS, FIRST), tl.float32)
    q1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        u2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        p2 = tl.zeros((ROWS, SECOND), tl.float32)
        q2 = tl.zeros((ROWS, SECOND), tl.float32)
    line, inside = _line(
        r, inside, rows, planes, images, channels, batch, height, width, right_y, left_y,
        RUN, RUN_Y, ODD_Y, FOLDED,
    )  # fmt: skip
    at = x + line[:, None]
    factor = unit
    if PRECISION == "half" and largest is not None:
        factor = (unit / image_scale(largest, r // per_image, inside, PRECISION))[:, None]
    for start in range(0, HALF, DEPTH):
        j = start + tl.arange(0, DEPTH)
        if FOLDED:
            mask = inside[:, None] & (j < RUN)[None, :]
            far = tl.load(at + j[None, :], mask=mask, other=0.0)
            near = tl.load(at + RUN + j[None, :], mask=mask, other=0.0)
        else:
            mask = inside[:, None] & (j < width - right)[None, :]
            far = tl.load(at + (right + j)[None, :], mask=mask, other=0.0)
            mask = inside[:, None] & ((j >= ODD) & (j <= left))[None, :]
            near = tl.load(at + (left - j)[None, :], mask=mask, other=0.0)
        far, near = far.to(tl.float32), near.to(tl.float32)
        even, odd = (far + near) * factor, (far - near) * factor
        p1, q1 = _add_waves(even, odd, waves, u1, j, p1, q1, HALF, PRECISION)
        if SECOND > 0:
            p2, q2 = _add_waves(even, odd, waves, u2, j, p2, q2, HALF, PRECISION)
    to = out + batch * (2 * HALF) * rows
    _put_frequencies(to, r, rows, u1, p1, q1, HALF)
    if SECOND > 0:
        _put_frequencies(to, r, rows, u2, p2, q2, HALF)


@triton.jit
def _back_kernel(
    spectrum, x, waves, largest, kernel_scale, unit, per_image, rows, planes, images, channels,
    height, width, right_y, left_y, right, left,
    HALF: tl.constexpr, RUN: tl.constexpr, RUN_Y: tl.constexpr, FOLDED: tl.constexpr,
    ODD: tl.constexpr, ODD_Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(frequency, pq, rows) → rows of pixels (see _line), for each of a batch. They are multiplied
    by `unit` and, if given, by the kernel's scale and their images'."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    batch = tl.program_id(1).to(tl.int64)
    factor = unit
    if largest is not None:
        scale = image_scale(largest, r // per_image, inside, PRECISION)
        factor = (unit * tl.load(kernel_scale) * scale)[:, None]
    j1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    even1 = tl.zeros((ROWS, FIRST), tl.float32)
    odd1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        j2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        even2 = tl.zeros((ROWS, SECOND), tl.float32)
        odd2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = spectrum + batch * (2 * HALF) * rows + r[:, None]
    for start in range(0, HALF, DEPTH):
        u = start + tl.arange(0, DEPTH)
        mask = (r < rows)[:, None] & (u < HALF)[None, :]
        here = at + u[None, :].to(tl.int64) * (2 * rows)
        p = tl.load(here, mask=mask, other=0.0)
        q = tl.load(here + rows, mask=mask, other=0.0)
        even1, odd1 = _add_waves(p, q, waves, j1, u, even1, odd1, HALF, PRECISION)
        if SECOND > 0:
            even2, odd2 = _add_waves(p, q, waves, j2, u, even2, odd2, HALF, PRECISION)
    even1, odd1 = even1 * factor, odd1 * factor
    far1, near1 = even1 + odd1, even1 - odd1
    if SECOND > 0:
        even2, odd2 = even2 * factor, odd2 * factor
        far2, near2 = even2 + odd2, even2 - odd2
    line, inside = _line(
        r, inside, rows, planes, images, channels, batch, height, width, right_y, left_y,
        RUN, RUN_Y, ODD_Y, FOLDED,
    )  # fmt: skip
    _put_pixels(x + line, j1, far1, near1, inside, width, right, left, RUN, ODD, FOLDED)
    if SECOND > 0:
        _put_pixels(x + line, j2, far2, near2, inside, width, right, left, RUN, ODD, FOLDED)


# -- columns in half precision ---------------------------------------------------------------------
#
# The same transforms as products with one matrix: twice the work for the matrix units, which idle,
# but numbers go from memory to them as they are. A program keeps the matrix in shared memory and
# takes a tile of rows after the other; those of the next ones are on their way meanwhile.


@triton.jit
def _row_of(r, images, channels):
    """Where row r of the order (pq, K, N) stands in (pq, N, K)."""
    plane = r % (images * channels)
    return r - plane + plane % images * channels + plane // images


@triton.jit
def _matrix(matrix, A1: tl.constexpr, A2: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr):
    """A matrix (A1 + A2, B1 + B2) in four blocks, and where their rows and columns stand."""
    a1, a2 = tl.arange(0, A1), A1 + tl.arange(0, A2)
    b1, b2 = tl.arange(0, B1), B1 + tl.arange(0, B2)
    above, below = matrix + a1[:, None] * (B1 + B2), matrix + a2[:, None] * (B1 + B2)
    m11, m12 = tl.load(above + b1[None, :]), tl.load(above + b2[None, :])
    m21, m22 = tl.load(below + b1[None, :]), tl.load(below + b2[None, :])
    return m11, m12, m21, m22, a1, a2, b1, b2


@triton.jit
def _tile(tile, count, ROWS: tl.constexpr):
    """A tile's row frequency, its rows, and which of them there are."""
    per_u = tl.cdiv(count, ROWS)
    r = tile % per_u * ROWS + tl.arange(0, ROWS)
    return (tile // per_u).to(tl.int64), r, (r < count)[:, None]


@triton.jit
def _columns_there_kernel(
    x, out, matrix, count, images, channels, tiles,
    PITCH: tl.constexpr, LINES: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    F1: tl.constexpr, F2: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Row spectra (u, pq, N, K, PITCH) → spectra (u, LINES, pq, K, N), `count` of pq, K, N."""
    m11, m12, m21, m22, j1, j2, u1, u2 = _matrix(matrix, P1, P2, F1, F2)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        u, r, inside = _tile(tile, count, ROWS)
        at = x + ((u * count + _row_of(r, images, channels)) * PITCH)[:, None]
        x1 = tl.load(at + j1[None, :], mask=inside & (j1 < PITCH)[None, :], other=0.0)
        x2 = tl.load(at + j2[None, :], mask=inside & (j2 < PITCH)[None, :], other=0.0)
        to = out + u * LINES * count + r[:, None]
        y = tl.dot(x2, m21, tl.dot(x1, m11)).to(tl.float16)
        mask = inside & (u1 < LINES)[None, :]
        tl.store(to + u1[None, :].to(tl.int64) * count, y, mask=mask)
        y = tl.dot(x2, m22, tl.dot(x1, m12)).to(tl.float16)
        mask = inside & (u2 < LINES)[None, :]
        tl.store(to + u2[None, :].to(tl.int64) * count, y, mask=mask)


@triton.jit
def _columns_back_kernel(
    spectrum, x, matrix, unit, count, images, channels, tiles,
    PITCH: tl.constexpr, LINES: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    F1: tl.constexpr, F2: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Spectra (u, LINES, pq, K, N) → row spectra (u, pq, N, K, PITCH), times `unit`."""
    m11, m12, m21, m22, u1, u2, j1, j2 = _matrix(matrix, F1, F2, P1, P2)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        u, r, inside = _tile(tile, count, ROWS)
        at = spectrum + u * LINES * count + r[:, None]
        mask = inside & (u1 < LINES)[None, :]
        y1 = tl.load(at + u1[None, :].to(tl.int64) * count, mask=mask, other=0.0)
        mask = inside & (u2 < LINES)[None, :]
        y2 = tl.load(at + u2[None, :].to(tl.int64) * count, mask=mask, other=0.0)
        to = x + ((u * count + _row_of(r, images, channels)) * PITCH)[:, None]
        out = (tl.dot(y2, m21, tl.dot(y1, m11)) * unit).to(tl.float16)
        tl.store(to + j1[None, :], out, mask=inside & (j1 < PITCH)[None, :])
        out = (tl.dot(y2, m22, tl.dot(y1, m12)) * unit).to(tl.float16)
        tl.store(to + j2[None, :], out, mask=inside & (j2 < PITCH)[None, :])


# -- products at each frequency --------------------------------------------------------------------


@triton.jit
def _join(spectrum, at, size, mask):
    """The complex values at (u, v) and (u, −v) from the four real numbers of a pair (see
    docs/kernels.md)."""
    pp = tl.load(spectrum + at, mask=mask, other=0.0).to(tl.float32)
    qp = tl.load(spectrum + at + size, mask=mask, other=0.0).to(tl.float32)
    pq = tl.load(spectrum + at + 2 * size, mask=mask, other=0.0).to(tl.float32)
    qq = tl.load(spectrum + at + 3 * size, mask=mask, other=0.0).to(tl.float32)
    return pp - qq, -qp - pq, pp + qq, pq - qp


@triton.jit
def _complex_product(a_r, a_i, b_r, b_i, sum_r, sum_i, PRECISION: tl.constexpr):
    """sum + a @ b."""
    ar, ar_low = split(a_r, PRECISION)
    ai, ai_low = split(a_i, PRECISION)
    br, br_low = split(b_r, PRECISION)
    bi, bi_low = split(b_i, PRECISION)
    sum_r = add_product(ar, ar_low, br, br_low, sum_r, PRECISION)
    sum_i = add_product(ar, ar_low, bi, bi_low, sum_i, PRECISION)
    sum_r = add_product(-ai, -ai_low, bi, bi_low, sum_r, PRECISION)
    sum_i = add_product(ai, ai_low, br, br_low, sum_i, PRECISION)
    return sum_r, sum_i


@triton.jit
def _kernel_times(
    kernel, at, size, mask, x_r, x_i, CONJUGATE: tl.constexpr, PRECISION: tl.constexpr
):
    re = tl.load(kernel + at, mask=mask, other=0.0)
    im = tl.load(kernel + at + size, mask=mask, other=0.0)
    if CONJUGATE:
        im = -im
    zero = tl.zeros((re.shape[0], x_r.shape[1]), tl.float32)
    return _complex_product(re, im, x_r, x_i, zero, zero, PRECISION)


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
    yp_r, yp_i = _kernel_times(kernel, w, size, w_mask, plus_r, plus_i, CONJUGATE, PRECISION)
    w += 2 * size
    ym_r, ym_i = _kernel_times(kernel, w, size, w_mask, minus_r, minus_i, CONJUGATE, PRECISION)
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
    gradient, spectrum, gradient_largest, spectrum_largest, out, images, inputs, outputs,
    pairs, gradient_step, spectrum_step, scale_step,
    ADD: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    ALL_IMAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, i] (+)= Σ_pairs Σ_n conj(gradient[o, n]) spectrum[i, n] at one pair of frequencies.
    The pairs lie so many numbers apart."""
    f = tl.program_id(0)
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    largest = 1e-37
    every = tl.arange(0, ALL_IMAGES)
    for pair in range(0, pairs):
        at = pair * scale_step + every
        scale = image_scale(gradient_largest, at, every < images, PRECISION)
        scale *= image_scale(spectrum_largest, at, every < images, PRECISION)
        largest = tl.maximum(largest, tl.max(tl.where(every < images, scale, 0.0), 0))
    plus_r = tl.zeros((OUT, IN), tl.float32)
    plus_i = tl.zeros((OUT, IN), tl.float32)
    minus_r = tl.zeros((OUT, IN), tl.float32)
    minus_i = tl.zeros((OUT, IN), tl.float32)
    for _ in range(0, pairs):
        for start in range(0, images, IMAGES):
            n = start + tl.arange(0, IMAGES)
            inside = n < images
            weight = image_scale(gradient_largest, n, inside, PRECISION)
            weight *= image_scale(spectrum_largest, n, inside, PRECISION)
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
        gradient_largest += scale_step
        spectrum_largest += scale_step
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

# From measurements on an H200. Of the transforms in half precision, for plain and folded rows and
# for columns: rows of a program, frequencies or pairs that it takes at a time, warps, stages.
TRANSFORMS = {
    "there": (64, 16, 4, 2),
    "there_folded": (128, 16, 4, 2),
    "there_columns": (64, 16, 4, 2),
    "back": (64, 16, 4, 4),
    "back_folded": (64, 16, 4, 4),
    "back_columns": (64, 16, 4, 4),
}
FLOAT32_TRANSFORM = (64, 16, 4, 2)
# Of columns in half precision, from measurements on an H100: rows of a tile, warps, stages; and how
# many frequencies there may be for the matrix to fit into so much shared memory.
COLUMNS, COLUMN_FREQUENCIES, COLUMN_MEMORY = (64, 4, 3), 96, 160 * 1024
# Of the products: images of a program, warps and stages.
LAUNCH = {
    "product": (32, 1, 1),
    "product_float32": (16, 1, 1),
    "correlate": (16, 1, 1),
}


class Rows(NamedTuple):
    """Row spectra: values (u, 2, N, K, H') and the largest pixels (N,) of the images they are of
    (in half precision; any numbers otherwise)."""

    values: Tensor
    largest: Tensor


class Spectrum(NamedTuple):
    """Spectra: values (u, v, 2, 2, K, N) and the largest pixels (N,) of their images."""

    values: Tensor
    largest: Tensor


class Kernel(NamedTuple):
    """A kernel's spectrum: values (u, v, 2, 2, O, I), and what they are multiplied by, a scalar."""

    values: Tensor
    scale: Tensor


class Convolved(NamedTuple):
    """What a convolution made, folded (N, K, H', W'): float32, or half precision in units of 2⁻¹⁴
    times the kernel's scale and a power of two above the largest pixel (N,) of its activity, which
    together no result exceeds."""

    values: Tensor
    largest: Tensor
    kernel_scale: Tensor


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

    def new_largest(self, count: int, images: int, device: torch.device) -> Tensor:
        """Where kernels put the largest pixels of what they write, (count, N)."""
        return torch.zeros(count, images, device=device)

    def new_spectra(self, count: int, channels: int, images: int, device: torch.device) -> Tensor:
        shape = (count, self.sizes.x.half, self.sizes.y.half, 2, 2, channels, images)
        return torch.empty(shape, dtype=self.dtype, device=device)

    def rows_there(self, x: Tensor, largest: Tensor | None = None, folded: bool = False) -> Rows:
        """Activity (N, K, H, W), or folded, → row spectra. `largest` (N,): of its pixels, if they
        are known."""
        images, channels = x.shape[:2]
        if largest is None and self.precision == HALF_PRECISION:
            largest = torch.linalg.vector_norm(x, math.inf, (1, 2, 3))
        elif largest is None:
            largest = x.new_empty(images)  # float32 needs no exponents
        y = self.sizes.y
        out = x.new_empty(self.sizes.x.half, 2, images, channels, y.pitch, dtype=self.dtype)
        rows = images * channels * y.pitch
        self._launch(
            _there_kernel, "there_folded" if folded else "there", (x, out), self.sizes.x, False,
            (largest, self.unit_x, rows // images), rows, (rows, 1, 1), folded,
        )  # fmt: skip
        return Rows(out, largest)

    def rows_back(
        self, rows: Rows, kernel_scale: Tensor, folded: bool = False, units: bool = False
    ) -> Tensor:
        """Row spectra → activity (N, K, H, W), or folded; `units`: the values of Convolved."""
        y, x = self.sizes.y, self.sizes.x
        images, channels = rows.values.shape[2:4]
        shape = (y.pitch, x.pitch) if folded else (y.size, x.size)
        count = images * channels * y.pitch
        units &= self.precision == HALF_PRECISION
        like, factor = (rows.values, self.back * 2.0**14) if units else (rows.largest, self.back)
        out = like.new_empty(images, channels, *shape)
        scales = (None, None) if units else (rows.largest, kernel_scale)
        self._launch(
            _back_kernel, "back_folded" if folded else "back", (rows.values, out), x, True,
            (*scales, factor, count // images), count, (count, 1, 1), folded,
        )  # fmt: skip
        return out

    def columns_there(self, rows: Rows, out: Tensor | None = None) -> Spectrum:
        """Row spectra → spectra, put into `out` (u, v, 2, 2, K, N) if given."""
        images, channels = rows.values.shape[2:4]
        if out is None:
            out = self.new_spectra(1, channels, images, rows.values.device)[0]
        planes = images * channels
        if self._by_matrix(out.device):
            self._launch_columns(_columns_there_kernel, rows.values, out, False, images, channels)
        else:
            self._launch(
                _there_kernel, "there_columns", (rows.values, out), self.sizes.y, False,
                (None, self.unit_y, 1), 2 * planes, (planes, images, channels), True, len(out),
            )  # fmt: skip
        return Spectrum(out, rows.largest)

    def columns_back(self, spectrum: Spectrum) -> Rows:
        """Spectra → row spectra."""
        channels, images = spectrum.values.shape[-2:]
        y, planes = self.sizes.y, images * channels
        out = spectrum.values.new_empty(self.sizes.x.half, 2, images, channels, y.pitch)
        if self._by_matrix(out.device):
            of = spectrum.values, out, True, images, channels, 0.5 / y.half
            self._launch_columns(_columns_back_kernel, *of)
        else:
            self._launch(
                _back_kernel, "back_columns", (spectrum.values, out), y, True,
                (None, None, 0.5 / y.half, 1), 2 * planes, (planes, images, channels), True,
                len(out),
            )  # fmt: skip
        return Rows(out, spectrum.largest)

    def _by_matrix(self, device: torch.device) -> bool:
        """Whether columns are transformed as products with one matrix."""
        small = self.sizes.y.half <= COLUMN_FREQUENCIES
        return self.precision == HALF_PRECISION and small and _programs(device) > 0

    def _launch_columns(self, kernel, x, out, back: bool, images, channels, *unit) -> None:
        axis, (rows, warps, stages) = self.sizes.y, COLUMNS
        count = 2 * images * channels
        tiles = self.sizes.x.half * triton.cdiv(count, rows)
        (P1, P2), (F1, F2) = covered(axis.pitch), covered(2 * axis.half)
        kernel[(min(tiles, _programs(x.device)),)](
            x, out, whole_matrix(axis, back, x.device), *unit, count, images, channels, tiles,
            PITCH=axis.pitch, LINES=2 * axis.half, P1=P1, P2=P2, F1=F1, F2=F2, ROWS=rows,
            STAGES=stages, num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _launch(
        self, kernel, name, tensors, axis, by_pair, scales, rows, order, folded, batch=1
    ) -> None:
        """Launch a transform along `axis` of so many rows (for each of a batch), in `order`."""
        y, (first, second, groups) = self.sizes.y, axis.blocks
        half = self.precision == HALF_PRECISION
        per_program, depth, warps, stages = TRANSFORMS[name] if half else FLOAT32_TRANSFORM
        matrix = waves(axis, self.precision, by_pair, tensors[0].device)
        kernel[(triton.cdiv(rows, per_program), batch, groups)](
            *tensors, matrix, *scales, rows, *order, y.size, axis.size,
            y.right, y.left, axis.right, axis.left,
            HALF=axis.half, RUN=axis.run, RUN_Y=y.run, FOLDED=folded, ODD=axis.odd, ODD_Y=y.odd,
            FIRST=first, SECOND=second, ROWS=per_program, DEPTH=depth, PRECISION=self.precision,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _warps(self, images: int, inputs: int, outputs: int, device: torch.device) -> int:
        """How many warps compute products in CUDA C++ (products.cu), 0 if they cannot."""
        fits = self.precision == HALF_PRECISION and images % 16 == 0 and max(inputs, outputs) <= 32
        return _blocks(device, _at_once(images)) if fits else 0

    def _in_warps(
        self, name: str, kernel: Kernel, images: int, device: torch.device
    ) -> compiled.Function:
        outputs, inputs = kernel.values.shape[-2:]
        at_once = _at_once(images)
        return compiled.function(
            "products.cu", name, device, OUT=outputs, IN=inputs, IMAGES=at_once
        )

    def product(self, kernel: Kernel, spectrum: Spectrum, adjoint: bool = False) -> Spectrum:
        """A kernel's spectrum (…, O, I) times spectra (…, I, N) → (…, O, N); `adjoint`: its
        conjugate transpose, from (…, O, N) to (…, I, N)."""
        outputs, inputs = kernel.values.shape[-2:]
        strides = (inputs, 1)
        if adjoint:
            outputs, inputs, strides = inputs, outputs, (1, inputs)
        values, images = spectrum.values, spectrum.values.shape[-1]
        out = values.new_empty(*values.shape[:-2], outputs, images)
        if warps := self._warps(images, inputs, outputs, values.device):
            name = "product_adjoint" if adjoint else "product"
            self._in_warps(name, kernel, images, values.device)(
                (warps,), 32, kernel.values, values, out,
                values.shape[:2].numel() * images // _at_once(images), images,
            )  # fmt: skip
            return Spectrum(out, spectrum.largest)
        name = "product" if self.precision == HALF_PRECISION else "product_float32"
        together, warps, stages = _images_block(name, images)
        _product_kernel[(triton.cdiv(images, together) * values.shape[:2].numel(),)](
            kernel.values, values, out, images, inputs, outputs, *strides,
            CONJUGATE=adjoint, OUT=block(outputs), IN=block(inputs), IMAGES=together,
            PRECISION=self.precision, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return Spectrum(out, spectrum.largest)

    def convolve(
        self, rows: Rows, kernel: Kernel, out: Tensor | None = None, adjoint: bool = False
    ) -> tuple[Rows, Spectrum]:
        """Row spectra of an activity → those of its convolution, or with `adjoint` of a gradient →
        those of what was convolved, to be multiplied by the kernel's scale; and the spectra of what
        came in, put into `out` if given."""
        spectrum = self.columns_there(rows, out)
        return self.columns_back(self.product(kernel, spectrum, adjoint)), spectrum

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
        steps = (stride * of.values[0].numel() for of in (gradients, spectra))
        pairs, device = -(-count // stride), out.device
        if warps := self._warps(images, inputs, outputs, device):
            self._in_warps("correlate", like, images, device)(
                (warps,), 32, gradients.values, spectra.values, gradients.largest, spectra.largest,
                out, add, out.shape[:2].numel(), images, pairs,
                *map(ctypes.c_longlong, steps), stride * images,
            )  # fmt: skip
            return out
        together, warps, stages = _images_block("correlate", images)
        _correlate_kernel[(out.shape[:2].numel(),)](
            gradients.values, spectra.values, gradients.largest, spectra.largest, out,
            images, inputs, outputs, pairs, *steps, stride * images,
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
        scale = _kernel_bound(W) if self.precision == HALF_PRECISION else W.new_ones(())
        taps = (W / scale).permute(3, 2, 0, 1).reshape(sizes.x.taps, -1).to(along.dtype)
        rows = (along @ taps).view(sizes.x.half, sizes.y.taps, -1)
        full = torch.view_as_real(torch.matmul(down, rows)).movedim(-1, 2)
        values = torch.empty(full.shape, dtype=self.dtype, device=W.device).copy_(full)
        return Kernel(values.view(sizes.x.half, sizes.y.half, 2, 2, outputs, inputs), scale)

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


@functools.cache
def _programs(device: torch.device) -> int:
    """Programs that transform columns by a matrix; 0 where it does not fit into shared memory."""
    if device.type != "cuda":
        return 2
    card = torch.cuda.get_device_properties(device)
    fits = card.shared_memory_per_multiprocessor >= COLUMN_MEMORY
    return 2 * card.multi_processor_count if fits else 0


def _at_once(images: int) -> int:
    """Images that a warp of products.cu takes at once."""
    return 16 if images % 32 else 32


@functools.cache
def _blocks(device: torch.device, at_once: int) -> int:
    """Blocks of products.cu that a device holds at a time, 0 if none."""
    if not compiled.available(device):
        return 0
    if device.type != "cuda":
        return 3
    card = torch.cuda.get_device_properties(device)
    each = 8 if at_once == 32 else 12
    return each * card.multi_processor_count if card.major >= 8 else 0


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
        # Not saved: of W only the shape is read, by as many backward passes as there are.
        ctx.plan, ctx.like = plan, W.detach()
        kernel = plan.kernel(W)
        ctx.mark_non_differentiable(*kernel)
        return W.new_empty(()).expand(kernel.values.shape), *kernel

    @staticmethod
    @own_backward
    def backward(ctx, total, *_):
        return ctx.plan.kernel_gradient(total, ctx.like), None


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
    @own_backward
    def backward(ctx, gradient):
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
