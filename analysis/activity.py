"""Activity over the steps, as a strip and as an animation, and gradient maps."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy import ndimage

from analysis.evaluate import LABELS
from analysis.predict import prepare_images
from analysis.probing import SAMPLES, record, smoothgrad
from analysis.style import ACTIVITY, PAGE, PLAIN, SIGNED, SKY, heading, new_figure, picture, style
from analysis.trained import TrainedRun
from support.errors import UserError
from support.progress import Progress

OUTLINE = 8  # pixels, of 300, by which a contour is widened, so that its paddles join
GREY: Any = {"cmap": "gray", "vmin": 0, "vmax": 1}
FRAME_MS, LAST_FRAME_MS = 450, 1800


@dataclass
class Seen:
    """What a circuit does with one image."""

    image: np.ndarray  # (H, W), 0–1, as the network was given it
    label: int  # 0 or 1
    probability: float  # softmax probability that the network gives to label 1
    outline: np.ndarray | None  # (H, W) bool: the target contour, widened; None: not known
    strength: dict[str, np.ndarray]  # H1 and H2, (T, H, W): r.m.s. over channels at each step
    gates: dict[str, np.ndarray]  # G1 and G2, (T, K): mean over positions at each step

    @property
    def caption(self) -> str:
        """Label and answer, with the softmax probability of the answer."""
        answer = int(self.probability > 0.5)
        sure = max(self.probability, 1 - self.probability)
        return f"{LABELS[self.label]}; answer: {LABELS[answer]} (softmax probability {sure:.2f})"

    def map(self, axes: Axes, symbol: str, step: int, line: float = 0.5) -> Any:
        """Draw H1 or H2 at a step, or the image, with the target's outline; one scale for all
        steps, in which almost all of the largest values are in range."""
        look, values = GREY, self.image
        if symbol != "image":
            maps = self.strength[symbol]
            top = float(np.percentile(maps, 99.8)) or 1.0
            look, values = {"cmap": ACTIVITY, "vmin": 0, "vmax": top}, maps[step]
        shown = picture(axes, values, **look)
        if self.outline is not None:
            axes.contour(self.outline, levels=[0.5], colors=SKY, linewidths=line)
        return shown


def example(data: Any, label: int) -> int:
    """Number of the first image of that label in a data set; UserError where there is none."""
    for index in range(len(data)):
        if data[index][1] == label:
            return index
    raise UserError(f"{data.describe()} has no image of label {label}")


def watch(run: TrainedRun, data: Any, index: int, seed: int = 0) -> Seen:
    """Show a run one image of a data set and record its circuit; UserError where it has none."""
    image, label = data[index]
    images = prepare_images(run, np.array(image)[None], seed)
    seen = record(run.network, images, ("G1", "H1", "G2", "H2"), seed)
    outline = None
    if hasattr(data, "stimulus"):  # cropped and resized as the run's images are
        mask = 255 * widened(data.stimulus(index).contour_mask).astype(np.uint8)
        given = prepare_images(run, mask[None], seed)[0, 0]
        outline = (given > (given.min() + given.max()) / 2).cpu().numpy()
    return Seen(
        images[0, 0].cpu().numpy(),
        int(label),
        float(seen["logits"][0].double().softmax(0)[1]),
        outline,
        {s: seen[s][:, 0].square().mean(1).sqrt().cpu().numpy() for s in ("H1", "H2")},
        {s: seen[s][:, 0].mean((2, 3)).cpu().numpy() for s in ("G1", "G2")},
    )


def widened(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) widened by ``OUTLINE`` pixels; of another size by its share of them, and 2."""
    pixels = max(2, math.ceil(OUTLINE * min(mask.shape) / 300))
    return ndimage.distance_transform_edt(~mask.astype(bool)) <= pixels


@style()
def strip(seen: Seen, run: TrainedRun) -> Figure:
    """The image, then H1 and H2 at each step; one scale a row."""
    columns = len(seen.strength["H2"]) + 1
    cell = PAGE / (columns + 0.55)
    figure = new_figure(PAGE, 2 * cell + 0.5)
    grid = figure.subplots(2, columns)
    seen.map(grid[0, 0], "image", 0)
    grid[0, 0].set_title("image", **PLAIN)
    grid[1, 0].axis("off")
    how: Any = {"extend": "max", "fraction": 0.02, "pad": 0.01, "format": "%.2g"}
    for row, symbol in zip(grid, ("H1", "H2"), strict=True):
        for t, axes in enumerate(row[1:]):
            shown = seen.map(axes, symbol, t)
            if symbol == "H1":
                axes.set_title(f"t = {t + 1}", **PLAIN)
        bar = figure.colorbar(shown, ax=row, ticks=MaxNLocator(3), **how)
        bar.set_label(f"{symbol}, r.m.s.", fontsize=6)
        bar.ax.tick_params(labelsize=6)
        row[1].set_ylabel(symbol, rotation=0, va="center", labelpad=8)
    heading(figure, f"{run.model_name}: {seen.caption}")
    return figure


@style()
def animation(seen: Seen, run: TrainedRun) -> bytes:
    """The image beside H2, a frame a step, as an endless GIF."""
    frames, count = [], len(seen.strength["H2"])
    for t in range(count):
        figure = Figure(figsize=(6.4, 3.5), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        seen.map(left, "image", 0, 1.2)
        left.set_title("image")
        shown = seen.map(right, "H2", t, 1.2)
        right.set_title(f"H2 (r.m.s. over channels), step {t + 1} of {count}")
        figure.colorbar(shown, ax=right, shrink=0.8, extend="max")
        figure.suptitle(f"{run.model_name}: {seen.caption}", fontsize=8.5)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frame = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        frames.append(frame.quantize(128, dither=Image.Dither.NONE))
    content, first = io.BytesIO(), frames[0]
    how: Any = {"save_all": True, "append_images": frames[1:], "loop": 0, "disposal": 1}
    first.save(content, "GIF", duration=[FRAME_MS] * (count - 1) + [LAST_FRAME_MS], **how)
    return content.getvalue()


@style()
def gradient_figure(
    run: TrainedRun, data: Any, indices: Sequence[int], samples: int = SAMPLES, seed: int = 0
) -> Figure:
    """Some images, the SmoothGrad of the label's logit, and the gradient's absolute value."""
    figure = new_figure(PAGE, 1.95 * len(indices) + 0.2)
    grid = figure.subplots(len(indices), 3, squeeze=False)
    how: Any = {"seed": seed, "batch": 1 if run.device.type == "cpu" else 10}
    how["progress"] = partial(Progress, unit="batch", desc="SmoothGrad")
    bar: Any = {"shrink": 0.75, "label": "logit per unit of intensity"}
    for (left, middle, right), index in zip(grid, indices, strict=True):
        image, label = data[index]
        given = prepare_images(run, np.array(image)[None], seed)[0]
        gradient = smoothgrad(run.network, given, int(label), samples, **how).cpu().numpy()
        shown = given[0].cpu().numpy()
        scale = float(np.percentile(np.abs(gradient), 99.7)) or 1.0
        picture(left, shown, **GREY)
        left.set_title(f"label {label}: {LABELS[label]}")
        signed = picture(middle, gradient, cmap=SIGNED, vmin=-scale, vmax=scale)
        middle.set_title(f"gradient, {samples} noisy cop{'y' if samples == 1 else 'ies'}")
        figure.colorbar(signed, ax=middle, extend="both", **bar)
        strength = picture(right, np.abs(gradient), cmap=ACTIVITY, vmin=0, vmax=scale)
        right.contour(shown, levels=[0.5], colors=SKY, linewidths=0.4)
        right.set_title("its absolute value")
        figure.colorbar(strength, ax=right, extend="max", **bar)
    return figure
