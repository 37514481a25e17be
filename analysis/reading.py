"""After how many steps does a network read contours of which length?

python -m analysis.reading RUN
python -m analysis.reading RUN RUN --lengths 12-20 24 --timesteps 16 --images 320
python -m analysis.reading RUN --along 20

A map for each run: the area under the ROC curve for contours of each length (rows), were the
network read after each step (columns). Red, 1: label 1 is told from label 0. Blue, 0: told as well,
but each label is given for the other. White, 0.5: not told apart. One pass over the images tells of
all steps; those beyond the run's own take its last η. Dashed: the length and steps of its training.

With --along, instead: the difference of the readout's two maps (label 1 minus label 0) along the
contour that begins at a disc, paddle by paddle and step by step, mean over images of each label.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import curves, probing, statistics
from analysis.evaluate import LABELS
from analysis.figures import add_label, names_apart
from analysis.image_sets import own_settings
from analysis.predict import prepare_images
from analysis.style import CHANCE, PAGE, SIGNED, new_figure, panel_titles, save, style
from analysis.trained import TrainedRun, load_runs
from config import Config
from dataset_processing import contour_length
from dataset_processing.augmentations import Augmentations
from dataset_processing.folds import GeneratedFold
from dataset_processing.pathfinder import Settings
from support import shell
from support.errors import UserError
from support.files import write_csv
from support.progress import Progress
from support.tables import text_table

LENGTHS = range(6, 27)
IMAGES = 200
MORE_STEPS = 6  # than the run's own
MOVING = {"random_crop", "center_crop", "rotate", "left_right", "up_down"}  # augmentations
Row = dict[str, Any]


def read(
    run: TrainedRun, lengths: Sequence[int], timesteps: int, images: int = IMAGES, seed: int = 0
) -> list[Row]:
    """How a run's network tells the labels of contours of these lengths apart, after each step.

    Args:
        lengths: paddles in a contour; the images are else as the run's own, where it trained on
            generated ones, and of the release's settings where not.
        timesteps: the last step, at least 1.
        images: of each length; the same for all runs, and none that a stream trains on.
        seed: of images and of the hidden state.

    Returns:
        A row for each length and step: run, length, steps, auc (0–1), and images, accuracy, low,
        high (Wilson's 95% interval).

    Raises:
        UserError: the network has no circuit, or cannot run so many steps; its answers are not
            finite; images cannot be made.
    """
    rows, size = [], int(run.params["batch_size"])
    with (
        probing.steps(run.network, timesteps),
        Progress(total=images * len(lengths), unit="image", desc=run.name) as bar,
    ):
        for length in lengths:
            fold = images_of(run, length, images, seed)
            logits, labels = [], []
            for start in range(0, images, size):
                part = fold.__getitems__(range(start, min(start + size, images)))
                given = prepare_images(run, np.stack([image for image, _ in part]), seed)
                logits.append(probing.answers(run.network, given, seed).double().cpu().numpy())
                labels += [label for _, label in part]
                bar.update(len(part))
            label = np.array(labels)
            for step, answer in enumerate(np.concatenate(logits, axis=1), start=1):
                probing.check_answers(answer, f"{run.name}, contours of {length}, step {step}")
                right = int((answer.argmax(1) == label).sum())
                area = statistics.area_under_curve(answer[:, 1] - answer[:, 0], label)
                row = {"run": run.name, "length": length, "steps": step, "auc": area}
                rows.append(row | statistics.accuracy(right, images))
    return rows


def images_of(run: TrainedRun, length: int, images: int, seed: int) -> GeneratedFold:
    """Images of contours of this length, else as the run's own."""
    own = own_settings(run.params, run.config) or Settings()
    settings = replace(own, contour_length=length)
    return GeneratedFold(f"pathfinder_{length}", "test", settings, seed, images)


def best(rows: Sequence[Row]) -> list[Row]:
    """For reading: of each length the step at which its labels are told apart best, either way."""
    told = []
    for length in dict.fromkeys(row["length"] for row in rows):
        of = [row for row in rows if row["length"] == length]
        one = max(of, key=lambda row: abs(row["auc"] - 0.5))
        told.append({key: one[key] for key in ("run", "length", "steps")})
        told[-1] |= {"AUC": f"{one['auc']:.3f}", "accuracy": f"{one['accuracy']:.1%}"}
    return told


@style()
def reading_figure(found: Sequence[tuple[TrainedRun, list[Row]]], names: Sequence[str]) -> Figure:
    """A map of the area under the ROC curve for each run: lengths by steps."""
    lengths = list(dict.fromkeys(row["length"] for row in found[0][1]))
    titles, more = panel_titles(names, len(found))
    figure = new_figure(PAGE, max(2.4, 1.0 + 0.13 * len(lengths)) + more)
    columns = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, name, (run, rows) in zip(columns, titles, found, strict=True):
        areas = np.reshape([row["auc"] for row in rows], (len(lengths), -1))
        corners = 0.5, areas.shape[1] + 0.5, -0.5, len(lengths) - 0.5
        how: Any = {"vmin": 0, "vmax": 1, "origin": "lower", "extent": corners, "aspect": "auto"}
        shown = axes.imshow(areas, cmap=SIGNED, **how)
        if (steps := probing.timesteps(run.network) or 0) <= areas.shape[1]:
            axes.axvline(steps, **CHANCE)
        if (own := contour_length(str(run.params["dataset"]))) in lengths:
            axes.axhline(lengths.index(own), **CHANCE)
        axes.set(title=name, xlabel="steps")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    columns[0].set_yticks(range(len(lengths)), list(map(str, lengths)), fontsize=6)
    columns[0].set_ylabel("paddles in a contour")
    figure.colorbar(shown, ax=list(columns), label="area under ROC curve", fraction=0.05, pad=0.01)
    return figure


@torch.no_grad()
def along(
    run: TrainedRun, length: int, timesteps: int, images: int = IMAGES, seed: int = 0
) -> np.ndarray:
    """What the readout finds along contours, at the middles of their paddles, one image at a time.

    Args:
        length, timesteps, images, seed: as of :func:`read`, one length.

    Returns:
        (2, timesteps, length) for label 0 and 1: the readout's map for label 1 minus that for
        label 0, mean over the images. Paddles are counted from the first disc; on the last one
        sits the other disc (label 1) or none (label 0).

    Raises:
        UserError: as of :func:`read`; the network is not given the whole image; or the images are
            all of one label.
    """
    applied = Augmentations(run.params["val_augmentations"], run.image_size).names
    if moving := [name for name in applied if name in MOVING]:
        raise UserError(f"{run.name}: --along needs whole images, not {', '.join(moving)}")
    whole: Any = run.network
    if not (hasattr(whole, "norm") and hasattr(getattr(whole, "readout", None), "evidence")):
        raise UserError(
            f"{run.name}: --along needs a network whose H2 is read by norm and readout, as that of "
            f"the scripts; {type(whole).__name__} has others"
        )
    fold, found = images_of(run, length, images, seed), np.empty((images, timesteps, length))
    scale = (np.array(run.image_size) - 1) / (np.array(fold.im_size) - 1)
    labels = np.empty(images, int)
    with (
        probing.steps(run.network, timesteps),
        Progress(total=images, unit="image", desc=run.name) as bar,
    ):
        for number in range(images):
            stimulus = fold.stimulus(number)
            given = prepare_images(run, stimulus.image[None], seed)
            hidden = probing.record(run.network, given, ["H2"], seed)["H2"]
            activity = torch.cat([whole.norm(state) for state in hidden])
            evidence = F.conv2d(activity, whole.readout.evidence).cpu().numpy()
            middles = stimulus.paddles[stimulus.marked_snakes[0]].mean(axis=1) * scale
            rows, columns = middles.round().astype(int).T
            found[number] = evidence[:, 1, rows, columns] - evidence[:, 0, rows, columns]
            labels[number] = stimulus.label
            bar.update()
    for step in range(timesteps):
        where = f"{run.name}, contours of {length}, step {step + 1}"
        probing.check_finite(found[:, step], where)
    if len(set(labels)) < 2:
        raise UserError(f"all {images} images are of label {labels[0]}; ask for more --images")
    return np.stack([found[labels == label].mean(axis=0) for label in (0, 1)])


@style()
def along_figure(found: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """Steps by paddles, a row a run: two contours, one contour."""
    titles, more = panel_titles([f"{name}: {LABELS[n]}" for name in names for n in (0, 1)], 2)
    figure = new_figure(PAGE, 0.7 + (1.9 + more) * len(found))
    grid = figure.subplots(len(found), 2, squeeze=False, sharex=True)
    for row, told, means in zip(grid, np.reshape(titles, (-1, 2)), found, strict=True):
        most = float(np.percentile(np.abs(means), 98)) or 1.0
        steps, length = means.shape[1:]
        corners = 0.5, length + 0.5, 0.5, steps + 0.5
        how: Any = {"vmin": -most, "vmax": most, "extent": corners, "aspect": "auto"}
        for axes, text, mean in zip(row, told, means, strict=True):
            shown = axes.imshow(mean, cmap=SIGNED, origin="lower", **how)
            axes.set_title(text)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_ylabel("steps")
        figure.colorbar(shown, ax=list(row), label="map 1 − map 0", extend="both", pad=0.01)
    for axes in grid[-1]:
        axes.set_xlabel("paddle, counted from a disc")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure


def titles_of(runs: Sequence[TrainedRun], given: Sequence[str]) -> list[str]:
    """What the maps of runs are called: their labels (:func:`analysis.curves.labels`), with the
    seed where several have one label, and the run's name where the seed is one too."""
    found = curves.labels(runs, given)
    for more in ([f"seed {run.seed}" for run in runs], names_apart(runs)):
        pairs = zip(found, more, strict=True)
        found = [one if found.count(one) == 1 else f"{one}, {other}" for one, other in pairs]
    return found


def span(text: str) -> list[int]:
    """``12-20`` or ``24`` as whole numbers."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 2 <= first <= last:
        raise argparse.ArgumentTypeError(f"must be N or N-M, 2 ≤ N ≤ M, found {text!r}")
    return list(range(first, last + 1))


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("reading", __doc__)
    parse.add_run()
    parse.add_argument(
        "--lengths", nargs="+", type=span, default=[list(LENGTHS)], metavar="N",
        help=f"paddles in a contour: 14, or 12-20; default: {LENGTHS[0]}-{LENGTHS[-1]}",
    )  # fmt: skip
    parse.add_argument(
        "--timesteps", type=shell.whole(1),
        help="the last step; default: six more than the run's, where the circuit can run them",
    )  # fmt: skip
    parse.add_argument("--images", type=shell.whole(2), default=IMAGES, help="of each length")
    parse.add_argument("--seed", type=shell.whole(0), default=0, help="of images and hidden state")
    parse.add_argument(
        "--along", type=shell.whole(2), metavar="N", help="draw what is along contours of N paddles"
    )
    add_label(parse)
    parse.add_device()
    parse.add_output("folder of figure and table; default: plots of the project")
    options = parse.parse_args(arguments)
    runs = load_runs(options)
    names, apart = titles_of(runs, options.label), names_apart(runs)
    lengths = sorted({length for part in options.lengths for length in part})
    folder, stem = options.output or Config().plots, f"reading_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    steps = []
    for run in runs:
        own = probing.timesteps(run.network)
        if own is None:
            raise UserError(
                f"{run.name}: {run.model_name} has no circuit whose steps could be read, or several"
            )
        further = min(own + MORE_STEPS, probing.most_timesteps(run.network))
        steps.append(options.timesteps or further)
    how, each = (options.images, options.seed), list(zip(runs, steps, strict=True))
    if options.along:
        waves = [along(run, options.along, last, *how) for run, last in each]
        rows = [
            {"run": name, "label": label, "steps": step + 1, "paddle": paddle + 1}
            | {"difference": means[label, step, paddle]}
            for name, means in zip(apart, waves, strict=True)
            for label, step, paddle in np.ndindex(means.shape)
        ]
        figure = along_figure(waves, names)
    else:
        maps = [(run, read(run, lengths, last, *how)) for run, last in each]
        for name, (_, part) in zip(apart, maps, strict=True):
            for row in part:
                row["run"] = name
        rows = [row for _, part in maps for row in part]
        print(text_table([row for _, part in maps for row in best(part)]))
        figure = reading_figure(maps, names)
    table = write_csv(folder / f"{stem}.csv", rows)
    shell.name_outputs([*save(figure, folder / stem), table])


if __name__ == "__main__":
    shell.run_command(main)
