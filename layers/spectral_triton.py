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
    row spectrum    (u, pq, N, K, H')           pq of the row transform
    spectrum        (u, v, pq, pq, K, N)        pq of the column transform, then of the row's
    kernel spectrum (u, v, sign, c, O, I)       sign of v; c real, imaginary
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers.horizontal import GradientSum, refuse_double_backward

MAX_CHANNELS = 64
STEP = 16  # frequencies and positions are taken in steps of a matrix unit's depth


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
    def pitch(self) -> int:
        """Length of the folded axis."""
        return 2 * _round_up(self.pairs, 4)

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Two powers of two that a program covers side by side, and how many programs do."""
        if self.half > 128:
            return 64, 16, -(-self.half // 80)
        first = 1 << (self.half.bit_length() - 1)
        rest = self.half - first
        return first, (1 << (rest - 1).bit_length()) if rest else 0, 1


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
def matrices(axis: Axis, back: float | None, device: torch.device) -> Tensor:
    """cos(θd) and sin(θd), then what rounding to TF32 leaves of each: (4, frequency, pair) for the
    way there, (4, pair, frequency) times `back` for the way back. Zero beyond the last pair."""
    pair = torch.arange(axis.half, dtype=torch.float64)
    d = pair + (0.0 if axis.odd else 0.5)
    angle = torch.outer(math.pi / axis.half * (pair + 0.5), d)
    waves = torch.stack([torch.cos(angle), torch.sin(angle)]) * (pair < axis.pairs)
    if back is not None:
        waves = waves.transpose(1, 2) * back
    exact = waves.float().contiguous()
    high = ((exact.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return torch.cat([high, (waves - high).float()]).contiguous().to(device)


# -- transforms ------------------------------------------------------------------------------------
#
# A transform's matrix is square, HALF × HALF, larger than a power of two as a rule: a program
# covers FIRST + SECOND of its columns, two powers of two side by side (SECOND 0: only one).


@triton.jit
def rounded(x):
    """To the nearest TF32 value. (The matrix units would cut the digits off: a bias.)"""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def split(x, PRECISION: tl.constexpr):
    """x as the matrix units take it, and what that leaves out."""
    if PRECISION == "ieee":
        return x, tl.zeros_like(x)
    else:
        high = rounded(x)
        return high, x - high


@triton.jit
def add_product(high, low, m_high, m_low, sum, PRECISION: tl.constexpr):
    """sum + (high + low) @ (m_high + m_low): one product in TF32, three of TF32 for float32."""
    if PRECISION == "ieee":
        return tl.dot(high, m_high + m_low, sum, input_precision="ieee")
    else:
        if PRECISION == "tf32x3":
            sum = tl.dot(low, m_high, sum, input_precision="tf32")
            sum = tl.dot(high, m_low, sum, input_precision="tf32")
        return tl.dot(high, m_high, sum, input_precision="tf32")


@triton.jit
def _matrix(matrices, column, depth, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """A block (depth, column) of cosines and sines: high, high, low, low."""
    at = matrices + column[:, None] * HALF + depth[None, :]
    mask = (column < HALF)[:, None]
    size: tl.constexpr = HALF * HALF
    c = tl.trans(tl.load(at, mask=mask, other=0.0))
    s = tl.trans(tl.load(at + size, mask=mask, other=0.0))
    if PRECISION == "tf32":
        return c, s, c, s
    else:
        c_low = tl.trans(tl.load(at + 2 * size, mask=mask, other=0.0))
        s_low = tl.trans(tl.load(at + 3 * size, mask=mask, other=0.0))
        return c, s, c_low, s_low


@triton.jit
def _there_kernel(
    x, out, matrices, rows, planes, images, channels, height, width, right_y, left_y, right, left,
    HALF: tl.constexpr, RUN: tl.constexpr, RUN_Y: tl.constexpr, FOLDED: tl.constexpr,
    ODD: tl.constexpr, ODD_Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of pixels → (frequency, pq, rows), for each of a batch.

    FOLDED: rows of 2 · RUN numbers, (batch, pq, N, K) of them taken in the order (pq, K, N).
    Otherwise an activity (planes, height, width), whose rows are taken in the order of the folded
    column axis of 2 · RUN_Y.
    """
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
    if FOLDED:
        plane = r % planes
        row = r - plane + plane % images * channels + plane // images
        at = x + (batch * rows + row)[:, None] * (2 * RUN)
    else:
        y = r % (2 * RUN_Y)
        inside &= (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
        y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
        at = x + ((r // (2 * RUN_Y)).to(tl.int64) * height + y)[:, None] * width
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
        even, even_low = split(far + near, PRECISION)
        odd, odd_low = split(far - near, PRECISION)
        c, s, cl, sl = _matrix(matrices, u1, j, HALF, PRECISION)
        p1 = add_product(even, even_low, c, cl, p1, PRECISION)
        q1 = add_product(odd, odd_low, s, sl, q1, PRECISION)
        if SECOND > 0:
            c, s, cl, sl = _matrix(matrices, u2, j, HALF, PRECISION)
            p2 = add_product(even, even_low, c, cl, p2, PRECISION)
            q2 = add_product(odd, odd_low, s, sl, q2, PRECISION)
    put = r < rows
    to = out + batch * (2 * HALF) * rows + r[:, None] + u1[None, :].to(tl.int64) * (2 * rows)
    mask = put[:, None] & (u1 < HALF)[None, :]
    tl.store(to, p1, mask=mask)
    tl.store(to + rows, q1, mask=mask)
    if SECOND > 0:
        to = out + batch * (2 * HALF) * rows + r[:, None] + u2[None, :].to(tl.int64) * (2 * rows)
        mask = put[:, None] & (u2 < HALF)[None, :]
        tl.store(to, p2, mask=mask)
        tl.store(to + rows, q2, mask=mask)


@triton.jit
def inverse(
    spectrum, matrices, r, rows, batch, group,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The pixels of these rows of (batch, frequency, pq, rows), the group's FIRST pairs, right and
    left, and its SECOND ones (without SECOND the first ones again)."""
    j1 = group * (FIRST + SECOND) + tl.arange(0, FIRST)
    even1 = tl.zeros((ROWS, FIRST), tl.float32)
    odd1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        j2 = group * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        even2 = tl.zeros((ROWS, SECOND), tl.float32)
        odd2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = spectrum + batch * (2 * HALF) * rows + r[:, None]
    mask = (r < rows)[:, None]
    for start in range(0, HALF, DEPTH):
        u = start + tl.arange(0, DEPTH)
        here = at + u[None, :].to(tl.int64) * (2 * rows)
        p, p_low = split(tl.load(here, mask=mask, other=0.0), PRECISION)
        q, q_low = split(tl.load(here + rows, mask=mask, other=0.0), PRECISION)
        c, s, cl, sl = _matrix(matrices, j1, u, HALF, PRECISION)
        even1 = add_product(p, p_low, c, cl, even1, PRECISION)
        odd1 = add_product(q, q_low, s, sl, odd1, PRECISION)
        if SECOND > 0:
            c, s, cl, sl = _matrix(matrices, j2, u, HALF, PRECISION)
            even2 = add_product(p, p_low, c, cl, even2, PRECISION)
            odd2 = add_product(q, q_low, s, sl, odd2, PRECISION)
    if SECOND > 0:
        return even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2
    else:
        return even1 + odd1, even1 - odd1, even1, odd1


@triton.jit
def _store_run(to, j, far, near, inside, RUN: tl.constexpr, ODD: tl.constexpr):
    """Both runs of folded rows at `to`."""
    if ODD:
        near = tl.where((j == 0)[None, :], 0.0, near)
    keep = inside[:, None] & (j < RUN)[None, :]
    tl.store(to[:, None] + j[None, :], far, mask=keep)
    tl.store(to[:, None] + RUN + j[None, :], near, mask=keep)


@triton.jit
def _store_pixels(to, j, far, near, inside, width, right, left, ODD: tl.constexpr):
    """Both sides of plain rows at `to`."""
    keep = inside[:, None] & (j < width - right)[None, :]
    tl.store(to[:, None] + (right + j)[None, :], far, mask=keep)
    keep = inside[:, None] & ((j >= ODD) & (j <= left))[None, :]
    tl.store(to[:, None] + (left - j)[None, :], near, mask=keep)


@triton.jit
def _back_kernel(
    spectrum, x, matrices, rows, planes, images, channels, height, width,
    right_y, left_y, right, left,
    HALF: tl.constexpr, RUN: tl.constexpr, RUN_Y: tl.constexpr, FOLDED: tl.constexpr,
    ODD: tl.constexpr, ODD_Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(frequency, pq, rows) → rows of pixels, for each of a batch; rows as in _there_kernel."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    batch = tl.program_id(1).to(tl.int64)
    group = tl.program_id(2)
    far1, near1, far2, near2 = inverse(
        spectrum, matrices, r, rows, batch, group, HALF, FIRST, SECOND, ROWS, DEPTH, PRECISION
    )
    if FOLDED:
        plane = r % planes
        row = r - plane + plane % images * channels + plane // images
        to = x + (batch * rows + row) * (2 * RUN)
    else:
        y = r % (2 * RUN_Y)
        inside &= (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
        y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
        to = x + ((r // (2 * RUN_Y)).to(tl.int64) * height + y) * width
    j = group * (FIRST + SECOND) + tl.arange(0, FIRST)
    if FOLDED:
        _store_run(to, j, far1, near1, inside, RUN, ODD)
    else:
        _store_pixels(to, j, far1, near1, inside, width, right, left, ODD)
    if SECOND > 0:
        j = group * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        if FOLDED:
            _store_run(to, j, far2, near2, inside, RUN, ODD)
        else:
            _store_pixels(to, j, far2, near2, inside, width, right, left, ODD)


# -- products at each frequency ------------------------------------------------------------------


@triton.jit
def _join(spectrum, at, size, mask):
    """The complex values at (u, v) and (u, −v) from the four real numbers of a pair."""
    pp = tl.load(spectrum + at, mask=mask, other=0.0)
    qp = tl.load(spectrum + at + size, mask=mask, other=0.0)
    pq = tl.load(spectrum + at + 2 * size, mask=mask, other=0.0)
    qq = tl.load(spectrum + at + 3 * size, mask=mask, other=0.0)
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
    f = (tl.program_id(0) // blocks).to(tl.int64)
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
    tl.store(y, yp_r + ym_r, mask=y_mask)
    tl.store(y + step, -yp_i - ym_i, mask=y_mask)
    tl.store(y + 2 * step, ym_i - yp_i, mask=y_mask)
    tl.store(y + 3 * step, ym_r - yp_r, mask=y_mask)


@triton.jit
def _correlate_kernel(
    gradient, spectrum, out, images, inputs, outputs,
    ADD: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, i] (+)= Σ_n conj(gradient[o, n]) spectrum[i, n] at one pair of frequencies."""
    f = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    plus_r = tl.zeros((OUT, IN), tl.float32)
    plus_i = tl.zeros((OUT, IN), tl.float32)
    minus_r = tl.zeros((OUT, IN), tl.float32)
    minus_i = tl.zeros((OUT, IN), tl.float32)
    for start in range(0, images, IMAGES):
        n = start + tl.arange(0, IMAGES)
        g = f * 4 * outputs * images + o[:, None] * images + n[None, :]
        mask = (o < outputs)[:, None] & (n < images)[None, :]
        gp_r, gp_i, gm_r, gm_i = _join(gradient, g, outputs * images, mask)
        x = f * 4 * inputs * images + i[None, :] * images + n[:, None]
        mask = (i < inputs)[None, :] & (n < images)[:, None]
        xp_r, xp_i, xm_r, xm_i = _join(spectrum, x, inputs * images, mask)
        plus_r, plus_i = _complex_product(gp_r, -gp_i, xp_r, xp_i, plus_r, plus_i, PRECISION)
        minus_r, minus_i = _complex_product(gm_r, -gm_i, xm_r, xm_i, minus_r, minus_i, PRECISION)
    size = inputs * outputs
    a = out + f * 4 * size + o[:, None] * inputs + i[None, :]
    mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    if ADD:
        plus_r += tl.load(a, mask=mask, other=0.0)
        plus_i += tl.load(a + size, mask=mask, other=0.0)
        minus_r += tl.load(a + 2 * size, mask=mask, other=0.0)
        minus_i += tl.load(a + 3 * size, mask=mask, other=0.0)
    tl.store(a, plus_r, mask=mask)
    tl.store(a + size, plus_i, mask=mask)
    tl.store(a + 2 * size, minus_r, mask=mask)
    tl.store(a + 3 * size, minus_i, mask=mask)


# -- launching -------------------------------------------------------------------------------------

# Rows (or images) of a program, warps and pipeline stages, from measurements on an H200: of the
# transforms for plain and folded rows and for columns, and of the products.
LAUNCH = {
    "there": (64, 4, 2),
    "there_folded": (64, 4, 2),
    "there_columns": (64, 4, 2),
    "back": (64, 4, 3),
    "back_folded": (64, 4, 2),
    "back_columns": (64, 4, 3),
    "product": (32, 1, 1),
    "product_strict": (16, 1, 1),
    "correlate": (16, 2, 2),
}


def rows_there(x: Tensor, sizes: Sizes, precision: str, folded: bool = False) -> Tensor:
    """Activity (N, K, H, W), or folded, → row spectrum (u, 2, N, K, H')."""
    planes = x.shape[0] * x.shape[1]
    out = x.new_empty(sizes.x.half, 2, *x.shape[:2], sizes.y.pitch)
    rows = planes * sizes.y.pitch
    _launch(
        _there_kernel, "there_folded" if folded else "there", x, out, sizes.x, sizes.y, None,
        precision, rows, (rows, 1, 1), folded,
    )  # fmt: skip
    return out


def rows_back(spectrum: Tensor, sizes: Sizes, precision: str, folded: bool = False) -> Tensor:
    """Row spectrum (u, 2, N, K, H') → activity (N, K, H, W), or folded."""
    planes = spectrum.shape[2:4]
    shape = (sizes.y.pitch, sizes.x.pitch) if folded else (sizes.y.size, sizes.x.size)
    out = spectrum.new_empty(*planes, *shape)
    rows = planes.numel() * sizes.y.pitch
    _launch(
        _back_kernel, "back_folded" if folded else "back", spectrum, out, sizes.x, sizes.y,
        1 / sizes.x.half, precision, rows, (rows, 1, 1), folded,
    )  # fmt: skip
    return out


def columns_there(rows: Tensor, out: Tensor, sizes: Sizes, precision: str) -> None:
    """Row spectrum (u, 2, N, K, H') → spectrum `out` (u, v, 2, 2, K, N)."""
    images, channels = rows.shape[2:4]
    planes = images * channels
    _launch(
        _there_kernel, "there_columns", rows, out, sizes.y, sizes.y, None,
        precision, 2 * planes, (planes, images, channels), True, len(rows),
    )  # fmt: skip


def columns_back(spectrum: Tensor, rows: Tensor, sizes: Sizes, precision: str) -> None:
    """Spectrum (u, v, 2, 2, K, N) → row spectrum `rows` (u, 2, N, K, H')."""
    images, channels = rows.shape[2:4]
    planes = images * channels
    _launch(
        _back_kernel, "back_columns", spectrum, rows, sizes.y, sizes.y, 0.5 / sizes.y.half,
        precision, 2 * planes, (planes, images, channels), True, len(rows),
    )  # fmt: skip


def _launch(
    kernel, name, source, out, axis, other, back, precision, rows, order, folded, batch=1
) -> None:
    """Launch a transform along `axis` of so many rows (for each of a batch), taken in `order`."""
    first, second, groups = axis.blocks
    per_program, warps, stages = LAUNCH[name]
    kernel[(triton.cdiv(rows, per_program), batch, groups)](
        source, out, matrices(axis, back, source.device), rows, *order, other.size, axis.size,
        other.right, other.left, axis.right, axis.left,
        HALF=axis.half, RUN=axis.pitch // 2, RUN_Y=other.pitch // 2, FOLDED=folded, ODD=axis.odd,
        ODD_Y=other.odd, FIRST=first, SECOND=second, ROWS=per_program, DEPTH=STEP,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def product(
    kernel: Tensor, spectrum: Tensor, out: Tensor, precision: str, adjoint: bool = False
) -> None:
    """Kernel spectrum (u, v, 2, 2, O, I) times spectrum (u, v, 2, 2, I, N) → `out` (…, O, N);
    `adjoint`: its conjugate transpose, from (…, O, N) to (…, I, N)."""
    outputs, inputs = kernel.shape[-2:]
    strides = (inputs, 1)
    if adjoint:
        outputs, inputs, strides = inputs, outputs, (1, inputs)
    images = spectrum.shape[-1]
    name = "product" if precision == "tf32" else "product_strict"
    together, warps, stages = _images_block(name, images)
    _product_kernel[(triton.cdiv(images, together) * kernel.shape[:2].numel(),)](
        kernel, spectrum, out, images, inputs, outputs, *strides,
        CONJUGATE=adjoint, OUT=block(outputs), IN=block(inputs), IMAGES=together,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def correlate(
    gradient: Tensor, spectrum: Tensor, out: Tensor, add: bool, precision: str
) -> Tensor:
    """Σ over images of conj(gradient (u, v, 2, 2, O, N)) · spectrum (u, v, 2, 2, I, N), put or
    added into `out` (u, v, 2, 2, O, I), which is returned."""
    outputs, inputs = out.shape[-2:]
    images = spectrum.shape[-1]
    together, warps, stages = _images_block("correlate", images)
    _correlate_kernel[(out.shape[:2].numel(),)](
        gradient, spectrum, out, images, inputs, outputs,
        ADD=add, OUT=block(outputs), IN=block(inputs), IMAGES=together,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def block(channels: int) -> int:
    """Channels of a program's tile: a power of two."""
    return max(16, triton.next_power_of_2(channels))


def _images_block(name: str, images: int) -> tuple[int, int, int]:
    together, warps, stages = LAUNCH[name]
    return (16 if images <= 16 else together), warps, stages


# -- the convolution ----------------------------------------------------------------------------


def kernel_spectrum(W: Tensor, sizes: Sizes) -> Tensor:
    """W (O, I, h, w) → Σ_d W(d) exp(iθd) as (u, v, s, c, O, I)."""
    outputs, inputs = W.shape[:2]
    down, along = _waves(W, sizes)
    taps = W.permute(3, 2, 0, 1).reshape(sizes.x.taps, -1).to(along.dtype)
    rows = (along @ taps).view(sizes.x.half, sizes.y.taps, -1)
    full = torch.view_as_real(torch.matmul(down, rows)).movedim(-1, 2)
    return full.contiguous().view(sizes.x.half, sizes.y.half, 2, 2, outputs, inputs)


def kernel_gradient(gradient: Tensor, like: Tensor, sizes: Sizes) -> Tensor:
    """The correlations' sum (u, v, s, c, O, I) → the gradient of W (O, I, h, w)."""
    outputs, inputs = like.shape[:2]
    down, along = _waves(like, sizes)
    parts = gradient.view(sizes.x.half, 2 * sizes.y.half, 2, -1).movedim(2, -1).contiguous()
    rows = torch.matmul(down.t(), torch.view_as_complex(parts))  # (u, h, O·I)
    taps = (along.t() @ rows.view(sizes.x.half, -1)).real * sizes.scale
    return taps.view(sizes.x.taps, sizes.y.taps, outputs, inputs).permute(2, 3, 1, 0).contiguous()


def _waves(like: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """exp(±iθd) at every tap: down (v and sign, h), along (u, w)."""
    return _tap_waves(sizes.y, True, like.device), _tap_waves(sizes.x, False, like.device)


@functools.cache
def _tap_waves(axis: Axis, both_signs: bool, device: torch.device) -> Tensor:
    d = torch.arange(axis.taps, dtype=torch.float64) - (axis.taps - 1) // 2
    θ = math.pi / axis.half * (torch.arange(axis.half, dtype=torch.float64) + 0.5)
    if both_signs:
        θ = torch.stack([θ, -θ], 1).flatten()
    angle = torch.outer(θ, d)
    return torch.complex(torch.cos(angle), torch.sin(angle)).to(device, torch.complex64)


def convolve(
    x: Tensor, kernel: Tensor, sizes: Sizes, precision: str, folded: bool = False
) -> tuple[Tensor, Tensor]:
    """Activity (N, I, H, W) and kernel spectrum → (N, O, H, W), and the activity's spectrum."""
    out, spectrum = convolve_rows(rows_there(x, sizes, precision, folded), kernel, sizes, precision)
    return rows_back(out, sizes, precision, folded), spectrum


def convolve_rows(
    rows: Tensor, kernel: Tensor, sizes: Sizes, precision: str
) -> tuple[Tensor, Tensor]:
    """The same between row spectra, (u, 2, N, I, H') → (u, 2, N, O, H')."""
    spectrum = column_spectrum(rows, sizes, precision)
    outputs = kernel.shape[-2]
    result = spectrum.new_empty(*spectrum.shape[:-2], outputs, spectrum.shape[-1])
    product(kernel, spectrum, result, precision)
    out = rows.new_empty(*rows.shape[:3], outputs, rows.shape[-1])
    columns_back(result, out, sizes, precision)
    return out, spectrum


def column_spectrum(rows: Tensor, sizes: Sizes, precision: str) -> Tensor:
    """Row spectrum (u, 2, N, K, H') → spectrum (u, v, 2, 2, K, N)."""
    frequencies, _, images, channels, _ = rows.shape
    spectrum = rows.new_empty(frequencies, sizes.y.half, 2, 2, channels, images)
    columns_there(rows, spectrum, sizes, precision)
    return spectrum


def adjoint_rows(
    gradient: Tensor,
    kernel: Tensor,
    spectrum: Tensor,
    kernel_sum: KernelSum,
    sizes: Sizes,
    precision: str,
    aside: Aside,
) -> Tensor:
    """Backward of :func:`convolve_rows`: the output's gradient (u, 2, N, O, H') → the input's
    (u, 2, N, I, H'). With the input's `spectrum` the kernel's gradient joins `kernel_sum`."""
    transformed = column_spectrum(gradient, sizes, precision)
    aside(kernel_sum.add, transformed, spectrum, precision)
    return adjoint_product(transformed, kernel, sizes, precision)


def adjoint_product(
    transformed: Tensor, kernel: Tensor, sizes: Sizes, precision: str
) -> Tensor:
    """From the spectrum (…, O, N) of an output's gradient to the input's row spectrum."""
    inputs, images = kernel.shape[-1], transformed.shape[-1]
    result = transformed.new_empty(*transformed.shape[:-2], inputs, images)
    product(kernel, transformed, result, precision, adjoint=True)
    out = transformed.new_empty(len(transformed), 2, images, inputs, sizes.y.pitch)
    columns_back(result, out, sizes, precision)
    return out


class Aside:
    """A second stream of work for what the main one does not wait for: sums of gradients.

    Calls run there in order. Tensors that a call takes stay alive until the main stream has waited
    for it, which it does one call later.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._held: list[tuple] = []

    def __call__(self, function: Callable[..., object], *args: object) -> None:
        if self.stream is None:
            function(*args)
            return
        if self._held:
            torch.cuda.current_stream().wait_event(self._held.pop()[0])
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            function(*args)
        self._held.append((self.stream.record_event(), args))

    def join(self) -> None:
        """Make the main stream wait for all of it."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        self._held.clear()


class KernelSum:
    """The kernel's gradient in the frequency domain, summed over a pass's convolutions."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, gradient: Tensor, spectrum: Tensor, precision: str) -> None:
        """The spectra of a convolution's output gradient and of its input."""
        first = self.total is None
        if self.total is None:
            shape = (*gradient.shape[:4], gradient.shape[-2], spectrum.shape[-2])
            self.total = gradient.new_empty(shape)
        correlate(gradient, spectrum, self.total, not first, precision)


class TritonKernel:
    """W's spectrum for one image size, to be called on activities (see HorizontalKernel)."""

    def __init__(self, W: Tensor, sizes: tuple[int, int, int, int]):
        self.sizes = Sizes.of(*sizes)
        self.spectrum = _SpectrumFunction.apply(W, self.sizes)
        self.sum = GradientSum()

    def __call__(self, activity: Tensor) -> Tensor:
        return _ConvolutionFunction.apply(
            activity.contiguous(), self.spectrum, self.sizes, dot_precision(), self.sum
        )


class _SpectrumFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, W, sizes):
        ctx.sizes = sizes
        ctx.save_for_backward(W)
        return kernel_spectrum(W, sizes)

    @staticmethod
    def backward(ctx, total):
        refuse_double_backward()
        return kernel_gradient(total, ctx.saved_tensors[0], ctx.sizes), None


class _ConvolutionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activity, kernel, sizes, precision, gradient_sum):
        out, spectrum = convolve(activity, kernel, sizes, precision)
        ctx.sizes, ctx.precision, ctx.sum = sizes, precision, gradient_sum
        ctx.save_for_backward(kernel, spectrum if ctx.needs_input_grad[1] else None)
        return out

    @staticmethod
    def backward(ctx, gradient):
        refuse_double_backward()
        kernel, spectrum = ctx.saved_tensors
        sizes, precision = ctx.sizes, ctx.precision
        rows = rows_there(gradient.contiguous(), sizes, precision)
        transformed = column_spectrum(rows, sizes, precision)
        grad_activity = grad_kernel = None
        if ctx.needs_input_grad[1]:
            new = torch.empty_like
            grad_kernel = ctx.sum.add(
                lambda: correlate(transformed, spectrum, new(kernel), False, precision),
                lambda sum: correlate(transformed, spectrum, sum, True, precision),
            )
        if ctx.needs_input_grad[0]:
            grad_activity = rows_back(
                adjoint_product(transformed, kernel, sizes, precision), sizes, precision
            )
        return grad_activity, grad_kernel, None, None, None


def tf32_allowed() -> bool:
    """Whether PyTorch's own convolutions may round their inputs to TF32 on this machine's GPU."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    precision = getattr(conv, "fp32_precision", None)
    return torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32"


def dot_precision() -> str:
    """What the matrix units compute with: TF32, or three TF32 products that make a float32 one."""
    return "tf32" if tf32_allowed() else "tf32x3"
