"""The table of handlings: all end, and speak, as expected."""

import subprocess
import sys

import pytest

from config import CLONE


@pytest.mark.slow
def test_what_people_do_with_runs_and_paths() -> None:
    command = [sys.executable, "-m", "tests.handlings"]
    answer = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, timeout=900)
    assert answer.returncode == 0, answer.stdout
    assert int(answer.stdout.splitlines()[-1].split()[0]) >= 40
