"""A training run's losses by the fast paths and by direct convolutions, from the same start.

    python -m benchmarks.loss_curve [--steps 200] [--tf32] [--output curve.json]

Rounding differences grow from step to step in any training. So a third run shows their measure:
direct convolutions again, from weights that differ by one part in ten million.
"""

import argparse
from collections.abc import Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import timing
from dataset_processing.pathfinder import generate
from layers.horizontal import horizontal_method
from support import shell
from training.distribution import Ranks


def main(arguments: Sequence[str] | None = None) -> None:
    parse = timing.parser("loss_curve", __doc__, steps=200, batch=32, size=150)
    parse.add_argument("--script", default="hgru", choices=timing.SCRIPTS)
    parse.add_argument("--tf32", action="store_true", help="allow TF32 in both")
    options = parse.parse_args(arguments)
    what = f"{options.script}, {options.steps} steps of {options.batch} images"
    device = timing.begin(options, what, options.tf32)
    stimuli, answers = generate(6, 8 * options.batch, seed=0)
    images = torch.from_numpy(stimuli).to(device)[:, None].float() / 255
    size = options.size, options.size
    images = F.interpolate(images, size, mode="bicubic", align_corners=True).clamp(0, 1)
    labels = torch.from_numpy(answers).to(device)
    sides = {"fast": ("auto", 0.0), "direct": ("direct", 0.0)}
    sides["direct, moved by 1e-7"] = "direct", 1e-7
    losses = {name: _train(options, images, labels, *how) for name, how in sides.items()}
    length = max(1, options.steps // 10)
    for first in range(0, options.steps, length):
        fast, direct, again = (one[first : first + length] for one in losses.values())
        print(
            f"steps {first:3}…: mean loss fast {fmean(fast):.5f}, direct {fmean(direct):.5f}; "
            f"largest difference {_apart(fast, direct):.1e}, of the two direct ones "
            f"{_apart(direct, again):.1e}"
        )
    rows = [
        {"step": i} | {name: one[i] for name, one in losses.items()} for i in range(options.steps)
    ]
    timing.write(options.output, timing.machine(device), rows)


def _train(
    options: argparse.Namespace, images: Tensor, labels: Tensor, method: str, moved: float
) -> list[float]:
    """The losses by that method, from weights that are ``1 + moved`` times the first ones."""
    step, generators = timing.train_step(options.script, Ranks(images.device), captured=False)
    with torch.no_grad():
        for weight in step.model.parameters():
            weight.mul_(1 + moved)
    losses = []
    with horizontal_method(method):
        for number in range(options.steps):
            generators.begin("loss curve", number)
            first = number * options.batch % len(images)
            part = slice(first, first + options.batch)
            losses.append(step(images[part], labels[part])[0].clone())
    return torch.stack(losses).tolist()


def _apart(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    shell.run_command(main)
