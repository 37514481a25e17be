"""What a run ran on: versions, device, code and command line."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLONE = Path(__file__).resolve().parent.parent


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions, device, git commit and whether the code differs from it, and the command line."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "system": platform.platform(),
        "host": platform.node(),
        "device": device_name(device),
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "command": [sys.executable, *sys.argv],
        "working_directory": os.getcwd(),
        **commit(),
    }


def device_name(device: torch.device) -> str:
    """``cpu``, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def commit() -> dict[str, Any]:
    """The clone's git commit and the files that differ from it; None where git does not say."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain")
    return {
        "git_commit": head,
        "git_dirty": None if changed is None else bool(changed),
        "git_changed_files": (changed or "").splitlines()[:50],
    }


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(CLONE), *arguments],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.rstrip()
