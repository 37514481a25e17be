"""The networks for ``torch.hub``.

    torch.hub.load("<clone>", "hgru", weights="14", source="local")

A network takes float32 images (N, 1, H, W) of grey values in 0–1, light contours on a dark ground,
of any H and W; the weights were trained on 150×150 (a Pathfinder stimulus of 300×300, resized). It
returns (logits (N, 2), activity (N, K, H, W)); softmax of the logits gives the probability that the
two discs lie on different contours, and on one. Move it to a device with ``.to``, and call
``.eval()`` before it judges images.
"""

from collections.abc import Callable as _Callable
from importlib import import_module as _import_module
from pathlib import Path as _Path

import torch as _torch

dependencies = ["torch", "numpy", "yaml", "safetensors"]
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


def _entry(script: str, circuit: str) -> _Callable[..., _torch.nn.Module]:
    def entry(weights: str | None = None, **options) -> _torch.nn.Module:
        return _network(script, weights, options)

    entry.__name__ = script
    entry.__doc__ = f"""{circuit}

    Args:
        weights: None (initial values), or the contour length that it was trained on: '6', '14',
            '14_curriculum', '20' or '25', where there are any. Trained networks come in
            evaluation mode.
        options: without weights, those of the network: ``layers.hgru.HGRU`` or, for ``ff_5``,
            ``models.feedforward.FeedforwardNetwork``.
    """
    return entry


hgru = _entry("hgru", "The hGRU: one symmetric 15×15 kernel, tanh, η at each step.")
hgru_bn = _entry("hgru_bn", "Batch normalisation inside the circuit, shared by all steps.")
hgru_bn_for = _entry("hgru_bn_for", "Batch normalisation inside the circuit, its own at each step.")
hgru_bn_relu = _entry("hgru_bn_relu", "Relu, two kernels, batch normalisation shared by all steps.")
multiplicative_lesion = _entry("multiplicative_lesion", "``hgru`` with α = ω = 0.")
additive_lesion = _entry("additive_lesion", "``hgru`` with μ = κ = 0.")
ff_5 = _entry("ff_5", "No recurrence: five layers of 20×20 convolutions.")
