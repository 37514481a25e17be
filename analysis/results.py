"""Write the results of training runs: a page, its tables as CSV, figures, and the runs' commands.

python -m analysis.results RUN RUN RUN --output results.md
python -m analysis.results --redraw docs/results.md

writes results.md and, beside it, results_runs.csv, results_curves.csv, results_commands.sh and
figures/results_*.png. --redraw makes page, figures and commands anew from the two tables alone, for
which no run is needed. Of a page that is there, what stands above the line

    <!-- Below: written by python -m analysis.results -->

is kept: prose belongs there. Accuracies are those that analysis.evaluate has kept; what is missing
is computed, which needs the images.
"""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from analysis import comparison, curves
from analysis.comparison import LEVEL, Point
from analysis.curves import Curve
from analysis.evaluate import IMAGES, evaluated, kept
from analysis.image_sets import title
from analysis.style import save
from analysis.trained import TrainedRun, load_run
from config import Config
from support import shell
from support.errors import MissingError, UserError, refusals
from support.files import write_csv, write_text
from support.tables import markdown_table

MARK = "<!-- Below: written by python -m analysis.results -->"
MORE = ("run", "began_with", "seconds", "device", "commit", "command")  # of a row, beside a Point's
COLUMNS = (*(field.name for field in fields(Point)), *MORE)
Row = dict[str, Any]


def gather(
    run: TrainedRun, label: str, images: int = IMAGES, seed: int = 0, workers: int | None = None
) -> tuple[Row, Curve]:
    """A run's row of the table, and its learning curve.

    Args:
        run: the run.
        label: what it is called; runs of one label count as seeds of one thing.
        images, seed, workers: see :func:`analysis.evaluate.evaluate`.

    Raises:
        UserError: it is a file of weights, its metric is not accuracy, or the images here are not
            those that it validated on.
    """
    if run.files is None:
        raise UserError(f"{run.name} is a file of weights: results need the run's log and history")
    if run.metric != "accuracy":
        raise UserError(f"{run.name}: score_metric must be accuracy, found {run.metric!r}")
    dataset = str(run.params.get("val_dataset") or run.params["dataset"])
    validated = ((run.record.get("data") or {}).get("validation") or {}).get("fingerprint")
    evaluation, _ = kept(run, dataset, images, seed=seed, fingerprint=validated) or evaluated(
        run, dataset, images, seed=seed, workers=workers
    )
    here = evaluation.about["set"]
    if validated not in (None, here):
        raise UserError(
            f"{run.name} validated on other images of {dataset} than those here: fingerprint "
            f"{validated} there, {here} here; evaluate it where it was trained"
        )
    drawn = curves.curve(run, label)
    (point,) = comparison.Member(run, label, {dataset: evaluation}).points()
    row = vars(replace(point, trained_on=_trained_on(run))) | {
        "run": run.name,
        "began_with": run.began_with,
        "seconds": run.seconds,
        "device": run.devices,
        "commit": run.commits,
        "command": run.command,
    }
    return row, drawn


def _trained_on(run: TrainedRun) -> str:
    """The set that a run was trained on, and how that was asked to differ from itself."""
    different = [f"{k} {v}" for k, v in (run.params.get("stream_settings") or {}).items()]
    if run.params.get("model_input_image_size"):
        height, width, *_ = run.params["model_input_image_size"]
        different.append(f"resized to {height}×{width}")
    name = title(str(run.params["dataset"]))
    return f"{name} ({', '.join(different)})" if different else name


def read_rows(path: Path) -> list[Row]:
    """The rows of a table of runs that this command wrote.

    Raises:
        UserError: it is missing, or not such a table.
    """
    with refusals(path, "cannot be read"):
        rows: list[Row] = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise UserError(f"{path}: a table with the columns {', '.join(COLUMNS)} is expected")
    for row in rows:
        for key in ("seed", "parameters", "training_images", "images", "images_to"):
            row[key] = int(row[key]) if row[key] else None
        for key in ("accuracy", "low", "high", "seconds"):
            row[key] = float(row[key]) if row[key] else None
    return rows


def write_page(page: Path, rows: Sequence[Row], drawn: Sequence[Curve]) -> list[Path]:
    """Write what lies below the mark of the page, its figures and the runs' commands; the files."""
    sections, paths = [], []
    for name in dict.fromkeys(row["trained_on"] for row in rows):
        of_set = [row for row in rows if row["trained_on"] == name]
        runs = {row["run"] for row in of_set}
        shown = [one for one in drawn if one.run in runs]
        slug = re.sub(r"\W+", "_", name).strip("_")[:40].strip("_")
        stem = page.parent / "figures" / f"{page.stem}"
        lines = [f"### Trained on {name}\n"]
        pictures = [("accuracy", comparison.comparison_figure([_point(row) for row in of_set]))]
        if any(len(one.table) for one in shown):
            pictures.append(("curves", curves.learning_curves(shown)))
        lines.append(markdown_table(_table(of_set)) + "\n")
        for what, figure in pictures:
            (path,) = save(figure, stem.with_name(f"{stem.name}_{what}_{slug}"), ("png",))
            link = Path(os.path.relpath(path, page.parent)).as_posix()
            lines.append(f"![{what}, {name}]({link})\n")
            paths.append(path)
        sections.append("\n".join(lines))
    above = (
        page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Results\n\n"
    )
    text = above + MARK + "\n\n" + "\n".join(sections)
    return [write_text(page, text), _commands(page, rows), *paths]


def _point(row: Row) -> Point:
    return Point(**{field.name: row[field.name] for field in fields(Point)})


def _table(rows: Sequence[Row]) -> list[Row]:
    """A row for each label and beginning, in six columns."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["began_with"] or "random"), []).append(row)
    found = []
    for (model, began), group in groups.items():
        points = [_point(row) for row in group]
        seconds = sorted(row["seconds"] for row in group if row["seconds"] is not None)
        found.append(
            {
                "run": model,
                "began with": began,
                "training images": f"{max(point.training_images for point in points):,}",
                "accuracy (95%)": comparison.accuracy_text(points),
                f"images to {LEVEL:.0%}": comparison.images_text(points),
                "training time": "–" if not seconds else duration(seconds[len(seconds) // 2]),
            }
        )
    return found


def _commands(page: Path, rows: Sequence[Row]) -> Path:
    """Write the shell script of the runs' commands."""
    lines = [
        "#!/bin/sh",
        f"# What trained the runs of {page.name}, in its order; written by analysis.results.",
        "# A run that begins with another's weights names that run with the time it was trained:",
        "# put the time of yours.",
        "set -e",
    ]
    for row in rows:
        commit = f", commit {row['commit']}" if row["commit"] else ""
        on = f" on {row['device']}" if row["device"] else ""
        lines += ["", f"# {row['run']}{on}{commit}", row["command"]]
    return write_text(page.with_name(f"{page.stem}_commands.sh"), "\n".join(lines) + "\n")


def duration(seconds: float) -> str:
    """``35 s``, ``12.5 min``, ``3 h 05 min``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 59.95 * 60:
        return f"{seconds / 60:.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("results", __doc__)
    parse.add_argument("runs", nargs="*", metavar="RUN", help="runs, in the order of the rows")
    parse.add_argument(
        "--weights", default="last", metavar="WHICH", help="last, best or the number of a step"
    )
    parse.add_argument(
        "--label", nargs="+", default=[], metavar="TEXT",
        help="what the runs are called, one for each; runs of one name count as seeds of it; "
        "default: the experiment's name",
    )  # fmt: skip
    parse.add_argument(
        "--output", type=Path, metavar="FILE", help="the page, .md; default: plots/results.md"
    )
    parse.add_argument(
        "--overwrite", action="store_true", help="replace what a page that is there has of results"
    )
    parse.add_argument(
        "--redraw", type=Path, metavar="FILE", help="a page to make anew from its own tables"
    )
    parse.add_images(IMAGES)
    parse.add_device()
    options = parse.parse_args(arguments)
    if bool(options.runs) == bool(options.redraw):
        raise UserError("name the runs, or a page to --redraw (--help shows examples)")
    config = Config()
    page: Path = options.redraw or options.output or config.plots / "results.md"
    if page.suffix != ".md":
        raise UserError(f"{page}: the page is an .md file")
    runs_table = page.with_name(f"{page.stem}_runs.csv")
    curves_table = page.with_name(f"{page.stem}_curves.csv")
    if options.redraw and not page.exists():
        raise MissingError(f"--redraw {page}: no such page")
    if options.runs:
        there = [path for path in (page, runs_table, curves_table) if path.exists()]
        if there and not options.overwrite:
            raise UserError(
                f"{there[0]} exists; --overwrite replaces its results, --output names another page"
            )
        runs = [load_run(which, options.weights, options.device, config) for which in options.runs]
        twice = {run.name for run in runs if [one.name for one in runs].count(run.name) > 1}
        if twice:
            raise UserError(f"given twice: {', '.join(sorted(twice))}; a run has one row")
        found = [
            gather(run, label, options.images, options.seed, options.workers)
            for run, label in zip(runs, curves.labels(runs, options.label), strict=True)
        ]
        write_csv(runs_table, [{key: _cell(row[key]) for key in COLUMNS} for row, _ in found])
        write_csv(curves_table, [line for _, one in found for line in one.rows()])
    paths = write_page(page, read_rows(runs_table), curves.read_curves(curves_table))
    shell.name_outputs([*paths, runs_table, curves_table])


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else value


if __name__ == "__main__":
    shell.run_command(main)
