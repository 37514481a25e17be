"""Figures of what was learned: filters, horizontal kernels, association field, letters, gates."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

from analysis.association import (
    ORIENTED,
    STAGES,
    AssociationField,
    association_field,
    channel_orientation,
    connections,
    sorted_channels,
)
from analysis.probing import circuit
from analysis.style import (
    BLUE,
    EXCITATORY,
    INHIBITORY,
    MUTED,
    ORANGE,
    PAGE,
    RED,
    SEQUENTIAL,
    SERIES,
    SIGNED,
    new_figure,
    picture,
    style,
)
from layers.gabor import ORIENTATIONS, gabor_bank
from layers.hgru import LETTERS
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork

SYMBOL = {"alpha": "α", "mu": "μ", "gamma": "γ", "kappa": "κ", "omega": "ω", "eta": "η"}
ROLE = {
    "alpha": "inhibition (mult.)",
    "mu": "inhibition (add.)",
    "gamma": "scale of C2",
    "kappa": "excitation (add.)",
    "omega": "excitation (mult.)",
}


def gabor_figure(network: RecurrentNetwork | FeedforwardNetwork) -> Figure:
    """The filter bank before training (the formula) and after, by orientation; phases in turn."""
    after = network.drive.weight.detach().float().cpu().numpy()[:, 0]
    before = gabor_bank(after.shape[-1]).numpy()[:, 0]
    orientation = channel_orientation()
    order = np.argsort(orientation[:ORIENTATIONS])
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    with style():
        figure = new_figure(PAGE, 2.75)
        grid = figure.subplots(4, ORIENTATIONS + 1)
        scale = max(np.abs(before[:ORIENTED]).max(), np.abs(after[:ORIENTED]).max())
        for row, (bank, phase, name) in enumerate(
            [(before, 0, "before"), (after, 0, "after"), (before, 1, "before"), (after, 1, "after")]
        ):
            for column, channel in enumerate(order):
                axes = grid[row, column]
                axes.imshow(
                    bank[phase * ORIENTATIONS + channel], cmap=SIGNED, vmin=-scale, vmax=scale
                )
                if row == 0:
                    axes.set_title(f"{orientation[channel]:g}°", loc="center", fontweight="normal")
                picture(axes)
            grid[row, 0].set_ylabel(f"phase {phase + 1}\n{name}", fontsize=7)
            disc = grid[row, ORIENTATIONS]
            picture(disc)
            if row < 2:
                largest = 1.5 * np.abs(before[ORIENTED]).max()
                disc.imshow(bank[ORIENTED], cmap=SIGNED, vmin=-largest, vmax=largest)
        grid[0, ORIENTATIONS].set_title("disc", loc="center", fontweight="normal")
        figure.suptitle(
            f"Gabor bank before and after training (relative change {100 * change:.1f}%)",
            x=0.01, ha="left", fontsize=8.5, fontweight="bold",
        )  # fmt: skip
    return figure


def kernel_figure(network: nn.Module, stage: str = "weights") -> Figure:
    """All K×K horizontal kernels, sorted by the orientation that each channel starts from."""
    kernel = connections(network, stage)
    order = sorted_channels()
    K, size = len(order), kernel.shape[-1]
    tiles = kernel[order][:, order].transpose(0, 2, 1, 3).reshape(K * size, K * size)
    scale = float(np.percentile(np.abs(kernel), 99.5)) or 1.0
    orientation = channel_orientation()[order]
    centres = (np.arange(K) + 0.5) * size - 0.5
    every = [i for i in range(0, ORIENTED, 2)]  # one tick for the two phases
    marks = [centres[i] + size / 2 for i in every] + [centres[-1]]
    names = [f"{orientation[i]:g}°" for i in every] + ["disc"]
    with style():
        figure = new_figure(PAGE * 0.86, PAGE * 0.78)
        axes = figure.subplots()
        shown = axes.imshow(tiles, cmap=SIGNED, vmin=-scale, vmax=scale, interpolation="none")
        for i in range(0, K, 2):
            for line in (axes.axhline, axes.axvline):
                line(i * size - 0.5, color="#8c8c8c", linewidth=0.4)
        axes.set_xticks(marks, names, rotation=90)
        axes.set_yticks(marks, names)
        axes.tick_params(length=0)
        axes.set_xlabel("sending channel: orientation of its filter when training starts")
        axes.set_ylabel("receiving channel")
        axes.set_title(f"horizontal kernels, {size}×{size} each: {STAGES[stage]}")
        figure.colorbar(shown, ax=axes, shrink=0.6, extend="both", label="connection")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def association_figure(network: nn.Module, stage: str = "weights") -> Figure:
    """The association field (see :mod:`analysis.association` for what is what)."""
    found = association_field(connections(network, stage))
    with style():
        figure = new_figure(PAGE, 3.5)
        parts: Any = figure.subfigures(2, 1, height_ratios=[0.62, 1])
        upper, lower = parts
        _fields(upper, found, stage)
        left, middle, right = lower.subplots(1, 3, width_ratios=[1, 1, 1.25])
        largest = max(found.excitatory.max(), found.inhibitory.max())
        for axes, values, name in (
            (left, found.excitatory, "mean excitatory"),
            (middle, found.inhibitory, "mean inhibitory"),
        ):  # fmt: skip
            shown = axes.imshow(
                values, cmap=SEQUENTIAL, vmin=0, vmax=largest, aspect="auto", origin="lower"
            )
            axes.set_title(name)
            axes.set_xlabel("distance (pixels)")
            axes.set_yticks(range(len(found.relative)), [f"{a:g}°" for a in found.relative])
        left.set_ylabel("relative orientation")
        middle.tick_params(labelleft=False)
        lower.colorbar(shown, ax=[left, middle], shrink=0.9)
        _by_distance(right, found)
    return figure


def _fields(figure: Any, found: AssociationField, stage: str) -> None:
    """Mean connection by place, the receiving unit horizontal in the centre."""
    grid = figure.subplots(1, len(found.relative))
    scale = np.percentile(np.abs(found.field), 99.5) or 1.0
    edge = found.field.shape[-1] / 2  # the unit's own pixel is centred on 0
    extent = (-edge, edge, edge, -edge)
    for axes, angle, field in zip(grid, found.relative, found.field, strict=True):
        shown = axes.imshow(
            field, cmap=SIGNED, vmin=-scale, vmax=scale, extent=extent
        )
        axes.plot([-1.5, 1.5], [0, 0], color="#000000", linewidth=1.2, solid_capstyle="round")
        axes.set_title(f"{angle:g}°", loc="center", fontweight="normal")
        picture(axes)
    figure.colorbar(shown, ax=grid, shrink=0.9, extend="both")
    figure.suptitle(
        f"mean connection ({STAGES[stage]}) to a horizontal unit, by relative orientation",
        x=0.01, ha="left", fontsize=8.5, fontweight="bold",
    )  # fmt: skip


def _by_distance(axes: Axes, found: AssociationField) -> None:
    for angle, line, marker in ((0, "-", "o"), (45, "--", "s"), (90, ":", "^")):
        row = int(np.flatnonzero(np.isclose(found.relative, angle))[0])
        look: dict[str, Any] = {"linestyle": line, "marker": marker, "markersize": 3}
        axes.plot(found.distance, found.excitatory[row], color=EXCITATORY, **look)
        axes.plot(found.distance, -found.inhibitory[row], color=INHIBITORY, **look)
    axes.axhline(0, color=MUTED, linewidth=0.7)
    axes.set_title("by distance")
    axes.set_xlabel("distance (pixels)")
    axes.set_ylabel("connection")
    dashes: Any = ((0, "-", "o"), (45, "--", "s"), (90, ":", "^"))
    handles = [
        Line2D([], [], color=EXCITATORY, label="excitatory"),
        Line2D([], [], color=INHIBITORY, label="inhibitory"),
        *(Line2D([], [], color=MUTED, linestyle=s, marker=m, markersize=3, label=f"{a}°")
          for a, s, m in dashes),
    ]  # fmt: skip
    axes.legend(
        handles=handles, fontsize=6.5, handlelength=2.2, loc="center left", bbox_to_anchor=(1, 0.5)
    )


def letter_figure(network: nn.Module, gates: dict[str, np.ndarray] | None = None) -> Figure:
    """The Greek letters by channel, η by step, and the gates.

    Args:
        gates: 'G1' and 'G2', each (T, K): the mean over images and positions at each step; None
            leaves the gates out.
    """
    layer = circuit(network)
    learned = {k: v.detach().float().cpu().numpy().ravel() for k, v in layer.letters().items()}
    with style():
        figure = new_figure(PAGE, 3.5)
        grid = figure.subplots(2, 4).ravel()
        for axes, name in zip(grid, LETTERS, strict=False):
            _letter(axes, name, learned.get(name), getattr(layer, name))
        axes = grid[5]
        axes.set_title("η  scale of H2")
        if layer.adaptation:
            eta = layer.eta.detach().float().cpu().numpy()
            axes.plot(np.arange(1, len(eta) + 1), eta, marker="o", color=BLUE)
            _steps(axes, len(eta))
            axes.grid(axis="y")
        else:
            _absent(axes, "none in this circuit")
        axes = grid[6]
        axes.set_title("gates at rest, σ(b)")
        place = _places()
        for bias, colour, marker in ((layer.b_gain, BLUE, "o"), (layer.b_mix, RED, "s")):
            value = bias.detach().float().cpu().numpy().ravel()
            axes.plot(place, 1 / (1 + np.exp(-value)), marker, color=colour, markersize=3)
        _by_orientation(axes)
        _gate_names(axes)
        _gates(grid[7], gates)
    return figure


def _letter(axes: Axes, name: str, values: np.ndarray | None, constant: object) -> None:
    axes.set_title(f"{SYMBOL[name]}  {ROLE[name]}")
    if values is None:
        _absent(axes, f"the constant {constant:g}" + (" (lesioned)" if constant == 0 else ""))
        return
    place = _places()
    for phase, marker, colour in ((0, "o", BLUE), (1, "s", ORANGE)):
        chosen = slice(phase * ORIENTATIONS, (phase + 1) * ORIENTATIONS)
        axes.plot(place[chosen], values[chosen], marker, color=colour, markersize=3)
    axes.plot(place[ORIENTED:], values[ORIENTED:], "^", color=SERIES[2], markersize=4)
    axes.axhline(0, color=MUTED, linewidth=0.7)
    _by_orientation(axes)


def _places() -> np.ndarray:
    """(K,) the place of each channel on an axis of orientations; the disc at 195."""
    return np.nan_to_num(channel_orientation(), nan=195.0)


def _by_orientation(axes: Axes) -> None:
    axes.set_xticks([0, 45, 90, 135, 195], ["0°", "45°", "90°", "135°", "disc"])
    axes.grid(axis="y")


def _absent(axes: Axes, text: str) -> None:
    picture(axes)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=axes.transAxes)


def _gates(axes: Axes, gates: dict[str, np.ndarray] | None) -> None:
    axes.set_title("gates on an image")
    if gates is None:
        _absent(axes, "no images given")
        return
    for name, colour, marker in (("G1", BLUE, "o"), ("G2", RED, "s")):
        values = gates[name]  # (T, K)
        step = np.arange(1, len(values) + 1)
        low, high = np.percentile(values, [10, 90], axis=1)
        axes.fill_between(step, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(step, values.mean(1), marker=marker, color=colour, markersize=3)
    axes.grid(axis="y")
    _steps(axes, len(step))
    _gate_names(axes)


def _gate_names(axes: Axes) -> None:
    """The axis of the two gates, 0–1, with their names above in their colours."""
    axes.set_ylim(0, 1.2)
    axes.set_yticks(np.linspace(0, 1, 6))
    for place, side, name, colour in (
        (0.02, "left", "● G1 gain", BLUE), (0.98, "right", "■ G2 mix", RED),
    ):  # fmt: skip
        axes.text(
            place, 0.97, name, color=colour, transform=axes.transAxes, ha=side, va="top", fontsize=7
        )


def _steps(axes: Axes, count: int) -> None:
    """An axis of steps, whole numbers."""
    axes.set_xlabel("step")
    axes.set_xticks(range(1, count + 1, 1 if count <= 8 else 2))
