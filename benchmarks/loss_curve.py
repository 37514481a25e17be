"""A training run's losses by the fast paths and by direct convolutions, from the same start.

    python -m benchmarks.loss_curve [--steps 200] [--tf32] [--output curve.json]

Rounding differences grow from step to step in any training. So a third run shows their measure:
direct convolutions again, from weights that differ by one part in ten million.
"""

import argparse
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.timing import SCRIPTS, begin, machine, parser, train_step, write
from dataset_processing.pathfinder import generate
from layers.horizontal import horizontal_method
from support import shell
from training.distribution import Ranks


def main(arguments: Sequence[str] | None = None) -> None:
    parse = parser("loss_curve", __doc__)
    parse.add_argument("--script", default="hgru", choices=SCRIPTS)
    parse.add_argument("--steps", type=int, default=200)
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--size", type=int, default=150)
    parse.add_argument("--tf32", action="store_true", help="allow TF32 in both")
    options = parse.parse_args(arguments)
    what = f"{options.script}, {options.steps} steps of {options.batch} images"
    device = begin(options, what, tf32=options.tf32)
    stimuli, answers = generate(6, 8 * options.batch, seed=0)
    images = torch.from_numpy(stimuli).to(device)[:, None].float() / 255
    images = torch.nn.functional.interpolate(
        images, (options.size, options.size), mode="bicubic", align_corners=True
    ).clamp(0, 1)
    labels = torch.from_numpy(answers).to(device)
    fast = _train(options, images, labels, "auto", 0.0)
    direct = _train(options, images, labels, "direct", 0.0)
    again = _train(options, images, labels, "direct", 1e-7)
    length = max(1, options.steps // 10)
    for first in range(0, options.steps, length):
        part = slice(first, first + length)
        print(
            f"steps {first:3}…: mean loss fast {fmean(fast[part]):.5f}, direct "
            f"{fmean(direct[part]):.5f}; largest difference {_apart(fast[part], direct[part]):.1e},"
            f" of the two direct ones {_apart(direct[part], again[part]):.1e}"
        )
    rows = [
        {"step": i, "fast": a, "direct": b, "direct, moved by 1e-7": c}
        for i, (a, b, c) in enumerate(zip(fast, direct, again, strict=True))
    ]
    write(options.output, machine(device), rows)


def _train(
    options: argparse.Namespace, images: Tensor, labels: Tensor, method: str, moved: float
) -> list[float]:
    """The losses by that method, from weights that are ``1 + moved`` times the first ones."""
    step, generators = train_step(options.script, Ranks(images.device), captured=False)
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
