"""Shorter contours first: which length a stream shows, and when the next one begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from config import Config
from dataset_processing import open_set
from support.errors import UserError
from training.experiment import Experiment


class Curriculum:
    """The lengths of a run in order, the last one that of its data set.

    A length gives way to the next at the first validation that reaches ``curriculum_until``, or
    once ``curriculum_images`` of it have been seen. Meanwhile each ``curriculum_review``-th image
    is of a length that was shown before, each in turn: images that are all new and all taken for
    the same by a network that has just learned others can throw it back to chance. When it is time
    for the data set's own length to give way too, it is shown alone (``curriculum_alone``).
    Without ``curriculum`` there is one length.

    UserError where ``data``, the experiment's data set, is no stream, or its own length is not the
    last and longest.
    """

    def __init__(self, exp: Experiment, config: Config, data: Any) -> None:
        if exp.curriculum and not data.is_generated:
            raise UserError(
                f"curriculum {exp.curriculum} needs images that are drawn while training, such as "
                f"dataset=pathfinder_14_stream; found dataset={data.name}"
            )
        own, lengths = data.contour_length, list(exp.curriculum or [])
        if lengths[-1:] == [own]:
            lengths.pop()
        if any(longer <= length for length, longer in pairwise([*lengths, own])):
            raise UserError(
                f"curriculum must be lengths from short to long, up to the {own} of {data.name}; "
                f"found {exp.curriculum}"
            )
        if lengths and "contour_length" in exp.stream_settings:
            raise UserError("stream_settings has contour_length, which curriculum sets; drop one")
        self._exp, self._review = exp, exp.curriculum_review
        shorter = [open_set(f"pathfinder_{n}_stream", config, exp) for n in lengths]
        self.sets = [*shorter, data]
        alone = bool(lengths and self._review and exp.curriculum_alone)  # a stage of its own
        self._stages = len(self.sets) + alone
        self.stage = 0  # lengths that are done; one more once the last is shown alone
        self.began = 0  # training images seen when this stage began

    @property
    def data(self) -> Any:
        """The data set whose length is learned now."""
        return self.sets[min(self.stage, len(self.sets) - 1)]

    @property
    def is_last(self) -> bool:
        """Whether the images stay as they are to the end."""
        return self.stage == self._stages - 1

    def fold(self) -> Any:
        """The images to train on now."""
        own, *before = (one.fold("train") for one in (self.data, *self._before()))
        return MixedFold(own, before, self._review) if before else own

    def _before(self) -> list[Any]:
        """The data sets whose lengths come again."""
        return self.sets[: self.stage] if self._review and self.stage < len(self.sets) else []

    def advance(self, metric: float, images: int) -> str | None:
        """Go on to the next length if it is time; then a sentence that says why, else None.

        ``metric`` is of a validation on the length at hand, ``images`` those seen so far.
        """
        length, seen = self.data.contour_length, images - self.began
        if self.is_last:
            return None
        if metric >= self._exp.curriculum_until:
            why = f"validation at length {length} reached {metric:.4f} after {seen} images of it"
        elif seen >= self._exp.curriculum_images:
            why = f"length {length} had {seen} images and is at {metric:.4f}"
        else:
            return None
        self.stage, self.began = self.stage + 1, images
        return f"contours of {self.describe()} from now on: {why}"

    def describe(self) -> str:
        """The lengths that are shown, in words."""
        before = ", ".join(str(one.contour_length) for one in self._before())
        others = f", and one image in {self._review} of {before}" if before else ""
        alone = " alone" if self.is_last and not before else ""
        return f"{self.data.contour_length} paddles{alone}{others}"

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"stage": self.stage, "began": self.began}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what :meth:`state` gave."""
        self.stage, self.began = state["stage"], state["began"]


@dataclass
class MixedFold:
    """A stream's fold in which each so-many-th image is of other streams, each of them in turn."""

    own: Any  # gives the others
    before: Sequence[Any]
    every: int  # at least 1

    def __len__(self) -> int:
        return len(self.own)

    def _fold(self, index: int) -> Any:
        turn, rest = divmod(index, self.every)
        return self.own if rest else self.before[turn % len(self.before)]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Images (H, W) uint8 with their labels, several at once."""
        found: dict[int, tuple[np.ndarray, int]] = {}
        for fold in (self.own, *self.before):
            its = [index for index in indices if self._fold(index) is fold]
            found |= dict(zip(its, fold.__getitems__(its) if its else [], strict=True))
        return [found[index] for index in indices]

    def name(self, index: int) -> str:
        """An image's name for messages."""
        return self._fold(index).name(index)
