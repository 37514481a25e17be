"""A model card: what was trained on what, how, and how well it does."""

from typing import Any

from analysis.curves import curve
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.record import NUMBERS, evaluations_kept, stages_text
from analysis.trained import TrainedRun
from training.experiment import DEFAULTS
from training.weights import fingerprint

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

Images are grey, {stimulus} pixels, and the network is given {input}. Label 1: both discs sit on one
contour; label 0: on two. From Python: `analysis.trained.load_run("{file}").network`.

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
    params, trained_on = run.params, str(run.params["dataset"])
    aux = ", ".join(f"{key} {value}" for key, value in sorted((params.get("aux") or {}).items()))
    facts = {
        "script": run.script,
        "parameters": f"{run.parameters:,}",
        "options set": aux or None,
        "trained on": run.trained_on,
        "the network is given": f"{_times(run.image_size)} pixels, after "
        f"{', '.join(params['val_augmentations'])}",
        "initial weights": run.began_with,
        "training images": f"{run.images_seen:,}, repeats counted ({run.step:,} updates of "
        f"{params['batch_size']})",
        "training time": f"{run.seconds:,.0f} s" if run.seconds else None,
        "weights": f"step {run.step} ({run.weights}), fingerprint {fingerprint(run.network)}",
        "optimizer": f"{params['optimizer']}, lr {params['lr']:g} "
        f"({params.get('lr_schedule', DEFAULTS['lr_schedule'])})",
        "updates": params.get("updates", DEFAULTS["updates"]),
        "seed": run.seed,
        "command": f"`{run.command}`",
        "commit": run.commits,
        "device": run.devices,
        "PyTorch": run.environment.get("torch"),
    }
    stages = curve(run, "").stages
    if stages:
        facts["contour length, from so many training images"] = stages_text(stages)
    needed = images_to_90(run)
    if needed:  # 0: it began with weights that had reached it
        facts["training images to 90% in validation"] = f"{needed:,}"
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    stream = trained_on.endswith("_stream")
    return TEMPLATE.format(
        run=run.experiment,
        what=f"Weights of `{run.script}` for the Pathfinder task, of the run `{run.name}`.",
        facts="\n".join(lines),
        accuracy=_accuracy(run),
        file=file,
        dataset=trained_on.removesuffix("_stream") if stream else "pathfinder_14",
        stimulus=_times(run.stimulus_size),
        input=_times(run.image_size),
    )


def images_to_90(run: TrainedRun) -> int | None:
    """Training images at the first validation of 90%; None where there was none, or not known."""
    if not run.history.validation_step:
        known: int | None = run.record.get("images_to_90")
        return known
    return curve(run, "").images_to(0.9)


def evaluations(run: TrainedRun) -> list[dict[str, Any]]:
    """Numbers of these weights, whole circuit: what the file of weights has, and what was kept."""
    found = list(run.record.get("evaluations") or [])
    own = fingerprint(run.network)
    for one in evaluations_kept(run.config, run.name):
        own_steps = one["timesteps"] in (None, _timesteps(run))
        if one.get("weights_fingerprint") == own and not one["lesion"] and own_steps:
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


def _times(size: tuple[int, int]) -> str:
    return "×".join(map(str, size))
