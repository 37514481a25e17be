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
        fits: whether a value is one.
        kept: the form in which it is kept.
        read: what a text of the command line stands for; ValueError where it is nothing.
        choices: names, of which the value is one, or a list of which it is.
    """

    expected: str
    fits: Callable[[Any], bool]
    kept: Callable[[Any], Any] = str
    read: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()

    def of(self, key: str, value: Any) -> Any:
        """The value as it is kept; UserError with key, value and what is expected."""
        if not self.fits(value):
            raise UserError(f"{key} must be {self.expected}, found {value!r}")
        kept = self.kept(value)
        for name in kept if isinstance(kept, list) else [kept]:
            if self.choices and name is not None and name not in self.choices:
                raise unknown(key, name, self.choices)
        return kept

    def of_text(self, key: str, text: str) -> Any:
        """As :meth:`of`, of a text on the command line."""
        try:
            value = self.read(text.strip())
        except (ValueError, yaml.YAMLError):
            raise UserError(f"{key} must be {self.expected}, found {text.strip()!r}") from None
        return self.of(key, value)


def number(above: float = -math.inf, least: float = -math.inf) -> Kind:
    """A finite number above one, or of at least another."""

    def fits(value: Any) -> bool:
        return (
            _is(numbers.Real, value) and math.isfinite(value) and value > above and value >= least
        )

    limit = f" above {above:g}" if math.isfinite(above) else ""
    limit += f" of at least {least:g}" if math.isfinite(least) else ""
    return Kind(f"a number{limit}", fits, float, float)


def whole(least: int, odd: bool = False) -> Kind:
    """A whole number, or an odd one, of at least ``least``."""

    def fits(value: Any) -> bool:
        return _is(numbers.Integral, value) and value >= least and (value % 2 == 1 or not odd)

    return Kind(f"{'an odd' if odd else 'a whole'} number of at least {least}", fits, int, int)


def one_of(names: Iterable[str]) -> Kind:
    """One of some names."""
    names = tuple(names)
    return Kind(f"one of {', '.join(names)}", _is_text, choices=names)


def or_none(kind: Kind) -> Kind:
    """None besides."""
    return Kind(
        f"None or {kind.expected}",
        lambda value: value is None or kind.fits(value),
        lambda value: None if value is None else kind.kept(value),
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


def _is(kind: type, value: Any) -> bool:
    """Whether the value is such a number; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and bool(str(value).strip())


def _is_file_name(value: Any) -> bool:
    apart = _is_text(value) and not any(c in str(value) for c in "/\\\0\n")
    return apart and str(value) not in (".", "..") and len(str(value)) <= 200


def _are_names(value: Any) -> bool:
    """A name, or a list of names, or the release's list of lists."""
    several = isinstance(value, list | tuple) and all(map(_are_names, value))
    return several or isinstance(value, str)


def _flat(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    return [name for part in names for name in _flat(part)]


def _are_whole(value: Any, least: int) -> bool:
    return isinstance(value, list | tuple) and all(map(whole(least).fits, value))


def _is_size(value: Any) -> bool:
    """[H, W], or [H, W, 1]."""
    return _are_whole(value, 1) and len(value) >= 2 and list(value[2:]) in ([], [1])


def _truth_of(text: str) -> bool | str:
    return text.lower() in TRUE if text.lower() in TRUE + FALSE else text


def _list_of(text: str) -> Any:
    return yaml.safe_load(text if text.startswith("[") else f"[{text}]")


def _options_of(text: str) -> Any:
    found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise ValueError
    # YAML 1.1 takes 1e-5 for a text.
    return {k: float(v) if NUMBER.fullmatch(str(v)) else v for k, v in found.items()}


TRUTH = Kind("True or False", lambda value: isinstance(value, bool | np.bool_), bool, _truth_of)
TEXT = Kind("a name", _is_text)
FILE_NAME = Kind("a name without / or \\ (a folder's)", _is_file_name)
AUGMENTATIONS = Kind("a list of augmentations (docs/data.md)", _are_names, _flat, _list_of, ORDER)
SIZE = Kind(
    "[H, W], two whole numbers of at least 1",
    _is_size,
    lambda value: [int(pixels) for pixels in value],
    _list_of,
)
LENGTHS = Kind(
    "a list of contour lengths in paddles, each at least 2",
    lambda value: bool(value) and _are_whole(value, 2),
    lambda value: [int(length) for length in value],
    _list_of,
)
OPTIONS = Kind(
    "a dictionary {name: value}",
    lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
    plain,
    _options_of,
)
