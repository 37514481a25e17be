"""Random numbers of a run: each use has a generator seeded by what it is for and by the step.

So the numbers of a step do not depend on what was drawn before it, and a run that goes on from a
checkpoint draws what it would have drawn.
"""

import hashlib

import torch


def seed_of(seed: int, *use: int | str) -> int:
    """A seed (63 bits) for a use, e.g. ``seed_of(0, "hidden state", step)``."""
    text = "/".join(map(str, (seed, *use)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class Generators:
    """The generators that a run draws from, on its device: the same on all ranks, which draw for
    the total batch; PyTorch's default generators are each rank's own.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self.seed, self.rank = seed, rank
        self.hidden = torch.Generator(device)  # for the random hidden state
        self.images = torch.Generator(device)  # for the augmentations

    def begin(self, *use: int | str, rank: int | None = None) -> None:
        """Seed them, and PyTorch's default ones for a rank (None: this one), for a use: a batch."""
        torch.manual_seed(seed_of(self.seed, "default", self.rank if rank is None else rank, *use))
        self.hidden.manual_seed(seed_of(self.seed, "hidden", *use))
        self.images.manual_seed(seed_of(self.seed, "images", *use))
