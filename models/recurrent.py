"""The recurrent network of the 2018 release: Gabor drive → hGRU → normalisation → readout."""

from typing import Any

import torch
from torch import Tensor, nn

from layers.gabor import GaborDrive
from layers.hgru import HGRU
from layers.normalisation import EPSILON, BatchNormalisation
from layers.readout import Readout
from support.errors import about


class RecurrentNetwork(nn.Module):
    """Decides whether the two discs of a Pathfinder image lie on one contour.

    Shapes: images (N, 1, H, W), float32 in 0–1 → logits (N, 2) for label 0 and 1, and activity
    (N, 25, H, W), the hGRU's H2 after its normalisation.

    Args:
        gabor_size: width of the Gabor kernels in pixels.
        generator: source of the initial values.
        readout_epsilon: what the two normalisations after the circuit add to the variance. The
            release's is 1e-3, far above the variance that H2 begins with (some 1e-6 at 150×150
            pixels): they then scale by a constant, and do not make up for a small H2.
        options: those of :class:`layers.hgru.HGRU`.
    """

    def __init__(
        self,
        gabor_size: int = 7,
        generator: torch.Generator | None = None,
        readout_epsilon: float = EPSILON,
        **options: Any,
    ) -> None:
        super().__init__()
        self.drive = GaborDrive(gabor_size)
        self.hgru = HGRU(self.drive.channels, generator=generator, **options)
        own = {"gabor_size": gabor_size, "readout_epsilon": readout_epsilon}
        # All that the network was built with.
        self.options = {**own, **self.hgru.options}
        with about("readout_"):
            self.norm = BatchNormalisation(self.drive.channels, epsilon=readout_epsilon)
        self.readout = Readout(self.drive.channels, generator, readout_epsilon)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        X = self.drive(images)
        activity = self.norm(self.hgru(X))
        return self.readout(activity), activity

    def before_the_loop(self) -> list[nn.Parameter]:
        """The weights that the release never updates under TensorFlow 1.7 and later.

        It computes the circuit in a ``tf.while_loop``, save where the normalisation is each step's
        own, and the gradient does not get past the loop (docs/differences.md).
        """
        written_out = self.hgru.batch_norm and not self.hgru.reuse
        return [] if written_out else list(self.drive.parameters())
