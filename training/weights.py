"""Trained weights: those of a run, a checkpoint, a file or the original, read in one place."""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from config import Config
from layers.hgru import continued, layers_of
from models.tf_variables import load_npy_folder, load_tf_variables
from support.errors import MissingError, UserError, about
from support.files import read_arrays
from training.checkpoints import CheckpointError, CheckpointFolder, load
from training.experiment import differences
from training.history import History, images_after
from training.run import SAVED, Run, todays

log = logging.getLogger(__name__)

FORMAT = "hgru weights"  # what a .safetensors file of this project says of itself
# Options that bear on initial values, speed or memory alone: trained weights do not need them.
NOT_NEEDED = {
    "normal_initializer", "symmetric_inits", "gate_bias_init", "eta_init", "recompute",
}  # fmt: skip


@dataclass
class Weights:
    """Weights that were found, and what is known of them; None stands for what is not.

    ``into`` sets a network's weights and running averages. It raises a UserError where they do not
    fit, and then changes nothing.
    """

    path: Path  # the file or folder that they are read from
    into: Callable[[nn.Module], object]
    step: int | None = None  # updates behind them
    record: dict[str, Any] | None = None  # of the run that trained them (docs/log.md)
    run: Run | None = None  # that run, where its files are here
    images: int | None = None  # training images behind them
    seconds: float | None = None  # that the run had trained
    history: History | None = None  # what was measured up to them; of a checkpoint


def find_weights(which: str | Path, config: Config, weights: str | int = "last") -> Weights:
    """Trained weights by a name or a path.

    Args:
        which: a ``.safetensors`` file (analysis.export), an ``.npz`` file or a folder of ``.npy``
            files with the original's variables, a checkpoint (``.pt``), or whatever
            :meth:`training.run.Run.find` takes. A file means exactly that file.
        weights: of a run, which: 'last' (the newest checkpoint; where none was copied along, the
            newest weights of a validation), 'best' (the best validation), or a step.

    Raises:
        UserError, MissingError: there are no such weights; the message names them.
    """
    path, choice = Path(which), str(weights)
    if path.suffix not in (".safetensors", ".npz", ".pt"):
        if path.is_dir() and any(path.glob("*.npy")):
            return Weights(path, partial(load_npy_folder, folder=path))
        return _of_run(Run.find(which, config), choice)
    if not path.is_file():
        raise MissingError(f"{which}: no such file")
    run = None
    if path.suffix != ".safetensors":
        with contextlib.suppress(UserError):  # a file by itself
            run = Run.find(path.absolute(), config)
    if path.suffix == ".npz" and run is not None and run.file is None:
        return _of_run(run, choice)  # the file is the run's results
    if choice != "last":
        raise UserError(f"weights {choice}: {which} is one file; name its run to choose")
    if path.suffix == ".safetensors":
        return _of_safetensors(path)
    if path.suffix == ".pt":
        return _of_checkpoint(path, run)
    if run is not None and SAVED.fullmatch(path.name):
        return _of_validation(path, run)
    return Weights(path, partial(load_tf_variables, variables=read_arrays(path)))


def fingerprint(network: nn.Module) -> str:
    """16 hexadecimal digits that follow from all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def set_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Set a network's weights by this project's names.

    Raises a CheckpointError where they do not fit; the network stays as it was.
    """
    own = network.state_dict()
    problems = [f"it lacks {name}" for name in own if name not in tensors]
    problems += [f"it has {name}, which this network lacks" for name in tensors if name not in own]
    problems += [
        f"{name} has the shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and not _fits(name, tensors[name], value)
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the script's network: {'; '.join(problems)}")
    network.load_state_dict(tensors)


def _fits(name: str, found: Tensor, own: Tensor) -> bool:
    """Whether a tensor may take a weight's place. A learned hidden state may be the original's, one
    for each image of a batch: (N, K, H, W), whatever N, H and W are."""
    of_a_batch = name.endswith("hgru.hidden") and found.dim() == 4
    return found.shape == own.shape or (of_a_batch and found.shape[1] == own.shape[-3])


def brought(found: Weights, aux: Mapping[str, Any]) -> list[str]:
    """Overrides for options that weights were trained with and that ``aux`` does not set here."""
    theirs = _part(found.record, "parameters", "aux")
    wanted = {k: v for k, v in theirs.items() if k not in aux and k not in NOT_NEEDED}
    return [f"aux.{key}={value}" for key, value in wanted.items()]


def begin_with(found: Weights, which: str, network: nn.Module) -> dict[str, Any]:
    """Set a new run's weights; what it records of them, as ``initial_weights``.

    Warns where they were trained with other options of the circuit than this network has. With more
    timesteps than theirs, η of each further step begins as their last one.
    """
    record, own = found.record or {}, getattr(network, "options", None) or {}
    theirs = _part(record, "parameters", "aux") | _part(record, "network", "options")
    with about(f"initial_weights={which}: "):
        their_fingerprint = _set_with_steps(found, network, theirs.get("timesteps"))
    both = theirs.keys() & own.keys() - NOT_NEEDED
    others = differences(*({key: options[key] for key in both} for options in (theirs, own)))
    if others:
        log.warning("the initial weights were trained with other options: %s", "; ".join(others))
    return {
        "source": which,
        "fingerprint": their_fingerprint,
        "step": found.step,
        "images": found.images,
        "data": _part(record, "parameters").get("dataset"),
        "initial_weights": record.get("initial_weights"),
    }


@torch.no_grad()
def _set_with_steps(found: Weights, network: nn.Module, steps: int | None) -> str:
    """Set a network's weights, where those have an η for each of so many steps (None: not known);
    their fingerprint."""
    layer = getattr(network, "hgru", None)
    if steps is None or layer not in layers_of(network) or not layer.adaptation:
        found.into(network)
        return fingerprint(network)
    own, theirs = layer.eta, nn.Parameter(layer.eta.new_empty(steps))
    layer.eta = theirs
    try:
        found.into(network)
        found_fingerprint = fingerprint(network)
    finally:
        layer.eta = own
    own.copy_(continued(theirs, len(own)))
    return found_fingerprint


def _of_run(run: Run, choice: str) -> Weights:
    """The weights that are meant of a run."""
    folder, saved = CheckpointFolder(run.checkpoints), run.saved_weights()
    files = {**saved, **folder.files()}
    if choice == "best":
        path = folder.best if folder.best.is_file() else None
    elif choice == "last":
        path = folder.newest() or saved.get(max(saved, default=0))
    elif choice.isdecimal():
        path = files.get(int(choice))
    else:
        raise UserError(f"weights must be last, best or the number of a step, found {choice!r}")
    if path is None:
        known = ", ".join(map(str, sorted(files))) or "no step"
        which = {"best": " of a best validation", "last": ""}.get(choice, f" of step {choice}")
        places = f"{run.checkpoints}, {run.weights}"
        raise MissingError(f"{run.name} has no weights{which}; it has those of {known} ({places})")
    found = _of_checkpoint(path, run) if path.suffix == ".pt" else _of_validation(path, run)
    if choice == "best":
        _warn_if_not_best(found, run)
    return found


def _warn_if_not_best(found: Weights, run: Run) -> None:
    """Say where ``best.pt`` is of another step than the best validation in the run's log."""
    metric = (found.record or {})["parameters"].get("score_metric", "accuracy")
    events = [event for event in run.events("validation") if {metric, "loss"} <= event.keys()]
    losses, metrics = ([event[name] for event in events] for name in ("loss", metric))
    best = History(validation_loss=losses, validation_metric=metrics).best()
    if best is not None and events[best]["step"] != found.step:
        log.warning(
            f"{found.path} has the weights of step {found.step}, but the best validation in "
            f"{run.json_log} is that of step {events[best]['step']}; a run that ended between the "
            "two writes best.pt when it goes on (--resume)"
        )


def _of_validation(path: Path, run: Run) -> Weights:
    into, record = partial(load_tf_variables, variables=read_arrays(path)), run.record()
    found = Weights(path, into, int(path.stem.split("_")[1]), record, run)
    return _counted(found, history_of(run, record))


def _of_checkpoint(path: Path, run: Run | None) -> Weights:
    state = load(path)
    parameters = {"parameters": state["identity"]["parameters"]}
    record = state.get("record") or (run.record() if run else parameters)
    into = partial(set_weights, tensors=state["model"], path=path)
    history = History.of(state["history"], *_batch_and_epoch(record))
    found = Weights(path, into, int(state["step"]), record, run, history=history)
    return _counted(found, history, state.get("seconds", math.nan))


def _of_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from error
    found = Weights(path, partial(set_weights, tensors=tensors, path=path))
    if about.get("format") == FORMAT:
        found.step = int(about["step"])
        found.record = {"run": about["run"], **todays(json.loads(about["record"]))}
        _counted(found, History(), float(about.get("seconds", "nan")))
        if "seconds" in about:
            found.images = int(about["images_seen"])
    return found


def _counted(found: Weights, history: History, seconds: float | None = None) -> Weights:
    """With images, and seconds unless they say so themselves: what the run measured up to them."""
    record, step = found.record or {}, found.step or 0
    found.images = images_after(step, *_batch_and_epoch(record))
    if 0 < step <= len(history.train_images):
        found.images = history.train_images[step - 1]
    if seconds is None and step in history.validation_step:
        seconds = history.validation_seconds[history.validation_step.index(step)]
    found.seconds = seconds if seconds is not None and math.isfinite(seconds) else None
    return found


def history_of(run: Run, record: dict[str, Any]) -> History:
    """What a run's results file holds; empty where there is none."""
    if not run.results.exists():
        return History()
    metric = str(record["parameters"].get("score_metric") or "accuracy")
    arrays = read_arrays(run.results)
    return History.of_results(arrays, metric, *_batch_and_epoch(record), run.results)


def _batch_and_epoch(record: Mapping[str, Any]) -> tuple[int, int]:
    """Images of a batch and, where the run recorded it, of an epoch."""
    batch = int(record["parameters"]["batch_size"])
    return batch, int(_part(record, "data", "train").get("images") or batch)


def _part(record: Mapping[str, Any] | None, *keys: str) -> dict[str, Any]:
    """A dictionary within a record; empty where the record lacks it."""
    found: Any = record
    for key in keys:
        found = (found or {}).get(key)
    return found or {}
