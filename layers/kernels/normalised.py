"""What batch normalisation adds to a pass of the circuit: statistics of the batch, and in backward
what comes through them. Small tensors only, by statistics.cu; docs/kernels.md has the equations.

A normalisation makes of v the values w n, n = (v − mean) r, r = 1 / √(variance + ε). The circuit's
kernels take `scale` = w r and `middle` = mean, and treat both as constants; the rest of the
gradient is a linear function of v, level + slope (v − mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layers.kernels.normalisation import (
    join_statistics,
    launch,
    move_averages,
    take_statistics,
)
from layers.kernels.spectral import Convolved
from layers.normalisation import BatchNormalisation

G1, C1, G2, C2 = range(4)  # a step's normalisations
Norms = Sequence[BatchNormalisation]


class Normalised:
    """The statistics of a pass.

    Args:
        norms: those of the first step, the second …, four each.
        weights: their scales (steps, 4, K), of one step where all share them.
        like: an activity (N, K, H', W') of which so many `pixels` a plane are none of the padding.

    Attributes:
        of: the statistics (T, 4, 4, K): of a step, of a normalisation, scale, mean, r, variance.
        squares: of the H2 and the H1 that the gates take (T, 2, K, K + 1): the products of channels
            and the channels themselves, summed over images and pixels.
        values: of how many values the statistics are, in all processes (1,).
        gradient: of the scales (T, 4, K).
    """

    def __init__(self, norms: Norms, weights: Tensor, like: Tensor, pixels: int):
        T, K = len(norms) // 4, like.shape[1]
        self.norms, self.weights, self.pixels, self.images = norms, weights, pixels, len(like)
        self.of = like.new_empty(T, 4, 4, K)
        self.squares = like.new_empty(T, 2, K, K + 1)
        self.over_ranks = norms[0].over_ranks
        values = self.own if self.over_ranks is None else self.over_ranks.total(self.own)
        self.values = like.new_full((1,), values)
        self.gradient = like.new_empty(T, 4, K)

    @property
    def own(self) -> int:
        """Of how many values this process's statistics are."""
        return self.images * self.pixels

    def _launch(self, name: str, *arguments, threads: int = 128) -> None:
        launch(name, (self.of.shape[-1],), self.of, *arguments, threads=threads)

    def weight(self, t: int, place: int) -> tuple[Tensor, float]:
        """A normalisation's scale and ε."""
        return self.weights[t % len(self.weights), place], self.norms[4 * t + place].epsilon

    def gate(self, t: int, place: int, parts: Tensor, u: Tensor) -> None:
        """Take the statistics of a gate's U h from the parts of h's squares."""
        squares, of = self.squares[t, place // 2], self.of[t, place]
        self._launch("add_squares", parts, len(parts), squares, None, None, None, None, threads=512)
        self._launch("gate_statistics", squares, u, *self.weight(t, place), self.own, of)

    def line(self, t: int, place: int, c: Convolved) -> None:
        """Take a convolution's statistics."""
        units = (c.largest, c.kernel_scale) if c.values.dtype == torch.float16 else None
        weight = self.weight(t, place)
        take_statistics(c.values, *weight, self.of[t, place], self.pixels, units)

    def exchange(self, t: int, first: int, last: int) -> None:
        """Where several processes share the batch, make statistics of step t those of all."""
        if self.over_ranks is not None:
            places, row = slice(first, last + 1), t % len(self.weights)
            epsilons = [norm.epsilon for norm in self.norms[4 * t :][places]]
            of, weights = self.of[t, places], self.weights[row, places]
            join_statistics(of, weights, epsilons, self.over_ranks)

    def new_means(self, count: int) -> Tensor:
        """For so many normalisations' means (2, K) over the batch in backward."""
        return self.of.new_empty(count, 2, self.of.shape[-1])

    def exchange_back(self, means: Tensor) -> Tensor:
        """Means of this process's values → of those of all."""
        return means if self.over_ranks is None else self.over_ranks.sum(means)

    def gate_back(self, t: int, place: int, parts: Tensor, u: Tensor, means: Tensor) -> Tensor:
        """The parts of Σ g hᵀ and Σ g, g the gradient of the normalised gate, → their sums, and
        the `means` that :meth:`correction` takes."""
        squares = torch.empty_like(self.squares[t, place // 2])
        known = u, self.of[t, place], self.values
        self._launch("add_squares", parts, len(parts), squares, *known, means, threads=512)
        return squares

    def correction(
        self, t: int, place: int, squares: Tensor, u: Tensor, means: Tensor, du: Tensor
    ) -> Tensor:
        """What a gate's normalisation adds to h's gradient (K, K + 1), from the sums and means of
        :meth:`gate_back`; adds to U's gradient."""
        of, taken = self.of[t, place], self.squares[t, place // 2]
        correction = torch.empty_like(squares)
        self._launch(
            "gate_correction", squares, taken, u, of, means, correction, du, self.gradient[t, place]
        )
        return correction

    def line_back(
        self, t: int, place: int, parts: Tensor, letters: tuple[Tensor, Tensor | None],
        means: Tensor, out: Tensor,
    ) -> None:  # fmt: skip
        """The parts of a convolution's sums in backward → the `means` that `correct` takes.

        Args:
            letters: α and μ, or γ and None.
            out: the gradients of α and μ, or of γ, κ and ω, are added here.
        """
        known = self.of[t, place], self.values
        self._launch(
            "line_means", parts, *parts.shape[:2], *letters, *known, out,
            self.gradient[t, place], means,
        )  # fmt: skip

    def observe(self, b_gain: Tensor, b_mix: Tensor) -> None:
        """In training, move the running averages; gates go without their biases until here."""
        biases = {G1: b_gain, G2: b_mix}
        shared = len(self.weights) == 1
        for number, norm in enumerate(self.norms[:4] if shared else self.norms):
            t, place = divmod(number, 4)
            of = self.of[:, place] if shared else self.of[t : t + 1, place]
            move_averages(norm, of, self.values, biases.get(place))
