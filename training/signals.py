"""Leaving in good order: signals and a time limit."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from support.parents import signal_at_end_of_parent

LEFT_EARLY = 75
# The file in which launched processes leave theirs, a line each: the attempt, its port, the code.
EXIT_CODES = "HGRU_EXIT_CODES"
INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended
POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Stop:
    """Whether the run should leave at the end of the step, and why.

    A context manager. Inside it SIGTERM, SIGUSR1 and SIGHUP (not where nohup has it ignored) leave
    at once with exit code 75, until :meth:`begin`: nothing is lost by that. From then on they and
    SIGINT ask to leave at the end of the step; a second SIGINT ends the process at once with 130.
    ``max_minutes`` from now on the run should leave by itself; None: no limit.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.signal: str | None = None  # the first that came
        self._begun = False
        self._process = os.getpid()
        self._interrupts = 0
        self._limit = max_minutes
        self._start = time.monotonic()
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """From now on a signal lets the step at hand end."""
        self._begun = True
        self._catch(signal.SIGINT)

    def wanted(self) -> str | None:
        """Why the run should leave, or None."""
        minutes = (time.monotonic() - self._start) / 60
        if self.signal is None and self._limit is not None and minutes >= self._limit:
            return f"the time limit of {self._limit:g} minutes"
        return self.signal

    def signalled(self) -> bool:
        """Whether a signal came, which has no time for a validation; a time limit has."""
        return self.signal is not None

    def __enter__(self) -> "Stop":
        for number in POLITE:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._catch(number)
        if signal.getsignal(signal.SIGINT) == _leave:  # from now on an exception, as ever
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int) -> None:
        self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                for worker in multiprocessing.active_children():
                    worker.kill()
                os._exit(told(INTERRUPTED))
        self.signal = self.signal or signal.Signals(number).name
        if self._begun:
            return
        if os.getpid() == self._process:
            _leave(number, frame)
        signal.signal(number, signal.SIG_DFL)  # a process that prepares data, and is told to end
        os.kill(os.getpid(), number)


def listen() -> None:
    """Leave at a signal from now on, with 75, at Ctrl-C with 130: for a script that still imports
    what it needs."""
    if threading.current_thread() is threading.main_thread():
        for number in (*POLITE, signal.SIGINT):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _leave)


def leave_with_launcher() -> None:
    """Hear SIGTERM when the launcher ends, even one that was killed: no other signal would come."""
    if EXIT_CODES in os.environ:
        signal_at_end_of_parent(signal.SIGTERM)
        if not os.path.exists(os.environ[EXIT_CODES]):  # it ended before that
            os.kill(os.getpid(), signal.SIGTERM)


def deaf() -> None:
    """Hear no signal from now on that asks to leave: this process does, with its exit code."""
    for number in POLITE:
        signal.signal(number, signal.SIG_IGN)


def told(code: int) -> int:
    """The exit code of a process, as the one that launched it can use it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return code
    if EXIT_CODES in os.environ:
        with suppress(OSError), open(os.environ[EXIT_CODES], "a") as file:  # it may be gone
            attempt = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["MASTER_PORT"]
            file.write(f"{' '.join(attempt)} {code}\n")
    return 0 if code == LEFT_EARLY else code


def _leave(number: int, frame: FrameType | None) -> None:
    deaf()  # another signal would end Python on its way out
    code, said = LEFT_EARLY, f"left early: {signal.Signals(number).name} before the training began"
    if number == signal.SIGINT:
        code, said = INTERRUPTED, "error: interrupted before the training began"
    print(said, file=sys.stderr, flush=True)
    raise SystemExit(told(code))
