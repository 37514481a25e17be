"""One call of a script: find or make the run, train, and say where everything is."""

import contextlib
import inspect
import logging
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from config import Config
from dataset_processing import demonstration, prepare
from dataset_processing.sets import demonstration_notice
from support.errors import MissingError, UserError
from support.memory import keep_memory
from training.checkpoints import CheckpointError, CheckpointFolder, load
from training.distribution import OtherRankError, Ranks
from training.experiment import (
    SETTINGS,
    Experiment,
    Settings,
    check_options,
    differences,
    plain,
)
from training.log import NOTICES, RunLog
from training.loop import Training
from training.optimizers import dead_weights
from training.provenance import code, environment
from training.run import Run, new_run, runs
from training.seeds import seed_of
from training.signals import Stop
from training.weights import Weights, brought, find_weights, origin, other_options

log = logging.getLogger(__name__)

WORKERS = 8


def train(
    params: Mapping[str, Any],
    build_model: Callable[[Settings], Any],
    options: Any,
    ranks: Ranks,
    stop: Stop,
) -> bool:
    """Train as the options say.

    Args:
        params: what the script's ``experiment_params`` returned.
        build_model: the script's.
        options: of the command line.
        ranks: the processes that train together.
        stop: when to leave.

    Returns:
        Whether the run is complete; False if it left early, with a checkpoint.

    Raises:
        UserError: what cannot be done; the message says why.
    """
    asked = Experiment.of(params, options.overrides)
    _agree(ranks, asked, options)
    config = Config()
    standing_in = ranks.first(lambda: _demonstration(asked, config))
    exp = Experiment.of(params, [*standing_in, *options.overrides])
    run, record = None, {}
    if options.resume:
        run = ranks.first(lambda: _locked(_run_to_resume(config, options.resume, exp, asked)))
        record = run.record() if run else {}
    if standing_in and run is None:
        record["demonstration"] = demonstration_notice(asked.dataset)
    exp = Experiment.of(params, [*record.get("overrides", standing_in), *options.overrides])
    seed = _chosen_seed(options.seed, record.get("seed"))
    deterministic = bool(options.deterministic or record.get("deterministic"))
    _set_up(deterministic, seed)
    if ranks.device.type == "cpu":
        keep_memory()
    for name in dict.fromkeys([exp.dataset, exp.val_dataset]):
        if name is not None:
            ranks.first(partial(prepare, name, config))
    checkpoint = ranks.first(partial(_checkpoint, run)) if run else None
    initial, which = None, exp.initial_weights
    if which and not checkpoint:
        initial = ranks.first(partial(_named, which, config))
        more = brought(initial, exp.aux)
        exp = Experiment.of(params, [*exp.overrides, *more])
        if more and ranks.is_first:
            log.warning("the initial weights bring the options they need: %s", ", ".join(more))
    network = _build(build_model, exp)
    if initial is not None:
        record["initial_weights"] = _begin_with(initial, network, exp, ranks.is_first)
    training = Training(
        exp,
        network,
        config,
        ranks,
        seed,
        _workers(options.workers, ranks),
        options.on_bad_record,
        captured=not options.eager,
    )
    here = ranks.first(lambda: code(Path(inspect.getfile(build_model))))
    if run and checkpoint:
        state = load(checkpoint, ranks.device)
        _check_identity(run, state, training)
        training.restore(state)
        if ranks.is_first:
            _compare_session(record["sessions"][-1], here)
    if ranks.is_first:
        for caution in exp.cautions():
            log.warning(caution)
    record |= {"parameters": exp.as_dict(), "overrides": list(exp.overrides)}
    record |= {"seed": seed, "deterministic": deterministic}
    resumed = run is not None
    run = ranks.first(lambda: _recorded(config, run, record, here, training))
    stop.begin()
    return _go(training, run, stop, resumed, record.get("demonstration"))


def _agree(ranks: Ranks, exp: Experiment, options: Any) -> None:
    """UserError on the first of the processes that train together where they are not alike."""
    mine = {**exp.as_dict(), "--seed": options.seed, "--resume": options.resume}
    mine |= {"--deterministic": options.deterministic, "--on-bad-record": options.on_bad_record}
    first, *others = ranks.from_all(mine)
    for rank, other in enumerate(others, start=1):
        lines = [
            f"{key} is {first[key]!r} on process 0 and {other[key]!r} on process {rank}"
            for key in first
            if first[key] != other[key]
        ]
        if lines:
            raise (UserError if ranks.is_first else OtherRankError)(
                f"{'; '.join(lines)}: all processes of a run need the same script and options"
            )


def _recorded(
    config: Config,
    run: Run | None,
    record: dict[str, Any],
    code: dict[str, Any],
    training: Training,
) -> Run:
    """A new run, or the locked one to go on with; its record says how it was called."""
    record |= {"network": training.network(), "data": training.data()}
    session = {
        "step": training.step,
        "images": training.images,
        "seconds": training.seconds if math.isfinite(training.seconds) else None,
        "code": code,
        "environment": environment(training.ranks.device, training.ranks.world_size),
    }
    record["sessions"] = [*record.get("sessions", []), session]
    if run is not None:
        run.clear_partial_files()
        run.write(record)
        return run
    run = new_run(config, training.settings["exp_name"])
    run.lock()
    run.write({"run": run.name, "script": Path(sys.argv[0]).name, **record})
    run.begin()
    return run


def _go(training: Training, run: Run, stop: Stop, resumed: bool, note: str | None) -> bool:
    """Train, and say how it began and ended, and the note."""
    ranks = training.ranks
    log = RunLog(run, training.total, training.step, quiet=not ranks.is_first)
    NOTICES.pass_on(log.note)
    began, first = time.monotonic(), training.step
    try:
        log.say(_opening(training, run, resumed, note))
        if training.step >= training.total and training.finished():
            log.say("this run is complete already; --set epochs=N with a larger N makes it longer")
            ranks.first(lambda: training.write_results(run))  # perhaps it was killed before that
            reason = None
        else:
            reason = training.go(run, log, stop)
        minutes = (time.monotonic() - began) / 60
        log.say(_closing(training, run, training.step - first, minutes, reason, note))
        log.event("end", training.step, {"complete": reason is None, "reason": reason})
        return reason is None
    except Exception as error:
        kind = type(error).__name__
        with contextlib.suppress(RuntimeError):  # where the disk is full the log cannot say so
            log.note(traceback.format_exc())
            log.event("error", training.step, {"error": kind, "message": str(error)})
        raise
    finally:
        NOTICES.pass_on(None)
        training.close()
        with contextlib.suppress(OSError):  # TensorBoard's last events on a full disk
            log.close()


def _opening(training: Training, run: Run, resumed: bool, note: str | None) -> str:
    settings, ranks = training.settings, training.ranks
    network = training.network()
    height, width = network["input_size"]
    processes = f", {ranks.world_size} processes" if ranks.world_size > 1 else ""
    data = training.data()
    start = None if resumed else settings["initial_weights"]
    released = settings["updates"] == "as_released"
    lines = [
        f"{'resumed' if resumed else 'run'} {run.name}"
        + (f" at step {training.step}" if resumed else "")
        + (f": {note}" if note else ""),
        f"  {settings['model_name']}: {network['parameters']} parameters on "
        f"{ranks.device}{processes}",
        *([f"  begins with the weights {start}"] if start else []),
        *([f"  updates as_released: {_as_released(training.model)}"] if released else []),
        f"  the network is given {height}×{width} pixels, after "
        f"{', '.join(network['preprocessing']['train']) or 'no preprocessing'}",
        f"  training on {data['train']['description']}",
        f"  validating on {data['validation']['description']}",
        f"  {training.total} steps: {settings['epochs']} epochs of "
        f"{training.loader.batches_per_epoch} batches of {settings['batch_size']} images",
        f"  everything of this run: {run.folder}",
    ]
    return "\n".join(lines)


def _as_released(network: Any) -> str:
    """What the setting means for this network."""
    if not dead_weights(network):
        return "the same as all for this network, whose circuit is no loop"
    return "the feedforward drive stays as it is, the bias correction that of the first update"


def _closing(
    training: Training, run: Run, steps: int, minutes: float, reason: str | None, note: str | None
) -> str:
    history, metric = training.history, training.settings["score_metric"]
    head = "complete" if reason is None else f"left early: {reason}"
    done = f"step {training.step} of {training.total}"
    lines = [f"{head} at {done} ({steps} steps in {minutes:.1f} minutes)"]
    best = history.best()
    if best is not None:
        lines.append(
            f"  validation: last {metric} {history.validation_metric[-1]:.4f}, best "
            f"{history.validation_metric[best]:.4f} at step {history.validation_step[best]}"
        )
    bad = len(training.loader.bad_records) + len(training.validation.loader.bad_records)
    if bad:
        lines.append(f"  {bad} bad record{'s were' if bad > 1 else ' was'} left out: see the log")
    lines += [f"  {name}: {place}" for name, place in run.places().items() if place.exists()]
    if reason is not None:
        lines.append(f"  go on with:  python {Path(sys.argv[0]).name} --resume {run.name}")
        if not steps:
            lines.append(
                "  nothing was trained: the start took longer than the time that there was"
            )
    if note:
        lines.append(f"  this was {note}")
    return "\n".join(lines)


def _demonstration(asked: Experiment, config: Config) -> list[str]:
    """Overrides for a demonstration where the user has set nothing and has nothing."""
    return demonstration(asked.dataset, config, asked.changed, asked.model_name)


def _run_to_resume(config: Config, which: str, exp: Experiment, asked: Experiment) -> Run | None:
    """The run that ``--resume`` means.

    'auto' is the experiment's newest, or None. 'latest' is this script's that was started or
    resumed last; of one experiment, where the command line names that.

    Raises:
        UserError: there is no such run, or it cannot go on from the file that is named.
    """
    if which == "auto":
        own = runs(config, exp.exp_name)
        return own[-1] if own else None
    if which == "latest":
        named = asked.changed & {"exp_name", "model_name", "dataset"}
        own = runs(config, exp.exp_name) if named else runs(config, script=Path(sys.argv[0]).name)
        if not own:
            whose = repr(exp.exp_name) if named else f"{Path(sys.argv[0]).name} ({exp.exp_name!r})"
            raise MissingError(f"--resume latest: {config.log_dir} holds no run of {whose}")
        return own[-1]
    try:
        if which.endswith(".pt") and Path(which).is_file():
            load(Path(which))  # damaged, or none of ours
        run = Run.find(which, config)
    except UserError as error:
        raise type(error)(f"--resume {error}") from error
    newest = list(CheckpointFolder(run.checkpoints).files().values())[-1:]
    if run.file is not None and [run.file.resolve()] != [file.resolve() for file in newest]:
        raise UserError(
            f"--resume {which}: a run goes on from its newest checkpoint, and this is not it. To "
            f"begin a new run with these weights: --set initial_weights={which}; to go back to an "
            "older step_*.pt, move the newer ones away"
        )
    return run


def _locked(run: Run | None) -> Run | None:
    """The run, kept for this process before its checkpoints are looked at."""
    if run:
        run.lock()
    return run


def _build(build_model: Callable[[Settings], Any], exp: Experiment) -> Any:
    """The script's network.

    Raises:
        UserError: it does not know an option of ``aux``, an option that it was built with cannot
            be, or it is no network.
    """
    try:
        network = build_model(exp.as_dict())
    except TypeError as error:
        other = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if other is None or other[1] not in exp.aux:
            raise
        raise UserError(f"aux.{other[1]} is no option of this script's network: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise UserError(
            f"build_model() must return a torch.nn.Module, found {type(network).__name__}"
        )
    check_options(network)
    return network


def _checkpoint(run: Run) -> Path | None:
    """The run's newest checkpoint; None where it was killed before the first.

    Raises:
        UserError: it has trained, but its checkpoints are gone.
    """
    newest = CheckpointFolder(run.checkpoints).newest()
    if newest is None and run.reached():
        raise UserError(
            f"{run.name} reached step {run.reached()}, but {run.checkpoints} holds no checkpoint: "
            "put them back, or start a new run without --resume"
        )
    return newest


def _named(which: str, config: Config) -> Weights:
    """The weights that ``initial_weights`` names."""
    try:
        return find_weights(which, config)
    except UserError as error:
        text = str(error).removeprefix(f"{which}: ")
        raise type(error)(f"initial_weights={which}: {text}") from error


def _begin_with(initial: Weights, network: Any, exp: Experiment, first: bool) -> dict[str, Any]:
    """Set the network's weights; what the run records of them."""
    which = str(exp.initial_weights)
    try:
        initial.into(network)
    except UserError as error:
        raise type(error)(f"initial_weights={which}: {error}") from error
    others = other_options(initial, network)
    if others and first:
        log.warning("the initial weights were trained with other options: %s", "; ".join(others))
    return origin(initial, which, network)


def _compare_session(session: dict[str, Any], here: dict[str, Any]) -> None:
    """Warn where the code, or on a CPU the number of threads, is not that of the last session."""
    where = session.get("environment") or {}
    threads, now = where.get("threads"), torch.get_num_threads()
    if where.get("device") == "cpu" and threads not in (None, now):
        log.warning(
            "this run was trained with %d threads, and goes on with %d: other bits than without "
            "the break", threads, now,
        )  # fmt: skip
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
            "the code differs from the one that trained this run so far: %s (commit %s there, %s "
            "here)", ", ".join(changed), before.get("commit"), here["commit"],
        )  # fmt: skip


def _check_identity(run: Run, state: dict[str, Any], training: Training) -> None:
    """UserError where the checkpoint is of other settings, seed or data, or past the end."""
    found, here = state["identity"], plain(training.identity)
    changeable = {key for key, setting in SETTINGS.items() if setting.metadata["resume"]}
    if here["parameters"]["lr_schedule"] != "constant":
        changeable.remove("epochs")  # the learning rate so far depends on where the run ends
    lines = differences(found["parameters"], here["parameters"])
    lines = [line for line in lines if line.split(":")[0] not in changeable]
    lines += differences(_flat(found, here), _flat(here, here))
    if lines:
        raise CheckpointError(
            f"the checkpoint of {run.name} is of other settings (there: the checkpoint; here: this "
            f"script): {'; '.join(lines)}. Set them back, or start a new run without --resume"
        )
    done = state["epoch"] + (state["position"] > 0)
    if here["parameters"]["epochs"] < done:
        raise UserError(
            f"epochs is {here['parameters']['epochs']}, but {run.name} is in its epoch {done} "
            f"already (step {state['step']}); give {done} or more"
        )


def _flat(identity: dict[str, Any], all_of: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint is of, beside its parameters; what an earlier version did not record is
    taken to be the same."""
    flat = {key: identity.get(key, value) for key, value in all_of.items() if key != "parameters"}
    network = flat.pop("network")
    return {**flat, "class": network["class"], **network["options"]}


def _chosen_seed(given: int | None, recorded: int | None) -> int:
    """The seed of a new run, or that of the run to go on with."""
    if recorded is None:
        return given or 0
    if given is not None and given != recorded:
        raise UserError(f"--seed {given}: this run was started with {recorded}")
    return recorded


def _set_up(deterministic: bool, seed: int) -> None:
    """Set PyTorch up for repeatable or for fast work, and seed the initial values."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.manual_seed(seed_of(seed, "initial values"))


def _workers(given: int | None, ranks: Ranks) -> int:
    """Processes that load images; no more than twice the cores that this one has a share of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) / ranks.world_size
    if given is None:
        return min(WORKERS, int(share / 2))
    most = max(WORKERS, int(2 * share))
    if given > most and ranks.is_first:
        log.warning(
            "--workers %d: %d are started, as this machine has %s cores", given, most, cores
        )
    return min(given, most)
