"""What a run recorded of itself, and the small copy of it that stays when the run is gone.

A kept record is a folder of two files, as the run wrote them (``training.run``): ``settings.yaml``
without the machine's name and folders, and ``log.jsonl`` with every validation, every stage of a
curriculum, the end, the means of training between validations, and the accuracies that
``analysis.evaluate`` has kept of the last weights (``"event": "evaluation"``).
``python -m analysis.results RUN`` writes it.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.image_sets import titles
from config import Config
from dataset_processing.sets import is_stream
from support.errors import UserError
from support.files import write_text
from training.checkpoints import CheckpointFolder
from training.experiment import SETTINGS
from training.run import TIMESTAMP, Run

DIGITS = 6  # of a kept log's numbers
# What a kept log has of training: the last line's own, and means.
OWN = ("event", "step", "time", "images", "seconds")
MEANS = ("loss", "gradient_norm", "images_per_second")
# Settings that may change when a run goes on: of these epochs alone has a part in what is learned,
# and is told by the training images.
CHANGEABLE = {key for key, setting in SETTINGS.items() if setting.resume}
NUMBERS = ("fold", "images", "seed", "accuracy", "low", "high", "loss", "auc")
# What goes with a record to other machines; the machine's name, its folders and the command lines
# of the sessions stay behind.
ENVIRONMENT = ("python", "torch", "numpy", "cuda", "cudnn", "device", "processes", "threads")
CODE = ("commit", "dirty", "difference", "fingerprint")

Event = dict[str, Any]


@dataclass
class RunRecord:
    """A run, by what it recorded."""

    name: str
    params: dict[str, Any]  # its parameters, as experiment_params gives, with what was set
    record: dict[str, Any]  # what the run recorded of itself (see training.run)
    step: int  # updates that count: those behind the weights at hand, or all

    @classmethod
    def of(cls, run: Run) -> "RunRecord":
        """The record of a run to its end."""
        record = run.record()
        last = max((event["step"] for event in run.events()), default=0)
        return cls(str(record.get("run") or run.name), record["parameters"], record, last)

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
        return str(self.params["model_name"])

    @property
    def script(self) -> str:
        return Path(self.record.get("script") or f"{self.model_name}.py").name

    @property
    def metric(self) -> str:
        return str(self.params.get("score_metric") or "accuracy")

    @property
    def dataset(self) -> str:
        return str(self.params["dataset"])

    @property
    def validated_on(self) -> str:
        return str(self.params.get("val_dataset") or self.dataset)

    @property
    def trained_on(self) -> str:
        """The set that it trained on, its images and their fingerprint."""
        found = self.data("train")
        if "images" not in found:
            return self.dataset
        kind = "fresh images an epoch" if is_stream(self.dataset) else "images"
        return f"{self.dataset}, {found['images']:,} {kind}, fingerprint {found.get('fingerprint')}"

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The start and the resumptions whose updates count."""
        known = self.record.get("sessions") or [{"step": 0}]
        ends = [*(int(session["step"]) for session in known[1:]), self.step]
        return [
            session
            for session, end in zip(known, ends, strict=True)
            if min(end, self.step) > int(session["step"]) or len(known) == 1
        ]

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device and command line of the first session; empty where not known."""
        return ((self.record.get("sessions") or [{}])[0]).get("environment") or {}

    @property
    def devices(self) -> str | None:
        """Names of the devices that trained it; None where they are not known."""
        told = []
        for where in (session.get("environment") or {} for session in self.sessions):
            several = f"{where['processes']} × " if where.get("processes", 1) > 1 else ""
            told.append(several + where["device"] if where.get("device") else "")
        return _each(told)

    @property
    def commits(self) -> str | None:
        """Commits of the code that trained it; None where git did not say."""
        told = []
        for code in (session.get("code") or {} for session in self.sessions):
            dirty = " (with uncommitted changes)" if code.get("dirty") else ""
            told.append(code["commit"][:12] + dirty if code.get("commit") else "")
        return _each(told)

    @property
    def fingerprints(self) -> str | None:
        """Fingerprints of the code that trained it, by part; None of an earlier version's run."""
        return _each("; ".join(self._code(session, 16)) for session in self.sessions)

    @property
    def version(self) -> str:
        """Its commits; where git did not say, the first digits of the code's fingerprints."""
        return self.commits or ", ".join(self._code(self.sessions[0], 6)) or "not known"

    def _code(self, session: dict[str, Any], digits: int) -> list[str]:
        parts = (session.get("code") or {}).get("fingerprint") or {}
        return [f"{part} {found[:digits]}" for part, found in parts.items()]

    @property
    def overrides(self) -> dict[str, str]:
        """Its ``key=value`` overrides by key, in order; of several of one key the last counts."""
        last: dict[str, str] = {}
        for text in self.record.get("overrides") or []:
            key = text.partition("=")[0].strip()
            last.pop(key, None)
            last[key] = text
        return last

    @property
    def command(self) -> str:
        """The command that trains it anew: script, overrides and seed."""
        processes = self.environment.get("processes") or 1
        words = ["torchrun", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
        words.append(self.script)
        words += [word for text in self.overrides.values() for word in ("--set", text)]
        words += ["--seed", str(self.seed)]
        return shlex.join([*words, *(["--deterministic"] * bool(self.record.get("deterministic")))])

    @property
    def initial_weights(self) -> list[dict[str, Any]]:
        """What is recorded of the trained weights that it began with, then of those that these had
        begun with, and so on; empty where they were random."""
        found, initial = [], self.record.get("initial_weights")
        while initial:
            found.append(initial)
            initial = initial.get("initial_weights")
        return found

    @property
    def began_with(self) -> str | None:
        """The trained weights that it began with, and what they had seen; None where random."""
        return "; these began with ".join(map(_told, self.initial_weights)) or None

    def data(self, fold: str) -> dict[str, Any]:
        """What is recorded of the set of a fold, 'train' or 'validation'; empty where nothing."""
        return (self.record.get("data") or {}).get(fold) or {}

    def portable(self) -> dict[str, Any]:
        """The record as it goes to other machines: without host and paths."""
        sessions = [
            session
            | {"code": _only(CODE, session.get("code"))}
            | {"environment": _only(ENVIRONMENT, session.get("environment"))}
            for session in self.record.get("sessions") or []
        ]
        data = {
            fold: {key: value for key, value in found.items() if key != "description"}
            for fold, found in (self.record.get("data") or {}).items()
        }
        kept = {key: value for key, value in self.record.items() if key not in ("run", "sessions")}
        return kept | {"sessions": sessions, "data": data}


def ended(run: Run) -> bool:
    """Whether a run trained to its end: what the last line of its log says."""
    ends = run.events("end")
    return bool(ends) and bool(ends[-1].get("complete"))


def validations(run: Run) -> list[dict[str, Any]]:
    """The validations of a run's log; UserError where there is none that counts its images, or the
    metric is not accuracy."""
    metric = RunRecord.of(run).metric
    if metric != "accuracy":
        raise UserError(f"{run.settings}: score_metric must be accuracy, found {metric!r}")
    found = [event for event in run.events("validation") if is_counted(event)]
    if not found:
        raise UserError(f"{run.json_log} has no validation that counts its images")
    return found


def is_counted(validation: Event) -> bool:
    """Whether a log's validation says after how many training images it was; of earlier versions,
    ``images`` and ``seconds`` are those of the validation itself."""
    return "validation_images" in validation


def evaluations_kept(config: Config, name: str) -> list[dict[str, Any]]:
    """What ``analysis.evaluate`` has kept of a run of that name, at all steps, the newest last;
    ``dataset`` is the set's title."""
    found = (config.condition_evaluations / name).glob("*.json")
    files = sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    sets = titles(one["dataset"] for one in kept)
    return [one | {"dataset": sets[one["dataset"]]} for one in kept]


def keep_record(which: str | Path, place: Path, config: Config) -> Path:
    """Write a run's record to a folder of its name; the folder. UserError where there is no such
    run, nothing to keep of it (see :func:`validations`), or what is kept reaches further.

    Args:
        which: a run by name or path (``Run.find``).
        place: the folder of kept records.
        config: the project's paths: its evaluations are kept along.
    """
    run = Run.find(which, config)
    validations(run)
    record, events = RunRecord.of(run), run.events()
    lines = list(_shortened(events, (*MEANS, record.metric)))
    weights = CheckpointFolder(run.checkpoints).files() or run.saved_weights()
    last = max(weights, default=record.step)  # a run that was stopped had logged more
    for one in evaluations_kept(config, record.name):
        if one["step"] == last:
            numbers = {key: one[key] for key in ("step", "set", "lesion", "timesteps", *NUMBERS)}
            lines.append({"event": "evaluation", "dataset": one["dataset"], **numbers})
    kept = Run(config, record.name, place / record.name)
    if kept.exists() and (step := RunRecord.of(kept).step) > record.step:
        raise UserError(f"{kept.logs} reaches step {step}, {run.logs} only {record.step}")
    kept.write(record.portable())
    text = [json.dumps({key: _short(value) for key, value in line.items()}) for line in lines]
    write_text(kept.json_log, "".join(f"{line}\n" for line in dict.fromkeys(text)))
    return kept.logs


def kept_records(place: Path, config: Config) -> list[Run]:
    """The records that are kept in a folder; UserError where there is none."""
    found = [Run(config, file.parent.name, file.parent) for file in place.glob("*/settings.yaml")]
    if not found:
        raise UserError(f"{place} holds no run's record: name the runs to keep there")
    return found


def stages_text(stages: Sequence[tuple[int, int]]) -> str:
    """``6; 9 from 64,000; 9 alone from 96,000`` of (training images, length)."""
    told, before = [], None
    for images, length in stages:
        alone = " alone" if length == before else ""  # after some that had shorter ones among them
        told.append(f"{length}{alone}" + (f" from {images:,}" if images else ""))
        before = length
    return "; ".join(told)


def _shortened(events: Iterable[Event], measured: Sequence[str]) -> Iterator[Event]:
    """The events, those of training between two others as one: the last, with means of all."""
    for is_training, group in groupby(events, lambda event: event["event"] == "train"):
        part = list(group)
        if is_training:
            means = {k: fmean(e[k] for e in part) for k in measured if all(k in e for e in part)}
            yield _only(OWN, part[-1]) | means
        else:
            yield from part


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _each(told: Iterable[str]) -> str | None:
    """What is told of the sessions, each thing once."""
    return ", ".join(dict.fromkeys(filter(None, told))) or None


def _only(keys: tuple[str, ...], values: dict[str, Any] | None) -> dict[str, Any]:
    return {key: values[key] for key in keys if values and key in values}


def _told(initial: dict[str, Any]) -> str:
    """What a record says of initial weights, in words."""
    if initial.get("said"):
        return str(initial["said"])
    text = f"{initial['source']}, fingerprint {initial['fingerprint']}"
    if initial.get("images") is not None:
        text += f", after {initial['images']:,} images of {initial.get('data')}"
    return text
