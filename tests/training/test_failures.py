"""What goes wrong: numbers, memory, disks, records."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_processing.records import RecordWriter
from tests.training import processes, tiny
from training import loop
from training.checkpoints import load
from training.command_line import COMPLETE, ERROR, NOT_FINITE, OUT_OF_MEMORY
from training.distribution import Ranks

Script = Callable[..., int]


def with_a_bright_record(project: Path, record: int) -> None:
    """Records in the original's form, one of which is finite but far too bright."""
    random = np.random.default_rng(0)
    path = project / "tf_records" / "curv_contour_length_14_full_train.tfrecords"
    with RecordWriter(path, compact=False) as writer:
        for i in range(tiny.TRAIN):
            image = random.uniform(0, 255, (300, 300)).astype(np.float32)
            if i == record:
                image[:] = 3e38  # finite, and too large for what follows
            writer.write(image, i % 2)


@pytest.mark.parametrize("read_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(
    read_every: int,
    script: Script,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    with_a_bright_record(project, record=13)
    monkeypatch.setitem(loop.READ_EVERY, "cpu", read_every)  # 100: as seldom as on a GPU
    options = ["shuffle_train=false", "log_iters=50", "validation_iters=50"]
    options += ["data_augmentations=resize", "val_augmentations=resize"]  # no scale is expected
    assert script(*(word for text in options for word in ("--set", text))) == NOT_FINITE
    error = capsys.readouterr().err.strip().splitlines()[-1]
    # Records 12 to 15 are the fourth batch of four.
    assert error.startswith("error: step 4: ") and "nan" in error
    assert "train.tfrecords record 13" in error
    last_good = project.resolve() / "checkpoints"
    assert f"The last good checkpoint: {last_good}" in error
    files = list(project.glob("checkpoints/*/*.pt"))
    assert {file.name for file in files} == {"step_00000000.pt", "best.pt"}
    event = json.loads(next(project.glob("logs/*/log.jsonl")).read_text().splitlines()[-1])
    assert event["error"] == "NotFiniteError"


def test_weights_that_are_not_finite_are_not_saved(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    # The first update is finite, but the weights that it makes are too large for float32.
    code = script("--set", "lr=3e38", "--set", "checkpoint_minutes=0")
    assert code == NOT_FINITE
    assert "error: step 1: a weight is not finite after this update" in capsys.readouterr().err
    assert [f.name for f in project.glob("checkpoints/*/step_*")] == ["step_00000000.pt"]


@pytest.mark.parametrize("place", ["step.TrainStep.__call__", "loop.network_optimizer"])
def test_memory_that_does_not_suffice_is_explained(
    place: str, script: Script, project: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """A real allocation beyond any machine's memory, in the place of an update's, or before it."""

    def update(*_: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(f"training.{place}", update)
    assert script() == OUT_OF_MEMORY
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: out of memory on cpu at step 0 with batch_size 4. Try --set ba")
    assert "--set batch_size=2" in error


def test_a_gpu_without_room_to_begin_on_is_explained() -> None:
    """PyTorch's error is then another than that of an allocation."""
    with pytest.raises(loop.OutOfMemoryError), loop.room_for(4, Ranks(torch.device("cpu"))):
        raise torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …")


def limited(arguments: list[str], project: Path, size: int) -> None:
    """The tiny experiment, which may not write a file larger than ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    tiny.run(arguments, project)


def fail_by_size(project: Path, size: int) -> list[str]:
    """Run ``limited`` until it fails; its arguments."""
    tiny.make_records(project)
    arguments = ["--workers", "0", "--set", "epochs=1"]
    process = processes.FORK.Process(target=limited, args=(arguments, project, size))
    process.start()
    assert processes.finish(process) == ERROR
    return arguments


def test_a_checkpoint_that_does_not_fit_leaves_the_older_ones(tmp_path: Path) -> None:
    # The first checkpoint, without the optimizer's averages, takes 100 kB, the others thrice that.
    arguments = fail_by_size(tmp_path, 150_000)
    error = [x for x in processes.said(tmp_path).splitlines() if x.startswith("error:")]
    assert len(error) == 1
    assert "step_00000004.pt: could not be written" in error[0]
    assert "Traceback" not in processes.said(tmp_path)
    (checkpoint,) = tmp_path.glob("checkpoints/*/step_*")
    assert load(checkpoint)["step"] == 0
    assert not list(tmp_path.rglob("*.partial"))
    assert processes.run([*arguments, "--resume", "latest"], tmp_path) == COMPLETE


def test_a_validation_whose_checkpoint_did_not_fit_is_logged_once(tmp_path: Path) -> None:
    arguments = fail_by_size(tmp_path, 50_000)
    assert not list(tmp_path.glob("checkpoints/*/*"))
    assert processes.run([*arguments, "--resume", "latest"], tmp_path) == COMPLETE
    (log,) = tmp_path.glob("logs/*/log.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "validation"] == [0, 4, 6]


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_older_checkpoints(tmp_path: Path) -> None:
    """A small file system of its own, filled by the run."""
    tiny.make_records(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=900k tmpfs {disk} && cp -r {tmp_path}/tf_records {disk} && "
        f"HGRU_PROJECT_DIRECTORY={disk} {sys.executable} -m tests.training.tiny --workers 0 "
        f"--set checkpoint_minutes=0; code=$?; cp -r {disk} {tmp_path}/left; exit $code"
    )
    unshare = [shutil.which("unshare") or "unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*unshare, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("this machine does not let a user mount a file system")
    answer = subprocess.run([*unshare, script], capture_output=True, text=True, timeout=300)
    assert answer.returncode == ERROR, answer.stderr
    assert "No space left on device" in answer.stderr
    assert "Traceback" not in answer.stderr
    left = tmp_path / "left"
    files = list(left.glob("checkpoints/*/*.pt"))
    assert files and all("step" in load(file) for file in files)
    assert not list(left.rglob("*.partial"))


def damage(project: Path, records: int = 1) -> None:
    """Flip a bit in the images of the first records."""
    path = project / "tf_records" / "curv_contour_length_14_full_train.tfrecords"
    content = bytearray(path.read_bytes())
    start = 0
    for _ in range(records):
        length = int.from_bytes(content[start : start + 8], "little")
        content[start + 12 + length // 2] ^= 1
        start += length + 16
    path.write_bytes(content)


def test_a_corrupt_record_stops_the_run_or_is_skipped(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    damage(project)
    assert script("--set", "epochs=1") == ERROR
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "train.tfrecords: record 0" in error
    assert script("--set", "epochs=1", "--on-bad-record", "skip") == COMPLETE
    said = capsys.readouterr()
    assert said.err.count("warning: bad record 1 skipped") == 1
    assert "1 bad record was left out" in said.out


def test_two_processes_stop_together_at_a_corrupt_record(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    damage(tmp_path)
    arguments = ["--workers", "0", "--device", "cpu", "--set", "epochs=1"]
    ranks = processes.start_ranks(2, arguments, tmp_path)
    assert [processes.finish(p) for p in ranks] == [ERROR, ERROR]
    said = processes.said(tmp_path) + processes.said(tmp_path, 1)
    assert said.count("error: ") == 1
    assert "Traceback" not in said


def test_two_processes_pass_over_a_batch_of_which_one_has_nothing_good(tmp_path: Path) -> None:
    """The first process has none but bad records of the first batch: 5 of 6 batches train."""
    tiny.make_records(tmp_path)
    damage(tmp_path, records=tiny.BATCH // 2)
    arguments = ["--workers", "0", "--device", "cpu", "--set", "epochs=1", "--set"]
    arguments += ["shuffle_train=false", "--on-bad-record", "skip"]
    ranks = processes.start_ranks(2, arguments, tmp_path)
    assert [processes.finish(p) for p in ranks] == [COMPLETE, COMPLETE]
    state = processes.newest_checkpoint(tmp_path)
    assert (state["step"], state["epoch"], state["position"]) == (5, 1, 0)
    assert processes.said(tmp_path).count("bad record") >= 2


def test_two_processes_stop_together_at_a_signal(tmp_path: Path) -> None:
    import signal

    from training.command_line import LEFT_EARLY

    tiny.make_records(tmp_path)
    ranks = processes.start_ranks(2, ["--workers", "0", "--set", "epochs=1000"], tmp_path)
    end = tmp_path.glob
    while not list(end("checkpoints/*/step_00000004.pt")):
        assert all(p.exitcode is None for p in ranks), processes.said(tmp_path)
        ranks[0].join(0.05)
    os.kill(ranks[1].pid or 0, signal.SIGTERM)  # one of them alone
    assert [processes.finish(p) for p in ranks] == [LEFT_EARLY, LEFT_EARLY]
    state = processes.newest_checkpoint(tmp_path)
    assert f"left early: SIGTERM at step {state['step']}" in processes.said(tmp_path)
