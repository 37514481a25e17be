"""The tiny experiment in processes of its own, and what they leave."""

import multiprocessing
import multiprocessing.process
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.training import tiny

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.training.preload"])
TIMED = ("settings", "val_seconds")  # of results: what is not the same twice, or not compared here
SECONDS = 120  # longest that a test waits for a process

Process = multiprocessing.process.BaseProcess


def start(arguments: list[str], project: Path, **others: Any) -> Process:
    """The tiny experiment, begun in a process of its own."""
    process = FORK.Process(target=tiny.run, args=(arguments, project), kwargs=others)
    process.start()
    return process


def finish(process: Process) -> int | None:
    """Wait for a process; its exit code."""
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"still running after {SECONDS} s")
    return process.exitcode


def run(arguments: list[str], project: Path, **others: Any) -> int | None:
    """The tiny experiment from beginning to end; its exit code."""
    return finish(start(arguments, project, **others))


def start_ranks(
    count: int,
    arguments: list[str],
    project: Path,
    own: Sequence[list[str]] = (),
    **others: Any,
) -> list[Process]:
    """The tiny experiment in so many processes that train together, as torchrun starts them.

    Args:
        own: what each is told besides.
    """
    return [
        start([*arguments, *(own[r] if own else [])], project, environment=environment, **others)
        for r, environment in enumerate(environments(count))
    ]


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**common, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(count)]


def said(project: Path, rank: int = 0) -> str:
    """What the processes of a project printed."""
    file = project / f"said_{rank}.txt"
    return file.read_text() if file.exists() else ""


def newest_checkpoint(project: Path) -> dict[str, Any]:
    """What the newest checkpoint of a project holds."""
    path = sorted(project.glob("checkpoints/*/step_*.pt"))[-1]
    return torch.load(path, map_location="cpu", weights_only=True)


def outcome(project: Path) -> dict[str, Any]:
    """All that a complete run leaves, by name: weights, optimizer, history, results."""
    state = newest_checkpoint(project)
    found = {f"model {k}": v for k, v in state["model"].items()}
    for number, tensors in state["optimizer"]["state"].items():
        found |= {f"optimizer {number} {k}": v for k, v in tensors.items()}
    found |= {f"history {k}": v for k, v in state["history"].items() if "seconds" not in k}
    (results,) = project.glob("results/*.npz")
    with np.load(results, allow_pickle=False) as arrays:
        found |= {f"results {k}": v for k, v in arrays.items() if k not in TIMED}
    return found


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names of what is not the same, bit for bit."""
    if a.keys() != b.keys():
        return sorted(a.keys() ^ b.keys())
    return [k for k in a if np.asarray(a[k]).tobytes() != np.asarray(b[k]).tobytes()]
