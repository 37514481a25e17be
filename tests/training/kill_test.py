"""Runs that are killed at random moments and resumed, against one that is left alone.

``python -m tests.training.kill_test --kills 50`` kills until it has done so 50 times, and fails
where a run that was killed and resumed ends with other bits than the one that was not.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tests.training import tiny

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.training.preload"])


def start(arguments: list[str], project: Path) -> multiprocessing.process.BaseProcess:
    """The tiny experiment in a process of its own."""
    process = FORK.Process(target=tiny.run, args=(arguments, project))
    process.start()
    return process


def outcome(project: Path) -> dict[str, torch.Tensor | np.ndarray]:
    """All that a complete run leaves, by name: checkpoint and results."""
    (checkpoint,) = sorted(project.glob("checkpoints/*/step_*.pt"))[-1:]
    state = torch.load(checkpoint, weights_only=True)
    found = {f"model {k}": v for k, v in state["model"].items()}
    for number, tensors in state["optimizer"]["state"].items():
        found |= {f"optimizer {number} {k}": v for k, v in tensors.items()}
    found |= {f"history {k}": v for k, v in state["history"].items()}
    (results,) = project.glob("results/*.npz")
    with np.load(results, allow_pickle=False) as arrays:
        found |= {f"results {k}": v for k, v in arrays.items()}
    return found


def differing(a: dict, b: dict) -> list[str]:
    """The names of what is not the same, bit for bit."""
    if a.keys() != b.keys():
        return sorted(a.keys() ^ b.keys())
    return [k for k in a if np.asarray(a[k]).tobytes() != np.asarray(b[k]).tobytes()]


def killed_run(project: Path, options: list[str], longest: float, rng: random.Random) -> int:
    """Run to the end, killed and resumed on the way; the number of kills."""
    kills = 0
    while True:
        process = start([*options, "--resume", "auto"], project)
        process.join(rng.uniform(0, longest))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        elif process.exitcode == 0:
            return kills
        else:
            raise RuntimeError(f"the run ended with exit code {process.exitcode}")


def compare(kills: int, seed: int, folder: Path) -> list[str]:
    """Kill runs until it was done ``kills`` times; what differed, one line each."""
    rng = random.Random(seed)
    options = ["--seed", "5", "--workers", "0"]
    tiny.make_records(folder / "alone")
    began = time.monotonic()
    process = start(options, folder / "alone")
    process.join()
    duration = time.monotonic() - began
    expected = outcome(folder / "alone")
    problems, done, number = [], 0, 0
    while done < kills:
        project = folder / f"killed_{number}"
        tiny.make_records(project)
        # Every other run writes a checkpoint at each update, so that kills meet its writing.
        minutes = "0" if number % 2 else "10"
        set_to = ["--set", f"checkpoint_minutes={minutes}"]
        done += killed_run(project, [*options, *set_to], duration, rng)
        found = outcome(project)
        found.pop("results settings")
        problems += [f"run {number}: {name}" for name in differing(
            {k: v for k, v in expected.items() if k != "results settings"}, found
        )]
        left = [str(p) for p in project.rglob("*.partial")]
        problems += [f"run {number}: left behind {p}" for p in left]
        number += 1
    print(f"{done} kills over {number} runs of {tiny.STEPS} steps; differences: {len(problems)}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problems = compare(options.kills, options.seed, Path(folder))
    print("\n".join(problems) or "all runs ended with the same bits")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
