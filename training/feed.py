"""The batches of a run, taken in step by all processes that train together."""

from collections import deque
from collections.abc import Callable
from itertools import chain, count, repeat, starmap
from typing import Any

from dataset_processing.loader import Loader
from training.distribution import Ranks

GO, SAVE, STOP, FAILED = range(4)  # words between the ranks; the gravest holds for all
# Batches that several processes load ahead, with a word and their sizes: the answer has come by the
# time the batch's turn does, so no device waits for the hosts.
AHEAD = {"cpu": 0}
FAR_AHEAD = 4

Answer = Callable[[], tuple[int, list[int]]]


class Feed:
    """Training batches from where the run stands to its end; ``wanted`` gives what this process
    wants before a batch, ``GO``, ``SAVE`` or ``STOP``."""

    loader: Loader  # of this process's share of each batch

    def __init__(self, ranks: Ranks, epochs: int, wanted: Callable[[], int]) -> None:
        self.ranks, self.epochs, self.wanted = ranks, epochs, wanted
        self.epoch = self.position = 0  # epochs done, and batches done of the one at hand
        self._asked: deque[tuple[Any, Answer]] = deque()
        several = ranks.world_size > 1
        self._ahead = AHEAD.get(ranks.device.type, FAR_AHEAD) if several else 0
        self._failure: Exception | None = None

    @property
    def left(self) -> int:
        """Batches to the end of the run."""
        return max((self.epochs - self.epoch) * self.loader.batches_per_epoch - self.position, 0)

    def begin(self) -> None:
        """Have the batches loaded that follow from where the run stands."""
        while self._asked:  # the other ranks have answered, or will
            self._word(self._asked.popleft()[1])
        starts = chain([(self.epoch, self.position)], zip(count(self.epoch + 1), repeat(0)))
        self._batches = chain.from_iterable(starmap(self.loader.batches, starts))
        self._to_ask = self.left

    def next(self) -> tuple[Any, int, list[int]]:
        """The next batch, the word that holds for all ranks, and the images of each rank.

        Raises what went wrong in loading it; OtherRankError where that was another process.
        """
        while self._to_ask and len(self._asked) <= self._ahead:
            self._asked.append(self._ask())
        batch, answer = self._asked.popleft()
        return (batch, *self._word(answer))

    def advance(self) -> None:
        """The batch at hand is done."""
        self.position += 1
        self.next_epoch()

    def next_epoch(self) -> None:
        """Go on to the next epoch where this one is at its end."""
        if self.position >= self.loader.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    def _ask(self) -> tuple[Any, Answer]:
        """Load a batch, and tell the other ranks about it; their answer is to be waited for."""
        self._to_ask -= 1
        batch, word, images = None, FAILED, 0
        try:
            if self._failure is None:
                batch = next(self._batches)
                images, word = len(batch.labels), self.wanted()
        except Exception as error:  # the other ranks must hear of it, whatever it is
            self._failure = error
        return batch, self.ranks.ask(word, images)

    def _word(self, answer: Answer) -> tuple[int, list[int]]:
        """What the ranks answer; raises where one of them failed."""
        word, sizes = answer()
        if word == FAILED:
            self.ranks.every(self._raise_failure)
        return word, sizes

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
