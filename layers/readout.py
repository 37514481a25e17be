"""The readout of the 2018 release: one decision from a map of activity."""

import torch
from torch import Tensor, nn

from layers import initial
from layers.normalisation import EPSILON, BatchNormalisation

CLASSES = 2


class Readout(nn.Module):
    """1×1 convolution to 2 channels → maximum over all positions → normalisation → linear.

    Shapes: activity (N, K, H, W) → logits (N, 2), for label 0 and 1.

    Args:
        channels: K.
        generator: source of the initial values.
        epsilon: of the normalisation.
    """

    def __init__(
        self,
        channels: int,
        generator: torch.Generator | None = None,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.evidence = nn.Parameter(initial.kernel(CLASSES, channels, 1, False, generator))
        self.norm = BatchNormalisation(CLASSES, biased_running_variance=True, epsilon=epsilon)
        self.linear = nn.Linear(CLASSES, CLASSES)
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)  # Glorot's rule
        nn.init.zeros_(self.linear.bias)

    def forward(self, activity: Tensor) -> Tensor:
        evidence = nn.functional.conv2d(activity, self.evidence)  # (N, 2, H, W)
        strongest = evidence.amax((2, 3))  # (N, 2)
        return self.linear(self.norm(strongest))
