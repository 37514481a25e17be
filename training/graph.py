"""The whole update as one CUDA graph: what the device does, without the host's launches."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from training.step import TrainStep

EAGER_STEPS = 3  # of a shape before its capture: they load kernels and make the optimizer's state


class GraphedStep(TrainStep):
    """A :class:`TrainStep` on a CUDA device that captures itself and is replayed from then on.

    The first updates of a shape run as they are; the next one is captured, and all that follow
    replay it. Other shapes (the last, smaller batch of an epoch) go on running as they are. The
    numbers are the same either way: random ones too, drawn from registered generators whose seed
    and place in the sequence each replay takes up.

    Args:
        generators: what the network draws from, on the device; PyTorch's default one is included.
        others: those of :class:`TrainStep`; one process only.

    The returned scalars are overwritten by the next call.
    """

    def __init__(self, *args: Any, generators: tuple[torch.Generator, ...] = ()) -> None:
        super().__init__(*args)
        if self.ranks.world_size > 1:
            raise ValueError("a captured step serves one process; use TrainStep for several")
        self.generators = generators
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._captured: tuple[Any, ...] | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key = self._key(images, labels)
        if self._captured != key:
            self._seen[key] += 1
            if self._seen[key] <= EAGER_STEPS or self._seen[key] < max(self._seen.values()):
                return super().__call__(images, labels)
            self._capture(key, images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._results

    def forget(self) -> None:
        """Drop the captured graph: call it after weights or optimizer state have been replaced."""
        self._captured = None
        self._seen.clear()

    def _key(self, images: Tensor, labels: Tensor) -> tuple[Any, ...]:
        """What the graph holds fixed."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        rates = [id(rate) if isinstance(rate, Tensor) else rate for rate in rates]
        return images.shape, images.dtype, labels.dtype, *rates, self.network.training

    def _capture(self, key: tuple[Any, ...], images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # Other threads may call the driver meanwhile: the loader pins memory.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._results = super().__call__(self._images, self._labels)
        self._graph, self._captured = graph, key
