"""The circuit's pointwise kernels on folded activities: pointwise.cu, launched by name.

Each method is one kernel. Activities are (N, K, H', W'), c1, c2, what came `through` a convolution
and dp Convolved; a gate is (U, scale, middle), letters and middles (K,). Sums come as a part for
each block, to be added up in a fixed order: `squares` (blocks, K, K + 1), Σ over pixels of a left
side times a right one, and of the left side alone; `sums` (blocks, so many, K).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from layers.kernels import compiled
from layers.kernels.spectral import Convolved

TILE = 64  # pixels that a block takes at a time: folded planes hold a multiple of it
THREADS = 128
MULTIPROCESSORS = 132  # of an H100 or H200. A fixed number: sums repeat bit for bit anywhere
# Blocks of a kernel that each of them is to hold, from measurements on an H100; those for float32,
# which need more shared memory.
LAUNCH = {
    "gain": 5, "squares": 5, "inhibit": 5, "mix": 5,
    "mix_back": 3, "inhibit_back": 4, "gain_back": 4,
}  # fmt: skip
FLOAT32_LAUNCH = {**LAUNCH, "mix": 4, "mix_back": 2, "inhibit_back": 3, "gain_back": 3}
# What a kernel's tiles take comes through shared memory ahead of time: so many float32 tensors and
# convolutions' results. Bytes of a row of float32 and halves:
AHEAD = {
    "gain": (1, 0), "squares": (0, 0), "inhibit": (2, 1), "mix": (2, 1),
    "mix_back": (3, 1), "inhibit_back": (5, 2), "gain_back": (2, 1),
}  # fmt: skip
ROW, HALF_ROW = 4 * TILE + 16, 2 * TILE + 16


class Gate(NamedTuple):
    """σ(scale (U h − middle)): U (K, K), the others (K,)."""

    u: Tensor
    scale: Tensor
    middle: Tensor


class Pointwise:
    """The kernels for one shape of activity.

    Args:
        like: a folded activity (N, K, H', W').
        tanh: f is tanh, or relu.
        strict: products are float32's, or TF32's.
        valid: None, or with batch normalisation which pixels are none of the padding (H' · W',),
            as bytes.
    """

    def __init__(self, like: Tensor, tanh: bool, strict: bool, valid: Tensor | None):
        self.images, self.channels = like.shape[:2]
        self.pixels, self.device, self.valid = like[0, 0].numel(), like.device, valid
        self.launch = FLOAT32_LAUNCH if strict else LAUNCH
        self.constants = {
            "K": self.channels, "TANH": tanh, "STRICT": strict, "NORM": valid is not None,
            "P": self.pixels, **{name.upper(): blocks for name, blocks in self.launch.items()},
        }  # fmt: skip

    def blocks(self, name: str) -> int:
        return min(MULTIPROCESSORS * self.launch[name], self.images * self.pixels // TILE)

    def new_squares(self, name: str) -> Tensor:
        K = self.channels
        return torch.empty(self.blocks(name), K, K + 1, device=self.device)

    def new_sums(self, name: str) -> Tensor:
        blocks, count = self.blocks(name), 3 + (name == "mix_back" and self.valid is not None)
        if self.valid is None and name == "inhibit_back":
            blocks, count = self.images * self.plane_blocks, 2
        return torch.empty(blocks, count, self.channels, device=self.device)

    @property
    def plane_blocks(self) -> int:
        """Blocks of a plane, where kernels go by planes."""
        return -(-self.pixels // 4096)

    def _launch(self, name: str, *arguments) -> None:
        kernel = compiled.function("pointwise.cu", name, self.device, **self.constants)
        single, convolved = AHEAD[name]
        convolved += name == "mix_back" and self.valid is None
        row = single * ROW + convolved * (ROW if self.constants["STRICT"] else HALF_ROW)
        shared = self.channels * row
        kernel((self.blocks(name),), THREADS, *arguments, self.images, shared=shared)

    def _launch_planes(self, name: str, *arguments) -> None:
        kernel = compiled.function("pointwise.cu", name, self.device, **self.constants)
        kernel((self.images * self.channels, self.plane_blocks), 256, *arguments)

    def gain(self, h2: Tensor, gate: Gate, largest: Tensor) -> Tensor:
        """P = H2 G1, its largest pixels into `largest` (N,)."""
        out = torch.empty_like(h2)
        self._launch("gain", h2, *gate, out, largest)
        return out

    def squares(self, h: Tensor) -> Tensor:
        """Of h with itself."""
        squares = self.new_squares("squares")
        self._launch("squares", h, squares)
        return squares

    def inhibit(self, x, h2, c1, *, alpha, mu, middle, largest) -> tuple[Tensor, Tensor | None]:
        """H1 = f(X − (α H2 + μ) (C1 − middle)), its largest pixels into `largest`; with batch
        normalisation, its squares."""
        out, squares = torch.empty_like(x), None
        if self.valid is None:
            self._launch_planes("inhibit_plane", x, h2, *c1, alpha, mu, out, largest)
        else:
            squares = self.new_squares("inhibit")
            letters = alpha, mu, middle
            self._launch("inhibit", x, h2, *c1, *letters, self.valid, out, largest, squares)
        return out, squares

    def mix(
        self, h1, c2, h2, *, gamma, kappa, omega, eta, middle, gate: Gate, gain: Gate, largest
    ) -> tuple[Tensor, Tensor | None]:
        """The next H2. Unless `largest` is None: with batch normalisation its squares, otherwise
        the P that it makes by the gate `gain`, the largest pixels of which go to `largest`."""
        out, p, squares = torch.empty_like(h2), None, None
        if largest is not None and self.valid is None:
            p = torch.empty_like(h2)
        elif largest is not None:
            squares = self.new_squares("mix")
        self._launch(
            "mix", h1, h2, *c2, gamma, kappa, omega, eta, middle, *gate, *gain, self.valid,
            out, p, largest, squares,
        )  # fmt: skip
        return out, squares if p is None else p

    def mix_back(
        self, grad, h2, h1, c2, *, gamma, kappa, omega, eta, middle, gate: Gate, correction, dp,
        gain: Gate, gain_squares, largest, squares, sums, etas,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The next H2's gradient `grad` → the shares of it of H2 and H1, and C2's gradient.

        With batch normalisation `correction` is to be taken off `grad` first; puts sums for γ, κ, ω
        and of the gradient of γ C2. Without, `grad` and `dp` are what `gain_back` takes, unless
        `dp` is None; adds to sums for γ, κ and ω; dC2's largest pixels go into `largest`. `etas`
        (blocks,).
        """
        dh2, dh1, dc2 = (torch.empty_like(grad) for _ in range(3))
        self._launch(
            "mix_back", grad, h2, h1, *c2, gamma, kappa, omega, eta, middle, *gate, correction,
            self.valid, *(dp or 3 * [None]), *gain, gain_squares, dh2, dh1, dc2, largest, squares,
            sums, etas,
        )  # fmt: skip
        return dh2, dh1, dc2

    def inhibit_back(
        self, through, dh1, h1, c1, h2, *, alpha, mu, middle, correction, dx, dh2, largest, sums,
        first: bool,
    ) -> Tensor:  # fmt: skip
        """H1's gradient, `through` and `dh1` less its `correction`, → C1's, its largest pixels into
        `largest` (without batch normalisation). Adds to `dh2` and, unless `first`, to `dx`. Puts
        sums for α, μ and of C1's gradient; without batch normalisation adds those for α and μ."""
        dc1 = torch.empty_like(h1)
        if self.valid is None:
            self._launch_planes(
                "inhibit_back_plane", *through, dh1, h1, *c1, h2, alpha, mu, dx, dh2, dc1, largest,
                sums, int(first),
            )  # fmt: skip
            return dc1
        self._launch(
            "inhibit_back", *through, dh1, h1, *c1, h2, alpha, mu, middle, correction, self.valid,
            dx, dh2, dc1, sums, int(first),
        )  # fmt: skip
        return dc1

    def gain_back(self, dh2, dp, h2, *, gate: Gate, squares) -> Tensor:
        """`dh2` and P's share of H2's gradient. Adds to `squares`; with batch normalisation puts
        them."""
        out = torch.empty_like(h2)
        self._launch("gain_back", dh2, *dp, h2, *gate, out, squares, int(self.valid is None))
        return out

    def correct(self, dc: Tensor, c: Convolved, means: Tensor, of: Tensor, largest: Tensor) -> None:
        """Take what comes through a normalisation's statistics off dc, in its place: `means` (2, K)
        over the batch of dc and dc (c − mean), `of` the statistics (4, K); its largest pixels into
        `largest`."""
        self._launch_planes("correct", dc, *c, means, of, self.valid, largest)
