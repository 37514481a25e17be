"""What a run has measured so far."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.errors import UserError

COUNTS = ("_images", "_step")
# An earlier version did not record these.
NEW = ("train_images", "validation_images", "validation_seconds")
# Of the runs in docs/runs this tells eight: seven that were at chance to their end, and one that
# learned slowly.
STUCK_IMAGES, STUCK_WITHIN = 100_000, 5e-4


@dataclass
class History:
    """Losses and metrics of every update, the first that of step 1, and of every validation, means
    over its images.

    ``validation_seconds`` are those trained up to and with each validation, over all sessions and
    without the pauses between them; not a number where that was not counted.
    """

    train_loss: list[float] = field(default_factory=list)
    train_metric: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    train_images: list[int] = field(default_factory=list)  # up to and with each update
    validation_step: list[int] = field(default_factory=list)  # updates done before each validation
    validation_loss: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)
    validation_images: list[int] = field(default_factory=list)  # training images before each
    validation_seconds: list[float] = field(default_factory=list)

    def validated_at(self, step: int) -> bool:
        """Whether the last validation was at this step."""
        return self.validation_step[-1:] == [step]

    def best(self) -> int | None:
        """Which validation had the highest metric, then the lowest loss; None before the first."""
        metrics, losses = self.validation_metric, self.validation_loss
        return max(range(len(losses)), key=lambda i: (metrics[i], -losses[i]), default=None)

    def stuck_at(self) -> float | None:
        """The mean training loss of the last 100,000 images where it is ln 2, the cross-entropy of
        one answer to every image, of two labels equally frequent. Else None."""
        seen = self.train_images[-1] if self.train_images else 0
        first = bisect_right(self.train_images, seen - STUCK_IMAGES)
        if not first:
            return None
        mean = float(np.mean(self.train_loss[first:]))
        return mean if abs(mean - math.log(2)) < STUCK_WITHIN else None

    def until(self, step: int) -> "History":
        """The history up to a step, its validation included."""
        validations = sum(at <= step for at in self.validation_step)
        ends = {name: validations if "validation" in name else step for name in vars(self)}
        return History(**{name: values[: ends[name]] for name, values in vars(self).items()})

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors for a checkpoint (float64; counts int64)."""
        return {
            name: torch.tensor(
                values, dtype=torch.int64 if name.endswith(COUNTS) else torch.float64
            )
            for name, values in vars(self).items()
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], batch: int, epoch: int) -> "History":
        """The history that :meth:`state` gave, as tensors or arrays by name.

        An earlier version did not count: images follow from the steps, with ``batch`` images of
        a batch and ``epoch`` of an epoch; seconds are unknown.
        """
        history = cls(**{name: values.tolist() for name, values in state.items()})
        if "train_images" not in state:
            steps, validations = range(1, len(history.train_loss) + 1), history.validation_step
            history.train_images = [images_after(step, batch, epoch) for step in steps]
            history.validation_images = [images_after(step, batch, epoch) for step in validations]
            history.validation_seconds = [math.nan] * len(validations)
        return history

    def results(self, metric: str) -> dict[str, np.ndarray]:
        """Arrays for the results file; ``metric`` is the metric's name."""
        arrays = {_in_results(name, metric): value.numpy() for name, value in self.state().items()}
        return {"train_step": np.arange(1, len(self.train_loss) + 1), **arrays}

    @classmethod
    def of_results(
        cls, arrays: Mapping[str, np.ndarray], metric: str, batch: int, epoch: int, path: Path
    ) -> "History":
        """The history that a results file holds (see :meth:`of`); UserError if it lacks arrays."""
        names = {name: _in_results(name, metric) for name in vars(cls())}
        missing = [there for name, there in names.items() if not (name in NEW or there in arrays)]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: it is no run's results")
        found = {name: arrays[there] for name, there in names.items() if there in arrays}
        return cls.of(found, batch, epoch)


def images_after(step: int, batch: int, epoch: int) -> int:
    """Training images after so many updates, where an epoch's last batch is what was left of it."""
    epochs, rest = divmod(step, -(-epoch // batch))
    return epochs * epoch + rest * batch


def _in_results(name: str, metric: str) -> str:
    """An attribute's name in a results file."""
    name = name.replace("validation_", "val_").replace("gradient_norm", "train_gradient_norm")
    return name.replace("_metric", f"_{metric}")
