"""Every path that the project touches.

A user changes two: ``data_root`` (stimuli in) and ``project_directory`` (everything out). Set them,
later ones winning, by

1. the defaults: ``data/`` and ``runs/`` inside the clone;
2. a file ``config.yaml`` beside this one, with the keys ``data_root`` and ``project_directory``;
3. the environment: ``HGRU_DATA_ROOT`` and ``HGRU_PROJECT_DIRECTORY``.

Directories are made when something is first written to them, not before.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from support.errors import MissingError, SystemRefusal, UserError, refusals, unknown

CLONE = Path(__file__).resolve().parent
VARIABLES = {"data_root": "HGRU_DATA_ROOT", "project_directory": "HGRU_PROJECT_DIRECTORY"}


class Config:
    """Paths of one installation: attributes (``config.results``) or items (``config["results"]``).

    Attributes:
        data_root: folder of the stimuli (``curvy_2snakes_300`` lies in it).
        project_directory: folder of everything that is written; the folders below lie in it.
        tf_records: encoded data sets and their mean images.
        checkpoints, summaries, log_dir, results: a run's checkpoints, TensorBoard events, logs and
            results file.
        experiment_evaluations, condition_evaluations: a run's weights and evaluations.
        visualizations, plots: figures.
        dataset_info: the package of the data-set modules.
        data_root_is_default, project_directory_is_default: True where the user has set no path.

    Args:
        settings: the YAML file to read; None reads ``config.yaml`` beside this module if it exists.

    Raises:
        UserError: the YAML file cannot be read, is not a mapping, or has a key that is not known.
        SystemRefusal: a path leads nowhere (a loop of links, the home of nobody).
    """

    def __init__(self, settings: str | Path | None = None) -> None:
        chosen = _read_settings(Path(settings) if settings else CLONE / "config.yaml")
        for key, variable in VARIABLES.items():
            if os.environ.get(variable):
                chosen[key] = os.environ[variable]
        self.data_root_is_default = "data_root" not in chosen
        self.project_directory_is_default = "project_directory" not in chosen
        self.data_root = _path("data_root", chosen.get("data_root", "data"))
        self._put_everything_into(
            _path("project_directory", chosen.get("project_directory", "runs"))
        )
        self.dataset_info = "dataset_processing"

    @classmethod
    def of_project(cls, directory: Path) -> "Config":
        """The paths of the project in another directory."""
        config = cls()
        config._put_everything_into(directory)
        return config

    def _put_everything_into(self, directory: Path) -> None:
        self.project_directory = directory
        self.tf_records = self.project_directory / "tf_records"
        self.checkpoints = self.project_directory / "checkpoints"
        self.summaries = self.project_directory / "summaries"
        self.experiment_evaluations = self.project_directory / "experiment_evaluations"
        self.condition_evaluations = self.project_directory / "condition_evaluations"
        self.visualizations = self.project_directory / "visualizations"
        self.plots = self.project_directory / "plots"
        self.log_dir = self.project_directory / "logs"
        self.results = self.project_directory / "results"

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
            settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except MissingError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file} must hold lines 'key: value', of {', '.join(VARIABLES)}")
    for key, value in settings.items():
        if key not in VARIABLES:
            raise unknown(f"{file}: key", key, VARIABLES)
        if not isinstance(value, str) or not value:
            raise UserError(f"{file}: {key} must be a path, found {value!r}")
    return dict(settings)


def _path(what: str, text: str) -> Path:
    """An absolute path; a relative one counts from the clone, ``~`` is the home folder."""
    try:
        with refusals(text, f"cannot be used as {what}"):
            return (CLONE / Path(text).expanduser()).resolve()
    except RuntimeError as error:  # so pathlib calls a loop of links, and a home that is unknown
        raise SystemRefusal(f"{text} cannot be used as {what}: {error}") from error
