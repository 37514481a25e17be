"""Runs that stop and go on."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from config import Config
from models.tf_variables import load_tf_variables, tf_variables
from tests.dataset_processing.test_sets import invert_images, write_images
from tests.training import kill_test, processes, tiny
from training.checkpoints import load, save
from training.command_line import COMPLETE, ERROR, LEFT_EARLY
from training.seeds import Generators
from training.weights import find_weights

Script = Callable[..., int]


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    # python -m tests.training.kill_test --kills 50  does so fifty times
    assert kill_test.compare(3, seed=1, folder=tmp_path) == []


def test_each_use_has_random_numbers_of_its_own_and_again_the_same() -> None:
    device, drawn = torch.device("cpu"), []
    for seed, rank, step in ((0, 0, 7), (0, 0, 8), (1, 0, 7), (0, 1, 7), (0, 0, 7)):
        one = Generators(seed, device, rank)
        one.begin("train", step)
        drawn.append([torch.rand((), generator=g).item() for g in (one.hidden, one.images, None)])
    first, *others, other_rank, again = drawn
    assert again == first and len({number for one in (first, *others) for number in one}) == 9
    assert other_rank[:2] == first[:2] and other_rank[2] != first[2]  # of the batch, of a process


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_with_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    process = processes.start(["--set", "epochs=1000", "--workers", "1"], tmp_path)
    wait_for_steps(tmp_path)
    os.kill(process.pid or 0, number)
    assert processes.finish(process) == LEFT_EARLY
    state = processes.newest_checkpoint(tmp_path)
    assert state["step"] == len(state["history"]["train_loss"]) > 0
    last = json.loads(log_lines(tmp_path)[-1])
    assert (last["event"], last["reason"]) == ("end", number.name)
    assert f"left early: {number.name} at step {state['step']}" in processes.said(tmp_path)
    assert "Traceback" not in processes.said(tmp_path)


@pytest.mark.parametrize("step", [0, 8, tiny.STEPS])
def test_a_signal_in_a_validation_leaves_before_its_next_batch(
    step: int, script: Script, project: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The validation is done by the run that goes on, which ends with the same bits."""
    with monkeypatch.context() as told:
        batches = tell_in_validation(told, step)
        assert script() == LEFT_EARLY
    assert batches[-1] == (step, 1)  # of three
    state = processes.newest_checkpoint(project)
    assert state["step"] == step
    assert step not in state["history"]["validation_step"]
    assert script("--resume", "latest") == COMPLETE
    alone = tmp_path_factory.mktemp("alone")
    tiny.make_records(alone)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(alone))
    assert script() == COMPLETE
    assert processes.differing(processes.outcome(alone), processes.outcome(project)) == []


def test_a_signal_to_one_process_in_a_validation_is_for_all(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    ranks = processes.start_ranks(2, [], tmp_path, build=build_that_tells_the_second)
    assert [processes.finish(rank) for rank in ranks] == [LEFT_EARLY, LEFT_EARLY]
    state = processes.newest_checkpoint(tmp_path)
    assert (state["step"], state["history"]["validation_step"].tolist()) == (4, [0])
    assert "left early: SIGTERM at step 4" in processes.said(tmp_path)


def build_that_tells_the_second(params: dict) -> torch.nn.Module:
    if os.environ["RANK"] == "1":
        tell_in_validation(pytest.MonkeyPatch(), step=4)
    return tiny.build_model(params)


def tell_in_validation(patch: pytest.MonkeyPatch, step: int) -> list[tuple[int, int]]:
    """Send this process SIGTERM in the second batch of the validation after so many steps; the step
    and the number of each batch that is validated on."""
    batches: list[tuple[int, int]] = []
    begin = Generators.begin
    steps = 0

    def tell(self: Generators, what: str, number: int, rank: int | None = None) -> None:
        nonlocal steps
        begin(self, what, number, rank=rank)
        if what == "train":
            steps = number + 1
            return
        batches.append((steps, number))
        if batches[-1] == (step, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Generators, "begin", tell)
    return batches


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    process = processes.start([], tmp_path, build=tiny.build_slow)
    wait_for(lambda: tiny.STEP_BEGINS in processes.said(tmp_path))
    os.kill(process.pid or 0, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid or 0, signal.SIGINT)
    assert processes.finish(process) == 130


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_is_trained_by_one_process_at_a_time(
    count: int, script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    """Or by the processes that were started together."""
    ranks = processes.start_ranks(count, ["--set", "epochs=1000", "--workers", "0"], project)
    wait_for_steps(project)
    assert script("--resume", "latest") == ERROR
    assert "is being trained by another process" in capsys.readouterr().err
    for process in ranks:
        process.kill()
        processes.finish(process)
    assert script("--resume", "latest", "--max-minutes", "0.01") == LEFT_EARLY


def test_the_time_limit(script: Script, project: Path, capsys: pytest.CaptureFixture) -> None:
    assert script("--set", "epochs=1000", "--max-minutes", "0.01") == LEFT_EARLY
    assert "left early: the time limit of 0.01 minutes" in capsys.readouterr().out
    assert script("--set", "epochs=1000", "--resume", "latest", "--max-minutes", "0.01") == (
        LEFT_EARLY
    )
    assert "resumed tiny_" in capsys.readouterr().out


def test_the_latest_run_is_found_whatever_set_it_was_given(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ("--set", "epochs=1000", "--max-minutes", "0.01")
    assert script(*options, "--set", "exp_name=other") == LEFT_EARLY
    assert script("--max-minutes", "0.01", "--resume", "latest") == LEFT_EARLY
    assert "resumed other_" in capsys.readouterr().out
    assert script("--set", "exp_name=third", "--resume", "latest") == ERROR
    assert "holds no run of 'third'" in capsys.readouterr().err
    assert script(*options) == LEFT_EARLY
    assert script(*options, "--set", "exp_name=other") == LEFT_EARLY
    assert script("--max-minutes", "0.01", "--resume", "latest") == LEFT_EARLY
    assert "resumed other_" in capsys.readouterr().out  # the one that was started last
    name = next(project.glob("logs/tiny_*")).name
    assert script("--max-minutes", "0.01", "--resume", name) == LEFT_EARLY
    assert script("--max-minutes", "0.01", "--resume", "latest") == LEFT_EARLY
    assert f"resumed {name}" in capsys.readouterr().out.split("go on with")[-2]


def test_a_run_can_be_made_longer_but_not_changed(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    assert script("--resume", "latest") == COMPLETE
    assert "this run is complete already" in capsys.readouterr().out
    assert script("--resume", "latest", "--set", "lr=0.5", "--set", "keep_every=2") == ERROR
    error = capsys.readouterr().err
    assert "is of other settings" in error and "lr: 0.001 there, 0.5 here" in error
    assert "keep_every" not in error
    assert script("--resume", "latest", "--seed", "9") == ERROR
    assert "--seed 9: this run was started with 0" in capsys.readouterr().err
    assert script("--resume", "latest", "--set", "epochs=2") == COMPLETE
    longer = processes.outcome(project)
    # The same as a run that was to take two epochs from the beginning, but for the validation
    # at the end of the first.
    assert script("--set", "epochs=2", "--set", "exp_name=two") == COMPLETE
    newest = sorted(project.glob("checkpoints/two_*/step_*.pt"))[-1]
    for name, value in load(newest)["model"].items():
        assert torch.equal(longer[f"model {name}"], value), name


def test_options_that_are_given_again_are_recorded_once(script: Script, project: Path) -> None:
    options = ("--set", "epochs=1", "--set", "lr=0.01")
    for _ in range(3):
        assert script(*options, "--resume", "auto") == COMPLETE
    (record,) = project.glob("logs/*/settings.yaml")
    assert yaml.safe_load(record.read_text())["overrides"] == ["epochs=1", "lr=0.01"]


def test_results_that_a_kill_prevented_are_written_at_the_resume(
    script: Script, project: Path
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    (results,) = project.glob("results/*.npz")
    before = results.read_bytes()
    results.unlink()  # as a kill between the last checkpoint and the results leaves it
    assert script("--resume", "latest") == COMPLETE
    assert results.read_bytes() == before


@pytest.mark.parametrize("left", ["older", "none", "damaged"])
def test_a_best_that_a_kill_prevented_is_written_at_the_resume(
    left: str, script: Script, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    (best,) = project.glob("checkpoints/*/best.pt")
    whole = best.read_bytes()
    of_best = load(best)["step"]
    others = [path for path in best.parent.glob("step_*.pt") if load(path)["step"] != of_best]
    if left == "none":
        best.unlink()
    else:  # as a kill between the newest checkpoint and best.pt leaves it
        best.write_bytes(others[0].read_bytes() if left == "older" else whole[:-200])
    if left == "older":
        found = find_weights(best.parent.name, Config(), "best")
        assert f"of step {found.step}, but the best validation" in caplog.text
    assert script("--resume", "latest") == COMPLETE
    assert best.read_bytes() == whole
    caplog.clear()
    assert find_weights(best.parent.name, Config(), "best").step == of_best
    assert not caplog.text


def test_a_run_is_found_by_name_and_by_path(
    script: Script, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    (folder,) = project.glob("tiny_*")
    newest, older = folder / "checkpoints/step_00000006.pt", folder / "checkpoints/step_00000004.pt"
    logs = project / "logs" / folder.name
    for which in (folder.name, folder, logs / "log.txt", newest.resolve()):
        assert script("--resume", str(which)) == COMPLETE
        assert f"resumed {folder.name} at step 6" in capsys.readouterr().out
    foreign = tmp_path / "theirs.pt"
    torch.save({"state_dict": {}}, foreign)
    for which, message in (
        (older, "a run goes on from its newest checkpoint, and this is not it"),
        (foreign, "theirs.pt is not a checkpoint of this project"),
        (
            folder.name[:-1],
            f"holds no run of that name, and no such file is here; did you mean '{folder.name}'?",
        ),
    ):
        assert script("--resume", str(which)) == ERROR
        assert message in capsys.readouterr().err


def test_data_that_changed_is_an_error(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    train, val = (
        project / "tf_records" / f"curv_contour_length_14_full_{fold}.tfrecords"
        for fold in ("train", "val")
    )
    val.write_bytes(train.read_bytes())
    assert script("--resume", "latest", "--set", "epochs=2") == ERROR
    error = capsys.readouterr().err
    assert "validation data: " in error and "train data: " not in error
    there, here = error.split("validation data there: ")[1].split("; here: ")
    assert f"{tiny.VAL} records" in there and f"{tiny.TRAIN} records" in here


def test_images_that_changed_are_an_error_but_not_an_earlier_versions_fingerprint_of_them(
    script: Script, project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(project / "mine", suffix=".bmp")
    monkeypatch.setenv("HGRU_DATA_ROOT", str(project))
    options = ("--set", "dataset=mine", "--set", "exp_name=images", "--resume", "auto")
    assert script(*options, "--set", "epochs=1") == COMPLETE
    (newest,) = project.glob("checkpoints/images_*/step_00000004.pt")
    state = load(newest)
    for fold in ("train", "validation"):
        identity = state["identity"]
        identity[f"{fold} data"] = identity[f"{fold} data"].partition("-")[0]  # of the sizes alone
    save(newest, state)
    assert script(*options, "--set", "epochs=2") == COMPLETE
    invert_images(project / "mine")
    assert script(*options, "--set", "epochs=3") == ERROR
    error = capsys.readouterr().err
    assert "train data: " in error and "validation data: " in error


def test_the_log_takes_back_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    process = processes.start(["--set", "epochs=1000", "--workers", "0"], tmp_path)
    wait_for_steps(tmp_path, 10)
    process.kill()
    processes.finish(process)
    with open(next(tmp_path.glob("logs/*/log.jsonl")), "a") as file:
        file.write('{"event": "tra')  # as a kill in the middle of a line leaves it
    options = ["--resume", "latest", "--max-minutes", "0.03", "--workers", "0"]
    assert processes.run(options, tmp_path) == LEFT_EARLY
    events = [json.loads(line) for line in log_lines(tmp_path)]
    steps = [event["step"] for event in events if event["event"] == "train"]
    assert len(steps) == len(set(steps)) and steps == sorted(steps)


def test_a_resume_with_another_number_of_processes(tmp_path: Path) -> None:
    """22 images in batches of 7: the last, of one image, is none for two processes."""
    tiny.make_records(tmp_path)
    options = ["--workers", "0", "--device", "cpu"]
    assert processes.run([*options, "--set", "batch_size=7", "--set", "epochs=1"], tmp_path) == 0
    assert processes.newest_checkpoint(tmp_path)["step"] == 4
    options += ["--resume", "latest", "--set", "epochs=2"]
    ranks = processes.start_ranks(2, options, tmp_path)
    assert [processes.finish(p) for p in ranks] == [COMPLETE, COMPLETE]
    state = processes.newest_checkpoint(tmp_path)
    assert state["step"] == len(state["history"]["train_loss"]) == 4 + 3
    assert (state["epoch"], state["position"]) == (2, 0)
    assert "warning: the last 1 of 22 images of each epoch are left out" in processes.said(tmp_path)
    assert processes.said(tmp_path, 1) == ""


def test_weights_and_checkpoints_give_the_same_validation_loss(
    script: Script, project: Path
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    (run,) = project.glob("tiny_*")  # the folder of links
    with np.load(run / "results.npz", allow_pickle=False) as results:
        assert results["val_step"].tolist() == [0, 4, 6]
        expected = dict(zip(results["val_step"].tolist(), results["val_loss"], strict=True))
        assert json.loads(str(results["settings"]))["parameters"]["exp_name"] == "tiny"
    for step, loss in expected.items():
        with np.load(run / "weights" / f"weights_{step:08d}.npz", allow_pickle=False) as weights:
            assert validation_loss_of(dict(weights)) == loss
    state = load(run / "checkpoints" / "step_00000006.pt")
    model = tiny.build_model(tiny.experiment_params())
    model.load_state_dict(state["model"])
    assert validation_loss_of(tf_variables(model)) == expected[6]


def validation_loss_of(weights: dict[str, np.ndarray]) -> float:
    """The validation loss of these weights, as a run measures it."""
    from training.distribution import Ranks
    from training.experiment import Experiment
    from training.loop import Training

    model = tiny.build_model(tiny.experiment_params())
    load_tf_variables(model, weights)
    settings = Experiment.of(tiny.experiment_params())
    training = Training(settings, model, Config(), Ranks(torch.device("cpu")), seed=0)
    return training.validation.measure()[0]


def log_lines(project: Path) -> list[str]:
    return next(project.glob("logs/*/log.jsonl")).read_text().splitlines()


def wait_for_steps(project: Path, steps: int = 1) -> None:
    """Wait until a log line says that some updates were done."""

    def done() -> bool:
        logs = list(project.glob("logs/*/log.jsonl"))
        lines = logs[0].read_text().splitlines() if logs else []
        return any('"event": "train"' in x and json.loads(x)["step"] >= steps for x in lines[:-1])

    wait_for(done)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + processes.SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the process did not come that far")
        time.sleep(0.05)
