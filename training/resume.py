"""Going on with a run: which one, from which checkpoint, and whether it is still the same."""

import logging
import sys
from pathlib import Path
from typing import Any

import torch

from config import Config
from support.errors import MissingError, UserError, about
from training.checkpoints import CheckpointError, CheckpointFolder, load
from training.experiment import SETTINGS, Experiment, differences, plain
from training.run import Run, runs

log = logging.getLogger(__name__)


def run_to_resume(which: str, config: Config, exp: Experiment, named: bool) -> Run | None:
    """The run that ``--resume`` means, kept for this process from now on.

    Args:
        which: 'auto', the experiment's newest, or None; 'latest', this script's that was started or
            resumed last; or what :meth:`Run.find` takes.
        named: the command line says which experiment: 'latest' is one of its runs.

    Raises a UserError where there is no such run, it cannot go on from the file that is named, or
    another process trains it.
    """
    if which in ("auto", "latest"):
        script = Path(sys.argv[0]).name
        of_experiment = which == "auto" or named
        own = runs(config, exp.exp_name) if of_experiment else runs(config, script=script)
        if not own and which == "auto":
            return None
        if not own:
            whose = repr(exp.exp_name) if named else f"{script} ({exp.exp_name!r})"
            raise MissingError(f"--resume latest: {config.log_dir} holds no run of {whose}")
        run = own[-1]
    else:
        with about("--resume "):
            if which.endswith(".pt") and Path(which).is_file():
                load(Path(which))  # damaged, or none of ours
            run = Run.find(which, config)
        newest = list(CheckpointFolder(run.checkpoints).files().values())[-1:]
        if run.file is not None and [run.file.resolve()] != [file.resolve() for file in newest]:
            raise UserError(
                f"--resume {which}: a run goes on from its newest checkpoint, and this is not it. "
                f"To begin a new run with these weights: --set initial_weights={which}; to go back "
                "to an older step_*.pt, move the newer ones away"
            )
    run.lock()
    return run


def checkpoint_of(run: Run) -> Path | None:
    """The run's newest checkpoint; None where it was killed before the first.

    Raises a UserError where it has trained, but its checkpoints are gone.
    """
    newest = CheckpointFolder(run.checkpoints).newest()
    if newest is None and run.reached():
        raise UserError(
            f"{run.name} reached step {run.reached()}, but {run.checkpoints} holds no checkpoint: "
            "put them back, or start a new run without --resume"
        )
    return newest


def check_identity(run: Run, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """UserError where a checkpoint is of other settings, seed or data, or past the end.

    Args:
        run: the checkpoint's run.
        state: what the checkpoint holds.
        identity: what it would say if it were written now.
    """
    found, here = state["identity"], plain(identity)
    changeable = {key for key, setting in SETTINGS.items() if setting.metadata["resume"]}
    if here["parameters"]["lr_schedule"] != "constant":
        changeable.remove("epochs")  # the learning rate so far depends on where the run ends
    lines = differences(found["parameters"], here["parameters"])
    lines = [line for line in lines if line.split(":")[0] not in changeable]
    recorded = {key: found.get(key, value) for key, value in here.items()}
    lines += differences(_flat(recorded), _flat(here))  # what was not recorded is the same
    if lines:
        raise CheckpointError(
            f"the checkpoint of {run.name} is of other settings (there: the checkpoint; here: this "
            f"script): {'; '.join(lines)}. Set them back, or start a new run without --resume"
        )
    done, epochs = state["epoch"] + (state["position"] > 0), here["parameters"]["epochs"]
    if epochs < done:
        raise UserError(
            f"epochs is {epochs}, but {run.name} is in its epoch {done} already (step "
            f"{state['step']}); give {done} or more"
        )


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint is of, beside its parameters."""
    network = identity["network"]
    own = {key: v for key, v in identity.items() if key not in ("parameters", "network")}
    return {**own, "class": network["class"], **network["options"]}


def compare_session(session: dict[str, Any], here: dict[str, Any]) -> None:
    """Warn where the code, or on a CPU the number of threads, is not that of the last session."""
    where = session.get("environment") or {}
    threads, now = where.get("threads"), torch.get_num_threads()
    if where.get("device") == "cpu" and threads not in (None, now):
        log.warning(
            f"this run was trained with {threads} threads, and goes on with {now}: other bits than "
            "without the break"
        )
    before = session["code"]
    there = before.get("fingerprint")
    if there is None:
        log.warning(
            "this run was begun by an earlier version, which recorded neither the network's "
            "options nor the code: whether they are the same cannot be checked"
        )
        return
    changed = [part for part, value in here["fingerprint"].items() if there.get(part) != value]
    if changed:
        log.warning(
            f"the code differs from the one that trained this run so far: {', '.join(changed)} "
            f"(commit {before.get('commit')} there, {here['commit']} here)"
        )
