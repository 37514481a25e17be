"""Write a page of results from the records of runs: tables, figures, and the runs' commands.

python -m analysis.results                                   (docs/results.md anew)
python -m analysis.results RUN RUN                           (with these runs' records added)
python -m analysis.results RUN RUN --output notes/results.md

The page is made from the records in the folder runs/ beside it alone, for which no weights, images
or GPU are needed; a run that is named is added to them first: settings.yaml and a thinned
log.jsonl, with what analysis.evaluate has kept of its last weights. RUN may also be a folder that
holds these two files. Delete a record's folder to leave its run out. Beside the page are written
<page>_runs.csv, <page>_commands.sh and figures/<page>_*.png. What stands above the line

    <!-- Below: written by python -m analysis.results -->

is kept: prose belongs there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import comparison, curves
from analysis.comparison import LEARNED, Point
from analysis.curves import Curve
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.pages import fill
from analysis.record import RunRecord, ended, keep_record, kept_records, stages_text
from analysis.statistics import proportion
from analysis.style import save
from config import CLONE, Config
from dataset_processing import contour_length
from support import shell
from support.errors import UserError
from support.files import write_csv, write_text
from training.experiment import SETTINGS
from training.run import Run

MARK = "<!-- Below: written by python -m analysis.results -->"
LEVELS = (0.95, 0.974)  # accuracies that seeds are counted at; the second a public port's
HEADINGS = ("dataset", "exp_name", "curriculum", "stream_settings", "initial_weights")
Row = dict[str, Any]


@dataclass
class Result:
    """A run on the page.

    ``tested``: images, accuracy, low and high (Wilson, 95%), of the evaluation on its own
    validation images if there is one, else of its last validation.
    """

    run: RunRecord
    curve: Curve  # the label is what the page calls the run
    images: int  # training images
    seconds: float | None  # that it trained; None: not counted
    complete: bool  # whether it trained to its end
    evaluations: list[dict[str, Any]]  # what analysis.evaluate had kept of its last weights
    tested: dict[str, Any]

    @property
    def at_chance(self) -> bool:
        """Whether it has learned nothing, or next to nothing."""
        return bool(self.tested["accuracy"] < LEARNED)

    @property
    def began_with(self) -> str:
        """What its initial weights had seen, the newest first; empty where they were random."""
        told, initial = [], self.run.record.get("initial_weights")
        while initial:
            seen = f"{initial['images']:,} of " if initial.get("images") is not None else ""
            told.append(f"{seen}{initial.get('data') or initial['source']}")
            initial = initial.get("initial_weights")
        return ", after ".join(told)

    @property
    def point(self) -> Point:
        """It as a point of the comparison's figure."""
        return Point(
            model=self.curve.label,
            trained_on=trained_on(self.run),
            tested_on=self.run.validated_on,
            seed=self.run.seed,
            parameters=int((self.run.record.get("network") or {}).get("parameters") or 0),
            training_images=self.images,
            images_to=self.curve.images_to(comparison.LEVEL),
            **{key: self.tested[key] for key in ("images", "accuracy", "low", "high")},
        )


def trained_on(run: RunRecord) -> str:
    """The set that a run was trained on, and how that was asked to differ from itself."""
    params = run.params
    different = [f"{key} {value}" for key, value in (params.get("stream_settings") or {}).items()]
    if params.get("curriculum"):
        different.insert(0, f"lengths {', '.join(map(str, params['curriculum']))} first")
    if params.get("model_input_image_size"):
        height, width, *_ = params["model_input_image_size"]
        different.append(f"resized to {height}×{width}")
    return title(run.dataset) + (f" ({', '.join(different)})" if different else "")


def result(run: Run, label: str) -> Result:
    """What the page has of a run.

    Raises:
        UserError: it has no validation, or its metric is not accuracy.
    """
    record = RunRecord.of(run)
    if record.metric != "accuracy":
        raise UserError(f"{run.logs}: score_metric must be accuracy, found {record.metric!r}")
    counted = [event for event in run.events() if "images" in event and "seconds" in event]
    validations = [event for event in counted if event["event"] == "validation"]
    if not validations:
        raise UserError(f"{run.json_log} has no validation that counts its images: delete it")
    last, evaluations = validations[-1], run.events("evaluation")
    count, accuracy = last["validation_images"], last["accuracy"]
    low, high = proportion(round(accuracy * count), count)
    tested = {"images": count, "accuracy": accuracy, "low": low, "high": high}
    for one in evaluations:
        tested = one if _is_own(one, record) else tested
    images, seconds = counted[-1]["images"], counted[-1]["seconds"]
    drawn = curves.logged_curve(run, label)
    return Result(record, drawn, images, seconds, ended(run), evaluations, tested)


def _is_own(evaluation: dict[str, Any], run: RunRecord) -> bool:
    """Whether an evaluation is of the whole circuit on the images that the run validated on."""
    options = (run.record.get("network") or {}).get("options") or {}
    return (
        evaluation["dataset"] == title(run.validated_on)
        and evaluation["fold"] == "val"
        and run.data("validation").get("fingerprint") in (None, evaluation["set"])
        and not evaluation["lesion"]
        and evaluation["timesteps"] == options.get("timesteps")
    )


def runs_table(found: Sequence[Result], page: Path) -> list[Row]:
    """A row for each run, in six columns."""
    rows = []
    for one in found:
        overrides = [
            text
            for key, text in one.run.overrides.items()
            if key not in HEADINGS and not (key in SETTINGS and SETTINGS[key].metadata["resume"])
        ]
        images = f"{one.images:,}" + (f", after {one.began_with}" if one.began_with else "")
        if len(one.curve.stages) > 1:
            images += f" (length {stages_text(one.curve.stages)})"
        accuracy = f"{percent(one.tested)} of {one.tested['images']:,}"
        rows.append(
            {
                "run": f"[{one.curve.label}, seed {one.run.seed}](runs/{one.run.name})",
                "script and settings": f"`{' '.join([one.run.script, *overrides])}`",
                "training images": images if one.complete else f"{images}, left early",
                "time, device": f"{duration(one.seconds)}, {one.run.devices or 'not known'}",
                "commit": one.run.commits or "not known",
                "accuracy (95%)": accuracy + (", at chance" if one.at_chance else ""),
            }
        )
    return rows


def seeds_table(groups: Sequence[Sequence[Result]]) -> list[Row]:
    """A row for each thing that was trained from several seeds: how many reached which accuracy."""
    rows = []
    for group in groups:
        chance = sum(one.at_chance for one in group)
        row = {
            "run": group[0].curve.label,
            "seeds": f"{len(group)}, {chance} at chance" if chance else f"{len(group)}",
        }
        for level in LEVELS:
            reached = [one.curve.reached(level) for one in group]
            those = np.array([validation[:2] for validation in reached if validation is not None])
            low, high = (100 * share for share in proportion(len(those), len(group)))
            name, needed = f"{100 * level:g}%", "–"
            if len(those):
                minutes = spread(those[:, 1] / 60, ".1f")
                needed = f"{spread(those[:, 0], ',.0f')}, {minutes}"
            row[f"{name} reached (95%)"] = f"{len(those)} of {len(group)} ({low:.0f}–{high:.0f}%)"
            row[f"to {name}: images, minutes"] = needed
        rows.append(row)
    return rows


def evaluations_table(found: Sequence[Result]) -> list[Row]:
    """A row for each evaluation of last weights on other images, with a lesion, or more steps."""
    return [
        {
            "run": f"{one.curve.label}, seed {one.run.seed}",
            "tested on": evaluation["dataset"],
            "lesion": " ".join(evaluation["lesion"]) or "–",
            "steps": evaluation["timesteps"] or "–",
            "accuracy (95%)": f"{percent(evaluation)} of {evaluation['images']:,}",
            "AUC": f"{evaluation['auc']:.3f}",
        }
        for one in found
        for evaluation in one.evaluations
        if evaluation is not one.tested
    ]


def spread(values: np.ndarray, form: str) -> str:
    """``310,000 (250,000–400,000)``: median, lowest and highest; of one value that alone."""
    if np.isnan(values).any():
        return "not known"
    shown = [format(value, form) for value in (np.median(values), values.min(), values.max())]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]}–{shown[2]})"


def duration(seconds: float | None) -> str:
    """``35 s``, ``12.5 min``, ``3 h 05 min``; ``–`` of None."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 59.95 * 60:
        return f"{seconds / 60:.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def section(name: str, runs: Sequence[Run], page: Path) -> tuple[dict[str, Any], list[Result]]:
    """What the page has of the runs that were trained alike: tables and figures; the runs."""
    names = curves.labels([RunRecord.of(run) for run in runs])
    found = [result(run, label) for run, label in zip(runs, names, strict=True)]
    found.sort(key=lambda one: (one.run.script != "hgru.py", one.curve.label, one.run.seed))
    groups: dict[tuple[str, str], list[Result]] = {}
    for one in found:
        groups.setdefault((one.curve.label, one.began_with), []).append(one)
    figures = {
        "accuracy": comparison.comparison_figure([one.point for one in found]),
        "curves": curves.learning_curves([one.curve for one in found]),
    }
    slug = re.sub(r"\W+", "_", name).strip("_")
    paths = {
        what: save(figure, page.parent / "figures" / f"{page.stem}_{what}_{slug}", ("png",))[0]
        for what, figure in figures.items()
    }
    others = "The same weights on other images, with a lesion or more steps:\n\n"
    tables = [
        ("", seeds_table([group for group in groups.values() if len(group) > 1])),
        ("", runs_table(found, page)),
        (others, evaluations_table(found)),
    ]
    return {"name": name, "tables": tables, "figures": paths}, found


def write_page(page: Path, runs: Sequence[Run]) -> list[Path]:
    """Write what lies below the page's mark, its figures, table file and commands; the files."""
    above, mark = "# Results\n\n", MARK
    if page.exists():
        above, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise UserError(f"{page} has no line {MARK}: put it where the results are to stand")
    alike: dict[tuple[int, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        record = RunRecord.of(run)
        length = contour_length(title(record.dataset)) or 0
        alike.setdefault((-length, trained_on(record)), []).append(run)
    made = [section(name, alike[_, name], page) for _, name in sorted(alike)]
    sections, found = [one for one, _ in made], [one for _, results in made for one in results]
    table = [
        vars(one.point)
        | {"run": one.run.name, "began_with": one.began_with, "seconds": one.seconds}
        | {"device": one.run.devices, "commit": one.run.commits, "command": one.run.command}
        for one in found
    ]
    commands = fill("results.sh.jinja", page=page.name, runs=[one.run for one in found])
    return [
        write_text(page, fill("results.md.jinja", above=above, mark=mark, sections=sections)),
        *(path for one in sections for path in one["figures"].values()),
        write_csv(page.with_name(f"{page.stem}_runs.csv"), table),
        write_text(page.with_name(f"{page.stem}_commands.sh"), commands),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("results", __doc__)
    parse.add_argument("runs", nargs="*", metavar="RUN", help="runs whose records are added")
    parse.add_argument(
        "--output", type=Path, metavar="FILE", default=CLONE / "docs" / "results.md",
        help="the page, .md; default: docs/results.md of the clone",
    )  # fmt: skip
    options = parse.parse_args(arguments)
    config, page = Config(), options.output
    if page.suffix != ".md":
        raise UserError(f"{page}: the page is an .md file")
    records = page.parent / "runs"
    added = [keep_record(which, records, config) for which in options.runs]
    shell.name_outputs([*added, *write_page(page, kept_records(records, config))])


if __name__ == "__main__":
    shell.run_command(main)
