"""Where the milliseconds of a training step go on a CUDA device.

    python -m benchmarks.profile [--script hgru] [--batch 32] [--strict]

The limit to compare with: at 150×150 and batch 32, reading and writing every tensor of the step
once takes about 7.5 ms on an H200.
"""

from collections.abc import Sequence

from torch.profiler import ProfilerActivity, profile

from benchmarks import timing
from support import shell

STEPS = 5
KERNELS = {
    "rows, there": "there_kernel",
    "rows, back": "back_kernel",
    "columns, there": "columns_there_kernel",
    "columns, back": "columns_back_kernel",
    "products at each frequency": "product product_adjoint product_kernel",
    "kernel's gradient at each frequency": "correlate correlate_kernel",
    "to and from the folded layout": "_fold_kernel",
    "gain": "gain",
    "inhibition": "inhibit inhibit_plane",
    "mixing and the next gain": "mix",
    "gain, backward": "gain_back",
    "inhibition, backward": "inhibit_back inhibit_back_plane",
    "mixing, backward": "mix_back",
    "what comes through statistics": "correct",
    "statistics": "squares chunk_moments chunk_statistics add_squares gate_statistics "
    "gate_correction line_means move_averages",
    "normalisation after the circuit": "normalise chunk_sums chunk_means normalise_back",
}
FAMILIES = {name: family for family, names in KERNELS.items() for name in names.split()}


def main(arguments: Sequence[str] | None = None) -> None:
    parse = timing.parser("profile", __doc__, batch=32)
    parse.add_argument("--script", default="hgru", choices=timing.SCRIPTS)
    parse.add_argument("--strict", action="store_true", help="forbid TF32")
    options = parse.parse_args(arguments)
    what = f"{options.script}, batch {options.batch}, kernels' own time a step"
    device = timing.begin(options, what, not options.strict)
    step = timing.side(options.script, timing.random_batch(options.batch, 150, device))
    for _ in range(4):
        step()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded:
        timing.seconds(step, device, STEPS)
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
    timing.write(options.output, timing.machine(device), rows)


if __name__ == "__main__":
    shell.run_command(main)
