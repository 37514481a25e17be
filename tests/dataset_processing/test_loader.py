"""Batches: every record once, repeatably, from anywhere, over ranks, past bad records."""

import errno
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import resource_sharer
from multiprocessing.connection import Client
from multiprocessing.reduction import recv_handle
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_processing import loader as loader_module
from dataset_processing.folds import StoredFold
from dataset_processing.loader import Loader, workers_kept
from dataset_processing.records import RecordReader, RecordWriter
from support.errors import SystemRefusal, UserError

CLONE = Path(__file__).parents[2]
COUNT = 23


@pytest.fixture
def record_file(tmp_path) -> Path:
    """Records of 6×6 images that carry their number, which is also their label."""
    path = tmp_path / "numbered.tfrecords"
    with RecordWriter(path) as writer:
        for number in range(COUNT):
            writer.write(np.full((6, 6), 10 * number, np.uint8), number)
    return path


@pytest.fixture
def dataset(record_file) -> RecordReader:
    return RecordReader([record_file])


class Numbers:
    """A stream: gives the index it is asked for."""

    def __len__(self) -> int:
        return 10

    def __getitems__(self, indices: list[int]) -> list[tuple[np.ndarray, int]]:
        return [(np.full((2, 2), index, np.float32), index) for index in indices]


def loader(dataset, batch_size=5, workers=0, seed=1, shuffle=True, **settings) -> Loader:
    return Loader(dataset, batch_size, seed, shuffle, workers, "cpu", **settings)


def numbers(batches) -> list[list[int]]:
    return [batch.records.tolist() for batch in batches]


def joined(lists) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def damage(path: Path, *records: int) -> None:
    """Flips a bit in the contents of some records."""
    data = bytearray(path.read_bytes())
    size = RecordReader([path]).offsets[0]
    for record in records:
        data[int(size[record]) + 40] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_each_record_once_an_epoch_whatever_the_workers(dataset, workers):
    batches = loader(dataset, workers=workers)
    for epoch in (0, 1, 5):
        found = list(batches.batches(epoch))
        assert [len(batch.images) for batch in found] == [5, 5, 5, 5, 3]
        assert len(found) == batches.batches_per_epoch
        assert sorted(joined(numbers(found))) == list(range(COUNT))
        for batch in found:
            assert batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64
            assert batch.labels.tolist() == batch.records.tolist()
            assert torch.equal(batch.images, (10 * batch.records)[:, None, None].expand(-1, 6, 6))
        assert joined(numbers(found)) == batches.order(epoch).tolist()


def test_the_order_depends_on_seed_and_epoch_alone(dataset):
    first = numbers(loader(dataset).batches(3))
    assert numbers(loader(dataset, workers=2).batches(3)) == first
    assert numbers(loader(dataset).batches(4)) != first
    assert numbers(loader(dataset, seed=2).batches(3)) != first
    in_order = numbers(loader(dataset, shuffle=False).batches(3))
    assert joined(in_order) == list(range(COUNT))


def test_every_place_of_the_order_is_as_likely_for_every_record(dataset):
    """The whole epoch is shuffled, not a window of it."""
    batches = loader(dataset)
    places = np.array([batches.order(epoch) for epoch in range(3000)])
    counts = np.array([np.bincount(column, minlength=COUNT) for column in places.T])
    expected = 3000 / COUNT
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = (COUNT - 1) ** 2
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_at_any_batch(dataset, workers):
    batches = loader(dataset, workers=workers)
    whole = numbers(batches.batches(2))
    for start in range(len(whole) + 1):
        assert numbers(batches.batches(2, start)) == whole[start:]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_in_the_middle_does_not_disturb_the_next(dataset, workers):
    batches = loader(dataset, workers=workers)
    expected = numbers(loader(dataset).batches(1))
    left = batches.batches(0)
    next(left)
    left.close()
    assert numbers(batches.batches(1)) == expected


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_each_batch(dataset, world_size):
    whole = numbers(loader(dataset, batch_size=9).batches(1))
    ranks = [
        numbers(loader(dataset, batch_size=9, rank=rank, world_size=world_size).batches(1))
        for rank in range(world_size)
    ]
    for batch, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        assert joined(parts) == batch
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0


def test_a_last_batch_smaller_than_the_ranks_is_left_out_and_said(dataset, caplog):
    ranks = [loader(dataset, batch_size=7, rank=rank, world_size=3) for rank in range(3)]
    assert [rank.batches_per_epoch for rank in ranks] == [3, 3, 3]
    assert sum(len(part) for rank in ranks for part in numbers(rank.batches(0))) == 21
    assert [record.message for record in caplog.records] == [
        "the last 2 of 23 images of each epoch are left out: they are fewer than the 3 processes "
        "that share a batch"
    ]


def test_a_stream_is_asked_for_fresh_images_each_epoch():
    batches = loader(Numbers(), batch_size=4, workers=1)
    for epoch in (0, 7):
        found = list(batches.batches(epoch))
        assert sorted(joined(numbers(found))) == list(range(10 * epoch, 10 * epoch + 10))
        assert found[0].images[:, 0, 0].tolist() == found[0].records.tolist()
        assert found[0].images.dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_is_one_error_of_one_line(dataset, record_file, workers):
    damage(record_file, 11)
    with pytest.raises(ValueError) as caught:
        list(loader(dataset, workers=workers).batches(0))
    assert str(caught.value).startswith(f"{record_file}: record 11: its contents do not match")
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_records_are_skipped_counted_and_named(dataset, record_file, caplog, workers):
    damage(record_file, 3, 11)
    batches = loader(dataset, workers=workers, on_bad_record="skip")
    for epoch in (0, 1):
        found = joined(numbers(batches.batches(epoch)))
        assert sorted(found) == [number for number in range(COUNT) if number not in (3, 11)]
    assert sorted(batches.bad_records) == [3, 11]
    assert all(f"record {n}: its contents" in what for n, what in batches.bad_records.items())
    assert len(caplog.records) == 2


def test_too_many_bad_records_are_an_error(dataset, record_file, monkeypatch):
    monkeypatch.setattr(loader_module, "MAX_BAD_RECORDS", 2)
    damage(record_file, 1, 2)
    assert len(joined(numbers(loader(dataset, on_bad_record="skip").batches(0)))) == COUNT - 2
    damage(record_file, 3)
    batches = loader(dataset, on_bad_record="skip")
    with pytest.raises(ValueError, match=r"more than 2 bad records; the last: .*record \d"):
        list(batches.batches(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_nothing_but_bad_records_holds_no_image(dataset, record_file, workers):
    damage(record_file, 0, 1)
    batches = loader(dataset, batch_size=2, workers=workers, shuffle=False, on_bad_record="skip")
    found = list(batches.batches(0))
    assert len(found) == batches.batches_per_epoch
    assert [len(batch.images) for batch in found] == [0] + [2] * 10 + [1]
    assert (len(found[0].labels), len(found[0].records)) == (0, 0)
    assert sorted(batches.bad_records) == [0, 1]


def test_an_error_about_a_bad_record_names_the_option(dataset, record_file):
    damage(record_file, 11)
    with pytest.raises(UserError, match=f"{record_file}: record 11.*--on-bad-record skip"):
        list(loader(dataset).batches(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_cannot_be_drawn_is_one_error_of_one_line(workers):
    class Crowded(Numbers):
        def __getitems__(self, indices: list[int]) -> list[tuple[np.ndarray, int]]:
            raise UserError(f"image {indices[0]}: two snakes did not fit")

    with pytest.raises(UserError) as caught:
        list(loader(Crowded(), workers=workers, shuffle=False, on_bad_record="skip").batches(0))
    assert str(caught.value) == "image 0: two snakes did not fit"


def test_a_bug_in_a_data_set_is_no_bad_record():
    class Broken(Numbers):
        def __getitems__(self, indices):
            raise ZeroDivisionError

        __getitem__ = __getitems__

    with pytest.raises(ZeroDivisionError):
        list(loader(Broken(), on_bad_record="skip").batches(0))


def test_a_damaged_length_is_skipped_where_bad_records_are(record_file):
    data = bytearray(record_file.read_bytes())
    start = int(RecordReader([record_file]).offsets[0][4])
    data[start + 1] ^= 16
    record_file.write_bytes(data[:-5])
    batches = loader(RecordReader([record_file], keep_damaged=True), on_bad_record="skip")
    expected = [number for number in range(COUNT - 1) if number != 4]
    assert sorted(joined(numbers(batches.batches(0)))) == expected
    assert sorted(batches.bad_records) == [4, COUNT - 1]


def test_images_of_another_size(tmp_path):
    path = tmp_path / "two sizes.tfrecords"
    with RecordWriter(path) as writer:
        for side in (6, 6, 6, 7):
            writer.write(np.full((side, side), 90, np.uint8), side % 2)
    fold = StoredFold("two sizes", RecordReader([path]))
    fold.look()
    with pytest.raises(UserError, match=f"{path}: record 3: .*7×7.*6×6"):
        list(loader(fold, batch_size=2).batches(0))


def test_settings_that_cannot_be(dataset):
    with pytest.raises(ValueError, match="batch_size is 24, but the data set has 23 images"):
        loader(dataset, batch_size=24)
    with pytest.raises(ValueError, match="batch_size is 0"):
        loader(dataset, batch_size=0)
    with pytest.raises(ValueError, match=r"batch_size 2 is smaller than the 3 processes"):
        loader(dataset, batch_size=2, world_size=3)
    with pytest.raises(ValueError, match=r"on_bad_record 'skp' .* did you mean 'skip'"):
        loader(dataset, on_bad_record="skp")


@pytest.mark.parametrize("seconds_to_start", [0, 1])
def test_workers_go_on_after_a_signal_to_the_whole_job(dataset, monkeypatch, seconds_to_start):
    ready = loader_module._ignore_signals

    def one_after_the_other(closing, worker):
        time.sleep(seconds_to_start * worker)  # the first batch is there before the last worker
        ready(closing, worker)

    monkeypatch.setattr(loader_module, "_ignore_signals", one_after_the_other)
    batches = loader(dataset, workers=2, batch_size=1)
    others = set(multiprocessing.active_children())
    running = batches.batches(0)
    next(running)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(running)) == COUNT - 1
    batches.close()


def test_a_worker_does_not_tell_of_a_batch_whose_fetching_broke_off(tmp_path, capfd):
    shared = tmp_path / "shared"

    class Sharing:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            shared.write_bytes(pickle.dumps(resource_sharer.DupFd(2)._id))
            return np.zeros((2, 2), np.uint8), 0

    batches = loader(Sharing(), workers=1, batch_size=2)
    next(batches.batches(0))
    address, key = pickle.loads(shared.read_bytes())
    Client(address, authkey=multiprocessing.current_process().authkey).close()
    with resource_sharer._resource_sharer.get_connection((address, key)) as connection:
        os.close(recv_handle(connection))  # it has heard of the first one's end
    batches.close()
    assert capfd.readouterr().err == ""


def test_a_batch_that_dev_shm_has_no_room_for_is_an_error(dataset, monkeypatch):
    def full(*_):
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    with pytest.raises(SystemRefusal, match=r"/dev/shm.*--workers"), workers_kept():
        list(loader(dataset, workers=2).batches(0))


def test_a_worker_that_cannot_be_started_is_an_error(dataset, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(SystemRefusal, match="cannot be started"):
        next(loader(dataset, workers=1).batches(0))


END = """
import sys, numpy as np
from dataset_processing.loader import Loader
class Slow:
    def __len__(self): return 1000
    def __getitem__(self, index): return np.zeros((2, 2), np.uint8), 0
loader = Loader(Slow(), 2, 0, True, 2, "cpu")
loader.itself, loader.running = loader, loader.batches(0)
next(loader.running)
print("\\n".join(str(w.pid) for w in __import__("multiprocessing").active_children()), flush=True)
sys.exit(3)
"""


def test_workers_end_with_their_process():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", END],
        cwd=CLONE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    workers = [int(pid) for pid in done.stdout.split()]
    assert (done.returncode, len(workers)) == (3, 2), done.stderr
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_close_ends_the_workers_at_once(dataset):
    batches = loader(dataset, workers=2)
    others = set(multiprocessing.active_children())
    running = batches.batches(0)
    next(running)
    workers = set(multiprocessing.active_children()) - others
    batches.close()
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)
    assert len(list(batches.batches(1))) == 5
    batches.close()


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_on_a_gpu(dataset, workers):
    expected = list(loader(dataset).batches(0))
    batches = Loader(dataset, 5, 1, True, workers, "cuda")
    for found, same in zip(batches.batches(0), expected, strict=True):
        assert found.images.device.type == found.labels.device.type == "cuda"
        assert found.records.device.type == "cpu"
        assert found.images.dtype == torch.uint8
        for ours, theirs in zip(found, same, strict=True):
            assert torch.equal(ours.cpu(), theirs)
    batches.close()
