"""A model card: what was trained on what, how, and how well it does."""

import json
import shlex
from typing import Any

from analysis.curves import images_to
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.runs import TrainedRun

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
python -m analysis.evaluate {file} --dataset pathfinder_14
```

Images are grey, {height}×{width} pixels; label 1: both discs sit on one contour, label 0: on two.
From Python: `analysis.runs.load_run("{file}").network`.

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
    data = (run.record.get("data") or {}).get("train") or {}
    command = environment.get("command")
    facts = {
        "script": run.record.get("script") or f"{run.model_name}.py",
        "parameters": f"{run.parameters:,}",
        "trained on": data.get("description") or title(str(run.params["dataset"])),
        "training images": f"{run.images_seen:,}, repeats counted ({run.step:,} updates of "
        f"{run.params['batch_size']})",
        "weights": f"step {run.step} ({run.weights})",
        "optimizer": f"{run.params['optimizer']}, lr {run.params['lr']:g}",
        "seed": run.seed,
        "command": f"`python {shlex.join(command[1:])}`" if command else None,
        "commit": _commit(environment),
        "device": environment.get("device"),
        "PyTorch": environment.get("torch"),
    }
    needed = images_to(run.history, int(run.params["batch_size"]))
    if needed is not None:
        facts["training images to 90% in validation"] = f"{needed:,}"
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    height, width = run.stimulus_size
    return TEMPLATE.format(
        run=run.experiment,
        what=f"Weights of `{facts['script']}` for the Pathfinder task, of the run `{run.name}`.",
        facts="\n".join(lines),
        accuracy=_accuracy(run),
        file=file,
        height=height,
        width=width,
    )


def _accuracy(run: TrainedRun) -> str:
    """A table of the evaluations kept of these weights."""
    rows = []
    for path in sorted((run.config.condition_evaluations / run.name).glob("*.json")):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        own_steps = found["timesteps"] in (None, _timesteps(run))
        if found["step"] == run.step and not found["lesion"] and own_steps:
            rows.append(
                f"| {title(found['dataset'])} | {found['images']:,} | {percent(found)} "
                f"| {found['loss']:.4f} | {found['auc']:.4f} |"
            )
    if not rows:
        return "Not evaluated yet: `python -m analysis.evaluate` keeps what it finds for this card."
    head = "| set | images | accuracy (95% interval, Wilson) | loss (nats) | AUC |"
    return "\n".join([head, "|---|---:|---:|---:|---:|", *dict.fromkeys(rows)])


def _timesteps(run: TrainedRun) -> int | None:
    layer = getattr(run.network, "hgru", None)
    return None if layer is None else layer.timesteps


def _commit(environment: dict[str, Any]) -> str | None:
    commit = environment.get("git_commit")
    if commit is None:
        return None
    return f"{commit[:12]}{' (with uncommitted changes)' if environment.get('git_dirty') else ''}"
