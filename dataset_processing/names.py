"""Messages for names that are not known."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is none of ``known``: it names the nearest one and all of them."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ValueError(f"{what} {name!r} is not known{hint} Known: {', '.join(names)}")
