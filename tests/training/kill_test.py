"""Runs that are killed at random moments and resumed, against one that is left alone.

``python -m tests.training.kill_test --kills 50`` kills until it has done so 50 times, and fails
where a run that was killed and resumed ends with other bits than the one that was not.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.training import tiny
from tests.training.processes import FORK, differing, finish, outcome, run, said, start

OPTIONS = ["--seed", "5", "--workers", "0"]


def killed_run(project: Path, options: list[str], longest: float, rng: random.Random) -> int:
    """Run to the end, killed and resumed on the way; the number of kills."""
    kills = 0
    while True:
        process = start([*options, "--resume", "auto"], project)
        process.join(rng.uniform(0, longest))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            finish(process)
            kills += 1
        elif process.exitcode == 0:
            return kills
        else:
            raise RuntimeError(f"exit code {process.exitcode}: {said(project)}")


def killed_before_it_was_a_run(partial: Path) -> bool:
    """Whether this is the record of a run that was killed while it wrote that, its first file."""
    return partial.name == "settings.yaml.partial" and not partial.with_suffix("").exists()


def compare(kills: int, seed: int, folder: Path) -> list[str]:
    """Kill runs until it was done ``kills`` times; what differed, one line each."""
    rng = random.Random(seed)
    warm = FORK.Process(target=int)  # the server's own start is not to be measured
    warm.start()
    finish(warm)
    alone = folder / "alone"
    tiny.make_records(alone)
    began = time.monotonic()
    if run(OPTIONS, alone) != 0:
        raise RuntimeError(said(alone))
    duration = time.monotonic() - began
    expected = outcome(alone)
    problems, done, number = [], 0, 0
    while done < kills:
        project = folder / f"killed_{number}"
        tiny.make_records(project)
        # Every other run writes a checkpoint at each update, so that kills meet its writing.
        minutes = "0" if number % 2 else "10"
        options = [*OPTIONS, "--set", f"checkpoint_minutes={minutes}"]
        done += killed_run(project, options, duration, rng)
        problems += [f"run {number}: {name}" for name in differing(expected, outcome(project))]
        left = [p for p in project.rglob("*.partial") if not killed_before_it_was_a_run(p)]
        problems += [f"run {number}: left behind {p}" for p in left]
        number += 1
    print(f"{done} kills over {number} runs of {tiny.STEPS} steps; differences: {len(problems)}")
    return problems


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problems = compare(options.kills, options.seed, Path(folder))
    print("\n".join(problems) or "every run ended with the same bits")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
