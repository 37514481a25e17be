"""A run as it was trained: its record, its network with the weights of a step, its history."""

import importlib.util
import inspect
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from analysis.record import RunRecord
from config import CLONE, Config
from dataset_processing import generator_settings, load_set
from dataset_processing.sets import is_stream
from support.errors import MissingError, UserError, unknown
from support.memory import keep_memory
from training.distribution import device_of
from training.experiment import differences
from training.history import History
from training.provenance import ANSWERS, code_fingerprint, commit, options_of, other_code
from training.run import Run
from training.weights import NOT_NEEDED, find_weights, history_of

IMAGE_SIZE = (150, 150)  # that networks are given unless a run or its data set says otherwise


@dataclass
class TrainedRun(RunRecord):
    """A run, ready to be looked at; ``step``: updates done when the weights were these."""

    network: Any  # on the device, in evaluation mode, with the weights of that step
    weights: str  # 'last', 'best', or the step asked for
    device: torch.device
    config: Config
    images_seen: int = 0  # training images up to the step, repeats counted
    seconds: float | None = None  # that it had trained up to there; None: not counted
    history: History = field(default_factory=History)  # of the whole run; empty for a file
    files: Run | None = None  # None for a file of weights

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that the network is given, in pixels."""
        size = (self.record.get("network") or {}).get("input_size")
        size = size or self.params.get("model_input_image_size")
        if not size and not is_stream(self.dataset):  # an earlier version did not record it
            size = self._data_set().model_input_image_size
        size = size or IMAGE_SIZE
        return int(size[0]), int(size[1])

    @property
    def stimulus_size(self) -> tuple[int, int]:
        """(H, W) of the stimuli as they come, in pixels."""
        size = self.data("train").get("im_size")
        if not size:
            own = generator_settings(self.dataset, self.params) if is_stream(self.dataset) else None
            size = own.shape if own else self._data_set().im_size
        return int(size[0]), int(size[1])

    @property
    def code(self) -> dict[str, str]:
        """Fingerprints of the code here that decides the network's answers."""
        found = code_fingerprint(file_of(script_of(self.record)))
        return {part: found[part] for part in ANSWERS}

    def _data_set(self) -> Any:
        return load_set(self.dataset, self.config)


def load_run(
    which: str | Path,
    weights: str | int = "last",
    device: str = "auto",
    config: Config | None = None,
    code: Collection[str] = ANSWERS,
) -> TrainedRun:
    """Load a run, or weights by themselves that say how they were trained.

    Args:
        which: see :func:`training.weights.find_weights`; a path means exactly that file.
        weights: 'last', 'best' (the best validation), or a step; of a run.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:1' …
        config: the project's paths; None reads the project's.
        code: its parts (``training.provenance.PARTS``) of which it is warned, in one line, where
            they are not those that trained the run.

    Raises:
        UserError, MissingError: there is no such run, or no such weights in it, or they do not fit
            the script's network.
    """
    config = config or Config()
    place = device_of(device)
    if place.type == "cpu":
        keep_memory()
    found = find_weights(which, config, weights)
    record, files = found.record, found.run
    if record is None or found.step is None:
        raise UserError(
            f"{found.path} does not say how its weights were trained, so their network cannot be "
            "built; a script can begin with them: --set initial_weights=…"
        )
    network = build_network(record)
    found.into(network)
    history = history_of(files, record) if files else History()
    if not history.validation_step and found.history:
        history = found.history
    run = TrainedRun(
        str(record.get("run") or (files.name if files else found.path.stem)),
        dict(record["parameters"]),
        record,
        found.step,
        network.to(place).eval(),
        str(weights) if files is None or files.file is None else found.path.stem,
        place,
        config,
        found.images or 0,
        found.seconds,
        history,
        files,
    )
    own = CLONE / "weights"  # which the clone's tests hold to their numbers
    if not found.path.resolve().is_relative_to(own) and (said := _other_code(run, code)):
        warnings.warn(f"{run.name}: {said}", stacklevel=2)
    return run


def _other_code(run: TrainedRun, parts: Collection[str]) -> str:
    """What of the code here is not that which trained a run, as far as it recorded it, and which
    script stands in for its own; "" where all is the same."""
    script = file_of(script_of(run.record))
    session = (run.sessions or run.record["sessions"])[-1]
    there, found = session.get("code") or {}, code_fingerprint(script)
    here = {part: value for part, value in found.items() if part in parts}
    other = other_code(there, {"fingerprint": here, "commit": commit()})
    said = [f"the code here is not the one that trained it: {other}"] if other else []
    own = (there.get("fingerprint") or {}).get("script")
    if "script" in parts and run.script != script.name and own != found["script"]:
        said.append(f"{script.name} stands in for {run.script}, which is not in {CLONE}")
    return "; ".join(said)


def load_runs(options: Any) -> list[TrainedRun]:
    """The runs that a command names, with the weights and on the device that it asks for."""
    config = Config()
    return [load_run(which, options.weights, options.device, config) for which in options.runs]


def build_network(record: dict[str, Any]) -> nn.Module:
    """The network of a run, with the options that it was built with, whatever its script says now;
    UserError where the script cannot build it any more, MissingError where it is gone."""
    module, parameters = script_of(record), record["parameters"]
    recorded = record.get("network") or {}
    options = {**(parameters.get("aux") or {}), **(recorded.get("options") or {})}
    try:
        network: nn.Module = module.build_model(parameters)
        if _other(recorded, network):
            network = module.build_model({**parameters, "aux": options})
    except TypeError as error:
        raise UserError(f"{module.__file__} cannot build the run's network: {error}") from error
    if other := _other(recorded, network):
        raise UserError(
            f"{module.__file__} builds another network than the run's: {'; '.join(other)}. Set it "
            "back"
        )
    return network


def _other(recorded: dict[str, Any], network: nn.Module) -> list[str]:
    """A line for each thing that a record, if there is one, has otherwise than a network."""
    there, here = (
        {"class": one.get("class"), **(one.get("options") or {})}
        for one in (recorded, options_of(network))
    )
    keys = there.keys() - NOT_NEEDED if recorded else ()
    return differences(*({key: side.get(key) for key in keys} for side in (there, here)))


def script_of(record: dict[str, Any]) -> Any:
    """The script that trained a run, as a module: that of its name, or of its ``model_name``.

    MissingError where the clone has no such script.
    """
    names = [Path(str(record.get("script") or "")).stem, str(record["parameters"]["model_name"])]
    for name in filter(_is_script, names):
        return script_module(name)
    tried = ", ".join(f"{name}.py" for name in dict.fromkeys(names) if name)
    raise MissingError(
        f"{CLONE} has no script with build_model() for this run (looked for {tried}); put the "
        "script that trained it back"
    )


def script_module(name: str) -> Any:
    """The script ``<name>.py`` of the clone, as a module; UserError where there is none of that
    name with ``build_model``."""
    if not _is_script(name):
        known = filter(_is_script, (path.stem for path in CLONE.glob("[!.]*.py")))
        raise unknown("script", name, sorted(known))
    kind: Any = type(__spec__.loader)  # what this module was loaded by
    loader = kind(f"script_{name}", str(CLONE / f"{name}.py"))  # this file, whatever has its name
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(cast(Any, spec))
    loader.exec_module(module)
    return module


def _is_script(name: str) -> bool:
    path = CLONE / f"{name}.py"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return "experiment_params" in text and "build_model" in text  # perhaps another script's


def file_of(script: Any) -> Path:
    """The file that builds a script's network, whose hash a run records."""
    return Path(inspect.getfile(script.build_model))
