"""Learning curves: accuracy and loss over training images, with the spread over seeds."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import origin
from analysis.style import GRID, MUTED, PAGE, legend_below, new_figure, series, style
from analysis.trained import TrainedRun
from training.experiment import DEFAULTS
from training.history import History
from training.run import TIMESTAMP

SMOOTH = 200  # points that a training curve is reduced to
# Parameters that say nothing of what was learned.
BOOKKEEPING = {
    "exp_name", "save_weights", "log_iters", "checkpoint_minutes", "keep_checkpoints", "keep_every",
    "validation_iters", "num_validation_evals", "shuffle_val", "epochs", "stream_seed",
    "stream_val_images", "model_name", "dataset",
}  # fmt: skip
AMOUNT = "stream_epoch_images"  # read off the axis of images, or the table beside it
NAMED = {"initial_weights": "after"}  # what a parameter is called in a name


def labels(
    runs: Sequence[TrainedRun], with_dataset: bool = True, without: Collection[str] = ()
) -> list[str]:
    """A short name for each run: its model, its data, and other parameters by which runs differ.

    Runs of one name differ by their seed alone (or by their data too, without ``with_dataset``).
    Data and parameters that are the same in all runs of a model are left out, and where they
    differ, values that mean nothing was set. How many images were asked for is told only where
    nothing else tells two runs apart.

    Args:
        runs: the runs.
        with_dataset: name the data where runs differ by them.
        without: parameters that are not told.
    """
    names = [run.model_name for run in runs]
    if with_dataset and len({run.params["dataset"] for run in runs}) > 1:
        names = [f"{name}, {run.params['dataset']}" for name, run in zip(names, runs, strict=True)]
    for places in _alike(names):
        keys = {key for i in places for key in runs[i].params} - BOOKKEEPING - set(without)
        for key in sorted(keys - {AMOUNT}):
            _tell(key, runs, places, names)
    for places in _alike(names):
        _tell(AMOUNT, runs, places, names)
    return names


def _alike(names: Sequence[str]) -> list[list[int]]:
    """The places of each name."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return list(found.values())


def _tell(
    key: str, runs: Sequence[TrainedRun], places: Sequence[int], names: list[str]
) -> None:
    """Add a parameter to the names of runs where they differ by it."""
    found = {i: runs[i].params.get(key, DEFAULTS.get(key)) for i in places}
    if len({repr(value) for value in found.values()}) == 1:
        return
    chosen = {i for i in places if key in origin.overrides(runs[i].record)}
    own = {repr(value) for i, value in found.items() if i not in chosen}
    for i, value in found.items():
        # The value that the script itself has, where all others were asked for.
        plain = i not in chosen and len(own) == 1 and chosen
        if not plain and (key not in DEFAULTS or value != DEFAULTS[key]):
            names[i] += f", {NAMED.get(key, key)} {_value(value)}"


def images_to(history: History, batch_size: int, level: float = 0.9) -> int | None:
    """Training images at the first validation whose metric reached the level; None if none did."""
    for step, metric in zip(history.validation_step, history.validation_metric, strict=True):
        if metric >= level:
            return step * batch_size
    return None


def training_curve(values: Sequence[float], points: int = SMOOTH) -> tuple[np.ndarray, np.ndarray]:
    """Steps and means of a training curve over as many equal stretches."""
    stretches = np.array_split(np.asarray(values, dtype=np.float64), min(points, len(values)))
    ends = np.cumsum([len(part) for part in stretches])
    return ends, np.array([part.mean() for part in stretches])


def learning_curves(runs: Sequence[TrainedRun]) -> Figure:
    """Validation (thick) and training (thin) accuracy and loss over training images.

    Runs that differ by their seed alone share a colour: the line is their mean, the band reaches
    from the lowest to the highest of them.

    Raises:
        ValueError: none of the runs has a history.
    """
    drawn = [run for run in runs if run.history.validation_step or run.history.train_loss]
    if not drawn:
        raise ValueError("none of these runs has a history to draw curves from")
    names = labels(drawn)
    unit, word = _unit(drawn)
    with style():
        figure = new_figure(PAGE, 2.9)
        accuracy, loss = figure.subplots(1, 2)
        for number, name in enumerate(dict.fromkeys(names)):
            group = [run for run, other in zip(drawn, names, strict=True) if other == name]
            look = series(number)
            seeds = f" ({len(group)} seeds)" if len(group) > 1 else ""
            _series(accuracy, group, "metric", unit, name + seeds, look)
            _series(loss, group, "loss", unit, None, look)
        metric = drawn[0].metric
        accuracy.set_title(f"{metric}, validation and training (thin)")
        loss.set_title("loss, validation and training (thin)")
        accuracy.set_ylabel(metric)
        loss.set_ylabel("cross-entropy (nats)" if "cce" in _losses(drawn) else "loss")
        if metric == "accuracy":
            accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            accuracy.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
            accuracy.annotate(
                "chance", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                color=MUTED, fontsize=7,
            )  # fmt: skip
            accuracy.set_ylim(top=min(1.02, accuracy.get_ylim()[1]))
        for axes in (accuracy, loss):
            axes.grid(axis="y")
            axes.set_xlabel(f"training images{f' ({word})' if word else ''}")
            axes.set_xlim(left=0)
        lines, told = accuracy.get_legend_handles_labels()
        if told:
            legend_below(figure, lines, told, 3)
    return figure


def _series(
    axes: Axes, group: list[TrainedRun], what: str, unit: float, name: str | None,
    look: dict[str, Any],
) -> None:  # fmt: skip
    """The mean of a group's validations, its band, and its training curves."""
    batch = int(group[0].params["batch_size"])
    for run in group:
        values = getattr(run.history, f"train_{what}")
        if values:
            ends, means = training_curve(values)
            axes.plot(ends * batch / unit, means, color=look["color"], linewidth=0.6, alpha=0.55)
    steps = set.intersection(*(set(run.history.validation_step) for run in group))
    common = np.array(sorted(steps))
    if not len(common):
        return
    table = np.array(
        [
            [dict(zip(run.history.validation_step, getattr(run.history, f"validation_{what}"),
                      strict=True))[step] for step in common]
            for run in group
        ]
    )  # fmt: skip
    x = common * batch / unit
    every = max(1, len(x) // 12)
    axes.plot(x, table.mean(0), label=name, markevery=every, **look)
    if len(group) > 1:
        axes.fill_between(
            x, table.min(0), table.max(0), color=look["color"], alpha=0.18, linewidth=0,
            edgecolor=GRID,
        )  # fmt: skip


def _unit(runs: Sequence[TrainedRun]) -> tuple[float, str]:
    """What the axis of images counts in."""
    most = 0
    for run in runs:
        steps = [*run.history.validation_step, len(run.history.train_loss)]
        most = max(most, int(run.params["batch_size"]) * max(steps))
    if most >= 2e5:
        return 1e6, "millions"
    return (1e3, "thousands") if most >= 2e3 else (1, "")


def _losses(runs: Sequence[TrainedRun]) -> set[str]:
    return {str(run.params.get("loss_function")).replace("sparse_ce", "cce") for run in runs}


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else TIMESTAMP.sub("", str(value))
