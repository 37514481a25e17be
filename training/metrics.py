"""The metrics of the 2018 release, on a batch's logits (N, C) and labels (N,); more is better."""

from torch import Tensor

from support.errors import choose
from training.losses import Loss, check_labels, check_outputs, correlation


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of images, 0–1, whose larger logit is that of the label."""
    check_labels(logits, labels)
    check_outputs("score_metric accuracy", logits, "pearson")
    return (logits.argmax(1) == labels).to(logits.dtype).mean()


METRICS: dict[str, Loss] = {"accuracy": accuracy, "pearson": correlation}


def metric_function(name: str) -> Loss:
    """The metric of that name; UserError if there is none."""
    return choose("score_metric", name, METRICS)
