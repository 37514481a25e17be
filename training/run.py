"""A run: where its files lie, what it records of itself, how it is found again.

A run is named ``<exp_name>_<timestamp>``. Its files lie in ``config.py``'s folders, by kind:

==============================================  ==================================================
``logs/<run>/``                                 ``log.txt``, ``log.jsonl``, ``settings.yaml``
``summaries/<run>/``                            TensorBoard events
``checkpoints/<run>/``                          ``step_00001000.pt`` …, ``best.pt``
``experiment_evaluations/<run>/``               weights at each validation, ``weights_00001000.npz``
``results/<run>.npz``                           losses, accuracies, steps, images, seconds, settings
``<run>/``                                      links to all of these
==============================================  ==================================================

``settings.yaml`` is the run's record, written when the run begins and each time that it goes on;
every checkpoint has a copy of it. docs/log.md says what it holds.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml

from config import Config
from support.errors import MissingError, SystemRefusal, UserError, about, did_you_mean, refusals
from support.files import WholeFile, held_elsewhere, read_arrays, write_text
from support.kinds import Kind, plain, whole
from training.checkpoints import by_step

FORMAT = 2
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
PERHAPS = Kind("a mapping or null", lambda value: value is None or isinstance(value, dict))
RECORD = {  # what the keys of settings.yaml must hold to be read; those of all versions
    "parameters": MAPPING,
    "overrides": Kind(
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    ),
    "seed": whole(0),
    "network": PERHAPS,
    "data": PERHAPS,
    "environment": PERHAPS,
    "resumed": Kind("a list", lambda value: isinstance(value, list)),
    "sessions": Kind(
        "a list with the start of the run", lambda value: isinstance(value, list) and value != []
    ),
}
OLDER_SESSION = {"step": whole(0), "environment": PERHAPS}
SESSION = {**OLDER_SESSION, "code": MAPPING}
TIMESTAMP = re.compile(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?$")
SAVED = re.compile(r"weights_(\d+)\.npz")  # weights of a validation, by step


class Run:
    """A run's files and its record; in ``folder`` where they were copied out of a project together,
    else in the project's folders."""

    def __init__(self, config: Config, name: str, folder: Path | None = None) -> None:
        self.name = name
        self.folder = folder or config.project_directory / name
        self.logs = folder or config.log_dir / name
        self.log = self.logs / "log.txt"
        self.json_log = self.logs / "log.jsonl"
        self.settings = self.logs / "settings.yaml"
        self.summaries = folder / "summaries" if folder else config.summaries / name
        self.checkpoints = folder / "checkpoints" if folder else config.checkpoints / name
        self.weights = folder / "weights" if folder else config.experiment_evaluations / name
        self.results = folder / "results.npz" if folder else config.results / f"{name}.npz"
        self.about: dict[str, Any] = {}  # the record, once it was written or read here
        self.file: Path | None = None  # of weights, where it was asked for by its path

    @classmethod
    def find(cls, which: str | Path, config: Config) -> "Run":
        """The run that a name or a path means: the name of a run of this project; 'latest', the one
        that was started or resumed last; or the path of a file or folder of a run of any project,
        which means exactly that: ``file`` of the answer is then the file of weights that was named.

        UserError or MissingError where there is no such run or file, or it belongs to no run.
        """
        if which == "latest":
            known = runs(config)
            if not known:
                raise MissingError(f"no run in {config.log_dir}; train one with  python hgru.py")
            return known[-1]
        text = str(which)
        if os.sep not in text and text not in (".", "..") and cls(config, text).exists():
            return cls(config, text)
        path = Path(which)
        if not path.exists():
            raise MissingError(_nothing_there(path, config))
        # Links may lead out of a project, or into it.
        named, place = path.absolute(), path.resolve()
        for folder in (named, *named.parents, place, *place.parents):
            run = _run_of(folder, config)
            if run is not None:
                of_weights = place.suffix in (".pt", ".npz") and place != run.results.resolve()
                run.file = named if of_weights else None
                return run
        raise UserError(
            f"{which} belongs to no run: no settings.yaml lies with it; copy it with its run's logs"
        )

    def exists(self) -> bool:
        """Whether there is such a run."""
        return self.settings.is_file()

    def places(self) -> dict[str, Path]:
        """What there is to look at, by name."""
        return {
            "log": self.log,
            "log, one JSON object a line": self.json_log,
            "settings": self.settings,
            "TensorBoard": self.summaries,
            "checkpoints": self.checkpoints,
            "weights at each validation": self.weights,
            "results": self.results,
        }

    def saved_weights(self) -> dict[int, Path]:
        """The files of weights at validations, by step."""
        return by_step(self.weights, SAVED)

    def begin(self) -> None:
        """Make the run's folder and link everything together, where that is not done already."""
        with refusals(self.folder, "cannot be made"):
            self.folder.mkdir(parents=True, exist_ok=True)
        links = Run(Config.of_project(self.folder), self.name, self.folder).places()
        if self.logs == self.folder:
            return  # a copy, which holds the files themselves
        for place, link in zip(self.places().values(), links.values(), strict=True):
            target = os.path.relpath(place, self.folder)
            # A file system without links leaves a folder without them: the files are elsewhere.
            with contextlib.suppress(OSError):
                if link.is_symlink() and os.readlink(link) != target:  # the run was renamed
                    link.unlink()
                link.symlink_to(target)

    def lock(self) -> None:
        """Keep the run for this process until it ends; SystemRefusal where another trains it."""
        with refusals(self.logs / "lock", "cannot be written"):
            self._lock: IO[str] | None = open(self.logs / "lock", "w")
        # A lock of the process, not of the open file: the loader's workers do not inherit it.
        if held_elsewhere(fcntl.lockf, self._lock):
            raise SystemRefusal(
                f"{self.name} is being trained by another process; wait for it, or end it first"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def record(self) -> dict[str, Any]:
        """What ``settings.yaml`` holds, in today's form; UserError where it is none, damaged or
        edited into what no run writes."""
        try:
            record = yaml.safe_load(self.settings.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingError(f"{self.settings} is missing: {self.name} is no run") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{self.settings} cannot be read as YAML: {error}") from None
        if not isinstance(record, dict) or "parameters" not in record:
            raise UserError(f"{self.settings} has no 'parameters': it is not a run's settings")
        with about(f"{self.settings}: "):
            if record.get("format", 1) in (1, FORMAT):
                _check(record)
            self.about = todays(record)
        return self.about

    def began(self) -> float:
        """When it was started or resumed last, in seconds since 1970: as its record says; of an
        earlier version's, when it logged last. Else when its record was written."""
        with contextlib.suppress(UserError, LookupError, TypeError, ValueError):
            sessions = self.record()["sessions"]
            said = sessions[-1].get("time") or self.events()[-1]["time"]
            return datetime.fromisoformat(said).timestamp()
        return self.settings.stat().st_mtime

    def write(self, record: dict[str, Any]) -> None:
        """Write ``settings.yaml``, whole or not at all."""
        self.about = {"format": FORMAT, **plain(record), "run": self.name}
        text = yaml.safe_dump(self.about, sort_keys=False, allow_unicode=True, width=100)
        write_text(self.settings, text)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The lines of ``log.jsonl``, of one kind if named; one that was cut off is left out."""
        if not self.json_log.exists():
            return []
        found = []
        for line in self.json_log.read_bytes().splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                event = json.loads(line) if line.endswith(b"\n") else None
                if isinstance(event, dict) and isinstance(event.get("step"), int):
                    found.append(event)
        return [event for event in found if kind in (None, event.get("event"))]

    def reached(self) -> int:
        """The last step of which something is left: log, results or weights."""
        steps = [0, *(event["step"] for event in self.events()), *self.saved_weights()]
        if self.results.exists():
            steps.append(len(read_arrays(self.results).get("train_step", ())))
        return max(steps)

    def clear_partial_files(self) -> None:
        """Delete what a killed process left half-written."""
        for folder in (self.logs, self.checkpoints, self.weights):
            for file in folder.glob("*.partial"):
                file.unlink(missing_ok=True)
        WholeFile(self.results).partial.unlink(missing_ok=True)


def new_run(config: Config, exp_name: str) -> Run:
    """A run of that experiment, named by the time of day, that does not exist yet."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    with refusals(config.log_dir, "cannot be made"):
        config.log_dir.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        run = Run(config, f"{exp_name}_{stamp}" + (f"_{number}" if number > 1 else ""))
        with refusals(run.logs, "cannot be made"), contextlib.suppress(FileExistsError):
            run.logs.mkdir()
            return run
        number += 1


def runs(config: Config, exp_name: str | None = None, script: str | None = None) -> list[Run]:
    """All runs, of one experiment or script's file if named; last the one begun or resumed last."""
    names = [settings.parent.name for settings in config.log_dir.glob("*/settings.yaml")]
    found = [Run(config, name) for name in names if exp_name in (None, TIMESTAMP.sub("", name))]
    found.sort(key=lambda run: (run.began(), run.name))
    return [run for run in found if script is None or run.record().get("script") == script]


def _check(record: dict[str, Any]) -> None:
    """UserError where a key of a record, of this version or before, is not as a run writes it."""
    needed = {"parameters"} | ({"sessions"} if "format" in record else set())
    for key, kind in RECORD.items():
        if key in record or key in needed:
            kind.of(key, record.get(key))
    for key, kinds in (("sessions", SESSION), ("resumed", OLDER_SESSION)):
        for number, session in enumerate(record.get(key, [])):
            MAPPING.of(f"{key}[{number}]", session)
            for part, kind in kinds.items():
                kind.of(f"{key}[{number}].{part}", session.get(part))


def todays(record: dict[str, Any]) -> dict[str, Any]:
    """A record in today's form; UserError for one of a later version.

    An earlier version recorded neither the network's options, input size and preprocessing nor
    images, seconds and the code's fingerprint; they stay out.
    """
    form = record.get("format", 1)
    if form == FORMAT:
        return record
    if not isinstance(form, int) or form > FORMAT:
        raise UserError(
            f"the record of {record.get('run')} has the format {form!r}, this version reads "
            f"{FORMAT} and those before: use the version that wrote it"
        )
    new = {k: v for k, v in record.items() if k not in ("environment", "resumed", "began_with")}
    first = {"step": 0, "environment": record.get("environment") or {}}
    new["sessions"] = []
    for session in (first, *(record.get("resumed") or [])):
        where = dict(session.get("environment") or {})
        code = {k: where.pop(f"git_{k}", None) for k in ("commit", "dirty", "changed_files")}
        new["sessions"].append({"step": int(session["step"]), "code": code, "environment": where})
    if record.get("initial_weights"):
        new["initial_weights"] = {
            "source": record["parameters"].get("initial_weights"),
            "fingerprint": record["initial_weights"],
            "said": record.get("began_with"),
        }
    return new


def _run_of(folder: Path, config: Config) -> Run | None:
    """The run one of whose files or folders this is; None if of none."""
    kinds = (config.log_dir, config.summaries, config.checkpoints, config.experiment_evaluations)
    name = folder.name.removesuffix(".npz")
    known = [Run(Config.of_project(folder.parent), name)]  # its folder of links
    if folder.parent.name in {place.name for place in (*kinds, config.results)}:
        known.insert(0, Run(Config.of_project(folder.parent.parent), name))
    if any((folder / own).exists() for own in ("checkpoints", "log.jsonl")):
        known.append(Run(config, name, folder))  # a copy of that folder, or the record alone
    return next((run for run in known if run.exists()), None)


def _nothing_there(path: Path, config: Config) -> str:
    """What to say of a name or path that means nothing: what comes near."""
    if path.parent != Path("."):
        there = path.parent.exists()
        names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        head = f"{path}: no such file or folder" + ("" if there else f" ({path.parent} neither)")
    else:
        names = [run.name for run in runs(config)]
        head = f"{path}: {config.log_dir} holds no run of that name, and no such file is here"
    there_are = f"; there are: {', '.join(names[-5:])}" if names else ""
    return head + (did_you_mean(path.name, names) or there_are)
