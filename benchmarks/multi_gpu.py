"""N processes against one: images/s, efficiency, equality of losses and weights.

For each script one ``torchrun`` of N processes, each on a GPU of its own (without GPUs they share
the processor, over gloo). In it the first process trains alone, then all of them together, round
after round in turn, on random images: with the same batch a process, the same total batch, and a
total batch of 256. Prints milliseconds, images/s, and the ratio of the rates with its spread over
the rounds; the efficiency is ratio / N. Then 20 steps without TF32 on the same images: how far
losses and weights differ. ``--profile`` says where a step's time goes. ``--loop`` measures none of
this, but what whole training runs report in their logs.

What a normalisation cancels (norm.bias; with batch normalisation in the circuit also hgru.b_gain
and hgru.b_mix) has no gradient but rounding, and no effect; Nadam moves it at random.

    python -m benchmarks.multi_gpu --processes 2
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import machine, parser, ratio, set_tf32, tidy, train_step, wait
from config import Config
from support import shell
from support.errors import SystemRefusal, UserError
from support.files import write_json
from support.memory import keep_memory
from support.tables import text_table
from training.distribution import Ranks, device_of
from training.run import runs

EXCHANGE = ("nccl", "gloo", "allreduce", "allgather", "reduce_scatter", "_ranks")  # in names
SAME_STEPS = 20  # compared without TF32
LOOP_STEPS = 200
Cases = list[tuple[int, int]]  # processes, total batch
Times = dict[tuple[int, int], list[float]]
Who = dict[int, Ranks]  # by number of processes: one, and all


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print; inside torchrun, measure."""
    parse = parser("multi_gpu", __doc__, processes=2, rounds=5)
    parse.set_defaults(device="auto")
    parse.add_argument("--scripts", nargs="+", default=["hgru", "hgru_bn", "ff_5"])
    parse.add_argument("--batch-size", type=int, default=32, help="of one process")
    parse.add_argument("--large", type=int, default=256, help="the large total batch; 0: none")
    parse.add_argument("--size", type=int, default=150, help="of the images, in pixels")
    parse.add_argument("--steps", type=int, default=20, help="timed in each round")
    parse.add_argument("--profile", action="store_true", help="where a step's time goes")
    parse.add_argument("--loop", action="store_true", help="only whole training runs, by logs")
    parse.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # inside torchrun
    chosen = parse.parse_args(arguments)
    if chosen.measure:
        measure(chosen)
        return
    everything: dict[str, Any] = {}
    for name in ("batch_size", "large"):
        if 0 < (size := getattr(chosen, name)) < chosen.processes:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {size} is smaller than the {chosen.processes} processes")
    if chosen.loop:
        print(f"{machine(device_of(chosen.device))}, {os.cpu_count()} cores")
    for script in chosen.scripts:
        if chosen.loop:
            everything[script] = {"loop": loop(script, chosen)}
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "found.pt"
            inside = [*sys.argv[1:], "--scripts", script, "--measure", str(file)]
            torchrun(chosen.processes, "-m", "benchmarks.multi_gpu", *inside)
            found = torch.load(file)
        if not everything:
            print(f"{found['machine']}, {chosen.processes} processes, {os.cpu_count()} cores")
        show(script, found, chosen)
        found["times"] = [
            {"processes": p, "total": t, "s": s} for (p, t), s in found["times"].items()
        ]
        everything[script] = found
    if chosen.output:
        write_json(Path(chosen.output), everything)


def cases(chosen: argparse.Namespace) -> Cases:
    """What is compared of the smaller batches."""
    n, batch = chosen.processes, chosen.batch_size
    return [(1, batch), (n, n * batch), (n, batch)]


# -- inside torchrun -------------------------------------------------------------------------------


class Side:
    """A network that trains on one batch of random images, shared by the processes of ``ranks``."""

    def __init__(self, chosen: argparse.Namespace, total: int, ranks: Ranks) -> None:
        self.ranks = ranks
        self.step, self.generators = train_step(chosen.scripts[0], ranks)
        edges = [total * r // ranks.world_size for r in range(ranks.world_size + 1)]
        self.sizes = [b - a for a, b in itertools.pairwise(edges)]
        own = slice(edges[ranks.rank], edges[ranks.rank + 1])
        shape = total, 1, chosen.size, chosen.size
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        self.images = images[own].to(ranks.device)
        self.labels = (torch.arange(total) % 2)[own].to(ranks.device)
        self.losses: list[Tensor] = []

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.generators.begin("benchmark", len(self.losses))
            self.ranks.place(self.step.model, self.sizes)
            self.losses.append(self.step(self.images, self.labels)[0].clone())

    def seconds(self, steps: int) -> float:
        """Seconds an update, from when all processes begin to when all have done so many."""
        self.wait()
        began = time.perf_counter()
        self.train(steps)
        self.wait()
        return (time.perf_counter() - began) / steps

    def wait(self) -> None:
        """Until all processes have done all that was asked of their devices."""
        wait(self.ranks.device)
        self.ranks.barrier()


def measure(chosen: argparse.Namespace) -> None:
    """One process's part of the measurements of a script; the first writes what was found."""
    device = device_of(chosen.device)
    torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        keep_memory()
    with Ranks(device) as ranks:
        who, large = {1: Ranks(device, alone=True), chosen.processes: ranks}, chosen.large
        found: dict[str, Any] = {"machine": machine(device), "profiles": {}}
        found["times"] = compare(chosen, who, cases(chosen))
        for n, total in cases(chosen)[:2] if chosen.profile else ():
            if n > 1 or ranks.is_first:
                found["profiles"][n] = profiled(chosen, who[n], total)
            ranks.barrier()
        if large:
            found["times"] |= compare(chosen, who, [(n, large) for n in who])
        found["same"] = equality(chosen, who)
        if ranks.is_first:
            torch.save(found, chosen.measure)


def compare(chosen: argparse.Namespace, who: Who, cases: Cases) -> Times:
    """Seconds a step of each case, round after round in turn."""
    set_tf32(True)
    tidy()
    ranks = who[chosen.processes]
    times: Times = {case: [] for case in cases}
    there = [(n, total) for n, total in cases if n > 1 or ranks.is_first]
    sides = {(n, total): Side(chosen, total, who[n]) for n, total in there}
    warm_up = 5 if ranks.device.type == "cuda" else 1  # the step captures itself at the fourth
    for number in range(chosen.rounds + 1):
        for case in cases:
            if case in sides:
                steps = max(chosen.steps * chosen.batch_size // case[1], 5)
                steps = min(steps, chosen.steps) if number else warm_up
                times[case].append(sides[case].seconds(steps))
            ranks.barrier()
    return {case: spent[1:] for case, spent in times.items()}


def equality(chosen: argparse.Namespace, who: Who) -> dict[str, Any]:
    """The same steps by one process and by all, without TF32: the largest relative difference of a
    step's losses, and of each weight ‖difference‖ / ‖weight‖."""
    set_tf32(False)
    tidy()
    ranks = who[chosen.processes]
    sides = [Side(chosen, chosen.batch_size, one) for one in (ranks, who[1])[: 1 + ranks.is_first]]
    for side in sides:
        side.train(SAME_STEPS)
    sides[0].wait()
    if not ranks.is_first:
        return {}
    many, one = (torch.stack(side.losses).double() for side in sides)
    theirs, own = (dict(side.step.model.named_parameters()) for side in sides)
    weights = {
        name: float((w - theirs[name]).detach().norm() / w.detach().norm().clamp(min=1e-12))
        for name, w in own.items()
    }
    apart = ((many - one) / one).abs().tolist()
    return {"losses": apart, "weights": dict(sorted(weights.items(), key=lambda x: -x[1]))}


def profiled(chosen: argparse.Namespace, who: Ranks, total: int) -> dict[str, Any]:
    """Milliseconds of a step that the first process's device (a CPU: its threads) computes,
    exchanges (waiting for the others included) and idles; and milliseconds of each operation."""
    set_tf32(True)
    tidy()
    side, steps = Side(chosen, total, who), 10
    side.train(6)
    wall = 1e3 * side.seconds(chosen.steps)
    on_gpu = who.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities, acc_events=True) as seen:
        side.wait()  # the others' profilers have started too
        side.train(steps)
        side.wait()
    times: dict[str, float] = {}
    calls: dict[str, float] = {}
    for event in seen.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent > 0 and not event.key.startswith("Profiler"):
            times[event.key] = times.get(event.key, 0.0) + spent / 1e3 / steps
            calls[event.key] = calls.get(event.key, 0.0) + event.count / steps
    exchanging = sum(ms for name, ms in times.items() if any(x in name.lower() for x in EXCHANGE))
    busy = sum(times.values())
    computing = busy - exchanging
    parts = {"computing": computing, "exchanging": exchanging, "idle": max(wall - busy, 0.0)}
    each = [round(x, 3) for x in who.from_all(computing)]
    return {"wall": wall, "parts": parts, "each": each, "operations": times, "calls": calls}


# -- outside ---------------------------------------------------------------------------------------


def torchrun(processes: int, *arguments: str, **environment: str) -> None:
    """Run a script or module in so many processes; what it prints is not shown."""
    launch = [sys.executable, "-m", "training.launch", "--standalone"]
    answer = subprocess.run(
        [*launch, f"--nproc_per_node={processes}", *arguments],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    if answer.returncode:  # why is said by what ran
        raise SystemRefusal(f"the {processes} processes ended with exit code {answer.returncode}")


def loop(script: str, chosen: argparse.Namespace) -> list[tuple[int, int, float]]:
    """Processes, total batch and images/s of whole training runs on generated images, by their
    logs: the median of the second half. Each is printed as it is known."""
    print(f"\n{script}: in the training loop, by its log", flush=True)
    found = []
    for processes, total in cases(chosen):
        settings = {"dataset": "pathfinder_14_stream", "batch_size": total, "epochs": 1}
        settings |= {"stream_epoch_images": total * LOOP_STEPS, "stream_val_images": total}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = f"{script}.py", "--device", chosen.device, *words
        with tempfile.TemporaryDirectory() as folder:
            torchrun(processes, *command, HGRU_PROJECT_DIRECTORY=folder)
            (run,) = runs(Config.of_project(Path(folder)))
            rates = [event["images_per_second"] for event in run.events("train")]
        rate = statistics.median(rates[len(rates) // 2 :])
        found.append((processes, total, rate))
        print(f"  {processes} × {total / processes:g} a step: {rate:.0f} images/s", flush=True)
    return found


def show(script: str, found: dict[str, Any], chosen: argparse.Namespace) -> None:
    """Print what was found of a script."""
    n, batch, times = chosen.processes, chosen.batch_size, found["times"]
    print(f"\n{script}: images of {chosen.size}×{chosen.size}, {chosen.rounds} rounds")
    middles = {case: statistics.median(spent) for case, spent in times.items()}
    rows = [
        {"processes": processes, "images a step": total}
        | {"ms a step": f"{1e3 * middle:.2f}", "images/s": f"{total / middle:.1f}"}
        for (processes, total), middle in middles.items()
    ]
    print(text_table(rows))
    pairs = [("the same batch a process", batch, n * batch)]
    pairs += [(f"total batch {total}", total, total) for total in (batch, chosen.large) if total]
    for name, a, b in pairs:
        one = [b / a * spent for spent in times[1, a]]  # for as many images
        middle = statistics.median(x / y for x, y in zip(one, times[n, b], strict=True))
        print(f"  {name}: {ratio(one, times[n, b])}, efficiency {middle / n:.1%}")
    same = found["same"]
    steps = ", ".join(f"{value:.0e}" for value in same["losses"])
    print(f"  {SAME_STEPS} steps without TF32: their losses differ, of their size, by {steps}")
    weights = [f"{name} {value:.1e}" for name, value in list(same["weights"].items())[:5]]
    print(f"  and the weights after them by {', '.join(weights)} at most")
    for processes, spent in found["profiles"].items():
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in spent["parts"].items())
        print(f"  {processes} processes, ms of a step of {spent['wall']:.2f}: {parts}")
        print(f"    computing, by process: {spent['each']}")
        one = found["profiles"][1]["operations"] if processes > 1 else {}
        more = {name: ms - one.get(name, 0.0) for name, ms in spent["operations"].items()}
        for name, ms in sorted(more.items(), key=lambda x: -x[1])[:8]:
            times = f"{spent['calls'][name]:g}×"
            print(f"    {ms:+8.3f}{' more' if one else ''}  {times} {name[:80]}")


if __name__ == "__main__":
    shell.run_command(main)
