"""A project folder with the tiny experiment's data, and its script run in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training import tiny
from training.command_line import run_script

QUIET = ["--workers", "0", "--device", "cpu"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project directory with records; the project's paths lie in it."""
    tiny.make_records(tmp_path)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    return tmp_path


@pytest.fixture
def script(project: Path) -> Callable[..., int]:
    """``script("--set", "lr=1")`` runs the tiny experiment here and gives its exit code."""

    def run(*arguments: str) -> int:
        return run_script(tiny.experiment_params, tiny.build_model, [*QUIET, *arguments])

    return run
