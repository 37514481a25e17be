"""What a setting may be: how its value is checked, and how it is read on the command line."""

import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from dataset_processing.augmentations import ORDER
from support.errors import UserError, unknown

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        expected: that in words, as in "lr must be *a number above 0*".
        take: the value as it is kept; raises ValueError or TypeError for one that cannot be.
        read: what a text of the command line stands for, to be taken then.
        choices: names, of which the value is one, or a list of which it is.
    """

    expected: str
    take: Callable[[Any], Any]
    read: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()

    def of(self, key: str, value: Any) -> Any:
        """The value as it is kept; UserError with key, value and what is expected."""
        try:
            taken = self.take(value)
        except (TypeError, ValueError):
            raise UserError(f"{key} must be {self.expected}, found {value!r}") from None
        for name in taken if isinstance(taken, list) else [taken]:
            if self.choices and name is not None and name not in self.choices:
                raise unknown(key, name, self.choices)
        return taken

    def of_text(self, key: str, text: str) -> Any:
        """As :meth:`of`, of a text on the command line."""
        try:
            value = self.read(text.strip())
        except (ValueError, yaml.YAMLError):
            raise UserError(f"{key} must be {self.expected}, found {text.strip()!r}") from None
        return self.of(key, value)


def number(above: float = -math.inf, least: float = -math.inf) -> Kind:
    """A finite number above one, or of at least another."""

    def take(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        taken = float(value)
        if not (math.isfinite(taken) and taken > above and taken >= least):
            raise ValueError
        return taken

    limit = f" above {above:g}" if math.isfinite(above) else ""
    limit += f" of at least {least:g}" if math.isfinite(least) else ""
    return Kind(f"a number{limit}", take, float)


def whole(least: int, odd: bool = False) -> Kind:
    """A whole number, or an odd one, of at least ``least``."""

    def take(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError
        if value < least or (odd and value % 2 == 0):
            raise ValueError
        return int(value)

    return Kind(f"{'an odd' if odd else 'a whole'} number of at least {least}", take, int)


def one_of(names: Iterable[str]) -> Kind:
    """One of some names."""
    names = tuple(names)
    return Kind(f"one of {', '.join(names)}", _text, choices=names)


def or_none(kind: Kind) -> Kind:
    """None besides."""
    return Kind(
        f"None or {kind.expected}",
        lambda value: None if value is None else kind.take(value),
        lambda text: None if text.lower() in ("none", "null", "") else kind.read(text),
        kind.choices,
    )


def plain(value: Any) -> Any:
    """The value made of dictionaries, lists, numbers and text only, as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or type(value) in (bool, int, float) else str(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _truth_of(text: str) -> bool | str:
    return text.lower() in TRUE if text.lower() in TRUE + FALSE else text


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise TypeError
    return str(value)


def _file_name(value: Any) -> str:
    if any(c in _text(value) for c in "/\\\0\n") or value in (".", "..") or len(value) > 200:
        raise ValueError
    return str(value)


def _flat(names: Any) -> list[str]:
    """A list of names from a list, or from the release's list of lists."""
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list | tuple):
        raise TypeError
    return [inner for name in names for inner in _flat(name)]


def _size(value: Any) -> list[int]:
    height, width, *channels = value
    if isinstance(value, str) or channels not in ([], [1]):
        raise ValueError
    return [whole(1).take(height), whole(1).take(width), *channels]


def _lengths(value: Any) -> list[int]:
    if isinstance(value, str | Mapping) or not value:
        raise TypeError
    return [whole(2).take(length) for length in value]


def _list_of(text: str) -> Any:
    return yaml.safe_load(text if text.startswith("[") else f"[{text}]")


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError
    return plain(value)


def _options_of(text: str) -> Any:
    found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise ValueError
    # YAML 1.1 takes 1e-5 for a text.
    return {k: float(v) if NUMBER.fullmatch(str(v)) else v for k, v in found.items()}


TRUTH = Kind("True or False", _truth, _truth_of)
TEXT = Kind("a name", _text)
FILE_NAME = Kind("a name without / or \\ (a folder's)", _file_name)
AUGMENTATIONS = Kind("a list of augmentations (docs/data.md)", _flat, _list_of, ORDER)
SIZE = Kind("[H, W], two whole numbers of at least 1", _size, _list_of)
LENGTHS = Kind("a list of contour lengths in paddles, each at least 2", _lengths, _list_of)
OPTIONS = Kind("a dictionary {name: value}", _options, _options_of)
