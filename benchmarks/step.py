"""A whole training step and a forward pass of every script, against direct convolutions.

    python -m benchmarks.step [--scripts hgru ff_5 …] [--batches 1 32 128 256] [--strict]

One side is the network as it trains: convolution and circuit by their fast paths, on a CUDA device
the step or pass captured in a graph. The other is the same network with PyTorch's direct
convolutions, run eagerly with cudnn.benchmark. Both sides run in turn in this process. Images are
random numbers.
"""

import gc
import importlib
import statistics
from collections.abc import Sequence

import torch

from benchmarks.timing import (
    chosen_device,
    in_turn,
    machine,
    peak_memory,
    ratio,
    set_tf32,
    text,
    write,
)
from layers.horizontal import horizontal_method
from support import shell
from support.memory import keep_memory
from training.distribution import Ranks
from training.losses import loss_function
from training.metrics import metric_function
from training.optimizers import optimizer
from training.step import GraphedForward, TrainStep

SCRIPTS = (
    "hgru", "hgru_bn", "hgru_bn_for", "hgru_bn_relu",
    "multiplicative_lesion", "additive_lesion", "ff_5",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = shell.Parser("step", __doc__, package="benchmarks")
    parser.add_argument("--device")
    parser.add_argument("--scripts", nargs="+", default=SCRIPTS, choices=SCRIPTS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128, 256])
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--strict", action="store_true", help="forbid TF32")
    parser.add_argument("--recompute", action="store_true", help="the option of the layer")
    parser.add_argument("--no-forward", action="store_true", help="training steps only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    options = parser.parse_args(arguments)
    device = chosen_device(options.device)
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        set_tf32(not options.strict)
    else:
        keep_memory()
    precision = "" if device.type != "cuda" else f", TF32 {'off' if options.strict else 'on'}"
    print(f"{machine(device)}; images {options.size}×{options.size}{precision}")
    rows = []
    for script in options.scripts:
        for batch in options.batches:
            for training in (True,) if options.no_forward else (True, False):
                rows.append(_measure(script, batch, training, options, device))
                print(_line(rows[-1]), flush=True)
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    write(options.output, machine(device), rows)


def _measure(script: str, batch: int, training: bool, options, device: torch.device) -> dict:
    images = torch.rand(batch, 1, options.size, options.size, device=device)
    labels = torch.randint(0, 2, (batch,), device=device)
    aux = {"recompute": True} if options.recompute and script != "ff_5" else {}
    on_gpu = device.type == "cuda"
    fast = _side(script, images, labels, training, aux)
    if on_gpu:
        fast()  # compiles
    fast_peak = peak_memory(fast, device)

    def slow_call():
        with horizontal_method("direct"):
            return slow()

    try:
        slow = _side(script, images, labels, training, {}, graph=False)
        slow_peak = peak_memory(slow_call, device)
        sides = {"fast": fast, "direct": slow_call}
        calls = 3 if on_gpu and batch < 64 else 1
        # On a GPU the step captures itself at its fourth call, a pass at its second.
        times = in_turn(sides, device, options.rounds, calls, warm_up=2 if on_gpu else 0)
    except torch.cuda.OutOfMemoryError:
        slow_peak, times = 0.0, in_turn({"fast": fast}, device, options.rounds, calls=3)
    return {
        "script": script, "batch": batch, "training": training, "times": times,
        "peak": {"fast": fast_peak, "direct": slow_peak},
    }  # fmt: skip


def _side(script: str, images, labels, training: bool, aux: dict, graph: bool = True):
    """A call that does one step or pass."""
    device = images.device
    torch.manual_seed(0)
    module = importlib.import_module(script)
    parameters = module.experiment_params()
    model = module.build_model({**parameters, "aux": aux}).to(device)
    captured = graph and device.type == "cuda"
    if not training:
        model.eval()
        forward = GraphedForward(model) if captured else torch.no_grad()(model.__call__)
        return lambda: forward(images)
    arguments = (
        model, loss_function(parameters["loss_function"]), metric_function("accuracy"),
        optimizer(parameters["optimizer"], model.parameters(), parameters["lr"]), None,
        Ranks(device),
    )  # fmt: skip
    step = TrainStep(*arguments, captured=captured)
    return lambda: step(images, labels)


def _line(row: dict) -> str:
    fast, direct = row["times"]["fast"], row["times"].get("direct")
    what = "training" if row["training"] else "forward"
    line = f"{row['script']:22} batch {row['batch']:3} {what:8} {text(fast)}"
    line += f", {row['batch'] / statistics.median(fast):.0f} images/s"
    if row["peak"]["fast"]:
        line += f", {row['peak']['fast']:.2f} GiB"
    if direct is None:
        return line + "; direct: out of memory"
    line += f"; direct {text(direct)}"
    if row["peak"]["direct"]:
        line += f", {row['peak']['direct']:.2f} GiB"
    return f"{line}; {ratio(direct, fast)}"


if __name__ == "__main__":
    shell.run_command(main)
