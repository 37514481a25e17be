"""One call of a script: find or make the run, train, and say where everything is."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from config import Config
from dataset_processing import demonstration, prepare
from dataset_processing.sets import demonstration_notice
from support.memory import keep_memory
from training.checkpoints import CheckpointError, CheckpointFolder, load
from training.distribution import Ranks
from training.experiment import CHANGEABLE, Settings, differences, override_keys, plain, resolve
from training.log import NOTICES, RunLog
from training.loop import Training
from training.optimizers import dead_weights
from training.provenance import environment
from training.run import Run, find_run, new_run, runs, write_yaml
from training.seeds import seed_of
from training.signals import Stop
from training.weights import fingerprint, load_initial_weights

WORKERS = 8


def train(
    experiment_params: Callable[[], Settings],
    build_model: Callable[[Settings], Any],
    options: Any,
    ranks: Ranks,
) -> bool:
    """Train as the options say.

    Returns:
        Whether the run is complete; False if it left early, with a checkpoint.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: what cannot be done; the message says why.
    """
    stop = Stop(options.max_minutes)
    config = Config()
    standing_in = ranks.first(lambda: _stand_in(experiment_params(), options.overrides, config))
    exp_name = resolve(experiment_params(), [*standing_in, *options.overrides])["exp_name"]
    run, record = None, {}
    if options.resume:
        run = ranks.first(lambda: _locked(_run_to_resume(config, options, exp_name, standing_in)))
        record = run.record() if run else {}
    if standing_in and run is None and ranks.is_first:
        wanted = resolve(experiment_params(), options.overrides)["dataset"]
        print(demonstration_notice(wanted), file=sys.stderr)
    overrides = [*record.get("overrides", standing_in), *options.overrides]
    settings = resolve(experiment_params(), overrides)
    seed = _chosen_seed(options.seed, record.get("seed"))
    deterministic = bool(options.deterministic or record.get("deterministic"))
    _set_up(deterministic, seed)
    if ranks.device.type == "cpu":
        keep_memory()
    for name in dict.fromkeys([settings["dataset"], settings["val_dataset"]]):
        if name is not None:
            ranks.first(partial(prepare, name, config))
    network = _build(build_model, settings)
    checkpoint = ranks.first(CheckpointFolder(run.checkpoints).newest) if run else None
    if settings["initial_weights"] and not checkpoint:
        network.load_state_dict(ranks.first(lambda: _initial_weights(network, settings, config)))
        record["initial_weights"] = fingerprint(network)
    training = Training(
        settings,
        network,
        config,
        ranks,
        seed,
        _workers(options.workers, ranks.world_size),
        options.on_bad_record,
        captured=not options.eager,
    )
    if run and checkpoint:
        state = load(checkpoint, ranks.device)
        _check_identity(run, state, training, override_keys(options.overrides))
        training.restore(state)
    record |= {"parameters": settings, "overrides": overrides}
    record |= {"seed": seed, "deterministic": deterministic}
    run = ranks.first(lambda: _recorded(config, run, record, training))
    with stop:
        return _go(training, run, stop, resumed="run" in record)


def _recorded(config: Config, run: Run | None, record: dict[str, Any], training: Training) -> Run:
    """A new run, or the locked one to go on with; its ``settings.yaml`` says how it was called."""
    where = environment(training.ranks.device, training.ranks.world_size)
    if run is None:
        run = new_run(config, training.settings["exp_name"])
        run.lock()
        record |= {"data": training.data(), "environment": where}
        run.begin({"run": run.name, "script": Path(sys.argv[0]).name, **record})
    else:
        run.clear_partial_files()
        resumed = [*record.get("resumed", []), {"step": training.step, "environment": where}]
        record["resumed"] = resumed
        write_yaml(run.settings, record)
    return run


def _go(training: Training, run: Run, stop: Stop, resumed: bool) -> bool:
    """Train, and say how it began and ended."""
    ranks = training.ranks
    log = RunLog(run, training.total, training.step, quiet=not ranks.is_first)
    NOTICES.pass_on(log.note)
    began, first = time.monotonic(), training.step
    try:
        log.say(_opening(training, run, resumed))
        if training.step >= training.total and training.finished():
            log.say("this run is complete already; --set epochs=N with a larger N makes it longer")
            reason = None
        else:
            reason = training.go(run, log, stop)
        minutes = (time.monotonic() - began) / 60
        log.say(_closing(training, run, training.step - first, minutes, reason))
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


def _opening(training: Training, run: Run, resumed: bool) -> str:
    settings, ranks = training.settings, training.ranks
    weights = sum(p.numel() for p in training.model.parameters())
    processes = f", {ranks.world_size} processes" if ranks.world_size > 1 else ""
    data = training.data()
    start = None if resumed else settings["initial_weights"]
    released = settings["updates"] == "as_released"
    lines = [
        f"{'resumed' if resumed else 'run'} {run.name}"
        + (f" at step {training.step}" if resumed else ""),
        f"  {settings['model_name']}: {weights} parameters on {ranks.device}{processes}",
        *([f"  begins with the weights {start}"] if start else []),
        *([f"  updates as_released: {_as_released(training.model)}"] if released else []),
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


def _closing(training: Training, run: Run, steps: int, minutes: float, reason: str | None) -> str:
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
    return "\n".join(lines)


def _stand_in(params: Settings, overrides: list[str], config: Config) -> list[str]:
    """Overrides for a demonstration where the script's own data is missing."""
    settings = resolve(params, overrides)
    changed = override_keys(overrides)
    return demonstration(settings["dataset"], config, changed, settings["model_name"])


def _run_to_resume(
    config: Config, options: Any, exp_name: str, standing_in: list[str]
) -> Run | None:
    """The run that ``--resume`` means.

    'latest' is the newest of the experiment. Where that has no run, or its data is not here, and
    the command line names no other one, it is the newest of this script.
    """
    of_experiment = runs(config, exp_name)
    if options.resume == "auto":
        return of_experiment[-1] if of_experiment else None
    named = override_keys(options.overrides) & {"exp_name", "model_name", "dataset"}
    if options.resume == "latest" and not named and (standing_in or not of_experiment):
        script = Path(sys.argv[0]).name
        own = [run for run in runs(config) if run.record().get("script") == script]
        if own:
            return own[-1]
    return find_run(config, options.resume, exp_name)


def _locked(run: Run | None) -> Run | None:
    """The run, kept for this process before its checkpoints are looked at."""
    if run:
        run.lock()
    return run


def _build(build_model: Callable[[Settings], Any], settings: Settings) -> Any:
    """The network; an option that the layer does not know is an error of the settings."""
    try:
        return build_model(settings)
    except TypeError as error:
        if settings["aux"] and "keyword argument" in str(error):
            raise ValueError(f"aux: {error}; layers/hgru.py lists the layer's options") from error
        raise


def _initial_weights(network: Any, settings: Settings, config: Config) -> Any:
    load_initial_weights(network, settings["initial_weights"], config)
    return network.state_dict()


def _check_identity(run: Run, state: dict[str, Any], training: Training, changed: set[str]) -> None:
    """Raise ValueError where the checkpoint is of other settings, seed or data than these."""
    found, here = state["identity"], plain(training.identity)
    lines = differences(found["parameters"], here["parameters"])
    changeable = set(CHANGEABLE)
    if here["parameters"]["lr_schedule"] != "constant":
        changeable.remove("epochs")  # the learning rate so far depends on where the run ends
    lines = [x for x in lines if x.split(":")[0] not in changed & changeable]
    others = {key: value for key, value in found.items() if key != "parameters"}
    lines += differences(others, {k: v for k, v in here.items() if k != "parameters"})
    if lines:
        raise CheckpointError(
            f"the checkpoint of {run.name} is of other settings (there: the checkpoint; here: this "
            f"script): {'; '.join(lines)}. Set them back, or start a new run without --resume"
        )


def _chosen_seed(given: int | None, recorded: int | None) -> int:
    """The seed of a new run, or that of the run to go on with."""
    if recorded is None:
        return given or 0
    if given is not None and given != recorded:
        raise ValueError(f"--seed {given}: this run was started with {recorded}")
    return recorded


def _set_up(deterministic: bool, seed: int) -> None:
    """Set PyTorch up for repeatable or for fast work, and seed the initial values."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.manual_seed(seed_of(seed, "initial values"))


def _workers(given: int | None, world_size: int) -> int:
    if given is not None:
        return given
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(WORKERS, (cores or 1) // (2 * world_size))
