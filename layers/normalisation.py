"""Batch normalisation by the original's rules (TensorFlow's), over one process or several."""

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.methods import wants_kernels
from layers.published import as_published
from support.kinds import number, one_of

if TYPE_CHECKING:
    from layers.kernels.peers import Peers

EPSILON = 1e-3


class OverRanks(Protocol):
    """The processes that share a batch.

    Attributes:
        peers: their GPUs' memory, where exchanges go through it (layers.kernels.peers).
    """

    peers: "Peers | None"

    @property
    def shares(self) -> Tensor:
        """Each one's share of the batch at hand (ranks,)."""

    def total(self, count: int) -> int:
        """How many values all have, where this one has `count`; in proportion to the images."""

    def gather(self, own: Tensor) -> Tensor:
        """Every process's numbers (ranks, n) from this one's, differentiably: what one process's
        values do to another one's loss is counted."""

    def sum(self, own: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place of this one's or anew; no gradient."""


class BatchNormalisation(nn.Module):
    """Normalise each channel by mean and variance over images and positions, then scale and shift.

    It is none of PyTorch's own: ``torch.optim.swa_utils.update_bn`` and
    ``SyncBatchNorm.convert_sync_batchnorm`` pass it over without a word.

    Shapes: (N, K, H, W) or (N, K) → the same.

    Args:
        channels: K.
        scale: starting value of the scale (``weight``).
        shift: whether there is a shift (``bias``), starting at 0.
        momentum: share, 0–1, by which the running averages move at each use in training.
        validation: what evaluation normalises by: ``'running'`` averages or the ``'batch'`` at
            hand, as the original's circuits do.
        biased_running_variance: the running variance takes the batch's variance over n rather than
            over n − 1.
        epsilon: added to the variance, above 0.

    Raises:
        UserError: momentum, validation or epsilon is none of these.

    Attributes:
        over_ranks: None, or the processes that share the batch (set by ``training``).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        *,
        scale: float = 1.0,
        shift: bool = True,
        momentum: float = 0.01,
        validation: str = "running",
        biased_running_variance: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        one_of(("running", "batch")).of("validation", validation)
        self.epsilon: float = number(above=0).of("epsilon", epsilon)
        self.momentum: float = number(least=0, most=1).of("momentum", momentum)
        self.validation = validation
        self.biased_running_variance = biased_running_variance
        self.over_ranks: OverRanks | None = None
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))
        self.bias = nn.Parameter(torch.zeros(channels)) if shift else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        none = x.numel() == 0 and self.over_ranks is None  # of no image there is nothing to take
        if none or (not self.training and self.validation == "running"):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon
            )
        if wants_kernels(x.device) and self._fits(x) and self.as_published():
            from layers.kernels.normalisation import batch_normalisation

            return batch_normalisation(self, x)
        if self.over_ranks is None:
            return self._by_this_process(x)
        return self._by_all_processes(x)

    def _fits(self, x: Tensor) -> bool:
        """Whether x and all that is the channels' own are of the shapes and type that kernels
        read; of others PyTorch's operations say what is wrong."""
        own = [self.weight, self.bias, self.running_mean, self.running_var]
        read = [(v.shape, v.dtype) for v in own if v is not None]
        known = x.dim() == 4 and x.numel() > 0 and x.dtype == torch.float32
        return known and {*read} == {(x.shape[1:2], x.dtype)}

    def as_published(self) -> bool:
        """Whether nobody has changed what kernels compute in this one's place."""
        ways = self._by_this_process, self._by_all_processes
        return as_published(self.forward, *ways, self.observe, self._move_running_averages)

    def _by_this_process(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[1]
        mean = variance = None  # in place a transform of torch.func could not follow them
        if self.training:
            mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        # With momentum 1 the kernel hands back the batch's mean and its variance over n − 1.
        y = torch.batch_norm(
            x, self.weight, self.bias, mean, variance, True, 1.0, self.epsilon,
            torch.backends.cudnn.enabled,
        )  # fmt: skip
        if mean is not None and variance is not None:
            if count == 1:
                variance = torch.zeros_like(variance)  # over n − 1 it is 0 / 0
            elif self.biased_running_variance:
                variance = variance * ((count - 1) / count)
            self._move_running_averages(mean, variance)
        return y

    def observe(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """In training, move the running averages towards a batch's mean and its variance over n,
        (K,), which were taken over `count` values."""
        if self.training:
            if not self.biased_running_variance:
                variance = variance * (count / max(count - 1, 1))
            self._move_running_averages(mean, variance)

    def _by_all_processes(self, x: Tensor) -> Tensor:
        over_ranks = self.over_ranks
        assert over_ranks is not None
        variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        means, variances = over_ranks.gather(torch.cat([mean, variance])).chunk(2, dim=1)
        shares = over_ranks.shares.to(x.dtype)
        mean = shares @ means
        variance = shares @ (variances + (means - mean).square())
        self.observe(mean, variance, over_ranks.total(x.numel() // x.shape[1]))

        def per_channel(v: Tensor) -> Tensor:
            return v.view((1, -1) + (1,) * (x.dim() - 2))

        factor = self.weight * torch.rsqrt(variance + self.epsilon)
        y = (x - per_channel(mean)) * per_channel(factor)
        return y if self.bias is None else y + per_channel(self.bias)

    def _move_running_averages(self, mean: Tensor, variance: Tensor) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)

    def extra_repr(self) -> str:
        return (
            f"{len(self.weight)}, shift={self.bias is not None}, momentum={self.momentum}, "
            f"validation={self.validation!r}, epsilon={self.epsilon:g}"
        )
