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
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from config import Config
from dataset_processing.demonstration import demonstration, demonstration_notice, prepare
from support.errors import UserError, about
from support.memory import keep_memory
from training.checkpoints import load
from training.distribution import OtherRankError, Ranks
from training.experiment import Experiment, Settings, check_options
from training.log import RunLog
from training.loop import Training
from training.optimizers import dead_weights
from training.provenance import code, environment
from training.resume import check_identity, checkpoint_of, compare_session, run_to_resume
from training.run import Run, new_run
from training.seeds import seed_of
from training.signals import Stop
from training.weights import begin_with, brought, find_weights

log = logging.getLogger(__name__)

WORKERS = 8


def train(
    params: Mapping[str, Any],
    build_model: Callable[[Settings], Any],
    options: Namespace,
    ranks: Ranks,
    stop: Stop,
) -> bool:
    """Train as the options of the command line say.

    Args:
        params, build_model: the script's settings as ``experiment_params`` gave them, its network.

    Returns:
        Whether the run is complete; False if it left early, with a checkpoint.
    """
    asked = Experiment.of(params, options.overrides)
    _agree(ranks, asked, options)
    config = Config()
    given = asked.dataset, config, asked.changed, asked.model_name
    standing_in = ranks.first(lambda: demonstration(*given))
    exp = Experiment.of(params, [*standing_in, *options.overrides])
    run, record, checkpoint = None, {}, None
    if options.resume:
        named = bool(asked.changed & {"exp_name", "model_name", "dataset"})
        run = ranks.first(partial(run_to_resume, options.resume, config, exp, named))
    if run is not None:
        record = run.record()
        exp = Experiment.of(params, [*record.get("overrides", []), *options.overrides])
    elif standing_in:
        record["demonstration"] = demonstration_notice(asked.dataset)
    seed = record["seed"] = _seed(options.seed, record.get("seed"))
    record["deterministic"] = bool(options.deterministic or record.get("deterministic"))
    _set_up(ranks, record["deterministic"], seed)
    for name in dict.fromkeys([exp.dataset, exp.val_dataset]):
        if name is not None:
            ranks.first(partial(prepare, name, config))
    if run is not None:
        checkpoint = ranks.first(partial(checkpoint_of, run))
    initial = None
    if exp.initial_weights and not checkpoint:
        with about(f"initial_weights={exp.initial_weights}: ", f"{exp.initial_weights}: "):
            initial = ranks.first(partial(find_weights, exp.initial_weights, config))
        more = brought(initial, exp.aux)
        if more:
            log.warning("the initial weights bring the options they need: %s", ", ".join(more))
        exp = Experiment.of(params, [*exp.overrides, *more])
    network = _build(build_model, exp)
    if initial is not None:
        record["initial_weights"] = begin_with(initial, str(exp.initial_weights), network)
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
        check_identity(run, state, training.identity)
        training.restore(state)
        compare_session(record["sessions"][-1], here)
    for caution in exp.cautions():
        log.warning(caution)
    record |= {"parameters": exp.as_dict(), "overrides": list(exp.overrides)}
    resumed = run is not None
    run = ranks.first(lambda: _recorded(config, run, record, here, training))
    stop.begin()
    return _go(training, run, stop, resumed, record.get("demonstration"))


def _agree(ranks: Ranks, exp: Experiment, options: Namespace) -> None:
    """UserError on the first of the processes that train together where they are not alike."""
    alike = ("seed", "resume", "deterministic", "on_bad_record")
    told = {f"--{name.replace('_', '-')}": getattr(options, name) for name in alike}
    first, *others = ranks.from_all({**exp.as_dict(), **told})
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


def _seed(given: int | None, recorded: int | None) -> int:
    """The seed of a new run, or that of the run to go on with."""
    if None not in (given, recorded) and given != recorded:
        raise UserError(f"--seed {given}: this run was started with {recorded}")
    return given or recorded or 0


def _set_up(ranks: Ranks, deterministic: bool, seed: int) -> None:
    """Set PyTorch up for repeatable or for fast work, and seed the initial values."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.manual_seed(seed_of(seed, "initial values"))
    if ranks.device.type == "cpu":
        keep_memory()


def _build(build_model: Callable[[Settings], Any], exp: Experiment) -> Any:
    """The script's network; UserError where it is none, or an option of ``aux`` cannot be."""
    try:
        network = build_model(exp.as_dict())
    except TypeError as error:
        other = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if other is None or other[1] not in exp.aux:
            raise
        raise UserError(f"aux.{other[1]} is no option of this script's network: {error}") from error
    if not isinstance(network, torch.nn.Module):
        found = type(network).__name__
        raise UserError(f"build_model() must return a torch.nn.Module, found {found}")
    check_options(network)
    return network


def _workers(given: int | None, ranks: Ranks) -> int:
    """Processes that load images; no more than twice the cores that this one has a share of."""
    cores = len(os.sched_getaffinity(0))
    share = cores / ranks.world_size
    if given is None:
        return min(WORKERS, int(share / 2))
    most = max(WORKERS, int(2 * share))
    if given > most:
        log.warning(f"--workers {given}: {most} are started, as this machine has {cores} cores")
    return min(given, most)


def _recorded(
    config: Config,
    run: Run | None,
    record: dict[str, Any],
    here: dict[str, Any],
    training: Training,
) -> Run:
    """A new run, or the locked one to go on with; its record says how it was called."""
    session = {
        "step": training.step,
        "images": training.images,
        "seconds": training.seconds if math.isfinite(training.seconds) else None,
        "code": here,
        "environment": environment(training.ranks.device, training.ranks.world_size),
    }
    record |= {"network": training.network(), "data": training.data()}
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
    run_log = RunLog(run, training.total, training.step, quiet=not ranks.is_first)
    began, first = time.monotonic(), training.step
    try:
        log.info(_opening(training, run, resumed, note))
        reason = None
        if training.finished():
            log.info("this run is complete already; --set epochs=N with a larger N makes it longer")
            ranks.first(lambda: training.write_results(run))  # perhaps it was killed before that
        else:
            reason = training.go(run, run_log, stop)
        minutes = (time.monotonic() - began) / 60
        log.info(_closing(training, run, training.step - first, minutes, reason, note))
        run_log.event("end", training.step, {"complete": reason is None, "reason": reason})
        return reason is None
    except Exception as error:
        said = {"error": type(error).__name__, "message": str(error)}
        with contextlib.suppress(RuntimeError):  # where the disk is full the log cannot say so
            log.debug(traceback.format_exc())
            run_log.event("error", training.step, said)
        raise
    finally:
        training.close()
        with contextlib.suppress(OSError):  # TensorBoard's last events on a full disk
            run_log.close()


def _opening(training: Training, run: Run, resumed: bool, note: str | None) -> str:
    settings, ranks, network = training.settings, training.ranks, training.network()
    data = training.data()
    height, width = network["input_size"]
    head = f"resumed {run.name} at step {training.step}" if resumed else f"run {run.name}"
    processes = f", {ranks.world_size} processes" if ranks.world_size > 1 else ""
    lines = [
        f"{head}: {note}" if note else head,
        f"{settings['model_name']}: {network['parameters']} parameters on "
        f"{ranks.device}{processes}",
    ]
    if settings["initial_weights"] and not resumed:
        lines.append(f"begins with the weights {settings['initial_weights']}")
    if settings["updates"] == "as_released":
        lines.append(
            "updates as_released: the feedforward drive stays as it is, the bias correction that "
            "of the first update"
            if dead_weights(training.model)
            else "updates as_released: the same as all for this network, whose circuit is no loop"
        )
    lines += [
        f"the network is given {height}×{width} pixels, after "
        f"{', '.join(network['preprocessing']['train']) or 'no preprocessing'}",
        f"training on {data['train']['description']}",
        f"validating on {data['validation']['description']}",
        f"{training.total} steps: {settings['epochs']} epochs of "
        f"{training.feed.loader.batches_per_epoch} batches of {settings['batch_size']} images",
        f"everything of this run: {run.folder}",
    ]
    return "\n  ".join(lines)


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
            f"validation: last {metric} {history.validation_metric[-1]:.4f}, best "
            f"{history.validation_metric[best]:.4f} at step {history.validation_step[best]}"
        )
    bad = len(training.feed.loader.bad_records) + len(training.validation.loader.bad_records)
    if bad:
        lines.append(f"{bad} bad record{'s were' if bad > 1 else ' was'} left out: see the log")
    lines += [f"{name}: {place}" for name, place in run.places().items() if place.exists()]
    if reason is not None:
        lines.append(f"go on with:  python {Path(sys.argv[0]).name} --resume {run.name}")
        if not steps:
            lines.append("nothing was trained: the start took longer than the time that there was")
    if note:
        lines.append(f"this was {note}")
    return "\n  ".join(lines)
