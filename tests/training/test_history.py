"""A run's measurements, and what is read from them: whether its network has stopped learning."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from support.errors import UserError
from tests.training import tiny
from tests.training.processes import newest_checkpoint
from training.history import NEW, History

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


def test_the_loss_of_chance_is_the_mean_of_the_last_100_000_images() -> None:
    a, b = math.log(2) - 9e-4, math.log(2) + 1e-4
    found = of_losses([9, 9, a, b], [50_000, 100_000, 150_000, 200_000]).stuck_at()
    assert found == pytest.approx(math.log(2) - 4e-4, abs=1e-9)


def test_a_run_without_updates_is_not_stuck() -> None:
    assert History().stuck_at() is None


def test_the_best_validation_has_the_highest_metric_then_the_lowest_loss() -> None:
    metrics, losses = [0.5, 0.9, 0.9, 0.9, 0.8], [0.1, 0.4, 0.2, 0.2, 0.0]
    assert History(validation_metric=metrics, validation_loss=losses).best() == 2
    assert History().best() is None


def of_five_updates() -> History:
    """Epochs of 10 images in batches of 4: 4, 4 and 2 of them."""
    return History(
        train_loss=[0.9, 0.8, 0.7, 0.6, 0.5], train_metric=[0.1, 0.2, 0.3, 0.4, 0.5],
        gradient_norm=[1.0, 2.0, 3.0, 4.0, 5.0], train_images=[4, 8, 10, 14, 18],
        validation_step=[0, 2, 4], validation_loss=[0.95, 0.85, 0.65],
        validation_metric=[0.5, 0.6, 0.7], validation_images=[0, 8, 14],
        validation_seconds=[0.5, 1.5, 2.5],
    )  # fmt: skip


@pytest.mark.parametrize("step, validations", [(0, 1), (1, 1), (2, 2), (3, 2), (5, 3)])
def test_a_history_up_to_a_step_has_its_updates_and_its_validation(
    step: int, validations: int
) -> None:
    whole = of_five_updates()
    for name, values in vars(whole.until(step)).items():
        count = validations if name.startswith("validation") else step
        assert values == getattr(whole, name)[:count], name


def test_what_an_earlier_version_did_not_count_follows_from_the_steps() -> None:
    whole = of_five_updates()
    counted = {name: value for name, value in whole.state().items() if name not in NEW}
    found = History.of(counted, batch=4, epoch=10)
    assert found.train_images == whole.train_images
    assert found.validation_images == whole.validation_images
    assert np.isnan(found.validation_seconds).all() and len(found.validation_seconds) == 3
    assert found.train_loss == whole.train_loss
    assert History.of(whole.state(), batch=1, epoch=1) == whole


def test_a_results_file_holds_the_history() -> None:
    whole = of_five_updates()
    arrays = whole.results("accuracy")
    assert arrays["train_step"].tolist() == [1, 2, 3, 4, 5]
    assert arrays["val_accuracy"].tolist() == whole.validation_metric
    assert arrays["train_gradient_norm"].tolist() == whole.gradient_norm
    assert {arrays[f"{of}_images"].dtype for of in ("train", "val")} == {np.dtype(np.int64)}
    assert History.of_results(arrays, "accuracy", 1, 1, Path("r.npz")) == whole
    older = {name: values for name, values in arrays.items() if "images" not in name}
    del older["val_seconds"]
    assert History.of_results(older, "accuracy", 4, 10, Path("r.npz")).train_images == [
        4,
        8,
        10,
        14,
        18,
    ]
    del arrays["val_loss"]
    with pytest.raises(UserError, match=r"r\.npz lacks val_loss"):
        History.of_results(arrays, "accuracy", 1, 1, Path("r.npz"))


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
