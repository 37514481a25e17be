"""What a run has measured so far."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class History:
    """Losses and metrics of every update and every validation.

    Attributes:
        train_loss, train_metric, gradient_norm: one number an update; the first is that of step 1.
        validation_step: updates done before each validation.
        validation_loss, validation_metric: means over the images of each validation.
    """

    train_loss: list[float] = field(default_factory=list)
    train_metric: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    validation_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)

    def validated_at(self, step: int) -> bool:
        """Whether the last validation was at this step."""
        return bool(self.validation_step) and self.validation_step[-1] == step

    def best(self) -> int | None:
        """Which validation had the highest metric, then the lowest loss; None before the first."""
        if not self.validation_step:
            return None
        scores = list(zip(self.validation_metric, self.validation_loss, strict=True))
        return max(range(len(scores)), key=lambda i: (scores[i][0], -scores[i][1], -i))

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors for a checkpoint (float64, steps int64)."""
        return {
            name: torch.tensor(
                values, dtype=torch.int64 if name == "validation_step" else torch.float64
            )
            for name, values in vars(self).items()
        }

    @classmethod
    def of(cls, state: dict[str, torch.Tensor]) -> "History":
        """The history that :meth:`state` gave."""
        return cls(**{name: values.tolist() for name, values in state.items()})

    def results(self, metric: str) -> dict[str, Any]:
        """Arrays for the results file.

        Args:
            metric: the metric's name.
        """
        return {
            "train_step": np.arange(1, len(self.train_loss) + 1),
            "train_loss": np.array(self.train_loss),
            f"train_{metric}": np.array(self.train_metric),
            "train_gradient_norm": np.array(self.gradient_norm),
            "val_step": np.array(self.validation_step, dtype=np.int64),
            "val_loss": np.array(self.validation_loss),
            f"val_{metric}": np.array(self.validation_metric),
        }
