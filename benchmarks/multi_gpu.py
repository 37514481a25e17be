"""N processes against one, on the same total batch: images/s, efficiency, equality of losses.

Starts ``torchrun`` twice a round, with one process and with N in turn; each trains the same network
on the same images. Prints the ratio of the rates with its spread over the rounds, the efficiency
(ratio / N) and how far the losses differ; ``--profile`` also says how much of a step goes to each
kind of communication. On GPUs each process takes one; without, they share the processor over gloo.

    python -m benchmarks.multi_gpu --processes 2
"""

import argparse
import importlib
import json
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

from dataset_processing.progress import Progress
from training.distribution import Ranks, device_of
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
    parse.add_argument("--batch-size", type=int, default=32, help="in total")
    parse.add_argument("--size", type=int, default=150, help="of the images, in pixels")
    parse.add_argument("--steps", type=int, default=20, help="timed in each round")
    parse.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--profile", action="store_true", help="where a step's time goes")
    parse.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # inside torchrun
    return parse.parse_args()


def measure(chosen: argparse.Namespace) -> None:
    """One process's part of a measurement; the first writes what was found as JSON."""
    ranks = Ranks(device_of(chosen.device))
    torch.manual_seed(0)
    script = importlib.import_module(chosen.script)
    params = script.experiment_params()
    model = script.build_model(params).to(ranks.device)
    generators = Generators(0, ranks.device, ranks.rank)
    if hasattr(model, "set_generator"):
        model.set_generator(generators.hidden)
    step = TrainStep(
        model,
        loss_function(params["loss_function"]),
        metric_function("accuracy"),
        optimizer(params["optimizer"], model.parameters(), params["lr"]),
        None,
        ranks,
    )
    images = torch.rand(
        chosen.batch_size, 1, chosen.size, chosen.size, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(chosen.batch_size) % 2
    first, end = (chosen.batch_size * r // ranks.world_size for r in (ranks.rank, ranks.rank + 1))
    _, step.sizes = ranks.agree(0, end - first)
    ranks.place(model, step.sizes)
    own_images, own_labels = (x[first:end].to(ranks.device) for x in (images, labels))
    losses: list[Any] = []

    def train(count: int) -> None:
        for _ in range(count):
            generators.begin("benchmark", len(losses))
            losses.append(step(own_images, own_labels)[0])

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
    if ranks.is_first:
        chosen.measure.write_text(json.dumps(found))
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


def run(processes: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """One measurement under torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", "-m", "benchmarks.multi_gpu", *sys.argv[1:]]
        threads = str(max(1, (os.cpu_count() or 1) // chosen.processes))  # the same for one
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        subprocess.run([*command, "--measure", str(file)], check=True, env=environment)
        return json.loads(file.read_text())


def main() -> int:
    """Compare, and print."""
    chosen = options()
    if chosen.measure:
        measure(chosen)
        return 0
    one, many = [], []
    for _ in Progress(range(chosen.rounds), desc="rounds"):
        one.append(run(1, chosen))
        many.append(run(chosen.processes, chosen))
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(one, many, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"{chosen.script}, {chosen.batch_size} images of {chosen.size}×{chosen.size} in total, "
        f"{chosen.rounds} rounds of {chosen.steps} steps; {one[0]['device']}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}"
    )
    print(f"{'processes':>10} {'ms a step':>10} {'images/s':>10}")
    for processes, found in ((1, one), (chosen.processes, many)):
        middle = statistics.median(x["seconds"] for x in found)
        print(f"{processes:>10} {1e3 * middle:>10.1f} {chosen.batch_size / middle:>10.1f}")
    print(
        f"ratio {ratio:.2f} (from {min(ratios):.2f} to {max(ratios):.2f}), "
        f"efficiency {ratio / chosen.processes:.0%}"
    )
    pairs = list(zip(one[0]["losses"], many[0]["losses"], strict=True))
    worst = max(abs(a - b) / abs(a) for a, b in pairs)
    print(f"losses of {len(pairs)} steps: largest relative difference {worst:.1e}")
    for kind, share in many[0].get("shares", {}).items():
        print(f"  {share:6.1%} of a step's time in {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
