"""Progress of long work: a bar on a terminal, a line now and then in a file."""

import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30


class Progress(tqdm):
    """tqdm's bar; where standard error is no terminal, a whole line every half minute instead.

    Takes tqdm's arguments.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        file = settings.get("file") or sys.stderr
        settings["file"] = file
        settings.setdefault("dynamic_ncols", True)
        settings.setdefault("smoothing", 0.05)
        if not file.isatty():
            settings |= {"mininterval": SECONDS_BETWEEN_LINES, "miniters": 1}
            settings |= {"dynamic_ncols": False, "ncols": 0}
        super().__init__(*args, **settings)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """How a state is shown: over the last one on a terminal, else as a line of its own."""
        if file.isatty():
            return tqdm.status_printer(file)

        def print_line(state: str) -> None:
            if state.strip():
                file.write(state.strip() + "\n")
                file.flush()

        return print_line
