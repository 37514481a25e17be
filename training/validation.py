"""Validation: the same images and the same random numbers each time."""

import torch

from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
from training.seeds import Generators
from training.step import TrainStep


class Validation:
    """Loss and metric of the network on a data set.

    Args:
        step: what computes the loss and the metric of a batch.
        loader: gives the images; the same order each time.
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

    @torch.no_grad()
    def measure(self) -> tuple[float, float, int]:
        """Mean loss, mean metric and number of images; each batch weighs by its images."""
        network, ranks = self.step.network, self.step.ranks
        was_training = network.training
        network.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=ranks.device)
        count = 0
        batches = self.loader.batches(0)
        for number in range(self.batches):
            batch = next(batches)
            _, sizes = ranks.agree(0, len(batch.labels))
            self.generators.begin("validation", number)
            self.step.sizes = sizes
            place = ranks.place(network, sizes)
            images = self.augment(batch.images, self.generators.images, *place)
            measured = self.step.measure(images, batch.labels)
            sums += sum(sizes) * torch.stack(measured).double()
            count += sum(sizes)
        network.train(was_training)
        loss, metric = (sums / count).tolist()
        return loss, metric, count
