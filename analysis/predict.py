"""What does a run say to these images?

python -m analysis.predict latest image.png other.png

For each image: the answer, the softmax's probability for it, and a figure of H2, the circuit's
activity after its last step (root mean square over channels; of the control without a circuit, its
last layer), with the two places where the readout, if it is the release's, finds its maxima.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from analysis.evaluate import LABELS, condition
from analysis.probing import altered, check_answers, hidden_seed, is_recurrent, record, timesteps
from analysis.style import ACTIVITY, PAGE, SKY, new_figure, picture, save, style
from analysis.trained import TrainedRun, load_run
from config import Config
from dataset_processing.augmentations import Augmentations
from dataset_processing.folds import times
from dataset_processing.images import check_scale
from dataset_processing.images import read_image as read_as_training
from dataset_processing.sets import rescales
from support import shell
from support.errors import UserError
from support.files import write_csv
from support.progress import Progress
from support.tables import text_table


@dataclass
class Prediction:
    """A network's answer to one image."""

    answer: int  # 0 (two contours) or 1 (one contour)
    probability: float  # softmax probability of that answer, 0.5–1
    logits: np.ndarray  # (2,)
    strength: np.ndarray  # (H, W) root mean square over channels of H2 at the last step
    maxima: list[tuple[int, int]]  # (row, column) of the readout's two maps, where it has such
    image: np.ndarray  # (H, W), 0–1, as the network was given it


def read_image(path: Path, size: Sequence[int], resize: bool = False) -> np.ndarray:
    """A grey image (H, W), uint8, of this size, read as training reads it. UserError where it
    cannot be read, or is of another size and not to be resized (Lanczos)."""
    image = read_as_training(path)
    height, width = size
    if image.shape != (height, width):
        if not resize:
            raise UserError(
                f"{path}: the image is {times(image.shape)} pixels (height × width), the run takes "
                f"{times(size)}; --resize resizes it"
            )
        if image.shape[0] * width != image.shape[1] * height:
            warnings.warn(f"{path}: resizing changes the ratio of width to height", stacklevel=2)
        lanczos = Image.Resampling.LANCZOS
        image = np.array(Image.fromarray(image).resize((width, height), lanczos))
    return image


def prepare_images(run: TrainedRun, images: np.ndarray, seed: int = 0) -> Tensor:
    """Images (N, H, W), 0–255, as the run's network is given them: (N, 1, h, w) in 0–1."""
    augment = Augmentations(run.params["val_augmentations"], [*run.image_size, 1])
    generator = torch.Generator(run.device).manual_seed(seed)
    return augment(torch.from_numpy(np.array(images)).to(run.device), generator)


@torch.no_grad()
def predict(run: TrainedRun, image: np.ndarray, seed: int = 0) -> Prediction:
    """A run's answer to one image (H, W), 0–255, by itself: no other image changes it. UserError
    where it is not finite."""
    images = prepare_images(run, image[None], seed)
    with hidden_seed(run.network, seed):
        logits, activity = run.network(images)
    check_answers(logits.cpu().numpy(), run.name)
    shown = activity
    if is_recurrent(run.network):
        shown = record(run.network, images, ["H2"], seed)["H2"][-1]
    weights = getattr(getattr(run.network, "readout", None), "evidence", None)
    maps: Any = () if weights is None else F.conv2d(activity, weights)[0]  # (2, H, W)
    answer = int(logits[0].argmax())
    return Prediction(
        answer,
        float(logits[0].double().softmax(0)[answer]),
        logits[0].cpu().numpy(),
        shown[0].square().mean(0).sqrt().cpu().numpy(),
        [divmod(int(one.argmax()), one.shape[1]) for one in maps],
        images[0, 0].cpu().numpy(),
    )


@style()
def prediction_figure(found: Prediction, name: str, run: TrainedRun) -> Figure:
    """The image beside the map of H2."""
    figure = new_figure(PAGE * 0.75, PAGE * 0.75 / 2 + 0.1)
    left, right = figure.subplots(1, 2)
    picture(left, found.image, cmap="gray", vmin=0, vmax=1)
    left.set_title(name)
    shown = picture(right, found.strength, cmap=ACTIVITY, vmin=0)
    look: Any = {"mec": SKY, "mfc": "none", "ms": 8, "mew": 1.4}
    for (row, column), marker, label in zip(found.maxima, "ox", "01", strict=False):
        right.plot(column, row, marker, label=f"maximum of the readout's map {label}", **look)
    what = "H2" if is_recurrent(run.network) else "last layer"
    right.set_title(f"{LABELS[found.answer]} (softmax {found.probability:.3f})")
    figure.colorbar(shown, ax=right, label=f"{what}, r.m.s. over channels", shrink=0.85)
    if found.maxima:
        figure.legend(loc="outside lower right", ncols=2)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("predict", __doc__)
    parse.add_run(many=False)
    parse.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parse.add_argument("--resize", action="store_true", help="resize images of another size")
    parse.add_argument("--seed", type=shell.whole(0), default=0, help="of the hidden state")
    parse.add_circuit()
    parse.add_device()
    parse.add_output("folder of the figures; default: the run's, under visualizations")
    options = parse.parse_args(arguments)
    config = Config()
    run = load_run(options.run, options.weights, options.device, config)
    images = [read_image(path, run.stimulus_size, options.resize) for path in options.images]
    meant = not rescales(run.params["val_augmentations"])
    for path, image in zip(options.images, images, strict=True):
        if unusual := check_scale(image, str(path), meant):
            warnings.warn(unusual, stacklevel=1)
    folder = options.output or config.visualizations / run.name
    words = [] if run.weights == "last" else [f"step{run.step}"]
    words += condition(options.lesion, options.timesteps)
    rows, own = [], timesteps(run.network)
    paths, stems = [], [path.stem for path in options.images]
    for number, (path, image) in enumerate(zip(options.images, Progress(images), strict=True)):
        with altered(run.network, options.lesion, options.timesteps):
            found = predict(run, image, options.seed)
        same = stems[:number].count(path.stem)
        stem = "_".join(["predict", path.stem, *([str(same + 1)] if same else []), *words])
        name = f"{path.name}\n{' '.join(words)}".strip()
        paths += save(prediction_figure(found, name, run), folder / stem)
        row: dict[str, Any] = {"image": path, "step": run.step}
        row |= {"lesion": " ".join(options.lesion) or "–", "T": options.timesteps or own or "–"}
        row |= {"answer": found.answer, "meaning": LABELS[found.answer]}
        row["probability of the answer"] = f"{found.probability:.4f}"
        rows.append(row | {f"logit {n}": f"{logit:.4f}" for n, logit in enumerate(found.logits)})
    print(text_table(rows))
    file = folder / f"predictions_{time.strftime('%Y-%m-%d_%H-%M-%S')}.csv"
    shell.name_outputs([*paths, write_csv(file, rows)])


if __name__ == "__main__":
    shell.run_command(main)
