"""Learning curves: accuracy and loss over training images, a line for each run."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.record import CHANGEABLE, RunRecord, is_counted
from analysis.style import CHANCE, PAGE, SERIES, legend_rows, new_figure, style
from analysis.trained import TrainedRun
from support.errors import UserError
from training.run import Run

AXES = 2.4  # inches: height of the axes of a row
# Of the axis of images: from how many on, what it counts in, and its name.
UNITS = ((2e6, 1e6, " (millions)"), (2e3, 1e3, " (thousands)"), (0, 1, ""))
LOSSES = {"l2": "half the sum of squares", "pearson": "1 − correlation"}  # others: cross-entropy
FEW = 4  # runs whose training curves are drawn too
ROUNDING = 1e-6  # that a recorded share may be below itself: a mean in float32, six digits


@dataclass(frozen=True)
class Curve:
    """A run's validations, and its training in between.

    ``table``, (v, 6): training images, seconds of training, loss and metric of training since the
    validation before, loss and metric of the validation; not a number where not known.
    """

    run: str  # its name
    label: str  # what the figure calls it; runs of one label differ by their seed
    table: np.ndarray
    metric: str = "accuracy"
    loss: str = "cce"
    stages: tuple[tuple[int, int], ...] = ()  # (training images, length that began there)

    def reached(self, level: float) -> np.ndarray | None:
        """The row of the first validation that reached an accuracy, 0–1; None if none did, or the
        metric is another."""
        if self.metric != "accuracy":
            return None
        return next(iter(self.table[self.table[:, 5] >= level - ROUNDING]), None)

    def images_to(self, level: float) -> int | None:
        """Training images at that validation; None if there is none."""
        row = self.reached(level)
        return None if row is None else int(row[0])


def curve(run: TrainedRun, label: str) -> Curve:
    """The curve of a run up to its weights."""
    lines, before, history = [], 0, run.history.until(run.step)
    validations = (
        history.validation_step, history.validation_images, history.validation_seconds,
        history.validation_loss, history.validation_metric,
    )  # fmt: skip
    for step, images, seconds, *measured in zip(*validations, strict=True):
        training = history.train_loss[before:step], history.train_metric[before:step]
        since = [float(np.mean(values)) if values else np.nan for values in training]
        lines.append([images, seconds, *since, *measured])
        before = step
    return _curve(run, label, lines, run.files)


def logged_curve(run: Run, label: str) -> Curve:
    """The curve of a run by its log alone, which may be shortened (see ``analysis.record``)."""
    record = RunRecord.of(run)
    lines, training = [], []
    for event in run.events():
        if event["event"] in ("train", "validation"):
            measured = event["loss"], event[record.metric]
        if event["event"] == "train":
            training.append(measured)
        elif event["event"] == "validation":
            since = np.mean(training, axis=0) if training else (np.nan, np.nan)
            seconds = np.nan if event.get("seconds") is None else event["seconds"]
            if is_counted(event):
                lines.append([event["images"], seconds, *since, *measured])
            training = []
    return _curve(record, label, lines, run)


def _curve(record: RunRecord, label: str, lines: list[list[float]], log: Run | None) -> Curve:
    stages = [(images, length) for images, length in record.record.get("stages") or []]
    for event in log.events("stage") if log else ():
        if event["step"] <= record.step:
            stages.append((event["images"], event["length"]))
    table = np.array(lines).reshape(-1, 6)
    loss = str(record.params.get("loss_function") or "cce")
    return Curve(record.name, label, table, record.metric, loss, tuple(stages))


def of_runs(runs: Sequence[TrainedRun], names: Sequence[str] = ()) -> list[Curve]:
    """The curves of runs, by name (see :func:`beside`), and by data set where they differ."""
    told = beside(runs, names)
    if not names and len({run.dataset for run in runs}) > 1:
        told = [f"{name}, {run.dataset}" for name, run in zip(told, runs, strict=True)]
    return [curve(run, name) for run, name in zip(runs, told, strict=True)]


def labels(runs: Sequence[RunRecord], given: Sequence[str] = ()) -> list[str]:
    """What tables and figures call each run; runs of one label count as seeds of one thing.

    The label is the experiment's name without its data set and seed. Runs that share it but differ
    in settings have these settings added. UserError where labels are given, but not one for each.
    """
    if given:
        if len(given) != len(runs):
            raise UserError(f"--label: one for each of the {len(runs)} runs, found {len(given)}")
        return list(given)
    known = [(_label(run), _settings(run)) for run in runs]
    found = []
    for name, own in known:
        others = [other for one, other in known if one == name]
        differing = [
            f"{key} {own.get(key)}"
            for key in dict.fromkeys(key for other in others for key in other)
            if any(other.get(key) != own.get(key) for other in others)
        ]
        found.append(f"{name} ({', '.join(differing)})" if differing else name)
    return found


def beside(runs: Sequence[RunRecord], given: Sequence[str] = ()) -> list[str]:
    """The labels of runs that are compared; a warning names those of one label and seed.

    UserError where a run is there twice, with the same weights or as two seeds of one thing, or
    where they did not validate by the same metric.
    """
    by = {run.metric: run.name for run in runs}
    if len(by) > 1:
        told = ", ".join(f"{metric!r} ({name})" for metric, name in by.items())
        raise UserError(
            f"score_metric must be the same in all runs that are compared, found {told}"
        )
    found = labels(runs, given)
    known = [(run.name, run.seed, str(run.step)) for run in runs]
    known += [(run.name, run.seed, label) for run, label in zip(runs, found, strict=True)]
    if twice := [one[0] for one in known if known.count(one) > 1]:
        raise UserError(
            f"{twice[0]} is there twice: it is one seed; give other weights of it another --label"
        )
    named: dict[tuple[str, str, int], str] = {}
    for run, label in zip(runs, found, strict=True):
        other = named.setdefault((label, run.dataset, run.seed), run.name)
        if other != run.name:
            warnings.warn(
                f"{other} and {run.name} are both seed {run.seed} of {label}: they count as two "
                "seeds, and paired tests take the last",
                stacklevel=2,
            )
    return found


def _label(run: RunRecord) -> str:
    name = re.sub(rf"_s(eed)?_?{run.seed}$", "", run.experiment)
    return name.replace(f"_{run.dataset}", "") or name


def _settings(run: RunRecord) -> dict[str, Any]:
    """What was set, without what does not bear on learning and without names of runs."""
    left = CHANGEABLE - {"epochs"} | {"exp_name", "dataset", "initial_weights", "aux"}
    told = {key: value for key, value in run.params.items() if key not in left}
    seen = [str(one.get("data") or "trained") for one in run.initial_weights]
    told["initial_weights"] = ", after ".join(seen) or None
    return told | {f"aux.{key}": value for key, value in (run.params.get("aux") or {}).items()}


@style()
def learning_curves(curves: Sequence[Curve]) -> Figure:
    """Metric and loss of the validations over training images, a line for each run.

    Runs of one label share colour and marker. Where a curriculum goes on to another length, a
    stroke stands on the line. Of a few runs, the training is shown too, thin, and below the strokes
    of each label's first run the lengths. So
    many labels that colours would repeat are spread over rows, each with its own legend. UserError
    where none of the runs has a validation.
    """
    drawn = [one for one in curves if len(one.table)]
    if not drawn:
        raise UserError("none of these runs has a validation to draw curves from")
    names = list(dict.fromkeys(one.label for one in drawn))
    parts = [list(part) for part in np.array_split(names, -(-len(names) // len(SERIES)))]
    heights = [AXES + legend_rows(part)[2] for part in parts]
    most = max(one.table[-1, 0] for one in drawn)
    unit = next((size, name) for least, size, name in UNITS if most >= least)
    figure = new_figure(PAGE, sum(heights))
    rows: Any = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        chosen = [one for one in drawn if one.label in part]
        _row(row, chosen, part, unit, len(drawn) <= FEW)
    for column in (figure.axes[::2], figure.axes[1::2]):  # the same axes in all rows
        low, high = zip(*(axes.get_ylim() for axes in column), strict=True)
        for axes in column:
            axes.set_ylim(min(low), max(high))
            axes.set_xlim(0, max(axes.get_xlim()[1] for axes in column))
    return figure


def _row(
    figure: Any, drawn: Sequence[Curve], names: Sequence[str], unit: tuple[float, str], both: bool
) -> None:
    """Two axes and the legend of some of the labels; ``both``: the training and lengths too."""
    upper, lower = figure.subplots(1, 2)
    for look, name in zip(SERIES, names, strict=False):
        runs = [one for one in drawn if one.label == name]
        many = f" ({len(runs)} runs)" if len(runs) > 1 else ""
        for place, one in enumerate(runs):
            x = one.table[:, 0] / unit[0]
            every = max(1, len(x) // 10)
            for axes, validation, training in ((upper, 5, 3), (lower, 4, 2)):
                told = name + many if axes is upper and not place else None
                line: Any = {"markevery": every, "markersize": 3.2, "linewidth": 1.1, **look}
                axes.plot(x, one.table[:, validation], label=told, **line)
                if both:
                    known = np.flatnonzero(np.isfinite(one.table[1:, training]))
                    between = (x[1:] + x[:-1])[known] / 2
                    means = one.table[1:, training][known]
                    axes.plot(between, means, color=look["color"], linewidth=0.6)
            for number, ((_, before), (images, length)) in enumerate(pairwise(one.stages)):
                at, on_line = images / unit[0], np.interp(images, one.table[:, 0], one.table[:, 5])
                upper.plot(at, on_line, "|", color=look["color"], markersize=9)
                # Numbers of more runs would lie on these, as would near ones at one height.
                if both and not place and length != before:
                    bottom: Any = {"transform": upper.get_xaxis_transform(), "ha": "center"}
                    height = 0.02 + 0.06 * (number % 2)  # of the axes
                    upper.text(at, height, length, color=look["color"], fontsize=6.5, **bottom)
    staged = any(one.stages[1:] for one in drawn)
    metric, thin = drawn[0].metric, ", training thin" if both else ""
    named = "accuracy (dashed: chance)" if metric == "accuracy" else metric
    upper.set(title=f"{metric} in validation{thin}", ylabel=named)
    losses = dict.fromkeys(LOSSES.get(one.loss, "cross-entropy (nats)") for one in drawn)
    lower.set(title=f"loss in validation{thin}", ylabel=",\n".join(losses))
    if metric == "accuracy":
        upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        upper.axhline(0.5, **CHANCE)
        upper.set_ylim(top=min(1.02, upper.get_ylim()[1]))
        if both and staged:
            upper.set_ylim(bottom=min(0.4, upper.get_ylim()[0]))  # room for the lengths
    for axes, more in ((upper, "; | next contour length" if staged else ""), (lower, "")):
        axes.grid(axis="y")
        axes.set_xlabel(f"training images{unit[1]}{more}")
    handles, told = upper.get_legend_handles_labels()
    wrapped, columns, _ = legend_rows(told)
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns)
