"""Where a run's weights come from, without the places of the machine that trained them."""

import shlex
from pathlib import Path
from typing import Any

from dataset_processing.sets import is_stream

# What a file of weights says of the machine; its name and its folders stay behind.
ENVIRONMENT = (
    "python", "torch", "numpy", "cuda", "cudnn", "device", "processes", "git_commit", "git_dirty",
)  # fmt: skip
RECORD = (
    "script", "parameters", "overrides", "seed", "deterministic", "initial_weights", "began_with",
    "evaluations",
)  # fmt: skip


def command(record: dict[str, Any]) -> str:
    """The command that trains a run anew: script, overrides and seed.

    Args:
        record: what ``settings.yaml`` holds.
    """
    processes = (record.get("environment") or {}).get("processes") or 1
    words = ["torchrun", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
    words.append(script(record))
    words += [word for text in overrides(record).values() for word in ("--set", text)]
    words += ["--seed", str(record.get("seed") or 0)]
    return shlex.join([*words, *(["--deterministic"] if record.get("deterministic") else [])])


def overrides(record: dict[str, Any]) -> dict[str, str]:
    """A run's ``key=value`` overrides by key, in order; of several of one key the last counts."""
    last: dict[str, str] = {}
    for text in record.get("overrides") or []:
        key = text.partition("=")[0].strip()
        last.pop(key, None)
        last[key] = text
    return last


def script(record: dict[str, Any]) -> str:
    """File name of the script that trained a run."""
    return Path(record.get("script") or f"{record['parameters']['model_name']}.py").name


def data(record: dict[str, Any]) -> str:
    """What a run trained on: the set's name, its images and their fingerprint."""
    name = str(record["parameters"]["dataset"])
    found = (record.get("data") or {}).get("train") or {}
    if "images" not in found:
        return name
    kind = "fresh images an epoch" if is_stream(name) else "images"
    return f"{name}, {found['images']:,} {kind}, fingerprint {found.get('fingerprint')}"


def sessions(record: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """The environments, of the start and of each resumption, whose updates are in the weights.

    Args:
        record: what ``settings.yaml`` holds.
        step: of the weights.
    """
    resumed = [{"step": 0, **record}, *(record.get("resumed") or [])]
    starts = [int(session["step"]) for session in resumed]
    ends = [min(end, step) for end in [*starts[1:], step]]
    return [
        session["environment"]
        for session, start, end in zip(resumed, starts, ends, strict=True)
        if end > start and session.get("environment")
    ]


def devices(record: dict[str, Any], step: int) -> str | None:
    """Names of the devices that trained a run up to a step; None where they are not known."""
    names = []
    for environment in sessions(record, step):
        several = f"{environment['processes']} × " if environment.get("processes", 1) > 1 else ""
        names.append(f"{several}{environment.get('device')}")
    return ", ".join(dict.fromkeys(names)) or None


def commits(record: dict[str, Any], step: int) -> str | None:
    """Commits of the code that trained a run up to a step; None where git did not say."""
    names = [
        environment["git_commit"][:12]
        + (" (with uncommitted changes)" if environment.get("git_dirty") else "")
        for environment in sessions(record, step)
        if environment.get("git_commit")
    ]
    return ", ".join(dict.fromkeys(names)) or None


def portable(record: dict[str, Any]) -> dict[str, Any]:
    """What goes with weights to other machines: a run's record without host, paths and sessions."""
    kept = {key: record[key] for key in RECORD if key in record}
    if record.get("data"):
        kept["data"] = {
            fold: {key: found[key] for key in ("images", "fingerprint") if key in found}
            for fold, found in record["data"].items()
        }
    kept["environment"] = _portable_environment(record.get("environment") or {})
    if record.get("resumed"):
        kept["resumed"] = [
            {"step": one["step"], "environment": _portable_environment(one["environment"])}
            for one in record["resumed"]
        ]
    return kept


def _portable_environment(environment: dict[str, Any]) -> dict[str, Any]:
    return {key: environment[key] for key in ENVIRONMENT if key in environment}
