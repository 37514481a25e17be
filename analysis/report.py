"""One HTML page about a run, or several: settings, curves, evaluation, figures, versions.

python -m analysis.report latest
python -m analysis.report RUN RUN --dataset pathfinder_6 pathfinder_14 --images 10000

The page holds everything in one file and opens without a network.
"""

import base64
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from analysis import comparison, curves, figures
from analysis.comparison import Member
from analysis.evaluate import LABELS, percent
from analysis.image_sets import title
from analysis.probing import SMOOTHGRAD_SAMPLES, SMOOTHGRAD_SPREAD
from analysis.record import stages_text
from analysis.style import save
from analysis.trained import TrainedRun, load_run, script_of
from config import Config
from support import shell
from support.errors import UserError
from support.files import write_text
from support.tables import number_columns
from training.experiment import Experiment, plain

IMAGES = 2_000
CARDS = 8  # large numbers at the top, at most
STYLE = Path(__file__).with_name("report.css")
TYPES = {".png": "image/png", ".gif": "image/gif"}
FIGURES = {  # what a reader who cannot see it should know, and the caption
    "gabors": (
        "Rows of small filter pictures before and after training, by orientation.",
        "The 24 oriented filters and the disc where training starts (formula) and where it ended. "
        "Degrees: orientation of the preferred contour, counter-clockwise from the horizontal. "
        "Below a trained filter: as measured; – where it is no more selective than white noise.",
    ),
    "kernels": (
        "A mosaic of all horizontal kernels, orange for positive and blue for negative.",
        "Row: the receiving channel, column: the sending one, both by the orientation of their "
        "trained filter.",
    ),
    "association": (
        "Seven maps of mean connection, two heat maps and a line plot by relative orientation.",
        "Above: mean connection to a unit that prefers a horizontal contour (black bar), by place "
        "and by the difference of the two units' orientations. Below: mean of the positive and of "
        "the negative part, by difference of orientation and distance; right: over all distances, "
        "with what 95% of 1,000 shuffles of the orientations give. A point outside a band differs "
        "from chance at 5% for itself: one or two of fourteen can do so by chance.",
    ),
    "letters": (
        "Eight small plots of letters, scale and gates by channel or by step.",
        "Greek letters by channel, η by step, and the gates: σ of their bias, and their mean on an "
        "image by step (band: 10th to 90th percentile over channels).",
    ),
    "activity": (
        "A stimulus and the maps of H1 and H2 at every step.",
        "Root mean square over the channels at each of the steps, one scale a row; blue line: the "
        "contour that carries the first marker. The probability is the softmax's for the answer.",
    ),
    "animation": (
        "Animation: the stimulus beside H2, a frame a step.",
        "H2 step by step, root mean square over channels.",
    ),
    "gradients": (
        "Stimuli beside maps of the gradient and of its absolute value.",
        "SmoothGrad: mean gradient of the label's logit over noisy copies, noise of "
        f"{SMOOTHGRAD_SPREAD:g} of the image's range.",
    ),
}


def report(
    runs: Sequence[TrainedRun],
    path: Path,
    *,
    datasets: Sequence[str] = (),
    images: int = IMAGES,
    examples: str | None = None,
    samples: int = SMOOTHGRAD_SAMPLES,
    seed: int = 0,
    workers: int | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Write the page.

    Args:
        runs: the runs, at least one.
        path: the HTML file.
        datasets: sets to evaluate on; none: what each run validated on.
        images: of each set at most.
        examples: set of the images that activity and gradients are shown for; None: some like
            those that each run trained on.
        samples: of SmoothGrad.
        seed: of generated images, noise and hidden state.
        workers: processes that load images.
        names: what the runs are called; none: see :func:`analysis.curves.labels`.
    """
    members, _ = comparison.family(runs, datasets, images, seed, workers, names)
    drawn = path.with_name(f"{path.stem}_figures")
    learned = []
    for member in members:
        files = figures.draw(
            member.run, [kind for kind in figures.KINDS if kind != "curves"],
            drawn / member.run.name, dataset=examples, samples=samples, seed=seed,
        )  # fmt: skip
        heading = "What it learned" if len(runs) == 1 else f"What {_name(member)} learned"
        shown = [
            (file, *FIGURES["animation" if file.suffix == ".gif" else kind])
            for kind, written in files.items()
            for file in written
            if file.suffix in TYPES
        ]
        learned.append((heading, shown))
    settings, changed = _settings(runs)
    text = _template().render(
        names=", ".join(dict.fromkeys(member.model for member in members)),
        style=STYLE.read_text(encoding="utf-8"),
        lead=_lead(members),
        numbers=_numbers(members)[:CARDS],
        about=next(iter(members[0].evaluations.values())).about,
        accuracy=[row for member in members for row in _accuracy(member)],
        details=[one for member in members for one in _details(member)],
        comparison=_comparison(members, drawn) if len(runs) > 1 else None,
        curves=_curves(members, drawn),
        learned=learned,
        settings=settings,
        changed=changed,
        versions=_versions(runs),
        now=time.strftime("%Y-%m-%d %H:%M"),
    )
    return write_text(path, text)


def _template() -> jinja2.Template:
    """The page's template; what is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STYLE.parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"number_columns": number_columns, "data_uri": _data_uri}
    return environment.get_template("report.html.jinja")


def _data_uri(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{TYPES[path.suffix]};base64,{data}"


def _name(member: Member) -> str:
    return f"{member.model}, seed {member.run.seed}"


def _lead(members: Sequence[Member]) -> str:
    if len(members) > 1:
        return f"{len(members)} runs: {', '.join(member.run.name for member in members)}."
    run = members[0].run
    return (
        f"{run.name}: trained on {title(members[0].trained_on)} from seed {run.seed}; weights of "
        f"step {run.step:,} ({run.weights})."
    )


def _numbers(members: Sequence[Member]) -> list[tuple[str, str, str]]:
    """The large numbers: name, value, what stands small below."""
    items = []
    for member in members:
        for name, evaluation in member.evaluations.items():
            found = evaluation.accuracy()
            which = title(name) if len(members) == 1 else f"{_name(member)}, on {title(name)}"
            interval = f"{100 * found['low']:.1f}–{100 * found['high']:.1f}%"
            small = f"95%: {interval}, {found['images']:,} images"
            items.append((f"accuracy, {which}", f"{100 * found['accuracy']:.1f}%", small))
    if len(members) == 1:
        run = members[0].run
        items.append(("trained parameters", f"{run.parameters:,}", run.model_name))
        batch = f"batches of {run.params['batch_size']}"
        items.append(("training images", f"{run.images_seen:,}", batch))
    return items


def _accuracy(member: Member) -> list[dict[str, Any]]:
    rows = []
    for name, one in member.evaluations.items():
        numbers = one.summary()
        rows.append(
            {
                "run": _name(member),
                "tested on": title(name),
                "accuracy (95%)": percent(numbers),
                "AUC": f"{numbers['auc']:.4f}",
                "loss (nats)": f"{numbers['loss']:.4f}",
                "images": f"{numbers['images']:,}",
            }
        )
    return rows


def _details(member: Member) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Of each evaluation: what it is of, its confusion, its accuracy by property."""
    found = []
    for name, one in member.evaluations.items():
        confusion = [
            {"label": LABELS[r], **{f"answer: {LABELS[c]}": counts[c] for c in LABELS}}
            for r, counts in enumerate(one.confusion())
        ]
        parts = [
            {
                "label": row["label"], "marker distance": row["distance"],
                "images": row["images"], "accuracy (95%)": percent(row),
            }
            for row in one.by_property()
        ]  # fmt: skip
        found.append((f"{_name(member)} on {title(name)}", confusion, parts))
    return found


def _comparison(members: Sequence[Member], drawn: Path) -> dict[str, Any]:
    points = comparison.points(members)
    tests = comparison.paired_tests(members, comparison.reference_of(members))
    return {
        "figure": save(comparison.comparison_figure(points), drawn / "comparison")[0],
        "table": comparison.table(points),
        "tests": comparison.tests_table(tests),
    }


def _curves(members: Sequence[Member], drawn: Path) -> dict[str, Any] | None:
    """The learning curves' figure and table; None where no run has a validation."""
    found = [curves.curve(member.run, member.model) for member in members]
    if not any(len(one.table) for one in found):
        return None
    rows, staged = [], any(one.stages for one in found)
    for member, one in zip(members, found, strict=True):
        if not len(one.table):
            continue
        metric, best = one.table[:, 5], int(one.table[:, 5].argmax())
        needed = one.images_to(comparison.LEVEL)
        rows.append(
            {
                "run": _name(member),
                f"last validation {one.metric}": f"{metric[-1]:.4f}",
                f"best validation {one.metric}": f"{metric[best]:.4f}",
                "best at (training images)": f"{one.table[best, 0]:,.0f}",
                "training images": f"{member.run.images_seen:,}",
                "images to 90%": f"{needed:,}" if needed is not None else "not reached",
            }
            | ({"contour length": stages_text(one.stages) or "–"} if staged else {})
        )
    return {"figure": save(curves.learning_curves(found), drawn / "curves")[0], "table": rows}


def _settings(
    runs: Sequence[TrainedRun],
) -> tuple[list[dict[str, Any]], set[tuple[int, str]]]:
    """Parameters of each run, and the cells that differ from the script's own."""
    columns = _column_names(runs)
    defaults = [Experiment.of(script_of(run.record).experiment_params()) for run in runs]
    rows: list[dict[str, Any]] = []
    changed = set()
    for place, key in enumerate(dict.fromkeys(key for run in runs for key in run.params)):
        row = {"parameter": key}
        for column, run, default in zip(columns, runs, defaults, strict=True):
            value = plain(run.params.get(key))
            row[column] = _text(value)
            if value != plain(default.get(key)):
                changed.add((place, column))
        rows.append(row)
    seeds = {column: run.seed for column, run in zip(columns, runs, strict=True)}
    return [*rows, {"parameter": "seed", **seeds}], changed


def _versions(runs: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    columns = _column_names(runs)
    wanted = (
        "torch", "python", "numpy", "cuda", "device", "processes",
        "system", "command",
    )  # fmt: skip
    rows = []
    for key in wanted:
        row = {"what": key}
        for column, run in zip(columns, runs, strict=True):
            value = run.environment.get(key)
            row[column] = shlex.join(value) if key == "command" and value else _text(value)
        rows.append(row)
    commits = {c: run.commits or "–" for c, run in zip(columns, runs, strict=True)}
    rows.insert(0, {"what": "commit", **commits})
    seen = {c: "×".join(map(str, run.image_size)) for c, run in zip(columns, runs, strict=True)}
    rows.append({"what": "the network is given", **seen})
    data = {"what": "training data"}
    for column, run in zip(columns, runs, strict=True):
        found = (run.record.get("data") or {}).get("train") or {}
        data[column] = f"{found.get('description', '–')} (fingerprint {found.get('fingerprint')})"
    return [*rows, data]


def _column_names(runs: Sequence[TrainedRun]) -> list[str]:
    """A heading for each run; the same twice where the same run was given twice."""
    if len(runs) == 1:
        return ["value"]
    return [f"{run.name} (step {run.step})" for run in runs]


def _text(value: Any) -> str:
    if value is None or value == {} or value == []:
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
    parse.add_argument(
        "--samples", type=shell.whole(1), default=SMOOTHGRAD_SAMPLES, help="of SmoothGrad"
    )
    parse.add_argument(
        "--label", nargs="+", default=[], metavar="TEXT",
        help="what the runs are called, one for each; runs of one name count as seeds of it",
    )  # fmt: skip
    parse.add_images(IMAGES)
    parse.add_device()
    parse.add_argument(
        "--output", type=Path, metavar="FILE", help="the page; default: visualizations/<run>.html"
    )
    options = parse.parse_args(arguments)
    config = Config()
    runs = [load_run(which, options.weights, options.device, config) for which in options.runs]
    more = f"_and_{len(runs) - 1}_more" if len(runs) > 1 else ""
    path = options.output or config.visualizations / f"{runs[0].name}{more}.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {path}: the page is an .html file")
    report(
        runs, path, datasets=options.dataset, images=options.images, examples=options.examples,
        samples=options.samples, seed=options.seed, workers=options.workers,
        names=options.label,
    )  # fmt: skip
    shell.name_outputs([path, path.with_name(f"{path.stem}_figures")])


if __name__ == "__main__":
    shell.run_command(main)
