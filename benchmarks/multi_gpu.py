"""N processes against one: images/s, efficiency, equality of losses and weights.

Starts ``torchrun`` three times a round, in turn: one process, N that share the same batch, and N
with that batch each. Each trains the same network, one process as a script would (on a GPU its step
is captured). Prints the ratios of the rates with their spread over the rounds, the efficiency
(ratio / N), and how far losses and weights of the runs on the same images differ; ``--profile``
also says how much of a step goes to each kind of communication. On GPUs each process takes one;
without, they share the processor over gloo.

What a normalisation cancels (norm.bias; with batch normalisation in the circuit also hgru.b_gain
and hgru.b_mix) has no gradient but rounding, and no effect; Nadam moves it at random.

    python -m benchmarks.multi_gpu --processes 2
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import set_tf32
from support.progress import Progress
from training.distribution import Ranks, device_of
from training.graph import GraphedStep
from training.losses import loss_function
from training.metrics import metric_function
from training.optimizers import optimizer
from training.provenance import device_name
from training.seeds import Generators
from training.step import TrainStep

COMMUNICATION = ("nccl", "gloo", "all_reduce", "allreduce", "broadcast", "all_gather")


def options() -> argparse.Namespace:
    """The command line."""
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--script", default="hgru", help="whose network (default hgru)")
    parse.add_argument("--processes", type=int, default=2)
    parse.add_argument("--device", default="auto")
    parse.add_argument("--batch-size", type=int, default=32, help="of one process")
    parse.add_argument("--size", type=int, default=150, help="of the images, in pixels")
    parse.add_argument("--steps", type=int, default=20, help="timed in each round")
    parse.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    parse.add_argument("--profile", action="store_true", help="where a step's time goes")
    parse.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # inside torchrun
    parse.add_argument("--total", type=int, help=argparse.SUPPRESS)
    return parse.parse_args()


def measure(chosen: argparse.Namespace) -> None:
    """One process's part of a measurement; the first writes what was found."""
    ranks = Ranks(device_of(chosen.device))
    on_gpu = ranks.device.type == "cuda"
    if on_gpu:
        set_tf32(not chosen.strict)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    script = importlib.import_module(chosen.script)
    params = script.experiment_params()
    model = script.build_model(params).to(ranks.device)
    generators = Generators(0, ranks.device, ranks.rank)
    if hasattr(model, "set_generator"):
        model.set_generator(generators.hidden)
    parts = (
        model,
        loss_function(params["loss_function"]),
        metric_function("accuracy"),
        optimizer(params["optimizer"], model.parameters(), params["lr"]),
        None,
        ranks,
    )
    if on_gpu and ranks.world_size == 1:
        step: TrainStep = GraphedStep(*parts, generators=(generators.hidden,))
    else:
        step = TrainStep(*parts)
    images = torch.rand(
        chosen.total, 1, chosen.size, chosen.size, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(chosen.total) % 2
    first, end = (chosen.total * r // ranks.world_size for r in (ranks.rank, ranks.rank + 1))
    _, step.sizes = ranks.agree(0, end - first)
    ranks.place(model, step.sizes)
    own_images, own_labels = (x[first:end].to(ranks.device) for x in (images, labels))
    losses: list[Any] = []

    def train(count: int) -> None:
        for _ in range(count):
            generators.begin("benchmark", len(losses))
            losses.append(step(own_images, own_labels)[0].clone())

    train(chosen.warm_up)
    found: dict[str, Any] = {"device": device_name(ranks.device)}
    if chosen.profile:
        found["shares"] = shares_of_a_step(lambda: train(3), ranks.device)
    wait(ranks)
    began = time.perf_counter()
    train(chosen.steps)
    wait(ranks)
    found["seconds"] = (time.perf_counter() - began) / chosen.steps
    found["losses"] = torch.stack(losses).tolist()
    found["weights"] = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    if ranks.is_first:
        torch.save(found, chosen.measure)
    ranks.close()


def wait(ranks: Ranks) -> None:
    """Until all processes have done all that was asked of their devices."""
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    ranks.barrier()


def shares_of_a_step(work: Any, device: torch.device) -> dict[str, float]:
    """Share of the time in each kind of communication, of the device's time where it is a GPU."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as found:
        work()
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in found.key_averages()
    }
    total = sum(times.values()) or 1.0
    kinds = {k: v / total for k, v in times.items() if any(c in k.lower() for c in COMMUNICATION)}
    return dict(sorted(kinds.items(), key=lambda item: -item[1])[:8])


def run(processes: int, total: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """One measurement under torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.pt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", "-m", "benchmarks.multi_gpu", *sys.argv[1:]]
        command += ["--measure", str(file), "--total", str(total)]
        threads = str(max(1, (os.cpu_count() or 1) // chosen.processes))  # the same for one
        subprocess.run(command, check=True, env={"OMP_NUM_THREADS": threads, **os.environ})
        return torch.load(file)


def rate(found: dict[str, Any], total: int) -> float:
    """Images/s."""
    return total / found["seconds"]


def compared(one: list[dict], many: list[dict], totals: tuple[int, int], processes: int) -> str:
    """The ratio of the rates with its spread, and the efficiency."""
    ratios = [rate(b, totals[1]) / rate(a, totals[0]) for a, b in zip(one, many, strict=True)]
    middle = statistics.median(ratios)
    return (
        f"{middle:.2f} times one's images/s (from {min(ratios):.2f} to {max(ratios):.2f}), "
        f"efficiency {middle / processes:.0%}"
    )


def differences(one: dict[str, Any], many: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Of two runs on the same images: the largest relative difference of a step's losses, and of
    each weight ‖difference‖ / ‖weight‖, the largest first."""
    losses = zip(one["losses"], many["losses"], strict=True)
    worst = max(abs(a - b) / abs(a) for a, b in losses)
    weights = {
        name: float((w - many["weights"][name]).norm() / w.norm().clamp(min=1e-12))
        for name, w in one["weights"].items()
    }
    return worst, dict(sorted(weights.items(), key=lambda item: -item[1]))


def main() -> int:
    """Compare, and print."""
    chosen = options()
    if chosen.measure:
        measure(chosen)
        return 0
    n, batch = chosen.processes, chosen.batch_size
    kinds = ((1, batch), (n, batch), (n, n * batch))
    found: list[list[dict[str, Any]]] = [[] for _ in kinds]
    for _ in Progress(range(chosen.rounds), desc="rounds"):
        for (processes, total), runs in zip(kinds, found, strict=True):
            runs.append(run(processes, total, chosen))
    one, shared, each = found
    print(
        f"{chosen.script}, images of {chosen.size}×{chosen.size}, {chosen.rounds} rounds of "
        f"{chosen.steps} steps; {one[0]['device']}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}"
    )
    print(f"{'processes':>10} {'batch in all':>13} {'ms a step':>10} {'images/s':>10}")
    for (processes, total), runs in zip(kinds, found, strict=True):
        middle = statistics.median(x["seconds"] for x in runs)
        print(f"{processes:>10} {total:>13} {1e3 * middle:>10.1f} {total / middle:>10.1f}")
    print(f"the same batch a process: {compared(one, each, (batch, n * batch), n)}")
    print(f"the same batch in all: {compared(one, shared, (batch, batch), n)}")
    losses, weights = differences(one[0], shared[0])
    print(
        f"{len(one[0]['losses'])} steps on the same images: losses differ by {losses:.1e} of their "
        "size at most; weights after them by"
    )
    for name in list(weights)[:6]:
        print(f"  {weights[name]:.1e} of its size: {name}")
    for kind, share in each[0].get("shares", {}).items():
        print(f"  {share:6.1%} of a step's time in {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
