"""How long a run trained, however often it was stopped and resumed.

The time is that of the updates, with their waiting for images, and of the validations, as
``log.jsonl`` has them: measured within a process by a clock of its own, so that no pause between
two sessions is in it, nor starting up, writing checkpoints, and work that a killed session lost.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.run import Run


@dataclass(frozen=True)
class TrainingTime:
    """Seconds of training over updates.

    Attributes:
        steps: updates done at the ends of the logged intervals; the first is 0.
        seconds: that all updates took up to there.
        validations: step and seconds of each validation.
        images_per_second: over all logged intervals, validations left out; None without any.
    """

    steps: list[int]
    seconds: list[float]
    validations: list[tuple[int, float]]
    images_per_second: float | None

    def until(self, step: int) -> float | None:
        """Seconds of updates and validations up to a step; None where no update was logged.

        Updates after the last logged interval count as long as those of that interval.
        """
        if self.images_per_second is None:
            return None
        updates = float(np.interp(step, self.steps, self.seconds))
        updates += max(step - self.steps[-1], 0) * _last_rate(self.steps, self.seconds)
        return updates + sum(seconds for at, seconds in self.validations if at <= step)


def training_time(files: Run, record: dict[str, Any]) -> TrainingTime:
    """Read a run's log.

    Args:
        files: where it lies.
        record: what the run's ``settings.yaml`` holds.

    Raises:
        FileNotFoundError, ValueError: ``log.jsonl`` is missing or damaged.
    """
    events = read_events(files.json_log)
    starts, images_at = session_starts(record), _image_count(record)
    steps, seconds = [0], [0.0]
    images, busy = 0, 0.0
    for event in (event for event in events if event["event"] == "train"):
        last = int(event["step"])
        first = max([steps[-1], *(start for start in starts if start < last)])
        count = images_at(last) - images_at(first)
        took = count / event["images_per_second"]
        if first > steps[-1]:  # a killed session had not logged them: as long as those before
            rate = _last_rate(steps, seconds) if len(steps) > 1 else took / (last - first)
            seconds.append(seconds[-1] + rate * (first - steps[-1]))
            steps.append(first)
        steps.append(last)
        seconds.append(seconds[-1] + took)
        images, busy = images + count, busy + took
    validations = [
        (int(event["step"]), float(event["seconds"]))
        for event in events
        if event["event"] == "validation"
    ]
    return TrainingTime(steps, seconds, validations, images / busy if busy else None)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``; one that was cut off at the end is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not an event.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: copy it with the run")
    *lines, _cut_off = path.read_text(encoding="utf-8").split("\n")
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            events.append({**event, "event": event["event"], "step": event["step"]})
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: a JSON object with 'event' and 'step' is expected, found "
                f"{line[:60]!r}"
            ) from None
    return events


def session_starts(record: dict[str, Any]) -> list[int]:
    """Steps at which the sessions after the first began whose updates are in the run.

    A session that began further back took back the log, and the sessions, past its step.
    """
    starts: list[int] = []
    for session in record.get("resumed") or []:
        step = int(session["step"])
        starts = [start for start in starts if start <= step] + [step]
    return starts


def _image_count(record: dict[str, Any]) -> Callable[[int], int]:
    """A function that gives the training images up to a step; an epoch's last batch is smaller."""
    batch = int(record["parameters"]["batch_size"])
    epoch = int(((record.get("data") or {}).get("train") or {}).get("images") or batch)

    def images_at(step: int) -> int:
        epochs, rest = divmod(step, -(-epoch // batch))
        return epochs * epoch + rest * batch

    return images_at


def _last_rate(steps: list[int], seconds: list[float]) -> float:
    """Seconds an update in the last interval."""
    return (seconds[-1] - seconds[-2]) / (steps[-1] - steps[-2])
