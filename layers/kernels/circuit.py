"""The whole circuit as one operation on a CUDA device, in Triton.

Computes what HGRU.forward computes (the equations stand there) for the circuits without batch
normalisation, with its own backward pass. What joins channels (the gates' 1×1 products) takes all
channels of some pixels at a time, the rest a chunk of one plane. Kept for backward at each step are
H2, H1, C1, C2, G2 and the spectra of the two convolutions' inputs, or only H2 when `recompute` is
asked for. Inside, both image axes are folded (see layers/kernels/spectral.py); the padding holds
zeros and stays so.

Kernels that write what is to be convolved also find its largest pixels, which give the exponents of
its half-precision spectra.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers.kernels import spectral
from layers.kernels.spectral import (
    Kernel,
    Plan,
    Sizes,
    Spectrum,
    rounded,
)
from layers.methods import refuse_double_backward

CHUNK = 2048  # pixels of a plane that an elementwise program takes
WARPS = 4  # of such a program
# Programs that share the tiles of a gate's gradients, each summing its own: eight for each of the
# 132 multiprocessors of an H100 or H200. A fixed number, so that sums repeat bit for bit anywhere.
PROGRAMS = 1056
TOGETHER = 2  # steps whose kernel gradients are taken together


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
    """a @ b of float32 blocks: in TF32, or as three products of TF32 for float32."""
    high, b_high = rounded(a), rounded(b)
    sum = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    if PRECISION == "float32":
        sum = tl.dot(a - high, b_high, sum, input_precision="tf32")
        sum = tl.dot(high, b - b_high, sum, input_precision="tf32")
    return tl.dot(high, b_high, sum, input_precision="tf32")


@triton.jit
def _gate_kernel(
    h, u, b, out, largest, pixels, channels,
    GAIN: tl.constexpr, K: tl.constexpr, PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gate σ(U h + b), or with GAIN h times its gate, whose largest pixels go to `largest`."""
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
        tl.atomic_max(largest + image, tl.max(tl.max(tl.abs(gate), 1), 0))
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
    dh2, dh1, dc2, da2, sums, largest, pixels, channels, chunks,
    PIXELS: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """Backward of a step's mixing on a chunk of a plane. `grad` is the gradient of the H2 that it
    makes; `dh1` lacks the second gate's share, `da2` is the gradient of that gate's U2 H1 + b_mix.
    The chunk's sums for γ, κ, ω, η go to its own place in `sums` (4, planes, chunks), the largest
    pixels of `dc2` to `largest`."""
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
    tl.atomic_max(largest + plane // channels, tl.max(tl.abs(γ * de), 0))
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
def _inhibit_kernel(
    x, h2, c1, alpha, mu, h1, largest, pixels, channels, chunks,
    PIXELS: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    """H1 = f(X − (α H2 + μ) C1) on a chunk of a plane; its largest pixels go to `largest`."""
    plane = tl.program_id(0) // chunks
    pixel = tl.program_id(0) % chunks * PIXELS + tl.arange(0, PIXELS)
    at = plane.to(tl.int64) * pixels + pixel
    mask = pixel < pixels
    α = tl.load(alpha + plane % channels)
    μ = tl.load(mu + plane % channels)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    c = tl.load(c1 + at, mask=mask, other=0.0)
    h = _f(tl.load(x + at, mask=mask, other=0.0) - (α * h + μ) * c, TANH)
    tl.store(h1 + at, h, mask=mask)
    tl.atomic_max(largest + plane // channels, tl.max(tl.abs(h), 0))


@triton.jit
def _inhibit_back_kernel(
    through, dh1, h1, c1, h2, alpha, mu, dx, dh2, dc1, sums, largest, pixels, channels, chunks,
    PIXELS: tl.constexpr, TANH: tl.constexpr, FIRST_TIME: tl.constexpr,
):  # fmt: skip
    """Backward of H1 = f(X − (α H2 + μ) C1) on a chunk of a plane. H1's gradient is `through`,
    which came through its convolution, and `dh1`. Adds to `dx`, `dh2` and, in the chunk's own
    place, to `sums` (2, planes, chunks); the largest pixels of `dc1` go to `largest`."""
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
    dc = -dz * (α * h + μ)
    tl.store(dc1 + at, dc, mask=mask)
    tl.atomic_max(largest + plane // channels, tl.max(tl.abs(dc), 0))
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
    "gate": (64, 2, 1),
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
        RUN=x_axis.run, RUN_Y=y.run, ODD=x_axis.odd, ODD_Y=y.odd, UNFOLD=unfold,
        CHUNK=1024, num_warps=4,
    )  # fmt: skip


class Step(NamedTuple):
    """What a step leaves for backward, folded: the hidden state that it began with, and what it
    computed."""

    h2: Tensor
    h1: Tensor
    c1: Tensor
    c2: Tensor
    g2: Tensor


class _Circuit:
    """The parameters of one pass and the kernels' launches. Activities are folded."""

    def __init__(self, plan: Plan, tanh: bool, gates, letters, eta: Tensor, kernels):
        self.plan, self.tanh, self.kernels = plan, tanh, kernels
        self.u1, self.b1, self.u2, self.b2 = gates
        self.alpha, self.mu, self.gamma, self.kappa, self.omega = letters
        self.eta = eta

    @classmethod
    def of(cls, plan: Plan, tanh: bool, parameters, kernels) -> _Circuit:
        """From U1, b1, U2, b2, α, μ, γ, κ, ω, η as one list."""
        U1, b1, U2, b2, *letters, eta = parameters
        gates = [p.contiguous() for p in (U1, b1, U2, b2)]
        return cls(plan, tanh, gates, letters, eta, kernels)

    def _pixel_options(self, name: str, channels: int) -> dict:
        pixels, warps, stages = LAUNCH[name]
        return dict(
            K=spectral.block(channels), PIXELS=pixels, PRECISION=self.plan.precision,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _gate(self, h: Tensor, u: Tensor, b: Tensor, largest: Tensor | None) -> Tensor:
        out = torch.empty_like(h)
        images, channels = h.shape[:2]
        pixels = h[0, 0].numel()
        _gate_kernel[(triton.cdiv(pixels, LAUNCH["gate"][0]), images)](
            h, u, b, out, largest, pixels, channels, GAIN=largest is not None,
            **self._pixel_options("gate", channels),
        )  # fmt: skip
        return out

    def gain(self, h2: Tensor, largest: Tensor) -> Tensor:
        """H2 → P = H2 G1, whose largest pixels go to `largest` (N,)."""
        return self._gate(h2, self.u1, self.b1, largest)

    def mix_gate(self, h1: Tensor) -> Tensor:
        """H1 → G2."""
        return self._gate(h1, self.u2, self.b2, None)

    def inhibit(self, x: Tensor, h2: Tensor, c1: Tensor, largest: Tensor) -> Tensor:
        """H1, whose largest pixels go to `largest` (N,)."""
        h1, planes, pixels = torch.empty_like(x), x.shape[:2].numel(), x[0, 0].numel()
        chunks = triton.cdiv(pixels, CHUNK)
        _inhibit_kernel[(planes * chunks,)](
            x, h2, c1, self.alpha, self.mu, h1, largest, pixels, x.shape[1], chunks,
            PIXELS=CHUNK, TANH=self.tanh, num_warps=WARPS,
        )  # fmt: skip
        return h1

    def mix(self, t: int, step: Step) -> Tensor:
        """The next H2."""
        h2 = step.h2
        out, pixels, planes = torch.empty_like(h2), h2[0, 0].numel(), h2.shape[:2].numel()
        chunks = triton.cdiv(pixels, CHUNK)
        _mix_kernel[(planes * chunks,)](
            step.h1, step.c2, h2, step.g2, self.gamma, self.kappa, self.omega, self.eta[t], out,
            pixels, h2.shape[1], chunks, PIXELS=CHUNK, TANH=self.tanh, num_warps=WARPS,
        )  # fmt: skip
        return out

    def convolve(self, which: int, activity: Tensor, largest: Tensor, out: Tensor | None) -> Tensor:
        """By W1 (0) or W2 (1). `largest` (N,): of the activity's pixels. Its spectra go into `out`,
        if they are to be kept."""
        rows = self.plan.rows_there(activity, largest, folded=True)
        kernel = self.kernels[which]
        return self.plan.rows_back(
            self.plan.convolve(rows, kernel, out)[0], kernel.scale, folded=True
        )

    def step(self, x, h2, spectra: Tensor | None, largest: Tensor) -> Step:
        """All that a step computes but for the next H2.

        Args:
            x, h2: the drive and the hidden state.
            spectra: where those of P and H1 go, (2, …); None: they are not kept.
            largest: where the largest pixels of P and H1 go, (2, N).
        """
        first, second = (None, None) if spectra is None else spectra
        c1 = self.convolve(0, self.gain(h2, largest[0]), largest[0], first)
        h1 = self.inhibit(x, h2, c1, largest[1])
        c2 = self.convolve(1, h1, largest[1], second)
        return Step(h2, h1, c1, c2, self.mix_gate(h1))

    def convolve_back(self, which: int, gradient: Tensor, largest: Tensor, out: Tensor) -> Tensor:
        """The gradient of what W1 (0) or W2 (1) made → that of what it took; the gradient's spectra
        go into `out`."""
        rows = self.plan.rows_there(gradient, largest, folded=True)
        spectrum = self.plan.columns_there(rows, out)
        kernel = self.kernels[which]
        rows = self.plan.columns_back(self.plan.product(kernel, spectrum, adjoint=True))
        return self.plan.rows_back(rows, kernel.scale, folded=True)


class _KernelGradients:
    """The kernels' gradients in the frequency domain, `together` steps at a time.

    The spectra of the convolutions' gradients wait until their steps' turn comes, in the order of
    the inputs' spectra: two a step, of C1's and of C2's.
    """

    def __init__(self, circuit: _Circuit, x: Tensor, timesteps: int, separate: bool, together: int):
        self.circuit, self.separate, self.together = circuit, separate, together
        self.spectra = circuit.plan.new_spectra(2 * together, x.shape[1], len(x), x.device)
        self.largest = circuit.plan.new_largest(2 * timesteps, len(x), x.device)
        self.totals: dict[int, Tensor] = {}

    def place(self, t: int, which: int) -> tuple[Tensor, Tensor]:
        """Where go the largest pixels of step t's gradient of C1 (0) or C2 (1), and its spectra."""
        return self.largest[2 * t + which], self.spectra[2 * (t % self.together) + which]

    def take(self, t: int, spectra: Tensor, largest: Tensor) -> None:
        """Join the steps from t on that wait, at the first of each `together`.

        Args:
            t: the step at hand.
            spectra, largest: of the inputs, from step t's on.
        """
        if t % self.together:
            return
        count = 2 * min(self.together, len(self.largest) // 2 - t)
        kernels = (0, 1) if self.separate else (0,)
        for which in kernels:
            taken = slice(which, count)
            self.totals[which] = self.circuit.plan.correlate(
                Spectrum(self.spectra[taken], self.largest[2 * t :][taken]),
                Spectrum(spectra[taken], largest[taken]),
                self.totals.get(which), self.circuit.kernels[which], len(kernels),
            )  # fmt: skip

    def of_kernels(self, W1: Tensor, W2: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The gradients of W1 and W2."""
        plan = self.circuit.plan
        dW1 = plan.kernel_gradient(self.totals[0], W1)
        return dW1, None if W2 is None else plan.kernel_gradient(self.totals[1], W2)


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


def _gain_back(circuit: _Circuit, sums: _Sums, grad, dp, h2) -> Tensor:
    """P's gradient → H2's, which is `grad` and P's share."""
    dh2, da1 = torch.empty_like(grad), torch.empty_like(grad)
    pixels, channels = grad[0, 0].numel(), grad.shape[1]
    _gain_back_kernel[(triton.cdiv(pixels, LAUNCH["gain_back"][0]), len(grad))](
        grad, dp, h2, circuit.u1, circuit.b1, dh2, da1, pixels, channels,
        **circuit._pixel_options("gain_back", channels),
    )  # fmt: skip
    _add_gate_gradient(circuit, sums.gates[0], da1, h2)
    return dh2


def _mix_back(circuit: _Circuit, sums: _Sums, t: int, grad, step: Step, largest: Tensor):
    """The next H2's gradient → those of H2 and of H1 (their shares of it) and of C2, the largest
    pixels of which go to `largest` (N,)."""
    c, (h2, h1, _, c2, g2) = circuit, step
    dh2, dh1, dc2, da2 = (torch.empty_like(grad) for _ in range(4))
    pixels, (images, channels) = grad[0, 0].numel(), grad.shape[:2]
    chunks = triton.cdiv(pixels, CHUNK)
    letters = grad.new_empty(4, images, channels, chunks)
    _mix_back_kernel[(images * channels * chunks,)](
        grad, h2, h1, c2, g2, c.gamma, c.kappa, c.omega, c.eta[t],
        dh2, dh1, dc2, da2, letters, largest, pixels, channels, chunks,
        PIXELS=CHUNK, TANH=c.tanh, num_warps=WARPS,
    )  # fmt: skip
    sums.letters[t] = letters.sum((1, 3))
    _add_gate_gradient(circuit, sums.gates[1], da2, h1)
    _add_transposed_kernel[(triton.cdiv(pixels, LAUNCH["add_transposed"][0]), images)](
        c.u2, da2, dh1, pixels, channels, **c._pixel_options("add_transposed", channels)
    )
    return dh2, dh1, dc2


def _add_gate_gradient(circuit: _Circuit, sums: Tensor, da: Tensor, x: Tensor) -> None:
    """Add the gradients of a gate's U and b to `sums` (PROGRAMS, K, K + 1)."""
    pixels, channels = x[0, 0].numel(), x.shape[1]
    per_image = triton.cdiv(pixels, LAUNCH["gate_gradient"][0])
    tiles = len(x) * per_image
    _gate_gradient_kernel[(min(PROGRAMS, tiles),)](
        da, x, sums, pixels, channels, tiles, per_image,
        **circuit._pixel_options("gate_gradient", channels),
    )  # fmt: skip


def _inhibit_back(circuit, sums, first: bool, through, dh1, step: Step, dx, dh2, largest):
    """Returns C1's gradient, the largest pixels of which go to `largest` (N,); adds to those of X
    and H2."""
    h2, h1, c1, _, _ = step
    dc1 = torch.empty_like(h1)
    planes, pixels = h1.shape[:2].numel(), h1[0, 0].numel()
    _inhibit_back_kernel[(sums.inhibition[0].numel(),)](
        through, dh1, h1, c1, h2, circuit.alpha, circuit.mu, dx, dh2, dc1, sums.inhibition,
        largest, pixels, h1.shape[1], sums.inhibition[0].numel() // planes,
        PIXELS=CHUNK, TANH=circuit.tanh, FIRST_TIME=first, num_warps=WARPS,
    )  # fmt: skip
    return dc1


class _CircuitFunction(torch.autograd.Function):
    """Everything that backward reads is saved through autograd, which notices what was edited in
    place since and lets go of it after the last backward pass."""

    @staticmethod
    def forward(ctx, X, H0, W1, W2, U1, b1, U2, b2, α, μ, γ, κ, ω, η, tanh, recompute, keep):
        plan = Plan(Sizes.of(*X.shape[-2:], *W1.shape[-2:]), spectral.chosen_precision())
        kernel = plan.kernel(W1)
        kernels: tuple[Kernel, Kernel] = kernel, kernel if W2 is None else plan.kernel(W2)
        parameters = (U1, b1, U2, b2, α, μ, γ, κ, ω, η)
        circuit = _Circuit.of(plan, tanh, parameters, kernels)
        x, h2, T = fold(X, plan.sizes), fold(H0, plan.sizes), len(η)
        keep_all = keep and not recompute
        largest = plan.new_largest(2 * T, len(x), x.device)
        spectra = plan.new_spectra(2 * T if keep_all else 0, x.shape[1], len(x), x.device)
        steps: list[Tensor | None] = []
        for t in range(T):
            own = slice(2 * t, 2 * t + 2)
            step = circuit.step(x, h2, spectra[own] if keep_all else None, largest[own])
            h2 = circuit.mix(t, step)
            if keep:
                steps += step if keep_all else (step.h2,)
        if keep:
            ctx.plan, ctx.tanh, ctx.recompute = plan, tanh, recompute
            ctx.save_for_backward(
                W1, W2, *parameters, *kernels[0], *kernels[1], x, spectra, largest, *steps
            )
        return unfold(h2, plan.sizes)

    @staticmethod
    def backward(ctx, grad_out):
        refuse_double_backward()
        W1, W2, *saved = ctx.saved_tensors
        parameters, (v1, s1, v2, s2, x, *kept), steps = saved[:10], saved[10:17], saved[17:]
        kernels = Kernel(v1, s1), Kernel(v2, s2)
        circuit = _Circuit.of(ctx.plan, ctx.tanh, parameters, kernels)
        sizes, T = ctx.plan.sizes, len(circuit.eta)
        together = 1 if ctx.recompute else TOGETHER
        gradients = _KernelGradients(circuit, x, T, W2 is not None, together)
        sums = _Sums(x, T)
        grad, dx = fold(grad_out, sizes), torch.empty_like(x)
        for t in reversed(range(T)):
            step, spectra, largest = _kept(circuit, ctx.recompute, x, kept, steps, t)
            place = gradients.place(t, 1)
            dh2, dh1, dc2 = _mix_back(circuit, sums, t, grad, step, place[0])
            through = circuit.convolve_back(1, dc2, *place)
            first, place = t + 1 == T, gradients.place(t, 0)
            dc1 = _inhibit_back(circuit, sums, first, through, dh1, step, dx, dh2, place[0])
            dp = circuit.convolve_back(0, dc1, *place)
            grad = _gain_back(circuit, sums, dh2, dp, step.h2)
            gradients.take(t, spectra, largest)
        needs = ctx.needs_input_grad
        return (
            unfold(dx, sizes) if needs[0] else None, unfold(grad, sizes) if needs[1] else None,
            *gradients.of_kernels(W1, W2), *sums.gate(1), *sums.gate(2), *sums.greek(), sums.eta(),
            None, None, None,
        )  # fmt: skip


def _kept(
    circuit: _Circuit, recompute: bool, x: Tensor, kept: list[Tensor], steps: list[Tensor], t: int
) -> tuple[Step, Tensor, Tensor]:
    """What step t left for backward, or would have left; the spectra of its convolutions' inputs
    and their largest pixels, the later steps' after them where they were kept."""
    if not recompute:
        spectra, largest = kept
        fields = len(Step._fields)
        return Step(*steps[fields * t : fields * (t + 1)]), spectra[2 * t :], largest[2 * t :]
    largest = circuit.plan.new_largest(2, len(x), x.device)
    spectra = circuit.plan.new_spectra(2, x.shape[1], len(x), x.device)
    return circuit.step(x, steps[t], spectra, largest), spectra, largest


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
