"""Shorter contours first: which length a stream shows, and when the next one begins."""

from collections.abc import Mapping
from typing import Any

from config import Config
from dataset_processing import open_set
from support.errors import UserError


class Curriculum:
    """The lengths of a run in order, the last one that of its data set.

    A length gives way to the next at the first validation that reaches ``curriculum_until``, or
    once ``curriculum_images`` of it have been seen. Without ``curriculum`` there is one length.

    Args:
        settings: an ``Experiment``.
        config: the paths.
        data: the data set that ``dataset`` names.

    Attributes:
        stage: how many lengths are done.
        began: training images seen when this length began.

    Raises:
        UserError: the data set is no stream, or its own length is not the last and longest.
    """

    def __init__(self, settings: Mapping[str, Any], config: Config, data: Any) -> None:
        lengths = settings["curriculum"] or []
        if lengths and not data.is_generated:
            raise UserError(
                f"curriculum {lengths} needs images that are drawn while training, such as "
                f"dataset=pathfinder_14_stream; found dataset={data.name}"
            )
        own = data.contour_length
        if lengths and lengths[-1] == own:
            lengths = lengths[:-1]
        ascending = sorted({*lengths, own}) if lengths else [own]
        if ascending != [*lengths, own]:
            raise UserError(
                f"curriculum must be lengths from short to long, up to the {own} of {data.name}; "
                f"found {settings['curriculum']}"
            )
        if lengths and "contour_length" in settings["stream_settings"]:
            raise UserError("stream_settings has contour_length, which curriculum sets; drop one")
        self._until, self._images = settings["curriculum_until"], settings["curriculum_images"]
        shorter = [open_set(f"pathfinder_{n}_stream", config, settings) for n in lengths]
        self._sets = [*shorter, data]
        self.stage = self.began = 0

    @property
    def data(self) -> Any:
        """The data set that is trained on now."""
        return self._sets[self.stage]

    @property
    def is_last(self) -> bool:
        """Whether that is the run's own."""
        return self.stage == len(self._sets) - 1

    def advance(self, metric: float, images: int) -> str | None:
        """Go on to the next length if it is time; then a sentence that says why, else None.

        Args:
            metric: of a validation on the length at hand.
            images: training images seen so far.
        """
        length, seen = self.data.contour_length, images - self.began
        if metric >= self._until:
            why = f"validation at length {length} reached {metric:.4f} after {seen} images of it"
        elif seen >= self._images:
            why = f"length {length} had {seen} images and is at {metric:.4f}"
        else:
            return None
        self.stage, self.began = self.stage + 1, images
        return f"contours of {self.data.contour_length} paddles from now on: {why}"

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"stage": self.stage, "began": self.began}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what :meth:`state` gave."""
        self.stage, self.began = state["stage"], state["began"]
