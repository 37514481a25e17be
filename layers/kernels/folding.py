"""Activities into the folded layout and back (docs/kernels.md), in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from layers.kernels.axes import Sizes

CHUNK = 1024  # numbers of a program


@triton.jit
def _fold_kernel(
    x, folded, total, height, width, right_y, left_y, right, left,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD: tl.constexpr, ODD_Y: tl.constexpr,
    UNFOLD: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """So many numbers of the folded layout from an activity (planes, height, width), or back."""
    place = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    row = (place // (2 * RUN)).to(tl.int32)
    j = (place % (2 * RUN)).to(tl.int32)
    y = row % (2 * RUN_Y)
    known = (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
    known &= (j < width - right) | ((j >= RUN + ODD) & (j <= RUN + left))
    known &= place < total
    y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
    column = tl.where(j < RUN, right + j, left - (j - RUN))
    at = x + ((row // (2 * RUN_Y)).to(tl.int64) * height + y) * width + column
    if UNFOLD:
        tl.store(at, tl.load(folded + place, mask=known, other=0.0), mask=known)
    else:
        tl.store(folded + place, tl.load(at, mask=known, other=0.0), mask=place < total)


def fold(x: Tensor, sizes: Sizes) -> Tensor:
    """Activity (N, K, H, W) → folded (N, K, H', W')."""
    out = x.new_empty(*x.shape[:2], sizes.y.pitch, sizes.x.pitch)
    _launch_fold(x.contiguous(), out, sizes, False)
    return out


def unfold(folded: Tensor, sizes: Sizes) -> Tensor:
    """Folded (N, K, H', W') → activity (N, K, H, W)."""
    out = folded.new_empty(*folded.shape[:2], sizes.y.size, sizes.x.size)
    _launch_fold(out, folded, sizes, True)
    return out


def _launch_fold(x: Tensor, folded: Tensor, sizes: Sizes, unfold: bool) -> None:
    y, x_axis = sizes.y, sizes.x
    _fold_kernel[(triton.cdiv(folded.numel(), CHUNK),)](
        x, folded, folded.numel(), y.size, x_axis.size, y.right, y.left, x_axis.right, x_axis.left,
        RUN=x_axis.run, RUN_Y=y.run, ODD=x_axis.odd, ODD_Y=y.odd, UNFOLD=unfold,
        CHUNK=CHUNK, num_warps=4,
    )  # fmt: skip
