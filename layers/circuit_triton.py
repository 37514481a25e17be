"""The whole circuit as one operation on a CUDA device, in Triton.

Computes what HGRU.forward computes (the equations stand there) for the circuits without batch
normalisation, with its own backward pass. Everything pointwise is fused: the gates' 1×1 products
with the mixing and the gain that follows them, and the inhibition with the inverse row transform
of the convolution that feeds it. Kept for backward at each step are H2, H1, C1, C2 and the spectra
of the two convolutions' inputs, or only H2 when `recompute` is asked for. Inside, both image axes
are folded (see layers/spectral_triton.py); the padding holds zeros and stays so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers import spectral_triton as spectral
from layers.horizontal import refuse_double_backward
from layers.spectral_triton import Sizes, inverse

NONLINEARITIES = ("tanh", "relu")
PIXELS = 64  # of a program's tile
PROGRAMS = 1056  # that share the tiles of the backward pass, each summing its own
# The gates' products always keep float32's precision: they are too small to be worth less.
GATES = tl.constexpr("tf32x3")


@triton.jit
def _f(z, TANH: tl.constexpr):
    if TANH:
        size = tl.abs(z)
        e = tl.exp(-2.0 * size)
        far = (1.0 - e) / (1.0 + e)
        s = z * z
        series = -17.0 / 315.0 + s * (62.0 / 2835.0)
        near = size + size * s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * series))
        t = tl.where(size < 0.25, near, far)
        return tl.where(z < 0, -t, t)
    else:
        return tl.maximum(z, 0.0)


@triton.jit
def _f_slope(h, TANH: tl.constexpr):
    """f'(z) from h = f(z)."""
    if TANH:
        return 1.0 - h * h
    else:
        return tl.where(h > 0, 1.0, 0.0)


@triton.jit
def _gain_kernel(
    h2, u1, b1, p, pixels, channels,
    K: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """P = H2 σ(U1 H2 + b_gain)."""
    image = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    known = k < channels
    at = (image * channels + k[:, None]) * pixels + pixel[None, :]
    mask = known[:, None] & (pixel < pixels)[None, :]
    square = known[:, None] & (i < channels)[None, :]
    w1 = tl.load(u1 + k[:, None] * channels + i[None, :], mask=square, other=0.0)
    bias = tl.load(b1 + k, mask=known, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    g = tl.sigmoid(tl.dot(w1, h, input_precision=GATES) + bias[:, None])
    tl.store(p + at, h * g, mask=mask)


@triton.jit
def _mix_kernel(
    h1, c2, h2, u1, b1, u2, b2, gamma, kappa, omega, eta, out, p, pixels, channels,
    K: tl.constexpr, PIXELS: tl.constexpr, TANH: tl.constexpr, GAIN: tl.constexpr,
):  # fmt: skip
    """The step's second half after its convolution, and with GAIN the next step's P."""
    image = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    known = k < channels
    at = (image * channels + k[:, None]) * pixels + pixel[None, :]
    mask = known[:, None] & (pixel < pixels)[None, :]
    square = known[:, None] & (i < channels)[None, :]
    w2 = tl.load(u2 + k[:, None] * channels + i[None, :], mask=square, other=0.0)
    bias2 = tl.load(b2 + k, mask=known, other=0.0)
    γ = tl.load(gamma + k, mask=known, other=0.0)[:, None]
    κ = tl.load(kappa + k, mask=known, other=0.0)[:, None]
    ω = tl.load(omega + k, mask=known, other=0.0)[:, None]
    η = tl.load(eta)
    x1 = tl.load(h1 + at, mask=mask, other=0.0)
    e = γ * tl.load(c2 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    g2 = tl.sigmoid(tl.dot(w2, x1, input_precision=GATES) + bias2[:, None])
    candidate = _f(κ * (x1 + e) + ω * x1 * e, TANH)
    h = η * (g2 * h + (1.0 - g2) * candidate)
    h = tl.where(mask, h, 0.0)
    tl.store(out + at, h, mask=mask)
    if GAIN:
        w1 = tl.load(u1 + k[:, None] * channels + i[None, :], mask=square, other=0.0)
        bias = tl.load(b1 + k, mask=known, other=0.0)
        g = tl.sigmoid(tl.dot(w1, h, input_precision=GATES) + bias[:, None])
        tl.store(p + at, h * g, mask=mask)


@triton.jit
def _pointwise_back_kernel(
    grad, dp, h2_next, h2, h1, c2, u1, b1, u2, b2, gamma, kappa, omega, eta,
    dh2, dh1, dc2, sums1, sums2, letters, deta, pixels, channels, tiles, tiles_per_image,
    K: tl.constexpr, PIXELS: tl.constexpr, TANH: tl.constexpr,
    GAIN: tl.constexpr, MIX: tl.constexpr,
):  # fmt: skip
    """Backward of the next step's gain (GAIN) and of this step's mixing (MIX), over many tiles.

    `grad` is the gradient of the hidden state between them so far; `h2_next` that state. Sums over
    pixels go to this program's own place in `sums1` (U1, b_gain), `sums2` (U2, b_mix), `letters`
    (γ, κ, ω) and `deta`, added to what lies there.
    """
    program = tl.program_id(0)
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    known = k < channels
    square = known[:, None] & (i < channels)[None, :]
    place = program * K * (K + 1) + k[:, None] * (K + 1) + i[None, :]
    edge = program * K * (K + 1) + k * (K + 1) + K
    if GAIN:
        w1 = tl.load(u1 + k[:, None] * channels + i[None, :], mask=square, other=0.0)
        w1_t = tl.load(u1 + i[None, :] * channels + k[:, None], mask=square, other=0.0)
        bias1 = tl.load(b1 + k, mask=known, other=0.0)[:, None]
        du1 = tl.load(sums1 + place)
        db1 = tl.load(sums1 + edge)
    if MIX:
        w2 = tl.load(u2 + k[:, None] * channels + i[None, :], mask=square, other=0.0)
        w2_t = tl.load(u2 + i[None, :] * channels + k[:, None], mask=square, other=0.0)
        bias2 = tl.load(b2 + k, mask=known, other=0.0)[:, None]
        γ = tl.load(gamma + k, mask=known, other=0.0)[:, None]
        κ = tl.load(kappa + k, mask=known, other=0.0)[:, None]
        ω = tl.load(omega + k, mask=known, other=0.0)[:, None]
        η = tl.load(eta)
        du2 = tl.load(sums2 + place)
        db2 = tl.load(sums2 + edge)
        letter = letters + program * 3 * K + k
        dγ = tl.load(letter)
        dκ = tl.load(letter + K)
        dω = tl.load(letter + 2 * K)
        dη = tl.zeros((K,), tl.float32)
    for tile in range(program, tiles, tl.num_programs(0)):
        image = (tile // tiles_per_image).to(tl.int64)
        pixel = tile % tiles_per_image * PIXELS + tl.arange(0, PIXELS)
        at = (image * channels + k[:, None]) * pixels + pixel[None, :]
        mask = known[:, None] & (pixel < pixels)[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0)
        if GAIN:
            h = tl.load(h2_next + at, mask=mask, other=0.0)
            d = tl.load(dp + at, mask=mask, other=0.0)
            g1 = tl.sigmoid(tl.dot(w1, h, input_precision=GATES) + bias1)
            da = d * h * g1 * (1.0 - g1)
            g += d * g1 + tl.dot(w1_t, da, input_precision=GATES)
            du1 = tl.dot(da, tl.trans(h), du1, input_precision=GATES)
            db1 += tl.sum(da, 1)
        if MIX:
            x1 = tl.load(h1 + at, mask=mask, other=0.0)
            c = tl.load(c2 + at, mask=mask, other=0.0)
            h = tl.load(h2 + at, mask=mask, other=0.0)
            e = γ * c
            g2 = tl.sigmoid(tl.dot(w2, x1, input_precision=GATES) + bias2)
            candidate = _f(κ * (x1 + e) + ω * x1 * e, TANH)
            dη += tl.sum(g * (g2 * h + (1.0 - g2) * candidate), 1)
            g *= η
            ds = g * (1.0 - g2) * _f_slope(candidate, TANH)
            da = g * (h - candidate) * g2 * (1.0 - g2)
            de = ds * (κ + ω * x1)
            tl.store(dh2 + at, g * g2, mask=mask)
            tl.store(dc2 + at, γ * de, mask=mask)
            dx1 = ds * (κ + ω * e) + tl.dot(w2_t, da, input_precision=GATES)
            tl.store(dh1 + at, dx1, mask=mask)
            du2 = tl.dot(da, tl.trans(x1), du2, input_precision=GATES)
            db2 += tl.sum(da, 1)
            dγ += tl.sum(de * c, 1)
            dκ += tl.sum(ds * (x1 + e), 1)
            dω += tl.sum(ds * x1 * e, 1)
        else:
            tl.store(dh2 + at, g, mask=mask)
    if GAIN:
        tl.store(sums1 + place, du1)
        tl.store(sums1 + edge, db1)
    if MIX:
        tl.store(sums2 + place, du2)
        tl.store(sums2 + edge, db2)
        tl.store(letter, dγ)
        tl.store(letter + K, dκ)
        tl.store(letter + 2 * K, dω)
        tl.store(deta + program, tl.sum(dη, 0))


@triton.jit
def _inhibit_run(
    at, mask, c, α, μ, x, h2, c1, h1, TANH: tl.constexpr,
):  # fmt: skip
    h = tl.load(h2 + at, mask=mask, other=0.0)
    z = tl.load(x + at, mask=mask, other=0.0) - (α * h + μ) * c
    tl.store(c1 + at, c, mask=mask)
    tl.store(h1 + at, _f(z, TANH), mask=mask)


@triton.jit
def _inhibit_kernel(
    spectrum, matrices, x, h2, alpha, mu, c1, h1, rows, height, channels,
    HALF: tl.constexpr, RUN: tl.constexpr, ODD: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
    TANH: tl.constexpr,
):  # fmt: skip
    """Row spectrum (u, pq, rows) → C1 and H1 = f(X − (α H2 + μ) C1), folded."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    group = tl.program_id(1)
    far1, near1, far2, near2 = inverse(
        spectrum, matrices, r, rows, 0, group, HALF, FIRST, SECOND, ROWS, DEPTH, PRECISION
    )
    k = r // height % channels
    α = tl.load(alpha + k)[:, None]
    μ = tl.load(mu + k)[:, None]
    row = r.to(tl.int64)[:, None] * (2 * RUN)
    j = group * (FIRST + SECOND) + tl.arange(0, FIRST)
    if ODD:
        near1 = tl.where((j == 0)[None, :], 0.0, near1)
    mask = inside[:, None] & (j < RUN)[None, :]
    _inhibit_run(row + j[None, :], mask, far1, α, μ, x, h2, c1, h1, TANH)
    _inhibit_run(row + RUN + j[None, :], mask, near1, α, μ, x, h2, c1, h1, TANH)
    if SECOND > 0:
        j = group * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        mask = inside[:, None] & (j < RUN)[None, :]
        _inhibit_run(row + j[None, :], mask, far2, α, μ, x, h2, c1, h1, TANH)
        _inhibit_run(row + RUN + j[None, :], mask, near2, α, μ, x, h2, c1, h1, TANH)


@triton.jit
def _inhibit_back_run(
    at, mask, d, α, μ, dh1, h1, c1, h2, dx, dh2, dc1, FIRST_TIME: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """Returns the sums over each row that α's and μ's gradients are made of."""
    d += tl.load(dh1 + at, mask=mask, other=0.0)
    dz = d * _f_slope(tl.load(h1 + at, mask=mask, other=0.0), TANH)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    c = tl.load(c1 + at, mask=mask, other=0.0)
    tl.store(dc1 + at, -dz * (α * h + μ), mask=mask)
    tl.store(dh2 + at, tl.load(dh2 + at, mask=mask, other=0.0) - dz * α * c, mask=mask)
    dzc = tl.where(mask, dz * c, 0.0)
    if FIRST_TIME:
        tl.store(dx + at, dz, mask=mask)
    else:
        tl.store(dx + at, tl.load(dx + at, mask=mask, other=0.0) + dz, mask=mask)
    return -tl.sum(dzc * h, 1), -tl.sum(dzc, 1)


@triton.jit
def _inhibit_back_kernel(
    spectrum, matrices, dh1, h1, c1, h2, alpha, mu, dx, dh2, dc1, sums, rows, height, channels,
    HALF: tl.constexpr, RUN: tl.constexpr, ODD: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
    TANH: tl.constexpr, FIRST_TIME: tl.constexpr,
):  # fmt: skip
    """Backward of the inhibition. The row spectrum is that of the part of H1's gradient that comes
    through its convolution; `dh1` holds the rest. Adds to `dx`, `dh2` and `sums` (group, 2, rows).
    """
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    group = tl.program_id(1)
    far1, near1, far2, near2 = inverse(
        spectrum, matrices, r, rows, 0, group, HALF, FIRST, SECOND, ROWS, DEPTH, PRECISION
    )
    k = r // height % channels
    α = tl.load(alpha + k)[:, None]
    μ = tl.load(mu + k)[:, None]
    row = r.to(tl.int64)[:, None] * (2 * RUN)
    j = group * (FIRST + SECOND) + tl.arange(0, FIRST)
    if ODD:
        near1 = tl.where((j == 0)[None, :], 0.0, near1)
    mask = inside[:, None] & (j < RUN)[None, :]
    at = row + j[None, :]
    dα, dμ = _inhibit_back_run(
        at, mask, far1, α, μ, dh1, h1, c1, h2, dx, dh2, dc1, FIRST_TIME, TANH
    )
    more_α, more_μ = _inhibit_back_run(
        at + RUN, mask, near1, α, μ, dh1, h1, c1, h2, dx, dh2, dc1, FIRST_TIME, TANH
    )
    dα += more_α
    dμ += more_μ
    if SECOND > 0:
        j = group * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        mask = inside[:, None] & (j < RUN)[None, :]
        at = row + j[None, :]
        more_α, more_μ = _inhibit_back_run(
            at, mask, far2, α, μ, dh1, h1, c1, h2, dx, dh2, dc1, FIRST_TIME, TANH
        )
        dα += more_α
        dμ += more_μ
        more_α, more_μ = _inhibit_back_run(
            at + RUN, mask, near2, α, μ, dh1, h1, c1, h2, dx, dh2, dc1, FIRST_TIME, TANH
        )
        dα += more_α
        dμ += more_μ
    place = sums + group * 2 * rows + r
    if not FIRST_TIME:
        dα += tl.load(place, mask=inside, other=0.0)
        dμ += tl.load(place + rows, mask=inside, other=0.0)
    tl.store(place, dα, mask=inside)
    tl.store(place + rows, dμ, mask=inside)


@triton.jit
def _fold_kernel(
    x, folded, height, width, right_y, left_y, right, left,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD: tl.constexpr, ODD_Y: tl.constexpr,
    UNFOLD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of the folded layout from an activity (planes, height, width), or back."""
    row = tl.program_id(0)
    y = row % (2 * RUN_Y)
    plane = (row // (2 * RUN_Y)).to(tl.int64)
    known_y = (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
    y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
    j = tl.arange(0, BLOCK)
    known = (j < width - right) | ((j >= RUN + ODD) & (j <= RUN + left))
    column = tl.where(j < RUN, right + j, left - (j - RUN))
    at = x + (plane * height + y) * width + column
    to = folded + row.to(tl.int64) * (2 * RUN) + j
    if UNFOLD:
        tl.store(at, tl.load(to, mask=known & known_y, other=0.0), mask=known & known_y)
    else:
        tl.store(to, tl.load(at, mask=known & known_y, other=0.0), mask=j < 2 * RUN)


# -- launching -------------------------------------------------------------------------------------

# Rows of a program, warps and stages of the fused row kernels, from measurements on an H200.
LAUNCH = {"inhibit": (64, 4, 2), "inhibit_back": (64, 4, 2)}


def fold(x: Tensor, sizes: Sizes) -> Tensor:
    """Activity (N, K, H, W) → folded (N, K, H', W')."""
    out = x.new_empty(*x.shape[:2], sizes.y.pitch, sizes.x.pitch)
    _launch_fold(x.contiguous(), out, sizes, False)
    return out


def unfold(folded: Tensor, sizes: Sizes) -> Tensor:
    """Folded (N, K, H', W') → activity (N, K, H, W)."""
    out = folded.new_empty(*folded.shape[:2], sizes.y.size, sizes.x.size)
    _launch_fold(out, folded, sizes, True)
    return out


def _launch_fold(x: Tensor, folded: Tensor, sizes: Sizes, unfold: bool) -> None:
    y, x_axis = sizes.y, sizes.x
    _fold_kernel[(folded.shape[:3].numel(),)](
        x, folded, y.size, x_axis.size, y.right, y.left, x_axis.right, x_axis.left,
        RUN=x_axis.pitch // 2, RUN_Y=y.pitch // 2, ODD=x_axis.odd, ODD_Y=y.odd, UNFOLD=unfold,
        BLOCK=triton.next_power_of_2(x_axis.pitch), num_warps=2,
    )  # fmt: skip


class _Circuit:
    """The parameters of one pass and the kernels' launches. Tensors are folded."""

    def __init__(self, sizes: Sizes, precision: str, tanh: bool, gates, letters, eta: Tensor):
        self.sizes, self.precision, self.tanh = sizes, precision, tanh
        self.u1, self.b1, self.u2, self.b2 = gates
        self.alpha, self.mu, self.gamma, self.kappa, self.omega = letters
        self.eta = eta

    def _row_options(self, name: str) -> dict:
        axis = self.sizes.x
        first, second, _ = axis.blocks
        rows, warps, stages = LAUNCH[name]
        return dict(
            HALF=axis.half, RUN=axis.pitch // 2, ODD=axis.odd, FIRST=first, SECOND=second,
            ROWS=rows, DEPTH=spectral.STEP, PRECISION=self.precision, TANH=self.tanh,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _row_grid(self, name: str, rows: int) -> tuple[int, int]:
        return triton.cdiv(rows, LAUNCH[name][0]), self.sizes.x.blocks[2]

    def _inverse_matrices(self, like: Tensor) -> Tensor:
        return spectral.matrices(self.sizes.x, 1 / self.sizes.x.half, like.device)

    def gain(self, h2: Tensor) -> Tensor:
        """H2 → P = H2 G1."""
        p = torch.empty_like(h2)
        images, channels = h2.shape[:2]
        pixels = h2[0, 0].numel()
        _gain_kernel[(triton.cdiv(pixels, PIXELS), images)](
            h2, self.u1, self.b1, p, pixels, channels, K=spectral.block(channels), PIXELS=PIXELS,
        )  # fmt: skip
        return p

    def inhibit(self, rows: Tensor, x: Tensor, h2: Tensor) -> tuple[Tensor, Tensor]:
        """C1's row spectrum → C1, H1."""
        c1, h1 = torch.empty_like(x), torch.empty_like(x)
        count = x.shape[:3].numel()
        _inhibit_kernel[self._row_grid("inhibit", count)](
            rows, self._inverse_matrices(x), x, h2, self.alpha, self.mu, c1, h1,
            count, x.shape[2], x.shape[1], **self._row_options("inhibit"),
        )  # fmt: skip
        return c1, h1

    def mix(self, t: int, h1: Tensor, c2: Tensor, h2: Tensor, gain: bool):
        """H1, C2, H2 → the next H2 and, with `gain`, its P."""
        out = torch.empty_like(h2)
        p = torch.empty_like(h2) if gain else out
        images, channels = h2.shape[:2]
        pixels = h2[0, 0].numel()
        _mix_kernel[(triton.cdiv(pixels, PIXELS), images)](
            h1, c2, h2, self.u1, self.b1, self.u2, self.b2, self.gamma, self.kappa, self.omega,
            self.eta[t], out, p, pixels, channels,
            K=spectral.block(channels), PIXELS=PIXELS, TANH=self.tanh, GAIN=gain,
        )  # fmt: skip
        return out, p

    def first_half(self, p: Tensor, x: Tensor, h2: Tensor, kernel: Tensor):
        """P → C1, H1 and the spectrum of P."""
        rows = spectral.rows_there(p, self.sizes, self.precision, folded=True)
        rows, spectrum = spectral.convolve_rows(rows, kernel, self.sizes, self.precision)
        return *self.inhibit(rows, x, h2), spectrum

    def second_convolution(self, h1: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """H1 → C2 and the spectrum of H1."""
        return spectral.convolve(h1, kernel, self.sizes, self.precision, folded=True)


class _Sums:
    """The parameters' gradients, summed over pixels and steps in fixed places."""

    def __init__(self, circuit: _Circuit, x: Tensor, timesteps: int):
        channels = x.shape[1]
        K = spectral.block(channels)
        self.channels, self.rows_shape = channels, x.shape[:3]
        self.gates = x.new_zeros(2, PROGRAMS, K, K + 1)
        self.letters = x.new_zeros(PROGRAMS, 3, K)
        self.eta = x.new_zeros(timesteps, PROGRAMS)
        self.inhibition = x.new_empty(circuit.sizes.x.blocks[2], 2, x.shape[:3].numel())

    def gate(self, number: int) -> tuple[Tensor, Tensor]:
        """The gradients of U (K, K) and b (K) of gate 1 or 2."""
        total = self.gates[number - 1].sum(0)[: self.channels]
        return total[:, : self.channels], total[:, -1]

    def greek(self) -> list[Tensor]:
        """The gradients of α, μ, γ, κ, ω, each (K,)."""
        αμ = self.inhibition.sum(0).view(2, *self.rows_shape).sum((1, 3))
        γκω = self.letters.sum(0)[:, : self.channels]
        return [*αμ, *γκω]


def _pointwise_back(
    circuit: _Circuit, sums: _Sums, t: int, grad, dp, h2_next, h2=None, h1=None, c2=None
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of the gain after step t (if there is a `dp`) and of step t's mixing (if `h1`)."""
    dh2 = torch.empty_like(grad)
    mix, gain = h1 is not None, dp is not None
    dh1, dc2 = (torch.empty_like(grad), torch.empty_like(grad)) if mix else (dh2, dh2)
    images, channels = grad.shape[:2]
    pixels = grad[0, 0].numel()
    per_image = triton.cdiv(pixels, PIXELS)
    c, none = circuit, grad
    _pointwise_back_kernel[(PROGRAMS,)](
        grad, dp if gain else none, h2_next if gain else none, h2 if mix else none,
        h1 if mix else none, c2 if mix else none, c.u1, c.b1, c.u2, c.b2, c.gamma, c.kappa, c.omega,
        c.eta[max(t, 0)], dh2, dh1, dc2, sums.gates[0], sums.gates[1], sums.letters,
        sums.eta[max(t, 0)], pixels, channels, images * per_image, per_image,
        K=spectral.block(channels), PIXELS=PIXELS, TANH=c.tanh, GAIN=gain, MIX=mix,
    )  # fmt: skip
    return dh2, dh1, dc2


def _inhibit_back(circuit, sums, first: bool, rows, dh1, h1, c1, h2, dx, dh2) -> Tensor:
    """Returns C1's gradient; adds to those of X and H2."""
    dc1 = torch.empty_like(h1)
    count = h1.shape[:3].numel()
    _inhibit_back_kernel[circuit._row_grid("inhibit_back", count)](
        rows, circuit._inverse_matrices(h1), dh1, h1, c1, h2, circuit.alpha, circuit.mu,
        dx, dh2, dc1, sums.inhibition, count, h1.shape[2], h1.shape[1],
        FIRST_TIME=first, **circuit._row_options("inhibit_back"),
    )  # fmt: skip
    return dc1


class _CircuitFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, X, H0, W1, W2, U1, b1, U2, b2, α, μ, γ, κ, ω, η, tanh, recompute):
        sizes = Sizes.of(*X.shape[-2:], *W1.shape[-2:])
        gates = [p.contiguous() for p in (U1, b1, U2, b2)]
        circuit = _Circuit(sizes, spectral.dot_precision(), tanh, gates, (α, μ, γ, κ, ω), η)
        kernel1 = spectral.kernel_spectrum(W1, sizes)
        kernel2 = kernel1 if W2 is None else spectral.kernel_spectrum(W2, sizes)
        keep, timesteps = any(ctx.needs_input_grad), len(η)
        x, h2 = fold(X, sizes), fold(H0, sizes)
        ctx.steps = []
        p = circuit.gain(h2)
        for t in range(timesteps):
            c1, h1, spectrum1 = circuit.first_half(p, x, h2, kernel1)
            c2, spectrum2 = circuit.second_convolution(h1, kernel2)
            if keep:
                ctx.steps.append(
                    (h2,) if recompute else (h2, h1, c1, c2, spectrum1, spectrum2)
                )
            del spectrum1, spectrum2, c1
            h2, p = circuit.mix(t, h1, c2, h2, gain=t + 1 < timesteps)
        if keep:
            ctx.circuit, ctx.x, ctx.recompute = circuit, x, recompute
            ctx.save_for_backward(W1, W2, kernel1, kernel2)
        return unfold(h2, sizes)

    @staticmethod
    def backward(ctx, grad_out):
        refuse_double_backward()
        circuit, x = ctx.circuit, ctx.x
        sizes, precision = circuit.sizes, circuit.precision
        W1, W2, kernel1, kernel2 = ctx.saved_tensors
        sum1 = spectral.KernelSum()
        sum2 = sum1 if W2 is None else spectral.KernelSum()
        sums = _Sums(circuit, x, len(ctx.steps))
        grad, dp, dx, h2_next = fold(grad_out, sizes), None, torch.empty_like(x), None
        for t in reversed(range(len(ctx.steps))):
            h2, h1, c1, c2, spectrum1, spectrum2 = _step(ctx, t, kernel1, kernel2)
            dh2, dh1, dc2 = _pointwise_back(circuit, sums, t, grad, dp, h2_next, h2, h1, c2)
            rows = spectral.rows_there(dc2, sizes, precision, folded=True)
            rows = spectral.adjoint_rows(rows, kernel2, spectrum2, sum2, sizes, precision)
            first = t + 1 == len(ctx.steps)
            dc1 = _inhibit_back(circuit, sums, first, rows, dh1, h1, c1, h2, dx, dh2)
            rows = spectral.rows_there(dc1, sizes, precision, folded=True)
            rows = spectral.adjoint_rows(rows, kernel1, spectrum1, sum1, sizes, precision)
            dp = spectral.rows_back(rows, sizes, precision, folded=True)
            grad, h2_next = dh2, h2
        grad, _, _ = _pointwise_back(circuit, sums, -1, grad, dp, h2_next)
        needs = ctx.needs_input_grad
        dW1 = spectral.kernel_gradient(sum1.total, W1, sizes)
        dW2 = None if W2 is None else spectral.kernel_gradient(sum2.total, W2, sizes)
        return (
            unfold(dx, sizes) if needs[0] else None, unfold(grad, sizes) if needs[1] else None,
            dW1, dW2, *sums.gate(1), *sums.gate(2), *sums.greek(), sums.eta.sum(1), None, None,
        )  # fmt: skip


def _step(ctx, t: int, kernel1: Tensor, kernel2: Tensor) -> tuple[Tensor, ...]:
    """What forward kept of step t, or what it would have kept."""
    if not ctx.recompute:
        return ctx.steps[t]
    (h2,) = ctx.steps[t]
    circuit = ctx.circuit
    c1, h1, spectrum1 = circuit.first_half(circuit.gain(h2), ctx.x, h2, kernel1)
    c2, spectrum2 = circuit.second_convolution(h1, kernel2)
    return h2, h1, c1, c2, spectrum1, spectrum2


def circuit(
    X: Tensor,
    H0: Tensor,
    kernels: tuple[Tensor, Tensor | None],
    gates: tuple[Tensor, Tensor, Tensor, Tensor],
    letters: list[Tensor],
    eta: Tensor,
    *,
    tanh: bool,
    recompute: bool = False,
) -> Tensor:
    """The hidden state after len(eta) steps.

    Args:
        X: feedforward drive (N, K, H, W), float32 on a CUDA device.
        H0: the hidden state before the first step, likewise.
        kernels: W1 (K, K, h, w) and W2, None where W1 serves for both.
        gates: U1 (K, K), b_gain (K,), U2 (K, K), b_mix (K,).
        letters: α, μ, γ, κ, ω, each (K,); constants as well.
        eta: η (T,), ones without adaptation.
        tanh: whether f is tanh; relu otherwise.
        recompute: keep only H2 of each step and compute the rest again in backward: a fifth of the
            memory for about a third more time.

    Precision is that of PyTorch's own convolutions on the device (TF32 where they may use it).
    Raises RuntimeError from a double backward.
    """
    return _CircuitFunction.apply(X, H0, *kernels, *gates, *letters, eta, tanh, recompute)
