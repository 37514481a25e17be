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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import (
    SCRIPTS,
    begin,
    in_turn,
    machine,
    parser,
    peak_memory,
    ratio,
    text,
    tidy,
    train_step,
    write,
)
from layers.horizontal import horizontal_method
from layers.shares import shared_images
from support import shell
from training.distribution import Ranks


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("step", __doc__)
    parse.add_argument("--scripts", nargs="+", default=SCRIPTS, choices=SCRIPTS)
    parse.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128, 256])
    parse.add_argument("--size", type=int, default=150)
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    parse.add_argument("--recompute", action="store_true", help="the option of the layer")
    parse.add_argument("--no-forward", action="store_true", help="training steps only")
    parse.add_argument("--rounds", type=int, default=5)
    options = parse.parse_args(arguments)
    what = f"images {options.size}×{options.size}"
    device = begin(options, what, tf32=not options.strict)
    rows = []
    kinds = (True,) if options.no_forward else (True, False)
    for script, batch, training in itertools.product(options.scripts, options.batches, kinds):
        rows.append(_measure(script, batch, training, options, device))
        print(_line(rows[-1]), flush=True)
        tidy()
    write(options.output, machine(device), rows)


def _measure(
    script: str, batch: int, training: bool, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    images = torch.rand(batch, 1, options.size, options.size, device=device)
    labels = torch.randint(0, 2, (batch,), device=device)
    aux = {"recompute": True} if options.recompute and script != "ff_5" else {}
    on_gpu = device.type == "cuda"
    fast = _side(script, images, labels, training, **aux)
    if on_gpu:
        fast()  # compiles
    peak = {"fast": peak_memory(fast, device), "direct": 0.0}

    def direct() -> None:
        with horizontal_method("direct"):
            slow()

    try:
        slow = _side(script, images, labels, training, captured=False)
        peak["direct"] = peak_memory(direct, device)
        calls = 3 if on_gpu and batch < 64 else 1
        # On a GPU the step captures itself at its fourth call, a pass at its second.
        warm_up = 2 if on_gpu else 0
        times = in_turn({"fast": fast, "direct": direct}, device, options.rounds, calls, warm_up)
    except torch.cuda.OutOfMemoryError:
        times = in_turn({"fast": fast}, device, options.rounds, calls=3)
    return {"script": script, "batch": batch, "training": training, "times": times, "peak": peak}


def _side(
    script: str, images: Tensor, labels: Tensor, training: bool, captured: bool = True, **aux: Any
) -> Callable[[], Any]:
    """A call that does one step or pass."""
    step, _ = train_step(script, Ranks(images.device), captured, **aux)
    step.model.train(training)
    call = (
        partial(step, images, labels) if training else partial(torch.no_grad()(step.infer), images)
    )
    return (
        call if images.is_cuda or not captured else partial(_shared, step.model, len(images), call)
    )


def _shared(network: nn.Module, images: int, call: Callable[[], Any]) -> None:
    with shared_images(network, images):
        call()


def _line(row: dict[str, Any]) -> str:
    what = "training" if row["training"] else "forward"
    fast, direct = row["times"]["fast"], row["times"].get("direct")
    line = f"{row['script']:22} batch {row['batch']:3} {what:8} {text(fast)}, "
    line += f"{row['batch'] / statistics.median(fast):.0f} images/s, {row['peak']['fast']:.2f} GiB"
    if direct is None:
        return f"{line}; direct: out of memory"
    return f"{line}; direct {text(direct)}, {row['peak']['direct']:.2f} GiB; {ratio(direct, fast)}"


if __name__ == "__main__":
    shell.run_command(main)
