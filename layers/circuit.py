"""Who computes a pass of the circuit: the equations as they are written, fused kernels, or threads.

The fused operations of layers/kernels compute what HGRU.forward says, for the circuits that they
know. They take the prepared parameters of a pass, not the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.horizontal import HorizontalKernel
from layers.normalisation import BatchNormalisation
from layers.shares import in_shares

CHANNELS = 32  # at most, in the fused kernels
NORMS = ("g1", "c1", "g2", "c2")  # the normalisations of a step, in the order of their use
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Pass(NamedTuple):
    """The prepared parameters of one pass. K channels, T steps.

    ``horizontal`` are W1 and W2 (twice the same where one serves for both); ``gates`` U1, b_gain,
    U2, b_mix with U (K, K, h, w) and b (K,); ``letters`` α, μ, γ, κ, ω, each (K, 1, 1) or a
    constant (1 and 0 for κ and ω without the multiplicative term: Ĥ = f(1 (H1 + E) + 0 H1 E));
    ``eta`` (T,), or None; ``norms`` the normalisations of the first step, in the order of their
    use, the second …, or none; ``equations`` of the pass, X and H2 as they are written; ``shares``,
    threads that share the images on a CPU (layers/shares.py).
    """

    horizontal: tuple[HorizontalKernel, HorizontalKernel]
    gates: tuple[Tensor, Tensor, Tensor, Tensor]
    letters: tuple[Tensor | float, ...]
    eta: Tensor | None
    norms: Sequence[BatchNormalisation]
    timesteps: int
    nonlinearity: Callable[[Tensor], Tensor]
    gate_nonlinearity: Callable[[Tensor], Tensor]
    recompute: bool
    equations: Callable[[Pass, Tensor, Tensor], Tensor]
    shares: int

    def fused_letters(self, X: Tensor) -> list[Tensor]:
        """All five letters as (K,)."""
        return [
            v.flatten() if isinstance(v, Tensor) else X.new_full(X.shape[1:2], v)
            for v in self.letters
        ]

    def of(self, change: Callable[[Any], Any]) -> Pass:
        """This pass with all that the equations take changed: kernels, gates, letters and η."""
        W1, W2 = self.horizontal
        own = change(W1)
        return self._replace(
            horizontal=(own, own if W2 is W1 else change(W2)),
            gates=tuple(map(change, self.gates)),  # type: ignore[arg-type]
            letters=tuple(change(v) if isinstance(v, Tensor) else v for v in self.letters),
            eta=None if self.eta is None else change(self.eta),
        )


def applies(p: Pass, X: Tensor) -> bool:
    """Whether a fused operation, or threads, compute this pass on this drive (N, K, H, W).

    The fused operation knows the circuits with tanh or relu, logistic gates of one pixel and up to
    32 channels, where the horizontal convolution takes its Triton path (see
    HorizontalKernel.method_for); with batch normalisation, those that only scale, and normalise by
    the batch at hand, of one process or of several.
    """
    if _is_shared(p, X):
        return True
    if p.horizontal[0].method_for(X) != "triton" or X.shape[1] > CHANNELS:
        return False
    if not all(map(_knows, set(p.norms))):
        return False
    known = p.nonlinearity in (torch.tanh, F.relu) and p.gate_nonlinearity is torch.sigmoid
    if not known or not _fits(p, X):
        return False
    from layers.kernels import compiled

    return compiled.available(X.device)


def run(p: Pass, X: Tensor, H2: Tensor) -> Tensor:
    """The hidden state after the last step, (N, K, H, W), by a fused operation or in shares.

    Args:
        p: the parameters.
        X: feedforward drive (N, K, H, W).
        H2: the hidden state before the first step, likewise.
    """
    if _is_shared(p, X):
        return _in_shares(p, X, H2)
    from layers.kernels.circuit import circuit  # needs Triton, which not all machines have

    W1, W2 = p.horizontal
    U1, b_gain, U2, b_mix = p.gates
    return circuit(
        X,
        H2,
        (W1.W, None if W2 is W1 else W2.W),
        (U1.flatten(1), b_gain, U2.flatten(1), b_mix),
        p.fused_letters(X),
        X.new_ones(p.timesteps) if p.eta is None else p.eta,
        p.norms,
        tanh=p.nonlinearity is torch.tanh,
        recompute=p.recompute,
    )


def _fits(p: Pass, X: Tensor) -> bool:
    """Whether all is of the shapes, type and device that the kernels read. Others may have been put
    in a parameter's place: the equations take an α for each pixel, or a W2 of another width."""
    K = X.shape[1]
    W1, W2 = (kernel.W for kernel in p.horizontal)
    U1, b_gain, U2, b_mix = p.gates
    expected = [
        *((W, (K, K, *W1.shape[2:])) for W in (W1, W2)),
        *((U, (K, K, 1, 1)) for U in (U1, U2)),
        *((b, (K,)) for b in (b_gain, b_mix)),
        *((letter, (K, 1, 1)) for letter in p.letters),
        (p.eta, (p.timesteps,)),
    ]
    read = [(v, shape) for v, shape in expected if isinstance(v, Tensor)]
    return all((v.shape, v.dtype, v.device) == (shape, X.dtype, X.device) for v, shape in read)


def _knows(norm: Any) -> bool:
    """Whether the fused operation knows this normalisation, and nobody waits for its calls."""
    if not isinstance(norm, BatchNormalisation) or any(getattr(norm, name) for name in HOOKS):
        return False
    by_batch = norm.training or norm.validation == "batch"
    return by_batch and norm.bias is None and norm.as_published()


def _is_shared(p: Pass, X: Tensor) -> bool:
    """Whether threads share this pass by images. A letter or an η that has a number for each image,
    put in a parameter's place, is not split: it would meet the images of a share alone."""
    if p.shares == 1 or len(X) < 2 or p.horizontal[0].method not in ("auto", "fft"):
        return False
    scales = *p.letters, 0.0 if p.eta is None else p.eta[0]
    return not any(isinstance(v, Tensor) and v.dim() > 3 and len(v) > 1 for v in scales)


def _in_shares(p: Pass, X: Tensor, H2: Tensor) -> Tensor:
    """The equations as they are written, by threads that share the images."""
    common: list[Tensor] = []
    p.of(lambda v: common.append(v.common(X) if isinstance(v, HorizontalKernel) else v))

    def share(own: Sequence[Tensor]) -> Tensor:
        x, h, *tensors = own
        left = iter(tensors)
        mine = p.of(
            lambda v: v.in_share(next(left), x) if isinstance(v, HorizontalKernel) else next(left)
        )
        return p.equations(mine._replace(shares=1), x, h)

    return in_shares(share, p.shares, (X, H2), common)
