"""Leaving in good order: signals and a time limit."""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

POLITE = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class Stop:
    """Whether the run should leave at the end of the step, and why.

    A context manager: inside it, SIGTERM, SIGINT and SIGUSR1 ask for that; a second SIGINT ends
    the process at once, with exit code 130.

    Args:
        max_minutes: time after which the run should leave, from now on; None: no limit.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.reason: str | None = None
        self._interrupts = 0
        self._limit = max_minutes
        self._end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._before: dict[int, Any] = {}

    def wanted(self) -> str | None:
        """Why the run should leave, or None."""
        if self.reason is None and self._end is not None and time.monotonic() >= self._end:
            self.reason = f"the time limit of {self._limit:g} minutes"
        return self.reason

    def __enter__(self) -> "Stop":
        for number in POLITE:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(INTERRUPTED)
        self.reason = self.reason or signal.Signals(number).name
