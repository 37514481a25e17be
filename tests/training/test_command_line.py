"""What a user sees of the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from training.command_line import COMPLETE, ERROR

Script = Callable[..., int]
CLONE = Path(__file__).parents[2]


def test_help_says_what_the_script_does_and_its_parameters() -> None:
    answer = subprocess.run(
        [sys.executable, "hgru.py", "--help"], cwd=CLONE, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0
    for part in ("The hGRU", "--set KEY=VALUE", "--resume RUN", "optimizer = 'nadam'", "  75   "):
        assert part in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "3"], "unrecognized arguments: --lr 3 (--help lists the options)"),
        (
            ["--set", "bach_size=3"],
            "parameter 'bach_size' is not known; did you mean 'batch_size'?",
        ),
        (["--max-minutes", "0"], "argument --max-minutes: must be above 0, found 0"),
        (["--workers", "-1"], "argument --workers: must be 0 or more, found -1"),
        (["--on-bad-record", "ignore"], "argument --on-bad-record: invalid choice: 'ignore'"),
        (["--device", "tpu9"], "--device must be auto, cpu, cuda or cuda:<number>, found 'tpu9'"),
        (["--set", "optimizer=nadan"], "optimizer 'nadan' is not known; did you mean 'nadam'?"),
        (["--set", "loss_function=l3"], "loss_function 'l3' is not known; did you mean 'l2'?"),
        (["--set", "val_augmentations=resise"], "augmentation 'resise' is not known; did you me"),
        (["--set", "dataset=curv_basline_full"], "did you mean 'curv_baseline_full'?"),
        (["--set", "batch_size=23"], "batch_size is 23, but the data set has 22 images"),
        (["--set", "aux.hidden_init=one"], "hidden_init must be one of random, identity, zeros"),
        (["--set", "aux.hiden=zeros"], "unexpected keyword argument 'hiden'; layers/hgru.py lists"),
        (["--resume", "nothing"], "holds no run of that name"),
        (["--resume", "latest"], "holds no run of 'tiny'"),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str], message: str, script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(project.rglob("*"))
    assert script(*arguments) == ERROR
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert message in said.err
    assert said.out == ""
    assert sorted(project.rglob("*")) == before  # nothing left behind


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
    assert script(*arguments, "--set", "aux.timesteps=2") == COMPLETE
    (file,) = project.glob("logs/*/settings.yaml")
    record = yaml.safe_load(file.read_text())
    assert record["parameters"]["clip_gradients"] == 0.5
    assert record["parameters"]["aux"] == {"timesteps": 2, "h_ext": 5}
    assert record["overrides"] == ["epochs=1", "clip_gradients=0.5", "aux.timesteps=2"]
    assert record["seed"] == 4
    assert len(record["data"]["train"]["fingerprint"]) >= 8
    environment = record["environment"]
    assert environment["torch"].startswith("2.") and environment["device"] == "cpu"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=CLONE, capture_output=True, text=True
    ).stdout.strip()
    assert environment["git_commit"] == (head or None)


def test_tensorboard_has_the_curves(script: Script, project: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert script("--set", "epochs=1") == COMPLETE
    (folder,) = project.glob("summaries/*")
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"validation/loss", "validation/accuracy", "train/loss", "train/accuracy"}
    assert tags >= {"train/gradient_norm", "train/learning_rate", "train/images_per_second"}
    assert tags >= {"train/data_wait_share"}
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
