"""What the fork server imports once, so that each test process starts at once."""

import torch._dynamo
import torch.utils.tensorboard

import dataset_processing.augmentations
import tests.training.tiny
import training.command_line
import training.start

__all__ = ["dataset_processing", "tests", "torch", "training"]
