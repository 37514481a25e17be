"""The learning rate from update to update."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from support.errors import choose

COOLDOWN = 0.2  # the last share of the run, over which 'cooldown' lowers the learning rate

# By the share of the run after the warm-up that is done, 0–1: the share of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "cooldown": lambda done: min(1, (1 - done) / COOLDOWN),
}


class Schedule:
    """Sets an optimizer's learning rate, that of all its groups, before each update.

    Over the first ``warmup`` updates it grows linearly to ``lr``; then it stays (``'constant'``),
    falls to 0 at the run's end along half a period of a cosine (``'cosine'``; Loshchilov & Hutter
    2017, equation 5, without restarts), or stays and falls to 0 linearly over the last fifth of the
    updates (``'cooldown'``; Hägele et al. 2024).
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, lr: float, name: str = "constant", warmup: int = 0
    ) -> None:
        self.optimizer, self.lr, self.warmup = optimizer, lr, warmup
        self.share = choose("lr_schedule", name, SCHEDULES)
        self.changes = name != "constant" or warmup > 0
        self._rate: Tensor | None = None

    def at(self, step: int, total: int) -> float:
        """The learning rate of the update after ``step`` updates, of ``total`` in the run; what it
        ends with holds for updates beyond."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(total - self.warmup, 1)
        return self.lr * self.share(min(done, 1.0))

    def set(self, step: int, total: int) -> None:
        """Have the optimizer use it; where it changes, through a number on the device, which a
        captured update reads anew."""
        if not self.changes:
            return
        groups = self.optimizer.param_groups
        if self._rate is None:
            self._rate = torch.zeros((), device=groups[0]["params"][0].device)
        self._rate.fill_(self.at(step, total))
        for group in groups:
            group["lr"] = self._rate
