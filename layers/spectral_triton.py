"""The spectral horizontal convolution on a CUDA device, in Triton.

The transforms are dense matrix products, made small by choosing the frequencies well. Positions
are counted from the image's middle and frequencies are the half-integer ones, θ = 2π(u + ½)/N, so
that with d the distance from the middle

    x̂(θ) = Σ_d cos(θd) (x(d) + x(−d)) − i Σ_d sin(θd) (x(d) − x(−d)).

Cosines and sines of pairs of half-integers (a type IV cosine transform) need a quarter of a plain
complex matrix's operations, each frequency has its negative at hand and none is its own, so 150
pixels at N = 160 make exactly 80 row frequencies and 80 pairs of column frequencies. Half-integer
frequencies wrap round with a change of sign; as N is at least the image and the kernel's reach,
nothing that wraps is kept.

Layouts (u, v frequencies; s the sign of v; c the real and imaginary part):

    activity        (N, K, H, W)
    row spectrum    (u, c, N, K, H)
    spectrum        (u, v, s, c, K, N)
    kernel spectrum (u, v, s, c, O, I)
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_CHANNELS = 64
STEP = 16  # frequencies and positions are taken in steps of a matrix unit's depth


@dataclass(frozen=True)
class Axis:
    """One axis of the transform: `size` pixels, `taps` of the kernel, 2 · `half` frequencies."""

    size: int
    taps: int

    @property
    def half(self) -> int:
        return _round_up((self.size + self.taps // 2 + 1) // 2, STEP)

    @property
    def length(self) -> int:
        return 2 * self.half

    @property
    def pairs(self) -> int:
        """Pairs of pixels mirrored at the middle (of an odd size, the middle one with itself)."""
        return (self.size + 1) // 2

    @property
    def right(self) -> int:
        """The first pixel right of the middle, or on it; its mirror is `left`."""
        return self.size // 2

    @property
    def left(self) -> int:
        return (self.size - 1) // 2

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Two powers of two that a program covers side by side, and how many programs do."""
        first = 1 << (self.half.bit_length() - 1)
        rest = self.half - first
        if self.half <= 128:
            return first, (1 << (rest - 1).bit_length()) if rest else 0, 1
        return 64, 16, -(-self.half // 80)


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
        return 2 / (self.y.length * self.x.length)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


@functools.lru_cache(maxsize=32)
def _matrices(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For the way there cos(θd), sin(θd) as (pair, frequency), for the way back as (frequency,
    pair). On the way there the middle pixel of an odd size, its own mirror, counts half."""
    pair = torch.arange(axis.half, dtype=torch.float64)
    d = pair + (0.5 if axis.size % 2 == 0 else 0.0)
    θ = math.pi / axis.half * (pair + 0.5)
    angle = torch.outer(θ, d)
    inside = (pair < axis.pairs).double()
    cosine, sine = torch.cos(angle) * inside, torch.sin(angle) * inside
    there = cosine.clone()
    if axis.size % 2:
        there[:, 0] /= 2
    matrices = (there.t(), sine.t(), cosine, sine)
    return tuple(m.to(device=device, dtype=torch.float32).contiguous() for m in matrices)


# -- transforms ------------------------------------------------------------------------------------


@triton.jit
def _rows_there(
    x, spectrum, cosine, sine, rows, width, pairs, left, right,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Activity rows (rows, width) → (u, c, rows)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    u1 = tl.program_id(1) * (FIRST + SECOND) + tl.arange(0, FIRST)
    re1 = tl.zeros((ROWS, FIRST), tl.float32)
    im1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        u2 = tl.program_id(1) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        re2 = tl.zeros((ROWS, SECOND), tl.float32)
        im2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = x + row[:, None] * width
    for start in range(0, HALF, DEPTH):
        j = start + tl.arange(0, DEPTH)
        mask = inside[:, None] & (j < pairs)[None, :]
        far = tl.load(at + (right + j)[None, :], mask=mask, other=0.0)
        near = tl.load(at + (left - j)[None, :], mask=mask, other=0.0)
        even = far + near
        odd = near - far
        m1 = j[:, None] * HALF + u1[None, :]
        known = (u1 < HALF)[None, :]
        re1 = tl.dot(even, tl.load(cosine + m1, mask=known, other=0.0), re1, input_precision=PRECISION)
        im1 = tl.dot(odd, tl.load(sine + m1, mask=known, other=0.0), im1, input_precision=PRECISION)
        if SECOND > 0:
            m2 = j[:, None] * HALF + u2[None, :]
            known2 = (u2 < HALF)[None, :]
            c2 = tl.load(cosine + m2, mask=known2, other=0.0)
            s2 = tl.load(sine + m2, mask=known2, other=0.0)
            re2 = tl.dot(even, c2, re2, input_precision=PRECISION)
            im2 = tl.dot(odd, s2, im2, input_precision=PRECISION)
    out = spectrum + row[:, None] + u1[None, :] * (2 * rows)
    mask = inside[:, None] & (u1 < HALF)[None, :]
    tl.store(out, re1, mask=mask)
    tl.store(out + rows, im1, mask=mask)
    if SECOND > 0:
        out = spectrum + row[:, None] + u2[None, :] * (2 * rows)
        mask = inside[:, None] & (u2 < HALF)[None, :]
        tl.store(out, re2, mask=mask)
        tl.store(out + rows, im2, mask=mask)


@triton.jit
def _store_columns(spectrum, at, v, inside, stride, pr, pi, qr, qi, HALF: tl.constexpr):
    """Ẑ(±v) = P ∓ iQ."""
    out = spectrum + at[:, None] + v[None, :] * (4 * stride)
    mask = inside[:, None] & (v < HALF)[None, :]
    tl.store(out, pr + qi, mask=mask)
    tl.store(out + stride, pi - qr, mask=mask)
    tl.store(out + 2 * stride, pr - qi, mask=mask)
    tl.store(out + 3 * stride, pi + qr, mask=mask)


@triton.jit
def _columns_there(
    rows_spectrum, spectrum, cosine, sine, images, channels, height, pairs, left, right,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectrum (u, c, N, K, H) → spectrum (u, v, s, c, K, N)."""
    u = tl.program_id(1)
    columns = images * channels
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = q < columns
    image = q % images
    channel = q // images
    base = u * 2 * columns * height + (image * channels + channel) * height
    v1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    pr1 = tl.zeros((ROWS, FIRST), tl.float32)
    pi1 = tl.zeros((ROWS, FIRST), tl.float32)
    qr1 = tl.zeros((ROWS, FIRST), tl.float32)
    qi1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        v2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        pr2 = tl.zeros((ROWS, SECOND), tl.float32)
        pi2 = tl.zeros((ROWS, SECOND), tl.float32)
        qr2 = tl.zeros((ROWS, SECOND), tl.float32)
        qi2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = rows_spectrum + base[:, None]
    imaginary = columns * height
    for start in range(0, HALF, DEPTH):
        j = start + tl.arange(0, DEPTH)
        mask = inside[:, None] & (j < pairs)[None, :]
        far = tl.load(at + (right + j)[None, :], mask=mask, other=0.0)
        near = tl.load(at + (left - j)[None, :], mask=mask, other=0.0)
        far_i = tl.load(at + imaginary + (right + j)[None, :], mask=mask, other=0.0)
        near_i = tl.load(at + imaginary + (left - j)[None, :], mask=mask, other=0.0)
        even = far + near
        odd = far - near
        even_i = far_i + near_i
        odd_i = far_i - near_i
        m1 = j[:, None] * HALF + v1[None, :]
        known = (v1 < HALF)[None, :]
        c1 = tl.load(cosine + m1, mask=known, other=0.0)
        s1 = tl.load(sine + m1, mask=known, other=0.0)
        pr1 = tl.dot(even, c1, pr1, input_precision=PRECISION)
        pi1 = tl.dot(even_i, c1, pi1, input_precision=PRECISION)
        qr1 = tl.dot(odd, s1, qr1, input_precision=PRECISION)
        qi1 = tl.dot(odd_i, s1, qi1, input_precision=PRECISION)
        if SECOND > 0:
            m2 = j[:, None] * HALF + v2[None, :]
            known2 = (v2 < HALF)[None, :]
            c2 = tl.load(cosine + m2, mask=known2, other=0.0)
            s2 = tl.load(sine + m2, mask=known2, other=0.0)
            pr2 = tl.dot(even, c2, pr2, input_precision=PRECISION)
            pi2 = tl.dot(even_i, c2, pi2, input_precision=PRECISION)
            qr2 = tl.dot(odd, s2, qr2, input_precision=PRECISION)
            qi2 = tl.dot(odd_i, s2, qi2, input_precision=PRECISION)
    out = u * (4 * HALF) * columns + q
    _store_columns(spectrum, out, v1, inside, columns, pr1, pi1, qr1, qi1, HALF)
    if SECOND > 0:
        _store_columns(spectrum, out, v2, inside, columns, pr2, pi2, qr2, qi2, HALF)


@triton.jit
def _columns_back(
    spectrum, rows_spectrum, cosine, sine, images, channels, height, pairs, left, right, scale,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectrum (u, v, s, c, K, N) → row spectrum (u, c, N, K, H), times `scale`."""
    u = tl.program_id(1)
    columns = images * channels
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = q < columns
    j1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    er1 = tl.zeros((ROWS, FIRST), tl.float32)
    ei1 = tl.zeros((ROWS, FIRST), tl.float32)
    or1 = tl.zeros((ROWS, FIRST), tl.float32)
    oi1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        j2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        er2 = tl.zeros((ROWS, SECOND), tl.float32)
        ei2 = tl.zeros((ROWS, SECOND), tl.float32)
        or2 = tl.zeros((ROWS, SECOND), tl.float32)
        oi2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = spectrum + u * (4 * HALF) * columns + q[:, None]
    mask = inside[:, None]
    for start in range(0, HALF, DEPTH):
        v = start + tl.arange(0, DEPTH)
        here = at + v[None, :] * (4 * columns)
        plus_r = tl.load(here, mask=mask, other=0.0)
        plus_i = tl.load(here + columns, mask=mask, other=0.0)
        minus_r = tl.load(here + 2 * columns, mask=mask, other=0.0)
        minus_i = tl.load(here + 3 * columns, mask=mask, other=0.0)
        a_r = plus_r + minus_r
        a_i = plus_i + minus_i
        b_r = minus_i - plus_i
        b_i = plus_r - minus_r
        m1 = v[:, None] * HALF + j1[None, :]
        known = (j1 < HALF)[None, :]
        c1 = tl.load(cosine + m1, mask=known, other=0.0)
        s1 = tl.load(sine + m1, mask=known, other=0.0)
        er1 = tl.dot(a_r, c1, er1, input_precision=PRECISION)
        ei1 = tl.dot(a_i, c1, ei1, input_precision=PRECISION)
        or1 = tl.dot(b_r, s1, or1, input_precision=PRECISION)
        oi1 = tl.dot(b_i, s1, oi1, input_precision=PRECISION)
        if SECOND > 0:
            m2 = v[:, None] * HALF + j2[None, :]
            known2 = (j2 < HALF)[None, :]
            c2 = tl.load(cosine + m2, mask=known2, other=0.0)
            s2 = tl.load(sine + m2, mask=known2, other=0.0)
            er2 = tl.dot(a_r, c2, er2, input_precision=PRECISION)
            ei2 = tl.dot(a_i, c2, ei2, input_precision=PRECISION)
            or2 = tl.dot(b_r, s2, or2, input_precision=PRECISION)
            oi2 = tl.dot(b_i, s2, oi2, input_precision=PRECISION)
    image = q % images
    channel = q // images
    out = rows_spectrum + (u * 2 * columns * height + (image * channels + channel) * height)[:, None]
    imaginary = columns * height
    keep = mask & (j1 < pairs)[None, :]
    far = out + (right + j1)[None, :]
    near = out + (left - j1)[None, :]
    tl.store(far, (er1 + or1) * scale, mask=keep)
    tl.store(near, (er1 - or1) * scale, mask=keep)
    tl.store(far + imaginary, (ei1 + oi1) * scale, mask=keep)
    tl.store(near + imaginary, (ei1 - oi1) * scale, mask=keep)
    if SECOND > 0:
        keep = mask & (j2 < pairs)[None, :]
        far = out + (right + j2)[None, :]
        near = out + (left - j2)[None, :]
        tl.store(far, (er2 + or2) * scale, mask=keep)
        tl.store(near, (er2 - or2) * scale, mask=keep)
        tl.store(far + imaginary, (ei2 + oi2) * scale, mask=keep)
        tl.store(near + imaginary, (ei2 - oi2) * scale, mask=keep)


@triton.jit
def _rows_back(
    spectrum, x, cosine, sine, rows, width, pairs, left, right,
    HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectrum (u, c, rows) → activity rows (rows, width)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    j1 = tl.program_id(1) * (FIRST + SECOND) + tl.arange(0, FIRST)
    even1 = tl.zeros((ROWS, FIRST), tl.float32)
    odd1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        j2 = tl.program_id(1) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        even2 = tl.zeros((ROWS, SECOND), tl.float32)
        odd2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = spectrum + row[:, None]
    mask = inside[:, None]
    for start in range(0, HALF, DEPTH):
        u = start + tl.arange(0, DEPTH)
        here = at + u[None, :] * (2 * rows)
        real = tl.load(here, mask=mask, other=0.0)
        imaginary = tl.load(here + rows, mask=mask, other=0.0)
        m1 = u[:, None] * HALF + j1[None, :]
        known = (j1 < HALF)[None, :]
        c1 = tl.load(cosine + m1, mask=known, other=0.0)
        s1 = tl.load(sine + m1, mask=known, other=0.0)
        even1 = tl.dot(real, c1, even1, input_precision=PRECISION)
        odd1 = tl.dot(imaginary, s1, odd1, input_precision=PRECISION)
        if SECOND > 0:
            m2 = u[:, None] * HALF + j2[None, :]
            known2 = (j2 < HALF)[None, :]
            c2 = tl.load(cosine + m2, mask=known2, other=0.0)
            s2 = tl.load(sine + m2, mask=known2, other=0.0)
            even2 = tl.dot(real, c2, even2, input_precision=PRECISION)
            odd2 = tl.dot(imaginary, s2, odd2, input_precision=PRECISION)
    out = x + row[:, None] * width
    keep = mask & (j1 < pairs)[None, :]
    tl.store(out + (right + j1)[None, :], even1 - odd1, mask=keep)
    tl.store(out + (left - j1)[None, :], even1 + odd1, mask=keep)
    if SECOND > 0:
        keep = mask & (j2 < pairs)[None, :]
        tl.store(out + (right + j2)[None, :], even2 - odd2, mask=keep)
        tl.store(out + (left - j2)[None, :], even2 + odd2, mask=keep)


# -- products at each frequency ------------------------------------------------------------------


@triton.jit
def _product(
    kernel, spectrum, out, images, inputs, outputs, stride_out, stride_in,
    CONJUGATE: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, n] = Σ_i kernel[o, i] spectrum[i, n] at one frequency, complex; the kernel's conjugate
    if CONJUGATE. The kernel's strides make it transposed or not."""
    blocks = tl.cdiv(images, IMAGES)
    f = tl.program_id(0) // blocks
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    n = tl.program_id(0) % blocks * IMAGES + tl.arange(0, IMAGES)
    size = inputs * outputs
    w = kernel + f * 2 * size + o[:, None] * stride_out + i[None, :] * stride_in
    w_mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    w_r = tl.load(w, mask=w_mask, other=0.0)
    w_i = tl.load(w + size, mask=w_mask, other=0.0)
    if CONJUGATE:
        w_i = -w_i
    x = spectrum + f * 2 * inputs * images + i[:, None] * images + n[None, :]
    x_mask = (i < inputs)[:, None] & (n < images)[None, :]
    x_r = tl.load(x, mask=x_mask, other=0.0)
    x_i = tl.load(x + inputs * images, mask=x_mask, other=0.0)
    y_r = tl.dot(w_r, x_r, input_precision=PRECISION)
    y_i = tl.dot(w_r, x_i, input_precision=PRECISION)
    y_r = tl.dot(-w_i, x_i, y_r, input_precision=PRECISION)
    y_i = tl.dot(w_i, x_r, y_i, input_precision=PRECISION)
    y = out + f * 2 * outputs * images + o[:, None] * images + n[None, :]
    y_mask = (o < outputs)[:, None] & (n < images)[None, :]
    tl.store(y, y_r, mask=y_mask)
    tl.store(y + outputs * images, y_i, mask=y_mask)


@triton.jit
def _correlate(
    gradient, spectrum, out, images, inputs, outputs,
    ADD: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, i] (+)= Σ_n conj(gradient[o, n]) spectrum[i, n] at one frequency, complex."""
    f = tl.program_id(0)
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    a_r = tl.zeros((OUT, IN), tl.float32)
    a_i = tl.zeros((OUT, IN), tl.float32)
    for start in range(0, images, IMAGES):
        n = start + tl.arange(0, IMAGES)
        g = gradient + f * 2 * outputs * images + o[:, None] * images + n[None, :]
        g_mask = (o < outputs)[:, None] & (n < images)[None, :]
        g_r = tl.load(g, mask=g_mask, other=0.0)
        g_i = tl.load(g + outputs * images, mask=g_mask, other=0.0)
        x = spectrum + f * 2 * inputs * images + i[None, :] * images + n[:, None]
        x_mask = (i < inputs)[None, :] & (n < images)[:, None]
        x_r = tl.load(x, mask=x_mask, other=0.0)
        x_i = tl.load(x + inputs * images, mask=x_mask, other=0.0)
        a_r = tl.dot(g_r, x_r, a_r, input_precision=PRECISION)
        a_r = tl.dot(g_i, x_i, a_r, input_precision=PRECISION)
        a_i = tl.dot(g_r, x_i, a_i, input_precision=PRECISION)
        a_i = tl.dot(-g_i, x_r, a_i, input_precision=PRECISION)
    size = inputs * outputs
    a = out + f * 2 * size + o[:, None] * inputs + i[None, :]
    mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    if ADD:
        a_r += tl.load(a, mask=mask, other=0.0)
        a_i += tl.load(a + size, mask=mask, other=0.0)
    tl.store(a, a_r, mask=mask)
    tl.store(a + size, a_i, mask=mask)


# -- launching -------------------------------------------------------------------------------------

# Rows of a program, warps and pipeline stages of each kernel, from measurements on an H200.
LAUNCH = {
    "rows_there": (64, 4, 2),
    "columns_there": (32, 4, 2),
    "columns_back": (32, 4, 2),
    "rows_back": (64, 4, 2),
    "product": (32, 1, 1),
    "correlate": (32, 1, 1),
}


def rows_there(x: Tensor, sizes: Sizes, precision: str) -> Tensor:
    """Activity (N, K, H, W) → row spectrum (u, 2, N, K, H)."""
    axis, rows = sizes.x, x.numel() // x.shape[-1]
    cosine, sine, _, _ = _matrices(axis, x.device)
    out = x.new_empty(axis.half, 2, *x.shape[:-1])
    first, second, groups = axis.blocks
    per_program, warps, stages = LAUNCH["rows_there"]
    _rows_there[(triton.cdiv(rows, per_program), groups)](
        x, out, cosine, sine,
        rows, axis.size, axis.pairs, axis.left, axis.right,
        HALF=axis.half, FIRST=first, SECOND=second, ROWS=per_program, DEPTH=STEP,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def rows_back(spectrum: Tensor, sizes: Sizes, precision: str) -> Tensor:
    """Row spectrum (u, 2, N, K, H) → activity (N, K, H, W)."""
    axis, shape = sizes.x, spectrum.shape[2:]
    _, _, cosine, sine = _matrices(axis, spectrum.device)
    out = spectrum.new_empty(*shape, axis.size)
    first, second, groups = axis.blocks
    per_program, warps, stages = LAUNCH["rows_back"]
    _rows_back[(triton.cdiv(shape.numel(), per_program), groups)](
        spectrum, out, cosine, sine,
        shape.numel(), axis.size, axis.pairs, axis.left, axis.right,
        HALF=axis.half, FIRST=first, SECOND=second, ROWS=per_program, DEPTH=STEP,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def columns_there(rows: Tensor, out: Tensor, sizes: Sizes, precision: str) -> None:
    """Row spectrum (u, 2, N, K, H) → spectrum `out` (u, v, 2, 2, K, N)."""
    axis, (images, channels) = sizes.y, rows.shape[2:4]
    cosine, sine, _, _ = _matrices(axis, rows.device)
    first, second, groups = axis.blocks
    per_program, warps, stages = LAUNCH["columns_there"]
    _columns_there[(triton.cdiv(images * channels, per_program), len(rows), groups)](
        rows, out, cosine, sine, images, channels, axis.size, axis.pairs, axis.left, axis.right,
        HALF=axis.half, FIRST=first, SECOND=second, ROWS=per_program, DEPTH=STEP,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def columns_back(spectrum: Tensor, rows: Tensor, sizes: Sizes, precision: str) -> None:
    """Spectrum (u, v, 2, 2, K, N) → row spectrum `rows` (u, 2, N, K, H), scaled for the way
    back to activity."""
    axis, (images, channels) = sizes.y, rows.shape[2:4]
    _, _, cosine, sine = _matrices(axis, rows.device)
    first, second, groups = axis.blocks
    per_program, warps, stages = LAUNCH["columns_back"]
    _columns_back[(triton.cdiv(images * channels, per_program), len(rows), groups)](
        spectrum, rows, cosine, sine, images, channels, axis.size, axis.pairs, axis.left,
        axis.right, sizes.scale,
        HALF=axis.half, FIRST=first, SECOND=second, ROWS=per_program, DEPTH=STEP,
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
    block, warps, stages = _images_block("product", images)
    _product[(triton.cdiv(images, block) * kernel.shape[:3].numel(),)](
        kernel, spectrum, out, images, inputs, outputs, *strides,
        CONJUGATE=adjoint, OUT=_block(outputs), IN=_block(inputs), IMAGES=block,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def correlate(
    gradient: Tensor, spectrum: Tensor, out: Tensor, add: bool, precision: str
) -> None:
    """Σ over images of conj(gradient (u, v, 2, 2, O, N)) · spectrum (u, v, 2, 2, I, N), put or
    added into `out` (u, v, 2, 2, O, I)."""
    outputs, inputs = out.shape[-2:]
    images = spectrum.shape[-1]
    block, warps, stages = _images_block("correlate", images)
    _correlate[(out.shape[:3].numel(),)](
        gradient, spectrum, out, images, inputs, outputs,
        ADD=add, OUT=_block(outputs), IN=_block(inputs), IMAGES=block,
        PRECISION=precision, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def _block(channels: int) -> int:
    return max(16, triton.next_power_of_2(channels))


def _images_block(name: str, images: int) -> tuple[int, int, int]:
    block, warps, stages = LAUNCH[name]
    return (16 if images <= 16 else block), warps, stages


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
    parts = gradient.view(sizes.x.half, sizes.y.length, 2, -1).movedim(2, -1).contiguous()
    rows = torch.matmul(down.t(), torch.view_as_complex(parts))  # (u, h, O·I)
    taps = (along.t() @ rows.view(sizes.x.half, -1)).real * sizes.scale
    return taps.view(sizes.x.taps, sizes.y.taps, outputs, inputs).permute(2, 3, 1, 0).contiguous()


def _waves(like: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """exp(±iθd) at every tap: down (v and sign, h), along (u, w)."""
    return _tap_waves(sizes.y, True, like.device), _tap_waves(sizes.x, False, like.device)


@functools.lru_cache(maxsize=32)
def _tap_waves(axis: Axis, both_signs: bool, device: torch.device) -> Tensor:
    d = torch.arange(axis.taps, dtype=torch.float64) - (axis.taps - 1) // 2
    θ = math.pi / axis.half * (torch.arange(axis.half, dtype=torch.float64) + 0.5)
    if both_signs:
        θ = torch.stack([θ, -θ], 1).flatten()
    angle = torch.outer(θ, d)
    return torch.complex(torch.cos(angle), torch.sin(angle)).to(device, torch.complex64)


def convolve(
    x: Tensor, kernel: Tensor, sizes: Sizes, precision: str, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Activity (N, I, H, W) → (N, O, H, W), and its spectrum if it is to be kept."""
    rows = rows_there(x, sizes, precision)
    out, spectrum = convolve_rows(rows, kernel, sizes, precision, keep)
    return rows_back(out, sizes, precision), spectrum


def convolve_rows(
    rows: Tensor, kernel: Tensor, sizes: Sizes, precision: str, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """The same between row spectra, (u, 2, N, I, H) → (u, 2, N, O, H).

    Row frequencies are taken a few at a time, so that what lies between the kernels stays in the
    device's cache.
    """
    outputs, inputs = kernel.shape[-2:]
    frequencies, _, images, _, height = rows.shape
    shape = (sizes.y.half, 2, 2)
    out = rows.new_empty(frequencies, 2, images, outputs, height)
    step = _cached_frequencies(rows)
    spectrum = rows.new_empty(frequencies if keep else step, *shape, inputs, images)
    result = rows.new_empty(step, *shape, outputs, images)
    for u in range(0, frequencies, step):
        part = slice(u, min(u + step, frequencies))
        here = spectrum[part] if keep else spectrum[: part.stop - u]
        there = result[: part.stop - u]
        columns_there(rows[part], here, sizes, precision)
        product(kernel[part], here, there, precision)
        columns_back(there, out[part], sizes, precision)
    return out, spectrum if keep else None


def adjoint_rows(
    gradient: Tensor,
    kernel: Tensor,
    spectrum: Tensor | None,
    kernel_sum: Tensor | None,
    add: bool,
    sizes: Sizes,
    precision: str,
) -> Tensor:
    """Backward of :func:`convolve_rows`: the output's gradient (u, 2, N, O, H) → the input's
    (u, 2, N, I, H). With the input's `spectrum`, the kernel's gradient is put or added into
    `kernel_sum`."""
    outputs, inputs = kernel.shape[-2:]
    frequencies, _, images, _, height = gradient.shape
    out = gradient.new_empty(frequencies, 2, images, inputs, height)
    step = _cached_frequencies(gradient)
    shape = (step, sizes.y.half, 2, 2)
    transformed = gradient.new_empty(*shape, outputs, images)
    result = gradient.new_empty(*shape, inputs, images)
    for u in range(0, frequencies, step):
        part = slice(u, min(u + step, frequencies))
        here, there = transformed[: part.stop - u], result[: part.stop - u]
        columns_there(gradient[part], here, sizes, precision)
        if spectrum is not None and kernel_sum is not None:
            correlate(here, spectrum[part], kernel_sum[part], add, precision)
        product(kernel[part], here, there, precision, adjoint=True)
        columns_back(there, out[part], sizes, precision)
    return out


CACHED_BYTES = 24 * 2**20  # of one row-spectrum part


def _cached_frequencies(rows: Tensor) -> int:
    """How many row frequencies to take at a time."""
    each = rows[0].numel() * rows.element_size()
    return max(1, min(len(rows), CACHED_BYTES // each))


def tf32_allowed() -> bool:
    """Whether PyTorch's own convolutions may round their inputs to TF32 on this machine's GPU."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    precision = getattr(conv, "fp32_precision", None)
    return torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32"


def dot_precision() -> str:
    """What the matrix units compute with: TF32, or three TF32 products that make a float32 one."""
    return "tf32" if tf32_allowed() else "tf32x3"
