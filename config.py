"""Every path that the project touches.

A user changes two: ``data_root`` (stimuli in) and ``project_directory`` (everything out). Set them,
later ones winning, by

1. the defaults: ``data/`` and ``runs/`` inside the clone;
2. a file ``config.yaml`` beside this one, with the keys ``data_root`` and ``project_directory``;
3. the environment: ``HGRU_DATA_ROOT`` and ``HGRU_PROJECT_DIRECTORY``.

``~`` and variables of the environment (``$SCRATCH/hgru``) are put in.

Directories are made when something is first written to them, not before.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from support.errors import MissingError, SystemRefusal, UserError, refusals, unknown

CLONE = Path(__file__).resolve().parent
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w*)\})")
VARIABLES = {"data_root": "HGRU_DATA_ROOT", "project_directory": "HGRU_PROJECT_DIRECTORY"}


class Config:
    """Paths of one installation: attributes (``config.results``) or items (``config["results"]``).

    ``settings`` is the YAML file to read; None reads ``config.yaml`` beside this module if it
    exists. UserError where it cannot be read, is not a mapping, has a key that is not known or is
    there twice, or names a variable that is not set, or where a ``config.yml`` lies there;
    SystemRefusal where a path leads nowhere (a loop of links, the home of nobody).
    """

    def __init__(self, settings: str | Path | None = None) -> None:
        misnamed = CLONE / "config.yml"
        if misnamed.exists():
            raise UserError(f"{misnamed} is not read: call it config.yaml, or move it away")
        chosen = _read_settings(Path(settings) if settings else CLONE / "config.yaml")
        chosen |= {key: os.environ[v] for key, v in VARIABLES.items() if os.environ.get(v)}
        self.data_root_is_default = "data_root" not in chosen  # the user has set no path
        self.project_directory_is_default = "project_directory" not in chosen
        self.data_root = _path("data_root", chosen.get("data_root", "data"))  # of the stimuli
        directory = _path("project_directory", chosen.get("project_directory", "runs"))
        self._put_everything_into(directory)

    @classmethod
    def of_project(cls, directory: Path) -> "Config":
        """The paths of the project in another directory."""
        config = cls()
        config._put_everything_into(directory)
        return config

    def _put_everything_into(self, directory: Path) -> None:
        self.project_directory = directory  # of everything that is written
        self.tf_records = directory / "tf_records"  # encoded data sets and their mean images
        self.checkpoints = directory / "checkpoints"
        self.summaries = directory / "summaries"  # TensorBoard events
        self.experiment_evaluations = directory / "experiment_evaluations"  # weights of runs
        self.condition_evaluations = directory / "condition_evaluations"
        self.visualizations = directory / "visualizations"
        self.plots = directory / "plots"
        self.log_dir = directory / "logs"
        self.results = directory / "results"

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(f"config has no {name!r}; it has: {', '.join(vars(self))}")
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in vars(self)

    def __repr__(self) -> str:
        return f"Config(data_root={self.data_root}, project_directory={self.project_directory})"


def _read_settings(file: Path) -> dict[str, str]:
    """The mapping in a YAML file, checked; empty where there is no file."""
    try:
        with refusals(file, "cannot be read"):
            text = file.read_text(encoding="utf-8")
            settings, tree = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except MissingError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {error}") from error
    if settings is None:  # comments alone
        return {}
    if not isinstance(settings, dict):
        raise UserError(f"{file} must hold lines 'key: value', of {', '.join(VARIABLES)}")
    keys = [str(key.value) for key, _ in tree.value]
    for key, value in settings.items():
        if keys.count(key) > 1:
            raise UserError(f"{file}: {key} is there {keys.count(key)} times; keep one")
        if key not in VARIABLES:
            raise unknown(f"{file}: key", key, VARIABLES)
        if not isinstance(value, str) or not value:
            raise UserError(f"{file}: {key} must be a path, found {value!r}")
    return dict(settings)


def _path(what: str, text: str) -> Path:
    """An absolute path; a relative one counts from the clone, ``~`` is the home folder, ``$NAME``
    and ``${NAME}`` are variables of the environment."""

    def value(found: re.Match) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise UserError(f"{text} cannot be used as {what}: the variable {name} is not set")
        return os.environ[name]

    path = VARIABLE.sub(value, text)
    try:
        with refusals(text, f"cannot be used as {what}"):
            return (CLONE / Path(path).expanduser()).resolve()
    except RuntimeError as error:  # so pathlib calls a loop of links, and a home that is unknown
        raise SystemRefusal(f"{text} cannot be used as {what}: {error}") from error
