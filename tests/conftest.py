"""Shared by all tests: where the reference data lies, and quiet, repeatable arithmetic."""

from pathlib import Path

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
