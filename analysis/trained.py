"""A run as it was trained: its settings, its network with the weights of a step, its history."""

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from config import CLONE, Config
from dataset_processing import load_set
from dataset_processing.base import PathfinderSet
from models.tf_variables import load_tf_variables
from support.files import read_arrays
from support.memory import keep_memory
from training.checkpoints import CheckpointFolder, State, load
from training.distribution import device_of
from training.history import History
from training.run import TIMESTAMP, Run, find_run, runs
from training.weights import set_weights

IMAGE_SIZE = (150, 150)  # that networks are given unless a run or its data set says otherwise
STIMULUS_SIZE = (300, 300)  # of the stimuli that are brought to that size
FORMAT = "hgru weights"  # what a .safetensors file of this project says of itself


@dataclass
class TrainedRun:
    """A run, ready to be looked at.

    Attributes:
        name: the run's name.
        params: its parameters (as ``experiment_params`` gives, with what was set).
        record: all of ``settings.yaml``: parameters, seed, data, versions, command.
        network: on ``device``, in evaluation mode, with the weights of ``step``.
        step: updates done when the weights were these.
        weights: 'last', 'best', or the step asked for.
        history: losses and metrics up to now (empty for a file of weights).
        device: where the network is.
        config: the project's paths.
        files: where the run's files lie; None for a file of weights.
    """

    name: str
    params: dict[str, Any]
    record: dict[str, Any]
    network: Any
    step: int
    weights: str
    device: torch.device
    config: Config
    history: History = field(default_factory=History)
    files: Run | None = None

    @property
    def seed(self) -> int:
        """What the run's random numbers followed from."""
        return int(self.record.get("seed") or 0)

    @property
    def experiment(self) -> str:
        """The run's name without the time."""
        return TIMESTAMP.sub("", self.name)

    @property
    def model_name(self) -> str:
        """The network's name: that of its script."""
        return str(self.params["model_name"])

    @property
    def parameters(self) -> int:
        """Numbers that were trained."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that the network is given, in pixels."""
        size = self.params.get("model_input_image_size")
        if not size:
            own = self._data_set()
            size = own.model_input_image_size if own else IMAGE_SIZE
        return int(size[0]), int(size[1])

    @property
    def stimulus_size(self) -> tuple[int, int]:
        """(H, W) of the stimuli as they come, in pixels."""
        own = self._data_set()
        size = (self.params.get("stream_settings") or {}).get("window", STIMULUS_SIZE)
        if own:
            size = own.im_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)

    def _data_set(self) -> PathfinderSet | None:
        """The module of the set that it trained on; None for a stream."""
        name = str(self.params["dataset"])
        return load_set(name, self.config) if not name.endswith("_stream") else None

    @property
    def images_seen(self) -> int:
        """Training images up to ``step``, repeats counted."""
        return self.step * int(self.params["batch_size"])

    @property
    def metric(self) -> str:
        """Name of the metric in the history."""
        return str(self.params.get("score_metric") or "accuracy")


def load_run(
    which: str | Path,
    weights: str | int = "last",
    device: str = "auto",
    config: Config | None = None,
) -> TrainedRun:
    """Load a run, or a file of weights that :mod:`analysis.export` wrote.

    Args:
        which: the run's name, the path of one of its files or folders, 'latest' (the newest run of
            all), or a ``.safetensors`` file.
        weights: 'last' (the newest checkpoint; where none was copied along, the newest weights of
            a validation), 'best' (the best validation), or a step.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:1' …
        config: the project's paths; None reads the project's.

    Raises:
        ValueError, FileNotFoundError: there is no such run, or no such weights in it, or they do
            not fit the script's network; the message says what and where.
    """
    config = config or Config()
    place = device_of(device)
    if place.type == "cpu":
        keep_memory()
    if str(which).endswith(".safetensors"):
        return _from_safetensors(Path(which), place, config)
    files = _find(str(which), config)
    record = files.record()
    params = dict(record["parameters"])
    network = build_network(record)
    step = _load_weights(network, files, str(weights))
    history = _history(files, str(params.get("score_metric") or "accuracy"))
    return TrainedRun(
        files.name, params, record, network.to(place).eval(), step, str(weights), place, config,
        history, files,
    )  # fmt: skip


def build_network(record: dict[str, Any]) -> nn.Module:
    """The network that a run's script builds with the run's parameters.

    Raises:
        FileNotFoundError: the clone has no such script.
        ValueError: the script cannot build a network with these parameters.
    """
    module = script_of(record)
    try:
        return module.build_model(record["parameters"])
    except TypeError as error:
        raise ValueError(f"{module.__file__} cannot build the run's network: {error}") from error


def script_of(record: dict[str, Any]) -> Any:
    """The script that trained a run, as a module.

    Args:
        record: with ``parameters`` and, optionally, ``script`` (a file name in the clone); else
            the script is that of the parameter ``model_name``.

    Raises:
        FileNotFoundError: the clone has no such script.
    """
    names = [Path(str(record.get("script") or "")).stem, str(record["parameters"]["model_name"])]
    for name in names:
        if _is_script(CLONE / f"{name}.py"):
            return script_module(name)
    tried = ", ".join(f"{name}.py" for name in dict.fromkeys(names) if name)
    raise FileNotFoundError(
        f"{CLONE} has no script with build_model() for this run (looked for {tried}); put the "
        "script that trained it back"
    )


def script_module(name: str) -> Any:
    """A script of the clone, as a module.

    Args:
        name: its file's name, without .py.

    Raises:
        FileNotFoundError: the clone has no script of that name with ``build_model``.
    """
    script = CLONE / f"{name}.py"
    if not _is_script(script):
        known = sorted(path.stem for path in CLONE.glob("*.py") if _is_script(path))
        raise FileNotFoundError(f"{script}: no such script; there are: {', '.join(known)}")
    spec = importlib.util.spec_from_file_location(f"script_{name}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_script(path: Path) -> bool:
    return path.is_file() and "\ndef build_model(" in path.read_text(encoding="utf-8")


def _find(which: str, config: Config) -> Run:
    if which == "latest":
        known = runs(config)
        if not known:
            raise ValueError(f"no run in {config.log_dir}; train one with  python hgru.py")
        return known[-1]
    try:
        return find_run(config, which, which)
    except ValueError as error:
        raise ValueError(str(error).replace("--resume ", "RUN ")) from None


def _load_weights(network: nn.Module, files: Run, weights: str) -> int:
    """Set the network's weights; the step they are of."""
    folder = CheckpointFolder(files.checkpoints)
    saved = {int(file.stem[8:]): file for file in files.weights.glob("weights_*.npz")}
    if weights == "best":
        return _set(network, load(folder.best), folder.best)
    if weights == "last":
        newest = folder.newest()
        if newest is not None:
            return _set(network, load(newest), newest)
        if not saved:
            raise FileNotFoundError(
                f"{files.name} has no weights: no checkpoint in {files.checkpoints}, no "
                f"weights_*.npz in {files.weights}"
            )
        load_tf_variables(network, read_arrays(saved[max(saved)]))
        return max(saved)
    if not weights.isdigit():
        raise ValueError(f"weights must be last, best or the number of a step, found {weights!r}")
    step = int(weights)
    if step in folder.files():
        return _set(network, load(folder.path(step)), folder.path(step))
    if step not in saved:
        steps = sorted({*folder.files(), *saved})
        raise FileNotFoundError(
            f"{files.name} has no weights of step {step}; it has those of "
            f"{', '.join(map(str, steps)) or 'none'}"
        )
    load_tf_variables(network, read_arrays(saved[step]))
    return step


def _set(network: nn.Module, state: State, path: Path) -> int:
    set_weights(network, state["model"], path)
    return int(state["step"])


def _history(files: Run, metric: str) -> History:
    """What the results file holds; empty before the first validation."""
    if not files.results.exists():
        return History()
    arrays = read_arrays(files.results)
    names = {
        "train_loss": "train_loss", "train_metric": f"train_{metric}",
        "gradient_norm": "train_gradient_norm", "validation_step": "val_step",
        "validation_loss": "val_loss", "validation_metric": f"val_{metric}",
    }  # fmt: skip
    missing = [name for name in names.values() if name not in arrays]
    if missing:
        raise ValueError(f"{files.results} lacks {', '.join(missing)}: it is no run's results")
    return History(**{ours: arrays[theirs].tolist() for ours, theirs in names.items()})


def _from_safetensors(path: Path, device: torch.device, config: Config) -> TrainedRun:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} has no settings of this project in its metadata; write it with  python -m "
            "analysis.export"
        )
    record = json.loads(about["record"])
    network = build_network(record)
    step = _set(network, {"model": state, "step": int(about["step"])}, path)
    return TrainedRun(
        about["run"], dict(record["parameters"]), record, network.to(device).eval(), step,
        about["weights"], device, config,
    )  # fmt: skip
