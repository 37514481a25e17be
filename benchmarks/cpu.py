"""Training steps a second on a CPU, alone and beside a busy loop on one of its cores.

    python -m benchmarks.cpu [--scripts hgru …] [--batch 16] [--size 20] [--busy]
    taskset -c 0,1 python -m benchmarks.cpu --busy          # on two cores

One thread, PyTorch's threads that share each operation, and the step as it trains, whose threads
share the images where they can (layers/shares.py), run in turn. Images are random numbers.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from support.memory import wait_briefly

wait_briefly()  # as a script does, before PyTorch is imported

# ruff: noqa: E402  (what follows imports PyTorch)
# isort: split
import torch

from benchmarks import timing
from support import shell


def main(arguments: Sequence[str] | None = None) -> None:
    parse = timing.parser("cpu", __doc__, batch=16, size=20, rounds=5)
    parse.add_argument("--scripts", nargs="+", default=["hgru"], choices=timing.SCRIPTS)
    parse.add_argument("--busy", action="store_true", help="beside a busy loop too")
    parse.add_argument("--calls", type=shell.whole(1), default=5, help="steps of a round")
    options = parse.parse_args(arguments)
    options.device = "cpu"
    what = f"batch {options.batch}, images {options.size}×{options.size}"
    device = timing.begin(options, what, False)
    batch = timing.random_batch(options.batch, options.size, device)
    threads, rows = torch.get_num_threads(), []
    for script in options.scripts:
        sides = {
            "one thread": _on(1, timing.side(script, batch)),
            "shared operations": _on(threads, timing.side(script, batch)),
            "as it trains": _on(threads, timing.side(script, batch, shared=True)),
        }
        for beside in (nullcontext, _busy_loop)[: 1 + options.busy]:
            with beside():
                times = timing.in_turn(sides, device, options.rounds, options.calls, warm_up=2)
            for side, found in times.items():
                rate, low, high = (1 / f(found) for f in (statistics.median, max, min))
                where = "alone" if beside is nullcontext else "beside a busy core"
                name = f"{script:8} {where:18} {side:17}"
                print(f"{name} {rate:6.2f} a second ({low:.2f}–{high:.2f})", flush=True)
                rows.append({"script": script, "where": where, "side": side, "seconds": found})
    timing.write(options.output, f"{threads} threads", rows)


def _on(threads: int, step: Callable[[], Any]) -> Callable[[], Any]:
    """A step with so many threads."""

    def call() -> None:
        torch.set_num_threads(threads)
        step()

    return call


@contextmanager
def _busy_loop() -> Iterator[None]:
    """Within the block, another process keeps the last of this one's cores busy."""
    core = max(os.sched_getaffinity(0))
    loop = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    shell.run_command(main)
