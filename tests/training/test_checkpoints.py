"""Checkpoints: whole, intact, ours; each other case has its message."""

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_processing.layouts import read_metadata
from support.errors import UserError
from support.files import read_array, read_arrays
from tests.training import processes
from training.checkpoints import (
    CheckpointError,
    CheckpointFolder,
    DamagedCheckpointError,
    load,
    save,
)
from training.command_line import COMPLETE, ERROR

STATE = {"step": 3, "model": {"w": torch.arange(6.0).reshape(2, 3)}, "names": ["a", None]}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step_00000003.pt"
    save(path, STATE)
    state = load(path)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])
    assert (state["step"], state["names"]) == (3, ["a", None])
    assert os.listdir(path.parent) == [path.name]
    plain = torch.load(path, weights_only=True)  # PyTorch reads the file as it is
    assert torch.equal(plain["model"]["w"], STATE["model"]["w"])


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step_00000003.pt"
    save(path, STATE)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 300, replace=False).tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            load(path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.97])
def test_a_truncated_checkpoint_is_damaged(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "step_00000003.pt"
    save(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(
        DamagedCheckpointError, match=r"step_00000003\.pt is damaged: it is cut off"
    ):
        load(path)


def test_foreign_files_are_told_apart(tmp_path: Path) -> None:
    foreign = tmp_path / "model.pt"
    for content in ({"state_dict": {}}, torch.ones(2)):
        torch.save(content, foreign)
        with pytest.raises(CheckpointError, match="written by another program"):
            load(foreign)
    foreign.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        load(foreign)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step_00000003.pt"
    save(path, {**STATE, "version": 0})
    with pytest.raises(CheckpointError, match=r"an older version .*format 0, this one"):
        load(path)
    save(path, {**STATE, "version": 99})
    with pytest.raises(CheckpointError, match="written by a newer version"):
        load(path)


class Dangerous:
    """Would make a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_loading_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name in ("a.pt", "b.pt"):
        path = tmp_path / name
        if name == "a.pt":
            path.write_bytes(pickle.dumps(Dangerous(trace), protocol=2))
        else:
            torch.save({"format": "hgru training checkpoint", "x": Dangerous(trace)}, path)
        with pytest.raises(CheckpointError):
            load(path)
    objects = np.array([[Dangerous(trace)]], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=objects)
    for read in (read_arrays, read_array, partial(read_metadata, columns=1)):
        with pytest.raises(UserError, match=r"a\.np"):
            read(tmp_path / ("a.npz" if read is read_arrays else "a.npy"))
    assert not trace.exists()


def test_the_newest_the_best_and_every_nth_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2, keep_steps=20)
    for step in range(0, 60, 5):
        folder.save(step, {"step": step}, best=step == 25)
    assert list(folder.files()) == [0, 20, 40, 50, 55]
    assert load(folder.best)["step"] == 25


def test_a_damaged_newest_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() is None
    for step in (1, 2):
        folder.save(step, {"step": step})
    damaged = folder.files()[2]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert folder.newest() == folder.files()[1]
    assert "step_00000002.pt is damaged" in caplog.text
    assert "the checkpoint before it is used" in caplog.text
    folder.files()[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds no checkpoint that is intact"):
        folder.newest()


def test_a_best_whose_weights_are_gone_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, {"step": 1}, best=True)
    folder.mend_best(1)
    assert not caplog.text
    folder.mend_best(3)
    assert "best.pt is not of the best validation, that of step 3" in caplog.text
    assert load(folder.best)["step"] == 1


def test_a_run_goes_on_from_the_one_before_a_damaged_one(
    script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    newest = sorted(project.glob("checkpoints/*/step_*.pt"))[-1]
    before = processes.outcome(project)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert script("--resume", "latest") == COMPLETE
    said = capsys.readouterr()
    assert f"warning: {newest} is damaged" in said.err
    assert f"warning: {newest} is set aside as {newest.name}.damaged" in said.err
    assert "resumed" in said.out and "at step 4" in said.out
    assert processes.differing(before, processes.outcome(project)) == []  # written again
    assert f"warning: {newest} is damaged" in next(project.glob("logs/*/log.txt")).read_text()


def test_a_damaged_checkpoint_does_not_push_out_those_written_after_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(9, {"step": 9})
    folder.files()[9].write_bytes(b"")
    save(tmp_path / "step_00000000.pt", {"step": 0})
    newest = folder.newest()
    assert newest is not None
    folder.set_aside_after(newest)
    assert [file.name for file in tmp_path.glob("*9*")] == ["step_00000009.pt.damaged"]
    folder.save(4, {"step": 4})
    assert list(folder.files()) == [4] and folder.newest() == folder.files()[4]


def test_resuming_from_a_foreign_checkpoint_is_an_error(
    script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    newest = sorted(project.glob("checkpoints/*/step_*.pt"))[-1]
    torch.save({"epoch": 3}, newest)
    assert script("--resume", "latest") == ERROR
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {newest} is not a checkpoint of this project")
