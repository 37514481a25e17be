"""A model card: what was trained on what, how, and how well it does."""

from typing import Any

from analysis.curves import curve
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.pages import fill
from analysis.probing import timesteps
from analysis.record import NUMBERS, evaluations_kept, stages_text
from analysis.trained import TrainedRun
from training.experiment import DEFAULTS
from training.weights import fingerprint


def model_card(run: TrainedRun, file: str) -> str:
    """The card of a run's weights, Markdown, which lie in this file.

    Accuracies are those that ``analysis.evaluate`` has kept of these weights, whole circuit.
    """
    params = {**DEFAULTS, **run.params}
    stimulus, given = ("×".join(map(str, size)) for size in (run.stimulus_size, run.image_size))
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
        "training time": f"{run.seconds:,.0f} s" if run.seconds else None,
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
    dataset = run.dataset.removesuffix("_stream") if run.is_stream else "pathfinder_14"
    return fill(
        "card.md.jinja", run=run, facts=facts, accuracy=dict.fromkeys(accuracy), file=file,
        dataset=dataset, stimulus=stimulus, input=given,
    )  # fmt: skip


def images_to_90(run: TrainedRun) -> int | None:
    """Training images at the first validation of 90%; None where there was none, or not known."""
    found = curve(run, "")
    return found.images_to(0.9) if len(found.table) else run.record.get("images_to_90")


def evaluations(run: TrainedRun) -> list[dict[str, Any]]:
    """Numbers of these weights, whole circuit: what the file of weights has, and what was kept."""
    found = list(run.record.get("evaluations") or [])
    own, steps = fingerprint(run.network), timesteps(run.network)
    for one in evaluations_kept(run.config, run.name):
        whole = not one["lesion"] and one["timesteps"] in (None, steps)
        if whole and one.get("weights_fingerprint") == own:
            numbers = {key: one[key] for key in NUMBERS}
            found.append({"dataset": title(one["dataset"]), **numbers})
    return [one for place, one in enumerate(found) if one not in found[:place]]
