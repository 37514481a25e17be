"""Activity over the steps, as a strip and as an animation, and gradient maps."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from analysis.evaluate import LABELS
from analysis.predict import prepare_images
from analysis.probing import SMOOTHGRAD_SAMPLES, SMOOTHGRAD_SPREAD, record, smoothgrad
from analysis.style import ACTIVITY, PAGE, SIGNED, SKY, new_figure, picture, style
from analysis.trained import TrainedRun
from support.errors import UserError
from support.progress import Progress

OUTLINE = 8  # pixels of the stimulus by which a contour is widened, so that its paddles join
FRAME_MS, LAST_FRAME_MS = 450, 1800


@dataclass
class Seen:
    """What a circuit does with one image.

    Attributes:
        image: (H, W), 0–1, as the network was given it.
        label: 0 or 1.
        probability: softmax probability that the network gives to label 1.
        outline: (H, W) bool: the target contour, widened; None where it is not known.
        strength: by symbol (H1, H2), (T, H, W): root mean square over channels at each step.
        gates: by symbol (G1, G2), (T, K): mean over positions at each step.
    """

    image: np.ndarray
    label: int
    probability: float
    outline: np.ndarray | None
    strength: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]

    @property
    def caption(self) -> str:
        """Label and answer, with the softmax probability of the answer."""
        answer = int(self.probability > 0.5)
        sure = max(self.probability, 1 - self.probability)
        return f"{LABELS[self.label]}; answer: {LABELS[answer]} (softmax probability {sure:.2f})"


def example(data: Any, label: int, skip: int = 0) -> int:
    """Number of the first image of that label in a data set, after skipping some of them.

    Raises:
        UserError: there is none.
    """
    for index in range(len(data)):
        if data[index][1] == label:
            if not skip:
                return index
            skip -= 1
    raise UserError(f"{data.describe()} has no such image of label {label}")


@torch.no_grad()
def watch(run: TrainedRun, data: Any, index: int, seed: int = 0) -> Seen:
    """Show a run one image of a data set and record its circuit.

    Raises:
        UserError: the network has no circuit.
    """
    stimulus = data.stimulus(index) if hasattr(data, "stimulus") else None
    image, label = data[index]
    images = prepare_images(run, np.array(image)[None], seed)
    seen = record(run.network, images, ("G1", "H1", "G2", "H2"), seed)
    outline = None
    if stimulus is not None:
        outline = as_seen(run, widened(stimulus.contour_mask), seed)
    return Seen(
        images[0, 0].cpu().numpy(),
        int(label),
        float(seen["logits"][0].double().softmax(0)[1]),
        outline,
        {s: seen[s][:, 0].square().mean(1).sqrt().cpu().numpy() for s in ("H1", "H2")},
        {s: seen[s][:, 0].mean((2, 3)).cpu().numpy() for s in ("G1", "G2")},
    )


def as_seen(run: TrainedRun, mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """A mask (H, W) of the stimulus, cropped and resized as the run's images are: (h, w) bool."""
    given = prepare_images(run, 255 * mask[None].astype(np.uint8), seed)[0, 0]
    return (given > (given.min() + given.max()) / 2).cpu().numpy()


def widened(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) widened by ``OUTLINE`` pixels."""
    y, x = np.mgrid[-OUTLINE : OUTLINE + 1, -OUTLINE : OUTLINE + 1]
    disc = torch.from_numpy((x * x + y * y <= OUTLINE**2).astype(np.float32))
    lit = torch.from_numpy(mask.astype(np.float32))[None, None]
    return (F.conv2d(lit, disc[None, None], padding=OUTLINE) > 0.5)[0, 0].numpy()


def strip(seen: Seen, run: TrainedRun) -> Figure:
    """The image, then H1 and H2 at each step; one scale a row."""
    T = len(seen.strength["H2"])
    columns = T + 1
    cell = PAGE / (columns + 0.55)
    with style():
        figure = new_figure(PAGE, 2 * cell + 0.5)
        grid = figure.subplots(2, columns)
        _picture(grid[0, 0], seen.image, seen, cmap="gray", vmin=0, vmax=1)
        grid[0, 0].set_title("image", loc="center", fontweight="normal")
        grid[1, 0].axis("off")
        for row, symbol in enumerate(("H1", "H2")):
            maps = seen.strength[symbol]
            largest = float(np.percentile(maps, 99.8)) or 1.0
            for t in range(T):
                axes = grid[row, t + 1]
                shown = _picture(axes, maps[t], seen, cmap=ACTIVITY, vmin=0, vmax=largest)
                if row == 0:
                    axes.set_title(f"t = {t + 1}", loc="center", fontweight="normal")
            bar = figure.colorbar(
                shown, ax=grid[row, :], extend="max", fraction=0.02, pad=0.01, format="%.2g",
                ticks=MaxNLocator(3),
            )  # fmt: skip
            bar.set_label(f"{symbol}, r.m.s.", fontsize=6)
            bar.ax.tick_params(labelsize=6)
            grid[row, 1].set_ylabel(symbol, rotation=0, va="center", labelpad=8)
        figure.suptitle(
            f"{run.model_name}: {seen.caption}", x=0.01, ha="left", fontsize=8.5, fontweight="bold"
        )
    return figure


def animation(seen: Seen, run: TrainedRun) -> bytes:
    """The image beside H2, a frame a step, as an endless GIF."""
    maps = seen.strength["H2"]
    largest = float(np.percentile(maps, 99.8)) or 1.0
    frames = []
    with style():
        for t, one in enumerate(maps):
            figure = Figure(figsize=(6.4, 3.5), dpi=110, layout="constrained")
            left, right = figure.subplots(1, 2)
            _picture(left, seen.image, seen, 1.2, cmap="gray", vmin=0, vmax=1)
            left.set_title("image")
            _picture(right, one, seen, 1.2, cmap=ACTIVITY, vmin=0, vmax=largest)
            right.set_title(f"H2 (r.m.s. over channels), step {t + 1} of {len(maps)}")
            figure.colorbar(right.images[0], ax=right, shrink=0.8, extend="max")
            figure.suptitle(f"{run.model_name}: {seen.caption}", fontsize=8.5)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            picture_ = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
            frames.append(picture_.quantize(128, dither=Image.Dither.NONE))
    content = io.BytesIO()
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(
        content, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1
    )
    return content.getvalue()


def gradient_maps(
    run: TrainedRun, data: Any, indices: list[int], samples: int = SMOOTHGRAD_SAMPLES, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray, list[int]]:
    """SmoothGrad of the label's logit for some images.

    Returns:
        The images (H, W) in 0–1, the maps (N, H, W), the labels.
    """
    images, maps, label_list = [], [], []
    batch = 1 if run.device.type == "cpu" else 10
    for index in indices:
        image, label = data[index]
        given = prepare_images(run, np.array(image)[None], seed)[0]

        def bar(parts: list[int]) -> Progress:
            return Progress(parts, unit="batch", desc="SmoothGrad")

        found = smoothgrad(
            run.network, given, int(label), samples, SMOOTHGRAD_SPREAD, seed, batch, bar
        )
        images.append(given[0].cpu().numpy())
        maps.append(found.cpu().numpy())
        label_list.append(int(label))
    return images, np.stack(maps), label_list


def gradient_figure(
    images: list[np.ndarray], maps: np.ndarray, labels: list[int], samples: int
) -> Figure:
    """Each image, the gradient of its label's logit, and the gradient's absolute value."""
    count = len(images)
    with style():
        figure = new_figure(PAGE, 1.95 * count + 0.2)
        grid = figure.subplots(count, 3, squeeze=False)
        for row, (image, gradient, label) in enumerate(zip(images, maps, labels, strict=True)):
            scale = float(np.percentile(np.abs(gradient), 99.7)) or 1.0
            left, middle, right = grid[row]
            left.imshow(image, cmap="gray", vmin=0, vmax=1)
            left.set_title(f"label {label}: {LABELS[label]}")
            shown = middle.imshow(gradient, cmap=SIGNED, vmin=-scale, vmax=scale)
            copies = f"{samples} noisy cop{'y' if samples == 1 else 'ies'}"
            middle.set_title(f"gradient, {copies}")
            unit = "logit per unit of intensity"
            figure.colorbar(shown, ax=middle, shrink=0.75, extend="both", label=unit)
            strength = right.imshow(np.abs(gradient), cmap=ACTIVITY, vmin=0, vmax=scale)
            right.contour(image, levels=[0.5], colors=SKY, linewidths=0.4)
            right.set_title("its absolute value")
            figure.colorbar(strength, ax=right, shrink=0.75, extend="max", label=unit)
            for axes in (left, middle, right):
                picture(axes)
    return figure


def _picture(axes: Axes, values: np.ndarray, seen: Seen, line: float = 0.5, **look: Any) -> Any:
    """A map, with the target contour's outline where it is known."""
    shown = axes.imshow(values, **look)
    if seen.outline is not None:
        axes.contour(seen.outline, levels=[0.5], colors=SKY, linewidths=line)
    picture(axes)
    return shown
