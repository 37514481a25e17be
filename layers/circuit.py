"""Which circuits the fused operations of layers/circuit_triton.py and layers/circuit_bn_triton.py
compute, and how they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layers.horizontal import HorizontalKernel

if TYPE_CHECKING:
    from layers.hgru import HGRU

CHANNELS = 32  # at most


def applies(layer: HGRU, X: Tensor) -> bool:
    """Whether the fused operation computes this layer's forward pass on this drive.

    It knows the circuits with tanh or relu, logistic gates of one pixel and up to 32 channels,
    where the horizontal convolution takes its Triton path (float32 on a CUDA device, see
    HorizontalKernel.method_for); with batch normalisation, those that normalise by the batch at
    hand, of one process or of several. A probe needs the steps in the open.
    """
    if layer.probe is not None or layer.channels > CHANNELS:
        return False
    if layer.batch_norm and not all(map(_by_batch, layer.norms_of("g1"))):
        return False
    if layer.recurrent_nl not in ("tanh", "relu") or layer.gate_nl != "sigmoid":
        return False
    if layer.gate_filter != 1 or torch.is_autocast_enabled(X.device.type):
        return False
    return HorizontalKernel(layer.W1).method_for(X) == "triton"


def run(layer: HGRU, X: Tensor) -> Tensor:
    """The layer's hidden state after its last step, (N, K, H, W); what its forward would give."""
    from layers import circuit_bn_triton  # needs Triton, which not all machines have
    from layers.circuit_triton import circuit

    letters = [_letter(layer, name, X) for name in ("alpha", "mu", "gamma")]
    if layer.multiplicative_excitation:
        letters += [_letter(layer, name, X) for name in ("kappa", "omega")]
    else:
        letters += [X.new_ones(layer.channels), X.new_zeros(layer.channels)]
    eta = layer.eta[: layer.timesteps] if layer.adaptation else X.new_ones(layer.timesteps)
    if layer.batch_norm:
        return circuit_bn_triton.run(layer, X, letters, eta)
    W1, W2 = layer._horizontal_kernels()
    U1, U2 = (U.flatten(1) for U in layer._gate_kernels())
    return circuit(
        X, layer.initial_hidden(X), (W1.W, W2.W if layer.separate_kernels else None),
        (U1, layer.b_gain, U2, layer.b_mix), letters, eta,
        tanh=layer.recurrent_nl == "tanh", recompute=layer.recompute,
    )  # fmt: skip


def _by_batch(norm: Any) -> bool:
    """Whether a normalisation takes the statistics of the batch at hand, now."""
    return norm.training or norm.validation == "batch"


def _letter(layer: HGRU, name: str, X: Tensor) -> Tensor:
    value = layer._letter(name)
    return value.flatten() if isinstance(value, Tensor) else X.new_full((layer.channels,), value)
