"""Exchanges between processes through the memory of their GPUs; statistics.cu says how."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layers.kernels import compiled

# As in statistics.cu.
CHANNELS = 128
AREA, THREADS = 2048, 512
MOST = 8  # ranks
NOWHERE = (ctypes.c_int64 * MOST)(), -1  # a kernel's arguments where there are no peers


def words(ranks: int) -> int:
    """How many words of eight bytes, zeros at first, each of so many ranks is to have."""
    return (2 * ranks * AREA + 1) * CHANNELS


class Peers:
    """What this rank has of all ranks' memory.

    Args:
        places: where each one's words lie, by this rank's addresses.
        rank: this one's number.
        kept: what the memory stays for.
    """

    def __init__(self, places: Sequence[int], rank: int, kept: Any = None) -> None:
        self.ranks, self.rank, self.kept = len(places), rank, kept
        self.places = (ctypes.c_int64 * MOST)(*places)

    def sum(self, own: Tensor, out: Tensor | None = None) -> Tensor:
        """All ranks' numbers, summed in the order of ranks, anew or into `out` (`own` also)."""
        return self._exchange(own, own.new_empty(own.shape) if out is None else out, rows=False)

    def gather(self, own: Tensor) -> Tensor:
        """Every rank's numbers (ranks, n) from this rank's own (n,)."""
        return self._exchange(own, own.new_empty(self.ranks, len(own)), rows=True)

    def _exchange(self, own: Tensor, out: Tensor, rows: bool) -> Tensor:
        assert own.dtype == out.dtype == torch.float32 and out.is_contiguous()
        own, count = own.contiguous(), own.numel()
        kernel = compiled.function("statistics.cu", "exchange_ranks", own.device)
        kernel(
            (min(-(-count // AREA), CHANNELS),), THREADS, own, count, out, int(rows), self.places,
            self.rank, self.ranks,
        )  # fmt: skip
        return out
