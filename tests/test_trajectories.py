"""Whole training runs of the original, repeated to within float32's rounding."""

from pathlib import Path

import pytest
import torch

from tests.trajectories import FOLDER, TOLERANCES, misfits, repeat

FILES = sorted(FOLDER.glob("*.npz"))
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize(
    "device, captured",
    [
        pytest.param("cpu", False, id="cpu"),
        pytest.param("cuda", False, id="cuda", marks=ON_GPU),
        pytest.param("cuda", True, id="cuda-captured", marks=ON_GPU),
    ],
)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recorded_run(file: Path, device: str, captured: bool) -> None:
    assert misfits(repeat(file, device, captured)) == []


def test_there_are_runs_of_both_kinds() -> None:
    names = {file.stem for file in FILES}
    assert {"hgru", "hgru_intended"} <= names


@pytest.mark.parametrize("name, other", [("hgru", "all"), ("hgru_intended", "as_released")])
def test_the_other_setting_does_not_meet_a_recorded_run(name: str, other: str) -> None:
    errors = repeat(FOLDER / f"{name}.npz", updates=other)
    for kind in ("loss", "weights"):
        assert errors[kind][0] > 100 * TOLERANCES[kind]
