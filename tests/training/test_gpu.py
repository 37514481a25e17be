"""The loop on a GPU: the captured update, resuming to the same bits, out of memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import processes, tiny
from training.checkpoints import load
from training.command_line import COMPLETE, LEFT_EARLY, OUT_OF_MEMORY, run_script

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Script = Callable[..., int]
STEPS = 24


@pytest.fixture
def gpu_script(project: Path) -> Script:
    """The tiny experiment on the GPU."""

    def run(*arguments: str) -> int:
        options = ["--workers", "0", "--device", "cuda", "--set", "epochs=4", *arguments]
        return run_script(tiny.experiment_params, tiny.build_model, options)

    return run


def losses(project: Path, name: str) -> np.ndarray:
    (file,) = project.glob(f"checkpoints/{name}_*/step_{STEPS:08d}.pt")
    return load(file)["history"]["train_loss"].numpy()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_captured_update_computes_what_the_eager_one_does(
    gpu_script: Script, project: Path, schedule: str
) -> None:
    options = ("--set", f"lr_schedule={schedule}", "--set")
    assert gpu_script(*options, "exp_name=captured") == COMPLETE
    assert gpu_script(*options, "exp_name=eager", "--eager") == COMPLETE
    captured, eager = losses(project, "captured"), losses(project, "eager")
    assert len(captured) == STEPS
    np.testing.assert_allclose(captured, eager, rtol=1e-3)


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    options = ["--workers", "0", "--device", "cuda", "--deterministic", "--set", "epochs=4"]
    for project in (alone, killed):
        tiny.make_records(project)
    assert processes.run(options, alone) == COMPLETE
    early = processes.run([*options, "--set", "checkpoint_minutes=0"], killed)
    assert early == COMPLETE
    # Take the run back to an earlier checkpoint, as a kill would have left it.
    sorted(killed.glob("checkpoints/*/step_*.pt"))[-1].unlink()
    assert processes.run(["--resume", "latest", "--workers", "0"], killed) == COMPLETE
    assert processes.differing(processes.outcome(alone), processes.outcome(killed)) == []


def test_a_time_limit_leaves_a_checkpoint(gpu_script: Script, project: Path) -> None:
    assert gpu_script("--set", "epochs=100000", "--max-minutes", "0.05") == LEFT_EARLY
    state = processes.newest_checkpoint(project)
    assert state["step"] == len(state["history"]["train_loss"])


def test_out_of_memory_is_explained(gpu_script: Script, capsys: pytest.CaptureFixture) -> None:
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        code = gpu_script("--set", "model_input_image_size=[300, 300]", "--set", "batch_size=20")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert code == OUT_OF_MEMORY
    assert "--set batch_size=10" in capsys.readouterr().err
