"""The networks for ``torch.hub``.

    torch.hub.load("<clone>", "hgru", weights="14", source="local")

A network takes float32 images (N, 1, H, W) of grey values in 0–1, light contours on a dark ground,
of any H and W; the weights were trained on 150×150 (a Pathfinder stimulus of 300×300, resized). It
returns (logits (N, 2), activity (N, K, H, W)); softmax of the logits gives the probability that the
two discs lie on different contours, and on one. Move it to a device with ``.to``, and call
``.eval()`` before it judges images.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path

import torch as _torch

dependencies = ["torch", "numpy", "safetensors"]
_CLONE = _Path(__file__).resolve().parent


def _network(script: str, weights: str | None, options: dict) -> _torch.nn.Module:
    # Under one name, beside what the caller has imported under names like ``models``.
    package = _import_module("hgru_pytorch")
    if package.CLONE != _CLONE:
        raise ImportError(
            f"hgru_pytorch is {package.CLONE} in this process; {_CLONE} needs a process of its own"
        )
    if weights is None:
        return _import_module(f"hgru_pytorch.{script}").build_model({"aux": options})
    file = _CLONE / "weights" / f"{script}_{weights}.safetensors"
    if not file.is_file():
        known = sorted(
            p.stem.removeprefix(f"{script}_") for p in file.parent.glob(f"{script}_*.s*")
        )
        raise ValueError(
            f"weights must be None or one of {known} for {script}; found {weights!r} "
            "(the number is the contour length that they were trained on)"
        )
    if options:
        raise ValueError(f"weights bring their own options of the circuit; found {options} as well")
    return _import_module("hgru_pytorch.analysis.trained").load_run(file, device="cpu").network


def hgru(weights: str | None = None, **options) -> _torch.nn.Module:
    """The hGRU: one symmetric 15×15 kernel, tanh, η at each step.

    Args:
        weights: None (initial values), or the contour length that it was trained on: '6', '9' or
            '14'. Trained networks come in evaluation mode.
        options: without weights, those of ``layers.hgru.HGRU``.
    """
    return _network("hgru", weights, options)


def hgru_bn(weights: str | None = None, **options) -> _torch.nn.Module:
    """Batch normalisation inside the circuit, shared by all steps. Arguments as ``hgru``."""
    return _network("hgru_bn", weights, options)


def hgru_bn_for(weights: str | None = None, **options) -> _torch.nn.Module:
    """Batch normalisation inside the circuit, its own at each step. Arguments as ``hgru``."""
    return _network("hgru_bn_for", weights, options)


def hgru_bn_relu(weights: str | None = None, **options) -> _torch.nn.Module:
    """Relu, two kernels, batch normalisation shared by all steps. Arguments as ``hgru``."""
    return _network("hgru_bn_relu", weights, options)


def multiplicative_lesion(weights: str | None = None, **options) -> _torch.nn.Module:
    """``hgru`` with α = ω = 0. Arguments as ``hgru``."""
    return _network("multiplicative_lesion", weights, options)


def additive_lesion(weights: str | None = None, **options) -> _torch.nn.Module:
    """``hgru`` with μ = κ = 0. Arguments as ``hgru``."""
    return _network("additive_lesion", weights, options)


def ff_5(weights: str | None = None, **options) -> _torch.nn.Module:
    """Five layers of 20×20 convolutions. Options: those of ``FeedforwardNetwork``."""
    return _network("ff_5", weights, options)
