"""Exchanges through the memory of several devices, on the CPU: each rank is a system thread, which
runs the kernels by host.py over memory that all share."""

import importlib.util
import os
import random
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks.multi_gpu import Side
from layers.kernels import compiled
from layers.kernels.normalisation import join_statistics
from layers.kernels.peers import Peers, words
from tests.layers import host
from tests.training import processes
from training.distribution import Ranks

pytestmark = [
    pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed"
    ),
]
SECONDS = 120  # longest that the ranks may wait for each other


class Rank:
    """What `join_statistics` is to know of the ranks."""

    def __init__(self, peers, shares):
        self.peers, self.shares = peers, shares


class Gathered:
    """The same without peers: rows that are all there."""

    peers = None

    def __init__(self, rows, shares):
        self.rows, self.shares = rows, shares

    def gather(self, own):
        return self.rows


def together(count, act, monkeypatch):
    """What `act(peers, rank)` returns on each of so many ranks, which run at the same time; threads
    of odd ranks' blocks run from the last to the first."""
    local = threading.local()

    def function(file, name, device):
        return host.function(file, name, reverse=getattr(local, "rank", 0) % 2 == 1)

    monkeypatch.setattr(compiled, "function", function)
    for rank in range(2):  # compiled once each
        local.rank = rank
        compiled.function("statistics.cu", "exchange_ranks", None)
    memory = [torch.zeros(words(count), dtype=torch.int64) for _ in range(count)]
    found = {}

    def run(rank):
        local.rank = rank
        found[rank] = act(Peers([m.data_ptr() for m in memory], rank), rank)

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(count)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SECONDS
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    assert len(found) == count, "a rank waits for ever, or failed"
    return [found[rank] for rank in range(count)]


def same_bits(a, b):
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_many_steps(count, monkeypatch):
    """Sums, rows and statistics of changing sizes, again and again, with ranks at random speeds:
    the bits of plain sums in the order of ranks, and of the statistics' join without peers."""
    steps, K = 15, 25
    draw = torch.Generator().manual_seed(count)
    sizes = [(1, 50, 2048, 2049, 7000)[i % 5] for i in range(steps)]
    numbers = [torch.randn(count, n, generator=draw) for n in sizes]
    numbers[0][0, 0], numbers[1][0, :3] = torch.inf, torch.tensor([torch.nan, -0.0, 1e-42])
    of = torch.rand(steps, count, 2, 4, K, generator=draw)
    weights, shares = torch.rand(2, K, generator=draw), torch.rand(count, generator=draw)

    def act(peers, rank):
        delay, results = random.Random(rank), []
        for i in range(steps):
            time.sleep(delay.choice([0, 0, 0.02]))
            one_or_two = of[i, rank, : 1 + i % 2].clone()
            join_statistics(one_or_two, weights, [0.1, 0.2], Rank(peers, shares))
            own = numbers[i][rank].clone()
            results.append((one_or_two, peers.gather(own), peers.sum(own), peers.sum(own, own)))
        return results

    for rank, results in enumerate(together(count, act, monkeypatch)):
        for i, (joined, rows, summed, in_place) in enumerate(results):
            total = numbers[i][0].clone()
            for row in numbers[i][1:]:
                total += row
            assert same_bits(rows, numbers[i])
            assert same_bits(summed, total) and same_bits(in_place, total)
            expected = of[i, rank, : 1 + i % 2].clone()
            all_rows = of[i, :, : 1 + i % 2].flatten(1).contiguous()
            join_statistics(expected, weights, [0.1, 0.2], Gathered(all_rows, shares))
            assert same_bits(joined, expected)


def test_more_numbers_than_words(monkeypatch):
    """Blocks then use their channels several times in one kernel."""
    numbers = torch.randn(2, 280_001)

    def act(peers, rank):
        for _ in range(2):
            total = peers.sum(numbers[rank])
        return total

    for total in together(2, act, monkeypatch):
        assert same_bits(total, numbers[0] + numbers[1])


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ff_5", "hgru_bn"])
def test_processes_train_through_peers(script):
    """Two processes over memory that both map: logits, statistics and gradients, to gloo's bits."""
    memory = [torch.zeros(words(2), dtype=torch.int64).share_memory_() for _ in range(2)]
    ranks = [
        processes.FORK.Process(target=train, args=(script, environment, memory))
        for environment in processes.environments(2)
    ]
    for process in ranks:
        process.start()
    assert [processes.finish(process) for process in ranks] == [0, 0]


def train(script, environment, memory):
    os.environ.update(environment)
    torch.set_num_threads(1)
    compiled.function = host.function
    places, found = [m.data_ptr() for m in memory], []
    with Ranks(torch.device("cpu")) as ranks:
        for peers in (None, Peers(places, ranks.rank)):
            ranks.peers = None
            side = Side(SimpleNamespace(scripts=[script], size=16), 5, ranks)  # of 2 and 3 images
            ranks.peers = peers
            side.train(3)
            found.append([*side.losses, *side.step.model.state_dict().values()])
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)
