"""Errors that a user can put right, and choices by name."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Something that the user can put right: one line on the terminal, exit code 2, no traceback.

    The message names the file or the parameter, what was found, what was expected and, where it is
    not plain, what to do. Any other exception is a bug, and shows its traceback.
    """


class MissingError(UserError, FileNotFoundError):
    """A file or a folder that is not there."""


class SystemRefusal(UserError, RuntimeError):
    """What the operating system refuses: no permission, no space, no such folder, no peer."""


@contextmanager
def refusals(path: str | Path, doing: str) -> Iterator[None]:
    """Turn what the operating system refuses within the block into an error that names the path.

    ``doing`` says what for: "cannot be written". A MissingError where there is no such file or
    folder, else a SystemRefusal: permission, space, a loop of links, one thread too many …
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        kind = MissingError if isinstance(error, FileNotFoundError) else SystemRefusal
        raise kind(f"{path} {doing}: {error.strerror or error}") from error
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise SystemRefusal(f"{path} {doing}: {error}") from error


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that is none of ``known``: it names the nearest one and all of them."""
    names = list(known)
    hint = did_you_mean(str(name), names) or "."
    return UserError(f"{what} {name!r} is not known{hint} Known: {', '.join(names)}")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The question for a name that is none of ``known``; empty where none of them is near it."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def choose(what: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``; UserError with the nearest name and all of them where there is none."""
    if name not in known:
        raise unknown(what, name, known)
    return known[name]


@contextmanager
def about(what: str, instead: str = "") -> Iterator[None]:
    """Let the message of a UserError within the block begin with ``what``, ``instead`` of that."""
    try:
        yield
    except UserError as error:
        raise type(error)(what + str(error).removeprefix(instead)) from error
