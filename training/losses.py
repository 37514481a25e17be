"""The losses of the 2018 release, on a batch's logits (N, C) and integer labels (N,).

The target of ``l2`` and ``pearson`` is the label itself for a network of one output, else its
one-hot vector.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from support.errors import UserError, choose

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over images of the softmax cross-entropy with integer labels (``cce``), in nats."""
    check_outputs("loss_function cce", logits, "l2 or pearson")
    return F.cross_entropy(logits, labels)


def l2(logits: Tensor, labels: Tensor) -> Tensor:
    """Half the sum, over images and outputs, of the squared difference to the target."""
    return (logits - _target(logits, labels)).square().sum() / 2


def pearson(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − the correlation of outputs and target, in 0–2 (see :func:`correlation`)."""
    return 1 - correlation(logits, labels)


def correlation(logits: Tensor, labels: Tensor) -> Tensor:
    """Pearson's correlation over images of outputs and target, averaged over outputs.

    As in the release, 10⁻⁴ is added to the means and 10⁻¹² to the product of the deviations.
    """
    target = _target(logits, labels)
    x = logits - (logits.mean(0) + 1e-4)
    y = target - (target.mean(0) + 1e-4)
    deviations = torch.sqrt(x.square().mean(0)) * torch.sqrt(y.square().mean(0))
    return ((x * y).mean(0) / (deviations + 1e-12)).mean()


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """ValueError unless there is a label for each image, (N,): others, as (N, 1), would be compared
    with all images' logits."""
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must have the shape (N,) = ({len(logits)},), found {tuple(labels.shape)}"
        )


def check_outputs(setting: str, logits: Tensor, instead: str) -> None:
    """UserError unless there is an output for each label: of one alone the largest is always it."""
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise UserError(
            f"{setting} needs logits of the shape (N, C), an output for each of C >= 2 labels, "
            f"found {tuple(logits.shape)}; a network of one output takes {instead}"
        )


def _target(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels as numbers of the shape and type of the logits (N, C); of that shape, as they are."""
    if labels.shape == logits.shape:
        return labels.to(logits.dtype)
    check_labels(logits, labels)
    if logits.shape[1] == 1:
        return labels[:, None].to(logits.dtype)
    return F.one_hot(labels.long(), logits.shape[1]).to(logits.dtype)


LOSSES: dict[str, Loss] = {
    "cce": cross_entropy,
    "sparse_ce": cross_entropy,
    "l2": l2,
    "pearson": pearson,
}


def loss_function(name: str) -> Loss:
    """The loss of that name; UserError if there is none."""
    return choose("loss_function", name, LOSSES)
