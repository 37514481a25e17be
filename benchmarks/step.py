"""A whole training step and a forward pass of every script, against direct convolutions.

    python -m benchmarks.step [--scripts hgru ff_5 …] [--batches 1 32 128 256] [--strict]

One side is the network as it trains: convolution and circuit by their fast paths, on a CUDA device
the step or pass captured in a graph, on a CPU shared by images. The other is the same network with
PyTorch's direct convolutions, run eagerly with cudnn.benchmark. Both sides run in turn in this
process. Images are random numbers.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import timing
from support import shell


def main(arguments: Sequence[str] | None = None) -> None:
    parse = timing.parser("step", __doc__, size=150, rounds=5)
    parse.add_argument("--scripts", nargs="+", default=timing.SCRIPTS, choices=timing.SCRIPTS)
    parse.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128, 256])
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    parse.add_argument("--recompute", action="store_true", help="the option of the layer")
    parse.add_argument("--no-forward", action="store_true", help="training steps only")
    options = parse.parse_args(arguments)
    device = timing.begin(options, f"images {options.size}×{options.size}", not options.strict)
    rows = []
    kinds = (True,) if options.no_forward else (True, False)
    for script, batch, training in itertools.product(options.scripts, options.batches, kinds):
        rows.append(_measure(script, batch, training, options, device))
        print(_line(rows[-1]), flush=True)
        timing.tidy()
    timing.write(options.output, timing.machine(device), rows)


def _measure(
    script: str, batch: int, training: bool, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    images = timing.random_batch(batch, options.size, device)
    aux: Any = {"recompute": True} if options.recompute and script != "ff_5" else {}
    on_gpu = device.type == "cuda"
    fast = timing.side(script, images, training=training, shared=not on_gpu, **aux)
    if on_gpu:
        fast()  # compiles
    peak = {"fast": timing.peak_memory(fast, device), "direct": 0.0}
    try:
        direct = timing.side(script, images, "direct", training, captured=False)
        peak["direct"] = timing.peak_memory(direct, device)
        sides, calls = {"fast": fast, "direct": direct}, 3 if on_gpu and batch < 64 else 1
        # On a GPU the step captures itself at its fourth call, a pass at its second.
        times = timing.in_turn(sides, device, options.rounds, calls, warm_up=2 if on_gpu else 0)
    except torch.cuda.OutOfMemoryError:
        times = timing.in_turn({"fast": fast}, device, options.rounds, calls=3)
    return {"script": script, "batch": batch, "training": training, "times": times, "peak": peak}


def _line(row: dict[str, Any]) -> str:
    what = "training" if row["training"] else "forward"
    fast, direct = row["times"]["fast"], row["times"].get("direct")
    line = f"{row['script']:22} batch {row['batch']:3} {what:8} {timing.text(fast)}, "
    line += f"{row['batch'] / statistics.median(fast):.0f} images/s, {row['peak']['fast']:.2f} GiB"
    if direct is None:
        return f"{line}; direct: out of memory"
    line += f"; direct {timing.text(direct)}, {row['peak']['direct']:.2f} GiB"
    return f"{line}; {timing.ratio(direct, fast)}"


if __name__ == "__main__":
    shell.run_command(main)
