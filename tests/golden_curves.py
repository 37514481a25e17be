"""The project's own loss curves: the first fifty updates of each script, kept as a file.

    python -m tests.golden_curves                  all fifty losses of each script, within rounding
    python -m tests.golden_curves --bits           the same, equal bit for bit
    python -m tests.golden_curves --write FILE     the losses of this machine, as a file
    python -m tests.golden_curves --bits --against FILE hgru ff_5

``tests/golden/curves.csv`` holds the losses of commit 98b9011 (PyTorch 2.13.0, one thread, an x86
CPU with AVX-512, seed 0), with full precision. Every script ran as it is on 32×32 images of
contours of 6 paddles, in batches of 4. Rounding differs between CPUs and versions of PyTorch, and
training lets it grow; so the test compares within `TOLERANCE`, and ``--bits`` is for one machine.

How the file may be changed. A commit that is to leave the numbers as they are (a clean-up, a
faster path) changes nothing here. Before and after it, on one machine:

    git checkout BEFORE && python -m tests.golden_curves --write /tmp/before.csv
    git checkout AFTER && python -m tests.golden_curves --bits --against /tmp/before.csv

A commit that is to change them (a fault that is put right, other random numbers) writes the file
anew with ``--write tests/golden/curves.csv``, alone or together with that change, and its message
says which scripts move, from which update on, and why each new number is right. The recorded runs
of the original (``python -m tests.trajectories``) must then be met as before.
"""

import argparse
import contextlib
import csv
import importlib
import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from training.command_line import run_script

FILE = Path(__file__).parent / "golden" / "curves.csv"
SCRIPTS = (
    "hgru", "hgru_bn", "hgru_bn_for", "hgru_bn_relu", "multiplicative_lesion", "additive_lesion",
    "ff_5",
)  # fmt: skip
STEPS = 50
SETTINGS = {
    "dataset": "pathfinder_6_stream",
    "stream_settings": "{window: 96, border: 6, seed_distance: 20}",
    "model_input_image_size": "32,32",
    "batch_size": "4",
    "stream_epoch_images": "200",
    "stream_val_images": "8",
    "epochs": "1",
    "num_validation_evals": "2",
    "log_iters": "1",
}


# Largest difference in nats for the updates up to each number; beyond the last, bits alone tell.
# Weights moved by one part in ten million change the losses of the circuits by 7e-5 at most over
# fifty updates, those of ff_5, whose relus switch at 0, by 6e-5 over four and by 1e-2 over eight.
TOLERANCE = ((1, 1e-5), (6, 5e-4), (50, 3e-3))
TOLERANCE_FF_5 = ((1, 1e-4), (4, 2e-3))


def losses(script: str, steps: int = STEPS) -> list[float]:
    """The losses of a script's first updates, in nats, run as a user runs it."""
    module = importlib.import_module(script)
    arguments = ["--device", "cpu", "--workers", "0", "--seed", "0", "--set", "exp_name=curve"]
    for key, value in SETTINGS.items():
        arguments += ["--set", f"{key}={value}"]

    def build(params: dict[str, Any] | None = None) -> nn.Module:
        network = module.build_model(params)
        if steps < STEPS:
            network.register_forward_hook(_leave_after(steps))
        return network

    torch.set_num_threads(1)
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as project, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, HGRU_PROJECT_DIRECTORY=project))
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        run_script(module.experiment_params, build, arguments)
        logs = list(Path(project).glob("logs/*/log.jsonl"))
        lines = logs[0].read_text(encoding="utf-8").splitlines() if logs else []
    events = [json.loads(line) for line in lines]
    found = [event["loss"] for event in events if event["event"] == "train"]
    if len(found) != steps:
        raise RuntimeError(f"{script}: {len(found)} of {steps} updates\n{said.getvalue()}")
    return found


def _leave_after(steps: int) -> Any:
    """A forward hook that asks the run to leave in its so-many-th update."""
    left = iter(range(steps - 1, -1, -1))

    def hook(network: nn.Module, *_: Any) -> None:
        if network.training and next(left) == 0:
            signal.raise_signal(signal.SIGTERM)

    return hook


def read(file: Path) -> dict[str, list[float]]:
    """The losses that a file holds, by script."""
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "update"}


def write(file: Path, curves: dict[str, list[float]]) -> None:
    """Write losses with full precision, a row for each update."""
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["update", *curves])
        writer.writerows([i, *row] for i, row in enumerate(zip(*curves.values(), strict=True), 1))


def differences(script: str, found: list[float], kept: list[float]) -> list[str]:
    """The updates whose losses differ by more than rounding explains, a line each."""
    lines, first = [], 0
    for last, tolerance in TOLERANCE_FF_5 if script == "ff_5" else TOLERANCE:
        for i in range(first, min(last, len(found))):
            if not abs(found[i] - kept[i]) <= tolerance:
                lines.append(
                    f"{script}, update {i + 1}: loss {found[i]:.7f}, kept {kept[i]:.7f}, "
                    f"may differ by {tolerance:g}"
                )
        first = last
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Compare or write; exit code 1 where a curve differs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden_curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", default=SCRIPTS, help="which ones")
    parser.add_argument("--bits", action="store_true", help="equal bit for bit")
    parser.add_argument(
        "--against", type=Path, default=FILE, metavar="FILE", help="compare with it"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the losses, compare none")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="updates of each")
    options = parser.parse_args(arguments)
    if options.write:
        write(options.write, {script: losses(script, options.steps) for script in options.scripts})
        return 0
    kept, code = read(options.against), 0
    for script in options.scripts:
        found, expected = losses(script, options.steps), kept[script][: options.steps]
        problems = differences(script, found, expected)
        same = [a == b for a, b in zip(found, expected, strict=True)]
        if options.bits and not all(same):
            at = same.index(False)
            problems = [f"{script}, update {at + 1}: loss {found[at]!r}, kept {expected[at]!r}"]
        worst = float(np.abs(np.subtract(found, expected)).max())
        told = "the same bits" if all(same) else f"largest difference {worst:.1e}"
        print(f"{script}: {len(found)} updates, {told}", flush=True)
        for line in problems:
            print(f"  {line}", file=sys.stderr)
        code = code or int(bool(problems))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
