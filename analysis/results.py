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

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis import comparison, curves
from analysis.comparison import LEARNED, Point
from analysis.curves import Curve
from analysis.evaluate import percent
from analysis.image_sets import title
from analysis.pages import fill
from analysis.record import (
    CHANGEABLE,
    RunRecord,
    ended,
    keep_record,
    kept_records,
    stages_text,
    validations,
)
from analysis.statistics import accuracy, difference_interval, proportion
from analysis.style import save
from config import CLONE, Config
from dataset_processing import contour_length
from dataset_processing.folds import is_same
from support import shell
from support.errors import UserError
from support.files import write_csv, write_text
from training.run import Run

MARK = "<!-- Below: written by python -m analysis.results -->"
LEVELS = (0.95, 0.974)  # accuracies that seeds are counted at; the second a public port's
HEADINGS = ("dataset", "exp_name", "curriculum", "stream_settings", "initial_weights")
FILE_LETTERS = 120  # of a section's part in names of files; 255 bytes are a whole name's most
Row = dict[str, Any]
# Of a model, a seed, the run's name (where another has the same two), a lesion and steps: what it
# came to on each set.
Cells = dict[tuple[str, int, str, str, int], Row]


@dataclass(frozen=True)
class Result(Point):
    """A run on the page.

    Its accuracy is that of the evaluation on most of its own validation images if there is one,
    else that of its last validation. Training images and seconds are those up to there.
    """

    record: RunRecord
    curve: Curve
    seconds: float | None  # that it trained up to there; None: not counted
    complete: bool  # whether it trained to its end
    validation_images: int  # of its last validation
    others: list[dict[str, Any]]  # its last weights on other images, the one that counts last

    @property
    def learned(self) -> bool:
        """Whether it has learned more than next to nothing."""
        return self.accuracy >= LEARNED

    @property
    def settings(self) -> str:
        """The script, and what was set that bears on learning and stands nowhere else."""
        overrides, left = self.record.overrides.items(), {*CHANGEABLE, *HEADINGS}
        told = [text for key, text in overrides if key not in left]
        return " ".join([self.record.script, *told])

    @property
    def began_with(self) -> str:
        """What its initial weights had seen, the newest first; empty where they were random."""
        told = []
        for one in self.record.initial_weights:
            seen = f"{one['images']:,} of " if one.get("images") is not None else ""
            told.append(f"{seen}{one.get('data') or one['source']}")
        return ", after ".join(told)


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
    """What the page has of a run."""
    record, last = RunRecord.of(run), validations(run)[-1]
    evaluations = sorted(run.events("evaluation"), key=_weight)
    own = [one for one in evaluations if _is_own(one, record)]
    count, share = last["validation_images"], last["accuracy"]
    validated = {**accuracy(round(share * count), count), "accuracy": share}
    tested = own[-1] if own else {**last, **validated}
    seen = [
        event for event in run.events()
        if "images" in event and "seconds" in event and event["step"] <= tested["step"]
    ][-1]  # fmt: skip
    curve = curves.logged_curve(run, label)
    return Result(
        model=label,
        trained_on=trained_on(record),
        tested_on=record.validated_on,
        seed=record.seed,
        parameters=int((record.record.get("network") or {}).get("parameters") or 0),
        training_images=seen["images"],
        images_to=curve.images_to(comparison.LEVEL),
        **{key: tested[key] for key in validated},
        run=record.name,
        record=record,
        curve=curve,
        seconds=seen["seconds"],
        complete=ended(run),
        validation_images=count,
        others=[one for one in evaluations if one not in own],
    )


def _weight(evaluation: dict[str, Any]) -> tuple[int, int]:
    """Of several evaluations on one set the last by this is shown, the newest among equals: that of
    most images, then of the lowest seed."""
    return evaluation["images"], -evaluation["seed"]


def _is_own(evaluation: dict[str, Any], run: RunRecord) -> bool:
    """Whether an evaluation is of the whole circuit on the images that the run validated on."""
    options = (run.record.get("network") or {}).get("options") or {}
    images = evaluation["set"]
    return (
        evaluation["dataset"] == title(run.validated_on)
        and evaluation["fold"] == "val"
        and is_same(run.data("validation").get("fingerprint") or images, images)
        and not evaluation["lesion"]
        and evaluation["timesteps"] == options.get("timesteps")
    )


def complete(group: Sequence[Result]) -> list[Result]:
    """Those that trained to the end."""
    return [one for one in group if one.complete]


def below(group: Sequence[Result], reference: Sequence[Result]) -> str:
    """``0.1 (−1.5 to 1.8)``: by how many points of accuracy the mean of the seeds that trained to
    the end is below that of others, with Welch's interval; empty where it is not known."""
    own, theirs = ([100 * one.accuracy for one in complete(g)] for g in (group, reference))
    if group is reference or not own or not theirs:
        return ""
    if min(len(own), len(theirs)) == 1 or len({*own}) == len({*theirs}) == 1:
        return f"{np.mean(theirs) - np.mean(own):.1f}"
    return "{:.1f} ({:.1f} to {:.1f})".format(*difference_interval(theirs, own)).replace("-", "−")


def reached(group: Sequence[Result], level: float) -> Row:
    """How many seeds of one thing reached an accuracy in validation: ``count``, and ``most``, had
    all done so that were left before; and the training images and minutes (count,) of the first
    validations that did."""
    rows = [one.curve.reached(level) for one in group]
    there = [row for row in rows if row is not None]
    images, seconds = np.array([row[:2] for row in there]).reshape(-1, 2).T
    most = sum(row is not None or not one.complete for one, row in zip(group, rows, strict=True))
    found = {"count": len(there), "most": most, "seeds": len(group)}
    return {**found, "images": images, "minutes": seconds / 60}


def share(count: int, seeds: int, most: int | None = None) -> str:
    """``6–79%``: Wilson's 95% interval of a share of seeds; of a count up to ``most``, from the
    low end of the one to the high end of the other."""
    (low, _), (_, high) = (proportion(n, seeds) for n in (count, count if most is None else most))
    return f"{100 * low:.0f}–{100 * high:.0f}%"


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


def file_parts(names: Sequence[str]) -> list[str]:
    """What the sections of these names are called in names of files: where that would be too long,
    or another's too, with digits that follow from the whole name."""
    parts = [re.sub(r"\W+", "_", name).strip("_")[:FILE_LETTERS] for name in names]
    return [
        f"{part}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if len(part) == FILE_LETTERS or parts.count(part) > 1
        else part
        for part, name in zip(parts, names, strict=True)
    ]


def section(name: str, runs: Sequence[Run], page: Path, part: str) -> dict[str, Any]:
    """What the page has of the runs that were trained alike, under this name; ``part`` of the
    names of its files."""
    names = curves.labels([RunRecord.of(run) for run in runs])
    found = [result(run, label) for run, label in zip(runs, names, strict=True)]
    found.sort(key=lambda one: (one.record.script != "hgru.py", one.model, one.seed))
    groups: dict[tuple[str, str], list[Result]] = {}
    for one in found:
        groups.setdefault((one.model, one.began_with), []).append(one)
    several = [group for group in groups.values() if len(group) > 1]
    intact = [group for group in several if group[0].record.script == "hgru.py"]
    reference = max(intact, key=lambda group: len(complete(group)), default=[])
    shown = several
    if complete(reference):  # one seed has a place beside several
        shown = [group for group in groups.values() if len(group) > 1 or complete(group)]
    seeds = [
        (group, [reached(group, level) for level in LEVELS], below(group, reference))
        for group in shown
    ]
    others = further(found)
    figures = {
        "accuracy": comparison.comparison_figure(complete(found) or found),
        "curves": curves.learning_curves([one.curve for one in found]),
    }
    paths = {
        what: save(figure, page.parent / "figures" / f"{page.stem}_{what}_{part}", ("png",))[0]
        for what, figure in figures.items()
    }
    found_here = {"name": name, "seeds": seeds, "runs": found, "figures": paths}
    return {**found_here, "reference": reference, **others}


def further(found: Sequence[Result]) -> dict[str, Any]:
    """Evaluations on other images, with a lesion or of other steps: the sets, and rows of a run, a
    lesion, its steps and what it came to on each set, the one of most images."""
    cells: Cells = {}
    names = [(one.model, one.seed) for one in found]
    for one in found:
        for tested in one.others:
            lesion, steps = " ".join(tested["lesion"]), tested["timesteps"] or 0
            run = one.run if names.count((one.model, one.seed)) > 1 else ""
            row = cells.setdefault((one.model, one.seed, run, lesion, steps), {})
            row[title(tested["dataset"], tested["fold"])] = tested
    sets = {name: contour_length(name) or 0 for row in cells.values() for name in row}
    return {"sets": sorted(sets, key=lambda name: (sets[name], name)), "rows": cells}


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
    keys = sorted(alike)
    parts = file_parts([name for _, name in keys])
    sections = [
        section(key[1], alike[key], page, part) for key, part in zip(keys, parts, strict=True)
    ]
    found = [one for made in sections for one in made["runs"]]
    table = [
        {field.name: getattr(one, field.name) for field in fields(Point)}
        | {"began_with": one.began_with, "seconds": one.seconds}
        | {
            "device": one.record.devices,
            "commit": one.record.version,
            "command": one.record.command,
        }
        for one in found
    ]
    forms: dict[str, Any] = {"percent": percent, "duration": duration, "spread": spread}
    forms |= {"stages": stages_text, "percent_of": lambda one: percent(vars(one))}
    forms |= {"accuracy_text": comparison.accuracy_text, "least": LEARNED, "share": share}
    text = fill("results.md.jinja", above=above, mark=mark, sections=sections, **forms)
    commands = fill("results.sh.jinja", page=page.name, runs=[one.record for one in found])
    return [
        write_text(page, text),
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
