"""How well do runs do on sets of images?

python -m analysis.evaluate latest --dataset pathfinder_14
python -m analysis.evaluate RUN RUN --dataset pathfinder_6 pathfinder_9 pathfinder_18 --images 10000
python -m analysis.evaluate RUN --dataset pathfinder_14 pathfinder_18 --timesteps 8 9 10

A set is ``pathfinder_<length>`` (generated anew, any length), ``own`` (generated anew, like those
that the run trained on), a data set or stream by name (its validation fold), a .tfrecords file, or
a folder of images in any of the three layouts.
"""

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis import statistics
from analysis.image_sets import marker_distance, open_images, title, titles
from analysis.probing import altered, check_answers, hidden_generators, hidden_seed, timesteps
from analysis.trained import TrainedRun, load_runs
from config import Config
from dataset_processing import contour_length
from dataset_processing.augmentations import Augmentations
from dataset_processing.folds import times
from dataset_processing.loader import ON_BAD_RECORD, Loader, workers_kept
from layers.shares import shared_images
from support import shell
from support.errors import UserError
from support.files import read_arrays, write_arrays, write_csv, write_json
from support.progress import Progress
from support.tables import text_table
from training.provenance import options_of
from training.step import GraphedForward
from training.weights import fingerprint as weights_fingerprint

IMAGES = 10_000
WORKERS = 8
DISTANCE_BIN = 20  # pixels
NAMES = ("weights", "step")  # what was asked for, by whatever name; not what the answers depend on
LABELS = {0: "two contours", 1: "one contour"}
INTERVALS = {"wilson": "Wilson, 95%", "exact": "Clopper–Pearson, 95%"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is to be evaluated."""

    run: TrainedRun
    dataset: str  # a set (see analysis.image_sets.open_images)
    images: int = IMAGES  # at most; generated sets have just as many
    seed: int = 0  # of generated images, of the choice among more, of the hidden state
    fold: str = "val"  # or 'train', of a data set or stream
    lesion: Sequence[str] = ()  # letters held at 0
    timesteps: int | None = None  # of the circuit; None: the run's own
    on_bad_record: str = "error"  # what to do with a corrupt record; 'skip' leaves it out

    @cached_property
    def data(self) -> Any:
        among = self.images, self.seed, self.fold, self.on_bad_record
        return open_images(self.dataset, self.run.config, self.run.params, *among)

    @cached_property
    def about(self) -> Row:
        """What the numbers depend on."""
        run = self.run
        found = {
            "weights_fingerprint": weights_fingerprint(run.network),
            "network": options_of(run.network),
            "code": run.code,
            "input_size": list(run.image_size),
            "val_augmentations": list(run.params["val_augmentations"]),
            "model_name": run.model_name,
            "weights": run.weights,
            "step": run.step,
            "set": self.data.fingerprint(),
            "set_described": self.data.describe(),
            "fold": self.fold,
            "images_at_most": self.images,
            "seed": self.seed,
            "lesion": sorted(set(self.lesion)),
            "timesteps": self.timesteps or timesteps(run.network),
            "batch_size": int(run.params["batch_size"]),
            "device": run.device.type,
            "torch": torch.__version__,
        }
        skip = {"on_bad_record": self.on_bad_record} if self.on_bad_record != "error" else {}
        return found | skip

    def answers(self, workers: int | None) -> "Evaluation":
        """What the network says to them (see :func:`evaluate`).

        Images are taken in a random order that the seed fixes, in batches of the run's
        ``batch_size``: a circuit that normalises by the batch at hand, and the random hidden state,
        depend on it. The same arguments therefore give the same numbers, and two runs see the same
        images.
        """
        run, data, about, seed = self.run, self.data, self.about, self.seed
        count = min(self.images, len(data))
        if workers is None:
            workers = (
                0 if run.device.type == "cpu" else min(WORKERS, len(os.sched_getaffinity(0)) // 2)
            )
        size = min(int(run.params["batch_size"]), len(data))
        bad = self.on_bad_record
        loader = Loader(data, size, seed, True, workers, run.device, on_bad_record=bad)
        augment = Augmentations(run.params["val_augmentations"], [*run.image_size, 1])
        generator = torch.Generator(run.device).manual_seed(seed)
        rows: list[tuple[np.ndarray, ...]] = []
        began, name = time.perf_counter(), f"{run.name} on {title(self.dataset, self.fold)}"
        with (
            workers_kept(),
            torch.no_grad(),
            hidden_seed(run.network, seed),
            altered(run.network, self.lesion, self.timesteps),
            shared_images(run.network, loader.batch_size),
            Progress(total=count, unit="image", desc=name) as bar,
        ):
            forward = GraphedForward(run.network, hidden_generators(run.network))
            for batch in loader.batches(0):
                n = min(len(batch.labels), count - bar.n)
                if n:
                    logits, _ = forward(augment(batch.images, generator))
                    distances = marker_distance(batch.images[:n])
                    tensors = (batch.records[:n], batch.labels[:n].cpu(), logits[:n].float().cpu())
                    rows.append((*(tensor.numpy() for tensor in tensors), distances))
                    bar.update(n)
                if bar.n >= count:
                    break
        if not rows:
            raise UserError(f"none of the images of {title(self.dataset)} could be read")
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        about = {**about, "seconds": round(time.perf_counter() - began, 2)}
        record, label, logits, distance = (column[order] for column in columns)
        return Evaluation(run.name, self.dataset, record, label, logits, distance, about)


@dataclass
class Evaluation:
    """A network's answers to a set of images; a row an image, ordered by number. UserError where
    they are not finite."""

    run: str  # the run's name
    dataset: str  # the set's name
    record: np.ndarray  # (n,) the images' numbers in the set
    label: np.ndarray  # (n,) 0 or 1
    logits: np.ndarray  # (n, 2) float32
    distance: np.ndarray  # (n,) between the markers, pixels of the stimulus; NaN: not found
    about: dict[str, Any]  # what was evaluated: weights, step, lesions, timesteps, seed …
    kept: bool = False  # whether these answers were computed before, and read now
    interval: str = field(default="wilson", init=False)  # of accuracies, one of INTERVALS

    def __post_init__(self) -> None:
        steps = self.about.get("timesteps")
        after = f", {steps} steps" if steps else ""
        check_answers(self.logits, f"{self.run} on {self.title}{after}")

    @property
    def title(self) -> str:
        """The set's name for tables."""
        return title(self.dataset, self.about.get("fold", "val"))

    @property
    def correct(self) -> np.ndarray:
        """(n,) whether the larger logit is the label's."""
        return self.logits.argmax(1) == self.label

    @property
    def margin(self) -> np.ndarray:
        """(n,) logit of label 1 minus that of label 0."""
        return self.logits[:, 1].astype(np.float64) - self.logits[:, 0]

    @property
    def auc(self) -> float:
        """Area under the ROC curve, 0–1."""
        return statistics.area_under_curve(self.margin, self.label)

    @property
    def loss(self) -> float:
        """Mean softmax cross-entropy, in nats."""
        signed = np.where(self.label == 1, self.margin, -self.margin)
        return float(np.logaddexp(0, -signed).mean())

    def accuracy(self, chosen: np.ndarray | slice = slice(None)) -> Row:
        """Images, accuracy and its interval; of all images or those chosen, (n,) bool."""
        right = self.correct[chosen]
        return statistics.accuracy(int(right.sum()), len(right), self.interval)

    def confusion(self) -> list[list[int]]:
        """Numbers of images: row the label, column the answer."""
        cells = np.bincount(2 * self.label + self.logits.argmax(1), minlength=4)
        return cells.reshape(2, 2).tolist()

    def by_property(self) -> list[Row]:
        """Accuracy by label, and by distance between the markers within each label; images without
        two markers are a row of their own."""
        bins = np.floor(self.distance / DISTANCE_BIN)
        rows = []
        for label, name in LABELS.items():
            parts = {"all": self.label == label}
            for number in np.unique(bins[parts["all"]]):  # not a number: once, last
                low = number * DISTANCE_BIN
                known = math.isfinite(number)
                span = f"{low:.0f}–{low + DISTANCE_BIN:.0f} px" if known else "unknown"
                parts[span] = parts["all"] & (bins == number if known else np.isnan(bins))
            for span, chosen in parts.items():
                rows.append({"label": name, "distance": span, **self.accuracy(chosen)})
        return rows

    def tables(self) -> tuple[list[Row], list[Row]]:
        """For reading: images by label and answer, and accuracy by label and distance."""
        confusion = [
            {"label": LABELS[r], **{f"answer: {LABELS[c]}": counts[c] for c in LABELS}}
            for r, counts in enumerate(self.confusion())
        ]
        parts = [
            {"label": row["label"], "marker distance": row["distance"]}
            | {"images": row["images"], "accuracy (95%)": percent(row)}
            for row in self.by_property()
        ]
        return confusion, parts

    def summary(self) -> Row:
        return {
            "run": self.run,
            "dataset": self.dataset,
            **self.accuracy(),
            "interval": INTERVALS[self.interval],
            "loss": self.loss,
            "auc": self.auc,
            "confusion": self.confusion(),
            "by_property": self.by_property(),
            **self.about,
        }


def evaluate(
    run: TrainedRun, dataset: str, images: int = IMAGES, workers: int | None = None, **asked: Any
) -> Evaluation:
    """A run's answers to a set of images; UserError where none could be read, or the answers are
    not finite.

    Args:
        dataset, images, asked: see :class:`Asked`.
        workers: processes that load; None: none on a CPU, half of the cores beside a GPU.
    """
    return Asked(run, dataset, images, **asked).answers(workers)


def evaluated(
    run: TrainedRun,
    dataset: str,
    images: int = IMAGES,
    *,
    workers: int | None = None,
    again: bool = False,
    resize: bool = True,
    **asked: Any,
) -> tuple[Evaluation, Path]:
    """As :func:`evaluate`, kept under ``condition_evaluations``: what is there is not done again.

    What is kept is known by the weights, the circuit, the code, the input size, the preprocessing
    and the images, whatever the run and its step are called.

    Args:
        again: compute it anew, and keep that.
        resize: whether images of another size than those that the run was trained on may be
            resized (by the run's own preprocessing), with a warning; else they are a UserError.

    Returns:
        The evaluation, and the ``.npz`` file of its answers, beside the ``.json`` of its numbers.
    """
    how = Asked(run, dataset, images, **asked)
    if how.data.im_size != run.stimulus_size:
        text = (
            f"{title(dataset)}: the images are {times(how.data.im_size)} pixels (height × width), "
            f"the run takes {times(run.stimulus_size)}"
        )
        if not resize:
            raise UserError(f"{text}; --resize resizes them")
        warnings.warn(f"{text}: they are resized", stacklevel=2)
    wanted = how.about
    known_by = [dataset, {k: v for k, v in wanted.items() if k not in NAMES}]
    key = hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:8]
    words = [title(dataset), f"step{run.step}", *condition(how.lesion, how.timesteps), key]
    path = run.config.condition_evaluations / run.name / f"{'_'.join(words)}.npz"
    if path.exists() and not again:
        arrays = read_arrays(path)
        about = json.loads(str(arrays.pop("about"))) | {key: wanted[key] for key in NAMES}
        if {**wanted, "seconds": about.get("seconds")} == about:
            return Evaluation(run.name, dataset, **arrays, about=about, kept=True), path
    found = how.answers(workers)
    arrays = {key: getattr(found, key) for key in ("record", "label", "logits", "distance")}
    write_arrays(path, {**arrays, "about": np.array(json.dumps(found.about))})
    write_json(path.with_suffix(".json"), found.summary())
    return found, path


def condition(lesion: Sequence[str], timesteps: int | None) -> list[str]:
    """Words for a file's name: the letters at 0, and the steps where others are asked for."""
    words = [f"lesion_{letter}" for letter in sorted(set(lesion))]
    return words + ([f"T{timesteps}"] if timesteps else [])


def percent(row: Mapping[str, Any]) -> str:
    """``97.4% (97.1–97.7)`` of a row with accuracy, low and high."""
    if not row["images"]:
        return "–"
    return f"{100 * row['accuracy']:.1f}% ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def table(found: Sequence[Evaluation]) -> list[Row]:
    """A row for each evaluation, for reading."""
    sets = titles(one.dataset for one in found)
    return [
        {
            "run": one.run,
            "step": one.about["step"],
            "set": title(sets[one.dataset], one.about["fold"]),
            "length": contour_length(title(one.dataset)) or "–",
            "lesion": " ".join(one.about["lesion"]) or "–",
            "T": one.about["timesteps"] or "–",
            "images": len(one.record),
            "accuracy (95%)": percent(one.accuracy()),
            "loss": f"{one.loss:.4f}",
            "AUC": f"{one.auc:.4f}",
            "computed": "before (kept)" if one.kept else "now",
        }
        for one in found
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("evaluate", __doc__)
    parse.add_run()
    parse.add_argument(
        "--dataset", nargs="+", metavar="NAME",
        help="pathfinder_<length> or own (generated anew), a data set or stream, a .tfrecords file "
        "or a folder of images; default: what the run validated on",
    )  # fmt: skip
    parse.add_argument("--fold", choices=("val", "train"), default="val", help="of a data set")
    parse.add_images(IMAGES)
    parse.add_circuit(several=True)
    parse.add_argument("--exact", action="store_true", help="Clopper–Pearson's intervals")
    parse.add_argument("--again", action="store_true", help="compute anew what was kept")
    parse.add_argument("--resize", action="store_true", help="resize images of another size")
    parse.add_argument(
        "--on-bad-record", choices=ON_BAD_RECORD, default="error",
        help="what to do with a corrupt record: stop, or leave it out and say so",
    )  # fmt: skip
    parse.add_device()
    options = parse.parse_args(arguments)
    asked = {one.name: getattr(options, one.name) for one in fields(Asked)[2:]}
    asked |= {key: getattr(options, key) for key in ("workers", "again", "resize")}
    found, paths = [], []
    for run in load_runs(options):
        sets = options.dataset or [run.validated_on]
        for name, steps in product(sets, options.timesteps or [None]):
            one, path = evaluated(run, name, **asked | {"timesteps": steps})
            one.interval = "exact" if options.exact else "wilson"
            found.append(one)
            paths += [path, path.with_suffix(".json")]
    shown = table(found)
    print(text_table(shown))
    for one, row in zip(found, shown, strict=True):
        how = f"step{one.about['step']}", *condition(one.about["lesion"], one.about["timesteps"])
        print(f"\n{one.run} on {row['set']}: {' '.join(how)}")
        print(*map(text_table, one.tables()), sep="\n")
    rows = [
        {k: v for k, v in one.summary().items() if not isinstance(v, list | dict)}
        | {"lesion": " ".join(one.about["lesion"])}
        for one in found
    ]
    file = Config().condition_evaluations / f"evaluation_{time.strftime('%Y-%m-%d_%H-%M-%S')}.csv"
    print()
    shell.name_outputs([*paths, write_csv(file, rows)])


if __name__ == "__main__":
    shell.run_command(main)
