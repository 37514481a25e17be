"""Write the page of results from training runs: what was learned, how fast, what lesions cost.

python -m analysis.results RUN RUN RUN --out docs/results.md
python -m analysis.results RUN RUN --notes docs/results_notes.md --not-run "ff_5: no time for it"

Accuracies are those of a fixed number of validation images. Those that analysis.evaluate has kept
are taken, on whatever machine they were computed; what is missing is computed, which needs the
images. Models that were trained on one set for equally many images are compared, with paired tests
on the same images. The same runs give the same page; prose belongs into the file of --notes.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis import comparison, curves, origin
from analysis.comparison import Member
from analysis.evaluate import IMAGES, Evaluation, evaluated, kept, percent
from analysis.image_sets import title
from analysis.style import save
from analysis.sweep import ended
from analysis.trained import TrainedRun, load_run
from analysis.training_time import TrainingTime, training_time
from config import Config
from support import shell
from support.files import write_csv, write_text
from training.history import History
from training.weights import fingerprint

LEVELS = (0.9, 0.95)
PAGE = """# Results

{notes}Written by `python -m analysis.results` from what the runs recorded.

## What was reached

{reached}

Accuracy: share of the validation images, with Wilson's 95% interval. Images and time to a level: at
the first validation while training that reached it. Time is that of the updates, with their waiting
for images, and of the validations; pauses, starting up and writing checkpoints are not in it.
Images/s: over all updates. A run that began with trained weights counts its own images and time
alone, and says what those weights had seen.

## Learning curves

Their numbers: [{table}]({table}).

{curves}
{comparisons}## How to repeat it

{commands}
{not_run}"""


@dataclass(frozen=True)
class Result:
    """A run and what the page says of it.

    Attributes:
        run: the run; its history ends with its weights.
        dataset: what it validated on.
        evaluation: its answers to those images.
        time: how long it trained.
        began: where it began with trained weights: what those had seen.
    """

    run: TrainedRun
    dataset: str
    evaluation: Evaluation
    time: TrainingTime
    began: str = ""

    @property
    def trained_on(self) -> str:
        """The set that it was trained on, and how that was asked to differ from itself."""
        params = self.run.params
        different = [f"{k} {v}" for k, v in (params.get("stream_settings") or {}).items()]
        if params.get("model_input_image_size"):
            height, width, *_ = params["model_input_image_size"]
            different.append(f"resized to {height}×{width}")
        name = title(str(params["dataset"]))
        return f"{name} ({', '.join(different)})" if different else name

    @property
    def settings(self) -> str:
        """Settings other than the script's own that bear on what it learned."""
        told = {
            "model_input_image_size", "stream_settings", "initial_weights", curves.AMOUNT,
            *curves.BOOKKEEPING,
        }  # fmt: skip
        named = origin.overrides(self.run.record)
        return ", ".join(text for key, text in named.items() if key not in told)


def result(
    run: TrainedRun, images: int = IMAGES, seed: int = 0, workers: int | None = None
) -> Result:
    """Gather what a run recorded, and evaluate it where no evaluation was kept.

    Args:
        run: the run.
        images, seed, workers: see :func:`analysis.evaluate.evaluate`.

    Raises:
        ValueError: it is a file of weights, its metric is not accuracy, or the images here are
            not those that it validated on.
        FileNotFoundError: its log or results are missing, or the images to evaluate it on.
    """
    if run.files is None:
        raise ValueError(f"{run.name} is a file of weights: results need the run's log and history")
    if run.metric != "accuracy":
        raise ValueError(f"{run.name}: score_metric must be accuracy, found {run.metric!r}")
    if not run.files.results.exists():
        raise FileNotFoundError(f"{run.files.results} is missing: copy it with the run")
    dataset = str(run.params.get("val_dataset") or run.params["dataset"])
    validated = ((run.record.get("data") or {}).get("validation") or {}).get("fingerprint")
    evaluation, _ = kept(run, dataset, images, seed=seed, fingerprint=validated) or evaluated(
        run, dataset, images, seed=seed, workers=workers
    )
    here = evaluation.about["set"]
    if validated not in (None, here):
        raise ValueError(
            f"{run.name} validated on other images of {dataset} than those here: fingerprint "
            f"{validated} there, {here} here; evaluate it where it was trained"
        )
    time = training_time(run.files, run.record)
    return Result(replace(run, history=until(run.history, run.step)), dataset, evaluation, time)


def until(history: History, step: int) -> History:
    """A history up to a step."""
    validations = sum(at <= step for at in history.validation_step)
    ends = {name: validations if name.startswith("validation") else step for name in vars(history)}
    return History(**{name: getattr(history, name)[:end] for name, end in ends.items()})


def with_beginnings(results: Sequence[Result]) -> list[Result]:
    """The same, with what their initial weights had seen where these are the weights of another."""
    by_weights = {fingerprint(one.run.network): one for one in results}

    def began(one: Result) -> str:
        initial = one.run.record.get("initial_weights")
        if initial is None:
            return ""
        first = by_weights.get(initial)
        if first is None or first is one:
            return "after trained weights"
        seen = f"after {first.run.images_seen:,} of {first.trained_on}"
        return f"{seen}, {began(first)}" if began(first) else seen

    return [replace(one, began=began(one)) for one in results]


def reached_row(one: Result) -> dict[str, str]:
    """A run's row of the first table: accuracy, images and time needed, speed, device."""
    run, batch = one.run, int(one.run.params["batch_size"])
    accuracy = one.evaluation.accuracy()
    needed = [curves.images_to(run.history, batch, level) for level in LEVELS]
    left = "" if run.weights != "last" or (run.files and ended(run.files)) else ", not complete"
    rate = one.time.images_per_second
    row = {
        "script": origin.script(run.record),
        "settings": one.settings or "its own",
        "trained on": one.trained_on,
        "seed": str(run.seed),
        "training images": f"{run.images_seen:,}{left}{one.began and f', {one.began}'}",
        "accuracy (95%)": percent(accuracy),
        "validation images": f"{accuracy['images']:,}",
    }
    words = {None: "not reached", 0: "at its start"}
    for level, images in zip(LEVELS, needed, strict=True):
        row[f"images to {level:.0%}"] = words.get(images) or f"{images:,}"
    for level, images in zip(LEVELS, needed, strict=True):
        seconds = one.time.until(images // batch) if images else None
        row[f"time to {level:.0%}"] = words.get(images) or duration(seconds)
    return row | {
        "time in all": duration(one.time.until(run.step)),
        "images/s": "–" if rate is None else f"{rate:,.0f}",
        "device": origin.devices(run.record, run.step) or "–",
    }


def command_row(one: Result) -> dict[str, str]:
    """A run's row of the last table: what repeats it."""
    run = one.run
    return {
        "run": run.name,
        "seed": str(run.seed),
        "commit": origin.commits(run.record, run.step) or "–",
        "command": f"`{origin.command(run.record)}`",
    }


def duration(seconds: float | None) -> str:
    """``35 s``, ``12.5 min``, ``3 h 05 min``; ``–`` where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 59.95 * 60:
        return f"{seconds / 60:.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def comparable(results: Sequence[Result]) -> dict[int, list[Member]]:
    """Runs of several models that were trained on one set for equally many images, and saw the same
    validation images; by that number of training images. Initial weights had seen equally many.
    """
    groups: dict[tuple[int, str, str, str], list[Result]] = {}
    for one in results:
        seen = one.evaluation.about["set"]
        key = (one.run.images_seen, one.trained_on, str(seen), one.began)
        groups.setdefault(key, []).append(one)
    found: dict[int, list[Result]] = {}
    for (images, *_), group in groups.items():
        if len({one.run.model_name for one in group}) > 1:
            found.setdefault(images, []).extend(group)
    return {images: _members(group) for images, group in sorted(found.items())}


def _members(results: Sequence[Result]) -> list[Member]:
    runs = [one.run for one in results]
    names = curves.labels(runs, with_dataset=False, without=("initial_weights",))
    return [
        Member(one.run, name, {one.dataset: one.evaluation})
        for one, name in zip(results, names, strict=True)
    ]


def write_page(
    results: Sequence[Result], path: Path, notes: str = "", not_run: Sequence[str] = ()
) -> list[Path]:
    """Write the page, and beside it the learning curves as ``<page>_curves.csv`` and the figures as
    PNG in ``figures/``.

    Args:
        results: of the runs, at least one, in the order of the rows.
        path: the page, Markdown.
        notes: Markdown that stands below the title.
        not_run: lines of the section of what was not run; without any there is no such section.

    Returns:
        The files: the page, the table of the learning curves, then the figures.
    """
    table = write_csv(
        path.with_name(f"{path.stem}_curves.csv"), [row for one in results for row in curve(one)]
    )
    curves_text, figures = _curves(results, path)
    comparisons, more = _comparisons(results, path)
    lines = "\n".join(f"- {line}" for line in not_run)
    text = PAGE.format(
        notes=f"{notes.strip()}\n\n" if notes.strip() else "",
        reached=markdown_table([reached_row(one) for one in results]),
        table=table.name,
        curves=curves_text,
        comparisons=comparisons,
        commands=markdown_table([command_row(one) for one in results]),
        not_run=f"\n## Not run\n\n{lines}\n" if lines else "",
    )
    return [write_text(path, text), table, *figures, *more]


def curve(one: Result) -> list[dict[str, Any]]:
    """A run's learning curve: a row for each validation.

    Training loss and accuracy are means over the updates since the validation before, and empty at
    the first; losses are in nats.
    """
    history, batch, rows, before = one.run.history, int(one.run.params["batch_size"]), [], 0
    for step, loss, accuracy in zip(
        history.validation_step, history.validation_loss, history.validation_metric, strict=True
    ):
        seconds = one.time.until(step)
        row: dict[str, Any] = {
            "run": one.run.name, "training_images": step * batch,
            "seconds": "" if seconds is None else f"{seconds:.1f}",
            "training_loss": "", "training_accuracy": "",
            "validation_loss": f"{loss:.5f}", "validation_accuracy": f"{accuracy:.5f}",
        }  # fmt: skip
        if step > before:
            row["training_loss"] = f"{np.mean(history.train_loss[before:step]):.5f}"
            row["training_accuracy"] = f"{np.mean(history.train_metric[before:step]):.5f}"
        rows.append(row)
        before = step
    return rows


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of the same keys as a Markdown table."""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells
    )


def _curves(results: Sequence[Result], page: Path) -> tuple[str, list[Path]]:
    """A figure of learning curves for each set that was trained on, as Markdown; its files."""
    text, paths = [], []
    for name in dict.fromkeys(one.trained_on for one in results):
        runs = [one.run for one in results if one.trained_on == name]
        file = re.sub(r"\W+", "_", name).strip("_")
        path = _figure(curves.learning_curves(runs), page, f"curves_{file}")
        text.append(f"![Learning curves on {name}]({_link(path, page)})\n")
        text.append(
            f"*Trained on {name}. Thick: validation, thin: training. Runs that differ by "
            "their seed alone share a line, their mean, and a band from lowest to highest.*\n"
        )
        paths.append(path)
    return "\n".join(text), paths


def _comparisons(results: Sequence[Result], page: Path) -> tuple[str, list[Path]]:
    """A section for each number of training images at which models can be compared; its figures."""
    text, paths = [], []
    for images, members in comparable(results).items():
        models = list(dict.fromkeys(member.model for member in members))
        reference = "hgru" if "hgru" in models else models[0]
        tables = comparison.markdown(
            comparison.rows(members), comparison.paired_tests(members, reference)
        )
        path = _figure(comparison.comparison_figure(members), page, f"comparison_{images}")
        names = {member.run.name for member in members}
        beginnings = {
            f"Training on {one.trained_on} came {one.began}, with the same network.\n"
            for one in results if one.run.name in names and one.began
        }  # fmt: skip
        text.append(
            f"## Models side by side, {images:,} training images\n\n"
            f"![Accuracy by model and data set]({_link(path, page)})\n\n"
            "Interval of one seed: Wilson's; of several: Student's, of their mean.\n"
            f"{''.join(sorted(beginnings))}\n"
            f"{tables}\n"
        )
        paths.append(path)
    return "".join(text), paths


def _figure(figure: Any, page: Path, name: str) -> Path:
    return save(figure, page.parent / "figures" / f"{page.stem}_{name}", ("png",))[0]


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("results", __doc__)
    parse.add_run()
    parse.add_argument(
        "--out", type=Path, default=Path("docs/results.md"), metavar="FILE", help="the page, .md"
    )
    parse.add_argument(
        "--notes", type=Path, metavar="FILE", help="Markdown that is placed below the title"
    )
    parse.add_argument(
        "--not-run", action="append", default=[], metavar="TEXT",
        help="a line of what was not run, and why; may be repeated",
    )  # fmt: skip
    parse.add_images(IMAGES)
    parse.add_device()
    options = parse.parse_args(arguments)
    notes = _notes(options.out, options.notes)
    config = Config()
    runs = [load_run(which, options.weights, options.device, config) for which in options.runs]
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"given twice: {', '.join(twice)}; a run has one row")
    results = with_beginnings(
        [result(run, options.images, options.seed, options.workers) for run in runs]
    )
    shell.name_outputs(write_page(results, options.out, notes, options.not_run))


def _notes(page: Path, notes: Path | None) -> str:
    """The text of the notes, once it is clear that the page will not take their place."""
    if page.suffix != ".md":
        raise ValueError(f"--out {page}: the page is an .md file")
    if notes is None:
        return ""
    if notes.resolve() == page.resolve():
        raise ValueError(f"--notes {notes} is the page itself; keep the prose in a file of its own")
    if not notes.is_file():
        raise FileNotFoundError(f"--notes {notes}: no such file")
    return notes.read_text(encoding="utf-8")


if __name__ == "__main__":
    shell.run_command(main)
