"""Checkpoints: whole or not there, known to be intact, and loaded without running anything.

A file is what ``torch.save`` writes (``torch.load(path, weights_only=True)`` reads it), with the
SHA-256 of all that precedes it as the comment of the zip archive, its last 71 bytes.
"""

import hashlib
import io
import logging
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from support.errors import MissingError, UserError, refusals
from support.files import write_bytes

log = logging.getLogger(__name__)

FORMAT = "hgru training checkpoint"
VERSION = 1
MARK = b"sha256:"
COMMENT = len(MARK) + 64
NAME = re.compile(r"step_(\d{8,})\.pt")

State = dict[str, Any]


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message names the file and why."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


def save(path: Path, state: State) -> None:
    """Write a checkpoint of tensors, numbers, text, and lists and dictionaries of them.

    SystemRefusal where it cannot be written (a full disk); what stood at ``path`` stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    content = buffer.getvalue()[:-2] + COMMENT.to_bytes(2, "little")  # the comment's length
    write_bytes(path, content + _mark(content))


def load(path: Path, device: torch.device | str = "cpu") -> State:
    """Read a checkpoint after checking that it is intact, and of this project and version.

    MissingError where there is no such file, DamagedCheckpointError where its bytes are not those
    that were written, CheckpointError where it is none of ours, or of another version.
    """
    with refusals(path, "cannot be read"):
        whole = path.read_bytes()
    content, comment = whole[:-COMMENT], whole[-COMMENT:]
    marked = comment.startswith(MARK)
    if marked and comment != _mark(content):
        raise DamagedCheckpointError(f"{path} is damaged: its checksum does not match")
    cut = DamagedCheckpointError(f"{path} is damaged: it is cut off, or its end was overwritten")
    foreign = f"{path} is not a checkpoint of this project"
    try:
        state = torch.load(io.BytesIO(whole), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        if not marked and (NAME.fullmatch(path.name) or path.name == "best.pt"):
            raise cut from error
        raise CheckpointError(f"{foreign}: it is not made of tensors and numbers") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{foreign}, but was written by another program; models.tf_variables loads the "
            "original's weights"
        )
    version = state.get("version", 0)
    if version != VERSION:
        raise CheckpointError(
            f"{path} was written by {'an older' if version < VERSION else 'a newer'} version of "
            f"this project (format {version!r}, this one reads {VERSION}); use the commit that "
            "settings.yaml of its run names"
        )
    if not marked:
        raise cut
    return state


def _mark(content: bytes) -> bytes:
    return MARK + hashlib.sha256(content).hexdigest().encode()


def by_step(folder: Path, name: re.Pattern[str]) -> dict[int, Path]:
    """The files of a folder by the step in their name, oldest first."""
    found = ((name.fullmatch(file.name), file) for file in folder.glob("*"))
    return dict(sorted((int(match[1]), file) for match, file in found if match))


@dataclass
class CheckpointFolder:
    """The checkpoints of a run: ``step_00001000.pt`` … and ``best.pt``."""

    folder: Path
    keep: int = 3  # of the newest
    keep_steps: int = 0  # those of steps that are a multiple of this stay too; 0: none

    @property
    def best(self) -> Path:
        """The file of the best validation so far."""
        return self.folder / "best.pt"

    def files(self) -> dict[int, Path]:
        """The checkpoints by step, oldest first."""
        return by_step(self.folder, NAME)

    def save(self, step: int, state: State, best: bool = False) -> None:
        """Write the checkpoint of a step, and as the ``best``; delete those that need not stay."""
        path = self.folder / f"step_{step:08d}.pt"
        save(path, state)
        if best:
            write_bytes(self.best, path.read_bytes())
        for old, file in list(self.files().items())[: -self.keep]:
            if not (self.keep_steps and old % self.keep_steps == 0):
                file.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The newest checkpoint that is intact; None where there is none at all.

        A damaged one is passed over with a warning; CheckpointError if all are, or one is not ours.
        """
        files = self.files().values()
        for path in reversed(files):
            try:
                load(path)
                return path
            except DamagedCheckpointError as error:
                log.warning("%s; the checkpoint before it is used", error)
        if not files:
            return None
        raise CheckpointError(f"{self.folder} holds no checkpoint that is intact; start a new run")

    def set_aside_after(self, newest: Path) -> None:
        """Rename what comes after the checkpoint that :meth:`newest` gave, as it is damaged: it
        would count as newer than what the run writes from there on."""
        files = list(self.files().values())
        for path in files[files.index(newest) + 1 :]:
            aside = path.with_name(f"{path.name}.damaged")
            with refusals(path, "cannot be renamed"):
                path.replace(aside)
            log.warning("%s is set aside as %s", path, aside.name)

    def mend_best(self, step: int) -> None:
        """Write ``best.pt`` anew where it is not of the best validation's step, as a kill or a full
        disk leaves it; a warning where that step's checkpoint is gone."""
        path = self.folder / f"step_{step:08d}.pt"
        if _step_of(self.best) == step:
            return
        if _step_of(path) == step:
            write_bytes(self.best, path.read_bytes())
        else:
            what = f"the best validation, that of step {step}, whose weights are gone"
            log.warning(f"{self.best} is not of {what}")


def _step_of(path: Path) -> int | None:
    """The step of a checkpoint; None where there is none that can be used."""
    try:
        return int(load(path)["step"])
    except (CheckpointError, MissingError):
        return None
