"""What a run says while it goes: a log to read, a log to parse, TensorBoard, a progress bar.

The modules of ``training`` speak through ``logging``: INFO goes to the terminal and to the run's
``log.txt``, a warning to standard error and there, DEBUG there alone.
"""

import json
import logging
import time
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from typing import Any

from support import shell
from support.errors import refusals
from support.files import write_text
from support.progress import Progress
from training.run import Run

BEFORE = MemoryHandler(1)  # keeps what is said before a run has its log, then hands it on


def listen(quiet: bool) -> None:
    """Show and keep what is said from now on; ``quiet``: another process speaks for this one."""
    shell.show_warnings()
    BEFORE.buffer.clear()
    logging.getLogger().addHandler(BEFORE)
    logging.getLogger(__package__).setLevel(logging.CRITICAL if quiet else logging.DEBUG)


class RunLog:
    """Writes a run's ``log.txt``, ``log.jsonl`` and TensorBoard events, and shows its progress.

    Args:
        total: updates of the whole run.
        step: updates done before; what was logged after them is taken back.
        validated: whether the validation at that step is done; else what it logged is taken back.
        quiet: write and show nothing (all processes but the first).
    """

    def __init__(self, run: Run, total: int, step: int, validated: bool, quiet: bool) -> None:
        self.quiet, self.path = quiet, run.json_log
        if quiet:
            return
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        resumed = run.json_log.exists()
        if resumed:  # without what comes after this step, and a line cut off
            before = [event for event in run.events() if event["step"] <= step]
            if not validated:
                again = [(step, kind) for kind in ("validation", "stage")]
                before = [one for one in before if (one["step"], one.get("event")) not in again]
            write_text(run.json_log, "".join(json.dumps(event) + "\n" for event in before))
        with refusals(run.logs, "cannot be written"):
            self._text = _TextLog(run.log, encoding="utf-8", errors="backslashreplace")
            self._json = open(run.json_log, "ab", buffering=0)
        with refusals(run.summaries, "cannot be written"):
            # The step's own points stay, of training and of its validation.
            after = step + 1 if step or validated else 0
            self._board = SummaryWriter(str(run.summaries), purge_step=after if resumed else None)
        self._bar = Progress(total=total, initial=step, unit="step")
        BEFORE.setTarget(self._text)
        BEFORE.flush()

    def event(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a line to ``log.jsonl``: ``{"event": kind, "step": step, "time": …, **values}``."""
        if self.quiet:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = json.dumps({"event": kind, "step": step, "time": now, **values})
        with refusals(self.path, "could not be written"):
            self._json.write(line.encode() + b"\n")

    def measured(
        self, kind: str, step: int, counts: Mapping[str, Any], values: Mapping[str, float]
    ) -> None:
        """Write an event of counts and values, and the values to TensorBoard under ``kind/…``."""
        self.event(kind, step, {**counts, **values})
        if not self.quiet:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def advance(self, shown: str) -> None:
        """Move the bar by one update, with a text beside it."""
        if not self.quiet:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update()

    def flush(self) -> None:
        """Hand TensorBoard's events to the system."""
        self._board.flush()

    def close(self) -> None:
        """End the bar and close the files."""
        BEFORE.setTarget(None)
        if not self.quiet:
            self._bar.close()
            self._json.close()
            self._text.close()
            self._board.close()


class _TextLog(logging.FileHandler):
    """``log.txt``: each text with the time. A disk that is full ends the run."""

    def format(self, record: logging.LogRecord) -> str:
        """The text as it stands in the file."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return "\n".join(f"{stamp}  {line}" for line in shell.said(record).splitlines())

    def handleError(self, record: logging.LogRecord) -> None:
        """Called while what went wrong is handled: not to be passed over, as logging would."""
        with refusals(self.baseFilename, "could not be written"):
            raise
