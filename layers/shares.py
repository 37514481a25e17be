"""A pass on a CPU shared by images: each thread computes some of them from beginning to end.

PyTorch's own threads share each operation instead, and meet after every one of them. Those of a
circuit are short, and where another program takes a core from time to time, all threads wait for it
at each. Here they meet once in the forward pass and once in the backward pass.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layers.methods import own_backward

LEAST = 4  # images of a share where there are more than two: each has a gradient of W to itself


@contextmanager
def shared_images(network: nn.Module, images: int) -> Iterator[None]:
    """Within the block, PyTorch's threads share the passes of the network's circuits by images.

    One thread computes all else, or as many as there are for each share. Nothing changes on a CUDA
    device, for one thread, or where no layer is ``shareable()`` (see HGRU).

    Args:
        network: whose layers are told so (``shares``).
        images: in a batch.
    """
    threads = torch.get_num_threads()
    shares = min(threads, images, max(2, images // LEAST))
    found: list[Any] = [m for m in network.modules() if hasattr(m, "shareable")]
    layers = [layer for layer in found if shares > 1 and layer.shareable()]
    before = [layer.shares for layer in layers]  # more than one within another such block
    try:
        for layer in layers:
            layer.shares = shares
        torch.set_num_threads(threads // shares if layers else threads)
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.shares = own
        torch.set_num_threads(threads)


def in_shares(
    call: Callable[[Sequence[Tensor]], Tensor],
    shares: int,
    by_image: Sequence[Tensor],
    common: Sequence[Tensor],
) -> Tensor:
    """What ``call([*by_image, *common])`` returns, (N, …), computed in shares of the N images.

    Args:
        call: treats every image by itself.
        shares: how many.
        by_image: tensors (N, …).
        common: tensors that serve all images; their gradient is the sum over shares, in order.
    """
    shares, grad = min(shares, len(by_image[0])), torch.is_grad_enabled()
    return _Shared.apply(call, shares, len(by_image), grad, *by_image, *common)


class _Shared(torch.autograd.Function):
    """Each share is a graph by itself, on leaves of its own."""

    @staticmethod
    def forward(ctx, call, shares, split, grad, *tensors):
        wanted = [grad and needed for needed in ctx.needs_input_grad[4:]]

        def compute(*own: Tensor) -> tuple[list[Tensor], Tensor]:
            with torch.set_grad_enabled(any(wanted)):
                leaves = [x.detach().requires_grad_(w) for x, w in zip(own, wanted, strict=True)]
                return leaves, call(leaves)

        parts = zip(*(x.tensor_split(shares) for x in tensors[:split]), strict=True)
        ctx.split, ctx.shares = split, each(compute, [(*own, *tensors[split:]) for own in parts])
        return torch.cat([result.detach() for _, result in ctx.shares])

    @staticmethod
    @own_backward
    def backward(ctx, grad):
        keep = torch._C._autograd._get_current_graph_task_keep_graph()  # retain_graph

        def compute(share: tuple[list[Tensor], Tensor], grad: Tensor) -> Iterator[Tensor]:
            leaves, result = share
            wanted = [x for x in leaves if x.requires_grad]
            return iter(torch.autograd.grad(result, wanted, grad, retain_graph=keep))

        found = each(
            compute, list(zip(ctx.shares, grad.tensor_split(len(ctx.shares)), strict=True))
        )
        gradients: list[Tensor | None] = [None] * 4
        for i, wanted in enumerate(ctx.needs_input_grad[4:]):
            own = [next(share) for share in found if wanted]
            joined = torch.cat if i < ctx.split else functools.partial(functools.reduce, torch.add)
            gradients.append(joined(own) if wanted else None)
        return tuple(gradients)


def each(call: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
    """``call(*a)`` for each of two arguments or more, in a thread each; this one takes the first.

    Raises:
        Exception: what a call raised, once no other is still running.
    """
    first, *others = arguments
    pool = _pool(len(others), torch.get_num_threads())
    running = [pool.submit(call, *own) for own in others]
    try:
        return [call(*first), *(one.result() for one in running)]
    finally:
        wait(running)


@functools.cache
def _pool(threads: int, operations: int) -> ThreadPoolExecutor:
    """So many threads, whose operations take so many of PyTorch's own."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(operations,))


os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads stay with the parent
