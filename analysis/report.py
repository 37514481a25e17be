"""One HTML page about a run, or several: settings, curves, evaluation, figures, versions.

python -m analysis.report latest
python -m analysis.report RUN RUN --dataset pathfinder_6 pathfinder_14 --images 10000

The page holds everything in one file and opens without a network.
"""

import shlex
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from analysis import comparison, curves, figures, page
from analysis.comparison import Member
from analysis.evaluate import LABELS, percent
from analysis.image_sets import title
from analysis.probing import SMOOTHGRAD_SAMPLES, SMOOTHGRAD_SPREAD
from analysis.style import save
from analysis.trained import TrainedRun, load_run, script_of
from config import Config
from support import shell
from support.files import write_text
from training.experiment import Experiment, plain

IMAGES = 2_000
CARDS = 8  # large numbers at the top, at most
CAPTIONS = {
    "gabors": "The 24 oriented filters and the disc where training starts (formula) and where it "
    "ended. Degrees: orientation of the preferred contour from the horizontal, counter-clockwise.",
    "kernels": "Row: the receiving channel, column: the sending one, both sorted by the "
    "orientation of their filter when training starts, the two phases side by side.",
    "association": "Above: mean connection to a unit that prefers a horizontal contour (black "
    "bar), by place and by the difference of the two units' orientations. Below: mean of the "
    "positive and of the negative part, by difference of orientation and distance.",
    "letters": "Greek letters by channel (blue circles and orange squares: the two phases; green "
    "triangle: the disc), η by step, and the gates: σ of their bias, and their mean on an image "
    "by step (band: 10th to 90th percentile over channels).",
    "activity": "Root mean square over the 25 channels at each of the steps, one scale a row; blue "
    "line: the contour that carries the first marker.",
    "gradients": f"SmoothGrad: mean gradient of the label's logit over noisy copies, noise of "
    f"{SMOOTHGRAD_SPREAD:g} of the image's range.",
}
ALTS = {
    "gabors": "Rows of small filter pictures before and after training, by orientation.",
    "kernels": "A mosaic of all horizontal kernels, orange for positive and blue for negative.",
    "association": "Seven maps of mean connection, two heat maps and a line plot by distance.",
    "letters": "Eight small plots of letters, scale and gates by channel or by step.",
    "activity": "A stimulus and the maps of H1 and H2 at every step.",
    "gradients": "Stimuli beside maps of the gradient and of its absolute value.",
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
    """
    members, _ = comparison.family(runs, datasets, images, seed, workers)
    drawn = path.with_name(f"{path.stem}_figures")
    sections = [("accuracy", "Accuracy", _accuracy(members))]
    if len(runs) > 1:
        sections.append(("comparison", "Comparison", _comparison(members, drawn)))
    if any(run.history.validation_step or run.history.train_loss for run in runs):
        sections.append(("curves", "Learning curves", _curves(runs, drawn)))
    for number, (member, run) in enumerate(zip(members, runs, strict=True)):
        files = figures.draw(
            run, [k for k in figures.KINDS if k != "curves"], drawn / run.name, dataset=examples,
            samples=samples, seed=seed,
        )  # fmt: skip
        heading = "What it learned" if len(runs) == 1 else f"What {_name(member)} learned"
        sections.append((f"learned-{number}", heading, _learned(files)))
    sections.append(("settings", "Settings", _settings(runs)))
    sections.append(("versions", "Versions", _versions(runs)))
    names = ", ".join(dict.fromkeys(m.model for m in members))
    write_text(path, page.page(f"{names}: report", _header(members, names), sections, _footer()))
    return path


def _header(members: Sequence[Member], names: str) -> str:
    first = members[0]
    run = first.run
    if len(members) == 1:
        lead = (
            f"{run.name}: trained on {title(first.trained_on)} from seed {run.seed}; weights of "
            f"step {run.step:,} ({run.weights})."
        )
    else:
        lead = f"{len(members)} runs: {', '.join(m.run.name for m in members)}."
    items = []
    for member in members:
        for name, evaluation in member.evaluations.items():
            accuracy = evaluation.accuracy()
            low, high = 100 * accuracy["low"], 100 * accuracy["high"]
            which = title(name) if len(members) == 1 else f"{_name(member)}, on {title(name)}"
            interval = f"{low:.1f}–{high:.1f}%, {accuracy['images']:,} images"
            items.append((f"accuracy, {which}", f"{100 * accuracy['accuracy']:.1f}%", interval))
    if len(members) == 1:
        batch = run.params["batch_size"]
        items.append(("trained parameters", f"{run.parameters:,}", run.model_name))
        items.append(("training images", f"{run.images_seen:,}", f"batches of {batch}"))
    heading = f"<h1>{escape(names)} on Pathfinder</h1>\n"
    return heading + page.paragraph(lead, "lead") + page.numbers(items[:CARDS])


def _name(member: Member) -> str:
    return f"{member.model}, seed {member.run.seed}"


def _accuracy(members: Sequence[Member]) -> str:
    """Every evaluation in a table; confusion and properties of each, folded."""
    rows, details = [], []
    for member in members:
        for name, one in member.evaluations.items():
            numbers = one.summary()
            rows.append(
                {
                    "run": _name(member),
                    "trained on": title(member.trained_on),
                    "tested on": title(name),
                    "images": f"{numbers['images']:,}",
                    "accuracy (95% interval)": percent(numbers),
                    "loss (nats)": f"{numbers['loss']:.4f}",
                    "AUC": f"{numbers['auc']:.4f}",
                }
            )
            confusion = [
                {"label": LABELS[r], **{f"answer: {LABELS[c]}": counts[c] for c in LABELS}}
                for r, counts in enumerate(numbers["confusion"])
            ]
            parts = [
                {
                    "label": row["label"], "marker distance": row["distance"],
                    "images": row["images"], "accuracy (95% interval)": percent(row),
                }
                for row in numbers["by_property"]
            ]  # fmt: skip
            details.append(
                page.folded(
                    f"{_name(member)} on {title(name)}: by label and marker distance",
                    page.table(confusion, "Images by label and answer")
                    + page.table(
                        parts, "Accuracy by label and distance between the markers (pixels)"
                    ),
                )
            )
    first = members[0].evaluations
    about = next(iter(first.values())).about
    return (
        page.paragraph(
            "Wilson's 95% intervals for the share of images answered rightly; the loss is the "
            f"mean cross-entropy. Images came in batches of {about['batch_size']}, chosen and "
            f"ordered by seed {about['seed']}."
        )
        + page.table(rows, "Accuracy, loss and area under the ROC curve")
        + "".join(details)
    )


def _comparison(members: Sequence[Member], drawn: Path) -> str:
    table = comparison.rows(members)
    shown = [
        {
            "model": row["model"],
            "trained on": title(row["trained_on"]),
            "tested on": title(row["tested_on"]),
            "seeds": row["seeds"],
            "parameters": f"{row['parameters']:,}",
            "accuracy (95% interval)": comparison.accuracy_text(row),
            "images to 90%": comparison.images_text(row),
        }
        for row in table
    ]
    models = list(dict.fromkeys(member.model for member in members))
    reference = "hgru" if "hgru" in models else models[0]
    tests = comparison.paired_tests(members, reference)
    path = save(comparison.comparison_figure(members), drawn / "comparison")[0]
    content = page.figure(
        path,
        "Accuracy of each model on each set, and the training images each needed to reach 90%.",
        "Left: accuracy and its 95% interval (Wilson's for one seed, Student's over seeds for "
        "several; dots: seeds). Right: training images at the first validation of 90% or more.",
    ) + page.table(shown, "Accuracy by model and set; the interval is over seeds where several")
    if tests:
        lines = [
            {
                "model − reference": f"{row['model']} − {row['reference']}",
                "tested on": title(row["tested_on"]),
                "seed": row["seed"],
                "images": f"{row['images']:,}",
                "difference (95% interval)": comparison.difference_text(row),
                "p (McNemar)": comparison.p_text(row["p"]),
                "p (Holm)": comparison.p_text(row["p_holm"]),
            }
            for row in tests
        ]
        content += page.table(
            lines, "Paired tests on the same images; difference of accuracies in percentage points"
        )
    return content


def _curves(runs: Sequence[TrainedRun], drawn: Path) -> str:
    path = save(curves.learning_curves(runs), drawn / "curves")[0]
    rows = []
    names = curves.labels(runs)
    for run, name in zip(runs, names, strict=True):
        history = run.history
        best = history.best()
        if best is None:
            continue
        needed = curves.images_to(history, int(run.params["batch_size"]))
        rows.append(
            {
                "run": f"{name}, seed {run.seed}",
                "training images": f"{run.images_seen:,}",
                f"last validation {run.metric}": f"{history.validation_metric[-1]:.4f}",
                f"best validation {run.metric}": f"{history.validation_metric[best]:.4f}",
                "at step": history.validation_step[best],
                "images to 90%": f"{needed:,}" if needed is not None else "not reached",
            }
        )
    content = page.figure(
        path,
        "Accuracy and loss of validation and training over training images.",
        "Thick: validation; thin: training, averaged over stretches. Runs that differ by their "
        "seed alone share a line (mean) and a band (lowest to highest).",
    )
    return content + (page.table(rows, "Validations while training") if rows else "")


def _learned(files: dict[str, list[Path]]) -> str:
    content = []
    for kind, paths in files.items():
        for path in paths:
            if path.suffix == ".png":
                content.append(page.figure(path, ALTS[kind], CAPTIONS[kind]))
            elif path.suffix == ".gif":
                moving = page.figure(
                    path,
                    "Animation: the stimulus beside H2, a frame a step.",
                    "H2 step by step, root mean square over channels.",
                    small=True,
                )
                content.append(page.folded("The same as an animation", moving))
    return "".join(content)


def _settings(runs: Sequence[TrainedRun]) -> str:
    """Parameters of each run; what differs from the script's own is marked."""
    columns = _column_names(runs)
    defaults = [
        Experiment.of(script_of(run.record).experiment_params()).as_dict() for run in runs
    ]
    keys = list(dict.fromkeys(key for run in runs for key in run.params))
    rows: list[dict[str, Any]] = []
    changed = set()
    for place, key in enumerate(keys):
        row = {"parameter": key}
        for column, run, default in zip(columns, runs, defaults, strict=True):
            value = plain(run.params.get(key))
            row[column] = _text(value)
            if value != default.get(key):
                changed.add((place, column))
        rows.append(row)
    seeds = {column: run.seed for column, run in zip(columns, runs, strict=True)}
    rows.append({"parameter": "seed", **seeds})
    return page.table(rows, "Parameters; marked: other than in the script as it stands", changed)


def _versions(runs: Sequence[TrainedRun]) -> str:
    columns = _column_names(runs)
    wanted = (
        "git_commit", "git_dirty", "torch", "python", "numpy", "cuda", "device", "processes",
        "system", "command",
    )  # fmt: skip
    rows = []
    for key in wanted:
        row = {"what": key}
        for column, run in zip(columns, runs, strict=True):
            value = (run.record.get("environment") or {}).get(key)
            row[column] = shlex.join(value) if key == "command" and value else _text(value)
        rows.append(row)
    data = {"what": "training data"}
    for column, run in zip(columns, runs, strict=True):
        found = (run.record.get("data") or {}).get("train") or {}
        data[column] = f"{found.get('description', '–')} (fingerprint {found.get('fingerprint')})"
    return page.table([*rows, data], "Code, machine and data of the training")


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


def _footer() -> str:
    now = time.strftime("%Y-%m-%d %H:%M")
    return (
        f"<p>Written on {now} by <code>python -m analysis.report</code>. Network and task: "
        "Linsley, Kim, Veerabadran, Windolf and Serre, “Learning long-range spatial dependencies "
        "with horizontal gated recurrent units”, NeurIPS 2018 (arXiv:1805.08315).</p>\n"
    )


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
        raise ValueError(f"--output {path}: the page is an .html file")
    report(
        runs, path, datasets=options.dataset, images=options.images, examples=options.examples,
        samples=options.samples, seed=options.seed, workers=options.workers,
    )  # fmt: skip
    shell.name_outputs([path, path.with_name(f"{path.stem}_figures")])


if __name__ == "__main__":
    shell.run_command(main)
