"""What is read from a run's measurements: whether its network has stopped learning."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.training import tiny
from tests.training.processes import newest_checkpoint
from training.history import History

RUNS = Path(__file__).parents[2] / "docs" / "runs"


def of_losses(losses: Sequence[float], images: Sequence[int]) -> History:
    return History(train_loss=list(losses), train_images=list(images))


@pytest.mark.parametrize("steps, batch", [(3126, 32), (1564, 64)])
@pytest.mark.parametrize("offset, stuck", [(4e-4, True), (-4e-4, True), (6e-4, False)])
def test_a_loss_of_chance_over_many_images(
    steps: int, batch: int, offset: float, stuck: bool
) -> None:
    images = [batch * (n + 1) for n in range(steps)]
    losses = [math.log(2) + offset] * steps
    found = of_losses(losses, images).stuck_at()
    assert found == (pytest.approx(losses[0]) if stuck else None)
    assert of_losses(losses[:-2], images[:-2]).stuck_at() is None  # of fewer images
    learned = [0.5] * steps + losses
    later = images + [images[-1] + n for n in images]
    assert (of_losses(learned, later).stuck_at() is not None) == stuck


def test_a_run_without_updates_is_not_stuck() -> None:
    assert History().stuck_at() is None


def test_of_the_kept_runs_none_is_told_that_reached_95_percent() -> None:
    """By the means that their records keep of training between validations."""
    told: dict[bool, list[float]] = {True: [], False: []}
    for file in RUNS.glob("*/log.jsonl"):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        training = [event for event in events if event["event"] == "train"]
        losses, images = zip(*((one["loss"], one["images"]) for one in training), strict=True)
        ends = range(1, len(training) + 1)
        stuck = any(of_losses(losses[:end], images[:end]).stuck_at() for end in ends)
        accuracies = [event["accuracy"] for event in events if event["event"] == "validation"]
        told[stuck].append(max(accuracies))
    assert max(told[True]) < 0.95 < max(told[False])


@pytest.mark.parametrize("loss, times", [("cce", 1), ("l2", 0)])
def test_a_run_says_once_that_it_is_stuck(
    loss: str,
    times: int,
    script: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(
        History, "stuck_at", lambda history: 0.69314 if history.train_loss else None
    )
    assert script("--set", f"loss_function={loss}") == 0
    assert capsys.readouterr().err.count("the training loss was 0.6931") == times


def test_a_validation_is_told_with_the_means_of_training_before_it(
    script: Callable[..., int], project: Path
) -> None:
    assert script() == 0
    state = newest_checkpoint(project)["history"]
    (text,) = project.glob("logs/*/log.txt")
    said = [
        line for line in text.read_text().splitlines() if f"/{tiny.STEPS}  validation: " in line
    ]
    steps = state["validation_step"].tolist()
    assert len(said) == len(steps) and "training since" not in said[0]
    for line, first, end in zip(said[1:], steps[:-1], steps[1:], strict=True):
        loss, metric = (state[name][first:end].mean() for name in ("train_loss", "train_metric"))
        assert line.endswith(f"training since: loss {loss:.4f}  accuracy {metric:.4f}")
