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

    monitor_interval = 0  # no thread that looks after it: with miniters of 1 it needs none
    pos = 0  # until it has its place: a bar whose making is interrupted can be closed too

    def __init__(self, *args: Any, **settings: Any) -> None:
        file = settings.get("file") or sys.stderr
        settings["file"] = file
        settings.setdefault("dynamic_ncols", True)
        settings.setdefault("smoothing", 0.05)
        settings.setdefault("miniters", 1)
        if not file.isatty():
            settings |= {"mininterval": SECONDS_BETWEEN_LINES}
            settings |= {"dynamic_ncols": False, "ncols": 0, "position": 0}
            settings["file"] = _Lines(file)
        super().__init__(*args, **settings)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """How a state is shown: over the last one on a terminal, else as a line of its own."""
        if file.isatty():
            return tqdm.status_printer(file)

        def print_line(state: str) -> None:
            file.write(state.strip() + "\n")
            file.flush()

        return print_line


class _Lines:
    """A file that takes whole lines alone, not what ends or clears a bar."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if text.strip():
            self._file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
