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

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import comparison, curves, statistics
from analysis.comparison import LEARNED, Point
from analysis.curves import Curve
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.record import RunRecord, ended, keep_record, kept_records, stages_text
from analysis.style import save
from config import CLONE, Config
from dataset_processing import contour_length
from support import shell
from support.errors import UserError
from support.files import write_csv, write_text
from support.tables import markdown_table
from training.experiment import SETTINGS
from training.run import Run

MARK = "<!-- Below: written by python -m analysis.results -->"
LEVELS = (0.95, 0.974)  # accuracies that seeds are counted at; the second a public port's
HEADINGS = ("dataset", "exp_name", "curriculum", "stream_settings")  # settings told elsewhere
Row = dict[str, Any]


@dataclass
class Result:
    """A run on the page.

    Attributes:
        run: what it recorded.
        curve: its validations; the label is what the page calls it.
        images: training images.
        seconds: that it trained; None where that was not counted.
        complete: whether it trained to its end.
        evaluations: what ``analysis.evaluate`` had kept of its last weights.
        tested: images, accuracy, low and high (Wilson, 95%): of these evaluations that on its own
            validation images, else of its last validation.
    """

    run: RunRecord
    curve: Curve
    images: int
    seconds: float | None
    complete: bool
    evaluations: list[dict[str, Any]]
    tested: dict[str, Any]

    @property
    def trained_on(self) -> str:
        """The set that it was trained on, and how that was asked to differ from itself."""
        params = self.run.params
        different = [f"{k} {v}" for k, v in (params.get("stream_settings") or {}).items()]
        if params.get("curriculum"):
            different.insert(0, f"lengths {', '.join(map(str, params['curriculum']))}")
        if params.get("model_input_image_size"):
            height, width, *_ = params["model_input_image_size"]
            different.append(f"resized to {height}×{width}")
        name = title(str(params["dataset"]))
        return f"{name} ({', '.join(different)})" if different else name

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
            trained_on=self.trained_on,
            tested_on=self.run.validated_on,
            seed=self.run.seed,
            parameters=int((self.run.record.get("network") or {}).get("parameters") or 0),
            training_images=self.images,
            images=self.tested["images"],
            accuracy=self.tested["accuracy"],
            low=self.tested["low"],
            high=self.tested["high"],
            images_to=self.curve.images_to(comparison.LEVEL),
        )

    @property
    def accuracy_text(self) -> str:
        """The accuracy and what is to be said of it."""
        text = f"{percent(self.tested)} of {self.tested['images']:,}"
        at = self.curve.length_at(math.inf)
        if at != self.curve.wanted and self.tested not in self.evaluations:
            text += f", at length {at}"
        return text + (", at chance" if self.at_chance else "")

    @property
    def at_chance(self) -> bool:
        """Whether it has learned nothing, or next to nothing."""
        return bool(self.tested["accuracy"] < LEARNED)


def results(runs: Sequence[Run]) -> list[Result]:
    """What the page has of each run.

    Raises:
        UserError: a run has no validation, or its metric is not accuracy.
    """
    records = [RunRecord.of(run) for run in runs]
    found = []
    for run, record, label in zip(runs, records, curves.labels(records), strict=True):
        if record.metric != "accuracy":
            raise UserError(f"{run.logs}: score_metric must be accuracy, found {record.metric!r}")
        validations = [event for event in run.events("validation") if "images" in event]
        if not validations:
            raise UserError(f"{run.json_log} has no validation that counts its images: delete it")
        counted = [event for event in run.events() if "images" in event and "seconds" in event]
        last, seconds = counted[-1]["images"], counted[-1]["seconds"]
        drawn = curves.logged_curve(run, label)
        evaluations = run.events("evaluation")
        own = [one for one in evaluations if _is_own(one, record)]
        tested = own[-1] if own else _of_validation(validations[-1])
        found.append(Result(record, drawn, last, seconds, ended(run), evaluations, tested))
    return found


def _is_own(evaluation: dict[str, Any], run: RunRecord) -> bool:
    """Whether an evaluation is of the whole circuit on the images that the run validated on."""
    images = run.data("validation").get("fingerprint")
    return (
        evaluation["dataset"] == title(run.validated_on)
        and evaluation["fold"] == "val"
        and images in (None, evaluation["set"])
        and not evaluation["lesion"]
        and evaluation["timesteps"] == run.timesteps
    )


def _of_validation(event: dict[str, Any]) -> dict[str, Any]:
    """The accuracy of a validation, with its interval."""
    count, accuracy = event["validation_images"], event["accuracy"]
    low, high = statistics.wilson(round(accuracy * count), count)
    return {"images": count, "accuracy": accuracy, "low": low, "high": high}


def runs_table(found: Sequence[Result], page: Path, records: Path) -> list[Row]:
    """A row for each run, in six columns."""
    rows = []
    for one in found:
        where = Path(os.path.relpath(records / one.run.name, page.parent)).as_posix()
        overrides = [
            text
            for key, text in one.run.overrides.items()
            if key not in (*HEADINGS, "initial_weights")
            and not (key in SETTINGS and SETTINGS[key].metadata["resume"])
        ]
        images = f"{one.images:,}" + (f", after {one.began_with}" if one.began_with else "")
        if len(one.curve.stages) > 1:
            images += f" (length {stages_text(one.curve.stages)})"
        rows.append(
            {
                "run": f"[{one.curve.label}, seed {one.run.seed}]({where})",
                "script and settings": f"`{' '.join([one.run.script, *overrides])}`",
                "training images": images if one.complete else f"{images}, left early",
                "time, device": f"{duration(one.seconds)}, {one.run.devices or 'not known'}",
                "commit": one.run.commits or "not known",
                "accuracy (95%)": one.accuracy_text,
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
            those = np.array([row[:2] for row in reached if row is not None])
            low, high = statistics.wilson(len(those), len(group))
            row[f"{100 * level:g}% reached (95%)"] = (
                f"{len(those)} of {len(group)} ({100 * low:.0f}–{100 * high:.0f}%)"
            )
            row[f"to {100 * level:g}%: images, minutes"] = "–"
            if len(those):
                images, minutes = those[:, 0], those[:, 1] / 60
                row[f"to {100 * level:g}%: images, minutes"] = (
                    f"{_spread(images, ',.0f')}, {_spread(minutes, '.1f')}"
                )
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


def _spread(values: np.ndarray, form: str) -> str:
    """``310,000 (250,000–400,000)``: median, lowest and highest; of one value that alone."""
    if np.isnan(values).any():
        return "not known"
    shown = [format(value, form) for value in (np.median(values), values.min(), values.max())]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]}–{shown[2]})"


def write_page(page: Path, found: Sequence[Result], records: Path) -> list[Path]:
    """Write what lies below the page's mark, its figures, table file and commands; the files."""
    sections, paths = [], []
    for name in dict.fromkeys(one.trained_on for one in found):
        section = [one for one in found if one.trained_on == name]
        groups: dict[tuple[str, str], list[Result]] = {}
        for one in section:
            groups.setdefault((one.curve.label, one.began_with), []).append(one)
        several = [group for group in groups.values() if len(group) > 1]
        lines = [f"### Trained on {name}\n"]
        if several:
            lines.append(markdown_table(seeds_table(several)) + "\n")
        lines.append(markdown_table(runs_table(section, page, records)) + "\n")
        if others := evaluations_table(section):
            lines.append(
                f"The same weights on other images or steps:\n\n{markdown_table(others)}\n"
            )
        pictures: dict[str, Figure] = {
            "accuracy": comparison.comparison_figure([one.point for one in section]),
            "curves": curves.learning_curves([one.curve for one in section]),
        }
        for what, figure in pictures.items():
            slug = re.sub(r"\W+", "_", f"{page.stem}_{what}_{name}").strip("_")
            (path,) = save(figure, page.parent / "figures" / slug, ("png",))
            lines.append(f"![{what}, {name}](figures/{path.name})\n")
            paths.append(path)
        sections.append("\n".join(lines))
    above = "# Results\n\n"
    if page.exists():
        above, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
        if not mark:
            raise UserError(f"{page} has no line {MARK}: put it where the results are to stand")
    paths.append(write_text(page, above + MARK + "\n\n" + "\n".join(sections)))
    table = [
        vars(one.point) | {"run": one.run.name, "began_with": one.began_with}
        | {"seconds": one.seconds, "device": one.run.devices, "commit": one.run.commits}
        | {"command": one.run.command}
        for one in found
    ]  # fmt: skip
    paths.append(write_csv(page.with_name(f"{page.stem}_runs.csv"), table))
    return [*paths, _commands(page, found)]


def _commands(page: Path, found: Sequence[Result]) -> Path:
    """Write the shell script of the runs' commands."""
    lines = [
        "#!/bin/sh",
        f"# What trained the runs of {page.name}, in its order; written by analysis.results.",
        "# A run that begins with another's weights names that run with the time it was trained:",
        "# put the time of yours.",
        "set -e",
    ]
    for one in found:
        commit = f", commit {one.run.commits}" if one.run.commits else ""
        on = f" on {one.run.devices}" if one.run.devices else ""
        lines += ["", f"# {one.run.name}{on}{commit}", one.run.command]
    return write_text(page.with_name(f"{page.stem}_commands.sh"), "\n".join(lines) + "\n")


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


def _order(one: Result) -> tuple[Any, ...]:
    """Long contours first; the whole circuit, then the others; seeds in order."""
    length = contour_length(title(str(one.run.params["dataset"]))) or 0
    return -length, one.trained_on, one.run.script != "hgru.py", one.run.script, one.curve.label


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("results", __doc__)
    parse.add_argument("runs", nargs="*", metavar="RUN", help="runs whose records are added")
    parse.add_argument(
        "--output", type=Path, metavar="FILE", default=CLONE / "docs" / "results.md",
        help="the page, .md; default: docs/results.md of the clone",
    )  # fmt: skip
    options = parse.parse_args(arguments)
    config = Config()
    page: Path = options.output
    if page.suffix != ".md":
        raise UserError(f"{page}: the page is an .md file")
    records = page.parent / "runs"
    paths = [keep_record(which, records, config) for which in options.runs]
    found = results(kept_records(records, config))
    found.sort(key=lambda one: (*_order(one), one.run.seed, one.run.name))
    shell.name_outputs([*paths, *write_page(page, found, records)])


if __name__ == "__main__":
    shell.run_command(main)
