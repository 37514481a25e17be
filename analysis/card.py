"""A model card: what was trained on what, how, and how well it does."""

import json
from typing import Any

from analysis import origin
from analysis.curves import images_to
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.trained import TrainedRun, load_run
from dataset_processing.sets import is_stream
from training.experiment import DEFAULTS
from training.weights import fingerprint

NUMBERS = ("fold", "images", "seed", "accuracy", "low", "high", "loss", "auc")
TEMPLATE = """# {run}

{what}

| | |
|---|---|
{facts}

## Accuracy

{accuracy}

## Use

```
python -m analysis.predict {file} image.png
python -m analysis.evaluate {file} --dataset {dataset}
```

Images are grey, {height}×{width} pixels; label 1: both discs sit on one contour, label 0: on two.
From Python: `analysis.trained.load_run("{file}").network`.

## Limits

Trained on synthetic Pathfinder images alone, of the contour length named above; it says nothing
about other images. One seed: another gives other weights and another accuracy.

Network and task: Linsley, Kim, Veerabadran, Windolf and Serre, "Learning long-range spatial
dependencies with horizontal gated recurrent units", NeurIPS 2018 (arXiv:1805.08315).
"""


def model_card(run: TrainedRun, file: str) -> str:
    """The card of a run's weights, Markdown.

    Accuracies are those that ``analysis.evaluate`` has kept of these weights, whole circuit.

    Args:
        run: the run.
        file: name of the file of weights.
    """
    environment = run.record.get("environment") or {}
    facts = {
        "script": origin.script(run.record),
        "parameters": f"{run.parameters:,}",
        "trained on": origin.data(run.record),
        "initial weights": began_with(run),
        "training images": f"{run.images_seen:,}, repeats counted ({run.step:,} updates of "
        f"{run.params['batch_size']})",
        "weights": f"step {run.step} ({run.weights})",
        "optimizer": f"{run.params['optimizer']}, lr {run.params['lr']:g} "
        f"({run.params.get('lr_schedule', DEFAULTS['lr_schedule'])})",
        "updates": run.params.get("updates", DEFAULTS["updates"]),
        "seed": run.seed,
        "command": f"`{origin.command(run.record)}`",
        "commit": origin.commits(run.record, run.step),
        "device": origin.devices(run.record, run.step),
        "PyTorch": environment.get("torch"),
    }
    needed = images_to(run.history, int(run.params["batch_size"]))
    if needed:  # 0: it began with weights that had reached it
        facts["training images to 90% in validation"] = f"{needed:,}"
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    height, width = run.stimulus_size
    trained_on = str(run.params["dataset"])
    return TEMPLATE.format(
        run=run.experiment,
        what=f"Weights of `{facts['script']}` for the Pathfinder task, of the run `{run.name}`.",
        facts="\n".join(lines),
        accuracy=_accuracy(run),
        file=file,
        dataset=trained_on.removesuffix("_stream") if is_stream(trained_on) else "pathfinder_14",
        height=height,
        width=width,
    )


def began_with(run: TrainedRun) -> str | None:
    """The trained weights that the run began with, and what they had seen where they are those of a
    run or file that is here, or were at the export; None where it began with random ones."""
    which = run.params.get("initial_weights")
    if not which or run.record.get("began_with"):
        return run.record.get("began_with")
    recorded = run.record.get("initial_weights")
    text = f"{which}, fingerprint {recorded}"
    try:
        first = load_run(which, device="cpu", config=run.config)
    except (FileNotFoundError, ValueError):
        return text
    if fingerprint(first.network) != recorded:
        return text
    seen = f"{first.images_seen:,} images of {title(str(first.params['dataset']))}"
    before = began_with(first)
    return f"{text}, after {seen}" + (f"; these began with {before}" if before else "")


def evaluations(run: TrainedRun) -> list[dict[str, Any]]:
    """Numbers of these weights, whole circuit: what the file of weights has, and what was kept."""
    found = list(run.record.get("evaluations") or [])
    for path in sorted((run.config.condition_evaluations / run.name).glob("*.json")):
        one: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        own_steps = one["timesteps"] in (None, _timesteps(run))
        if one["step"] == run.step and not one["lesion"] and own_steps:
            numbers = {key: one[key] for key in NUMBERS}
            found.append({"dataset": title(one["dataset"]), **numbers})
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _accuracy(run: TrainedRun) -> str:
    """A table of the evaluations of these weights."""
    rows = [
        f"| {one['dataset']} | {one['images']:,} | {percent(one)} | {one['loss']:.4f} "
        f"| {one['auc']:.4f} |"
        for one in evaluations(run)
    ]
    if not rows:
        return "Not evaluated yet: `python -m analysis.evaluate` keeps what it finds for this card."
    head = "| set | images | accuracy (95% interval, Wilson) | loss (nats) | AUC |"
    return "\n".join([head, "|---|---:|---:|---:|---:|", *dict.fromkeys(rows)])


def _timesteps(run: TrainedRun) -> int | None:
    layer = getattr(run.network, "hgru", None)
    return None if layer is None else layer.timesteps
