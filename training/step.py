"""One update of the network; on a CUDA device as a graph, without the host's launches."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.distribution import Ranks
from training.losses import Loss

EAGER_STEPS = 3  # of a shape before its capture: they load kernels and make the optimizer's state


class TrainStep:
    """Forward, backward and update on one batch, without asking the device for a number.

    The processes of ``ranks`` compute what one would on the total batch. They are joined three
    times: logits and labels of all, so that each computes the loss of the total batch; the
    statistics of each batch normalisation; and the gradients, as one vector.

    Args:
        model: the network, on its device.
        loss, metric: functions of logits and labels.
        optimizer: over the network's parameters.
        clip_gradients: largest global norm of the gradient, or None.
        ranks: the processes that train together.
        captured: replay the update as a CUDA graph, what the processes exchange included; without
            effect on a CPU. The numbers are the same.
        generators: what the network draws from, on the device; PyTorch's default one is included.

    Attributes:
        infer: the network's forward pass where no gradient is asked for, captured likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        metric: Loss,
        optimizer: torch.optim.Optimizer,
        clip_gradients: float | None,
        ranks: Ranks,
        *,
        captured: bool = False,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.model: Any = model
        self.loss, self.metric, self.optimizer = loss, metric, optimizer
        self.clip_gradients, self.ranks, self.captured = clip_gradients, ranks, captured
        self.infer: Any = GraphedForward(model, generators) if captured else model
        self._replayed = Replayed(self._update, generators, EAGER_STEPS, self._fixed)
        ranks.join(model)
        ranks.before_leaving(self._replayed.release)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Update the network on this rank's images (n, 1, H, W) and labels (n,).

        Returns:
            Loss and metric of the total batch before the update, and the global norm of the
            gradient before clipping: scalars on the device, overwritten by the next call.
        """
        if self.ranks.world_size > 1 and not self.ranks.sizes:
            self.ranks.place(self.model, self.ranks.agree(0, len(labels))[1])
        update = self._replayed if self.captured else self._update
        return update(images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        logits, _ = self.model(images)
        logits, labels = self.ranks.joined(logits, labels)
        loss, metric = self.loss(logits, labels), self.metric(logits.detach(), labels)
        loss.backward()
        self.ranks.sum_gradients(self.model)
        norm = clip_gradients(self.model.parameters(), self.clip_gradients)
        self.optimizer.step()
        if hasattr(self.model, "constrain"):
            self.model.constrain()
        return loss.detach(), metric, norm

    def _fixed(self) -> tuple[Any, ...]:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        rates = [id(rate) if isinstance(rate, Tensor) else rate for rate in rates]
        return self.model.training, *rates, *self.ranks.sizes


class Replayed:
    """A computation on tensors, recorded as a CUDA graph and replayed.

    The first calls of a shape run as they are; the next one is recorded, and all that follow replay
    it. Other shapes (the last, smaller batch of an epoch) go on running as they are, as all do on a
    CPU. The numbers are the same either way: random ones too, drawn from registered generators
    whose seed and place in the sequence each replay takes up. What a call returns is overwritten by
    the next one.

    Args:
        call: a function of tensors on one device, which is not asked for a number.
        generators: what it draws from, on the device; PyTorch's default one is included.
        eager: calls of a shape before its recording.
        fixed: gives what the recording holds fixed beside shapes and types.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        generators: Sequence[torch.Generator] = (),
        eager: int = 1,
        fixed: Callable[[], tuple[Any, ...]] = tuple,
    ) -> None:
        self.call, self.generators, self.eager, self.fixed = call, generators, eager, fixed
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._key: tuple[Any, ...] = ()
        self._results: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        """What the computation gives for these tensors."""
        if inputs[0].device.type != "cuda":
            return self.call(*inputs)
        key = *((x.shape, x.dtype) for x in inputs), *self.fixed()
        self._seen[key] += 1
        if self._graph is None or self._key != key:
            if self._seen[key] <= self.eager or self._seen[key] < max(self._seen.values()):
                return self.call(*inputs)
            self._key, self._graph = key, self._recorded(inputs)
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._results

    def _recorded(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self.release()
        self._inputs = tuple(x.clone() for x in inputs)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # Other threads may call the driver meanwhile: the loader pins memory, NCCL looks on.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._results = self.call(*self._inputs)
        return graph

    def release(self) -> None:
        """Forget the recording, and give back what it holds."""
        if self._graph is not None:
            self._graph.reset()
        self._graph = self._results = None


class GraphedForward(Replayed):
    """A network's forward pass without gradients, recorded at the second batch of a shape.

    The recorded pass reads the weights where they lie, so updates in place reach it; layers are
    taken as they are then (lesions, number of steps).

    Args:
        network: images (N, 1, H, W) → a tensor or a tuple of tensors.
        generators: what it draws from, on its device; PyTorch's default one is included.
    """

    def __init__(self, network: nn.Module, generators: Sequence[torch.Generator] = ()) -> None:
        super().__init__(network, generators, fixed=lambda: (network.training,))

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Any:
        """What the network gives for a batch of images."""
        return super().__call__(*inputs)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], largest: float | None) -> Tensor:
    """Scale gradients down to a global norm of at most ``largest``, as TensorFlow does.

    Returns the norm before, a scalar on the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if largest is not None:
        torch._foreach_mul_(gradients, largest / norm.clamp(min=largest))
    return norm
