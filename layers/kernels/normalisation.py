"""Batch normalisation by the batch at hand on a CUDA device, in Triton.

With 25 channels the libraries' kernels keep 25 of the device's multiprocessors busy. Here each
plane (image and channel) is a program's, and the planes' sums are joined afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers.methods import refuse_double_backward

if TYPE_CHECKING:
    from layers.normalisation import OverRanks, SumOverRanks

CHUNK = 2048  # pixels that a program takes at a time


@triton.jit
def _norm_moments_kernel(x, means, spreads, pixels, CHUNK: tl.constexpr):
    """Of a plane: the mean, and the sum of squared differences from it."""
    at = x + tl.program_id(0).to(tl.int64) * pixels
    total = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, pixels, CHUNK):
        pixel = start + tl.arange(0, CHUNK)
        total += tl.load(at + pixel, mask=pixel < pixels, other=0.0)
    mean = tl.sum(total, 0) / pixels
    spread = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, pixels, CHUNK):
        pixel = start + tl.arange(0, CHUNK)
        away = tl.load(at + pixel, mask=pixel < pixels, other=0.0) - mean
        spread += tl.where(pixel < pixels, away * away, 0.0)
    tl.store(means + tl.program_id(0), mean)
    tl.store(spreads + tl.program_id(0), tl.sum(spread, 0))


@triton.jit
def _norm_apply_kernel(x, y, mean, scale, shift, pixels, channels, chunks, CHUNK: tl.constexpr):
    """y = (x − mean) scale + shift."""
    plane = tl.program_id(0) // chunks
    channel = plane % channels
    pixel = tl.program_id(0) % chunks * CHUNK + tl.arange(0, CHUNK)
    at = plane.to(tl.int64) * pixels + pixel
    mask = pixel < pixels
    away = tl.load(x + at, mask=mask, other=0.0) - tl.load(mean + channel)
    tl.store(y + at, away * tl.load(scale + channel) + tl.load(shift + channel), mask=mask)


@triton.jit
def _norm_sums_kernel(gradient, x, mean, sums, products, pixels, channels, CHUNK: tl.constexpr):
    """Of a plane: Σ g and Σ g (x − mean)."""
    plane = tl.program_id(0)
    middle = tl.load(mean + plane % channels)
    base = plane.to(tl.int64) * pixels
    total = tl.zeros((CHUNK,), tl.float32)
    product = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, pixels, CHUNK):
        pixel = start + tl.arange(0, CHUNK)
        g = tl.load(gradient + base + pixel, mask=pixel < pixels, other=0.0)
        total += g
        product += g * (tl.load(x + base + pixel, mask=pixel < pixels, other=0.0) - middle)
    tl.store(sums + plane, tl.sum(total, 0))
    tl.store(products + plane, tl.sum(product, 0))


@triton.jit
def _norm_back_kernel(
    gradient, x, out, mean, scale, level, slope, pixels, channels, chunks, CHUNK: tl.constexpr
):
    """out = scale (g − level − slope (x − mean))."""
    plane = tl.program_id(0) // chunks
    channel = plane % channels
    pixel = tl.program_id(0) % chunks * CHUNK + tl.arange(0, CHUNK)
    at = plane.to(tl.int64) * pixels + pixel
    mask = pixel < pixels
    away = tl.load(x + at, mask=mask, other=0.0) - tl.load(mean + channel)
    g = tl.load(gradient + at, mask=mask, other=0.0)
    result = g - tl.load(level + channel) - tl.load(slope + channel) * away
    tl.store(out + at, tl.load(scale + channel) * result, mask=mask)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance (K,) of x (N, K, H, W): contiguous float32 on a CUDA device."""
    images, channels = x.shape[:2]
    pixels = x[0, 0].numel()
    means, spreads = x.new_empty(2, images, channels)
    _norm_moments_kernel[(images * channels,)](x, means, spreads, pixels, CHUNK=CHUNK, num_warps=8)
    mean = means.mean(0)
    between = (means - mean).square().sum(0) * pixels
    return mean, (spreads.sum(0) + between) / (images * pixels)


class _BatchNormalisation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon, over_ranks, sum_over_ranks):
        images, channels = x.shape[:2]
        pixels = x[0, 0].numel()
        mean, variance = moments(x)
        count = images * pixels
        if over_ranks is not None:
            mean, variance, count = over_ranks(mean, variance, count)
        inverse = torch.rsqrt(variance + epsilon)
        scale = weight * inverse
        y = torch.empty_like(x)
        chunks = triton.cdiv(pixels, CHUNK)
        _norm_apply_kernel[(images * channels * chunks,)](
            x, y, mean, scale, torch.zeros_like(mean) if bias is None else bias,
            pixels, channels, chunks, CHUNK=CHUNK, num_warps=8,
        )  # fmt: skip
        ctx.save_for_backward(x, mean, inverse, scale)
        ctx.mark_non_differentiable(mean, variance)
        ctx.has_bias, ctx.count, ctx.sum_over_ranks = bias is not None, count, sum_over_ranks
        return y, mean, variance, count

    @staticmethod
    def backward(ctx, gradient, *_):
        refuse_double_backward()
        x, mean, inverse, scale = ctx.saved_tensors
        gradient = gradient.contiguous()
        images, channels = x.shape[:2]
        pixels = x[0, 0].numel()
        sums, products = x.new_empty(2, images, channels)
        _norm_sums_kernel[(images * channels,)](
            gradient, x, mean, sums, products, pixels, channels, CHUNK=CHUNK, num_warps=8
        )
        total, product = sums.sum(0), products.sum(0)
        means = torch.stack([total, product]) / ctx.count
        level, slope = means if ctx.sum_over_ranks is None else ctx.sum_over_ranks(means)
        out = torch.empty_like(x)
        chunks = triton.cdiv(pixels, CHUNK)
        _norm_back_kernel[(images * channels * chunks,)](
            gradient, x, out, mean, scale, level, slope * inverse.square(),
            pixels, channels, chunks, CHUNK=CHUNK, num_warps=8,
        )  # fmt: skip
        return out, product * inverse, total if ctx.has_bias else None, *[None] * 4


def batch_normalisation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    over_ranks: OverRanks | None = None,
    sum_over_ranks: SumOverRanks | None = None,
) -> tuple[Tensor, Tensor, Tensor, int | Tensor]:
    """Normalise x (N, K, H, W), float32 on a CUDA device, by the batch's mean and variance.

    Args:
        over_ranks, sum_over_ranks: those of :class:`layers.normalisation.BatchNormalisation`.

    Returns:
        The result; the batch's mean and (biased) variance (K,), which carry no gradient; and the
        number of values that these were taken over.
    """
    return _BatchNormalisation.apply(
        x.contiguous(), weight, bias, epsilon, over_ranks, sum_over_ranks
    )
