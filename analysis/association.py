"""The association field: which units the horizontal kernel joins, by orientation and distance.

Definitions. A channel's *orientation* is that of the contour its trained filter prefers, in degrees
from the horizontal, counter-clockwise on the screen, 0–180: :func:`orientation_of` measures it. A
filter that is no more selective than white noise has none. ``W[o, i, y, x]`` is the *connection*
to a unit of channel o from one of channel i that lies (y − r, x − r) pixels below and to the right
of it. The *distance* is the length of that vector; the *relative orientation* the difference of
the two orientations, folded to 0–90°. A connection above 0 is called excitatory, one below 0
inhibitory: by the sign of W itself, or of what W does through the letters (:func:`connections`).

The *null* shuffles the orientations among the oriented channels: what the same kernels would show
if they did not depend on orientation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from analysis.probing import circuit
from support.errors import choose

STEP = 15.0  # degrees: width of a bin of relative orientation
GRID = 64  # frequencies a side at which a filter's spectrum is taken
NOISE = 2_000  # white-noise filters
SHUFFLES = 1_000
STAGES = {
    "weights": "W, by its own sign",
    "second_weights": "W of the second stage, by its own sign",
    "excitation": "κ γ W of the second stage",
    "inhibition": "−μ W of the first stage",
}


@dataclass(frozen=True)
class AssociationField:
    """Mean connections between oriented channels.

    ``field``: every kernel is turned so that the receiving unit's orientation is horizontal; rows
    below, columns to the right of it, in pixels.
    """

    relative: np.ndarray  # (R,) centres of the bins of relative orientation: 0, 15 … 90 degrees
    distance: np.ndarray  # (D,) of the bins of distance: 0, 1 … pixels, the nearest
    excitatory: np.ndarray  # (R, D) mean over connections of max(w, 0)
    inhibitory: np.ndarray  # (R, D) mean over connections of max(−w, 0)
    field: np.ndarray  # (R, h, w) mean connection by place; h, w odd: see turn
    by_orientation: np.ndarray  # (2, R) mean excitatory and inhibitory part over all distances
    null: np.ndarray  # (2, 2, R) of these, percentiles 2.5 and 97.5 over shuffled orientations
    channels: int  # number of oriented channels


def orientation_of(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orientation and selectivity of filters (K, h, w), from their power spectra.

    The power at each spatial frequency, the mean left out, counts for the orientation of that
    frequency's grating: the orientation is that of the mean vector over doubled angles, the
    selectivity its length (one minus the circular variance: Ringach et al. 2002).

    Returns:
        (K,) degrees, 0–180; (K,) 0 (all orientations alike) to 1 (a grating).
    """
    power = np.abs(np.fft.fft2(filters, (GRID, GRID))) ** 2
    y, x = np.meshgrid(np.fft.fftfreq(GRID), np.fft.fftfreq(GRID), indexing="ij")
    radius = np.hypot(x, y)
    power = power * ((radius > 0) & (radius <= 0.5))
    doubled = np.exp(2j * np.arctan2(-y, x))  # of the frequency; y points down in an image
    vector = (power * doubled).sum((1, 2)) / np.maximum(power.sum((1, 2)), 1e-30)
    return (np.rad2deg(np.angle(vector)) / 2 + 90) % 180, np.abs(vector)


def channel_orientation(network: nn.Module) -> np.ndarray:
    """(K,) orientation of each channel's trained filter in degrees; not a number without one.

    A filter has an orientation if it is more selective than 95% of white-noise filters of its size.
    """
    drive: Any = network.drive
    filters = drive.weight.detach().float().cpu().numpy()[:, 0]
    noise = np.random.default_rng(0).normal(size=(NOISE, *filters.shape[1:]))
    orientation, selectivity = orientation_of(filters)
    return np.where(selectivity > np.quantile(orientation_of(noise)[1], 0.95), orientation, np.nan)


def connections(network: nn.Module, stage: str = "weights") -> np.ndarray:
    """The horizontal kernel (K, K, h, w) of one of ``STAGES``: [receiving, sending, row, column].

    κ_o γ_o W2[o] is what E adds to the second stage where H1 is small; −μ_o W1[o] what (μ C1) takes
    from the first. W is the first stage's, where there are two; the second's is the same where
    there is one only. UserError where the stage is not known, or the network has no circuit.
    """
    choose("stage", stage, STAGES)
    layer = circuit(network)
    second = stage in ("second_weights", "excitation") and layer.separate_kernels
    kernel = layer.W2 if second else layer.W1
    κ = layer.kappa if layer.multiplicative_excitation else 1.0
    factor = {"excitation": κ * layer.gamma, "inhibition": -layer.mu}.get(stage, 1.0)
    # Of shape (K, 1, 1), or one number for all.
    factor = torch.as_tensor(factor, device=kernel.device).reshape(-1, 1, 1, 1)
    return (factor * kernel).detach().float().cpu().numpy()


def association_field(
    kernel: np.ndarray, orientation: np.ndarray, shuffles: int = SHUFFLES, seed: int = 0
) -> AssociationField:
    """Mean connections by relative orientation, distance and place, and their null.

    Args:
        kernel: (K, K, h, w), h = w, as :func:`connections` gives.
        orientation: (K,) degrees; not a number: the channel is left out.
    """
    oriented = np.flatnonzero(np.isfinite(orientation))
    kernel = kernel[np.ix_(oriented, oriented)].astype(np.float64)
    degrees = orientation[oriented]
    relative = np.arange(0, 90 + STEP / 2, STEP)
    rows = range(len(relative))
    bins = _bins(degrees)
    r = (kernel.shape[-1] - 1) // 2  # where the receiving unit lies
    y, x = np.mgrid[: kernel.shape[2], : kernel.shape[3]] - r
    rings = np.rint(np.hypot(y, x)).astype(int)  # corners reach further, in some directions only
    distance = np.arange(r + 1)
    parts = np.maximum(kernel, 0), np.maximum(-kernel, 0)
    excitatory, inhibitory = (
        np.array([[_mean(part[bins == row][:, rings == d]) for d in distance] for row in rows])
        for part in parts
    )
    turned = turn(kernel, degrees)
    nowhere = np.full(turned.shape[2:], np.nan)
    fields = [turned[bins == row].mean(0) if (bins == row).any() else nowhere for row in rows]
    pairs = np.stack([part[:, :, rings <= r].mean(2) for part in parts])  # (2, K, K)

    def by_bin(bins: np.ndarray) -> np.ndarray:
        """(2, R) means over the pairs of each bin."""
        return np.array([[_mean(part[bins == row]) for row in rows] for part in pairs])

    random = np.random.default_rng(seed)
    null = [by_bin(_bins(random.permutation(degrees))) for _ in range(shuffles)]
    band = np.percentile(null, [2.5, 97.5], axis=0).transpose(1, 0, 2)
    means = excitatory, inhibitory, np.array(fields), by_bin(bins)
    return AssociationField(relative, distance, *means, band, len(oriented))


def _bins(degrees: np.ndarray) -> np.ndarray:
    """(K, K) the bin of each pair's relative orientation."""
    return np.rint(folded(degrees[:, None] - degrees[None, :]) / STEP).astype(int)


def _mean(values: np.ndarray) -> float:
    """The mean; not a number of none."""
    return float(values.mean()) if values.size else np.nan


def folded(angle: np.ndarray) -> np.ndarray:
    """Angles between two lines, in degrees, 0–90."""
    angle = np.abs(angle) % 180
    return np.minimum(angle, 180 - angle)


def turn(kernel: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Kernels (K, I, h, w), each turned clockwise by its receiving channel's orientation (K,), in
    degrees: bilinear between pixels, 0 outside. A channel of orientation φ then lies horizontal.

    Kernels of an even width get a row and a column of 0 in front: the receiving unit, as TensorFlow
    pads, is then their centre.
    """
    kernel = np.pad(kernel, [(0, 0), (0, 0), *((1 - size % 2, 0) for size in kernel.shape[2:])])
    how: Any = {"axes": (1, 2), "reshape": False, "order": 1, "mode": "grid-constant"}
    pairs = zip(kernel, orientation, strict=True)
    return np.stack([ndimage.rotate(one, -degrees, **how) for one, degrees in pairs])
