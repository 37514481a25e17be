"""Updates and forward passes as CUDA graphs: what the device does, without the host's launches."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.step import TrainStep

EAGER_STEPS = 3  # of a shape before its capture: they load kernels and make the optimizer's state


class Captured:
    """A computation recorded as a CUDA graph, replayed at each call on new tensors.

    Args:
        call: a function of tensors on one CUDA device that has run on such tensors before, and
            asks the device for no number.
        inputs: tensors of the shapes and types that it will be called with.
        generators: what it draws from, on the device; PyTorch's default one is included. Each
            replay draws from their seeds and places of then.

    What a call returns is overwritten by the next one.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        inputs: Sequence[Tensor],
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self._inputs = [x.clone() for x in inputs]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # Other threads may call the driver meanwhile: the loader pins memory.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = call(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._results


class GraphedStep(TrainStep):
    """A :class:`TrainStep` on a CUDA device that captures itself and is replayed from then on.

    The first updates of a shape run as they are; the next one is captured, and all that follow
    replay it. Other shapes (the last, smaller batch of an epoch) go on running as they are. The
    numbers are the same either way: random ones too, drawn from registered generators whose seed
    and place in the sequence each replay takes up. So it is with what :meth:`measure` computes
    without gradients.

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
        self.infer = GraphedForward(self.network, generators)
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._captured: Captured | None = None
        self._captured_key: tuple[Any, ...] = ()

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key = self._key(images, labels)
        if self._captured is None or self._captured_key != key:
            self._seen[key] += 1
            if self._seen[key] <= EAGER_STEPS or self._seen[key] < max(self._seen.values()):
                return super().__call__(images, labels)
            self._captured = None  # gives its memory back
            self.optimizer.zero_grad(set_to_none=True)
            self._captured = Captured(super().__call__, (images, labels), self.generators)
            self._captured_key = key
        return self._captured(images, labels)

    def _key(self, images: Tensor, labels: Tensor) -> tuple[Any, ...]:
        """What the graph holds fixed."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        rates = [id(rate) if isinstance(rate, Tensor) else rate for rate in rates]
        return images.shape, images.dtype, labels.dtype, *rates, self.network.training


class GraphedForward:
    """A network's forward pass without gradients, captured at the second batch of a shape.

    The captured pass reads the weights where they lie, so updates in place reach it; layers are
    taken as they are at the capture (lesions, number of steps). Batches of other shapes, and
    all of them on a CPU, run as they are.

    Args:
        network: images (N, 1, H, W) → a tensor or a tuple of tensors.
        generators: what it draws from, on its device; PyTorch's default one is included.

    What a call returns is overwritten by the next one.
    """

    def __init__(self, network: nn.Module, generators: Sequence[torch.Generator] = ()) -> None:
        self.network, self.generators = network, generators
        self._seen: set[tuple[Any, ...]] = set()
        self._captured: Captured | None = None
        self._captured_key: tuple[Any, ...] = ()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        key = images.shape, images.dtype, self.network.training
        if self._captured is None:
            if images.device.type != "cuda" or key not in self._seen:
                self._seen.add(key)
                return self.network(images)
            self._captured = Captured(self.network, (images,), self.generators)
            self._captured_key = key
        return self._captured(images) if self._captured_key == key else self.network(images)
