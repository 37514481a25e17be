"""The association field: which units the horizontal kernel joins, by orientation and distance.

Definitions. Channels 0–11 and 12–23 start from Gabor filters of 12 orientations and two phases,
channel 24 from a disc (``layers.gabor``). A channel's *orientation* is that of the contour its
filter prefers when training starts, in degrees from the horizontal, counter-clockwise on the
screen, 0–165. ``W[o, i, y, x]`` is the *connection* to a unit of channel o from one of channel i
that lies (y − r, x − r) pixels below and to the right of it. The *distance* is the length of that
vector; the *relative orientation* the difference of the two orientations, folded to 0–90°. A
connection above 0 is called excitatory, one below 0 inhibitory: by the sign of W itself, or of
what W does through the letters (see :func:`connections`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from analysis.probing import circuit
from layers.gabor import ORIENTATIONS, PHASES

STEP = 180 / ORIENTATIONS  # degrees from one orientation to the next
ORIENTED = ORIENTATIONS * len(PHASES)  # channels that have an orientation; the last has none
STAGES = {
    "weights": "W, by its own sign",
    "second_weights": "W of the second stage, by its own sign",
    "excitation": "κ γ W of the second stage",
    "inhibition": "−μ W of the first stage",
}


@dataclass(frozen=True)
class AssociationField:
    """Mean connections between oriented channels.

    Attributes:
        relative: (R,) relative orientations in degrees, 0, 15 … 90.
        distance: (D,) centres of the bins in pixels, 0, 1 …: distances rounded to the nearest.
        excitatory: (R, D) mean over connections of max(w, 0).
        inhibitory: (R, D) mean over connections of max(−w, 0).
        field: (R, h, w) mean connection by place: every kernel is turned so that the receiving
            unit's orientation is horizontal; rows below, columns to the right of it, in pixels.
    """

    relative: np.ndarray
    distance: np.ndarray
    excitatory: np.ndarray
    inhibitory: np.ndarray
    field: np.ndarray


def channel_orientation(channels: int = ORIENTED + 1) -> np.ndarray:
    """(K,) orientation of each channel in degrees, 0–165; not a number for the disc.

    The filter of θ varies along its u axis, so the contour it prefers runs along v: θ − 90° in a
    coordinate system whose y points up.
    """
    theta = -90 + STEP * np.arange(ORIENTATIONS)
    oriented = np.tile((theta - 90) % 180, len(PHASES))
    return np.concatenate([oriented, np.full(channels - len(oriented), math.nan)])


def sorted_channels() -> np.ndarray:
    """(K,) the channels by orientation, the two phases of each side by side, the disc last."""
    orientation = np.nan_to_num(channel_orientation(), nan=math.inf)
    return np.argsort(orientation, kind="stable")


def connections(network: nn.Module, stage: str = "weights") -> np.ndarray:
    """The horizontal kernel (K, K, h, w) of a stage: [receiving, sending, row, column].

    Args:
        stage: ``'weights'``: W itself (the first stage's, where there are two).
            ``'second_weights'``: W of the second stage, the same where there is one only.
            ``'excitation'``: κ_o γ_o W2[o], what E adds to the second stage where H1 is small.
            ``'inhibition'``: −μ_o W1[o], what (μ C1) takes from the first stage.

    Raises:
        ValueError: the stage is not known, or the network has no circuit.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}; found {stage!r}")
    layer = circuit(network)
    second = stage in ("second_weights", "excitation") and layer.separate_kernels
    kernel = layer.W2 if second else layer.W1
    factor: torch.Tensor | float = 1.0
    if stage == "excitation":
        κ = layer.kappa if layer.multiplicative_excitation else 1.0
        factor = κ * layer.gamma
    elif stage == "inhibition":
        factor = -1.0 * layer.mu
    if isinstance(factor, torch.Tensor):
        factor = factor[:, None]  # (K, 1, 1, 1)
    return (factor * kernel).detach().float().cpu().numpy()


def association_field(kernel: np.ndarray) -> AssociationField:
    """Mean connections by relative orientation, distance and place.

    Args:
        kernel: (K, K, h, w) as :func:`connections` gives; channels 0–23 are oriented.

    Raises:
        ValueError: the kernel has fewer than 24 channels or is not square.
    """
    if kernel.ndim != 4 or kernel.shape[0] < ORIENTED or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(
            f"an association field needs a square kernel of {ORIENTED} oriented channels or more, "
            f"found {kernel.shape}"
        )
    oriented = kernel[:ORIENTED, :ORIENTED].astype(np.float64)
    orientation = channel_orientation()[:ORIENTED]
    pair = folded(orientation[:, None] - orientation[None, :])  # (24, 24)
    relative = np.arange(0, 90 + STEP / 2, STEP)
    r = (kernel.shape[-1] - 1) // 2  # where the receiving unit lies
    y, x = np.mgrid[: kernel.shape[2], : kernel.shape[3]] - r
    bins = np.rint(np.hypot(y, x)).astype(int)
    bins = np.where(bins <= r, bins, -1)  # corners reach further, in some directions only
    distance = np.arange(r + 1)
    excitatory, inhibitory = np.zeros((2, len(relative), len(distance)))
    turned = turn(oriented, orientation)
    field = np.zeros((len(relative), *kernel.shape[2:]))
    for row, angle in enumerate(relative):
        chosen = oriented[np.isclose(pair, angle)]  # (pairs, h, w)
        for d in distance:
            ring = chosen[:, bins == d]
            excitatory[row, d] = np.maximum(ring, 0).mean()
            inhibitory[row, d] = np.maximum(-ring, 0).mean()
        field[row] = turned[np.isclose(pair, angle)].mean(0)
    return AssociationField(relative, distance, excitatory, inhibitory, field)


def folded(angle: np.ndarray) -> np.ndarray:
    """Angles between two lines, in degrees, 0–90."""
    angle = np.abs(angle) % 180
    return np.minimum(angle, 180 - angle)


def turn(kernel: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Kernels (K, I, h, w), each turned clockwise by its receiving channel's orientation.

    Bilinear between pixels, 0 outside. A channel of orientation φ then lies horizontal.

    Args:
        orientation: (K,) degrees.
    """
    angles = torch.from_numpy(np.deg2rad(orientation)).double()
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # Where a place of the turned kernel, x to the right and y down, lies in the kernel: turned
    # back counter-clockwise.
    theta = torch.stack(
        [torch.stack([cos, sin, zero], 1), torch.stack([-sin, cos, zero], 1)], 1
    )  # (K, 2, 3)
    grid = F.affine_grid(theta, [len(kernel), 1, *kernel.shape[2:]], align_corners=True)
    return F.grid_sample(torch.from_numpy(kernel), grid, align_corners=True).numpy()
