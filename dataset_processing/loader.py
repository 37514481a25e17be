"""Batches: every record once an epoch, shuffled over the whole of it, from where a run stopped."""

import atexit
import logging
import multiprocessing.util
import os
import signal
import sys
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset_processing.workers import end_with_parent
from support.errors import SystemRefusal, UserError, refusals, unknown

log = logging.getLogger(__name__)

ON_BAD_RECORD = ("error", "skip")
MAX_BAD_RECORDS = 100  # different ones that are skipped
JOB_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Batch(NamedTuple):
    """One rank's slice of a batch.

    It holds no image (n = 0) where all of the slice's records are bad and bad records are skipped;
    all ranks then pass the batch over.
    """

    images: torch.Tensor  # (n, H, W), uint8 or float32 as stored, on the device
    labels: torch.Tensor  # (n,) int64, on the device
    records: torch.Tensor  # (n,) int64 record numbers, for dataset.name(); on the CPU


class Loader:
    """Batches of a data set, in an order that depends on the seed and the epoch alone.

    Workers read and decode; they ignore signals, so that a run that is told to stop can finish its
    step.

    Args:
        dataset: a fold. One with ``__getitems__`` is asked for ``epoch * len + i`` and may give
            fresh images for it, another for record numbers below its length.
        batch_size: images in a batch over all ranks; the last batch of an epoch may be smaller.
        seed: of the order.
        shuffle: a new order of the whole data set at each epoch; False keeps the order.
        workers: processes that load; 0 loads in this one.
        device: where images and labels are put; for a GPU through pinned memory.
        rank, world_size: this process among those that share each batch. Rank r takes the r-th of
            ``world_size`` contiguous slices, whose sizes differ by one at most.
        on_bad_record: 'error' raises for a record that cannot be used; 'skip' leaves it out of its
            batch, logs its name and counts it, up to ``MAX_BAD_RECORDS``.

    Raises:
        UserError: the batch is larger than the data set or smaller than ``world_size``.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int,
        shuffle: bool,
        workers: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        on_bad_record: str = "error",
    ) -> None:
        if on_bad_record not in ON_BAD_RECORD:
            raise unknown("on_bad_record", on_bad_record, ON_BAD_RECORD)
        if not 1 <= batch_size <= len(dataset):
            raise UserError(
                f"batch_size is {batch_size}, but the data set has {len(dataset)} images "
                f"({dataset.describe()}); choose a batch of 1 to {len(dataset)}"
            )
        if batch_size < world_size:
            raise UserError(f"batch_size {batch_size} is smaller than the {world_size} processes")
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.on_bad_record = on_bad_record
        self.bad_records: dict[int, str] = {}  # by number: name and why
        self.workers, self.device = workers, torch.device(device)
        full, rest = divmod(len(dataset), batch_size)
        self.batches_per_epoch = full + (rest >= world_size)  # a smaller last one included
        if 0 < rest < world_size and rank == 0:
            log.warning(
                "the last %d of %d images of each epoch are left out: they are fewer than the %d "
                "processes that share a batch",
                *(rest, len(dataset), world_size),
            )
        self._order = _Order()
        self._data: DataLoader[Any] | None = None
        self._running: weakref.ref[Generator] | None = None
        # A byte that workers can see; it becomes 1 when this process comes to its end.
        self._closing = multiprocessing.RawValue("b", 0)
        atexit.register(setattr, self._closing, "value", 1)  # before multiprocessing ends workers
        weakref.finalize(self, setattr, self._closing, "value", 1)

    def smallest_batch(self, batches: int) -> int:
        """Images in the smallest of an epoch's first ``batches`` batches, its last one."""
        before = min(batches, self.batches_per_epoch) - 1
        return min(self.batch_size, len(self.dataset) - before * self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's order: a permutation of 0 … len − 1, int64."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``start`` on; one such iteration at a time.

        Raises:
            UserError: a record cannot be used, or too many of them; the message names it.
            SystemRefusal: a worker cannot be started.
        """
        batches = self._batches(epoch, start)
        self._running = weakref.ref(batches)
        return batches

    def _indices(self, epoch: int, start: int) -> Iterator[list[int]]:
        """This rank's part of each batch, as indices that count on from epoch to epoch."""
        order = self.order(epoch) + epoch * len(self.dataset)
        for batch in range(start, self.batches_per_epoch):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            first, end = (len(chosen) * r // self.world_size for r in (self.rank, self.rank + 1))
            yield chosen[first:end].tolist()

    def _batches(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        self._order.batches = self._indices(epoch, start)
        if self._data is None:  # its workers are kept from epoch to epoch
            self._closing.value = 0
            self._data = DataLoader(
                _Batches(self.dataset),
                sampler=self._order,
                batch_size=None,
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
                persistent_workers=self.workers > 0,
                worker_init_fn=partial(_ignore_signals, self._closing) if self.workers else None,
            )
        try:
            # A signal to the job waits here, and in each new worker until that is ready for it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
            try:
                with refusals("a process that loads images", "cannot be started"):
                    read = iter(self._data)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for batch in read:
                if isinstance(batch, UserError):
                    raise batch
                images, labels, records, failures = batch
                for number, error in failures:
                    self._note(number, error)
                yield Batch(
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                    records,
                )
        except Exception:
            self._data = None
            raise

    def _note(self, number: int, error: Exception) -> None:
        """Raises a record's error, or logs and counts it."""
        if self.on_bad_record == "error":
            raise UserError(
                f"{error}. Training leaves bad records out with --on-bad-record skip, and "
                "dataset_processing.encode does when it writes records"
            ) from error
        if number in self.bad_records:
            return
        self.bad_records[number] = str(error)
        log.warning("bad record %d skipped: %s", len(self.bad_records), error)
        if len(self.bad_records) > MAX_BAD_RECORDS:
            raise UserError(
                f"more than {MAX_BAD_RECORDS} bad records; the last: {error}. "
                "Check the data with  python -m dataset_processing.verify"
            )

    def close(self) -> None:
        """Ends the workers at once; a later ``batches`` starts new ones."""
        running = self._running() if self._running else None
        if running is not None:
            running.close()
        self._data = None
        self._closing.value = 1


class _Order:
    """What the DataLoader iterates over: the lists of indices of the batches to come."""

    def __init__(self) -> None:
        self.batches: Iterator[list[int]] = iter(())

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches


class _Batches(Dataset[Any]):
    """Whole batches by lists of indices; a record's error, or that of images that cannot be drawn,
    becomes a value, so that it reaches the main process as it is."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> tuple[Any, ...] | UserError:
        """Images, labels, record numbers, and the records that failed with their errors."""
        items, numbers, failures = [], [], []
        if hasattr(self.dataset, "__getitems__"):  # drawn, so never bad
            try:
                items, numbers = self.dataset.__getitems__(indices), indices
            except UserError as error:
                return error.with_traceback(None)
        else:
            for number in (index % len(self.dataset) for index in indices):
                try:
                    items.append(self.dataset[number])
                    numbers.append(number)
                except UserError as error:
                    failures.append((number, error.with_traceback(None)))
        images = np.stack([image for image, _ in items]) if items else np.empty((0, 0, 0), np.uint8)
        labels = torch.tensor([label for _, label in items], dtype=torch.int64)
        records = torch.tensor(numbers, dtype=torch.int64)
        return torch.from_numpy(images), labels, records, failures


def _ignore_signals(closing: Any, worker: int) -> None:
    """Leaves a signal to the whole job to the main process, which ends its workers itself."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if closing.value else None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)
    sys.excepthook = _excepthook
    setattr(Queue, "_on_queue_feeder_error", staticmethod(_give_up))  # noqa: B010 (Python's hook)


def _give_up(error: Exception, batch: Any) -> None:
    """Ends a worker that cannot hand a batch over (/dev/shm is full), for which the main process
    would wait for ever."""
    os._exit(1)


@contextmanager
def workers_kept() -> Iterator[None]:
    """SystemRefusal where a worker is lost, of which PyTorch may tell anywhere in the block."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise SystemRefusal(
            "a process that loads images was lost: killed, or out of the machine's memory or of "
            "/dev/shm? --workers N with a smaller N, or 0, takes less of both"
        ) from error


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Says what went wrong in a worker, but not that the main process broke off while it was given
    a batch: that says so itself."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
