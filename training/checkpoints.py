"""Checkpoints: whole or not there, known to be intact, and loaded without running anything.

A file is what ``torch.save`` writes (``torch.load(path, weights_only=True)`` reads it), with the
SHA-256 of all that precedes it as the comment of the zip archive, its last 71 bytes.
"""

import hashlib
import io
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from support.errors import UserError, refusals
from support.files import WholeFile

log = logging.getLogger(__name__)

FORMAT = "hgru training checkpoint"
VERSION = 1
MARK = b"sha256:"
COMMENT = len(MARK) + 64
CUT = "it is cut off, or its end was overwritten"
NAME = re.compile(r"step_(\d{8,})\.pt")

State = dict[str, Any]


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message names the file and why."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


def save(path: Path, state: State) -> None:
    """Write a checkpoint: aside, synced, then renamed.

    Args:
        path: where; its folder is made if need be.
        state: tensors, numbers, text, and lists and dictionaries of them.

    Raises:
        RuntimeError: the disk is full or cannot be written; nothing is left behind and what stood
            at ``path`` stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    content = buffer.getvalue()[:-2] + COMMENT.to_bytes(2, "little")  # the comment's length
    with WholeFile(path) as file:
        file.append(content + MARK + hashlib.sha256(content).hexdigest().encode())


def load(path: Path, device: torch.device | str = "cpu") -> State:
    """Read a checkpoint after checking that it is intact, and of this project and version.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedCheckpointError: its bytes are not those that were written.
        CheckpointError: it is none of ours, or of another version.
    """
    with refusals(path, "cannot be read"):
        whole = path.read_bytes()
    content, comment = whole[:-COMMENT], whole[-COMMENT:]
    if comment.startswith(MARK):
        if hashlib.sha256(content).hexdigest().encode() != comment[len(MARK) :]:
            raise DamagedCheckpointError(f"{path} is damaged: its checksum does not match")
        intact = True
    else:
        intact = False  # cut off, or not ours
    try:
        state = torch.load(io.BytesIO(whole), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        if not intact and (NAME.fullmatch(path.name) or path.name == "best.pt"):
            raise DamagedCheckpointError(f"{path} is damaged: {CUT}") from error
        raise CheckpointError(
            f"{path} is not a checkpoint of this project: it cannot be read as tensors and numbers"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of this project (it was written by another program); "
            "models.tf_variables loads the original's weights"
        )
    if state.get("version") != VERSION:
        age = "an older" if state.get("version", 0) < VERSION else "a newer"
        raise CheckpointError(
            f"{path} was written by {age} version of this project (format "
            f"{state.get('version')!r}, this one reads {VERSION}); use the commit that "
            "settings.yaml of its run names"
        )
    if not intact:
        raise DamagedCheckpointError(f"{path} is damaged: {CUT}")
    return state


class CheckpointFolder:
    """The checkpoints of a run: ``step_00001000.pt`` … and ``best.pt``.

    Args:
        folder: where they lie.
        keep: how many of the newest stay.
        keep_steps: those of steps that are a multiple of this stay too; 0: none.
    """

    def __init__(self, folder: Path, keep: int = 3, keep_steps: int = 0) -> None:
        self.folder = folder
        self.keep = keep
        self.keep_steps = keep_steps

    def path(self, step: int) -> Path:
        """The file of that step."""
        return self.folder / f"step_{step:08d}.pt"

    @property
    def best(self) -> Path:
        """The file of the best validation so far."""
        return self.folder / "best.pt"

    def files(self) -> dict[int, Path]:
        """The checkpoints by step, oldest first."""
        found = {}
        for file in self.folder.glob("step_*.pt"):
            match = NAME.fullmatch(file.name)
            if match:
                found[int(match[1])] = file
        return dict(sorted(found.items()))

    def save(self, step: int, state: State, best: bool = False) -> Path:
        """Write the checkpoint of a step, then delete those that need not stay.

        Args:
            best: the run's best validation so far was at this step.
        """
        path = self.path(step)
        save(path, state)
        if best:
            with WholeFile(self.best) as copy:
                copy.append(path.read_bytes())
        for old, file in list(self.files().items())[: -self.keep]:
            if not (self.keep_steps and old % self.keep_steps == 0):
                file.unlink(missing_ok=True)
        return path

    def newest(self) -> Path | None:
        """The newest checkpoint that is intact; None where there is none at all.

        A damaged one is passed over with a warning.

        Raises:
            CheckpointError: a file is none of ours or of another version, or all are damaged.
        """
        damaged = None
        for path in reversed(list(self.files().values())):
            try:
                load(path)
                return path
            except DamagedCheckpointError as error:
                log.warning("%s; the checkpoint before it is used", error)
                damaged = error
        if damaged is not None:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint that is intact; start a new run"
            ) from damaged
        return None
