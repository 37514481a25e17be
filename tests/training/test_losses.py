"""Losses and metrics against numpy and scipy in float64."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import pearsonr

from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
from support.errors import UserError
from training.distribution import Ranks
from training.losses import loss_function
from training.metrics import metric_function
from training.optimizers import optimizer
from training.seeds import Generators
from training.step import TrainStep, Validation

LOGITS = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0, 0])
ONE_HOT = np.eye(2)[LABELS]


def value(name: str) -> float:
    return loss_function(name)(torch.from_numpy(LOGITS), torch.from_numpy(LABELS)).item()


@pytest.mark.parametrize("name", ["cce", "sparse_ce"])
def test_cross_entropy(name: str) -> None:
    chosen = LOGITS[np.arange(7), LABELS]
    expected = np.mean(logsumexp(LOGITS.astype(np.float64), axis=1) - chosen)
    assert value(name) == pytest.approx(expected, rel=1e-6)


def test_l2_is_half_the_sum_of_squares() -> None:
    assert value("l2") == pytest.approx(((LOGITS - ONE_HOT) ** 2).sum() / 2, rel=1e-6)
    one_output = torch.tensor([[0.5], [3.0]])
    assert loss_function("l2")(one_output, torch.tensor([1, 1])).item() == (0.25 + 4) / 2


def test_pearson() -> None:
    correlations = [pearsonr(LOGITS[:, i], ONE_HOT[:, i]).statistic for i in range(2)]
    assert value("pearson") == pytest.approx(1 - np.mean(correlations), abs=1e-5)
    metric = metric_function("pearson")(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    assert metric.item() == pytest.approx(np.mean(correlations), abs=1e-5)


def test_pearson_of_constant_outputs_is_finite_with_its_gradient() -> None:
    logits = torch.full((4, 2), 0.5, dtype=torch.float64, requires_grad=True)
    loss = loss_function("pearson")(logits, torch.tensor([0, 1, 0, 1]))
    loss.backward()
    # What is added to the means and to the deviations is all that is left.
    expected = 1 - 1e-8 / (1e-4 * np.sqrt(0.25 + 1e-8) + 1e-12)
    assert loss.item() == pytest.approx(expected, abs=1e-13)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_accuracy() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 0.0]])
    assert metric_function("accuracy")(logits, torch.tensor([0, 1, 1, 0])).item() == 0.75


@pytest.mark.parametrize(
    ("compared", "setting"),
    [(loss_function("cce"), "loss_function"), (metric_function("accuracy"), "score_metric")],
)
@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_one_output_is_no_choice_among_labels(compared, setting: str, shape: tuple) -> None:
    with pytest.raises(UserError, match=rf"{setting}.*found \(3,"):
        compared(torch.rand(shape), torch.zeros(3, dtype=torch.long))


class Brightness(torch.nn.Module):
    """Says 1 of bright images; in training some pixels are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.dropout = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Dropout()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bright = self.scale * (self.dropout(images).mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1), images


@pytest.mark.parametrize("batches, count", [(9, 7), (2, 6)])
def test_a_validation_is_the_mean_over_its_images(batches: int, count: int) -> None:
    shades = np.array([10, 250, 100, 130, 90, 200, 255])  # batches of 3, 3 and 1
    data = [(np.full((4, 4), s, np.uint8), n) for s, n in zip(shades, LABELS, strict=True)]
    device, model = torch.device("cpu"), Brightness()
    cce, accuracy = loss_function("cce"), metric_function("accuracy")
    rule = optimizer("sgd", model.parameters(), 0.1)
    step = TrainStep(model, cce, accuracy, rule, None, Ranks(device))
    loader, augment = Loader(data, 3, 0, False, 0, device), Augmentations(["uint8_rescale"], (4, 4))
    validation = Validation(step, loader, augment, Generators(0, device), batches)
    bright, label = (shades / 255 - 0.5)[:count], LABELS[:count]
    losses = np.logaddexp(0, np.where(label == 1, -2, 2) * bright)
    expected = losses.mean(), ((bright > 0) == label).mean(), count
    assert validation.measure() == pytest.approx(expected, rel=1e-6)
    assert model.training and model.dropout.training
    model.dropout.eval()  # a part that is frozen stays so
    assert validation.measure(leave=lambda: True) is None
    assert model.training and not model.dropout.training


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("name", ["l2", "pearson"])
def test_labels_of_any_type_count_as_one_hot(name: str, kind: torch.dtype) -> None:
    labels = torch.from_numpy(LABELS).to(kind)
    found = loss_function(name)(torch.from_numpy(LOGITS), labels).item()
    assert found == loss_function(name)(torch.from_numpy(LOGITS), torch.from_numpy(ONE_HOT)).item()


def test_two_outputs_that_meet_the_one_hot_labels() -> None:
    logits = torch.from_numpy(ONE_HOT).float()
    labels = torch.from_numpy(LABELS)
    assert loss_function("l2")(logits, labels).item() == 0
    assert loss_function("pearson")(logits, labels).item() == pytest.approx(0, abs=1e-5)
    assert loss_function("pearson")(-logits, labels).item() == pytest.approx(2, abs=1e-5)
    assert loss_function("l2")(1 - logits, labels).item() == len(LABELS)  # ½ · 2 a batch's image


@pytest.mark.parametrize("shape", [(7, 1), (1,)])
@pytest.mark.parametrize(
    "compared", [metric_function("accuracy"), loss_function("l2"), loss_function("pearson")]
)
def test_labels_of_another_shape_are_refused(compared, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(7,\), found \(" + str(shape[0])):
        compared(torch.from_numpy(LOGITS), torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize(
    ("choose", "name", "nearest"),
    [(loss_function, "ccee", "'cce'"), (metric_function, "acuracy", "'accuracy'")],
)
def test_unknown_names_give_the_nearest(choose, name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*{nearest}"):
        choose(name)
