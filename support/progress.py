"""Progress of long work: a bar on a terminal, a line now and then in a file."""

import sys
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
        usual = {"file": sys.stderr, "dynamic_ncols": True, "smoothing": 0.05, "miniters": 1}
        settings = {**usual, **settings}
        if not settings["file"].isatty():
            settings |= {"file": _Lines(settings["file"]), "mininterval": SECONDS_BETWEEN_LINES}
            settings |= {"dynamic_ncols": False, "ncols": 0, "position": 0}
        super().__init__(*args, **settings)


class _Lines:
    """A file to which each state of a bar is a line of its own; what ends or clears one is none."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if text.strip():
            self._file.write(f"{text.strip()}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
