"""The circuits with batch normalisation on a CUDA device: a step's pointwise parts, in Triton.

HGRU.forward's equations in three operations, each with the normalisations that feed it::

    P  = H2 σ(BN(A1))                                  A1 = U1 ⊛ H2 + b_gain
    H1 = f(X − (α H2 + μ) BN(C1))                      C1 = W1 ⊛ P
    H2 ← η_t (G2 H2 + (1 − G2) f(κ (H1 + E) + ω H1 E)) C2 = W2 ⊛ H1
         with G2 = σ(BN(A2)), E = γ BN(C2)             A2 = U2 ⊛ H1 + b_mix

Only what they take is kept for backward, and what they compute is computed again: half of what
autograd would keep of the single operations. Each normalisation's backward pass needs two sums over
the batch; a first kernel takes them (with the letters' gradients), a second one the gradients.
Several processes that share a batch join their statistics, and these sums.

A normalised value is n = (x − mean) r, r = 1 / √(variance + ε), and enters the equations as w n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from layers.kernels.circuit import CHUNK, WARPS, _f, _f_slope
from layers.kernels.normalisation import moments
from layers.methods import refuse_double_backward

if TYPE_CHECKING:
    from layers.circuit import Pass
    from layers.normalisation import BatchNormalisation


@triton.jit
def _place(pixels, channels, chunks, PIXELS: tl.constexpr):
    """Of this program: where its pixels stand, which of them there are, and its channel."""
    plane = tl.program_id(0) // chunks
    pixel = tl.program_id(0) % chunks * PIXELS + tl.arange(0, PIXELS)
    return plane.to(tl.int64) * pixels + pixel, pixel < pixels, plane % channels


@triton.jit
def _normal(x, at, mask, k, mean, inverse):
    n = (tl.load(x + at, mask=mask, other=0.0) - tl.load(mean + k)) * tl.load(inverse + k)
    return tl.where(mask, n, 0.0)


@triton.jit
def _put_sum(sums, number: tl.constexpr, x):
    tl.store(sums + number * tl.num_programs(0) + tl.program_id(0), tl.sum(x, 0))


@triton.jit
def _through(g, n, k, means, number: tl.constexpr, channels, inverse, weight):
    """The gradient g of w n → that of x, from the means of g and of g n at `number` in `means`."""
    level = tl.load(means + number * channels + k)
    slope = tl.load(means + (number + 1) * channels + k)
    return tl.load(weight + k) * tl.load(inverse + k) * (g - level - n * slope)


@triton.jit
def _gain_bn_kernel(
    h2, a1, mean, inverse, weight, p, pixels, channels, chunks, PIXELS: tl.constexpr
):
    at, mask, k = _place(pixels, channels, chunks, PIXELS)
    n = _normal(a1, at, mask, k, mean, inverse)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    tl.store(p + at, h * tl.sigmoid(tl.load(weight + k) * n), mask=mask)


@triton.jit
def _gain_back_bn_kernel(
    dp, h2, a1, mean, inverse, weight, means, sums, dh2, da1, pixels, channels, chunks,
    SUMS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    at, mask, k = _place(pixels, channels, chunks, PIXELS)
    n = _normal(a1, at, mask, k, mean, inverse)
    gate = tl.sigmoid(tl.load(weight + k) * n)
    d = tl.load(dp + at, mask=mask, other=0.0)
    g = d * tl.load(h2 + at, mask=mask, other=0.0) * gate * (1.0 - gate)
    if SUMS:
        _put_sum(sums, 0, g)
        _put_sum(sums, 1, g * n)
    else:
        tl.store(dh2 + at, d * gate, mask=mask)
        da = _through(g, n, k, means, 0, channels, inverse, weight)
        tl.store(da1 + at, da, mask=mask)


@triton.jit
def _inhibit_bn_kernel(
    x, h2, c1, mean, inverse, weight, alpha, mu, h1, pixels, channels, chunks,
    TANH: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    at, mask, k = _place(pixels, channels, chunks, PIXELS)
    c = tl.load(weight + k) * _normal(c1, at, mask, k, mean, inverse)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    z = tl.load(x + at, mask=mask, other=0.0) - (tl.load(alpha + k) * h + tl.load(mu + k)) * c
    tl.store(h1 + at, _f(z, TANH), mask=mask)


@triton.jit
def _inhibit_back_bn_kernel(
    dh1, h1, h2, c1, mean, inverse, weight, alpha, mu, means, sums, dx, dh2, dc1,
    pixels, channels, chunks, SUMS: tl.constexpr, TANH: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    at, mask, k = _place(pixels, channels, chunks, PIXELS)
    n = _normal(c1, at, mask, k, mean, inverse)
    c = tl.load(weight + k) * n
    h = tl.load(h2 + at, mask=mask, other=0.0)
    dz = tl.load(dh1 + at, mask=mask, other=0.0)
    dz *= _f_slope(tl.load(h1 + at, mask=mask, other=0.0), TANH)
    α = tl.load(alpha + k)
    g = -dz * (α * h + tl.load(mu + k))
    if SUMS:
        _put_sum(sums, 0, g)
        _put_sum(sums, 1, g * n)
        _put_sum(sums, 2, -dz * h * c)
        _put_sum(sums, 3, -dz * c)
    else:
        tl.store(dx + at, dz, mask=mask)
        tl.store(dh2 + at, -dz * α * c, mask=mask)
        dc = _through(g, n, k, means, 0, channels, inverse, weight)
        tl.store(dc1 + at, dc, mask=mask)


@triton.jit
def _mix_bn_kernel(
    h1, h2, a2, a_mean, a_inverse, a_weight, c2, c_mean, c_inverse, c_weight,
    gamma, kappa, omega, eta, out, pixels, channels, chunks,
    TANH: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    at, mask, k = _place(pixels, channels, chunks, PIXELS)
    gate = tl.sigmoid(tl.load(a_weight + k) * _normal(a2, at, mask, k, a_mean, a_inverse))
    e = tl.load(gamma + k) * tl.load(c_weight + k) * _normal(c2, at, mask, k, c_mean, c_inverse)
    x = tl.load(h1 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    candidate = _f(tl.load(kappa + k) * (x + e) + tl.load(omega + k) * x * e, TANH)
    h = tl.load(eta) * (gate * h + (1.0 - gate) * candidate)
    tl.store(out + at, h, mask=mask)


@triton.jit
def _mix_back_bn_kernel(
    grad, h1, h2, a2, a_mean, a_inverse, a_weight, c2, c_mean, c_inverse, c_weight,
    gamma, kappa, omega, eta, means, sums, dh1, dh2, da2, dc2, pixels, channels, chunks,
    SUMS: tl.constexpr, TANH: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    at, mask, k = _place(pixels, channels, chunks, PIXELS)
    a = _normal(a2, at, mask, k, a_mean, a_inverse)
    gate = tl.sigmoid(tl.load(a_weight + k) * a)
    n = _normal(c2, at, mask, k, c_mean, c_inverse)
    c = tl.load(c_weight + k) * n
    γ, κ, ω = tl.load(gamma + k), tl.load(kappa + k), tl.load(omega + k)
    e = γ * c
    x = tl.load(h1 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    candidate = _f(κ * (x + e) + ω * x * e, TANH)
    g = tl.load(grad + at, mask=mask, other=0.0)
    mixed = g * (gate * h + (1.0 - gate) * candidate)
    g *= tl.load(eta)
    ds = g * (1.0 - gate) * _f_slope(candidate, TANH)
    de = ds * (κ + ω * x)
    ga = g * (h - candidate) * gate * (1.0 - gate)
    gc = γ * de
    if SUMS:
        _put_sum(sums, 0, ga)
        _put_sum(sums, 1, ga * a)
        _put_sum(sums, 2, gc)
        _put_sum(sums, 3, gc * n)
        _put_sum(sums, 4, de * c)
        _put_sum(sums, 5, ds * (x + e))
        _put_sum(sums, 6, ds * x * e)
        _put_sum(sums, 7, mixed)
    else:
        tl.store(dh1 + at, ds * (κ + ω * e), mask=mask)
        tl.store(dh2 + at, g * gate, mask=mask)
        da = _through(ga, a, k, means, 0, channels, a_inverse, a_weight)
        tl.store(da2 + at, da, mask=mask)
        dc = _through(gc, n, k, means, 2, channels, c_inverse, c_weight)
        tl.store(dc2 + at, dc, mask=mask)


# -- launching -------------------------------------------------------------------------------------


def _launch(kernel, *arguments, like: Tensor, **options) -> None:
    """Launch a kernel over all planes of `like` (N, K, H, W), in chunks."""
    pixels = like[0, 0].numel()
    chunks = triton.cdiv(pixels, CHUNK)
    kernel[(like.shape[:2].numel() * chunks,)](
        *arguments, pixels, like.shape[1], chunks, PIXELS=CHUNK, num_warps=WARPS, **options
    )


def _sums(kernel, sums: int, outputs: int, *arguments, like: Tensor, **options) -> Tensor:
    """A backward kernel's sums over images and pixels, (sums, K). Its arguments end with the means,
    the sums and so many outputs."""
    images, channels = like.shape[:2]
    parts = like.new_empty(sums, images, channels, triton.cdiv(like[0, 0].numel(), CHUNK))
    none = outputs * [None]
    _launch(kernel, *arguments, None, parts, *none, like=like, SUMS=True, **options)
    return parts.sum((1, 3))


def _gradients(kernel, outputs: int, means: Tensor, *arguments, like: Tensor, **options):
    """A backward kernel's outputs, shaped as `like`."""
    found = [torch.empty_like(like) for _ in range(outputs)]
    _launch(kernel, *arguments, means, None, *found, like=like, SUMS=False, **options)
    return found


class _Batch(NamedTuple):
    """What statistics were taken over: so many values a channel, of all processes; and how to sum a
    tensor up over these (None: there is one)."""

    values: int | Tensor
    sum_over_ranks: Callable[[Tensor], Tensor] | None

    def means(self, sums: Tensor) -> Tensor:
        """This process's sums over its images and pixels → means over the batch."""
        means = sums / self.values
        return means if self.sum_over_ranks is None else self.sum_over_ranks(means)


class _Gain(torch.autograd.Function):
    """P from H2 and A1; the gradient of the scale w reaches `weight` alone."""

    @staticmethod
    def forward(ctx, h2, a1, weight, mean, inverse, batch):
        ctx.save_for_backward(h2, a1, mean, inverse, weight)
        ctx.batch = batch
        p = torch.empty_like(h2)
        _launch(_gain_bn_kernel, h2, a1, mean, inverse, weight, p, like=h2)
        return p

    @staticmethod
    def backward(ctx, dp):
        refuse_double_backward()
        arguments = dp.contiguous(), *ctx.saved_tensors
        sums = _sums(_gain_back_bn_kernel, 2, 2, *arguments, like=dp)
        dh2, da1 = _gradients(_gain_back_bn_kernel, 2, ctx.batch.means(sums), *arguments, like=dp)
        return dh2, da1, sums[1], None, None, None


class _Inhibit(torch.autograd.Function):
    """H1 from X, H2 and C1."""

    @staticmethod
    def forward(ctx, x, h2, c1, weight, mean, inverse, batch, alpha, mu, tanh):
        h1 = torch.empty_like(x)
        _launch(
            _inhibit_bn_kernel, x, h2, c1, mean, inverse, weight, alpha, mu, h1, like=x, TANH=tanh
        )
        ctx.save_for_backward(h1, h2, c1, mean, inverse, weight, alpha, mu)
        ctx.batch, ctx.tanh = batch, tanh
        return h1

    @staticmethod
    def backward(ctx, dh1):
        refuse_double_backward()
        arguments = dh1.contiguous(), *ctx.saved_tensors
        options = {"like": dh1, "TANH": ctx.tanh}
        sums = _sums(_inhibit_back_bn_kernel, 4, 3, *arguments, **options)
        means = ctx.batch.means(sums[:2])
        dx, dh2, dc1 = _gradients(_inhibit_back_bn_kernel, 3, means, *arguments, **options)
        return dx, dh2, dc1, sums[1], None, None, None, sums[2], sums[3], None


class _Mix(torch.autograd.Function):
    """The next H2 from H1, H2, A2 and C2."""

    @staticmethod
    def forward(ctx, h1, h2, a2, a_weight, a_mean, a_inverse, _, c2, c_weight, c_mean, c_inverse,
                batch, gamma, kappa, omega, eta, tanh):  # fmt: skip
        taken = (
            h1, h2, a2, a_mean, a_inverse, a_weight, c2, c_mean, c_inverse, c_weight,
            gamma, kappa, omega, eta,
        )  # fmt: skip
        out = torch.empty_like(h2)
        _launch(_mix_bn_kernel, *taken, out, like=h2, TANH=tanh)
        ctx.save_for_backward(*taken)
        ctx.batch, ctx.tanh = batch, tanh
        return out

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward()
        arguments = grad.contiguous(), *ctx.saved_tensors
        options = {"like": grad, "TANH": ctx.tanh}
        sums = _sums(_mix_back_bn_kernel, 8, 4, *arguments, **options)
        means = ctx.batch.means(sums[:4])
        dh1, dh2, da2, dc2 = _gradients(_mix_back_bn_kernel, 4, means, *arguments, **options)
        return (
            dh1, dh2, da2, sums[1], None, None, None, dc2, sums[3], None, None, None,
            *sums[4:7], sums[7].sum(), None,
        )  # fmt: skip


def _statistics(*pairs: tuple[BatchNormalisation, Tensor]) -> list[tuple[Any, ...]]:
    """Of each normalisation and what it normalises, all of one shape: its scale, mean and
    1 / √(variance + ε) of the batch, and what they are taken over; in training its running averages
    move. Several processes exchange the statistics of all pairs at once."""
    with torch.no_grad():
        own = pairs[0][1].numel() // pairs[0][1].shape[1]
        values: int | Tensor = own
        found = [moments(x) for _, x in pairs]
        first = pairs[0][0]
        if first.over_ranks is not None:
            means, variances = (torch.cat(each) for each in zip(*found, strict=True))
            means, variances, values = first.over_ranks(means, variances, own)
            found = list(zip(means.chunk(len(pairs)), variances.chunk(len(pairs)), strict=True))
        batch, results = _Batch(values, first.sum_over_ranks), []
        for (norm, _), (mean, variance) in zip(pairs, found, strict=True):
            norm.observe(mean, variance, values)
            results.append((norm.weight, mean, torch.rsqrt(variance + norm.epsilon), batch))
        return results


def run(p: Pass, X: Tensor, H2: Tensor) -> Tensor:
    """The hidden state after the last step, (N, K, H, W).

    Args:
        p: parameters with normalisations.
        X: feedforward drive (N, K, H, W), float32 on a CUDA device.
        H2: the hidden state before the first step, likewise.

    Raises RuntimeError from a double backward.
    """
    W1, W2 = p.horizontal
    U1, b_gain, U2, b_mix = p.gates
    α, μ, γ, κ, ω = p.fused_letters(X)
    eta = X.new_ones(p.timesteps) if p.eta is None else p.eta
    tanh = p.nonlinearity is torch.tanh

    def statistics(t: int, **inputs: Tensor) -> list[tuple[Any, ...]]:
        return _statistics(*((p.norm(name, t), x) for name, x in inputs.items()))

    X = X.contiguous()
    H2 = H2.contiguous()
    for t in range(p.timesteps):
        A1 = F.conv2d(H2, U1, b_gain)
        (g1,) = statistics(t, g1=A1)
        P = _Gain.apply(H2, A1, *g1)
        C1 = W1(P)
        (c1,) = statistics(t, c1=C1)
        H1 = _Inhibit.apply(X, H2, C1, *c1, α, μ, tanh)
        A2 = F.conv2d(H1, U2, b_mix)
        C2 = W2(H1)
        g2, c2 = statistics(t, g2=A2, c2=C2)
        H2 = _Mix.apply(H1, H2, A2, *g2, C2, *c2, γ, κ, ω, eta[t], tanh)
    return H2
