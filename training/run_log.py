"""What a run says while it goes: a log to read, a log to parse, TensorBoard, a progress bar."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from dataset_processing.progress import Progress
from dataset_processing.whole_file import WholeFile
from training.run_folder import Run


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
        self._text = open(run.log, "a", encoding="utf-8", buffering=1)
        self._json = open(run.json_log, "a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(run.summaries), purge_step=step + 1 if step else None)
        self._bar = Progress(total=total, initial=step, unit="step")

    def say(self, text: str, show: bool = True) -> None:
        """Write a line to ``log.txt`` and, unless ``show`` is False, to the terminal."""
        if self.quiet:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in text.splitlines() or [""]:
            self._text.write(f"{stamp}  {line}\n")
        if show and sys.stderr.isatty():
            self._bar.clear()
            print(text, flush=True)
            self._bar.refresh()
        elif show:
            print(text, flush=True)

    def event(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a line to ``log.jsonl``: ``{"event": kind, "step": step, "time": …, **values}``."""
        if self.quiet:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = {"event": kind, "step": step, "time": now, **values}
        self._json.write(json.dumps(line) + "\n")

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
        """Hand what was written to the system."""
        if not self.quiet:
            self._board.flush()

    def close(self) -> None:
        """End the bar and close the files."""
        if self.quiet:
            return
        self._bar.close()
        self._board.close()
        self._text.close()
        self._json.close()


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
