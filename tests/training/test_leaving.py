"""How a run ends that is told to, whose output closes, or whose processes were started unlike."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from config import Config
from tests.training import processes, tiny
from tests.training.conftest import QUIET
from training import signals
from training.command_line import COMPLETE, ERROR, INTERRUPTED, LEFT_EARLY, run_script
from training.run import Run

CLONE = Path(__file__).parents[2]
POLITE = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]
TINY = [sys.executable, "-m", "tests.training.tiny", *QUIET, "--set", "epochs=1"]


pytestmark = pytest.mark.usefixtures("heard")


@pytest.mark.parametrize("command", [["hgru.py", *QUIET], ["-m", "training.launch", "hgru.py"]])
@pytest.mark.parametrize("number", [*POLITE, signal.SIGINT])
def test_a_signal_while_a_script_imports_leaves_at_once(
    number: signal.Signals, command: list[str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command],
        cwd=CLONE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as at a terminal
        env={**os.environ, "HGRU_PROJECT_DIRECTORY": str(tmp_path / "runs")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "| " in line and line.split("|")[-1].strip().startswith("torch."):
            break  # PyTorch's first part is there, most of it is not
    process.send_signal(number)
    rest = process.communicate(timeout=processes.SECONDS)[1]
    said, code = number.name, LEFT_EARLY
    if number == signal.SIGINT:
        said, code = "error: interrupted before the training began", INTERRUPTED
    assert process.returncode == code
    assert rest.count(said) == 1 and "Traceback" not in rest
    assert not (tmp_path / "runs").exists()


def test_many_signals_while_a_script_imports_leave_with_75(tmp_path: Path) -> None:
    errors = tmp_path / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "hgru.py", *QUIET], cwd=CLONE, stderr=file
        )
    wait_for(lambda: " torch." in errors.read_text())
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    assert process.returncode == LEFT_EARLY
    assert "Traceback" not in errors.read_text()


@pytest.mark.parametrize("number", POLITE)
def test_a_signal_before_the_training_begins_leaves_with_75(
    number: signal.Signals, project: Path, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(project.rglob("*"))

    def build_model(params: dict) -> None:
        os.kill(os.getpid(), number)
        time.sleep(processes.SECONDS)

    with pytest.raises(SystemExit) as left:
        run_script(tiny.experiment_params, build_model, QUIET)
    assert left.value.code == LEFT_EARLY
    assert number.name in capsys.readouterr().err
    assert sorted(project.rglob("*")) == before


def test_ctrl_c_before_the_training_begins_leaves_with_130(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    def build_model(params: dict) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(processes.SECONDS)

    # A shell that starts tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run_script(tiny.experiment_params, build_model, QUIET) == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    assert "before the training began" in capsys.readouterr().err


def test_nohup_is_respected_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.Stop() as stop:
            stop.begin()
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wanted() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wanted() == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before[0])
    assert signal.getsignal(signal.SIGTERM) == before[1]


def children(process: int) -> list[int]:
    """The processes that one has started."""
    file = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in file.read_text().split()]


def alive(process: int) -> bool:
    """Whether a process still runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", ["killed", "two interrupts", "a bad record"])
def test_no_worker_outlives_its_run(how: str, tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    options = ["--set", "epochs=100000", "--workers", "2"]
    build = tiny.build_slow if how == "two interrupts" else tiny.build_model
    process = processes.start(options, tmp_path, build=build)
    wait_for(lambda: len(children(process.pid or 0)) >= 2)
    if how == "a bad record":
        wait_for(lambda: list(tmp_path.glob("checkpoints/*/step_00000004.pt")))
    elif how == "two interrupts":
        wait_for(lambda: tiny.STEP_BEGINS in processes.said(tmp_path))
    workers = children(process.pid or 0)
    assert len([w for w in workers if alive(w)]) >= 2
    if how == "killed":
        process.kill()
    elif how == "two interrupts":
        os.kill(process.pid or 0, signal.SIGINT)
        time.sleep(0.2)
        os.kill(process.pid or 0, signal.SIGINT)
    else:
        (records,) = tmp_path.glob("tf_records/*_train.tfrecords")
        content = bytearray(records.read_bytes())
        content[200] ^= 1
        with open(records, "r+b") as file:
            file.write(content)
    code = processes.finish(process)
    assert code == {"killed": -9, "two interrupts": INTERRUPTED, "a bad record": ERROR}[how]
    wait_for(lambda: not any(alive(worker) for worker in workers))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_worker_whose_run_is_killed_while_it_starts_ends(tmp_path: Path) -> None:
    """The run dies between the worker's start and its asking to be told of that."""
    program = f"""
import ctypes, multiprocessing, os, signal, time
from pathlib import Path
multiprocessing.set_start_method("fork")
import numpy as np
from dataset_processing import loader

class Images:
    def __len__(self): return 4
    def __getitem__(self, index): return np.zeros((2, 2), np.uint8), 0
    def name(self, index): return str(index)

run, library = os.getpid(), ctypes.CDLL(None)

class Late:
    def prctl(self, *arguments):
        Path({str(tmp_path)!r}, "worker").write_text(str(os.getpid()))
        os.kill(run, signal.SIGKILL)
        while os.getppid() == run:
            time.sleep(0.01)
        return library.prctl(*arguments)

ctypes.CDLL = lambda name: Late()
next(loader.Loader(Images(), 2, 0, False, 1, "cpu").batches(0))
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=CLONE, timeout=processes.SECONDS)
    assert ended.returncode == -signal.SIGKILL
    worker = int((tmp_path / "worker").read_text())
    try:
        wait_for(lambda: not alive(worker))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_lost_worker_is_one_line(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    process = processes.start(["--set", "epochs=100000", "--workers", "2"], tmp_path)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step_00000004.pt")))
    os.kill(children(process.pid or 0)[0], signal.SIGKILL)
    assert processes.finish(process) == ERROR
    said = processes.said(tmp_path)
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "a process that loads images" in error and "--workers" in error
    assert "Traceback" not in said


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_a_run_goes_on_where_its_output_is_full(full: str, project: Path) -> None:
    with open("/dev/full", "w") as device:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, full: device}
        done = subprocess.run(TINY, cwd=CLONE, text=True, timeout=processes.SECONDS, **pipes)
    assert done.returncode == COMPLETE
    assert "Traceback" not in (done.stderr or "")
    (log,) = project.glob("logs/*/log.txt")
    assert "complete at step 6 of 6" in log.read_text()


def test_a_run_goes_on_where_its_output_is_closed(project: Path) -> None:
    """As in  python hgru.py | head -1"""
    process = subprocess.Popen(
        TINY, cwd=CLONE, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("run tiny_")
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(processes.SECONDS) == COMPLETE
    assert "standard output" in error and "Traceback" not in error
    (log,) = project.glob("logs/*/log.txt")
    assert "complete at step 6 of 6" in log.read_text()
    assert "standard output" in log.read_text()


@pytest.mark.parametrize(
    "place", ["logs", "summaries", "checkpoints", "results", "experiment_evaluations"]
)
def test_a_folder_that_cannot_be_made_is_one_line(
    place: str, script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    (project / place).write_text("a file where a folder should be")
    assert script("--set", "epochs=1") == ERROR
    (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert str(project / place) in error


def test_a_link_of_logs_that_leads_nowhere_is_one_line(
    script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    """As to a disk that is not mounted."""
    (project / "logs").symlink_to(project / "nowhere")
    assert script("--set", "epochs=1") == ERROR
    assert f"error: {project / 'logs'} cannot be made" in capsys.readouterr().err


def test_a_run_whose_own_folder_cannot_be_made_is_none(
    script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of one whose folder is gone it is made again."""
    assert script("--set", "epochs=1") == COMPLETE
    (folder,) = project.glob("tiny_*")
    links = sorted(path.name for path in folder.iterdir())
    shutil.rmtree(folder)
    folder.write_text("a file where a folder should be")
    assert script("--resume", "auto") == ERROR
    assert f"error: {folder} cannot be made" in capsys.readouterr().err
    assert len(Run(Config(), folder.name).record()["sessions"]) == 1
    folder.unlink()
    assert script("--resume", "auto") == COMPLETE
    assert sorted(path.name for path in folder.iterdir()) == links


@pytest.mark.parametrize("variable", ["HGRU_PROJECT_DIRECTORY", "HGRU_DATA_ROOT"])
@pytest.mark.parametrize("where", ["file/x", "loop", "loop/x", "n" * 300, "/proc/runs"])
def test_a_path_that_leads_nowhere_is_one_line(
    where: str,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    monkeypatch.setenv(variable, str(tmp_path / where))
    own = ["--set", "dataset=pathfinder_6_stream", "--set", "stream_epoch_images=4"]
    if variable == "HGRU_DATA_ROOT":
        own = ["--set", "dataset=curv_baseline_full"]
    assert run_script(tiny.experiment_params, tiny.build_model, [*QUIET, *own]) == ERROR
    (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert where in error


@pytest.mark.parametrize(
    ("own", "parts"),
    [
        (["--seed", "1"], ["--seed", "None", "1"]),
        (["--set", "lr=0.5"], ["lr", "0.001", "0.5"]),
        (["--set", "batch_size=8", "--set", "epochs=7"], ["batch_size", "epochs", "7"]),
        (["--set", "exp_name=other"], ["exp_name", "'tiny'", "'other'"]),
    ],
)
def test_processes_that_were_started_unlike_are_an_error(
    own: list[str], parts: list[str], tmp_path: Path
) -> None:
    tiny.make_records(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ranks = processes.start_ranks(2, QUIET, tmp_path, [[], own])
    assert [processes.finish(rank) for rank in ranks] == [ERROR, ERROR]
    said = processes.said(tmp_path) + processes.said(tmp_path, 1)
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    for part in parts:
        assert part in error
    assert "Traceback" not in said
    left = [path for path in sorted(tmp_path.rglob("*")) if not path.name.startswith("said_")]
    assert left == before


def test_a_time_that_is_over_before_the_first_step(
    script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--max-minutes", "1e-6") == LEFT_EARLY
    state = processes.newest_checkpoint(project)
    assert state["step"] == 0
    assert state["history"]["validation_step"].tolist() == [0]  # which the limit let end
    assert "nothing was trained" in capsys.readouterr().out
    assert script("--resume", "latest", "--set", "epochs=1") == COMPLETE
    assert processes.newest_checkpoint(project)["step"] == 6


def test_epochs_given_at_a_resume_are_remembered_at_once(project: Path) -> None:
    assert processes.run([*QUIET, "--set", "epochs=1"], project) == COMPLETE
    options = [*QUIET, "--resume", "latest"]
    process = processes.start([*options, "--set", "epochs=90000"], project)
    wait_for(lambda: "540000 steps" in processes.said(project))
    process.kill()
    processes.finish(process)
    assert processes.newest_checkpoint(project)["step"] < 540_000
    assert processes.run([*options, "--max-minutes", "0.01"], project) == LEFT_EARLY
    assert "of 540000 (" in processes.said(project).rpartition("left early")[2]


def test_fewer_epochs_than_are_done_is_an_error(
    script: Callable[..., int], project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script("--set", "epochs=2") == COMPLETE
    (record,) = project.glob("logs/*/settings.yaml")
    before = record.read_text()
    assert script("--resume", "latest", "--set", "epochs=1") == ERROR
    error = capsys.readouterr().err
    assert "epochs" in error and "1" in error and "2" in error
    assert record.read_text() == before
    assert script("--resume", "latest") == COMPLETE


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + processes.SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the process did not come that far")
        time.sleep(0.02)
