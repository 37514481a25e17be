"""How well do runs do on sets of images?

python -m analysis.evaluate latest --dataset pathfinder_14
python -m analysis.evaluate RUN RUN --dataset pathfinder_6 pathfinder_9 pathfinder_18 --images 10000

A set is ``pathfinder_<length>`` (generated anew, any length), ``own`` (generated anew, like those
that the run trained on), a data set or stream by name (its
validation fold), a .tfrecords file, or a folder of images in any of the three layouts.
"""

import glob
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis import statistics
from analysis.image_sets import marker_distance, open_images, title
from analysis.probing import altered, circuit, hidden_generators, hidden_seed, is_recurrent
from analysis.trained import TrainedRun, load_run
from config import Config
from dataset_processing import contour_length
from dataset_processing.augmentations import Augmentations
from dataset_processing.loader import Loader
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


@dataclass
class Evaluation:
    """A network's answers to a set of images; a row an image, ordered by number.

    Attributes:
        run: the run's name.
        dataset: the set's name.
        record: (n,) the images' numbers in the set.
        label: (n,) 0 or 1.
        logits: (n, 2) float32.
        distance: (n,) between the markers, pixels of the stimulus; not a number where not found.
        about: what was evaluated: weights, step, lesions, timesteps, seed …
        kept: whether these answers were computed before, and read now.
    """

    run: str
    dataset: str
    record: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    distance: np.ndarray
    about: dict[str, Any]
    kept: bool = False

    @property
    def correct(self) -> np.ndarray:
        """(n,) whether the larger logit is the label's."""
        return self.logits.argmax(1) == self.label

    @property
    def probability(self) -> np.ndarray:
        """(n,) of label 1, by softmax."""
        return (1 + np.tanh(self.margin / 2)) / 2

    @property
    def margin(self) -> np.ndarray:
        """(n,) logit of label 1 minus that of label 0."""
        return self.logits[:, 1].astype(np.float64) - self.logits[:, 0]

    @property
    def loss(self) -> float:
        """Mean softmax cross-entropy, in nats."""
        signed = np.where(self.label == 1, self.margin, -self.margin)
        return float(np.logaddexp(0, -signed).mean())

    def accuracy(self, chosen: np.ndarray | None = None, exact: bool = False) -> dict[str, Any]:
        """Images, accuracy and its 95% interval, over all images or some.

        Args:
            chosen: (n,) bool; None takes all.
            exact: Clopper and Pearson's interval rather than Wilson's.
        """
        right = self.correct if chosen is None else self.correct[chosen]
        if not len(right):
            return {"images": 0, "accuracy": math.nan, "low": math.nan, "high": math.nan}
        interval = statistics.clopper_pearson if exact else statistics.wilson
        low, high = interval(int(right.sum()), len(right))
        return {
            "images": len(right), "accuracy": float(right.mean()), "low": low, "high": high,
        }  # fmt: skip

    def confusion(self) -> list[list[int]]:
        """Numbers of images: row the label, column the answer."""
        answer = self.logits.argmax(1)
        return [[int(((self.label == r) & (answer == c)).sum()) for c in (0, 1)] for r in (0, 1)]

    def by_property(self, exact: bool = False) -> list[dict[str, Any]]:
        """Accuracy by label, and by distance between the markers within each label.

        Images without two markers are a row of their own.
        """
        rows = []
        for label, name in LABELS.items():
            of_label = self.label == label
            rows.append({"label": name, "distance": "all", **self.accuracy(of_label, exact)})
            known = of_label & np.isfinite(self.distance)
            bins = np.floor(np.where(known, self.distance, -1) / DISTANCE_BIN).astype(int)
            for number in np.unique(bins[known]):
                low = int(number) * DISTANCE_BIN
                span = f"{low}–{low + DISTANCE_BIN} px"
                chosen = known & (bins == number)
                rows.append({"label": name, "distance": span, **self.accuracy(chosen, exact)})
            if (of_label & ~known).any():
                chosen = of_label & ~known
                rows.append({"label": name, "distance": "unknown", **self.accuracy(chosen, exact)})
        return rows

    def summary(self, exact: bool = False) -> dict[str, Any]:
        """All numbers of the evaluation."""
        return {
            "run": self.run,
            "dataset": self.dataset,
            **self.accuracy(exact=exact),
            "interval": "Clopper–Pearson, 95%" if exact else "Wilson, 95%",
            "loss": self.loss,
            "auc": statistics.area_under_curve(self.margin, self.label),
            "confusion": self.confusion(),
            "by_property": self.by_property(exact),
            **self.about,
        }


def evaluate(
    run: TrainedRun,
    dataset: str,
    images: int = IMAGES,
    *,
    seed: int = 0,
    lesion: Sequence[str] = (),
    timesteps: int | None = None,
    fold: str = "val",
    workers: int | None = None,
    data: Any = None,
) -> Evaluation:
    """A run's answers to a set of images.

    Images are taken in a random order that the seed fixes, in batches of the run's ``batch_size``:
    a circuit that normalises by the batch at hand, and the random hidden state, depend on it. The
    same arguments therefore give the same numbers, and two runs see the same images.

    Args:
        run: the run.
        dataset: see :func:`analysis.image_sets.open_images`.
        images: how many at most; generated sets have just as many.
        seed: of generated images, of the choice among more, of the hidden state.
        lesion: letters held at 0.
        timesteps: of the circuit; None: the run's own.
        fold: 'train' or 'val', of a data set or stream.
        workers: processes that load; None: none on a CPU, half of the cores beside a GPU.
        data: the set, where it is open already.

    Raises:
        UserError: the set cannot be had or a setting cannot be.
    """
    if data is None:
        data = open_images(dataset, run.config, run.params, images, seed, fold)
    about = _about(run, data, images, seed, lesion, timesteps, fold)
    count = min(images, len(data))
    if workers is None:
        workers = 0 if run.device.type == "cpu" else min(WORKERS, (os.cpu_count() or 2) // 2)
    loader = Loader(
        data, min(int(run.params["batch_size"]), len(data)), seed, True, workers, run.device
    )
    augment = Augmentations(run.params["val_augmentations"], [*run.image_size, 1])
    generator = torch.Generator(run.device).manual_seed(seed)
    rows: list[tuple[np.ndarray, ...]] = []
    began = time.perf_counter()
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(hidden_seed(run.network, seed))
        stack.enter_context(altered(run.network, lesion, timesteps))
        bar = stack.enter_context(
            Progress(total=count, unit="image", desc=f"{run.name} on {title(dataset)}")
        )
        forward = GraphedForward(run.network, hidden_generators(run.network))
        for batch in loader.batches(0):
            n = min(len(batch.labels), count - bar.n)
            logits, _ = forward(augment(batch.images, generator))
            distances = marker_distance(batch.images[:n].cpu().numpy())
            tensors = (batch.records[:n], batch.labels[:n].cpu(), logits[:n].float().cpu())
            rows.append((*(tensor.numpy() for tensor in tensors), distances))
            bar.update(n)
            if bar.n >= count:
                break
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    record, label, logits, distance = (column[order] for column in columns)
    about["seconds"] = round(time.perf_counter() - began, 2)
    return Evaluation(run.name, dataset, record, label, logits, distance, about)


def evaluated(
    run: TrainedRun,
    dataset: str,
    images: int = IMAGES,
    *,
    workers: int | None = None,
    again: bool = False,
    resize: bool = True,
    seed: int = 0,
    fold: str = "val",
    **circuit: Any,
) -> tuple[Evaluation, Path]:
    """As :func:`evaluate`, kept under ``condition_evaluations``: what is there is not done again.

    What is kept is known by the weights, the circuit, the code, the input size, the preprocessing
    and the images, whatever the run and its step are called.

    Args:
        again: compute it anew, and keep that.
        resize: whether images of another size than those that the run was trained on may be
            resized (by the run's own preprocessing), with a warning.
        circuit: ``lesion`` and ``timesteps``.

    Returns:
        The evaluation, and the ``.npz`` file of its answers, beside the ``.json`` of its numbers.
    """
    data = open_images(dataset, run.config, run.params, images, seed, fold)
    check_size(run, dataset, data, resize)
    wanted = _about(run, data, images, seed, fold=fold, **circuit)
    known_by = [dataset, {k: v for k, v in wanted.items() if k not in NAMES}]
    key = hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:8]
    words = [title(dataset), f"step{run.step}", *(f"lesion_{x}" for x in wanted["lesion"])]
    words += [f"T{circuit['timesteps']}"] if circuit.get("timesteps") else []
    path = run.config.condition_evaluations / run.name / f"{'_'.join(words)}_{key}.npz"
    if path.exists() and not again:
        found = _read(run, dataset, path)
        found.about |= {key: wanted[key] for key in NAMES}
        if {**wanted, "seconds": found.about.get("seconds")} == found.about:
            return found, path
    found = evaluate(
        run, dataset, images, seed=seed, fold=fold, workers=workers, data=data, **circuit
    )
    write_arrays(
        path,
        {
            "record": found.record, "label": found.label, "logits": found.logits,
            "distance": found.distance, "about": np.array(json.dumps(found.about)),
        },
    )  # fmt: skip
    write_json(path.with_suffix(".json"), found.summary())
    return found, path


def check_size(run: TrainedRun, dataset: str, data: Any, resize: bool) -> None:
    """Warn of images of another size than the run was trained on.

    Raises:
        UserError: they are of another size and not to be resized.
    """
    size = getattr(data, "im_size", None) or np.shape(data[0][0])
    height, width = run.stimulus_size
    if tuple(size[:2]) == (height, width):
        return
    text = (
        f"{title(dataset)}: the images are {size[0]}×{size[1]} pixels (height × width), the run "
        f"takes {height}×{width}"
    )
    if not resize:
        raise UserError(f"{text}; --resize resizes them")
    warnings.warn(f"{text}: they are resized", stacklevel=2)


def kept(
    run: TrainedRun, dataset: str, images: int = IMAGES, *, seed: int = 0,
    fingerprint: str | None = None,
) -> tuple[Evaluation, Path] | None:  # fmt: skip
    """What :func:`evaluated` has kept of these weights, whole circuit, whatever computed it.

    Unlike there, device and PyTorch may be others than here, and the images need not be here. Of
    several such evaluations the one whose file's name is first is taken.

    Args:
        run, dataset, images, seed: as there.
        fingerprint: of the set that was evaluated; None takes any.

    Returns:
        The evaluation and its file; None where there is none.
    """
    wanted = {
        "fold": "val", "images_at_most": images, "seed": seed, "lesion": [],
        "timesteps": _timesteps(run, None), **_identity(run),
    }  # fmt: skip
    if fingerprint is not None:
        wanted["set"] = fingerprint
    folder = run.config.condition_evaluations / run.name
    for path in sorted(folder.glob(f"{glob.escape(title(dataset))}_step{run.step}_*.npz")):
        found = _read(run, dataset, path)
        if wanted == {key: found.about.get(key) for key in wanted}:
            return found, path
    return None


def _read(run: TrainedRun, dataset: str, path: Path) -> Evaluation:
    """An evaluation that was kept."""
    arrays = read_arrays(path)
    return Evaluation(
        run.name, dataset, arrays["record"], arrays["label"], arrays["logits"],
        arrays["distance"], json.loads(str(arrays["about"])), kept=True,
    )  # fmt: skip


def _about(
    run: TrainedRun,
    data: Any,
    images: int,
    seed: int,
    lesion: Sequence[str] = (),
    timesteps: int | None = None,
    fold: str = "val",
) -> dict[str, Any]:
    """What the numbers of an evaluation depend on."""
    return {
        **_identity(run),
        "model_name": run.model_name,
        "weights": run.weights,
        "step": run.step,
        "set": data.fingerprint(),
        "set_described": data.describe(),
        "fold": fold,
        "images_at_most": images,
        "seed": seed,
        "lesion": sorted(lesion),
        "timesteps": _timesteps(run, timesteps),
        "batch_size": int(run.params["batch_size"]),
        "device": run.device.type,
        "torch": torch.__version__,
    }


def _identity(run: TrainedRun) -> dict[str, Any]:
    """What a network's answers follow from: its weights, options and code, and what it is given."""
    return {
        "weights_fingerprint": weights_fingerprint(run.network),
        "network": options_of(run.network),
        "code": run.code,
        "input_size": list(run.image_size),
        "val_augmentations": list(run.params["val_augmentations"]),
    }


def _timesteps(run: TrainedRun, timesteps: int | None) -> int | None:
    """Steps of the circuit: those asked for, or the run's own; None without a circuit."""
    if timesteps is None and is_recurrent(run.network):
        return circuit(run.network).timesteps
    return timesteps


def percent(row: dict[str, Any]) -> str:
    """``97.4% (97.1–97.7)`` of a row with accuracy, low and high."""
    if not row["images"]:
        return "–"
    return f"{100 * row['accuracy']:.1f}% ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def table(found: Sequence[Evaluation], exact: bool = False) -> list[dict[str, Any]]:
    """A row for each evaluation, for reading."""
    rows = []
    for one in found:
        numbers = one.summary(exact)
        lesion = " ".join(numbers["lesion"]) or "–"
        rows.append(
            {
                "run": one.run,
                "step": numbers["step"],
                "set": title(one.dataset),
                "length": contour_length(title(one.dataset)) or "–",
                "lesion": lesion,
                "T": numbers["timesteps"] or "–",
                "images": numbers["images"],
                "accuracy (95%)": percent(numbers),
                "loss": f"{numbers['loss']:.4f}",
                "AUC": f"{numbers['auc']:.4f}",
                "computed": "before (kept)" if one.kept else "now",
            }
        )
    return rows


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
    parse.add_circuit()
    parse.add_argument(
        "--exact", action="store_true", help="Clopper–Pearson intervals rather than Wilson's"
    )
    parse.add_argument(
        "--again", action="store_true", help="compute anew what was kept from another time"
    )
    parse.add_argument(
        "--resize", action="store_true", help="resize images of another size than the run takes"
    )
    parse.add_device()
    options = parse.parse_args(arguments)
    config = Config()
    found, paths = [], []
    runs = [load_run(which, options.weights, options.device, config) for which in options.runs]
    for run in runs:
        own = run.params.get("val_dataset") or run.params["dataset"]
        for name in options.dataset or [own]:
            one, path = evaluated(
                run, name, options.images, seed=options.seed, lesion=options.lesion,
                timesteps=options.timesteps, fold=options.fold, workers=options.workers,
                again=options.again, resize=options.resize,
            )  # fmt: skip
            found.append(one)
            paths += [path, path.with_suffix(".json")]
    report(found, paths, config, options.exact)


def report(found: Sequence[Evaluation], paths: list[Path], config: Config, exact: bool) -> None:
    """Print the tables, and write the rows of all evaluations as a table file."""
    print(text_table(table(found, exact)))
    for one in found:
        print(f"\n{one.run} on {title(one.dataset)}")
        print(_confusion_text(one))
        rows = [
            {"label": r["label"], "marker distance": r["distance"], "images": r["images"],
             "accuracy (95%)": percent(r)}
            for r in one.by_property(exact)
        ]  # fmt: skip
        print(text_table(rows))
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    flat = [
        {k: v for k, v in one.summary(exact).items() if not isinstance(v, (list, dict))}
        | {"lesion": " ".join(one.about["lesion"])}
        for one in found
    ]
    paths.append(write_csv(config.condition_evaluations / f"evaluation_{stamp}.csv", flat))
    print()
    shell.name_outputs(paths)


def _confusion_text(one: Evaluation) -> str:
    (a, b), (c, d) = one.confusion()
    rows = [
        {"label \\ answer": LABELS[0], LABELS[0]: a, LABELS[1]: b},
        {"label \\ answer": LABELS[1], LABELS[0]: c, LABELS[1]: d},
    ]
    return text_table(rows)


if __name__ == "__main__":
    shell.run_command(main)
