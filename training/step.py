"""One update of the network, and its validation; on a CUDA device as graphs, without the host's
launches."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
from layers.hgru import layers_of
from support.errors import UserError
from support.progress import Progress
from training.distribution import Ranks
from training.losses import Loss
from training.seeds import Generators

EAGER_STEPS = 3  # of a shape before its capture: they load kernels and make the optimizer's state
SHOWN_AFTER = 5  # seconds: a validation that takes longer has a bar


@dataclass(eq=False)
class TrainStep:
    """Forward, backward and update on one batch, without asking the device for a number.

    The processes of ``ranks`` compute what one would on the total batch. They are joined three
    times: logits and labels of all, so that each computes the loss of the total batch; the
    statistics of each batch normalisation; and the gradients, as one vector.

    ``captured``: replay the update as a CUDA graph, what the processes exchange included; without
    effect on a CPU. The numbers are the same.
    """

    model: Any  # the network, on its device
    loss: Loss
    metric: Loss
    optimizer: torch.optim.Optimizer
    clip_gradients: float | None  # largest global norm of the gradient
    ranks: Ranks
    captured: bool = field(default=False, kw_only=True)
    # What the network draws from, on the device; PyTorch's default one is included.
    generators: Sequence[torch.Generator] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        # The forward pass where no gradient is asked for, captured likewise.
        self.infer: Any = (
            GraphedForward(self.model, self.generators) if self.captured else self.model
        )
        self._replayed = Replayed(self._update, self.generators, EAGER_STEPS, self._fixed)
        self.ranks.join(self.model)
        self.ranks.recordings.add(self._replayed)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Update the network on this rank's images (n, 1, H, W) and labels (n,).

        Returns:
            Loss and metric of the total batch before the update, and the global norm of the
            gradient before clipping: scalars on the device, overwritten by the next call.
        """
        if self.ranks.world_size > 1 and not self.ranks.sizes:
            self.ranks.place(self.model, self.ranks.ask(0, len(labels))()[1])
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
        for layer in layers_of(self.model):
            layer.constrain_letters()
        return loss.detach(), metric, norm

    def _fixed(self) -> tuple[Any, ...]:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        rates = [id(rate) if isinstance(rate, Tensor) else rate for rate in rates]
        return self.model.training, *rates, *self.ranks.sizes


@dataclass(eq=False)
class Replayed:
    """A computation on tensors, recorded as a CUDA graph and replayed.

    The first calls of a shape run as they are; the next one is recorded, and all that follow replay
    it. Other shapes (the last, smaller batch of an epoch) go on running as they are, as all do on a
    CPU. The numbers are the same either way: random ones too, drawn from registered generators
    whose seed and place in the sequence each replay takes up. What a call returns is overwritten by
    the next one.
    """

    call: Callable[..., Any]  # of tensors on one device, which is not asked for a number
    generators: Sequence[torch.Generator]  # that it draws from; PyTorch's default one is included
    eager: int  # calls of a shape before its recording
    fixed: Callable[[], tuple[Any, ...]]  # what the recording holds fixed beside shapes and types

    def __post_init__(self) -> None:
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
    taken as they are then (lesions, number of steps). The network makes a tensor or a tuple of
    tensors of images (N, 1, H, W).
    """

    def __init__(self, network: nn.Module, generators: Sequence[torch.Generator] = ()) -> None:
        super().__init__(network, generators, 1, lambda: (network.training,))

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


@dataclass
class Validation:
    """Loss and metric of the network on a data set.

    Several processes share the batches: each computes some of them whole, as one process would, so
    that their number changes nothing.
    """

    step: TrainStep
    loader: Loader  # gives whole batches; the same order each time
    augment: Augmentations
    generators: Generators  # seeded afresh each time
    batches: int  # to take; all where there are fewer

    def measure(self, leave: Callable[[], bool] = lambda: False) -> tuple[float, float, int] | None:
        """Mean loss, mean metric and number of images; each batch weighs by its images. None where
        ``leave()`` became true in a process: it is asked before each batch.

        Raises a UserError where none of the images could be read.
        """
        shares = self.step.ranks.every(partial(self._share, leave))
        if None in shares:
            return None
        found = [row for rows in shares if rows is not None for row in rows]
        count = sum(n for n, _, _ in found)
        if not count:
            why = "; ".join(list(self.loader.bad_records.values())[:3])
            raise UserError(f"none of the validation images could be read: {why}")
        loss = sum(n * loss for n, loss, _ in found) / count
        return loss, sum(n * metric for n, _, metric in found) / count, count

    @torch.no_grad()
    def _share(self, leave: Callable[[], bool]) -> list[tuple[int, float, float]] | None:
        """Images, loss and metric of each batch that falls to this process; None: left early."""
        step, ranks = self.step, self.step.ranks
        batches = min(self.batches, self.loader.batches_per_epoch)
        first, end = (batches * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
        counts, measured, left = [], [], False
        before = [(module, module.training) for module in step.model.modules()]
        step.model.eval()
        bar = Progress(
            total=end - first, desc="validation", unit="batch", leave=False, delay=SHOWN_AFTER,
            disable=not ranks.is_first,
        )  # fmt: skip
        with ranks.apart(step.model), bar:
            loaded = zip(range(first, end), self.loader.batches(0, first), strict=False)
            for number, batch in loaded:
                if left := leave():
                    break
                if not len(batch.labels):
                    continue  # all its records were bad and skipped
                self.generators.begin("validation", number, rank=0)
                logits, _ = step.infer(self.augment(batch.images, self.generators.images))
                found = step.loss(logits, batch.labels), step.metric(logits, batch.labels)
                counts.append(len(batch.labels))
                measured.append(torch.stack(found))
                bar.update()
        for module, training in before:  # each: a part may be frozen
            module.training = training
        if left:
            return None
        numbers = torch.stack(measured).double().tolist() if measured else []
        return [(n, loss, metric) for n, (loss, metric) in zip(counts, numbers, strict=True)]
