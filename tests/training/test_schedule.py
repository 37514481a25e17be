"""The learning rate from update to update."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import processes
from training.checkpoints import load
from training.command_line import COMPLETE, ERROR
from training.optimizers import OPTIMIZERS, optimizer
from training.schedule import Schedule

Script = Callable[..., int]
COSINE = ("--set", "lr_schedule=cosine", "--set", "warmup_iters=5")


def rates(name: str, warmup: int, steps: int, total: int, lr: float = 0.5) -> list[float]:
    """What plain gradient descent with gradient 1 moves a weight by at each update."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    rule = optimizer("sgd", [w], lr)
    schedule = Schedule(rule, lr, name, warmup)
    found = []
    for step in range(steps):
        w.grad = torch.ones(1, dtype=torch.float64)
        before = w.item()
        schedule.set(step, total)
        rule.step()
        found.append(before - w.item())
    return found


def test_a_constant_rate_is_the_number_itself() -> None:
    assert rates("constant", 0, 1, 3, lr=0.1) == [0.1]  # not the nearest of 32 bits


def test_the_rate_grows_linearly_and_then_stays() -> None:
    np.testing.assert_allclose(rates("constant", 4, 6, 6), [0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_the_rate_falls_along_a_cosine() -> None:
    expected = [0.25, 0.5, *0.5 * np.cos(np.pi / 2 * np.arange(8) / 8) ** 2]
    np.testing.assert_allclose(rates("cosine", 2, 10, 10), expected, rtol=1e-6)
    np.testing.assert_allclose(rates("cosine", 0, 8, 8), expected[2:], rtol=1e-6)


def test_the_rate_stays_and_falls_linearly_over_the_last_fifth() -> None:
    expected = [0.25, 0.5, *[0.5] * 16, 0.5, 0.375, 0.25, 0.125]
    np.testing.assert_allclose(rates("cooldown", 2, 22, 22), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "end"), [("constant", 0.5), ("cosine", 0), ("cooldown", 0)])
def test_updates_beyond_the_total_have_the_rate_of_the_end(name: str, end: float) -> None:
    np.testing.assert_allclose(rates(name, 2, 14, 10)[10:], [end] * 4, atol=1e-12)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_rate_on_the_device_counts_as_the_number_does(name: str) -> None:
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2)]
    rules = [optimizer(name, [w], 0.01) for w in weights]
    rules[1].param_groups[0]["lr"] = torch.tensor(0.01)
    for seed in range(3):
        for w, rule in zip(weights, rules, strict=True):
            w.grad = torch.randn(7, generator=torch.Generator().manual_seed(seed))
            rule.step()
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-7)


def test_a_run_that_goes_on_ends_with_the_same_bits(script: Script, project: Path) -> None:
    def newest() -> Path:
        return sorted(project.glob("checkpoints/tiny_*/step_*.pt"))[-1]

    assert script(*COSINE) == COMPLETE
    whole = load(newest())
    newest().unlink()  # as a kill would have left the run
    assert load(newest())["step"] < whole["step"]
    assert script(*COSINE, "--resume", "latest") == COMPLETE
    parts = load(newest())
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name


def test_the_length_of_a_run_on_a_schedule_stays(
    script: Script, project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert script(*COSINE, "--set", "epochs=1") == COMPLETE
    assert script(*COSINE, "--set", "epochs=2", "--resume", "latest") == ERROR
    assert "epochs: 1 there, 2 here" in capsys.readouterr().err
    assert processes.newest_checkpoint(project)["step"] == 6


def test_what_cannot_be_is_said(script: Script, capsys: pytest.CaptureFixture) -> None:
    assert script("--set", "lr_schedule=cosin") == ERROR
    assert "lr_schedule 'cosin' is not known; did you mean 'cosine'?" in capsys.readouterr().err
    assert script("--set", "warmup_iters=-1") == ERROR
    assert "warmup_iters must be a whole number of at least 0" in capsys.readouterr().err
