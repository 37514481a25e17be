"""What a run is made of and ran on: code, network, versions, device, command line."""

import hashlib
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import CLONE

PARTS = ("script", "dataset_processing", "layers", "models", "training")  # of the code
ANSWERS = PARTS[:-1]  # those that a trained network's answers depend on
SOURCES = (".py", ".cu", ".cuh")
PLAIN = (bool, int, float, str, type(None))


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions, device (a GPU's name), threads and the command line."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "system": platform.platform(),
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "command": [sys.executable, *sys.argv],
        "working_directory": os.getcwd(),
    }


def code(script: Path) -> dict[str, Any]:
    """Which code this is: fingerprints, git commit, and what differs from it.

    ``commit``, ``changed_files`` and ``difference`` (a hash of ``git diff HEAD``) are None where
    git does not say, or this is no clone. ``script`` is the file that builds the network.
    """
    changed, difference = _git("status", "--porcelain"), _git("diff", "HEAD")
    return {
        "commit": commit(),
        "dirty": None if changed is None else bool(changed),
        "changed_files": (changed or "").splitlines()[:50],
        "difference": _hash(difference.encode()) if difference else None,
        "fingerprint": code_fingerprint(script),
    }


def commit() -> str | None:
    """The clone's commit; None where git does not say."""
    return _git("rev-parse", "HEAD")


def code_fingerprint(script: Path) -> dict[str, str]:
    """A hash of the script, and one of the sources in each folder that decides the numbers, without
    what an editor or a file manager keeps beside them (``.#step.py``, ``.ipynb_checkpoints/``)."""
    parts = {"script": script.read_bytes() if script.is_file() else b""}
    for folder in PARTS[1:]:
        found = (file for file in (CLONE / folder).rglob("*") if file.suffix in SOURCES)
        files = sorted(file for file in found if "/." not in str(file.relative_to(CLONE)))
        parts[folder] = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return {part: _hash(content) for part, content in parts.items()}


def other_code(before: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The parts of the code here that are not those that a run recorded, and both commits, in
    words; "" where all that it recorded are the same."""
    there = before.get("fingerprint") or {}
    parts = [part for part, now in here["fingerprint"].items() if there.get(part, now) != now]
    if not parts:
        return ""
    return f"{', '.join(parts)} (commit {before.get('commit')} there, {here['commit']} here)"


def options_of(network: nn.Module) -> dict[str, Any]:
    """A network's class, and the options that it was built with, those left at their default too.

    They are the network's attribute ``options``; of a network without one, those arguments of its
    constructor that it keeps as attributes.
    """
    options = getattr(network, "options", None)
    if not isinstance(options, dict):
        names = inspect.signature(type(network).__init__).parameters
        options = {name: getattr(network, name, ...) for name in names}
    plain = {name: value for name, value in options.items() if isinstance(value, PLAIN)}
    return {"class": type(network).__name__, "options": plain}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _git(*arguments: str) -> str | None:
    # The clone's own repository: not one that a copy without .git lies in, or that GIT_DIR names.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    where = ["-C", str(CLONE), f"--git-dir={CLONE / '.git'}", f"--work-tree={CLONE}"]
    # It only reads: one that is killed would leave its lock in the clone.
    reads = ["--no-optional-locks", "-c", "diff.autoRefreshIndex=false"]
    command = ["git", *reads, *where, *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=10, check=True, env=own)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace").rstrip()
