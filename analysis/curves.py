"""Learning curves: accuracy and loss over training images, a line for each run."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.style import MUTED, PAGE, SERIES, legend_rows, new_figure, series, style
from analysis.trained import TrainedRun
from support.errors import UserError, refusals
from training.experiment import SETTINGS
from training.run import TIMESTAMP

AXES = 2.4  # inches: height of the axes of a row
FEW = 4  # runs whose training curves are drawn too
COLUMNS = (
    "run", "label", "training_images", "seconds", "training_loss", "training_accuracy",
    "validation_loss", "validation_accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A run's validations, and its training in between.

    Attributes:
        run: its name.
        label: what the figure calls it; runs of one label differ by their seed.
        table: (v, 6): training images, seconds of training, loss and metric of training since the
            validation before, loss and metric of the validation. Not known: not a number.
        metric: name of the metric.
    """

    run: str
    label: str
    table: np.ndarray
    metric: str = "accuracy"

    def images_to(self, level: float) -> int | None:
        """Training images at the first validation that reached a level; None if none did."""
        reached = self.table[self.table[:, 5] >= level, 0]
        return int(reached[0]) if len(reached) else None

    def rows(self) -> list[dict[str, Any]]:
        """A row for each validation, for a table file."""
        digits = (".0f", ".1f", ".5f", ".5f", ".5f", ".5f")
        return [
            {"run": self.run, "label": self.label}
            | {
                key: "" if np.isnan(value) else format(value, form)
                for key, value, form in zip(COLUMNS[2:], line, digits, strict=True)
            }
            for line in self.table
        ]


def curve(run: TrainedRun, label: str) -> Curve:
    """The curve of a run up to its weights."""
    lines, before = [], 0
    history = run.history.until(run.step)
    for step, images, seconds, loss, metric in zip(
        history.validation_step,
        history.validation_images,
        history.validation_seconds,
        history.validation_loss,
        history.validation_metric,
        strict=True,
    ):
        since = slice(before, step)
        training = [
            float(np.mean(values[since])) if values[since] else np.nan
            for values in (history.train_loss, history.train_metric)
        ]
        lines.append([images, seconds, *training, loss, metric])
        before = step
    return Curve(run.name, label, np.array(lines).reshape(-1, 6), run.metric)


def of_runs(runs: Sequence[TrainedRun], names: Sequence[str] = ()) -> list[Curve]:
    """The curves of runs, by name (see :func:`labels`), and by data set where they differ."""
    told = labels(runs, names)
    if not names and len({run.params["dataset"] for run in runs}) > 1:
        told = [f"{name}, {run.params['dataset']}" for name, run in zip(told, runs, strict=True)]
    return [curve(run, name) for run, name in zip(runs, told, strict=True)]


def read_curves(path: Path) -> list[Curve]:
    """The curves of a table file.

    Raises:
        UserError: it is missing, or not such a table.
    """
    with refusals(path, "cannot be read"):
        text = path.read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise UserError(f"{path}: a table with the columns {', '.join(COLUMNS)} is expected")
    found: dict[tuple[str, str], list[list[float]]] = {}
    for row in rows:
        numbers = [float(row[key] or "nan") for key in COLUMNS[2:]]
        found.setdefault((row["run"], row["label"]), []).append(numbers)
    return [Curve(run, label, np.array(lines)) for (run, label), lines in found.items()]


def labels(runs: Sequence[TrainedRun], given: Sequence[str] = ()) -> list[str]:
    """What tables and figures call each run; runs of one label count as seeds of one thing.

    The label is the experiment's name without its data set and seed. Runs that share it but differ
    in settings are called by their own names.

    Args:
        runs: the runs.
        given: labels of the user's choice, one for each run, or none.

    Raises:
        UserError: there are not as many labels as runs.
    """
    if given:
        if len(given) != len(runs):
            raise UserError(f"--label: one for each of the {len(runs)} runs, found {len(given)}")
        return list(given)
    names = [_label(run) for run in runs]
    settings: dict[str, set[str]] = {}
    for name, run in zip(names, runs, strict=True):
        settings.setdefault(name, set()).add(_settings(run))
    return [
        name if len(settings[name]) == 1 else run.name
        for name, run in zip(names, runs, strict=True)
    ]


def _label(run: TrainedRun) -> str:
    name = re.sub(rf"_s(eed)?_?{run.seed}$", "", TIMESTAMP.sub("", run.name))
    return name.replace(f"_{run.params['dataset']}", "") or name


def _settings(run: TrainedRun) -> str:
    """What was set, without what does not bear on learning and without names of runs."""
    left = {key for key, setting in SETTINGS.items() if setting.metadata["resume"]}
    left |= {"exp_name", "dataset", "initial_weights"}
    told = {key: value for key, value in run.params.items() if key not in left}
    return repr(sorted(told.items()))


def learning_curves(curves: Sequence[Curve]) -> Figure:
    """Metric and loss of the validations over training images, a line for each run.

    Runs of one label share colour and marker. Of a few runs, the training is shown too, thin. So
    many labels that colours would repeat are spread over rows, each with its own legend.

    Raises:
        UserError: none of the runs has a validation.
    """
    drawn = [one for one in curves if len(one.table)]
    if not drawn:
        raise UserError("none of these runs has a validation to draw curves from")
    names = list(dict.fromkeys(one.label for one in drawn))
    parts = [list(part) for part in np.array_split(names, -(-len(names) // len(SERIES)))]
    heights = [AXES + legend_rows(part)[2] for part in parts]
    with style():
        figure = new_figure(PAGE, sum(heights))
        rows: Any = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
        for row, part in zip(rows, parts, strict=True):
            chosen = [one for one in drawn if one.label in part]
            _row(row, chosen, part, _unit(drawn), len(drawn) <= FEW)
        for column in (figure.axes[::2], figure.axes[1::2]):  # the same axes in all rows
            low, high = zip(*(axes.get_ylim() for axes in column), strict=True)
            for axes in column:
                axes.set_ylim(min(low), max(high))
                axes.set_xlim(0, max(axes.get_xlim()[1] for axes in column))
    return figure


def _row(
    figure: Any, drawn: Sequence[Curve], names: Sequence[str], unit: tuple[float, str], both: bool
) -> None:
    """Two axes and the legend of some of the labels; ``both``: the training too."""
    upper, lower = figure.subplots(1, 2)
    for number, name in enumerate(names):
        look, runs = series(number), [one for one in drawn if one.label == name]
        many = f" ({len(runs)} runs)" if len(runs) > 1 else ""
        for place, one in enumerate(runs):
            x = one.table[:, 0] / unit[0]
            every = max(1, len(x) // 10)
            for axes, validation, training in ((upper, 5, 3), (lower, 4, 2)):
                told = name + many if axes is upper and not place else None
                axes.plot(
                    x, one.table[:, validation], label=told, markevery=every, markersize=3.2,
                    linewidth=1.1, **look,
                )  # fmt: skip
                if both:
                    between = (x[1:] + x[:-1]) / 2
                    axes.plot(between, one.table[1:, training], color=look["color"], linewidth=0.6)
    metric, thin = drawn[0].metric, ", training thin" if both else ""
    upper.set_title(f"{metric} in validation{thin}")
    lower.set_title(f"loss in validation{thin}")
    upper.set_ylabel("accuracy (dashed: chance)" if metric == "accuracy" else metric)
    lower.set_ylabel("cross-entropy (nats)")
    if metric == "accuracy":
        upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        upper.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        upper.set_ylim(top=min(1.02, upper.get_ylim()[1]))
    for axes in (upper, lower):
        axes.grid(axis="y")
        axes.set_xlabel(f"training images{unit[1]}")
    handles, told = upper.get_legend_handles_labels()
    wrapped, columns, _ = legend_rows(told)
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns)


def _unit(drawn: Sequence[Curve]) -> tuple[float, str]:
    """What the axis of images counts in, and its name in brackets."""
    most = max(one.table[-1, 0] for one in drawn)
    if most >= 2e6:
        return 1e6, " (millions)"
    return (1e3, " (thousands)") if most >= 2e3 else (1, "")
