"""Batch normalisation by the batch at hand on a CUDA device: statistics.cu.

With 25 channels the libraries' kernels keep 25 of the device's multiprocessors busy. Here each
chunk of a plane is a block's, and the chunks' sums are joined afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layers.kernels import compiled
from layers.kernels.peers import NOWHERE
from layers.methods import own_backward

if TYPE_CHECKING:
    from layers.normalisation import BatchNormalisation, OverRanks

CHUNK = 2048  # pixels of a block, as in statistics.cu
SCALE, MEAN, INVERSE, VARIANCE = range(4)  # what is known of each: w r, mean, r, variance


def launch(name: str, grid: tuple[int, ...], like: Tensor, *arguments, threads: int = 128) -> None:
    compiled.function("statistics.cu", name, like.device)(grid, threads, *arguments)


def _chunks(x: Tensor) -> tuple[int, int]:
    """The grid over x's planes, chunk by chunk."""
    return x.shape[:2].numel(), -(-x[0, 0].numel() // CHUNK)


def take_statistics(
    x: Tensor,
    weight: Tensor,
    epsilon: float,
    out: Tensor,
    known: int | None = None,
    units: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Put scale, mean, 1 / √(variance + ε) and variance (4, K) of x (N, K, H, W), contiguous.

    Args:
        x: float32, or with `units` half precision in those of a convolution (Convolved).
        known: of so many pixels a plane, where the others are padding and 0.
    """
    grid, pixels = _chunks(x), x[0, 0].numel()
    parts = out.new_empty(*grid, 2)
    if units is None:
        launch("chunk_moments", grid, x, x, parts, pixels)
    else:
        launch("chunk_moments_half", grid, x, x, *units, parts, x.shape[1], pixels)
    launch(
        "chunk_statistics", out.shape[1:], x, parts, weight, epsilon, len(x), pixels,
        pixels if known is None else known, out,
    )  # fmt: skip


def join_statistics(
    of: Tensor, weights: Tensor, epsilons: Sequence[float], over_ranks: OverRanks
) -> None:
    """Make this process's statistics (n, 4, K) of one or two normalisations those of all processes
    (nothing here may copy from the host: a training step is captured)."""
    shares, peers, ends = over_ranks.shares, over_ranks.peers, (epsilons[0], epsilons[-1])
    rows = (
        over_ranks.gather(of.flatten()) if peers is None else of.new_empty(len(shares), *of.shape)
    )
    launch(
        "join_ranks", (len(of),), of, rows, shares, len(shares), of.shape[-1], weights, *ends, of,
        *(NOWHERE if peers is None else (peers.places, peers.rank)),
    )  # fmt: skip


def move_averages(
    norm: BatchNormalisation, of: Tensor, values: Tensor, bias: Tensor | None = None
) -> None:
    """In training, move a normalisation's running averages by the statistics (T, 4, K) of so many
    uses, over `values` (1,) each; `bias` (K,) is to be added to the means."""
    if norm.training:
        launch(
            "move_averages", (-(-of.shape[-1] // 128),), of, of, len(of), of.stride(0), bias,
            values, int(norm.biased_running_variance), float(norm.momentum), norm.running_mean,
            norm.running_var, of.shape[-1],
        )  # fmt: skip


class _BatchNormalisation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, norm):
        of, count = x.new_empty(1, 4, x.shape[1]), x.numel() // x.shape[1]
        take_statistics(x, weight, norm.epsilon, of[0])
        if norm.over_ranks is not None:
            count = norm.over_ranks.total(count)
            join_statistics(of, weight, [norm.epsilon], norm.over_ranks)
        values = x.new_empty(1).fill_(count)
        move_averages(norm, of, values)
        y = torch.empty_like(x)
        launch("normalise", _chunks(x), x, x, of, bias, y, x.shape[1], x[0, 0].numel())
        ctx.save_for_backward(x, of, values)
        ctx.has_bias, ctx.over_ranks = bias is not None, norm.over_ranks
        return y

    @staticmethod
    @own_backward
    def backward(ctx, gradient):
        x, of, values = ctx.saved_tensors
        gradient, grid = gradient.contiguous(), _chunks(x)
        channels, pixels = x.shape[1], x[0, 0].numel()
        parts, dx = x.new_empty(*grid, 2), torch.empty_like(x)
        dweight, dbias, means = (x.new_empty(n, channels) for n in (1, 1, 2))
        launch("chunk_sums", grid, x, gradient, x, of, parts, channels, pixels)
        launch(
            "chunk_means", (channels,), x, parts, of, values, len(x), grid[1], dweight, dbias, means
        )
        if ctx.over_ranks is not None:
            means = ctx.over_ranks.sum(means)
        launch("normalise_back", grid, x, gradient, x, of, means, dx, channels, pixels)
        return dx, dweight[0], dbias[0] if ctx.has_bias else None, None


def batch_normalisation(norm: BatchNormalisation, x: Tensor) -> Tensor:
    """Normalise x (N, K, H, W), float32 on a CUDA device, by the mean and variance of the batch (of
    all processes, where several share it). In training the running averages move."""
    return _BatchNormalisation.apply(x.contiguous(), norm.weight, norm.bias, norm)
