"""Write a run's weights, or its whole network, for other programs.

python -m analysis.export latest                             (all of them)
python -m analysis.export RUN --format safetensors npy
python -m analysis.export RUN --format torch --size 300 300 --batch 8

safetensors  the network's tensors by this project's names; metadata hold the run's settings, so
             that  python -m analysis.predict FILE.safetensors image.png  and all others load it
npy          a folder of the 2018 release's variables, <run>_<step>_<variable>.npy, which
             models.tf_variables.load_npy_folder reads
card         a model card (Markdown): data, seed, command, versions, accuracy
torch        a program of torch.export (.pt2) for one batch and image size, which
             torch.export.load runs without this project; checked against the network
"""

import io
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from analysis.comparison import images_needed
from analysis.curves import curve
from analysis.evaluate import percent
from analysis.image_sets import example_set, title
from analysis.pages import fill
from analysis.probing import default_generator, timesteps
from analysis.record import NUMBERS, evaluations_kept, stages_text
from analysis.trained import TrainedRun, load_run
from config import CLONE, Config
from dataset_processing.folds import times
from dataset_processing.pathfinder import Settings
from dataset_processing.sets import is_stream
from layers.horizontal import horizontal_method
from models.tf_variables import tf_variables, without_counterpart
from support import shell
from support.files import npy_bytes, write_bytes, write_text
from training.experiment import DEFAULTS, plain
from training.weights import FORMAT, fingerprint

FORMATS = ("safetensors", "card", "npy", "torch")
TOLERANCE = 1e-4  # largest difference, relative to the largest value, that an export may show


def export_safetensors(run: TrainedRun, path: Path) -> Path:
    """Write the network's tensors; metadata, texts, say what they are and how to build it again:
    ``record`` is JSON. Host and paths of the machine are left out."""
    measured = evaluations(run)
    record = {**run.portable(), "parameters": run.params, "evaluations": measured}
    record["images_to_90"] = images_to_90(run)
    if stages := curve(run, "").stages:
        record["stages"] = stages
    tensors = {name: t.contiguous().cpu() for name, t in run.network.state_dict().items()}
    told = [
        f"{title(one['dataset'], one['fold'])}: {percent(one)} of {one['images']:,} images"
        for one in measured
    ]
    metadata = {
        "format": FORMAT,
        "run": run.name,
        "step": str(run.step),
        "weights": run.weights,
        "data": run.trained_on,
        "images_seen": str(run.images_seen),
        "seconds": "nan" if run.seconds is None else f"{run.seconds:.1f}",
        "seed": str(run.seed),
        "command": run.command,
        "commit": run.commits or "not known",
        "accuracy": "; ".join(told) or "not evaluated",
        "record": json.dumps(plain(record), sort_keys=True),
    }
    return write_bytes(path, _ordered(safetensors.torch.save(tensors, metadata)))


def _ordered(content: bytes) -> bytes:
    """A safetensors file whose metadata are in order: the library gives them in a random one.

    The file is the header's length (8 bytes, little-endian), the header (JSON, padded with spaces
    to a multiple of 8 bytes), the tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def model_card(run: TrainedRun, file: str) -> str:
    """The card of a run's weights, Markdown, which lie in this file: what was trained on what, how,
    and how well it does.

    Accuracies are those that ``analysis.evaluate`` has kept of these weights, whole circuit.
    """
    params = {**DEFAULTS, **run.params}
    stimulus, given = times(run.stimulus_size), times(run.image_size)
    aux = ", ".join(f"{key} {value}" for key, value in sorted((params["aux"] or {}).items()))
    updates = f"{run.step:,} updates of {params['batch_size']}"
    needed = images_to_90(run)
    facts = {
        "script": run.script,
        "parameters": f"{run.parameters:,}",
        "options set": aux or None,
        "trained on": run.trained_on,
        "the network is given": f"{given} pixels, after {', '.join(params['val_augmentations'])}",
        "initial weights": run.began_with,
        "training images": f"{run.images_seen:,}, repeats counted ({updates})",
        # By way of the tenths that a file of weights holds: its own card says the same.
        "training time": f"{round(run.seconds, 1):,.0f} s" if run.seconds else None,
        "weights": f"step {run.step} ({run.weights}), fingerprint {fingerprint(run.network)}",
        "optimizer": f"{params['optimizer']}, lr {params['lr']:g} ({params['lr_schedule']})",
        "updates": params["updates"],
        "seed": run.seed,
        "command": f"`{run.command}`",
        "commit": run.commits or "not known",
        "device": run.devices,
        "PyTorch": run.environment.get("torch"),
        "contour length, from so many training images": stages_text(curve(run, "").stages) or None,
        # Of a run that began with weights that had reached it, 0: not told.
        "training images to 90% in validation": f"{needed:,}" if needed else None,
    }
    accuracy = [
        f"| {title(one['dataset'], one['fold'])} | {one['images']:,} | {percent(one)} "
        f"| {one['loss']:.4f} | {one['auc']:.4f} |"
        for one in evaluations(run)
    ]
    dataset = run.dataset.removesuffix("_stream") if is_stream(run.dataset) else "pathfinder_14"
    if run.stimulus_size != Settings().shape:  # those that pathfinder_<length> draws
        dataset = example_set(run.params)
    return fill(
        "card.md.jinja", run=run, facts=facts, accuracy=dict.fromkeys(accuracy), file=file,
        dataset=dataset, stimulus=stimulus, input=given,
    )  # fmt: skip


def images_to_90(run: TrainedRun) -> int | None:
    """Training images at the first validation of 90%; None where there was none, or not known."""
    needed = images_needed(run)
    return None if needed is None or math.isnan(needed) else int(needed)


def evaluations(run: TrainedRun) -> list[dict[str, Any]]:
    """Numbers of these weights, whole circuit: what the file of weights has, and what was kept."""
    found = list(run.record.get("evaluations") or [])
    own, steps = fingerprint(run.network), timesteps(run.network)
    for one in evaluations_kept(run.config, run.name):
        whole = not one["lesion"] and one["timesteps"] in (None, steps)
        if whole and one.get("weights_fingerprint") == own:
            found.append({key: one[key] for key in ("dataset", *NUMBERS)})
    return [one for place, one in enumerate(found) if one not in found[:place]]


def export_npy(run: TrainedRun, folder: Path) -> list[Path]:
    """Write the 2018 release's variables, one ``.npy`` file each, by the release's names; a warning
    names what a network of the user's own has beside them."""
    variables = tf_variables(run.network)
    if own := without_counterpart(run.network):
        warnings.warn(
            f"not in .npy, as the release has no such variable: {', '.join(own)}", stacklevel=2
        )
    stem = f"{run.experiment}_{run.step}"
    files = {
        folder / f"{stem}_{name.removesuffix(':0').replace('/', '_')}.npy": array
        for name, array in variables.items()
    }
    return [write_bytes(path, npy_bytes(array)) for path, array in files.items()]


def export_program(
    run: TrainedRun, path: Path, size: Sequence[int], batch: int = 1
) -> tuple[Path, float]:
    """Write the network as a program of ``torch.export``, and check what was written.

    The program takes images (batch, 1, H, W), float32 in 0–1, and gives logits and activity. Its
    horizontal convolution is the direct one, which any back end knows. A random hidden state is
    drawn from PyTorch's default generator at each call.

    Args:
        size: (H, W) in pixels.

    Returns:
        The path, a ``.pt2`` file, and the largest difference to the network on random images,
        relative to the largest value. RuntimeError where that is too large. Both sides convolve
        directly: what the steps make of another method's rounding is no fault of the program.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, *size, generator=random).to(run.device)
    content = io.BytesIO()
    with torch.no_grad(), default_generator(run.network), horizontal_method("direct"):
        program = torch.export.export(run.network, (images,), strict=False)
        torch.export.save(program, content)
        content.seek(0)
        answers = []
        for network in (run.network, torch.export.load(content).module()):
            torch.manual_seed(0)
            answers.append(network(images))
    difference = max(
        float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
        for ours, theirs in zip(*answers, strict=True)
    )
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the exported program differs from the network by {difference:.1e} of the largest "
            f"value (at most {TOLERANCE:g} is allowed); nothing was written"
        )
    return write_bytes(path, content.getvalue()), difference


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("export", __doc__)
    parse.add_run(many=False)
    parse.add_argument(
        "--format", nargs="+", choices=FORMATS, default=list(FORMATS), metavar="FORMAT",
        help="formats, of those above; default: all",
    )  # fmt: skip
    parse.add_argument(
        "--size", nargs=2, type=shell.whole(1), metavar=("H", "W"),
        help="of the images that the torch program takes; default: the run's",
    )  # fmt: skip
    parse.add_argument("--batch", type=shell.whole(1), default=1, help="images of that program")
    parse.add_argument(
        "--name", help="of the files, without ending; default: <experiment>_step<step>"
    )
    parse.add_device()
    parse.add_output("folder to write to; default: the run's, under experiment_evaluations")
    options = parse.parse_args(arguments)
    config, formats = Config(), options.format
    run = load_run(options.run, options.weights, options.device, config)
    if len(without_counterpart(run.network)) == len(run.network.state_dict()) and len(formats) > 1:
        warnings.warn("no .npy: the release has no variables for this network", stacklevel=1)
        formats = [one for one in formats if one != "npy"]
    folder = options.output or config.experiment_evaluations / run.name / "export"
    stem = options.name or f"{run.experiment}_step{run.step}"
    weights = folder / f"{stem}.safetensors"
    paths: list[Path] = []
    if "safetensors" in formats:
        paths.append(export_safetensors(run, weights))
    if "card" in formats:
        # As a command in the clone names it.
        whole = weights.resolve()
        name = whole.relative_to(CLONE) if whole.is_relative_to(CLONE) else whole.name
        paths.append(write_text(folder / f"{stem}.md", model_card(run, str(name))))
    if "npy" in formats:
        paths.append(folder / f"{stem}_npy")
        print(f"{len(export_npy(run, paths[-1]))} variables of the 2018 release")
    if "torch" in formats:
        size = options.size or run.image_size
        shape = "x".join(map(str, (options.batch, 1, *size)))
        program = folder / f"{stem}_{shape}.pt2"
        path, difference = export_program(run, program, size, options.batch)
        print(f"the program differs from the network by {difference:.1e} of the largest value")
        paths.append(path)
    shell.name_outputs(paths)


if __name__ == "__main__":
    shell.run_command(main)
