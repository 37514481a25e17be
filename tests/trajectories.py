"""The release's recorded training runs, repeated through the project's own step.

    python -m tests.trajectories                  a table of the runs in tests/golden/trajectories
    python -m tests.trajectories --device cuda    the same through the fused, captured step
    python -m tests.trajectories FOLDER           of other files of that form

A file is one run of the unchanged source under TensorFlow 1.8.0: ``<script>.npz`` as it ran, which
``updates="as_released"`` repeats, ``<script>_intended.npz`` the same graph with all weights
trained, which ``updates="all"`` repeats. Twelve updates (ff_5: two) on batches of four images of
32×32, the hidden state starting as the drive. Exit code 1 where a run is outside the tolerances.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.recurrent import RecurrentNetwork
from models.tf_variables import load_tf_variables, tf_variables
from support.tables import text_table
from training.distribution import Ranks
from training.losses import cross_entropy
from training.metrics import accuracy
from training.optimizers import network_optimizer
from training.step import TrainStep

FOLDER = Path(__file__).parent / "golden" / "trajectories"
INTENDED = "_intended"
# What float32 arithmetic leaves between two implementations, by what is compared.
TOLERANCES = {
    "loss": 3e-5,  # nats, of each update
    "accuracy": 0.0,
    "logits": 1e-4,  # of the largest; of the first and the last update
    "weights": 1e-3,  # of a variable's change in the run; one that did not change is to be equal
    "averages": 3e-3,  # the same of running averages
    "validation loss": 1e-5,  # with the recorded end's variables, as is all below
    "validation logits": 1e-4,
    "averages after validation": 3e-3,
}
AVERAGES = ("/moving_mean:0", "/moving_variance:0")
# Variables whose gradient is 0 but for rounding, and what follows from them: nadam and adam move
# them by ±lr a step at random. The readout's normalisation takes out the shift before it, which its
# running mean still has; the circuits (hgru_bn, hgru_bn_for, hgru_bn_relu) the gates' biases. In
# ff_5 this holds of each channel whose last relu is on wherever the readout looks.
SHIFT = (
    "cnn/input/hgru_bn/beta:0",
    "cnn/input/c5_bn/beta:0",
    "cnn/readout_1/readout_1_bn/moving_mean:0",
)
GATE_BIASES = tuple(f"cnn/input/hgru_1_hgru_weights/hgru_1_{g}_bias:0" for g in ("gain", "mix"))

Errors = dict[str, tuple[float, str]]
Arrays = dict[str, np.ndarray]


def repeat(
    file: Path, device: str = "cpu", captured: bool = False, updates: str | None = None
) -> Errors:
    """Repeat a recorded run and compare.

    Args:
        file: the recorded run.
        device: where to compute.
        captured: replay the update as a captured graph, on a GPU.
        updates: the setting; None takes the one that the file's name says.

    Returns:
        For each kind of ``TOLERANCES`` the worst error, and of which update or variable it is.
    """
    with np.load(file, allow_pickle=False) as arrays:
        run = dict(arrays)
    script = importlib.import_module(file.stem.removesuffix(INTENDED))
    updates = updates or ("all" if file.stem.endswith(INTENDED) else "as_released")
    params = script.experiment_params()
    if hasattr(script.build_model(), "hgru"):
        params["aux"] = {"hidden_init": "identity"}
    network = script.build_model(params).to(device)
    load_tf_variables(network, _named(run, "var/"))
    images = torch.from_numpy(run["images"])[:, :, None].to(device).float() / 255
    labels = torch.from_numpy(run["labels"]).to(device).long()
    at_hand: list[Tensor] = []

    def loss(logits: Tensor, expected: Tensor) -> Tensor:
        at_hand[:] = [logits.detach()]
        return cross_entropy(logits, expected)

    name, rate = bytes(run["optimizer"]).decode(), float(run["lr"])
    step = TrainStep(
        network, loss, accuracy, network_optimizer(network, name, rate, updates),
        None, Ranks(torch.device(device)), captured=captured,
    )  # fmt: skip
    losses, accuracies, logits = [], [], []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for batch, answer in zip(images[:-1], labels[:-1], strict=True):
            numbers = step(batch, answer)
            losses.append(numbers[0].item())
            accuracies.append(numbers[1].item())
            logits.append(at_hand[0].cpu().numpy().copy())
        moved = tf_variables(network)

        load_tf_variables(network, _named(run, "end/"))
        network.eval()
        with torch.no_grad():
            validation = network(images[-1])[0]
        validation_loss = cross_entropy(validation, labels[-1]).item()
        after_validation = _circuit_averages_after(network, images[-1])
    return {
        "loss": _worst_update(losses, run["loss"]),
        "accuracy": _worst_update(accuracies, run["accuracy"]),
        "logits": max(
            (_relative(logits[0], run["logits_first"]), "the first update"),
            (_relative(logits[-1], run["logits_last"]), "the last update"),
        ),
        "weights": _worst_variable(moved, run, "end/", "var/", averages=False),
        "averages": _worst_variable(moved, run, "end/", "var/", averages=True),
        "validation loss": (abs(validation_loss - run["val_loss"].item()), ""),
        "validation logits": (_relative(validation.cpu().numpy(), run["val_logits"]), ""),
        "averages after validation": _worst_variable(
            after_validation, run, "after_val/", "end/", averages=True
        ),
    }


def misfits(errors: Errors) -> list[str]:
    """What is outside the tolerances, a line each."""
    return [
        f"{kind}: {error:.2g}, at most {TOLERANCES[kind]:g}" + (f" ({where})" if where else "")
        for kind, (error, where) in errors.items()
        if not error <= TOLERANCES[kind]
    ]


def _named(run: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): v for name, v in run.items() if name.startswith(prefix)}


def _worst_update(found: list[float], recorded: np.ndarray) -> tuple[float, str]:
    errors = np.abs(np.array(found) - recorded)
    return float(errors.max()), f"update {errors.argmax() + 1} of {len(errors)}"


def _relative(found: np.ndarray, recorded: np.ndarray) -> float:
    return float(np.abs(found - recorded).max() / np.abs(recorded).max())


def _worst_variable(
    found: Arrays, run: Arrays, after: str, before: str, averages: bool
) -> tuple[float, str]:
    """The largest error of a variable, as root mean square over that of its recorded change."""
    normalised = any("/g1_bn" in name for name in found)
    left_out = SHIFT + (GATE_BIASES if normalised else ())
    worst = (0.0, "")
    for name, value in found.items():
        if name in left_out or name.endswith(AVERAGES) != averages or after + name not in run:
            continue
        recorded = run[after + name].astype(np.float64)
        error = np.linalg.norm(value - recorded)
        change = np.linalg.norm(recorded - run[before + name])
        relative = error / change if change else (np.inf if error else 0.0)
        worst = max(worst, (float(relative), name))
    return worst


def _circuit_averages_after(network: torch.nn.Module, images: Tensor) -> Arrays:
    """The variables after a pass in which the circuit moves its running averages.

    The release's does so in validation; here it moves them in training only.
    """
    if isinstance(network, RecurrentNetwork):
        network.hgru.train()
    with torch.no_grad():
        network(images)
    return tf_variables(network)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.trajectories",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="of recorded runs")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--eager", action="store_true", help="no captured graph on a GPU")
    options = parser.parse_args(arguments)
    files = sorted(options.folder.glob("*.npz"))
    if not files:
        parser.error(f"{options.folder} holds no .npz files")
    rows, problems = [], []
    for file in files:
        captured = options.device != "cpu" and not options.eager
        errors = repeat(file, options.device, captured)
        problems += [f"{file.name}: {text}" for text in misfits(errors)]
        numbers = {kind: f"{error:.1e}" for kind, (error, _) in errors.items()}
        rows.append({"run": file.stem, **numbers, "worst weight": errors["weights"][1]})
    limits = {kind: f"{tolerance:.1e}" for kind, tolerance in TOLERANCES.items()}
    print(text_table([*rows, {"run": "at most", **limits, "worst weight": ""}]))
    for text in problems:
        print(f"outside the tolerance: {text}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    raise SystemExit(main())
