"""Several processes over gloo against one, and what goes wrong between them."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import ff_5
import hgru
import hgru_bn
from config import CLONE
from dataset_processing.loader import Batch, Loader
from dataset_processing.records import RecordReader, RecordWriter
from support.errors import UserError
from tests.training import processes, tiny
from tests.training.conftest import QUIET
from tests.training.test_leaving import alive, children
from tests.training.test_resume import validation_loss_of, wait_for
from training.command_line import COMPLETE, ERROR, LEFT_EARLY
from training.distribution import OtherRankError, Ranks, device_of
from training.signals import EXIT_CODES, told


def small_ff_5(params):
    return ff_5.build_model({**params, "aux": {"kernel_size": 5}})


NETWORKS = {"hgru": hgru.build_model, "hgru_bn": hgru_bn.build_model, "ff_5": small_ff_5}
# 5 images a batch in slices of 2 and 3, and a last batch of 2: 5 batches an epoch, 20 steps.
OPTIONS = ["--seed", "1", "--workers", "0", "--device", "cpu"]
OPTIONS += ["--set", "batch_size=5", "--set", "epochs=4", "--set", "validation_iters=10"]
# Normalisation takes away whatever these biases add, so their gradient is 0 but for rounding. Nadam
# divides it by its own size and moves them at random; the running means follow them.
READOUT = {"norm.bias", "readout.norm.running_mean"}
CIRCUIT = {f"hgru.{name}" for name in ("b_gain", "b_mix")}
CIRCUIT |= {f"hgru.norms.{name}.0.running_mean" for name in ("g1", "g2")}
VALIDATED = ("validation_loss", "validation_metric")
WITHOUT_EFFECT = {"ff_5": READOUT, "hgru": READOUT, "hgru_bn": READOUT | CIRCUIT}


@pytest.mark.parametrize(
    ("network", "optimizer", "tolerance"),
    [
        # Nadam moves a weight by up to 1e-3 a step however small its gradient is, and by its sign.
        ("hgru", "nadam", 3e-4),
        ("hgru_bn", "momentum", 1e-5),
        ("ff_5", "sgd", 1e-5),
        pytest.param("hgru", "momentum", 1e-5, marks=pytest.mark.slow),
        pytest.param("hgru_bn", "nadam", 5e-3, marks=pytest.mark.slow),
    ],
)
def test_two_processes_compute_what_one_does(
    network: str, optimizer: str, tolerance: float, tmp_path: Path
) -> None:
    projects = tmp_path / "alone", tmp_path / "together"
    for project in projects:
        tiny.make_records(project)
    options = [*OPTIONS, "--set", f"optimizer={optimizer}"]
    if network == "ff_5":  # five normalisations of few images make much of little
        options += ["--set", "lr=1e-6"]
    build = NETWORKS[network]
    started = [processes.start(options, projects[0], build=build)]
    started += processes.start_ranks(2, options, projects[1], build=build)
    codes = [processes.finish(process) for process in started]
    assert codes == [0, 0, 0], processes.said(projects[0]) + processes.said(projects[1], 1)

    alone, together = (processes.newest_checkpoint(project) for project in projects)
    assert alone["step"] == together["step"] == 20
    exact = optimizer != "nadam"
    skipped = set() if exact else WITHOUT_EFFECT[network]
    for name, values in alone["history"].items():
        if name == "validation_seconds" or (name in VALIDATED and not exact):
            continue  # validation sees norm.bias until the running averages have followed
        np.testing.assert_allclose(together["history"][name], values, rtol=1e-4, err_msg=name)
    for name in alone["model"].keys() - skipped:
        torch.testing.assert_close(
            together["model"][name],
            alone["model"][name],
            rtol=1e-4,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("count", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_load_ahead(count: int, tmp_path: Path) -> None:
    """Words and sizes are agreed some batches early; nothing else changes."""
    projects = tmp_path / "alone", tmp_path / "together"
    for project in projects:
        tiny.make_records(project)
    options = [*OPTIONS, "--set", "optimizer=momentum", "--set", "checkpoint_minutes=0"]
    started = [processes.start(options, projects[0])]
    started += processes.start_ranks(count, options, projects[1], ahead=3)
    assert [processes.finish(p) for p in started] == [COMPLETE] * (count + 1)
    # The last batch of an epoch, of 2 images, is none for more processes.
    alone, together = (processes.newest_checkpoint(p) for p in projects)
    assert (alone["step"], together["step"]) == (20, 16)
    losses = [state["history"]["train_loss"][:4] for state in (alone, together)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize("network", ["hgru", "hgru_bn"])
def test_four_then_eight_then_two_processes_compute_what_one_does(
    network: str, tmp_path: Path
) -> None:
    """One run, resumed with another number of processes at each epoch."""
    projects = tmp_path / "alone", tmp_path / "together"
    for project in projects:
        tiny.make_records(project)
    options = ["--seed", "1", "--workers", "0", "--device", "cpu", "--set", "batch_size=11"]
    options += ["--set", "optimizer=momentum", "--set", "epochs={}", "--resume", "auto"]
    for epochs, count in enumerate((4, 8, 2), start=1):
        told = [word.format(epochs) for word in options]
        ranks = processes.start_ranks(count, told, projects[1], build=NETWORKS[network])
        assert [processes.finish(process) for process in ranks] == [COMPLETE] * count
    told = [word.format(3) for word in options]
    assert processes.run(told, projects[0], build=NETWORKS[network]) == COMPLETE
    alone, together = (processes.newest_checkpoint(project) for project in projects)
    assert alone["step"] == together["step"] == 6
    losses = [state["history"]["train_loss"] for state in (alone, together)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for name, weight in alone["model"].items():
        torch.testing.assert_close(together["model"][name], weight, rtol=1e-4, atol=1e-5)


def test_processes_share_the_validation(project: Path) -> None:
    """Three batches of four: two processes give the same bits as one with the same weights."""
    options = ["--workers", "0", "--device", "cpu", "--set", "epochs=1"]
    ranks = processes.start_ranks(2, options, project)
    assert [processes.finish(p) for p in ranks] == [COMPLETE, COMPLETE]
    history = processes.newest_checkpoint(project)["history"]
    assert history["validation_step"].tolist() == [0, 4, 6]
    for step, loss in zip(history["validation_step"], history["validation_loss"], strict=True):
        (path,) = project.glob(f"tiny_*/weights/weights_{int(step):08d}.npz")
        with np.load(path, allow_pickle=False) as weights:
            assert validation_loss_of(dict(weights)) == loss


@pytest.mark.parametrize("differs", ["images", "labels", "code"])
def test_processes_that_are_not_alike(differs: str, tmp_path: Path) -> None:
    """Each has a copy of the data, or a script, of its own."""
    projects = tmp_path / "0", tmp_path / "1"
    for project in projects:
        tiny.make_records(project)
    train, val = (
        projects[1] / f"tf_records/{tiny.NAME}_{fold}.tfrecords" for fold in ("train", "val")
    )
    if differs == "images":
        train.write_bytes(val.read_bytes())
    if differs == "labels":
        stored = list(RecordReader([train]))
        with RecordWriter(train) as writer:
            for image, label in stored:
                writer.write(image, 1 - label)
    builds = tiny.build_model, small_ff_5 if differs == "code" else tiny.build_model
    ranks = [
        processes.start(OPTIONS, project, environment=given, build=build)
        for project, given, build in zip(projects, processes.environments(2), builds, strict=True)
    ]
    assert [processes.finish(process) for process in ranks] == [ERROR, ERROR]
    said = "".join(processes.said(project, rank) for rank, project in enumerate(projects))
    assert said.count("error: ") == 1 and "process 1" in said
    assert ("code (script): " if differs == "code" else "train data: ") in said
    assert not list(tmp_path.glob("*/tiny_*"))


@pytest.mark.parametrize("count", [3, 8])
def test_a_lost_process_ends_the_others(count: int, tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    options = ["--workers", "0", "--set", "epochs=100000", "--set", "batch_size=8"]
    ranks = processes.start_ranks(count, options, tmp_path)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step_00000004.pt")) != [])
    ranks[2].kill()
    others = [rank for rank in range(count) if rank != 2]
    assert [processes.finish(ranks[rank]) for rank in others] == [ERROR] * (count - 1)
    said = "".join(processes.said(tmp_path, rank) for rank in others)
    assert said.count("error: ") == 1
    assert f"process 2 of {count} was lost" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK='2'"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one'"),
    ],
)
def test_an_environment_that_does_not_fit(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named != "MASTER_ADDR, MASTER_PORT":
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **environment}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as raised:
        Ranks(torch.device("cpu"))
    assert named in str(raised.value)


@pytest.mark.parametrize(("local", "kind"), [(0, UserError), (3, OtherRankError)])
def test_more_processes_than_gpus(
    local: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process refuses; the first of the machine says why."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(kind) as raised:
        device_of("cuda")
    assert "nproc_per_node=4" in str(raised.value) and "2 CUDA devices" in str(raised.value)


def test_a_batch_without_images_is_left_out(script, project, monkeypatch) -> None:
    whole = Loader.batches

    def batches(self, epoch, start=0):
        for number, batch in enumerate(whole(self, epoch, start)):
            if epoch == 1 and number == 2 and len(self.dataset) == tiny.TRAIN:
                batch = Batch(batch.images[:0], batch.labels[:0], batch.records[:0])
            yield batch

    monkeypatch.setattr(Loader, "batches", batches)
    assert script() == COMPLETE
    state = processes.newest_checkpoint(project)
    assert state["step"] == len(state["history"]["train_loss"]) == tiny.STEPS - 1
    assert (state["epoch"], state["position"]) == (tiny.EPOCHS, 0)


@pytest.mark.parametrize(
    ("launcher", "expected"), [("torch.distributed.run", 0), ("training.launch", LEFT_EARLY)]
)
def test_a_run_under_a_launcher_leaves_early_without_a_traceback(
    launcher: str, expected: int, tmp_path: Path
) -> None:
    tiny.make_records(tmp_path)
    answer = subprocess.run(
        [*launched(launcher), "--max-minutes", "0.01"],
        env={**os.environ, "HGRU_PROJECT_DIRECTORY": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=processes.SECONDS,
    )  # fmt: skip
    assert answer.returncode == expected, answer.stderr
    assert "Traceback" not in answer.stderr and "RuntimeWarning" not in answer.stderr
    assert answer.stdout.count("left early: the time limit") == 1


def launching(project: Path, stderr: int) -> subprocess.Popen[str]:
    """A launched run that goes on."""
    return subprocess.Popen(
        launched("training.launch"), stdout=subprocess.PIPE, stderr=stderr, text=True,
        env={**os.environ, "HGRU_PROJECT_DIRECTORY": str(project), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_launcher_reaches_the_run(number: signal.Signals, tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    launcher = launching(tmp_path, stderr=subprocess.PIPE)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step_00000004.pt")) != [])
    launcher.send_signal(number)
    out, error = launcher.communicate(timeout=processes.SECONDS)
    assert launcher.returncode == LEFT_EARLY, error
    assert f"left early: {number.name}" in out
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "began",
    [
        pytest.param("processes", marks=pytest.mark.slow),
        "checkpoints/*/step_00000004.pt",
    ],
)
def test_processes_leave_when_their_launcher_is_killed(began: str, tmp_path: Path) -> None:
    """Those that train do with a checkpoint."""
    tiny.make_records(tmp_path)
    launcher = launching(tmp_path, stderr=subprocess.STDOUT)
    wait_for(lambda: len(children(launcher.pid)) == 2)
    own = children(launcher.pid)
    wait_for(lambda: began == "processes" or list(tmp_path.glob(began)) != [])
    launcher.kill()
    said = launcher.communicate(timeout=processes.SECONDS)[0]  # both have closed it
    wait_for(lambda: not any(alive(process) for process in own))
    assert began == "processes" or "left early: SIGTERM" in said


@pytest.mark.parametrize(
    ("fault", "code", "named"),
    [
        ("import no_such_module", 1, "process 1 ended with the exit code 1"),
        ("os.kill(os.getpid(), 9)", ERROR, "process 1 was ended by SIGKILL"),
    ],
)
def test_a_process_that_dies_while_it_starts_is_named(
    fault: str, code: int, named: str, tmp_path: Path
) -> None:
    """The other, which imports yet, leaves with 75: that is not how the run ended."""
    script = f"""
        import os, pathlib, time
        from training import signals
        listening = pathlib.Path(__file__).with_name("listening")
        if os.environ["RANK"] == "1":
            while not listening.exists():
                time.sleep(0.05)
            {fault}
        signals.listen()
        listening.touch()
        time.sleep(60)
        """
    answer = launch(script, tmp_path)
    assert answer.returncode == code, answer.stderr
    assert "left early: SIGTERM" in answer.stderr and named in answer.stderr


def test_a_process_that_is_killed_after_its_last_step(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    script = """
        import os
        import training
        from tests.training import tiny
        from training import start
        if os.environ["RANK"] == "1":
            start._closing = lambda *_: os.kill(os.getpid(), 9)
        training.main(tiny.experiment_params, tiny.build_model)
        """
    answer = launch(script, tmp_path, *QUIET)
    assert answer.returncode == ERROR, answer.stderr
    assert "process 1 of 2 was lost" in answer.stderr and answer.stderr.count("error: ") == 1


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("raise RuntimeError", "pass", COMPLETE),
        ("sys.exit(3)", "os.kill(os.getpid(), 9)", ERROR),
        pytest.param("sys.exit(3)", "sys.exit(9)", 9, marks=pytest.mark.slow),
    ],
)
def test_the_last_attempt_counts_of_a_run_that_is_started_again(
    first: str, second: str, code: int, tmp_path: Path
) -> None:
    tiny.make_records(tmp_path)
    script = f"""
        import os, sys
        import training
        from tests.training import tiny
        def build_model(params):
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                {first}
            else:
                {second}
            return tiny.build_model(params)
        training.main(tiny.experiment_params, build_model)
        """
    answer = launch(script, tmp_path, *QUIET, before=["--max_restarts=1"])
    assert answer.returncode == code, answer.stderr
    assert "could not join" not in answer.stderr


@pytest.mark.slow
def test_two_nodes_start_again_together(tmp_path: Path) -> None:
    tiny.make_records(tmp_path)
    script = """
        import os
        import training
        from tests.training import tiny
        from training import start
        if os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10":
            start._closing = lambda *_: os.kill(os.getpid(), 9)
        training.main(tiny.experiment_params, tiny.build_model)
        """
    port = processes.environments(1)[0]["MASTER_PORT"]
    node = ["--nnodes=2", "--nproc_per_node=1", "--max_restarts=1", "--rdzv_backend=c10d"]
    node.append(f"--rdzv_endpoint=localhost:{port}")
    with ThreadPoolExecutor() as pool:
        nodes = [pool.submit(launch, script, tmp_path, *QUIET, before=node) for _ in range(2)]
    answers = [one.result() for one in nodes]
    assert [one.returncode for one in answers] == [COMPLETE, COMPLETE]
    said = "".join(one.stderr for one in answers)
    assert "process 1 of 2 was lost" in said and "frame #" not in said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--nproc_per_node=0"], "--nproc_per_node"),
        (["--max_restarts=-1"], "max_restarts"),
        (
            "--nnodes=2 --rdzv_backend=c10d --rdzv_endpoint=localhost:0 "
            "--rdzv_conf=join_timeout=1".split(),
            "2 nodes did not meet at localhost:0",
        ),
    ],
)
def test_a_launch_that_cannot_begin_is_one_line(
    options: list[str], named: str, tmp_path: Path
) -> None:
    answer = launch("", tmp_path, before=options)
    assert answer.returncode == ERROR
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ") and named in line


@pytest.mark.parametrize(("told", "code"), [("7", 7), ("'no images today'", ERROR)])
def test_a_script_that_ends_by_itself(told: str, code: int, tmp_path: Path) -> None:
    script = f"""
        import sys
        import training
        from tests.training import tiny
        training.main(lambda: sys.exit({told}), tiny.build_model)
        """
    answer = launch(script, tmp_path)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("error: no images today\n") == 2 * (code == ERROR)


def test_an_exit_code_that_cannot_be_handed_on_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv(EXIT_CODES, "/dev/full")
    assert [told(code) for code in (ERROR, LEFT_EARLY, COMPLETE)] == [ERROR, 0, COMPLETE]


def launch(
    script: str, folder: Path, *options: str, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A script in two processes that ``training.launch`` starts, with options of its own ``before``
    the script, to its end."""
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script))
    own = {"HGRU_PROJECT_DIRECTORY": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CLONE)}
    launcher = [sys.executable, "-m", "training.launch", "--nproc_per_node=2", *before]
    return subprocess.run(
        [*launcher, str(file), *options],
        env={**os.environ, **own}, capture_output=True, text=True, timeout=processes.SECONDS,
    )  # fmt: skip


def launched(launcher: str) -> list[str]:
    """The tiny experiment in two processes that a launcher starts."""
    command = [sys.executable, "-m", launcher, "--nproc_per_node=2", "-m", "tests.training.tiny"]
    return [*command, *QUIET, "--set", "epochs=100000"]
