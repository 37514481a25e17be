"""Validation: the same images and the same random numbers each time."""

import torch

from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
from support.errors import UserError
from training.seeds import Generators
from training.step import TrainStep


class Validation:
    """Loss and metric of the network on a data set.

    Several processes share the batches: each computes some of them whole, as one process would, so
    that their number changes nothing.

    Args:
        step: the network, what computes its loss and metric, and the processes.
        loader: gives whole batches; the same order each time.
        augment: their preprocessing.
        generators: of the random hidden state and the preprocessing; seeded afresh each time.
        batches: how many batches to take; all where there are fewer.
    """

    def __init__(
        self,
        step: TrainStep,
        loader: Loader,
        augment: Augmentations,
        generators: Generators,
        batches: int,
    ) -> None:
        self.step, self.loader, self.augment = step, loader, augment
        self.generators = generators
        self.batches = min(batches, loader.batches_per_epoch)

    def measure(self) -> tuple[float, float, int]:
        """Mean loss, mean metric and number of images; each batch weighs by its images.

        Raises a UserError where none of the images could be read.
        """
        found = [row for rows in self.step.ranks.every(self._share) for row in rows]
        count = sum(n for n, _, _ in found)
        if not count:
            raise UserError(
                "none of the validation images could be read: "
                f"{'; '.join(list(self.loader.bad_records.values())[:3])}"
            )
        loss = sum(n * loss for n, loss, _ in found) / count
        return loss, sum(n * metric for n, _, metric in found) / count, count

    @torch.no_grad()
    def _share(self) -> list[tuple[int, float, float]]:
        """Images, loss and metric of each batch that falls to this process."""
        step = self.step
        rank, world_size = step.ranks.rank, step.ranks.world_size
        first, end = (self.batches * r // world_size for r in (rank, rank + 1))
        if first == end:
            return []
        counts, measured = [], []
        was_training = step.model.training
        step.model.eval()
        with step.ranks.apart(step.model):
            batches = self.loader.batches(0, first)
            for number in range(first, end):
                batch = next(batches)
                if not len(batch.labels):
                    continue  # all its records were bad and skipped
                self.generators.begin("validation", number, rank=0)
                logits, _ = step.infer(self.augment(batch.images, self.generators.images))
                found = step.loss(logits, batch.labels), step.metric(logits, batch.labels)
                counts.append(len(batch.labels))
                measured.append(torch.stack(found))
        step.model.train(was_training)
        numbers = torch.stack(measured).double().tolist() if measured else []
        return [(n, loss, metric) for n, (loss, metric) in zip(counts, numbers, strict=True)]
