"""What a run has measured so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.errors import UserError

WHOLE = ("train_images", "validation_step", "validation_images")
# An earlier version did not record these.
COUNTED = ("train_images", "validation_images", "validation_seconds")


@dataclass
class History:
    """Losses and metrics of every update and every validation.

    Attributes:
        train_loss, train_metric, gradient_norm: one number an update; the first is that of step 1.
        train_images: training images up to and with each update.
        validation_step, validation_images: updates done, and images seen, before each validation.
        validation_loss, validation_metric: means over the images of each validation.
        validation_seconds: seconds trained up to and with each validation, over all sessions and
            without the pauses between them; not a number where that was not counted.
    """

    train_loss: list[float] = field(default_factory=list)
    train_metric: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    train_images: list[int] = field(default_factory=list)
    validation_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)
    validation_images: list[int] = field(default_factory=list)
    validation_seconds: list[float] = field(default_factory=list)

    def validated_at(self, step: int) -> bool:
        """Whether the last validation was at this step."""
        return self.validation_step[-1:] == [step]

    def best(self) -> int | None:
        """Which validation had the highest metric, then the lowest loss; None before the first."""
        scores = list(zip(self.validation_metric, self.validation_loss, strict=True))
        by = range(len(scores))
        return max(by, key=lambda i: (scores[i][0], -scores[i][1], -i), default=None)

    def until(self, step: int) -> "History":
        """The history up to a step, its validation included."""
        validations = sum(at <= step for at in self.validation_step)
        ends = {name: validations if "validation" in name else step for name in vars(self)}
        return History(**{name: values[: ends[name]] for name, values in vars(self).items()})

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors for a checkpoint (float64; counts int64)."""
        return {
            name: torch.tensor(values, dtype=torch.int64 if name in WHOLE else torch.float64)
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
            steps = range(1, len(history.train_loss) + 1)
            history.train_images = [images_after(step, batch, epoch) for step in steps]
            history.validation_images = [
                images_after(step, batch, epoch) for step in history.validation_step
            ]
            history.validation_seconds = [math.nan] * len(history.validation_step)
        return history

    def results(self, metric: str) -> dict[str, np.ndarray]:
        """Arrays for the results file; ``metric`` is the metric's name."""
        names = _names(metric)
        arrays = {names[name]: tensor.numpy() for name, tensor in self.state().items()}
        return {"train_step": np.arange(1, len(self.train_loss) + 1), **arrays}

    @classmethod
    def of_results(
        cls, arrays: Mapping[str, np.ndarray], metric: str, batch: int, epoch: int, path: Path
    ) -> "History":
        """The history that a results file holds (see :meth:`of`); UserError if it lacks arrays."""
        names = _names(metric)
        found = {ours: arrays[there] for ours, there in names.items() if there in arrays}
        missing = sorted(names[name] for name in names.keys() - found - {*COUNTED})
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: it is no run's results")
        return cls.of(found, batch, epoch)


def images_after(step: int, batch: int, epoch: int) -> int:
    """Training images after so many updates, where an epoch's last batch is what was left of it."""
    epochs, rest = divmod(step, -(-epoch // batch))
    return epochs * epoch + rest * batch


def _names(metric: str) -> dict[str, str]:
    """Names of the attributes in a results file."""
    names = {
        name: name.replace("validation_", "val_").replace("_metric", f"_{metric}")
        for name in vars(History())
    }
    return {**names, "gradient_norm": "train_gradient_norm"}
