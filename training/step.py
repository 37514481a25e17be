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

    Captured, the first updates of a shape run as they are; the next one is recorded as a CUDA
    graph, what the processes exchange included, and all that follow replay it. Other shapes (the
    last, smaller batch of an epoch) go on running as they are. The numbers are the same either way:
    random ones too, drawn from registered generators whose seed and place in the sequence each
    replay takes up.

    Args:
        model: the network, on its device.
        loss, metric: functions of logits and labels.
        optimizer: over the network's parameters.
        clip_gradients: largest global norm of the gradient, or None.
        ranks: the processes that train together.
        captured: record the update; without effect on a CPU.
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
        self.loss, self.metric = loss, metric
        self.optimizer = optimizer
        self.clip_gradients = clip_gradients
        self.ranks = ranks
        self.captured = captured and ranks.device.type == "cuda"
        self.generators = generators
        self.infer: Callable[[Tensor], Any] = (
            GraphedForward(model, generators) if self.captured else model
        )
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graph: Captured | None = None
        self._graph_key: tuple[Any, ...] = ()
        ranks.join(model)
        ranks.before_leaving(self._release)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Update the network on this rank's images (n, 1, H, W) and labels (n,).

        Returns:
            Loss and metric of the total batch before the update, and the global norm of the
            gradient before clipping: scalars on the device, overwritten by the next call.
        """
        if self.ranks.world_size > 1 and not self.ranks.sizes:
            self.ranks.place(self.model, self.ranks.agree(0, len(labels))[1])
        if not self.captured:
            return self._update(images, labels)
        key = self._key(images, labels)
        if self._graph is None or self._graph_key != key:
            self._seen[key] += 1
            if self._seen[key] <= EAGER_STEPS or self._seen[key] < max(self._seen.values()):
                return self._update(images, labels)
            self._release()  # gives its memory back
            self.optimizer.zero_grad(set_to_none=True)
            self._graph = Captured(self._update, (images, labels), self.generators)
            self._graph_key = key
        return self._graph(images, labels)

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

    def _key(self, images: Tensor, labels: Tensor) -> tuple[Any, ...]:
        """What the graph holds fixed."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        rates = [id(rate) if isinstance(rate, Tensor) else rate for rate in rates]
        kinds = images.shape, images.dtype, labels.dtype, self.model.training
        return *kinds, *rates, *self.ranks.sizes

    def _release(self) -> None:
        if self._graph is not None:
            self._graph.reset()
            self._graph = None


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
        # Other threads may call the driver meanwhile: the loader pins memory, NCCL looks on.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = call(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._results

    def reset(self) -> None:
        """Forget the recording, and give back what it holds."""
        self._graph.reset()


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
