"""Runs with updates="as_released": said, recorded, resumed to the same bits, on several ranks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from layers.gabor import gabor_bank
from tests.training import processes, tiny
from training.command_line import COMPLETE, ERROR

Script = Callable[..., int]
RELEASED = ("--set", "updates=as_released")


def test_a_resumed_run_ends_with_the_same_bits(script: Script, project: Path) -> None:
    assert script(*RELEASED, "--set", "exp_name=whole") == COMPLETE
    assert script(*RELEASED, "--set", "exp_name=parts", "--set", "epochs=1") == COMPLETE
    assert script("--resume", "latest", "--set", "exp_name=parts", "--set", "epochs=3") == COMPLETE
    found = {}
    for name in ("whole", "parts"):
        path = sorted(project.glob(f"checkpoints/{name}_*/step_*.pt"))[-1]
        found[name] = torch.load(path, weights_only=True)
    whole, parts = found["whole"], found["parts"]
    assert whole["step"] == parts["step"] == tiny.STEPS
    assert all(torch.equal(parts["model"][name], value) for name, value in whole["model"].items())
    assert torch.equal(whole["model"]["drive.weight"], gabor_bank())
    (record,) = project.glob("logs/whole_*/settings.yaml")
    assert yaml.safe_load(record.read_text())["parameters"]["updates"] == "as_released"


def test_a_resumed_run_keeps_its_updates(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(*RELEASED, "--set", "epochs=1") == COMPLETE
    assert "updates as_released" in capsys.readouterr().out
    assert script("--resume", "latest", "--set", "updates=all", "--set", "epochs=2") == ERROR
    assert "updates" in capsys.readouterr().err


def test_two_processes_train_as_released_as_one_does(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    for project in (alone, together):
        tiny.make_records(project)
    options = ["--workers", "0", "--device", "cpu", "--set", "epochs=2", *RELEASED]
    started = [processes.start(options, alone), *processes.start_ranks(2, options, together)]
    assert [processes.finish(process) for process in started] == [COMPLETE] * 3
    one, two = (processes.newest_checkpoint(project) for project in (alone, together))
    torch.testing.assert_close(
        two["history"]["train_loss"], one["history"]["train_loss"], rtol=1e-4, atol=0
    )
    for state in (one, two):
        assert torch.equal(state["model"]["drive.weight"], gabor_bank())
