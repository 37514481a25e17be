"""Exchange of weights with the original: its variable names, its layouts (h × w × in × out).

Works on the seven networks, whose names begin ``cnn/``, and on a bare hGRU layer, whose names
begin ``hgru_1_hgru_weights/``.
"""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layers.hgru import HGRU
from layers.normalisation import BatchNormalisation
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork
from support.errors import MissingError, UserError
from support.files import read_array

LAYER = "hgru_1"
# The learned hidden state of hgru_bn_for: a number for each image of the batch, pixel and channel.
STATE = f"{LAYER}_h2_state:0"
COUNTS = ("beta1_power", "beta2_power", "global_step")


class _Layout(NamedTuple):
    """How the axes of a tensor here lie in the original's variable: axes, then shape."""

    axes: tuple[int, ...]
    lead: int = 0  # axes of length 1 that the original has in front

    def to_original(self, tensor: Tensor) -> np.ndarray:
        moved = tensor.detach().cpu().float().permute(self.axes).contiguous().numpy().copy()
        return moved.reshape((1,) * self.lead + moved.shape)

    def from_original(self, array: np.ndarray, tensor: Tensor) -> Tensor:
        # A copy, as PyTorch takes no other machine's byte order, nor numpy's longer numbers.
        moved = torch.from_numpy(np.array(array, np.float64)).reshape(array.shape[self.lead :])
        return moved.permute(tuple(np.argsort(self.axes)))


_KERNEL = _Layout((2, 3, 1, 0))  # (out, in, h, w) → (h, w, in, out)
_LETTER = _Layout((1, 2, 0), lead=1)  # (K, 1, 1) → (1, 1, 1, K)
_BIAS = _Layout((0,), lead=3)  # (K,) → (1, 1, 1, K)
_IMAGES = _Layout((0, 2, 3, 1))  # (N, K, H, W) → (N, H, W, K)
_VECTOR = _Layout((0,))
_MATRIX = _Layout((1, 0))  # (out, in) → (in, out)

_Counterparts = dict[str, tuple[Tensor, _Layout]]


def tf_variables(model: nn.Module) -> dict[str, np.ndarray]:
    """The model's weights and running averages as the original's variables: copies, float32, in its
    layouts, by its names (``'cnn/input/hgru_1_hgru_weights/hgru_1_horizontal:0'`` …)."""
    return {
        name: layout.to_original(tensor) for name, (tensor, layout) in counterparts(model).items()
    }


@torch.no_grad()
def load_tf_variables(model: nn.Module, variables: Mapping[str, np.ndarray]) -> None:
    """Set the model's weights and running averages from the original's variables, arrays by its
    names, with or without the trailing ``:0``.

    Nothing is changed unless everything fits. Running averages may be missing (the release did not
    always save them); the model then keeps its own, with a warning. What a checkpoint holds beside
    the weights is left out with a warning: the optimizer's slots (``<variable>/Adam``, …), its
    ``beta1_power`` and ``beta2_power``, and ``global_step``.

    Raises:
        UserError: a name has no counterpart in the model, an array has another shape or is not of
            real numbers, a weight of the model is missing, or is computed from others (by
            torch.nn.utils.parametrize or prune); all of them are named.
    """
    given = {name if name.endswith(":0") else f"{name}:0": v for name, v in variables.items()}
    ours = counterparts(model)
    layer = model.hgru if isinstance(model, RecurrentNetwork) else model
    state = _state_of_a_batch(layer, given) if isinstance(layer, HGRU) else None
    if state is not None:
        ours = {name: own for name, own in ours.items() if own[0] is not layer.hidden}
        ours |= {name: (state, _IMAGES) for name in given if name.endswith(STATE)}
    aside = [name for name in given if name not in ours and _is_beside_the_weights(name, ours)]
    given = {name: array for name, array in given.items() if name not in aside}
    kept = {id(tensor) for tensor in [*model.parameters(), *model.buffers(), state]}
    problems, found = [], {}
    for name, array in given.items():
        array = np.asarray(array)
        if name not in ours:
            hint = " without aux.hidden_init=learned" if name.endswith(STATE) else ""
            problems.append(f"{name} has no counterpart in {type(model).__name__}{hint}")
            continue
        tensor, layout = ours[name]
        expected = layout.to_original(tensor).shape
        if array.shape != expected:
            problems.append(f"{name} has the shape {array.shape}, expected {expected}")
        elif array.dtype.kind not in "fiu":
            problems.append(f"{name} holds {array.dtype}, expected real numbers")
        elif id(tensor) not in kept:
            problems.append(
                f"{name} is no parameter of the model, which computes it from others (a "
                "parametrisation or pruning): load before that, or remove it"
            )
        else:
            found[name] = layout.from_original(array, tensor)
    missing = [name for name in ours if name not in given]
    averages = [name for name in missing if "/moving_" in name]
    problems += [f"{name} is missing" for name in missing if name not in averages]
    if problems:
        raise UserError("these variables do not fit: " + "; ".join(problems))
    if averages:
        listed = ", ".join(averages)
        warnings.warn(f"running averages not given, the model's own stay: {listed}", stacklevel=2)
    if aside:
        kinds = Counter(name.removesuffix(":0").rsplit("/", 1)[-1] for name in aside)
        listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
        warnings.warn(f"left out, as these are no weights: {listed}", stacklevel=2)
    for name, value in found.items():
        ours[name][0].copy_(value)
    if state is not None:
        layer.hidden.data = state


def load_npy_folder(
    model: nn.Module, folder: str | Path, label: str | None = None, step: int | None = None
) -> tuple[str, int]:
    """Set the model's weights from ``.npy`` files that the original saved.

    The files are named ``<label>_<step>_<variable name with / as _>.npy``. ``label`` says which run
    where the folder holds several, ``step`` which of its steps; None takes the last. Both of what
    was loaded are returned.

    Raises:
        MissingError: the folder holds no such files.
        UserError: it holds several runs and none was named, a file is damaged, or they do
            not fit the model.
    """
    folder = Path(folder)
    names = {re.sub(":0$", "", name).replace("/", "_"): name for name in counterparts(model)}
    pattern = re.compile(r"(?P<label>.+?)_(?P<step>\d+)_(?P<name>cnn_.+?|hgru_.+?)(:0|_0)?\.npy")
    sets: dict[tuple[str, int], dict[str, Path]] = {}
    for file in sorted(folder.glob("*.npy")):
        if match := pattern.fullmatch(file.name):
            sets.setdefault((match["label"], int(match["step"])), {})[match["name"]] = file
    chosen = [k for k in sets if label in (None, k[0]) and step in (None, k[1])]
    if not chosen:
        raise MissingError(
            f"{folder} holds no files <label>_<step>_<variable>.npy for label {label or 'any'}, "
            f"step {'any' if step is None else step}"
        )
    labels = sorted({k[0] for k in chosen})
    if len(labels) > 1:
        raise UserError(
            f"{folder} holds several runs ({', '.join(labels)}): keep one there, or "
            "name one as label"
        )
    key = max(chosen)
    variables = {names.get(name, name): read_array(file) for name, file in sets[key].items()}
    load_tf_variables(model, variables)
    return key


def _is_beside_the_weights(name: str, ours: Iterable[str]) -> bool:
    """Whether a checkpoint's variable is the optimizer's or the count of steps, within any scope:
    ``beta1_power``, ``global_step``, or ``<variable>/<slot>``."""
    scope, _, last = name.removesuffix(":0").rpartition("/")
    weights = tuple("/" + own.removesuffix(":0") for own in ours)
    return last.rstrip("_0123456789") in COUNTS or f"/{scope}".endswith(weights)


def _state_of_a_batch(layer: HGRU, given: Mapping[str, np.ndarray]) -> Tensor | None:
    """Room for the original's learned hidden state, (N, K, H, W), where it is given and fits."""
    for name, array in given.items():
        shape = np.shape(array)
        of_a_batch = len(shape) == 4 and shape[3] == layer.channels
        if name.endswith(STATE) and layer.hidden_init == "learned" and of_a_batch:
            return layer.hidden.new_empty(shape[0], shape[3], *shape[1:3])
    return None


def without_counterpart(model: nn.Module) -> list[str]:
    """Names of the model's weights and running averages that the original has no variable for: of
    a network of the user's own, and of one that was parametrised or pruned."""
    known: _Counterparts = {}
    with contextlib.suppress(UserError):
        known = counterparts(model)
    theirs = {id(tensor) for tensor, _ in known.values()}
    tensors = model.state_dict(keep_vars=True)
    return [name for name, tensor in tensors.items() if id(tensor) not in theirs]


def counterparts(model: nn.Module) -> _Counterparts:
    """Each of the original's variable names with our tensor and how its axes lie there; UserError
    where the model is none of the networks here nor an hGRU layer, or has other parts."""
    if isinstance(model, HGRU):
        return _circuit(model, "")
    try:
        return _network(model)
    except AttributeError as error:  # a part is another, or not there
        raise _unknown(model) from error


def _unknown(model: nn.Module) -> UserError:
    kind = type(model)
    return UserError(
        f"no variables of the original are known for a {kind.__module__}.{kind.__qualname__}; "
        f"expected a network of {RecurrentNetwork.__module__} or {FeedforwardNetwork.__module__} "
        f"with all its parts, or an {HGRU.__module__}.HGRU"
    )


def _network(model: nn.Module) -> _Counterparts:
    if isinstance(model, RecurrentNetwork):
        body = {
            **_circuit(model.hgru, "cnn/input/"),
            **_normalisation(model.norm, "cnn/input/hgru_bn"),
        }
    elif isinstance(model, FeedforwardNetwork):
        body = {}
        for i, (kernel, norm) in enumerate(zip(model.kernels, model.norms, strict=True), start=1):
            body[f"cnn/input/c{i}_initialized:0"] = (kernel, _KERNEL)
            body |= _normalisation(norm, f"cnn/input/c{i}_bn")
    else:
        raise _unknown(model)
    return {
        "cnn/input/gabor_input_conv_bias:0": (model.drive.bias, _BIAS),
        "cnn/input/gabor_input_pretrained:0": (model.drive.weight, _KERNEL),
        **body,
        "cnn/readout_1/pre_readout_conv_initialized:0": (model.readout.evidence, _KERNEL),
        **_normalisation(model.readout.norm, "cnn/readout_1/readout_1_bn"),
        "cnn/readout_2/dense/kernel:0": (model.readout.linear.weight, _MATRIX),
        "cnn/readout_2/dense/bias:0": (model.readout.linear.bias, _VECTOR),
    }


def _circuit(layer: HGRU, prefix: str) -> _Counterparts:
    scope = f"{prefix}{LAYER}_hgru_weights/"
    own: _Counterparts = {
        "horizontal_1" if layer.separate_kernels else "horizontal": (layer.W1, _KERNEL),
        "gain": (layer.U1, _KERNEL),
        "mix": (layer.U2, _KERNEL),
        "gain_bias": (layer.b_gain, _BIAS),
        "mix_bias": (layer.b_mix, _BIAS),
    }
    if layer.separate_kernels:
        own["horizontal_2"] = (layer.W2, _KERNEL)
    own |= {name: (letter, _LETTER) for name, letter in layer.letters().items()}
    if layer.adaptation:
        own["eta"] = (layer.eta, _VECTOR)
    if layer.hidden_init == "learned":
        of_a_batch = layer.hidden.dim() == 4
        name, layout = ("h2_state", _IMAGES) if of_a_batch else ("hidden", _LETTER)
        own[name] = (layer.hidden, layout)
    named = {f"{scope}{LAYER}_{name}:0": pair for name, pair in own.items()}
    if layer.batch_norm:
        for name in layer.norms:
            for t, norm in enumerate(layer.norms_of(name)):
                step = "" if layer.reuse else f"_t{t}"
                named |= _normalisation(norm, f"{scope}{name}_bn{step}")
    return named


def _normalisation(norm: nn.Module, scope: str) -> _Counterparts:
    if not isinstance(norm, BatchNormalisation):
        raise UserError(
            f"{scope}: no variables of the original are known for a {type(norm).__name__}; "
            f"expected a {BatchNormalisation.__module__}.BatchNormalisation"
        )
    named: _Counterparts = {f"{scope}/gamma:0": (norm.weight, _VECTOR)}
    if norm.bias is not None:
        named[f"{scope}/beta:0"] = (norm.bias, _VECTOR)
    named[f"{scope}/moving_mean:0"] = (norm.running_mean, _VECTOR)
    named[f"{scope}/moving_variance:0"] = (norm.running_var, _VECTOR)
    return named
