"""Runs that begin with trained weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from analysis import probing
from config import Config
from tests.training import tiny
from training.checkpoints import load
from training.command_line import COMPLETE, ERROR
from training.experiment import Experiment
from training.weights import begin_with, find_weights, fingerprint

Script = Callable[..., int]


@pytest.fixture
def trained(script: Script, project: Path) -> str:
    """A complete run's name."""
    assert script("--set", "exp_name=before") == COMPLETE
    return next(project.glob("logs/before_*")).name


def source(kind: str, project: Path, run: str) -> str:
    """The run's last weights, as something that initial_weights may name."""
    checkpoint = sorted(project.glob(f"checkpoints/{run}/step_*.pt"))[-1]
    variables = sorted(project.glob(f"experiment_evaluations/{run}/weights_*.npz"))[-1]
    if kind == "run":
        return run
    if kind == "checkpoint":
        return str(checkpoint)
    if kind == "npz":
        return str(variables)
    if kind == "safetensors":
        path = project / "weights.safetensors"
        safetensors.torch.save_file(load(checkpoint)["model"], path)
        return str(path)
    folder = project / "original"
    folder.mkdir()
    with np.load(variables) as file:
        for name, value in file.items():
            np.save(folder / f"hgru_18_{name.removesuffix(':0').replace('/', '_')}.npy", value)
    return str(folder)


@pytest.mark.parametrize("kind", ["run", "checkpoint", "npz", "safetensors", "npy"])
def test_a_run_begins_where_the_other_ended(
    kind: str, trained: str, script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    chosen = source(kind, project, trained)
    assert script("--set", f"initial_weights={chosen}", "--set", "exp_name=after") == COMPLETE
    assert f"begins with the weights {chosen}" in capsys.readouterr().out
    with np.load(next(project.glob("results/before_*.npz"))) as before:
        last = before["val_loss"][-1]
    with np.load(next(project.glob("results/after_*.npz"))) as after:
        assert after["val_step"][0] == 0
        assert after["val_loss"][0] == last
        assert after["val_loss"][-1] != last
    record = yaml.safe_load(next(project.glob("logs/after_*/settings.yaml")).read_text())
    assert record["parameters"]["initial_weights"] == chosen
    began = record["initial_weights"]
    assert began["source"] == chosen and len(began["fingerprint"]) == 16
    if kind in ("run", "checkpoint"):
        assert (began["step"], began["images"]) == (tiny.STEPS, tiny.EPOCHS * tiny.TRAIN)


def test_a_run_goes_on_from_its_own_checkpoint(trained: str, script: Script, project: Path) -> None:
    chosen = source("safetensors", project, trained)
    options = ("--set", f"initial_weights={chosen}", "--set", "exp_name=after")
    assert script(*options, "--set", "epochs=1") == COMPLETE
    Path(chosen).unlink()
    assert script(*options, "--set", "epochs=2", "--resume", "latest") == COMPLETE
    record = yaml.safe_load(next(project.glob("logs/after_*/settings.yaml")).read_text())
    assert len(record["initial_weights"]["fingerprint"]) == 16


@pytest.mark.parametrize("steps", [2, 5])
def test_another_number_of_timesteps(
    steps: int, trained: str, script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ("--set", f"aux.timesteps={steps}", "--set", "exp_name=after", "--set", "epochs=1")
    assert script("--set", f"initial_weights={trained}", *options) == COMPLETE
    assert f"timesteps: 3 there, {steps} here" in capsys.readouterr().err
    found, images = find_weights(trained, Config()), torch.rand(2, 1, 12, 12)
    params = tiny.experiment_params()
    params["aux"]["hidden_init"] = "zeros"  # not drawn
    of_three = tiny.build_model(params).eval()
    params["aux"]["timesteps"] = steps
    begun = tiny.build_model(params).eval()
    found.into(of_three)
    assert begin_with(found, trained, begun)["fingerprint"] == fingerprint(of_three)
    with torch.no_grad(), probing.steps(of_three, steps):
        torch.testing.assert_close(begun(images), of_three(images))


def test_what_cannot_be_is_said(
    trained: str, script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    def says(which: object, *more: str) -> str:
        before = sorted(project.glob("logs/*"))
        assert script("--set", f"initial_weights={which}", *more) == ERROR
        assert sorted(project.glob("logs/*")) == before
        return capsys.readouterr().err

    assert "none.npz: no such file" in says("none.npz")
    assert "initial_weights=nobody: " in says("nobody")
    broken = project / "broken.safetensors"
    broken.write_bytes(b"not that")
    assert f"{broken} is not a safetensors file" in says(broken)
    bare = source("safetensors", project, trained)  # nothing says its timesteps
    said = says(bare, "--set", "aux.timesteps=2")
    assert f"initial_weights={bare}: " in said
    assert "hgru.eta has the shape (3,), expected (2,)" in said
    assert "it lacks hgru.W2" in says(trained, "--set", "aux.separate_kernels=true")


def test_none_is_the_default() -> None:
    assert Experiment.of(tiny.experiment_params())["initial_weights"] is None
    given = Experiment.of(tiny.experiment_params(), ["initial_weights=x"])
    assert given["initial_weights"] == "x"
