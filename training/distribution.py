"""Several processes that compute what one would: the ranks of a ``torchrun``.

Each rank holds the whole network and a slice of every batch. Three things join them: the logits of
all ranks, so that each computes the loss of the total batch; the statistics of every batch
normalisation; and the gradients, which DistributedDataParallel sums up.
"""

import inspect
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)


class OtherRankError(RuntimeError):
    """Another of the processes that train together failed, and says why itself."""


class Ranks:
    """This process among those that train together; alone where there are no others.

    Args:
        device: where this process computes.

    Attributes:
        rank, world_size: this process's number and how many there are.
        is_first: whether this process is the one that writes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.world_size = 0, 1
        self._control: Any = None
        if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                timeout=TIMEOUT,
                device_id=device if device.type == "cuda" else None,
            )
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
            # Words between the hosts go past the devices, which then need not wait.
            self._control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.is_first = self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients and batch statistics joined over all ranks.

        A layer with the attribute ``over_ranks`` (batch normalisation) is given the functions that
        join its statistics and their gradients.
        """
        if self.world_size == 1:
            return model
        for module in _with(model, "over_ranks"):
            module.over_ranks, module.sum_over_ranks = join_statistics, sum_over_ranks
        # The joined statistics keep the running averages equal. PyTorch 2.13 renamed the option.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        option: dict[str, Any] = {name: False}
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **option,
        )

    def place(self, model: nn.Module, sizes: list[int]) -> tuple[int, int]:
        """Tell the layers that draw random numbers an image which images of a batch are here.

        Args:
            model: its modules with the attributes ``draw_images`` and ``draw_offset`` are told.
            sizes: images of each rank.

        Returns:
            Images of the total batch, and which of them this rank's first is.
        """
        total, offset = sum(sizes), sum(sizes[: self.rank])
        if self.world_size > 1:
            for module in _with(model, "draw_images"):
                module.draw_images, module.draw_offset = total, offset
        return total, offset

    def agree(self, word: int, images: int = 0) -> tuple[int, list[int]]:
        """The gravest word of all ranks, and how many images each holds."""
        if self.world_size == 1:
            return word, [images]
        words = torch.zeros(self.world_size, 2, dtype=torch.int64)
        words[self.rank] = torch.tensor([word, images])
        dist.all_reduce(words, group=self._control)
        return int(words[:, 0].max()), words[:, 1].tolist()

    def first(self, action: Callable[[], T]) -> T:
        """What the first rank's ``action()`` returns (anything that can be pickled), on all ranks.

        Raises:
            OtherRankError: on the other ranks, where the action raised on the first.
        """
        if self.world_size == 1:
            return action()
        box: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                box[0] = action()
            except Exception as error:  # the other ranks must hear of it, whatever it is
                box[1], failure = str(error), error
        dist.broadcast_object_list(box, src=0, group=self._control)
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise OtherRankError(f"the first process failed: {box[1]}")
        return box[0]

    def from_all(self, value: Any) -> list[Any]:
        """Every rank's value, on all ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.agree(0)

    def close(self) -> None:
        """Leave the other processes."""
        if self._control is not None:
            dist.destroy_process_group()
            self._control = None


def _with(model: nn.Module, attribute: str) -> list[Any]:
    """The modules that have an attribute of that name."""
    return [module for module in model.modules() if hasattr(module, attribute)]


def device_of(name: str) -> torch.device:
    """The device that ``--device`` means; with several ranks, each takes its own GPU.

    Args:
        name: ``'auto'`` (a GPU where there is one), ``'cpu'``, ``'cuda'``, ``'cuda:1'`` …

    Raises:
        ValueError: the name is not a device, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"--device must be auto, cpu, cuda or cuda:<number>, found {name!r}"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        local = int(os.environ.get("LOCAL_RANK", 0))
        device = torch.device("cuda", local if device.index is None else device.index)
        if device.index >= count:
            raise ValueError(f"--device {name}: this machine has {count} CUDA devices")
        torch.cuda.set_device(device)
    return device


def joined(own: Tensor, sizes: list[int], rank: int) -> Tensor:
    """The rows (n, C) of all ranks, in their order, differentiable for this rank's own rows.

    What follows is computed by every rank alike; each then holds the gradient of its own rows.
    """
    return _Join.apply(own, sizes, rank)


class _Join(torch.autograd.Function):
    """Rows of all ranks, through a sum over ranks of tables that are zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        table = own.new_zeros(sum(sizes), own.shape[1])
        table[ctx.rows] = own
        dist.all_reduce(table)
        return table

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows], None, None


def join_statistics(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over n of the values of all ranks, from each rank's own.

    Args:
        mean, variance: (K,), this rank's, the variance over n.
        count: number of values that they were taken over.

    Returns:
        Mean (K,), variance (K,) and count (a scalar tensor) over all ranks; differentiable: what
        one rank's values do to another rank's loss is counted.
    """
    own = torch.cat([mean, variance, mean.new_full((1,), count)])
    table = _Gather.apply(own)  # (ranks, 2 K + 1)
    means, variances = table[:, : len(mean)], table[:, len(mean) : -1]
    counts = table[:, -1:]
    total = counts.sum()
    share = counts / total
    joint = (share * means).sum(0)
    return joint, (share * (variances + (means - joint).square())).sum(0), total


def sum_over_ranks(own: Tensor) -> Tensor:
    """The sum of all ranks' tensors; without a gradient of its own."""
    total = own.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    """Every rank's vector (C,) as rows (ranks, C); gradients of all ranks add up."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        table = own.new_zeros(dist.get_world_size(), len(own))
        table[dist.get_rank()] = own
        dist.all_reduce(table)
        return table

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
