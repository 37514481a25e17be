"""Two processes over NCCL, one on each of two GPUs, against one."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import hgru
import hgru_bn
from layers.kernels.normalisation import join_statistics
from tests.training import processes, tiny
from tests.training.test_resume import wait_for
from training.command_line import COMPLETE, ERROR, LEFT_EARLY
from training.distribution import Ranks, device_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]
OPTIONS = ["--workers", "0", "--device", "cuda", "--set", "model_input_image_size=[48, 48]"]
# 22 images in batches of 5: five batches an epoch, the last of 2; captured from the fifth on.
OPTIONS += ["--set", "batch_size=5", "--set", "validation_iters=10"]


@pytest.mark.parametrize("build", [hgru.build_model, hgru_bn.build_model])
def test_two_gpus_compute_what_one_does(build, tmp_path: Path) -> None:
    projects = tmp_path / "alone", tmp_path / "together"
    for project in projects:
        tiny.make_records(project)
    options = [*OPTIONS, "--set", "epochs=4", "--set", "optimizer=momentum"]
    started = [processes.start(options, projects[0], build=build)]
    started += processes.start_ranks(2, options, projects[1], build=build)
    codes = [processes.finish(process) for process in started]
    assert codes == [COMPLETE] * 3, processes.said(projects[0]) + processes.said(projects[1], 1)
    alone, together = (processes.newest_checkpoint(project) for project in projects)
    assert alone["step"] == together["step"] == 20
    for name in ("train_loss", "validation_loss"):
        found, expected = (state["history"][name] for state in (together, alone))
        np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("order", [(2, 1), (1, 2)])
def test_a_signal_and_a_resume_with_another_number(order: tuple[int, int], tmp_path: Path) -> None:
    tiny.make_records(tmp_path)

    def begin(count: int, *options: str) -> list[processes.Process]:
        if count == 1:
            return [processes.start([*OPTIONS, *options], tmp_path)]
        return processes.start_ranks(count, [*OPTIONS, *options], tmp_path)

    started = begin(order[0], "--set", "epochs=100000")
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step_00000010.pt")) != [])
    os.kill(started[-1].pid or 0, signal.SIGTERM)
    assert [processes.finish(p) for p in started] == [LEFT_EARLY] * order[0]
    stopped = processes.newest_checkpoint(tmp_path)
    more = f"epochs={stopped['epoch'] + 3}"
    resumed = begin(order[1], "--resume", "latest", "--set", more)
    assert [processes.finish(p) for p in resumed] == [COMPLETE] * order[1]
    state = processes.newest_checkpoint(tmp_path)
    assert state["step"] == len(state["history"]["train_loss"]) > stopped["step"]
    n = stopped["step"]
    np.testing.assert_array_equal(
        state["history"]["train_loss"][:n], stopped["history"]["train_loss"]
    )


def test_a_lost_process_ends_the_other(tmp_path: Path) -> None:
    """Its device waits within a captured update, where no error reaches the host."""
    tiny.make_records(tmp_path)
    ranks = processes.start_ranks(2, [*OPTIONS, "--set", "epochs=100000"], tmp_path)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step_00000020.pt")) != [])
    ranks[1].kill()
    assert processes.finish(ranks[0]) == ERROR
    assert processes.said(tmp_path).count("error: process 1 of 2 was lost") == 1


def test_exchanges_through_the_gpus_memory() -> None:
    """NCCL's bits (of two numbers there is one sum), one by one and in the replays of two graphs,
    with processes at random speeds."""
    environments = processes.environments(2)
    ranks = [processes.FORK.Process(target=exchanges, args=(own,)) for own in environments]
    for process in ranks:
        process.start()
    assert [processes.finish(process) for process in ranks] == [0, 0]


def exchanges(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with Ranks(device_of("cuda")) as ranks:
        peers, rank, device = ranks.peers, ranks.rank, ranks.device
        assert peers is not None, "the GPUs do not reach each other's memory"
        ranks.sizes = [3, 2]
        ranks._shares[3, 2] = torch.tensor([0.6, 0.4], device=device)
        delay, draw = random.Random(rank), torch.Generator(device).manual_seed(rank)
        sizes = (1, 50, 2048, 2049, 143_418, 300_001)  # the last one needs channels twice
        given = [torch.empty(n, device=device) for n in sizes]
        of, weights = torch.empty(2, 4, 25, device=device), torch.rand(2, 25, device=device)
        dist.broadcast(weights, 0)

        def exchange() -> list[torch.Tensor]:
            one, both = of[:1].clone(), of.clone()
            join_statistics(both, weights, [0.1, 0.2], ranks)
            join_statistics(one, weights, [0.1], ranks)
            sums = [ranks.sum(own.clone()) for own in given]
            return [one, both, *sums, ranks.gather(given[1])]

        def compare(what: object) -> None:
            for own in (*given, of):
                own.uniform_(generator=draw)
            torch.cuda._sleep(delay.choice([0, 0, 1_000_000]))
            found = [x.clone() for x in what()]  # type: ignore[operator]
            ranks.peers = None
            expected = exchange()
            ranks.peers = peers
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a, b), (rank, a.shape, float((a - b).abs().max()))

        def replay(graph: torch.cuda.CUDAGraph, made: list[torch.Tensor]) -> list[torch.Tensor]:
            graph.replay()
            return made

        for _ in range(3):
            compare(exchange)
        graphs = []
        for _ in range(2):
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                made = exchange()
            graphs.append((graph, made))
        for step in range(50):
            graph, made = graphs[step % 3 % 2]
            compare(exchange if step % 7 == 0 else lambda: replay(graph, made))  # noqa: B023
        for graph, _ in graphs:  # many replays at once, then the last one's numbers
            for _ in range(200):
                graph.replay()
        compare(lambda: replay(*graphs[0]))
