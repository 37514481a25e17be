"""Where the milliseconds of a training step go on a CUDA device.

    python -m benchmarks.profile [--script hgru] [--batch 32] [--strict]

The limit to compare with: at 150×150 and batch 32, reading and writing every tensor of the step
once takes about 7.5 ms on an H200.
"""

from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import SCRIPTS, begin, machine, parser, train_step, write
from support import shell
from training.distribution import Ranks

STEPS = 5
FAMILIES = {
    "_there_kernel": "transforms, there",
    "_back_kernel": "transforms, back",
    "_product_kernel": "products at each frequency",
    "_correlate_kernel": "kernel's gradient at each frequency",
    "_fold_kernel": "to and from the folded layout",
    "gain": "gain",
    "inhibit": "inhibition",
    "inhibit_plane": "inhibition",
    "mix": "mixing and the next gain",
    "gain_back": "gain, backward",
    "inhibit_back": "inhibition, backward",
    "inhibit_back_plane": "inhibition, backward",
    "mix_back": "mixing, backward",
    "correct": "what comes through statistics",
    "squares": "statistics",
    "chunk_moments": "statistics",
    "chunk_statistics": "statistics",
    "add_squares": "statistics",
    "gate_statistics": "statistics",
    "gate_correction": "statistics",
    "line_means": "statistics",
    "move_averages": "statistics",
    "normalise": "normalisation after the circuit",
    "chunk_sums": "normalisation after the circuit",
    "chunk_means": "normalisation after the circuit",
    "normalise_back": "normalisation after the circuit",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("profile", __doc__)
    parse.add_argument("--script", default="hgru", choices=SCRIPTS)
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    options = parse.parse_args(arguments)
    what = f"{options.script}, batch {options.batch}, kernels' own time a step"
    device = begin(options, what, tf32=not options.strict)
    images = torch.rand(options.batch, 1, 150, 150, device=device)
    labels = torch.randint(0, 2, (options.batch,), device=device)
    step, _ = train_step(options.script, Ranks(device))
    for _ in range(4):
        step(images, labels)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(STEPS):
            step(images, labels)
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = {}
    for event in recorded.key_averages():
        entry = totals.setdefault(FAMILIES.get(event.key, "everything else"), [0.0, 0])
        entry[0] += event.self_device_time_total / 1e3 / STEPS
        entry[1] += event.count / STEPS
    longest = sorted(totals.items(), key=lambda entry: -entry[1][0])
    rows: list[dict] = [{"what": what, "ms": ms, "launches": n} for what, (ms, n) in longest]
    for row in rows:
        print(f"{row['ms']:7.3f} ms  {row['launches']:4.0f} launches  {row['what']}")
    print(f"{sum(row['ms'] for row in rows):7.3f} ms  in all (some of it side by side)")
    write(options.output, machine(device), rows)


if __name__ == "__main__":
    shell.run_command(main)
