"""Figures of what was learned: filters, horizontal kernels, association field, letters, gates."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from analysis.association import (
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
    PAGE,
    RED,
    SEQUENTIAL,
    SIGNED,
    new_figure,
    picture,
    style,
)
from layers.gabor import ORIENTATIONS, PHASES, gabor_bank
from layers.hgru import LETTERS
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork

BANK = ORIENTATIONS * len(PHASES)  # channels that start as oriented filters; the last, as a disc
NONE = 200.0  # where channels without an orientation stand on an axis of orientations
SYMBOL = {"alpha": "α", "mu": "μ", "gamma": "γ", "kappa": "κ", "omega": "ω", "eta": "η"}
ROLE = {
    "alpha": "inhibition (mult.)",
    "mu": "inhibition (add.)",
    "gamma": "scale of C2",
    "kappa": "excitation (add.)",
    "omega": "excitation (mult.)",
}
# Orientation of the contour that each filter of the formula prefers, and of the disc.
STARTING = np.append(np.tile(180 / ORIENTATIONS * np.arange(ORIENTATIONS), len(PHASES)), np.nan)


def gabor_figure(network: RecurrentNetwork | FeedforwardNetwork) -> Figure:
    """The filter bank before training (the formula) and after; phases in turn.

    Above each column the orientation before training, below each trained filter the one measured.
    """
    after = network.drive.weight.detach().float().cpu().numpy()[:, 0]
    before = gabor_bank(after.shape[-1]).numpy()[:, 0]
    measured = channel_orientation(network)
    nominal = STARTING[:ORIENTATIONS]
    order = np.argsort(nominal)
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    with style():
        figure = new_figure(PAGE, 3.1)
        grid = figure.subplots(4, ORIENTATIONS + 1)
        scale = max(np.abs(before[:BANK]).max(), np.abs(after[:BANK]).max())
        for row, (bank, phase, name) in enumerate(
            [(before, 0, "before"), (after, 0, "after"), (before, 1, "before"), (after, 1, "after")]
        ):
            for column, place in enumerate(order):
                axes, channel = grid[row, column], phase * ORIENTATIONS + place
                shown = axes.imshow(bank[channel], cmap=SIGNED, vmin=-scale, vmax=scale)
                if row == 0:
                    axes.set_title(f"{nominal[place]:g}°", loc="center", fontweight="normal")
                picture(axes)
                if name == "after":
                    axes.set_xlabel(_degrees(measured[channel]), fontsize=7, labelpad=2)
            grid[row, 0].set_ylabel(f"phase {phase + 1}\n{name}", fontsize=7)
            disc = grid[row, ORIENTATIONS]
            picture(disc)
            if row < 2:
                largest = 1.5 * np.abs(before[BANK]).max()
                disc.imshow(bank[BANK], cmap=SIGNED, vmin=-largest, vmax=largest)
        grid[0, ORIENTATIONS].set_title("disc", loc="center", fontweight="normal")
        grid[1, ORIENTATIONS].set_xlabel(
            f"{_degrees(measured[BANK])}\nscale ±{largest:.2g}", fontsize=7, labelpad=2
        )
        figure.colorbar(shown, ax=grid, shrink=0.7, label="weight (per unit of intensity)")
        _heading(
            figure,
            f"filters before and after training (relative change {100 * change:.0f}%); below: "
            "measured orientation, – none",
        )
    return figure


def kernel_figure(network: nn.Module, stage: str = "weights") -> Figure:
    """All K×K horizontal kernels, sorted by the measured orientation of the channels."""
    kernel = connections(network, stage)
    orientation = channel_orientation(network)
    order = sorted_channels(orientation)
    K, size = len(order), kernel.shape[-1]
    tiles = kernel[order][:, order].transpose(0, 2, 1, 3).reshape(K * size, K * size)
    scale = float(np.percentile(np.abs(kernel), 99.5)) or 1.0
    centres = (np.arange(K) + 0.5) * size - 0.5
    names = [_degrees(orientation[channel]) for channel in order]
    with style():
        figure = new_figure(PAGE * 0.86, PAGE * 0.78)
        axes = figure.subplots()
        shown = axes.imshow(tiles, cmap=SIGNED, vmin=-scale, vmax=scale, interpolation="none")
        for i in range(K):
            for line in (axes.axhline, axes.axvline):
                line(i * size - 0.5, color="#8c8c8c", linewidth=0.3)
        axes.set_xticks(centres, names, rotation=90)
        axes.set_yticks(centres, names)
        axes.tick_params(length=0, labelsize=6)
        axes.set_xlabel("sending channel, by the orientation of its trained filter (–: none)")
        axes.set_ylabel("receiving channel")
        axes.set_title(f"horizontal kernels, {size}×{size} pixels each: {STAGES[stage]}")
        figure.colorbar(shown, ax=axes, shrink=0.6, extend="both", label="connection (weight)")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def association_figure(network: nn.Module, stage: str = "weights") -> Figure:
    """The association field (see :mod:`analysis.association` for what is what)."""
    found = association_field(connections(network, stage), channel_orientation(network))
    with style():
        figure = new_figure(PAGE, 3.7)
        parts: Any = figure.subfigures(2, 1, height_ratios=[0.62, 1])
        upper, lower = parts
        _fields(upper, found, stage)
        left, middle, right = lower.subplots(1, 3, width_ratios=[1, 1, 1.25])
        largest = np.nanmax([found.excitatory, found.inhibitory])
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
        lower.colorbar(shown, ax=[left, middle], shrink=0.9, label="connection (weight)")
        _by_orientation_and_null(right, found)
    return figure


def _fields(figure: Any, found: AssociationField, stage: str) -> None:
    """Mean connection by place, the receiving unit horizontal in the centre."""
    grid = figure.subplots(1, len(found.relative))
    scale = np.nanpercentile(np.abs(found.field), 99.5) or 1.0
    edge = found.field.shape[-1] / 2  # the unit's own pixel is centred on 0
    extent = (-edge, edge, edge, -edge)
    for axes, angle, field in zip(grid, found.relative, found.field, strict=True):
        shown = axes.imshow(field, cmap=SIGNED, vmin=-scale, vmax=scale, extent=extent)
        axes.plot([-1.5, 1.5], [0, 0], color="#000000", linewidth=1.2, solid_capstyle="round")
        axes.set_title(f"{angle:g}°", loc="center", fontweight="normal")
        picture(axes)
    figure.colorbar(shown, ax=grid, shrink=0.9, extend="both", label="connection")
    _heading(
        figure,
        f"mean connection ({STAGES[stage]}) to a horizontal unit, by relative orientation; "
        f"{found.channels} oriented channels",
    )


def _by_orientation_and_null(axes: Axes, found: AssociationField) -> None:
    """Both parts by relative orientation, with their null."""
    for part, sign, name, colour, marker in (
        (0, 1, "excitatory", EXCITATORY, "o"), (1, -1, "inhibitory", INHIBITORY, "s"),
    ):  # fmt: skip
        low, high = sign * found.null[part]
        axes.fill_between(
            found.relative, low, high, color=colour, alpha=0.2, linewidth=0,
            label="shuffled, 95%",
        )  # fmt: skip
        axes.plot(
            found.relative, sign * found.by_orientation[part], color=colour, marker=marker,
            label=name,
        )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.7)
    axes.set_title("over all distances")
    axes.set_xlabel("relative orientation")
    axes.set_ylabel("mean connection")
    axes.set_xticks(found.relative, [f"{angle:g}°" for angle in found.relative])
    axes.set_ylim(top=1.9 * axes.get_ylim()[1])
    axes.legend(loc="upper center", ncols=2, fontsize=6.5, handlelength=1.5, columnspacing=1)


def _heading(figure: Any, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=8.5, fontweight="bold")


def _degrees(orientation: float) -> str:
    return "–" if np.isnan(orientation) else f"{orientation:.0f}°"


def letter_figure(network: nn.Module, gates: dict[str, np.ndarray] | None = None) -> Figure:
    """The Greek letters by channel, η by step, and the gates (0: closed, 1: open).

    Args:
        gates: 'G1' and 'G2', each (T, K): the mean over images and positions at each step; None
            leaves the gates out.
    """
    layer = circuit(network)
    learned = {k: v.detach().float().cpu().numpy().ravel() for k, v in layer.letters().items()}
    with style():
        figure = new_figure(PAGE, 3.5)
        grid = figure.subplots(2, 4).ravel()
        place = np.nan_to_num(channel_orientation(network), nan=NONE)
        for axes, name in zip(grid, LETTERS, strict=False):
            _letter(axes, name, learned.get(name), getattr(layer, name), place)
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
        for bias, colour, marker in ((layer.b_gain, BLUE, "o"), (layer.b_mix, RED, "s")):
            value = bias.detach().float().cpu().numpy().ravel()
            axes.plot(place, 1 / (1 + np.exp(-value)), marker, color=colour, markersize=3)
        _orientations(axes)
        _gate_names(axes)
        _gates(grid[7], gates)
        figure.supxlabel(
            "A point a channel, at the orientation of its trained filter. Gates on an image: mean "
            "over channels, band from 10th to 90th percentile.", fontsize=7, color=MUTED,
        )  # fmt: skip
    return figure


def _letter(
    axes: Axes, name: str, values: np.ndarray | None, constant: object, place: np.ndarray
) -> None:
    axes.set_title(f"{SYMBOL[name]}  {ROLE[name]}")
    if values is None:
        _absent(axes, f"the constant {constant:g}" + (" (lesioned)" if constant == 0 else ""))
        return
    axes.plot(place, values, "o", color=BLUE, markersize=3)
    axes.axhline(0, color=MUTED, linewidth=0.7)
    _orientations(axes)


def _orientations(axes: Axes) -> None:
    axes.set_xticks([0, 45, 90, 135, NONE], ["0°", "45°", "90°", "135°", "none"])
    axes.set_xlim(-8, NONE + 8)
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
