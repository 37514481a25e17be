"""One HTML page about a run, or several: settings, curves, evaluation, figures, versions.

python -m analysis.report latest
python -m analysis.report RUN RUN --dataset pathfinder_6 pathfinder_14 --images 10000

The page holds everything in one file and opens without a network.
"""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import comparison, curves, figures
from analysis.comparison import Member
from analysis.evaluate import Evaluation, percent
from analysis.image_sets import title, titles
from analysis.pages import TYPES, fill
from analysis.probing import SAMPLES
from analysis.record import stages_text
from analysis.style import save
from analysis.trained import TrainedRun, load_runs, script_of
from config import Config
from dataset_processing.folds import times
from support import shell
from support.errors import UserError
from support.files import write_text
from training.experiment import Experiment, plain

IMAGES = 2_000
CARDS = 8  # large numbers at the top, at most
STYLE = Path(__file__).with_name("report.css")
VERSIONS = ("torch", "python", "numpy", "cuda", "device", "processes", "system")
Rows = list[dict[str, Any]]
Pair = tuple[Member, str, Evaluation]  # the second: the set's title


def report(runs: Sequence[TrainedRun], path: Path, drawn: Path, options: Any) -> None:
    """Write the page, and its figures into the folder ``drawn``; ``options``: the command's."""
    how: Any = {key: getattr(options, key) for key in ("images", "seed", "workers")}
    members, _ = comparison.family(runs, options.dataset, options.label, **how)
    kinds, learned = [kind for kind in figures.KINDS if kind != "curves"], []
    how = {"dataset": options.examples, "samples": options.samples, "seed": options.seed}
    for member, folder in zip(members, figures.names_apart(runs), strict=True):
        files = figures.draw(member.run, kinds, drawn / folder, **how)
        shown = [
            ("animation" if file.suffix == ".gif" else kind, file)
            for kind, written in files.items()
            for file in written
            if file.suffix in TYPES
        ]
        who = "it" if len(runs) == 1 else member.name
        learned.append((f"What {who} learned", shown))
    compared: dict[str, Any] = {}
    if len(runs) > 1:
        points = comparison.points(members)
        tests = comparison.paired_tests(members)
        figure = save(comparison.comparison_figure(points), drawn / "comparison")[0]
        compared = {"figure": figure, "table": comparison.table(points)}
        compared["tests"] = comparison.tests_table(tests)
    settings, changed = _settings(runs)
    sets = titles(name for one in members for name in one.evaluations)
    pairs = [(one, sets[name], found) for one in members for name, found in one.evaluations.items()]
    text = fill(
        "report.html.jinja",
        names=", ".join(dict.fromkeys(member.model for member in members)),
        style=STYLE.read_text(encoding="utf-8"),
        members=members,
        title=title,
        numbers=_numbers(pairs),
        batches=_batches(pairs),
        seed=options.seed,
        accuracy=_accuracy(pairs),
        details=[(f"{one.name} on {name}", *found.tables()) for one, name, found in pairs],
        comparison=compared,
        curves=_curves(members, drawn),
        learned=learned,
        settings=settings,
        changed=changed,
        versions=_versions(runs),
        now=time.strftime("%Y-%m-%d %H:%M"),
    )
    write_text(path, text)


def _batches(pairs: Sequence[Pair]) -> str:
    """The sizes of the batches in which images came, which are each run's own."""
    return ", ".join(dict.fromkeys(str(found.about["batch_size"]) for _, _, found in pairs))


def _numbers(pairs: Sequence[Pair]) -> list[tuple[str, str, str]]:
    """The large numbers: name, value, what stands small below."""
    items, alone = [], all(member is pairs[0][0] for member, _, _ in pairs)
    for member, name, evaluation in pairs:
        found = evaluation.accuracy()
        which = name if alone else f"{member.name}, on {name}"
        interval = f"{100 * found['low']:.1f}–{100 * found['high']:.1f}%"
        small = f"95%: {interval}, {found['images']:,} images"
        items.append((f"accuracy, {which}", f"{100 * found['accuracy']:.1f}%", small))
    if alone:
        run = pairs[0][0].run
        items.append(("trained parameters", f"{run.parameters:,}", run.model_name))
        batch = f"batches of {run.params['batch_size']}"
        items.append(("training images", f"{run.images_seen:,}", batch))
    return items[:CARDS]


def _accuracy(pairs: Sequence[Pair]) -> Rows:
    return [
        {
            "run": member.name,
            "tested on": name,
            "accuracy (95%)": percent(found.accuracy()),
            "AUC": f"{found.auc:.4f}",
            "loss (nats)": f"{found.loss:.4f}",
            "images": f"{len(found.record):,}",
        }
        for member, name, found in pairs
    ]


def _curves(members: Sequence[Member], drawn: Path) -> dict[str, Any] | None:
    """The learning curves' figure and table; None where no run has a validation."""
    found = [curves.curve(member.run, member.model) for member in members]
    rows, staged = [], any(one.stages for one in found)
    for member, one in zip(members, found, strict=True):
        metric, best = one.table[:, 5], member.run.history.until(member.run.step).best()
        if best is None:
            continue
        row = {
            "run": member.name,
            f"last validation {one.metric}": f"{metric[-1]:.4f}",
            f"best validation {one.metric}": f"{metric[best]:.4f}",
            "best at (training images)": f"{one.table[best, 0]:,.0f}",
            "training images": f"{member.run.images_seen:,}",
        }
        if one.metric == "accuracy":
            needed = one.images_to(comparison.LEVEL)
            row["images to 90%"] = f"{needed:,}" if needed is not None else "not reached"
        if staged:
            row["contour length"] = stages_text(one.stages) or "–"
        rows.append(row)
    if not rows:
        return None
    return {"figure": save(curves.learning_curves(found), drawn / "curves")[0], "table": rows}


def _settings(runs: Sequence[TrainedRun]) -> tuple[Rows, set[tuple[int, str]]]:
    """Parameters of each run, and the cells that differ from the script's own."""
    defaults = [Experiment.of(script_of(run.record).experiment_params()) for run in runs]
    keys = dict.fromkeys(key for run in runs for key in run.params)
    values = {key: [plain(run.params.get(key)) for run in runs] for key in keys}
    changed = {
        (place, column)
        for place, (key, found) in enumerate(values.items())
        for column, value, default in zip(_columns(runs), found, defaults, strict=True)
        if value != plain(default.get(key))
    }
    return _rows("parameter", {**values, "seed": [run.seed for run in runs]}, runs), changed


def _versions(runs: Sequence[TrainedRun]) -> Rows:
    """Code, machine and data of each run."""
    found: dict[str, list[Any]] = {
        "commit": [run.commits or "–" for run in runs],
        "code (fingerprints)": [run.fingerprints or "–" for run in runs],
        **{key: [run.environment.get(key) for run in runs] for key in VERSIONS},
        "command": [shlex.join(run.environment.get("command") or []) or None for run in runs],
        "the network is given": [times(run.image_size) for run in runs],
        "training data": [
            f"{one.get('description', '–')} (fingerprint {one.get('fingerprint')})"
            for one in (run.data("train") for run in runs)
        ],
    }
    return _rows("what", found, runs)


def _rows(head: str, found: dict[str, list[Any]], runs: Sequence[TrainedRun]) -> Rows:
    """Rows of a table with a column for each run."""
    columns = _columns(runs)
    return [
        {head: key} | dict(zip(columns, map(_text, values), strict=True))
        for key, values in found.items()
    ]


def _columns(runs: Sequence[TrainedRun]) -> list[str]:
    """A heading for each run."""
    names = zip(figures.names_apart(runs), runs, strict=True)
    return ["value"] if len(runs) == 1 else [f"{name} (step {run.step})" for name, run in names]


def _text(value: Any) -> str:
    if value in (None, {}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} = {item}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("report", __doc__)
    parse.add_run()
    parse.add_argument(
        "--dataset", nargs="+", default=[], metavar="NAME",
        help="sets to evaluate on (see analysis.evaluate); default: what each run validated on",
    )  # fmt: skip
    parse.add_argument(
        "--examples", metavar="NAME",
        help="set of the images shown with their activity and gradients; default: own",
    )  # fmt: skip
    parse.add_argument("--samples", type=shell.whole(1), default=SAMPLES, help="of SmoothGrad")
    figures.add_label(parse)
    parse.add_images(IMAGES)
    parse.add_device()
    parse.add_argument(
        "--output", type=Path, metavar="FILE", help="the page; default: visualizations/<run>.html"
    )
    options = parse.parse_args(arguments)
    runs = load_runs(options)
    more = f"_and_{len(runs) - 1}_more" if len(runs) > 1 else ""
    path = options.output or Config().visualizations / f"{figures.names_apart(runs)[0]}{more}.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {path}: the page is an .html file")
    drawn = path.with_name(f"{path.stem}_figures")
    report(runs, path, drawn, options)
    shell.name_outputs([path, drawn])


if __name__ == "__main__":
    shell.run_command(main)
