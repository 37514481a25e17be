"""Who computes a pass of the circuit: the equations as they are written, or fused kernels.

The fused operations of layers/kernels compute what HGRU.forward says, for the circuits that they
know. They take the prepared parameters of a pass, not the layer.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.horizontal import HorizontalKernel
from layers.normalisation import BatchNormalisation

CHANNELS = 32  # at most, in the fused kernels
# Of HGRU.forward and HGRU._normalise as the fused kernels compute them; see `fingerprint`.
PUBLISHED = "b69eb009983e80eb"


class Pass(NamedTuple):
    """The prepared parameters of one pass. K channels, T steps.

    ``horizontal`` are W1 and W2 (twice the same where one serves for both); ``gates`` U1, b_gain,
    U2, b_mix with U (K, K, h, w) and b (K,); ``letters`` α, μ, γ, κ, ω, each (K, 1, 1) or a
    constant (1 and 0 for κ and ω without the multiplicative term: Ĥ = f(1 (H1 + E) + 0 H1 E));
    ``eta`` (T,), or None; ``norms`` those of g1, c1, g2 and c2, one for all steps or one a step, or
    None.
    """

    horizontal: tuple[HorizontalKernel, HorizontalKernel]
    gates: tuple[Tensor, Tensor, Tensor, Tensor]
    letters: tuple[Tensor | float, ...]
    eta: Tensor | None
    norms: dict[str, Sequence[BatchNormalisation]] | None
    timesteps: int
    nonlinearity: Callable[[Tensor], Tensor]
    gate_nonlinearity: Callable[[Tensor], Tensor]
    recompute: bool

    def norm(self, name: str, t: int) -> BatchNormalisation:
        """The normalisation of 'g1', 'c1', 'g2' or 'c2' at step t."""
        assert self.norms is not None
        return self.norms[name][t if len(self.norms[name]) > 1 else 0]

    def fused_letters(self, X: Tensor) -> list[Tensor]:
        """All five letters as (K,)."""
        return [
            v.flatten() if isinstance(v, Tensor) else X.new_full(X.shape[1:2], v)
            for v in self.letters
        ]


def applies(p: Pass, X: Tensor) -> bool:
    """Whether a fused operation computes this pass on this drive (N, K, H, W).

    It knows the circuits with tanh or relu, logistic gates of one pixel and up to 32 channels,
    where the horizontal convolution takes its Triton path (see HorizontalKernel.method_for); with
    batch normalisation, those that normalise by the batch at hand, of one process or of several.
    """
    if p.horizontal[0].method_for(X) != "triton" or X.shape[1] > CHANNELS:
        return False
    norms = p.norms["g1"] if p.norms else ()
    if not all(norm.training or norm.validation == "batch" for norm in norms):
        return False
    known = p.nonlinearity in (torch.tanh, F.relu) and p.gate_nonlinearity is torch.sigmoid
    return known and p.gates[0].shape[-1] == 1


def run(p: Pass, X: Tensor, H2: Tensor) -> Tensor:
    """The hidden state after the last step, (N, K, H, W), by a fused operation.

    Args:
        p: the parameters.
        X: feedforward drive (N, K, H, W).
        H2: the hidden state before the first step, likewise.
    """
    if p.norms:
        from layers.kernels import circuit_bn  # needs Triton, which not all machines have

        return circuit_bn.run(p, X, H2)
    from layers.kernels.circuit import circuit

    W1, W2 = p.horizontal
    U1, b_gain, U2, b_mix = p.gates
    return circuit(
        X,
        H2,
        (W1.W, None if W2 is W1 else W2.W),
        (U1.flatten(1), b_gain, U2.flatten(1), b_mix),
        p.fused_letters(X),
        X.new_ones(p.timesteps) if p.eta is None else p.eta,
        tanh=p.nonlinearity is torch.tanh,
        recompute=p.recompute,
    )


@functools.cache
def as_published(*functions: Callable) -> bool:
    """Whether these are still the equations that the fused kernels compute."""
    try:
        return fingerprint(*functions) == PUBLISHED
    except OSError:  # there is no source to look at, hence none that was edited
        return True


def fingerprint(*functions: Callable) -> str:
    """A number of the functions' source, whatever their comments and layout."""
    digest = hashlib.sha256()
    for function in functions:
        source = textwrap.dedent(inspect.getsource(function))
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
                digest.update(f"{token.string} ".encode())
    return digest.hexdigest()[:16]
