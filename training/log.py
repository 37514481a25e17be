"""What a run says while it goes: a log to read, a log to parse, TensorBoard, a progress bar."""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.errors import SystemRefusal, refusals
from support.files import WholeFile
from support.progress import Progress
from training.run import Run


class Notices(logging.Handler):
    """Shows the project's warnings on standard error, and passes them on to a run's log.

    What comes before there is a log is kept for it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[str] = []
        self._to: Callable[[str], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show and pass on one warning."""
        text = f"warning: {record.getMessage()}"
        print(text, file=sys.stderr, flush=True)
        (self._to or self._kept.append)(text)

    def pass_on(self, to: Callable[[str], None] | None) -> None:
        """Give what was kept and what comes to ``to``; None keeps what comes."""
        self._to = to
        while to and self._kept:
            to(self._kept.pop(0))


NOTICES = Notices()


class RunLog:
    """Writes a run's ``log.txt``, ``log.jsonl`` and TensorBoard events, and shows its progress.

    Args:
        run: where to write.
        total: updates of the whole run.
        step: updates done before; what was logged after them is taken back.
        quiet: write and show nothing (all processes but the first).
    """

    def __init__(self, run: Run, total: int, step: int = 0, quiet: bool = False) -> None:
        self.quiet = quiet
        if quiet:
            return
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        _forget_after(run, step)
        self._text, self._json = _Lines(run.log), _Lines(run.json_log)
        with refusals(run.summaries, "cannot be written"):
            self._board = SummaryWriter(str(run.summaries), purge_step=step + 1 if step else None)
        self._bar = Progress(total=total, initial=step, unit="step")

    def note(self, text: str) -> None:
        """Write a text to ``log.txt`` alone, each line with the time."""
        if self.quiet:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._text.add("".join(f"{stamp}  {line}\n" for line in text.splitlines()))

    def say(self, text: str) -> None:
        """Write a text to ``log.txt`` and to the terminal."""
        if self.quiet:
            return
        self.note(text)
        if sys.stderr.isatty():
            self._bar.clear()
            print(text, flush=True)
            self._bar.refresh()
        else:
            print(text, flush=True)

    def event(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a line to ``log.jsonl``: ``{"event": kind, "step": step, "time": …, **values}``."""
        if self.quiet:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = {"event": kind, "step": step, "time": now, **values}
        self._json.add(json.dumps(line) + "\n")

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Add numbers to TensorBoard under ``group/…``."""
        if self.quiet:
            return
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)

    def advance(self, shown: str) -> None:
        """Move the bar by one update, with a text beside it."""
        if self.quiet:
            return
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update()

    def flush(self) -> None:
        """Hand TensorBoard's events to the system."""
        if not self.quiet:
            self._board.flush()

    def close(self) -> None:
        """End the bar and close the files."""
        if self.quiet:
            return
        self._bar.close()
        self._text.close()
        self._json.close()
        self._board.close()


class _Lines:
    """A text file that grows by whole lines, each handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with refusals(path, "cannot be written"):
            self._file = open(path, "ab", buffering=0)

    def add(self, text: str) -> None:
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise SystemRefusal(f"{self.path}: could not be written ({error.strerror})") from error

    def close(self) -> None:
        self._file.close()


def _forget_after(run: Run, step: int) -> None:
    """Take back the lines of ``log.jsonl`` past this step, and a line that was cut off."""
    if not run.json_log.exists():
        return
    kept = []
    for line in run.json_log.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # cut off when the process was killed
    with WholeFile(run.json_log) as file:
        file.append(b"".join(kept))
