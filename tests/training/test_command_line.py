"""What a user sees of the command line."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from layers.hgru import NONLINEARITIES
from models.recurrent import RecurrentNetwork
from tests.training import tiny
from tests.training.conftest import QUIET
from training import start
from training.command_line import COMPLETE, ERROR, run_script
from training.experiment import AUX, SETTINGS

Script = Callable[..., int]
CLONE = Path(__file__).parents[2]


def test_help_says_what_the_script_does_and_its_settings() -> None:
    answer = subprocess.run(
        [sys.executable, "hgru.py", "--help"], cwd=CLONE, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0
    parts = ("The hGRU", "--set KEY=VALUE", "--resume RUN", "optimizer = 'nadam'", "  75   ")
    for part in (*parts, ", left_right, "):  # no list of augmentations of the script's has it
        assert part in answer.stdout
    for name in SETTINGS:
        assert f"\n  {name} = " in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--lr", "3"], ["--lr 3", "--help"]),
        (["--set", "bach_size=3"], ["'bach_size'", "'batch_size'"]),
        (["--max-minutes", "0"], ["--max-minutes", "above 0", "'0'"]),
        (["--max-minutes", "soon"], ["--max-minutes", "above 0", "'soon'"]),
        (["--workers", "-1"], ["--workers", "at least 0", "'-1'"]),
        (["--seed", "1.5"], ["--seed", "a whole number", "'1.5'"]),
        (["--on-bad-record", "ignore"], ["--on-bad-record", "'ignore'", "skip"]),
        (["--device", "tpu9"], ["--device", "'tpu9'", "cuda"]),
        (["--set", "dataset=curv_basline_full"], ["'curv_basline_full'", "'curv_baseline_full'"]),
        (["--set", "batch_size=23"], ["batch_size", "23", "22 images"]),
        (["--set", "aux.layers=3"], ["aux.layers", "no option of this script's network"]),
        (["--set", "data_augmentations=left_right"], ["data_augmentations", "left_right"]),
        (
            [
                *("--set", "data_augmentations=uint8_rescale"),
                *("--set", "val_augmentations=uint8_rescale"),
            ],
            ["model_input_image_size", "12×12", "300×300", "data_augmentations"],
        ),
        (["--resume", "nothing"], ["--resume nothing"]),
        (["--resume", ""], ["--resume", "a name", "''"]),  # "$RUN", and no such variable
        (["--resume", "latest"], ["--resume latest", "'tiny'"]),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str],
    parts: list[str],
    script: Script,
    project: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    before = sorted(project.rglob("*"))
    assert script(*arguments) == ERROR
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    for part in parts:
        assert part in said.err
    assert said.out == ""
    assert sorted(project.rglob("*")) == before  # nothing left behind


def test_a_bug_in_a_script_shows_its_traceback(tmp_path: Path) -> None:
    """A copy of a script with a slip in it, run as its owner does."""
    bug = "\n    torch.zeros(3) + torch.zeros(4)\n"
    source = (CLONE / "hgru.py").read_text().replace("import training", "import torch, training")
    for number, head in enumerate(("def build_model", "def experiment_params")):
        before, after = source.split(head, 1)
        signature, body = after.split(":\n", 1)
        file = tmp_path / f"mine_{number}.py"
        file.write_text(f"{before}{head}{signature}:{bug}{body}")
        answer = subprocess.run(
            [sys.executable, file, "--device", "cpu", "--set", "dataset=pathfinder_6_stream"],
            env={**os.environ, "PYTHONPATH": str(CLONE), "HGRU_PROJECT_DIRECTORY": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert answer.returncode == 1
        assert "Traceback" in answer.stderr and "RuntimeError" in answer.stderr
        assert f'{file}", line ' in answer.stderr
        assert "torch.zeros(3) + torch.zeros(4)" in answer.stderr


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, TypeError, KeyError])
def test_whatever_a_script_raises_is_a_bug(
    kind: type[Exception], project: Path, capsys: pytest.CaptureFixture
) -> None:
    def build_model(params: dict) -> None:
        raise kind("hers")

    def experiment_params() -> dict:
        raise kind("hers")

    with pytest.raises(kind, match="hers"):
        run_script(tiny.experiment_params, build_model, QUIET)
    with pytest.raises(kind, match="hers"):
        run_script(experiment_params, tiny.build_model, QUIET)
    assert "error:" not in capsys.readouterr().err


def test_experiment_params_is_called_once(project: Path) -> None:
    calls = []

    def experiment_params() -> dict:
        calls.append(1)
        return tiny.experiment_params()

    options = [*QUIET, "--set", "epochs=1", "--resume", "auto"]
    assert run_script(experiment_params, tiny.build_model, options) == COMPLETE
    assert len(calls) == 1


def test_what_build_model_returns_must_be_a_network(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_script(tiny.experiment_params, lambda params: None, QUIET) == ERROR
    error = capsys.readouterr().err
    assert "build_model" in error and "NoneType" in error


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("adaptation", "no", "True or False"),
        ("gate_bias_init", "cronos", "'chronos'"),
        ("mu", 0, "True or False"),
        ("recurrent_nl", "Tanh", "'tanh'"),
        ("recurrent_nl", ["tanh"], "one of tanh"),
        ("timesteps", 8.0, "a whole number of at least 1"),
        ("h_ext", "15", "a whole number of at least 1"),
        ("eta_init", "1", "None or a number"),
        ("batch_norm_validation", "both", "running"),
        ("readout_epsilon", 0, "a number above 0"),
        ("gabor_size", "7", "an odd number of at least 3"),
        ("gabor_size", 7.0, "an odd number of at least 3"),
        ("timestep", 8, "'timesteps'"),
        ("channels", 8, "Known: timesteps"),
    ],
)
def test_what_build_model_gives_is_checked(
    name: str, value: object, expected: str, project: Path, capsys: pytest.CaptureFixture
) -> None:
    def build_model(params: dict) -> RecurrentNetwork:
        return RecurrentNetwork(**{"batch_norm": True, **params["aux"], name: value})

    assert run_script(tiny.experiment_params, build_model, QUIET) == ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: build_model: ") and error.count("\n") == 1
    assert name in error and expected in error
    assert repr(value) in error or name not in AUX


def test_too_many_workers_are_capped(
    script: Script, project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "WORKERS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert script("--workers", "1000", "--set", "epochs=1") == COMPLETE
    assert "--workers 1000: 2 are started" in capsys.readouterr().err


def test_what_the_run_does_not_come_to_is_said(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        script("--set", "epochs=1", "--set", "warmup_iters=6", "--set", "split_seed=7") == COMPLETE
    )
    said = capsys.readouterr().err
    assert "warmup_iters is 6, but the run has 6 updates" in said and "split_seed=7" in said
    assert script("--set", "epochs=1", "--set", "warmup_iters=5") == COMPLETE
    assert "warning" not in capsys.readouterr().err


def test_missing_data_names_the_path_and_the_commands(
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "mine"))
    assert script("--set", "dataset=curv_baseline_full") == ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: no data for 'curv_baseline_full'")
    for part in (
        str(tmp_path / "mine"),
        "dataset_processing.encode",
        "dataset_processing.generate",
    ):
        assert part in error


def test_the_run_records_what_it_ran_on(script: Script, project: Path) -> None:
    arguments = ["--set", "epochs=1", "--set", "clip_gradients=0.5", "--seed", "4"]
    any_order = ("--set", "val_augmentations=resize,uint8_rescale")
    assert script(*arguments, "--set", "aux.timesteps=2", *any_order) == COMPLETE
    (file,) = project.glob("logs/*/settings.yaml")
    record = yaml.safe_load(file.read_text())
    assert record["parameters"]["clip_gradients"] == 0.5
    assert record["parameters"]["aux"] == {"timesteps": 2, "h_ext": 5}
    assert record["overrides"] == [*arguments[1:4:2], "aux.timesteps=2", any_order[1]]
    assert record["seed"] == 4
    assert len(record["data"]["train"]["fingerprint"]) >= 8
    (session,) = record["sessions"]
    environment = session["environment"]
    assert environment["torch"].startswith("2.") and environment["device"] == "cpu"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=CLONE, capture_output=True, text=True
    ).stdout.strip()
    assert session["code"]["commit"] == (head or None)
    assert environment["threads"] == torch.get_num_threads()
    assert record["network"]["options"]["timesteps"] == 2
    assert record["network"]["options"]["recurrent_nl"] == "tanh"  # left at the script's own
    assert record["network"]["input_size"] == [12, 12]
    assert record["network"]["preprocessing"]["validation"] == ["uint8_rescale", "resize"]
    assert record["data"]["train"]["im_size"] == [300, 300]
    assert set(session["code"]["fingerprint"]) == {
        "script", "dataset_processing", "layers", "models", "training",
    }  # fmt: skip


@pytest.mark.parametrize("same", ["size", "records", ""])
def test_validation_images_that_are_perhaps_not_meant(
    same: str, script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    train, val = (project / f"tf_records/{tiny.NAME}_{fold}.tfrecords" for fold in ("train", "val"))
    arguments = ["--set", "epochs=1"]
    if same == "records":
        shutil.copy(train, val)
    elif not same:
        drawn = "stream_settings={window: 150, border: 8, seed_distance: 12}"
        arguments += ["--set", "val_dataset=pathfinder_3_stream", "--set", drawn]
    assert script(*arguments) == COMPLETE
    said = capsys.readouterr().err
    sizes = "warning: the validation images are 150×150 pixels (height × width), the training"
    assert (sizes in said and "300×300; both are resized" in said) == (same == "")
    assert (f"warning: {val}: the validation records are those" in said) == (same == "records")
    assert said.count("warning: ") == (same != "size")


def curves(project: Path) -> Any:
    """What TensorBoard shows of the one run of a project."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = project.glob("summaries/*")
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_has_the_curves(script: Script, project: Path) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    events = curves(project)
    tags = set(events.Tags()["scalars"])
    assert tags >= {"validation/loss", "validation/accuracy", "train/loss", "train/accuracy"}
    assert tags >= {"train/gradient_norm", "train/learning_rate", "train/images_per_second"}
    assert tags >= {"train/data_wait_share"}
    assert [event.step for event in events.Scalars("validation/loss")] == [0, 4, 6]
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6]


def test_tensorboard_has_no_step_twice_of_a_run_without_a_checkpoint(
    script: Script, project: Path
) -> None:
    (project / "checkpoints").touch()  # no folder: the first cannot be written
    assert script("--set", "epochs=1") == ERROR
    (project / "checkpoints").unlink()
    time.sleep(1)  # files of events lie in the order of their seconds, not of their numbers
    assert script("--set", "epochs=1", "--resume", "latest") == COMPLETE
    assert [event.step for event in curves(project).Scalars("validation/loss")] == [0, 4, 6]


@pytest.mark.parametrize("step", [0, 4])
def test_tensorboard_has_no_step_twice_of_a_run_that_went_back(
    step: int, script: Script, project: Path
) -> None:
    """As one does that failed after its last checkpoint."""
    assert script("--set", "epochs=1") == COMPLETE
    for file in project.glob("checkpoints/*/step_*.pt"):
        if int(file.stem[5:]) > step:
            file.unlink()
    time.sleep(1)
    assert script("--set", "epochs=1", "--resume", "latest") == COMPLETE
    events = curves(project)
    assert [event.step for event in events.Scalars("validation/loss")] == [0, 4, 6]
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6]


def test_the_seed_fixes_everything(script: Script, project: Path) -> None:
    from training.checkpoints import load

    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ["--set", "epochs=1", "--set", f"exp_name={name}", "--set", "save_weights=no"]
        assert script(*options, "--seed", seed) == COMPLETE
    states = [load(next(project.glob(f"checkpoints/{n}_*/step_00000006.pt"))) for n in "abc"]
    losses = [state["history"]["train_loss"].tolist() for state in states]
    assert losses[0] == losses[1] != losses[2]
    assert not list(project.glob("experiment_evaluations/*"))  # save_weights=no


def test_threads_that_share_the_images_give_the_run_of_one(
    script: Script, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.checkpoints import load

    seen: list[tuple[int, int]] = []
    forward = RecurrentNetwork.forward

    def watched(network: RecurrentNetwork, images: torch.Tensor) -> Any:
        seen.append((network.hgru.shares, torch.get_num_threads()))
        return forward(network, images)

    monkeypatch.setattr(RecurrentNetwork, "forward", watched)
    before, losses = torch.get_num_threads(), {}
    try:
        for name, threads in (("one", 1), ("two", 2), ("again", 2)):
            torch.set_num_threads(threads)
            assert script("--set", "epochs=1", "--set", f"exp_name={name}") == COMPLETE
            assert torch.get_num_threads() == threads
            state = load(next(project.glob(f"checkpoints/{name}_*/step_00000006.pt")))
            assert state["record"]["sessions"][0]["environment"]["threads"] == threads
            losses[name] = state["history"]["train_loss"].tolist()
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {(1, 1), (2, 1)}
    assert losses["two"] == losses["again"]
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-3)


def test_an_error_in_a_thread_ends_the_run_with_its_traceback(
    script: Script, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(z: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError("in a share")
        return torch.tanh(z)

    monkeypatch.setitem(NONLINEARITIES, "tanh", stumble)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError, match="in a share"):
            script("--set", "epochs=1")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    (log,) = project.glob("logs/*/log.txt")
    assert "stumble" in log.read_text()
