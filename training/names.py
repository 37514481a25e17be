"""Choosing by name."""

from collections.abc import Mapping
from typing import TypeVar

from dataset_processing.names import unknown

T = TypeVar("T")


def choose(what: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``.

    Raises:
        ValueError: there is no such name; the message has the nearest one and all of them.
    """
    if name not in known:
        raise unknown(what, name, known)
    return known[name]
