"""Shared by all tests: where the reference data lies, and quiet, repeatable arithmetic."""

import os
import signal
from pathlib import Path

# One thread a process, in those that tests start too: their tensors are small, and threads that
# wait for one another on a busy machine cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def golden():
    """Reads a golden vector file: ``golden('hgru')`` gives its arrays by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(TESTS / "golden" / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real stimuli and TensorFlow-written records that the tests use."""
    return TESTS / "data"


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (hypothesis and libraries may use the global one)


@pytest.fixture
def heard():
    """SIGHUP is heard, also where nohup has the tests ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
