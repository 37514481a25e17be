"""The whole circuit as one operation on a CUDA device, in Triton.

Computes what HGRU.forward computes (the equations stand there) for the circuits without batch
normalisation, with its own backward pass. The inhibition is fused with the inverse row transform
of the convolution that feeds it. What joins channels (the gates' 1×1 products) and what does not
(the mixing, the derivatives) are kernels apart: together they need more registers than there are.
Kept for backward at each step are H2, H1, C1, C2, G2 and the spectra of the two convolutions'
inputs, or only H2 when `recompute` is asked for. Inside, both image axes are folded (see
layers/spectral_triton.py); the padding holds zeros and stays so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers import spectral_triton as spectral
from layers.horizontal import refuse_double_backward
from layers.spectral_triton import Sizes, add_product, inverse, split

NONLINEARITIES = ("tanh", "relu")
CHUNK = 2048  # pixels of a plane that an elementwise program takes
PROGRAMS = 1056  # that share the tiles of the backward pass, each summing its own


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
def _matmul(a, b, PRECISION: tl.constexpr):
    a, a_low = split(a, PRECISION)
    b, b_low = split(b, PRECISION)
    zero = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    return add_product(a, a_low, b, b_low, zero, PRECISION)


@triton.jit
def _gate_kernel(
    h, u, b, out, pixels, channels,
    GAIN: tl.constexpr, K: tl.constexpr, PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gate σ(U h + b), or with GAIN h times its gate."""
    image = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    known = k < channels
    at = (image * channels + k[:, None]) * pixels + pixel[None, :]
    mask = known[:, None] & (pixel < pixels)[None, :]
    square = known[:, None] & (i < channels)[None, :]
    w = tl.load(u + k[:, None] * channels + i[None, :], mask=square, other=0.0)
    bias = tl.load(b + k, mask=known, other=0.0)
    x = tl.load(h + at, mask=mask, other=0.0)
    gate = tl.sigmoid(_matmul(w, x, PRECISION) + bias[:, None])
    if GAIN:
        gate *= x
    tl.store(out + at, gate, mask=mask)


@triton.jit
def _mix_kernel(
    h1, c2, h2, g2, gamma, kappa, omega, eta, out, pixels, channels, chunks,
    PIXELS: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """The next H2 on a chunk of a plane."""
    plane = tl.program_id(0) // chunks
    pixel = tl.program_id(0) % chunks * PIXELS + tl.arange(0, PIXELS)
    at = plane.to(tl.int64) * pixels + pixel
    mask = pixel < pixels
    x1 = tl.load(h1 + at, mask=mask, other=0.0)
    e = tl.load(gamma + plane % channels) * tl.load(c2 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    gate = tl.load(g2 + at, mask=mask, other=0.0)
    κ = tl.load(kappa + plane % channels)
    ω = tl.load(omega + plane % channels)
    candidate = _f(κ * (x1 + e) + ω * x1 * e, TANH)
    h = tl.load(eta) * (gate * h + (1.0 - gate) * candidate)
    tl.store(out + at, h, mask=mask)


@triton.jit
def _gain_back_kernel(
    grad, dp, h2, u1, b1, dh2, da1, pixels, channels,
    K: tl.constexpr, PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backward of P = H2 σ(A1), A1 = U1 H2 + b_gain: A1's gradient, and H2's: `grad`, that which
    comes from elsewhere, and P's share."""
    image = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    known = k < channels
    at = (image * channels + k[:, None]) * pixels + pixel[None, :]
    mask = known[:, None] & (pixel < pixels)[None, :]
    square = known[:, None] & (i < channels)[None, :]
    w = tl.load(u1 + k[:, None] * channels + i[None, :], mask=square, other=0.0)
    bias = tl.load(b1 + k, mask=known, other=0.0)[:, None]
    h = tl.load(h2 + at, mask=mask, other=0.0)
    d = tl.load(dp + at, mask=mask, other=0.0)
    g = tl.load(grad + at, mask=mask, other=0.0)
    gate = tl.sigmoid(_matmul(w, h, PRECISION) + bias)
    da = d * h * gate * (1.0 - gate)
    tl.store(da1 + at, da, mask=mask)
    tl.store(dh2 + at, g + d * gate + _matmul(tl.trans(w), da, PRECISION), mask=mask)


@triton.jit
def _mix_back_kernel(
    grad, h2, h1, c2, g2, gamma, kappa, omega, eta,
    dh2, dh1, dc2, da2, sums, pixels, channels, chunks,
    PIXELS: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """Backward of a step's mixing on a chunk of a plane. `grad` is the gradient of the H2 that it
    makes; `dh1` lacks the second gate's share, `da2` is the gradient of that gate's U2 H1 + b_mix.
    The chunk's sums for γ, κ, ω, η go to its own place in `sums` (4, planes, chunks)."""
    plane = tl.program_id(0) // chunks
    pixel = tl.program_id(0) % chunks * PIXELS + tl.arange(0, PIXELS)
    at = plane.to(tl.int64) * pixels + pixel
    mask = pixel < pixels
    γ = tl.load(gamma + plane % channels)
    κ = tl.load(kappa + plane % channels)
    ω = tl.load(omega + plane % channels)
    x1 = tl.load(h1 + at, mask=mask, other=0.0)
    c = tl.load(c2 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    gate = tl.load(g2 + at, mask=mask, other=0.0)
    g = tl.load(grad + at, mask=mask, other=0.0)
    e = γ * c
    candidate = _f(κ * (x1 + e) + ω * x1 * e, TANH)
    place = sums + tl.program_id(0)
    step = tl.num_programs(0)
    tl.store(place + 3 * step, tl.sum(g * (gate * h + (1.0 - gate) * candidate), 0))
    g *= tl.load(eta)
    ds = g * (1.0 - gate) * _f_slope(candidate, TANH)
    de = ds * (κ + ω * x1)
    tl.store(dh2 + at, g * gate, mask=mask)
    tl.store(da2 + at, g * (h - candidate) * gate * (1.0 - gate), mask=mask)
    tl.store(dc2 + at, γ * de, mask=mask)
    tl.store(dh1 + at, ds * (κ + ω * e), mask=mask)
    tl.store(place, tl.sum(de * c, 0))
    tl.store(place + step, tl.sum(ds * (x1 + e), 0))
    tl.store(place + 2 * step, tl.sum(ds * x1 * e, 0))


@triton.jit
def _add_transposed_kernel(
    u, da, x, pixels, channels,
    K: tl.constexpr, PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x + Uᵀ da, in the place of x."""
    image = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    known = k < channels
    at = (image * channels + k[:, None]) * pixels + pixel[None, :]
    mask = known[:, None] & (pixel < pixels)[None, :]
    square = known[:, None] & (i < channels)[None, :]
    w = tl.load(u + k[:, None] + i[None, :] * channels, mask=square, other=0.0)
    product = _matmul(w, tl.load(da + at, mask=mask, other=0.0), PRECISION)
    tl.store(x + at, tl.load(x + at, mask=mask, other=0.0) + product, mask=mask)


@triton.jit
def _gate_gradient_kernel(
    da, x, sums, pixels, channels, tiles, tiles_per_image,
    K: tl.constexpr, PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ over pixels of da xᵀ and of da, a gate's gradients of U and b, of many tiles; added to this
    program's own place in `sums`."""
    k = tl.arange(0, K)
    i = tl.arange(0, K)
    known = k < channels
    du = tl.zeros((K, K), tl.float32)
    db = tl.zeros((K, PIXELS), tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        image = (tile // tiles_per_image).to(tl.int64)
        pixel = tile % tiles_per_image * PIXELS + tl.arange(0, PIXELS)
        inside = pixel < pixels
        at = da + (image * channels + k[:, None]) * pixels + pixel[None, :]
        d = tl.load(at, mask=known[:, None] & inside[None, :], other=0.0)
        at = x + (image * channels + i[:, None]) * pixels + pixel[None, :]
        h = tl.load(at, mask=(i < channels)[:, None] & inside[None, :], other=0.0)
        du += _matmul(d, tl.trans(h), PRECISION)
        db += d
    place = sums + tl.program_id(0) * K * (K + 1) + k[:, None] * (K + 1) + i[None, :]
    edge = sums + tl.program_id(0) * K * (K + 1) + k * (K + 1) + K
    tl.store(place, tl.load(place) + du)
    tl.store(edge, tl.load(edge) + tl.sum(db, 1))


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
def _inhibit_back_kernel(
    through, dh1, h1, c1, h2, alpha, mu, dx, dh2, dc1, sums, pixels, channels, chunks,
    PIXELS: tl.constexpr, TANH: tl.constexpr, FIRST_TIME: tl.constexpr,
):  # fmt: skip
    """Backward of H1 = f(X − (α H2 + μ) C1) on a chunk of a plane. H1's gradient is `through`,
    which came through its convolution, and `dh1`. Adds to `dx`, `dh2` and, in the chunk's own
    place, to `sums` (2, planes, chunks)."""
    plane = tl.program_id(0) // chunks
    pixel = tl.program_id(0) % chunks * PIXELS + tl.arange(0, PIXELS)
    at = plane.to(tl.int64) * pixels + pixel
    mask = pixel < pixels
    α = tl.load(alpha + plane % channels)
    μ = tl.load(mu + plane % channels)
    d = tl.load(through + at, mask=mask, other=0.0) + tl.load(dh1 + at, mask=mask, other=0.0)
    dz = d * _f_slope(tl.load(h1 + at, mask=mask, other=0.0), TANH)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    c = tl.load(c1 + at, mask=mask, other=0.0)
    tl.store(dc1 + at, -dz * (α * h + μ), mask=mask)
    tl.store(dh2 + at, tl.load(dh2 + at, mask=mask, other=0.0) - dz * α * c, mask=mask)
    place = sums + tl.program_id(0)
    dα, dμ = -tl.sum(dz * c * h, 0), -tl.sum(dz * c, 0)
    if FIRST_TIME:
        tl.store(dx + at, dz, mask=mask)
    else:
        tl.store(dx + at, tl.load(dx + at, mask=mask, other=0.0) + dz, mask=mask)
        dα += tl.load(place)
        dμ += tl.load(place + tl.num_programs(0))
    tl.store(place, dα)
    tl.store(place + tl.num_programs(0), dμ)


@triton.jit
def _fold_kernel(
    x, folded, total, height, width, right_y, left_y, right, left,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD: tl.constexpr, ODD_Y: tl.constexpr,
    UNFOLD: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """So many numbers of the folded layout from an activity (planes, height, width), or back."""
    place = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    row = (place // (2 * RUN)).to(tl.int32)
    j = (place % (2 * RUN)).to(tl.int32)
    y = row % (2 * RUN_Y)
    known = (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
    known &= (j < width - right) | ((j >= RUN + ODD) & (j <= RUN + left))
    known &= place < total
    y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
    column = tl.where(j < RUN, right + j, left - (j - RUN))
    at = x + ((row // (2 * RUN_Y)).to(tl.int64) * height + y) * width + column
    if UNFOLD:
        tl.store(at, tl.load(folded + place, mask=known, other=0.0), mask=known)
    else:
        tl.store(folded + place, tl.load(at, mask=known, other=0.0), mask=place < total)


# -- launching -------------------------------------------------------------------------------------

# Rows (or pixels) of a program, warps and stages, from measurements on an H200.
LAUNCH = {
    "inhibit": (32, 4, 3),
    "gate": (64, 4, 1),
    "gain_back": (32, 2, 1),
    "add_transposed": (128, 4, 1),
    "gate_gradient": (32, 1, 3),
}


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
    _fold_kernel[(triton.cdiv(folded.numel(), 1024),)](
        x, folded, folded.numel(), y.size, x_axis.size, y.right, y.left, x_axis.right, x_axis.left,
        RUN=x_axis.pitch // 2, RUN_Y=y.pitch // 2, ODD=x_axis.odd, ODD_Y=y.odd, UNFOLD=unfold,
        CHUNK=1024, num_warps=4,
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

    def _pixel_options(self, name: str, channels: int) -> dict:
        pixels, warps, stages = LAUNCH[name]
        return dict(
            K=spectral.block(channels), PIXELS=pixels, PRECISION=self.precision,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _gate(self, h: Tensor, u: Tensor, b: Tensor, gain: bool) -> Tensor:
        out = torch.empty_like(h)
        images, channels = h.shape[:2]
        pixels = h[0, 0].numel()
        _gate_kernel[(triton.cdiv(pixels, LAUNCH["gate"][0]), images)](
            h, u, b, out, pixels, channels, GAIN=gain, **self._pixel_options("gate", channels)
        )
        return out

    def gain(self, h2: Tensor) -> Tensor:
        """H2 → P = H2 G1."""
        return self._gate(h2, self.u1, self.b1, True)

    def inhibit(self, rows: Tensor, x: Tensor, h2: Tensor) -> tuple[Tensor, Tensor]:
        """C1's row spectrum → C1, H1."""
        c1, h1 = torch.empty_like(x), torch.empty_like(x)
        count = x.shape[:3].numel()
        _inhibit_kernel[self._row_grid("inhibit", count)](
            rows, self._inverse_matrices(x), x, h2, self.alpha, self.mu, c1, h1,
            count, x.shape[2], x.shape[1], **self._row_options("inhibit"),
        )  # fmt: skip
        return c1, h1

    def mix_gate(self, h1: Tensor) -> Tensor:
        """H1 → G2."""
        return self._gate(h1, self.u2, self.b2, False)

    def mix(self, t: int, h1: Tensor, c2: Tensor, h2: Tensor, g2: Tensor) -> Tensor:
        """The next H2."""
        out = torch.empty_like(h2)
        pixels, planes = h2[0, 0].numel(), h2.shape[:2].numel()
        chunks = triton.cdiv(pixels, CHUNK)
        _mix_kernel[(planes * chunks,)](
            h1, c2, h2, g2, self.gamma, self.kappa, self.omega, self.eta[t], out,
            pixels, h2.shape[1], chunks, PIXELS=CHUNK, TANH=self.tanh, num_warps=8,
        )  # fmt: skip
        return out

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

    def __init__(self, x: Tensor, timesteps: int):
        channels = x.shape[1]
        K = spectral.block(channels)
        self.channels = channels
        self.gates = x.new_zeros(2, PROGRAMS, K, K + 1)
        self.letters = x.new_zeros(timesteps, 4, channels)
        self.inhibition = x.new_empty(2, *x.shape[:2], triton.cdiv(x[0, 0].numel(), CHUNK))

    def gate(self, number: int) -> tuple[Tensor, Tensor]:
        """The gradients of U (K, K) and b (K) of gate 1 or 2."""
        total = self.gates[number - 1].sum(0)[: self.channels]
        return total[:, : self.channels], total[:, -1]

    def greek(self) -> list[Tensor]:
        """The gradients of α, μ, γ, κ, ω, each (K,)."""
        αμ = self.inhibition.sum((1, 3))
        γκω = self.letters[:, :3].sum(0)
        return [*αμ, *γκω]

    def eta(self) -> Tensor:
        """The gradient of η (T,)."""
        return self.letters[:, 3].sum(1)


def _gain_back(circuit: _Circuit, sums: _Sums, aside, grad, dp, h2) -> Tensor:
    """P's gradient → H2's, which is `grad` and P's share."""
    dh2, da1 = torch.empty_like(grad), torch.empty_like(grad)
    pixels, channels = grad[0, 0].numel(), grad.shape[1]
    _gain_back_kernel[(triton.cdiv(pixels, LAUNCH["gain_back"][0]), len(grad))](
        grad, dp, h2, circuit.u1, circuit.b1, dh2, da1, pixels, channels,
        **circuit._pixel_options("gain_back", channels),
    )  # fmt: skip
    aside(_add_gate_gradient, circuit, sums.gates[0], da1, h2)
    return dh2


def _mix_back(circuit: _Circuit, sums: _Sums, t: int, aside, grad, h2, h1, c2, g2):
    """The next H2's gradient → those of H2 and of H1 (their shares of it) and of C2."""
    c = circuit
    dh2, dh1, dc2, da2 = (torch.empty_like(grad) for _ in range(4))
    pixels, (images, channels) = grad[0, 0].numel(), grad.shape[:2]
    chunks = triton.cdiv(pixels, CHUNK)
    letters = grad.new_empty(4, images, channels, chunks)
    _mix_back_kernel[(images * channels * chunks,)](
        grad, h2, h1, c2, g2, c.gamma, c.kappa, c.omega, c.eta[t],
        dh2, dh1, dc2, da2, letters, pixels, channels, chunks,
        PIXELS=CHUNK, TANH=c.tanh, num_warps=8,
    )  # fmt: skip
    sums.letters[t] = letters.sum((1, 3))
    aside(_add_gate_gradient, circuit, sums.gates[1], da2, h1)
    _add_transposed_kernel[(triton.cdiv(pixels, LAUNCH["add_transposed"][0]), images)](
        c.u2, da2, dh1, pixels, channels, **c._pixel_options("add_transposed", channels)
    )
    return dh2, dh1, dc2


def _add_gate_gradient(circuit: _Circuit, sums: Tensor, da: Tensor, x: Tensor) -> None:
    """Add the gradients of a gate's U and b to `sums` (PROGRAMS, K, K + 1)."""
    pixels, channels = x[0, 0].numel(), x.shape[1]
    per_image = triton.cdiv(pixels, LAUNCH["gate_gradient"][0])
    _gate_gradient_kernel[(PROGRAMS,)](
        da, x, sums, pixels, channels, len(x) * per_image, per_image,
        **circuit._pixel_options("gate_gradient", channels),
    )  # fmt: skip


def _inhibit_back(circuit, sums, first: bool, through, dh1, h1, c1, h2, dx, dh2) -> Tensor:
    """Returns C1's gradient; adds to those of X and H2."""
    dc1 = torch.empty_like(h1)
    planes, pixels = h1.shape[:2].numel(), h1[0, 0].numel()
    _inhibit_back_kernel[(sums.inhibition[0].numel(),)](
        through, dh1, h1, c1, h2, circuit.alpha, circuit.mu, dx, dh2, dc1, sums.inhibition,
        pixels, h1.shape[1], sums.inhibition[0].numel() // planes,
        PIXELS=CHUNK, TANH=circuit.tanh, FIRST_TIME=first, num_warps=8,
    )  # fmt: skip
    return dc1


class _CircuitFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, X, H0, W1, W2, U1, b1, U2, b2, α, μ, γ, κ, ω, η, tanh, recompute, keep):
        sizes = Sizes.of(*X.shape[-2:], *W1.shape[-2:])
        gates = [p.contiguous() for p in (U1, b1, U2, b2)]
        circuit = _Circuit(sizes, spectral.dot_precision(), tanh, gates, (α, μ, γ, κ, ω), η)
        kernel1 = spectral.kernel_spectrum(W1, sizes)
        kernel2 = kernel1 if W2 is None else spectral.kernel_spectrum(W2, sizes)
        timesteps = len(η)
        x, h2 = fold(X, sizes), fold(H0, sizes)
        ctx.steps = []
        for t in range(timesteps):
            c1, h1, spectrum1 = circuit.first_half(circuit.gain(h2), x, h2, kernel1)
            c2, spectrum2 = circuit.second_convolution(h1, kernel2)
            g2 = circuit.mix_gate(h1)
            if keep:
                kept = (h2,) if recompute else (h2, h1, c1, c2, g2, spectrum1, spectrum2)
                ctx.steps.append(kept)
            h2 = circuit.mix(t, h1, c2, h2, g2)
            del c1, g2, spectrum1, spectrum2
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
        sums = _Sums(x, len(ctx.steps))
        grad, dx = fold(grad_out, sizes), torch.empty_like(x)
        aside = spectral.Aside(x.device)
        for t in reversed(range(len(ctx.steps))):
            h2, h1, c1, c2, g2, spectrum1, spectrum2 = _step(ctx, t, kernel1, kernel2)
            dh2, dh1, dc2 = _mix_back(circuit, sums, t, aside, grad, h2, h1, c2, g2)
            rows = spectral.rows_there(dc2, sizes, precision, folded=True)
            rows = spectral.adjoint_rows(rows, kernel2, spectrum2, sum2, sizes, precision, aside)
            first = t + 1 == len(ctx.steps)
            through = spectral.rows_back(rows, sizes, precision, folded=True)
            dc1 = _inhibit_back(circuit, sums, first, through, dh1, h1, c1, h2, dx, dh2)
            rows = spectral.rows_there(dc1, sizes, precision, folded=True)
            rows = spectral.adjoint_rows(rows, kernel1, spectrum1, sum1, sizes, precision, aside)
            dp = spectral.rows_back(rows, sizes, precision, folded=True)
            grad = _gain_back(circuit, sums, aside, dh2, dp, h2)
        aside.join()
        needs = ctx.needs_input_grad
        dW1 = spectral.kernel_gradient(sum1.total, W1, sizes)
        dW2 = None if W2 is None else spectral.kernel_gradient(sum2.total, W2, sizes)
        return (
            unfold(dx, sizes) if needs[0] else None, unfold(grad, sizes) if needs[1] else None,
            dW1, dW2, *sums.gate(1), *sums.gate(2), *sums.greek(), sums.eta(), None, None, None,
        )  # fmt: skip


def _step(ctx, t: int, kernel1: Tensor, kernel2: Tensor) -> tuple[Tensor, ...]:
    """What forward kept of step t, or what it would have kept."""
    if not ctx.recompute:
        return ctx.steps[t]
    (h2,) = ctx.steps[t]
    circuit = ctx.circuit
    c1, h1, spectrum1 = circuit.first_half(circuit.gain(h2), ctx.x, h2, kernel1)
    c2, spectrum2 = circuit.second_convolution(h1, kernel2)
    return h2, h1, c1, c2, circuit.mix_gate(h1), spectrum1, spectrum2


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
    keep = torch.is_grad_enabled()  # within the function it is off
    return _CircuitFunction.apply(X, H0, *kernels, *gates, *letters, eta, tanh, recompute, keep)
