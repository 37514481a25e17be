"""What a setting or an option may be: how it is checked, and read on the command line."""

import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from support.errors import UserError, unknown

FILE = re.compile(r"(?!\.\.?$)[^/\\\0\n]{1,200}")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)
TRUTHS = dict.fromkeys(("true", "yes", "on", "1"), True)
TRUTHS |= dict.fromkeys(("false", "no", "off", "0"), False)


@dataclass(frozen=True)
class Kind:
    """What a value may be."""

    expected: str  # that in words, as in "lr must be *a number above 0*"
    fits: Callable[[Any], bool]  # whether a value is one
    kept: Callable[[Any], Any] = str  # the form in which it is kept
    read: Callable[[str], Any] = str  # of the command line; ValueError where it stands for nothing
    choices: tuple[str, ...] = ()  # names, of which the value is one, or a list of which it is

    def of(self, key: str, value: Any) -> Any:
        """The value as it is kept; UserError with key, value and what is expected."""
        if not self.fits(value):
            raise UserError(f"{key} must be {self.expected}, found {value!r}")
        kept = self.kept(value)
        for name in _flat(kept):
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


def number(
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> Kind:
    """A finite number above one, of at least another, of at most a third, below a fourth."""
    limits = {"above": above, "of at least": least, "of at most": most, "and below": below}
    told = [f"{words} {limit:g}" for words, limit in limits.items() if math.isfinite(limit)]

    def fits(value: Any) -> bool:
        return _is(numbers.Real, value) and above < value < below and least <= value <= most

    return Kind(" ".join(["a number", *told]), fits, float, float)


def whole(least: int, odd: bool = False) -> Kind:
    """A whole number, or an odd one, of at least ``least``."""

    def fits(value: Any) -> bool:
        return _is(numbers.Integral, value) and value >= least and (value % 2 == 1 or not odd)

    return Kind(f"{'an odd' if odd else 'a whole'} number of at least {least}", fits, int, int)


def wholes(expected: str, least: int, fits: Callable[[list[Any]], bool]) -> Kind:
    """A list of whole numbers of at least ``least`` of which ``fits`` holds."""

    def all_fit(value: Any) -> bool:
        listed = isinstance(value, list | tuple) and all(map(whole(least).fits, value))
        return listed and fits(list(value))

    return Kind(expected, all_fit, lambda value: [int(one) for one in value], _list_of)


def one_of(names: Iterable[str]) -> Kind:
    """One of some names."""
    names = tuple(names)
    return Kind(f"one of {', '.join(names)}", _is_text, choices=names)


def some_of(expected: str, names: Iterable[str]) -> Kind:
    """A list of some names; one name alone and the release's list of lists stand for one."""

    def fits(value: Any) -> bool:
        return all(isinstance(name, str) for name in _flat(value))

    return Kind(expected, fits, _flat, _list_of, tuple(names))


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
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    return value if value is None or type(value) in (bool, int, float) else str(value)


def _is(kind: type, value: Any) -> bool:
    """Whether the value is such a number; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and bool(str(value).strip())


def _flat(value: Any) -> list[Any]:
    """What lists of lists hold, in one list; of one value, that one."""
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return [value]


def _list_of(text: str) -> Any:
    return yaml.safe_load(text if text.startswith("[") else f"[{text}]")


def _options_of(text: str) -> Any:
    found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise ValueError
    return {key: _numbers(value) for key, value in found.items()}


def _numbers(value: Any) -> Any:
    """The value, or the list's, with numbers where YAML 1.1 takes such a one as 1e-5 for a text."""
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if NUMBER.fullmatch(str(value)) else value


TRUTH = Kind(
    "True or False",
    lambda value: isinstance(value, bool | np.bool_),
    bool,
    lambda text: TRUTHS.get(text.lower(), text),
)
TEXT = Kind("a name", _is_text)
FILE_NAME = Kind(
    "a name without / or \\ (a folder's)",
    lambda value: _is_text(value) and FILE.fullmatch(str(value)) is not None,
)
# The release has [H, W, 1].
SIZE = wholes(
    "[H, W], two whole numbers of at least 1",
    1,
    lambda size: len(size[:2]) == 2 and size[2:] in ([], [1]),
)
LENGTHS = wholes("a list of contour lengths in paddles, each at least 2", 2, bool)
OPTIONS = Kind(
    "a dictionary {name: value}",
    lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
    plain,
    _options_of,
)
