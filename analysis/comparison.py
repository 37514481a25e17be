"""A family of runs side by side: accuracies of every seed, training needed, paired tests."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis import statistics
from analysis.curves import beside, curve
from analysis.evaluate import Evaluation, evaluated
from analysis.image_sets import title, titles
from analysis.style import BLUE, CHANCE, PAGE, RED, new_figure, note, panel_titles, style
from analysis.trained import TrainedRun
from dataset_processing import contour_length
from support.errors import UserError, choose

LEVEL = 0.9  # the accuracy whose training images are counted
LEARNED = 0.6  # below it a seed counts as one that has not learned
SEEDS = 5  # of fewer, each is told and no interval over seeds is given
ACROSS = 3  # panels of a figure's row
LETTERS = 24  # of a line of a model's name on an axis
LINE = 0.13  # inches: its height
TICKS = [1, 2, 2.5, 5, 10]


@dataclass(frozen=True)
class Point:
    """One run on one set."""

    model: str  # its name in the comparison; runs of one name differ by their seed
    trained_on: str  # name of a set
    tested_on: str
    seed: int  # of the run
    parameters: int  # numbers that were trained
    training_images: int  # that the weights had seen
    images: int  # that it was tested on
    accuracy: float  # share answered rightly
    low: float  # Wilson's 95% interval over the images
    high: float
    images_to: float | None  # training images to 90% (see :func:`images_needed`)
    run: str  # the run's name


@dataclass
class Member:
    """A run of a family, its name in the comparison, and its answers by set."""

    run: TrainedRun
    model: str
    evaluations: dict[str, Evaluation]

    @property
    def name(self) -> str:
        return f"{self.model}, seed {self.run.seed}"


def family(
    runs: Sequence[TrainedRun], datasets: Sequence[str] = (), names: Sequence[str] = (), **how: Any
) -> tuple[list[Member], list[Path]]:
    """Evaluate runs side by side: the members, and the files of their answers.

    Args:
        datasets: sets for all of them; none: each on what it validated on.
        names: what each is called; none: see :func:`analysis.curves.labels`.
        how: see :func:`analysis.evaluate.evaluated`.

    UserError as of :func:`analysis.curves.beside`.
    """
    members, paths = [], []
    for run, model in zip(runs, beside(runs, names), strict=True):
        found = {name: evaluated(run, name, **how) for name in datasets or [run.validated_on]}
        paths += [path for _, path in found.values()]
        members.append(Member(run, model, {name: one for name, (one, _) in found.items()}))
    return members, paths


def points(members: Sequence[Member]) -> list[Point]:
    """Every member on each of its sets."""
    return [
        Point(
            model=member.model,
            trained_on=member.run.dataset,
            tested_on=name,
            seed=member.run.seed,
            parameters=member.run.parameters,
            training_images=member.run.images_seen,
            images_to=images_needed(member.run),
            run=member.run.name,
            **evaluation.accuracy(),
        )
        for member in members
        for name, evaluation in member.evaluations.items()
    ]


def images_needed(run: TrainedRun) -> float | None:
    """Training images at the first validation of 90%, up to the weights. None: not reached; NaN:
    not known, of a file of weights that does not tell, or validated by another metric."""
    found = curve(run, "")
    if run.metric == "accuracy" and len(found.table):
        return found.images_to(LEVEL)
    told = run.record.get("images_to_90")
    return math.nan if told is None else told


def _is_known(point: Point) -> bool:
    """Whether it is known after how many training images it was at 90%, or that it was not."""
    return point.images_to is None or not math.isnan(point.images_to)


def groups(found: Sequence[Point]) -> list[list[Point]]:
    """The seeds of each model, training set and test set."""
    grouped: dict[tuple[str, str, str], list[Point]] = {}
    for point in found:
        grouped.setdefault((point.model, point.trained_on, point.tested_on), []).append(point)
    return list(grouped.values())


def table(found: Sequence[Point]) -> list[dict[str, Any]]:
    """A row for each model, training set and test set, for reading."""
    sets = titles(point.tested_on for point in found)
    return [
        {
            "model": group[0].model,
            "trained on": title(group[0].trained_on),
            "tested on": sets[group[0].tested_on],
            "training images": _span([point.training_images for point in group]),
            "accuracy": accuracy_text(group),
        }
        | ({"images to 90%": images_text(group)} if any(map(_is_known, found)) else {})
        for group in groups(found)
    ]


def accuracy_text(group: Sequence[Point]) -> str:
    """The accuracy of one model's seeds, with an interval that says what it is of.

    One seed: Wilson's interval over the images. Seeds of which some have not learned: how many
    have, and each. Fewer than five: lowest to highest. More: mean and Student's interval.
    """
    values = sorted(point.accuracy for point in group)
    each = [f"{100 * value:.1f}" for value in values]
    count = len(values)
    if count == 1:
        return f"{each[0]}% ({100 * group[0].low:.1f}–{100 * group[0].high:.1f} over images)"
    learned = sum(value >= LEARNED for value in values)
    if 0 < learned < count:
        return f"{learned} of {count} seeds learned: {', '.join(each)}%"
    if len(set(each)) == 1:
        return f"{each[0]}% in each of {count} seeds"
    if count < SEEDS:
        return f"{each[0]}–{each[-1]}% ({count} seeds, lowest–highest)"
    mean, low, high = (100 * value for value in statistics.mean_interval(values))
    return f"{mean:.1f}% ({low:.1f}–{high:.1f} over {count} seeds)"


def images_text(group: Sequence[Point]) -> str:
    """Training images to 90%: of one seed, or lowest to highest and how many reached it."""
    if not all(map(_is_known, group)):
        return "not known"
    needed = [point.images_to for point in group if point.images_to is not None]
    if not needed:
        return "not reached"
    span = _span(needed) if any(needed) else "at its start"
    return span if len(needed) == len(group) else f"{span} ({len(needed)} of {len(group)} seeds)"


def _span(counts: Sequence[float]) -> str:
    """``1,000–2,000``, lowest to highest; of equal ones that alone."""
    return "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def reference_of(members: Sequence[Member], wanted: str | None = None) -> str:
    """The model that others are tested against: that wanted, else the first hGRU, else the first.

    UserError where no member is of the model wanted.
    """
    known = {member.model: member for member in members}
    full = [member.model for member in members if member.run.model_name == "hgru"]
    return choose("reference", wanted or [*full, *known][0], known).model


def paired_tests(members: Sequence[Member], wanted: str | None = None) -> list[dict[str, Any]]:
    """McNemar's exact test of each model against the reference (:func:`reference_of`), by seed.

    Pairs were trained on the same set from the same seed and saw the same images. Each test is of
    two trained networks: it does not say how another seed would do. P-values are adjusted together
    by Holm's method. UserError where no member is of the model wanted, or a pair did not see the
    same images.
    """
    reference = reference_of(members, wanted)
    full = {(m.run.dataset, m.run.seed): m.evaluations for m in members if m.model == reference}
    found: list[dict[str, Any]] = []
    for member in members:
        others = full.get((member.run.dataset, member.run.seed), {})
        for name, evaluation in member.evaluations.items():
            if member.model == reference or name not in others:
                continue
            theirs = others[name]
            same = evaluation.about["set"] == theirs.about["set"]
            if not same or not np.array_equal(evaluation.record, theirs.record):
                raise UserError(
                    f"{evaluation.run} and {theirs.run} did not see the same images of {name}; "
                    "evaluate both with the same --images and --seed on the same data"
                )
            row = {"model": member.model, "reference": reference, "trained_on": member.run.dataset}
            of = {"tested_on": name, "seed": member.run.seed}
            found.append(row | of | statistics.mcnemar(evaluation.correct, theirs.correct))
    adjusted = statistics.holm([row["p"] for row in found])
    return [{**row, "p_holm": p} for row, p in zip(found, adjusted, strict=True)]


def tests_table(tests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each paired test, for reading."""
    rows, sets = [], titles(row["tested_on"] for row in tests)
    for row in tests:
        numbers = [f"{100 * row[key]:+.1f}" for key in ("difference", "low", "high")]
        points, low, high = (number.replace("-", "−") for number in numbers)
        p, p_holm = ("< 0.0001" if row[k] < 1e-4 else f"{row[k]:.2g}" for k in ("p", "p_holm"))
        rows.append(
            {
                "model − reference": f"{row['model']} − {row['reference']}",
                "tested on": sets[row["tested_on"]],
                "seed": row["seed"],
                "points (95% over images)": f"{points} ({low} to {high})",
                "right alone": f"{row['only_model_right']:,}, {row['only_reference_right']:,}",
                "p (McNemar, Holm)": f"{p}, {p_holm}",
            }
        )
    return rows


@style()
def comparison_figure(found: Sequence[Point]) -> Figure:
    """Accuracy of every seed by model, a panel a set; and the training images it needed to 90%."""
    models = list(dict.fromkeys(point.model for point in found))
    conditions = sorted({(point.trained_on, point.tested_on) for point in found}, key=_order)
    trained = list(dict.fromkeys(trained_on for trained_on, _ in conditions))
    known = {point.trained_on for point in found if _is_known(point)}
    needed = [name for name in trained if name in known]
    count = len(conditions) + len(needed)
    across = min(ACROSS, count)
    down = -(-count // across)
    seeds = max(len(group) for group in groups(found))
    names = [textwrap.fill(model, LETTERS) for model in models]
    lines = 1 + max(name.count("\n") for name in names)
    texts, more = panel_titles(_titles(conditions, needed), across)
    height = 0.6 + max(0.2 + 0.06 * min(seeds, 8), LINE * lines) * len(models)
    figure = new_figure(PAGE, down * (height + more) + 0.4)
    panels, empty = np.split(figure.subplots(down, across, squeeze=False).ravel(), [count])
    for axes in empty:
        axes.set_axis_off()
    least = min(0.48, *(point.low for point in found))
    for axes, condition in zip(panels, conditions, strict=False):
        those = [point for point in found if (point.trained_on, point.tested_on) == condition]
        _accuracies(axes, those, models)
        axes.set_xlim(max(0, least - 0.02), 1.01)
    for axes, name in zip(panels[len(conditions) :], needed, strict=True):
        those = [p for p in found if p.trained_on == name and _is_known(p)]
        _images_needed(axes, list({(p.model, p.run, p.seed): p for p in those}.values()), models)
    for number, (axes, text) in enumerate(zip(panels, texts, strict=True)):
        axes.set_title(text)
        axes.set_yticks(range(len(models)), names if number % across == 0 else [])
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    sizes = sorted({point.images for point in found})
    images = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,}–{sizes[-1]:,}"
    note(
        figure,
        f"A point a seed. Whisker: Wilson's 95% interval over its {images} images. "
        "Dashed: chance." + (" Open triangle: 90% not reached by then." if needed else ""),
    )
    return figure


def _seeds(found: Sequence[Point], models: Sequence[str]) -> Iterator[tuple[Point, float]]:
    """Each point, and where it stands on the axis of models."""
    for number, model in enumerate(models):
        group = [point for point in found if point.model == model]
        places = number + (np.arange(len(group)) - (len(group) - 1) / 2) * 0.7 / max(len(group), 3)
        yield from zip(group, places, strict=True)


def _accuracies(axes: Axes, found: Sequence[Point], models: Sequence[str]) -> None:
    look: Any = {"fmt": "o", "color": BLUE, "markersize": 3.5, "capsize": 2, "elinewidth": 1}
    for point, y in _seeds(found, models):
        error = [[point.accuracy - point.low], [point.high - point.accuracy]]
        axes.errorbar(point.accuracy, y, xerr=error, **look)
    axes.axvline(0.5, **CHANCE)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=TICKS))
    axes.set_xlabel("accuracy")


def _images_needed(axes: Axes, found: Sequence[Point], models: Sequence[str]) -> None:
    """Images to 90% by what was trained on; the test set plays no part in it."""
    for point, y in _seeds(found, models):
        if point.images_to is None:
            axes.plot(point.training_images / 1000, y, ">", color=RED, mfc="none", ms=4.5)
        else:
            axes.plot(point.images_to / 1000, y, "o", color=BLUE, ms=3.5)
    right = max(point.images_to or point.training_images for point in found) / 1000
    axes.set(xlim=(-0.04 * right, 1.08 * right), xlabel="training images (thousands)")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=TICKS))


def _order(condition: tuple[str, str]) -> tuple[Any, ...]:
    """(trained on, tested on) by contour length where names tell."""
    return (*(contour_length(title(name)) or math.inf for name in condition), condition)


def _titles(conditions: Sequence[tuple[str, str]], needed: Sequence[str]) -> list[str]:
    """What panels show: accuracy by (trained on, tested on), images to 90% by what was trained on;
    that is named where there are several."""
    on, tested = (_names(dict.fromkeys(sets)) for sets in zip(*conditions, strict=True))
    found = [
        tested[test] + (f", trained on {on[name]}" if on[name] != tested[test] else "")
        if len(on) > 1
        else tested[test]
        for name, test in conditions
    ]
    reached = f"training images to {LEVEL:.0%}"
    return found + [f"{reached}, {on[name]}" if len(on) > 1 else reached for name in needed]


def _names(datasets: Iterable[str]) -> dict[str, str]:
    """What panels call different sets: by the contour length, where no other has that too."""
    told = titles(datasets)
    lengths = {name: contour_length(title(name)) for name in told}
    alone = [length for length in lengths.values() if list(lengths.values()).count(length) == 1]
    return {
        name: f"length {length}" if length is not None and length in alone else told[name]
        for name, length in lengths.items()
    }
