"""A training run's losses by the fast paths and by direct convolutions, from the same start.

    python -m benchmarks.loss_curve [--steps 200] [--tf32] [--output curve.json]

Rounding differences grow from step to step in any training. So a third run shows their measure:
direct convolutions again, from weights that differ by one part in ten million.
"""

from collections.abc import Sequence

import torch

from benchmarks.step import SCRIPTS
from benchmarks.timing import chosen_device, machine, set_tf32, write
from dataset_processing.pathfinder import generate
from layers.horizontal import horizontal_method
from support import shell


def main(arguments: Sequence[str] | None = None) -> None:
    parser = shell.Parser("loss_curve", __doc__, package="benchmarks")
    parser.add_argument("--device")
    parser.add_argument("--script", default="hgru", choices=SCRIPTS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in both")
    parser.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    options = parser.parse_args(arguments)
    device = chosen_device(options.device)
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        set_tf32(options.tf32)
    stimuli, answers = generate(6, 8 * options.batch, seed=0)
    images = torch.from_numpy(stimuli).to(device)[:, None].float() / 255
    images = torch.nn.functional.interpolate(
        images, (options.size, options.size), mode="bicubic", align_corners=True
    ).clamp(0, 1)
    labels = torch.from_numpy(answers).to(device)
    print(f"{machine(device)}; {options.script}, {options.steps} steps of {options.batch} images")
    fast = _train(options, images, labels, "auto", 0.0)
    direct = _train(options, images, labels, "direct", 0.0)
    again = _train(options, images, labels, "direct", 1e-7)
    last = options.steps
    for first in range(0, last, max(1, last // 10)):
        part = slice(first, first + max(1, last // 10))
        print(
            f"steps {first:3}…: mean loss fast {_mean(fast[part]):.5f}, direct "
            f"{_mean(direct[part]):.5f}; largest difference {_apart(fast[part], direct[part]):.1e},"
            f" of the two direct ones {_apart(direct[part], again[part]):.1e}"
        )
    rows = [{"step": i, "fast": a, "direct": b, "direct, moved by 1e-7": c}
            for i, (a, b, c) in enumerate(zip(fast, direct, again, strict=True))]  # fmt: skip
    write(options.output, machine(device), rows)


def _train(options, images, labels, method: str, moved: float) -> list[float]:
    import importlib

    from training.optimizers import optimizer

    torch.manual_seed(0)
    module = importlib.import_module(options.script)
    parameters = module.experiment_params()
    model = module.build_model(parameters).to(images.device)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + moved)
    update = optimizer(parameters["optimizer"], model.parameters(), parameters["lr"])
    torch.manual_seed(1)
    losses = []
    with horizontal_method(method):
        for step in range(options.steps):
            first = step * options.batch % len(images)
            part = slice(first, first + options.batch)
            update.zero_grad()
            logits, _ = model(images[part])
            loss = torch.nn.functional.cross_entropy(logits, labels[part])
            loss.backward()
            update.step()
            losses.append(loss.detach())
    return torch.stack(losses).tolist()


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)


def _apart(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    shell.run_command(main)
