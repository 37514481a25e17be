"""The feedforward control of the 2018 release: five layers of large kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import initial
from layers.gabor import GaborDrive
from layers.horizontal import HorizontalKernel
from layers.normalisation import BatchNormalisation
from layers.readout import Readout
from support.kinds import whole


class FeedforwardNetwork(nn.Module):
    """Gabor drive → ``layers`` × (convolution, normalisation, relu) → readout.

    Shapes: images (N, 1, H, W), float32 in 0–1 → logits (N, 2) for label 0 and 1, and activity
    (N, filters, H, W), that of the last layer.

    Args:
        layers: number of convolutions.
        filters: channels of each.
        kernel_size: width of their kernels in pixels; same padding, as TensorFlow splits it (20
            pads 9 before and 10 after).
        gabor_size: width of the Gabor kernels in pixels.
        generator: source of the initial values.
    """

    def __init__(
        self,
        layers: int = 5,
        filters: int = 9,
        kernel_size: int = 20,
        gabor_size: int = 7,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"layers": layers, "filters": filters, "kernel_size": kernel_size}
        layers, filters, kernel_size = (whole(1).of(*size) for size in sizes.items())
        self.options = {**sizes, "gabor_size": gabor_size}
        self.drive = GaborDrive(gabor_size)
        inputs = [self.drive.channels] + [filters] * (layers - 1)
        self.kernels = nn.ParameterList(
            initial.kernel(filters, n, kernel_size, False, generator) for n in inputs
        )
        self.norms = nn.ModuleList(BatchNormalisation(filters) for _ in inputs)
        self.readout = Readout(filters, generator)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        activity = self.drive(images)
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            activity = F.relu(norm(HorizontalKernel(kernel)(activity)))  # (N, filters, H, W)
        return self.readout(activity), activity
