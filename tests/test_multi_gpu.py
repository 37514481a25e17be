"""The comparison of several processes with one, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import multi_gpu
from support.errors import SystemRefusal, UserError


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_are_compared_with_one(processes: int, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    answer = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.multi_gpu", "--device", "cpu", "--scripts", "hgru",
            "--processes", str(processes), "--batch-size", "4", "--large", "8", "--size", "12",
            "--steps", "2", "--rounds", "2", "--profile", "--output", str(out),
        ],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "total batch 8: " in answer.stdout
    found = json.loads(out.read_text())["hgru"]
    cases = {(case["processes"], case["total"]): case["s"] for case in found["times"]}
    assert cases.keys() == {
        (1, 4),
        (processes, 4 * processes),
        (processes, 4),
        (1, 8),
        (processes, 8),
    }
    assert all(len(seconds) == 2 for seconds in cases.values())
    assert max(found["same"]["losses"]) < 1e-4
    assert found["profiles"]["1"]["parts"]["exchanging"] == 0
    assert found["profiles"][str(processes)]["parts"]["exchanging"] > 0


@pytest.mark.parametrize("options", [["--batch-size", "1"], ["--large", "1"]])
def test_fewer_images_than_processes_are_an_error(options: list[str]) -> None:
    with pytest.raises(UserError, match=rf"{options[0]} 1 .* 2 processes"):
        multi_gpu.main([*options, "--loop"])


def test_processes_that_fail_are_one_line() -> None:
    with pytest.raises(SystemRefusal, match="exit code 2"):
        multi_gpu.torchrun(0, "nothing.py")
