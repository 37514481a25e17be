"""Where a run's files lie, and how they are found again.

A run is named ``<exp_name>_<timestamp>``. Its files lie in ``config.py``'s folders, by kind:

==============================================  ==================================================
``logs/<run>/``                                 ``log.txt``, ``log.jsonl``, ``settings.yaml``
``summaries/<run>/``                            TensorBoard events
``checkpoints/<run>/``                          ``step_00001000.pt`` …, ``best.pt``
``experiment_evaluations/<run>/``               weights at each validation, ``weights_00001000.npz``
``results/<run>.npz``                           losses, accuracies, steps, settings
``<run>/``                                      links to all of these
==============================================  ==================================================
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from pathlib import Path
from typing import IO, Any

import yaml

from config import Config
from support.files import WholeFile
from training.checkpoints import CheckpointFolder, load
from training.experiment import plain

TIMESTAMP = re.compile(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?$")
PARTIAL = ".partial"


class Run:
    """The paths of one run.

    Args:
        config: the project's paths.
        name: the run's name.
    """

    def __init__(self, config: Config, name: str) -> None:
        self.name = name
        self.folder = config.project_directory / name
        self.logs = config.log_dir / name
        self.log = self.logs / "log.txt"
        self.json_log = self.logs / "log.jsonl"
        self.settings = self.logs / "settings.yaml"
        self.summaries = config.summaries / name
        self.checkpoints = config.checkpoints / name
        self.weights = config.experiment_evaluations / name
        self.results = config.results / f"{name}.npz"

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

    def begin(self, record: dict[str, Any]) -> None:
        """Make the run's folders, write ``settings.yaml`` and link everything together."""
        self.logs.mkdir(parents=True, exist_ok=True)
        write_yaml(self.settings, record)
        self.folder.mkdir(parents=True, exist_ok=True)
        links = {place.name: place for place in (self.log, self.json_log, self.settings)}
        links |= {
            "summaries": self.summaries,
            "checkpoints": self.checkpoints,
            "weights": self.weights,
            "results.npz": self.results,
        }
        for name, place in links.items():
            # A file system without links leaves a folder without them: the files are elsewhere.
            with contextlib.suppress(OSError):
                (self.folder / name).symlink_to(os.path.relpath(place, self.folder))

    def lock(self) -> None:
        """Keep the run for this process until it ends.

        Raises:
            RuntimeError: another process trains it.
        """
        self._lock: IO[str] | None = open(self.logs / "lock", "w")
        try:
            # A lock of the process, not of the open file: the loader's workers do not inherit it.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a file system without locks
            raise RuntimeError(
                f"{self.name} is being trained by another process; wait for it, or end it first"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def record(self) -> dict[str, Any]:
        """What ``settings.yaml`` holds.

        Raises:
            ValueError: the file is missing or damaged.
        """
        try:
            record = yaml.safe_load(self.settings.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{self.settings} is missing: {self.name} is no run") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.settings} cannot be read as YAML: {error}") from None
        if not isinstance(record, dict) or "parameters" not in record:
            raise ValueError(f"{self.settings} has no 'parameters': it is not a run's settings")
        return record

    def clear_partial_files(self) -> None:
        """Delete what a killed process left half-written."""
        for folder in (self.logs, self.checkpoints, self.weights, self.results.parent):
            for file in folder.glob(f"*{PARTIAL}"):
                if folder != self.results.parent or file.name.startswith(self.name):
                    file.unlink(missing_ok=True)


def new_run(config: Config, exp_name: str) -> Run:
    """A run of that experiment, named by the time of day, that does not exist yet."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        name = f"{exp_name}_{stamp}" + (f"_{number}" if number > 1 else "")
        run = Run(config, name)
        run.logs.parent.mkdir(parents=True, exist_ok=True)
        try:
            run.logs.mkdir()
        except FileExistsError:
            number += 1
        else:
            return run


def runs(config: Config, exp_name: str | None = None) -> list[Run]:
    """All runs, of one experiment if named, oldest first."""
    found = []
    for settings in config.log_dir.glob("*/settings.yaml"):
        name = settings.parent.name
        if exp_name is None or TIMESTAMP.sub("", name) == exp_name:
            found.append((settings.stat().st_mtime_ns, name))
    return [Run(config, name) for _, name in sorted(found)]


def find_run(config: Config, which: str, exp_name: str) -> Run:
    """The run that ``--resume`` means.

    Args:
        which: a run's name, the path of one of its folders or files, or ``'latest'``: the newest
            run of the experiment.
        exp_name: the experiment's name.

    Raises:
        ValueError: there is no such run.
    """
    if which == "latest":
        of_experiment = runs(config, exp_name)
        if not of_experiment:
            raise ValueError(
                f"--resume latest: {config.log_dir} holds no run of {exp_name!r} "
                "(--set exp_name=... names another experiment)"
            )
        return of_experiment[-1]
    path = Path(which)
    if path.suffix == ".pt" and path.is_file():
        _check_newest(path)
    for part in (path.name, *(parent.name for parent in path.resolve().parents)):
        name = part.removesuffix(".npz")
        if name and (config.log_dir / name / "settings.yaml").exists():
            return Run(config, name)
    known = [run.name for run in runs(config)][-5:]
    newest = f"; the newest are: {', '.join(known)}" if known else ""
    raise ValueError(f"--resume {which}: {config.log_dir} holds no run of that name{newest}")


def _check_newest(checkpoint: Path) -> None:
    """Raise ValueError unless this is an intact checkpoint of ours and its run's newest."""
    load(checkpoint)
    newest = list(CheckpointFolder(checkpoint.parent).files().values())[-1:]
    if [checkpoint.name] != [file.name for file in newest]:
        raise ValueError(
            f"--resume {checkpoint}: a run goes on from its newest checkpoint, and this is not it. "
            "To go back to this one, move the newer step_*.pt away"
        )


def write_yaml(path: Path, value: Any) -> None:
    """Write plain values as YAML, whole or not at all."""
    text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, width=100)
    with WholeFile(path) as file:
        file.append(text.encode())
