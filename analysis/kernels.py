"""Figures of what was learned: filters, horizontal kernels, association field, letters, gates."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from analysis import association, style
from analysis.association import STAGES, AssociationField, channel_orientation, connections
from analysis.probing import circuit
from layers.gabor import ORIENTATIONS, PHASES, gabor_bank
from layers.hgru import NONLINEARITIES
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork

BANK = ORIENTATIONS * len(PHASES)  # channels that start as oriented filters; the last, as a disc
NONE = 200.0  # where channels without an orientation stand on an axis of orientations
TITLES = {
    "alpha": "α  inhibition (mult.)",
    "mu": "μ  inhibition (add.)",
    "gamma": "γ  scale of C2",
    "kappa": "κ  excitation (add.)",
    "omega": "ω  excitation (mult.)",
}
GATES = (("G1", "b_gain", style.BLUE, "o"), ("G2", "b_mix", style.RED, "s"))
NOMINAL = 180 / ORIENTATIONS * np.arange(ORIENTATIONS)  # of the contours that the formula prefers


@style.style()
def gabor_figure(network: RecurrentNetwork | FeedforwardNetwork) -> Figure:
    """The filter bank before training (the formula) and after; phases in turn.

    Above each column the orientation before training, below each trained filter the one measured.
    """
    after = _numpy(network.drive.weight)[:, 0]
    before = gabor_bank(after.shape[-1]).numpy()[:, 0]
    measured = channel_orientation(network)
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    figure = style.new_figure(style.PAGE, 3.1)
    grid = figure.subplots(4, ORIENTATIONS + 1)
    scale = max(np.abs(before[:BANK]).max(), np.abs(after[:BANK]).max())
    largest = 1.5 * np.abs(before[BANK]).max()
    for row, (*axes_row, last) in enumerate(grid):
        phase, trained = divmod(row, 2)
        bank = after if trained else before
        for column, axes in enumerate(axes_row):
            channel = phase * ORIENTATIONS + column
            shown = style.picture(axes, bank[channel], cmap=style.SIGNED, vmin=-scale, vmax=scale)
            if row == 0:
                axes.set_title(f"{NOMINAL[column]:g}°", **style.PLAIN)
            if trained:
                axes.set_xlabel(_degrees(measured[channel]), fontsize=7, labelpad=2)
        name = "after" if trained else "before"
        axes_row[0].set_ylabel(f"phase {phase + 1}\n{name}", fontsize=7)
        disc: Any = {"cmap": style.SIGNED, "vmin": -largest, "vmax": largest}
        style.picture(last, None if phase else bank[BANK], **disc)
    grid[0, -1].set_title("disc", **style.PLAIN)
    told = f"{_degrees(measured[BANK])}\nscale ±{largest:.2g}"
    grid[1, -1].set_xlabel(told, fontsize=7, labelpad=2)
    figure.colorbar(shown, ax=grid, shrink=0.7, label="weight (per unit of intensity)")
    style.heading(
        figure,
        f"filters before and after training (relative change {100 * change:.0f}%); below: "
        "measured orientation, – none",
    )
    return figure


@style.style()
def kernel_figure(network: nn.Module, stage: str = "weights") -> Figure:
    """All K×K horizontal kernels, sorted by the measured orientation of the channels."""
    kernel, orientation = connections(network, stage), channel_orientation(network)
    order = np.argsort(orientation, kind="stable")  # channels without an orientation last
    K, size = len(order), kernel.shape[-1]
    tiles = kernel[order][:, order].transpose(0, 2, 1, 3).reshape(K * size, K * size)
    scale = float(np.percentile(np.abs(kernel), 99.5)) or 1.0
    centres = (np.arange(K) + 0.5) * size - 0.5
    names = [_degrees(orientation[channel]) for channel in order]
    figure = style.new_figure(style.PAGE * 0.86, style.PAGE * 0.78)
    axes = figure.subplots()
    look: Any = {"cmap": style.SIGNED, "vmin": -scale, "vmax": scale}
    shown = style.picture(axes, tiles, interpolation="none", **look)
    for i in range(K):
        for line in (axes.axhline, axes.axvline):
            line(i * size - 0.5, color="#8c8c8c", linewidth=0.3)
    axes.set_xticks(centres, names, rotation=90)
    axes.set_yticks(centres, names)
    axes.tick_params(length=0, labelsize=6)
    axes.set(
        xlabel="sending channel, by the orientation of its trained filter (–: none)",
        ylabel="receiving channel",
        title=f"horizontal kernels, {size}×{size} pixels each: {STAGES[stage]}",
    )
    figure.colorbar(shown, ax=axes, shrink=0.6, extend="both", label="connection (weight)")
    return figure


@style.style()
def association_figure(network: nn.Module, stage: str = "weights") -> Figure:
    """The association field (see :mod:`analysis.association` for what is what)."""
    orientation = channel_orientation(network)
    if np.isnan(orientation).all():
        figure = style.new_figure(style.PAGE, 0.5)
        style.heading(figure, "no association field: no trained filter has an orientation")
        return figure
    found = association.association_field(connections(network, stage), orientation)
    angles = [f"{angle:g}°" for angle in found.relative]
    figure = style.new_figure(style.PAGE, 3.7)
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.62, 1])
    upper, lower = parts
    _fields(upper, found, stage)
    left, middle, right = lower.subplots(1, 3, width_ratios=[1, 1, 1.25])
    largest = np.nanmax([found.excitatory, found.inhibitory])
    look: Any = {"cmap": style.SEQUENTIAL, "vmin": 0, "vmax": largest}
    for axes, values in ((left, found.excitatory), (middle, found.inhibitory)):
        shown = axes.imshow(values, aspect="auto", origin="lower", **look)
        axes.set_xlabel("distance (pixels)")
        axes.set_yticks(range(len(angles)), angles)
    left.set(title="mean excitatory", ylabel="relative orientation")
    middle.set_title("mean inhibitory")
    middle.tick_params(labelleft=False)
    lower.colorbar(shown, ax=[left, middle], shrink=0.9, label="connection (weight)")
    kinds = (1, "excitatory", style.RED, "o"), (-1, "inhibitory", style.BLUE, "s")
    for means, null, (sign, name, colour, marker) in zip(
        found.by_orientation, found.null, kinds, strict=True
    ):
        band: Any = {"color": colour, "alpha": 0.2, "linewidth": 0, "label": "shuffled, 95%"}
        right.fill_between(found.relative, *sign * null, **band)
        right.plot(found.relative, sign * means, color=colour, marker=marker, label=name)
    right.axhline(0, color=style.MUTED, linewidth=0.7)
    right.set(
        title="over all distances", xlabel="relative orientation", ylabel="mean connection",
        ylim=(None, 1.9 * right.get_ylim()[1]),
    )  # fmt: skip
    right.set_xticks(found.relative, angles)
    right.legend(loc="upper center", ncols=2, fontsize=6.5, handlelength=1.5, columnspacing=1)
    return figure


def _fields(figure: Any, found: AssociationField, stage: str) -> None:
    """Mean connection by place, the receiving unit horizontal in the centre."""
    grid = figure.subplots(1, len(found.relative))
    scale = np.nanpercentile(np.abs(found.field), 99.5) or 1.0
    edge = found.field.shape[-1] / 2  # the unit's own pixel is centred on 0
    look: Any = {"cmap": style.SIGNED, "vmin": -scale, "vmax": scale}
    for axes, angle, field in zip(grid, found.relative, found.field, strict=True):
        shown = style.picture(axes, field, extent=(-edge, edge, edge, -edge), **look)
        axes.plot([-1.5, 1.5], [0, 0], color="#000000", linewidth=1.2, solid_capstyle="round")
        axes.set_title(f"{angle:g}°", **style.PLAIN)
    figure.colorbar(shown, ax=grid, shrink=0.9, extend="both", label="connection")
    style.heading(
        figure,
        f"mean connection ({STAGES[stage]}) to a horizontal unit, by relative orientation; "
        f"{found.channels} oriented channels",
    )


@style.style()
def letter_figure(network: nn.Module, gates: dict[str, np.ndarray]) -> Figure:
    """The Greek letters by channel, η by step, and the gates (0: closed, 1: open).

    ``gates``: 'G1' and 'G2', each (T, K): the mean over images and positions at each step.
    """
    layer = circuit(network)
    learned = {name: _numpy(letter).ravel() for name, letter in layer.letters().items()}
    place = np.nan_to_num(channel_orientation(network), nan=NONE)
    figure = style.new_figure(style.PAGE, 3.5)
    *letters, eta, rest, seen = figure.subplots(2, 4).ravel()
    for axes, (name, what) in zip(letters, TITLES.items(), strict=True):
        axes.set_title(what)
        if name in learned:
            axes.plot(place, learned[name], "o", color=style.BLUE, markersize=3)
            axes.axhline(0, color=style.MUTED, linewidth=0.7)
            _orientations(axes)
        elif name in ("kappa", "omega") and not layer.multiplicative_excitation:
            _absent(axes, "none in this circuit")
        else:
            constant = getattr(layer, name)
            lesioned = " (lesioned)" if constant == 0 else ""
            _absent(axes, f"the constant {constant:g}{lesioned}")
    eta.set_title("η  scale of H2")
    if layer.adaptation:
        eta.plot(range(1, len(layer.eta) + 1), _numpy(layer.eta), marker="o", color=style.BLUE)
        _steps(eta, len(layer.eta))
    else:
        _absent(eta, "none in this circuit")
    rest.set_title("gates at rest, σ(b)")
    seen.set_title("gates on an image")
    for name, bias, colour, marker in GATES:
        if not layer.batch_norm:
            opening = NONLINEARITIES[layer.gate_nl](getattr(layer, bias))
            rest.plot(place, _numpy(opening).ravel(), marker, color=colour, markersize=3)
        step = range(1, len(gates[name]) + 1)
        low, high = np.percentile(gates[name], [10, 90], axis=1)
        seen.fill_between(step, low, high, color=colour, alpha=0.18, linewidth=0)
        seen.plot(step, gates[name].mean(1), marker=marker, color=colour, markersize=3)
    if layer.batch_norm:
        _absent(rest, "b is normalised away")
    else:
        _orientations(rest)
        _gate_names(rest)
    _steps(seen, len(gates["G1"]))
    _gate_names(seen)
    style.note(
        figure,
        "A point a channel, at the orientation of its trained filter. Gates on an image: mean "
        "over channels, band from 10th to 90th percentile.",
    )
    return figure


def _numpy(tensor: Any) -> np.ndarray:
    found: np.ndarray = tensor.detach().float().cpu().numpy()
    return found


def _degrees(orientation: float) -> str:
    return "–" if np.isnan(orientation) else f"{orientation:.0f}°"


def _orientations(axes: Axes) -> None:
    """An axis of the channels' orientations."""
    axes.set_xticks([0, 45, 90, 135, NONE], ["0°", "45°", "90°", "135°", "none"])
    axes.set_xlim(-8, NONE + 8)
    axes.grid(axis="y")


def _absent(axes: Axes, text: str) -> None:
    style.picture(axes)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=style.MUTED, transform=axes.transAxes)


def _gate_names(axes: Axes) -> None:
    """The axis of the two gates, 0–1 and as far as they reach, with their names above in their
    colours."""
    low, high = min(0, axes.dataLim.y0), max(1, axes.dataLim.y1)
    axes.set_ylim(low, low + 1.2 * (high - low))
    if (low, high) == (0, 1):
        axes.set_yticks(np.linspace(0, 1, 6))
    look: Any = {"transform": axes.transAxes, "va": "top", "fontsize": 7}
    axes.text(0.02, 0.97, "● G1 gain", color=style.BLUE, ha="left", **look)
    axes.text(0.98, 0.97, "■ G2 mix", color=style.RED, ha="right", **look)


def _steps(axes: Axes, count: int) -> None:
    """An axis of steps, whole numbers."""
    axes.set(xlabel="step", xticks=range(1, count + 1, 1 if count <= 8 else 2))
    axes.grid(axis="y")
