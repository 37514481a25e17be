"""A family of runs side by side: accuracies with intervals, training needed, paired tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import statistics
from analysis.curves import images_to, labels
from analysis.evaluate import IMAGES, Evaluation, evaluated
from analysis.image_sets import title
from analysis.style import MUTED, PAGE, legend_below, new_figure, series, style
from analysis.trained import TrainedRun
from dataset_processing import contour_length

LEVEL = 0.9  # the accuracy whose training images are counted


@dataclass
class Member:
    """A run of a family and its answers.

    Attributes:
        run: the run.
        model: its name in the comparison.
        evaluations: by set, on the images that all members see.
    """

    run: TrainedRun
    model: str
    evaluations: dict[str, Evaluation]

    @property
    def trained_on(self) -> str:
        """The set that it was trained on."""
        return str(self.run.params["dataset"])


def family(
    runs: Sequence[TrainedRun],
    datasets: Sequence[str] = (),
    images: int = IMAGES,
    seed: int = 0,
    workers: int | None = None,
) -> tuple[list[Member], list[Path]]:
    """Evaluate runs side by side.

    Args:
        runs: the runs.
        datasets: sets for all of them; none: each on what it validated on.
        images, seed, workers: see :func:`analysis.evaluate.evaluate`.

    Returns:
        The members, and the files of their answers.
    """
    members, paths = [], []
    for run, model in zip(runs, labels(runs, with_dataset=False), strict=True):
        own = str(run.params.get("val_dataset") or run.params["dataset"])
        evaluations = {}
        for name in datasets or [own]:
            evaluations[name], path = evaluated(run, name, images, seed=seed, workers=workers)
            paths.append(path)
        members.append(Member(run, model, evaluations))
    return members, paths


def rows(members: Sequence[Member]) -> list[dict[str, Any]]:
    """A row for each model, training set and test set.

    ``accuracy`` with ``low`` and ``high``: of one seed, the share of images and Wilson's interval;
    of several, the mean of their accuracies and Student's interval over seeds. ``images_to_90`` is
    the median over the seeds that reached 90% in validation; ``reached`` counts them.
    """
    found = []
    for (model, trained_on, tested_on), group in _groups(members).items():
        accuracies = [m.evaluations[tested_on].accuracy() for m in group]
        values = [a["accuracy"] for a in accuracies]
        if len(group) == 1:
            mean, low, high = values[0], accuracies[0]["low"], accuracies[0]["high"]
        else:
            mean, low, high = statistics.mean_interval(values)
        needed = [
            images_to(m.run.history, int(m.run.params["batch_size"]), LEVEL) for m in group
        ]
        reached = [n for n in needed if n is not None]
        found.append(
            {
                "model": model,
                "trained_on": trained_on,
                "tested_on": tested_on,
                "seeds": len(group),
                "parameters": group[0].run.parameters,
                "training_images": int(np.median([m.run.images_seen for m in group])),
                "test_images": accuracies[0]["images"],
                "accuracy": mean,
                "low": max(low, 0.0),  # max and min keep what is not a number
                "high": min(high, 1.0),
                "interval": "Wilson" if len(group) == 1 else "Student, over seeds",
                "lowest_seed": min(values),
                "highest_seed": max(values),
                "images_to_90": int(np.median(reached)) if reached else None,
                "reached": len(reached),
            }
        )
    return found


def paired_tests(members: Sequence[Member], reference: str) -> list[dict[str, Any]]:
    """McNemar's exact test of each model against the reference, seed by seed.

    Pairs were trained on the same set from the same seed and saw the same images. P-values are
    adjusted together by Holm's method.

    Raises:
        ValueError: no member is of the reference, or a pair did not see the same images.
    """
    known = list(dict.fromkeys(m.model for m in members))
    if reference not in known:
        raise ValueError(f"the reference {reference!r} is none of the models: {', '.join(known)}")
    full = {(m.trained_on, m.run.seed): m for m in members if m.model == reference}
    found: list[dict[str, Any]] = []
    for member in members:
        other = full.get((member.trained_on, member.run.seed))
        if member.model == reference or other is None:
            continue
        for name, evaluation in member.evaluations.items():
            if name not in other.evaluations:
                continue
            theirs = other.evaluations[name]
            _check_same_images(evaluation, theirs)
            test = statistics.mcnemar(evaluation.correct, theirs.correct)
            found.append(
                {
                    "model": member.model,
                    "reference": reference,
                    "trained_on": member.trained_on,
                    "tested_on": name,
                    "seed": member.run.seed,
                    "images": test.count,
                    "difference": test.difference,
                    "low": test.interval[0],
                    "high": test.interval[1],
                    "only_model_right": test.only_first,
                    "only_reference_right": test.only_second,
                    "p": test.p,
                }
            )
    adjusted = statistics.holm([float(row["p"]) for row in found])
    return [{**row, "p_holm": p} for row, p in zip(found, adjusted, strict=True)]


def comparison_figure(members: Sequence[Member]) -> Figure:
    """Accuracy by model and set, and training images needed to reach 90%."""
    table = rows(members)
    models = list(dict.fromkeys(row["model"] for row in table))
    looks: dict[str, dict[str, Any]] = {
        model: {key: value for key, value in series(i).items() if key != "linestyle"}
        for i, model in enumerate(models)
    }
    shifts = {model: 0.6 * ((i + 0.5) / len(models) - 0.5) for i, model in enumerate(models)}
    with style():
        figure = new_figure(PAGE, 3.0)
        left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
        _accuracies(left, members, table, looks, shifts)
        _images_needed(right, table, looks, shifts)
        for axes in (left, right):
            axes.grid(axis="y")
            axes.tick_params(axis="x", length=0)
        handles, names = left.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        legend_below(figure, list(unique.values()), list(unique))
    return figure


def _accuracies(
    axes: Axes, members: Sequence[Member], table: Sequence[dict[str, Any]],
    looks: dict[str, dict[str, Any]], shifts: dict[str, float],
) -> None:  # fmt: skip
    conditions = _conditions(table)
    for row in table:
        model = row["model"]
        x = conditions.index((row["trained_on"], row["tested_on"])) + shifts[model]
        known = not math.isnan(row["low"])
        error = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
        axes.errorbar(
            x, row["accuracy"], yerr=error if known else None, label=model, linestyle="none",
            capsize=2.5, elinewidth=1.1, **looks[model],
        )  # fmt: skip
        if row["seeds"] > 1:
            group = _groups(members)[model, row["trained_on"], row["tested_on"]]
            seeds = [m.evaluations[row["tested_on"]].accuracy()["accuracy"] for m in group]
            axes.plot(
                [x + 0.05] * len(seeds), seeds, ".", color=looks[model]["color"], markersize=2.5
            )
    names, label = _condition_names(conditions)
    axes.set_xticks(range(len(conditions)), names)
    axes.set_xlim(-0.5, len(conditions) - 0.5)
    axes.set_xlabel(label)
    axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("accuracy, 95% interval")


def _images_needed(
    axes: Axes, table: Sequence[dict[str, Any]], looks: dict[str, dict[str, Any]],
    shifts: dict[str, float],
) -> None:  # fmt: skip
    """Images to 90% by what was trained on; the test set plays no part in it."""
    sets = list(dict.fromkeys(trained for trained, _ in _conditions(table)))
    needed = {(row["model"], row["trained_on"]): row["images_to_90"] for row in table}
    largest = max((n for n in needed.values() if n is not None), default=0)
    unit, word = (1e6, "millions") if largest >= 1e6 else (1e3, "thousands")
    for (model, trained_on), count in needed.items():
        x = sets.index(trained_on) + shifts[model]
        if count is not None:
            axes.plot(x, count / unit, linestyle="none", **looks[model])
        else:
            axes.annotate(
                "not reached", (x, 0.97), xycoords=("data", "axes fraction"), va="top",
                color=looks[model]["color"], ha="center", fontsize=6.5, rotation=90,
            )  # fmt: skip
    names, label = _condition_names([(name, name) for name in sets])
    axes.set_xticks(range(len(sets)), names)
    axes.set_xlim(-0.5, len(sets) - 0.5)
    axes.set_xlabel(label)
    axes.set_title(f"training images to {100 * LEVEL:g}%")
    if largest:
        axes.set_ylim(0, 1.25 * largest / unit)
        axes.set_ylabel(word)
    else:
        axes.set_yticks([])


def markdown(table: Sequence[dict[str, Any]], tests: Sequence[dict[str, Any]]) -> str:
    """The comparison as two Markdown tables."""
    lines = [
        "| model | trained on | tested on | seeds | parameters | training images | accuracy (95%) "
        "| images to 90% |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        lines.append(
            f"| {row['model']} | {title(row['trained_on'])} | {title(row['tested_on'])} "
            f"| {row['seeds']} | {row['parameters']:,} | {row['training_images']:,} "
            f"| {accuracy_text(row)} | {images_text(row)} |"
        )
    if tests:
        lines += [
            "",
            "| model − reference | trained on | tested on | seed | images | difference (95%) "
            "| right alone: model, reference | p (McNemar, exact) | p (Holm) |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|",
        ]
    for row in tests:
        lines.append(
            f"| {row['model']} − {row['reference']} | {title(row['trained_on'])} "
            f"| {title(row['tested_on'])} | {row['seed']} | {row['images']:,} "
            f"| {difference_text(row)} | {row['only_model_right']}, {row['only_reference_right']} "
            f"| {p_text(row['p'])} | {p_text(row['p_holm'])} |"
        )
    return "\n".join(lines) + "\n"


def accuracy_text(row: dict[str, Any]) -> str:
    """``97.4% (97.1–97.7)``."""
    text = f"{100 * row['accuracy']:.1f}%"
    if math.isnan(row["low"]):
        return text
    return f"{text} ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def difference_text(row: dict[str, Any]) -> str:
    """``−3.1 (−3.6 to −2.6) points``."""
    numbers = [100 * row[key] for key in ("difference", "low", "high")]
    one, low, high = (f"{n:+.1f}".replace("-", "−") for n in numbers)
    return f"{one} ({low} to {high}) points"


def images_text(row: dict[str, Any]) -> str:
    """``512,000``, with how many seeds reached it where not all did; ``not reached``."""
    if row["images_to_90"] is None:
        return "not reached"
    part = "" if row["reached"] == row["seeds"] else f" ({row['reached']} of {row['seeds']} seeds)"
    return f"{row['images_to_90']:,}{part}"


def p_text(p: float) -> str:
    """A p-value with two digits, or a bound."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _groups(members: Sequence[Member]) -> dict[tuple[str, str, str], list[Member]]:
    """Members by model, training set and test set."""
    groups: dict[tuple[str, str, str], list[Member]] = {}
    for member in members:
        for tested_on in member.evaluations:
            groups.setdefault((member.model, member.trained_on, tested_on), []).append(member)
    return groups


def _check_same_images(first: Evaluation, second: Evaluation) -> None:
    same = first.about["set"] == second.about["set"]
    if not same or not np.array_equal(first.record, second.record):
        raise ValueError(
            f"{first.run} and {second.run} did not see the same images of {first.dataset}; "
            "evaluate both with the same --images and --seed on the same data"
        )


def _conditions(table: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(trained on, tested on), by contour length where names tell."""

    def order(condition: tuple[str, str]) -> tuple[Any, ...]:
        lengths = [contour_length(title(name)) or math.inf for name in condition]
        return (*lengths, condition)

    return sorted({(row["trained_on"], row["tested_on"]) for row in table}, key=order)


def _condition_names(conditions: Sequence[tuple[str, str]]) -> tuple[list[str], str]:
    """Names of (trained on, tested on) on an axis, and the axis's own."""
    lengths = [[contour_length(title(name)) for name in condition] for condition in conditions]
    if any(None in pair for pair in lengths):
        return ["\n".join(dict.fromkeys(map(title, condition))) for condition in conditions], ""
    if all(trained == tested for trained, tested in lengths):
        return [f"{tested}" for _, tested in lengths], "contour length (paddles)"
    if len({trained for trained, _ in lengths}) == 1:
        label = f"contour length in the test (trained on {lengths[0][0]})"
        return [f"{tested}" for _, tested in lengths], label
    names = [f"{tested}\n({trained})" for trained, tested in lengths]
    return names, "contour length in the test (in training)"
