"""One update of the network."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.distribution import Ranks, joined
from training.losses import Loss


class TrainStep:
    """Forward, backward and update on one batch, without asking the device for a number.

    Args:
        model: the network, on its device.
        loss, metric: functions of logits and labels.
        optimizer: over the network's parameters.
        clip_gradients: largest global norm of the gradient, or None.
        ranks: the processes that train together.

    Attributes:
        model: the network as ``ranks`` wraps it.
        infer: computes the network's forward pass where no gradient is asked for.
        sizes: images of each rank in the batch at hand; set it before a call when there are
            several ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        metric: Loss,
        optimizer: torch.optim.Optimizer,
        clip_gradients: float | None,
        ranks: Ranks,
    ) -> None:
        self.network: Any = model
        self.model = ranks.wrap(model)
        self.infer: Callable[[Tensor], Any] = model
        self.loss, self.metric = loss, metric
        self.optimizer = optimizer
        self.clip_gradients = clip_gradients
        self.ranks = ranks
        self.sizes: list[int] = []

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Update the network on this rank's images (n, 1, H, W) and labels (n,).

        Returns:
            Loss and metric of the total batch before the update, and the global norm of the
            gradient before clipping: scalars on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, metric = self.measure(images, labels)
        # DistributedDataParallel gives the mean over ranks of what is a sum.
        (loss * self.ranks.world_size if self.ranks.world_size > 1 else loss).backward()
        norm = clip_gradients(self.network.parameters(), self.clip_gradients)
        self.optimizer.step()
        if hasattr(self.network, "constrain"):
            self.network.constrain()
        return loss.detach(), metric, norm

    def measure(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and metric of the total batch."""
        network = self.model if torch.is_grad_enabled() else self.infer
        logits, _ = network(images)
        if self.ranks.world_size > 1:
            logits = joined(logits, self.sizes, self.ranks.rank)
            labels = joined(labels[:, None], self.sizes, self.ranks.rank)[:, 0]
        return self.loss(logits, labels), self.metric(logits.detach(), labels)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], largest: float | None) -> Tensor:
    """Scale the gradients down to a global norm of at most ``largest``, as TensorFlow does.

    Returns:
        The norm before, a scalar on the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if largest is not None:
        torch._foreach_mul_(gradients, largest / norm.clamp(min=largest))
    return norm
