"""One call of a script: find or make the run, train, and say where everything is."""

import contextlib
import inspect
import logging
import os
import re
import shlex
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from config import Config
from dataset_processing.demonstration import demonstration, demonstration_notice, prepare
from dataset_processing.folds import is_same
from support.errors import MissingError, UserError, about, unknown
from support.kinds import plain
from support.memory import keep_memory
from training.checkpoints import CheckpointError, CheckpointFolder, load
from training.distribution import OtherRankError, Ranks
from training.experiment import AUX, SETTINGS, Experiment, Settings, differences, idle_options
from training.log import RunLog
from training.loop import Training, room_for
from training.optimizers import dead_weights
from training.provenance import code, code_fingerprint, environment, other_code
from training.run import Run, new_run, runs
from training.seeds import seed_of
from training.signals import Stop
from training.weights import begin_with, brought, find_weights

log = logging.getLogger(__name__)

WORKERS = 8
# What Python says of an option that a class does not have.
OTHER_OPTION = re.compile(
    r"(\w+)\.__init__\(\) got (?:an unexpected keyword|multiple values for) argument '(\w+)'"
)
NETWORKS = ("HGRU", "RecurrentNetwork", "FeedforwardNetwork")  # whose options AUX holds


def train(
    params: Mapping[str, Any],
    build_model: Callable[[Settings], Any],
    options: Namespace,
    ranks: Ranks,
    stop: Stop,
) -> bool:
    """Train as the options of the command line say; whether the run is complete, or left early."""
    asked = Experiment.of(params, options.overrides)
    alike = ("seed", "resume", "deterministic", "on_bad_record")
    told = {f"--{name.replace('_', '-')}": getattr(options, name) for name in alike}
    script = Path(inspect.getfile(build_model))
    own = {f"code ({part})": value for part, value in code_fingerprint(script).items()}
    _agree(ranks, {**asked.as_dict(), **told, **own})
    config = Config()
    given = asked.dataset, config, asked.changed, asked.model_name
    standing_in = ranks.first(lambda: demonstration(*given))
    exp = Experiment.of(params, [*standing_in, *options.overrides])
    run, checkpoint, initial = None, None, None
    record: dict[str, Any] = {}
    if options.resume:
        named = bool(asked.changed & {"exp_name", "model_name", "dataset"})
        run, checkpoint = ranks.first(lambda: run_to_resume(options.resume, config, exp, named))
    if run is not None:
        record = run.record()
        exp = Experiment.of(params, [*record.get("overrides", []), *options.overrides])
        if options.seed not in (None, record.get("seed", options.seed)):
            raise UserError(f"--seed {options.seed}: this run was started with {record['seed']}")
    elif standing_in:
        record["demonstration"] = demonstration_notice(asked.dataset, standing_in)
    seed = record["seed"] = options.seed or record.get("seed") or 0
    record["deterministic"] = bool(options.deterministic or record.get("deterministic"))
    _set_up(ranks, record["deterministic"], seed)
    for name in filter(None, dict.fromkeys([exp.dataset, exp.val_dataset])):
        ranks.first(partial(prepare, name, config))
    if exp.initial_weights and not checkpoint:
        with about(f"initial_weights={exp.initial_weights}: ", f"{exp.initial_weights}: "):
            initial = ranks.first(lambda: find_weights(exp.initial_weights, config))
        more = brought(initial, exp.aux)
        if more:
            log.warning("the initial weights bring the options they need: %s", ", ".join(more))
        exp = Experiment.of(params, [*exp.overrides, *more])
    network = build(build_model, exp)
    if initial is not None:
        record["initial_weights"] = begin_with(initial, str(exp.initial_weights), network)
    workers = _workers(options.workers, ranks)
    with room_for(exp.batch_size, ranks):
        training = Training(
            exp, network, config, ranks, seed, workers, options.on_bad_record, not options.eager
        )
    _agree(ranks, _flat(training.identity))
    here, facts = ranks.first(lambda: code(script)), training.about()
    if run and checkpoint:
        state = load(checkpoint, ranks.device)
        check_identity(run, state, training.identity, facts["data"])
        training.restore(state, checkpoint)
        recorded = {text.partition("=")[0].strip(): text for text in record.get("overrides", [])}
        standing = [v for key, v in recorded.items() if key.rstrip("+") not in asked.changed]
        compare_session(record["sessions"][-1], here, standing)
    for caution in (*exp.cautions(), *idle_options(network, exp.aux), *training.cautions()):
        log.warning(caution)
    ran_on = environment(ranks.device, ranks.world_size)
    now = datetime.now().astimezone().isoformat()
    session = {"step": training.step, "time": now, **training.counts()}
    session |= {"code": here, "environment": ran_on}
    record |= {"parameters": exp.as_dict(), "overrides": list(exp.overrides), **facts}
    record["sessions"] = [*record.get("sessions", []), session]
    run = ranks.first(lambda: _recorded(run or new_run(config, exp.exp_name), record))
    if checkpoint:
        ranks.first(lambda: training.mend(run))
    stop.begin()
    return _go(training, run, stop)


def _agree(ranks: Ranks, mine: dict[str, Any]) -> None:
    """UserError on the first of the processes that train together where they are not alike."""
    first, *others = ranks.from_all(mine)
    for rank, other in enumerate(others, start=1):
        if lines := differences(first, other):
            raise (UserError if ranks.is_first else OtherRankError)(
                f"{'; '.join(lines)} (there: process 0; here: process {rank}): all processes of a "
                "run need the same script, options and data"
            )


def _set_up(ranks: Ranks, deterministic: bool, seed: int) -> None:
    """Set PyTorch up for repeatable or for fast work, and seed the initial values."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.manual_seed(seed_of(seed, "initial values"))
    if ranks.device.type == "cpu":
        keep_memory()


def build(build_model: Callable[[Settings], Any], exp: Experiment) -> Any:
    """The script's network; UserError where it is none, or has an option that cannot be."""
    try:
        with about("build_model: "):
            network = build_model(exp.as_dict())
    except TypeError as error:
        said = OTHER_OPTION.search(str(error))
        whose, name = said.groups() if said else (None, None)
        if name in exp.aux:
            told = f"aux.{name} is no option of this script's network: {error}"
            raise UserError(told) from error
        if whose not in NETWORKS:
            raise
        raise unknown("build_model: option", name, AUX) from error
    if not isinstance(network, torch.nn.Module):
        found = type(network).__name__
        raise UserError(f"build_model() must return a torch.nn.Module, found {found}")
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


def run_to_resume(
    which: str, config: Config, exp: Experiment, named: bool
) -> tuple[Run | None, Path | None]:
    """The run that ``--resume`` means, kept for this process from now on, and its newest
    checkpoint: None where it was killed before the first.

    Args:
        which: 'auto', the experiment's newest, or None; 'latest', this script's that was started or
            resumed last; or what :meth:`Run.find` takes.
        named: the command line says which experiment: 'latest' is one of its runs.

    Raises a UserError where there is no such run, it cannot go on from the file that is named or
    has lost its checkpoints, or another process trains it.
    """
    if which in ("auto", "latest"):
        script = Path(sys.argv[0]).name
        of_experiment = which == "auto" or named
        own = runs(config, exp.exp_name) if of_experiment else runs(config, script=script)
        if not own and which == "auto":
            return None, None
        if not own:
            whose = repr(exp.exp_name) if named else f"{script} ({exp.exp_name!r})"
            raise MissingError(f"--resume latest: {config.log_dir} holds no run of {whose}")
        run = own[-1]
    else:
        with about("--resume "):
            if which.endswith(".pt") and Path(which).is_file():
                load(Path(which))  # damaged, or none of ours
            run = Run.find(which, config)
    folder = CheckpointFolder(run.checkpoints)
    newest = list(folder.files().values())[-1:]
    if run.file is not None and [run.file.resolve()] != [file.resolve() for file in newest]:
        raise UserError(
            f"--resume {which}: a run goes on from its newest checkpoint, and this is not it. "
            f"To begin a new run with these weights: --set initial_weights={which}; to go back "
            "to an older step_*.pt, move the newer ones away"
        )
    if not newest and run.reached():
        raise UserError(
            f"{run.name} reached step {run.reached()}, but {run.checkpoints} holds no checkpoint: "
            "put them back, or start a new run without --resume"
        )
    run.lock()
    checkpoint = folder.newest()
    if checkpoint is not None:
        folder.set_aside_after(checkpoint)
    return run, checkpoint


def check_identity(
    run: Run, state: dict[str, Any], identity: dict[str, Any], data: dict[str, Any]
) -> None:
    """UserError where a run's checkpoint is of other settings, seed or data, or past the end.

    ``identity`` is what its ``state`` would hold under that name if it were written now, and
    ``data`` what its record would.
    """
    found, here = state["identity"], plain(identity)
    if lines := other_settings(found, here):
        recorded = (state.get("record") or {}).get("data") or {}
        for fold, there in recorded.items():
            if any(line.startswith(f"{fold} data: ") for line in lines):
                now = data[fold]["description"]
                lines.append(f"{fold} data there: {there.get('description')}; here: {now}")
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


def other_settings(found: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """A line for each thing in which a run that may go on is of other settings than those here:
    parameters that may not change, the network's class and options, and what else ``here`` has.

    Both have ``parameters`` and ``network``, as a checkpoint's identity and a run's record do; what
    ``found`` lacks is the same.
    """
    changeable = {key for key, setting in SETTINGS.items() if setting.resume}
    if here["parameters"]["lr_schedule"] != "constant":
        changeable.remove("epochs")  # the learning rate so far depends on where the run ends
    lines = differences(found["parameters"], here["parameters"])
    lines = [line for line in lines if line.split(":")[0] not in changeable]
    recorded = {k: v if is_same(found.get(k, v), v) else found[k] for k, v in here.items()}
    return lines + differences(_flat(recorded), _flat(here))


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint is of, beside its parameters."""
    network = identity["network"]
    own = {key: v for key, v in identity.items() if key not in ("parameters", "network")}
    return {**own, "class": network["class"], **network["options"]}


def compare_session(session: dict[str, Any], here: dict[str, Any], standing: Sequence[str]) -> None:
    """Warn where the code, or on a CPU the number of threads, is not that of the last session; of
    another script, also which overrides of the run are ``standing``."""
    where, before = session.get("environment") or {}, session["code"]
    threads, now = where.get("threads"), torch.get_num_threads()
    if where.get("device") == "cpu" and threads not in (None, now):
        log.warning(
            f"this run was trained with {threads} threads, and goes on with {now}: other bits than "
            "without the break"
        )
    if before.get("fingerprint") is None:
        log.warning(
            "this run was begun by an earlier version, which recorded neither the network's "
            "options nor the code: whether they are the same cannot be checked"
        )
        return
    if other := other_code(before, here):
        if standing and before["fingerprint"].get("script") != here["fingerprint"]["script"]:
            sets = shlex.join(word for text in standing for word in ("--set", text))
            other += f"; {sets} still stand, whatever the script says"
        log.warning(f"the code differs from the one that trained this run so far: {other}")


def _recorded(run: Run, record: dict[str, Any]) -> Run:
    """The run, locked, and its record written, once its folder can be made."""
    if len(record["sessions"]) > 1:
        run.clear_partial_files()
    else:
        run.lock()
        record = {"run": run.name, "script": Path(sys.argv[0]).name, **record}
    run.begin()
    run.write(record)
    return run


def _go(training: Training, run: Run, stop: Stop) -> bool:
    """Train, and say how it began and ended."""
    ranks, first = training.ranks, training.step
    validated = training.history.validated_at(first)
    run_log = RunLog(run, training.total, first, validated, quiet=not ranks.is_first)
    began = time.monotonic()
    try:
        log.info(_opening(training, run))
        if training.finished():
            log.info("this run is complete already; --set epochs=N with a larger N makes it longer")
        reason = training.go(run, run_log, stop)
        minutes = (time.monotonic() - began) / 60
        log.info(_closing(training, run, training.step - first, minutes, reason))
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


def _opening(training: Training, run: Run) -> str:
    exp, ranks, record = training.exp, training.ranks, run.about
    network, data, note = record["network"], record["data"], record.get("demonstration")
    height, width = network["input_size"]
    resumed = len(record["sessions"]) > 1
    head = f"resumed {run.name} at step {training.step}" if resumed else f"run {run.name}"
    processes = f", {ranks.world_size} processes" if ranks.world_size > 1 else ""
    begun = exp.initial_weights
    lines = [
        f"{head}: {note}" if note else head,
        f"{exp.model_name}: {network['parameters']} parameters on {ranks.device}{processes}",
        f"begins with the weights {begun}" if begun and not resumed else "",
        _as_released(training.model) if exp.updates == "as_released" else "",
        f"the network is given {height}×{width} pixels, after "
        f"{', '.join(network['preprocessing']['train']) or 'no preprocessing'}",
        f"training on {data['train']['description']}",
        f"validating on {data['validation']['description']}",
        f"{training.total} steps: {exp.epochs} epochs of "
        f"{training.feed.loader.batches_per_epoch} batches of {exp.batch_size} images",
        f"everything of this run: {run.folder}",
    ]
    return "\n  ".join(filter(None, lines))


def _as_released(network: torch.nn.Module) -> str:
    if not dead_weights(network):
        return "updates as_released: the same as all for this network, whose circuit is no loop"
    return "updates as_released: the drive stays, and the bias correction of the first update"


def _closing(training: Training, run: Run, steps: int, minutes: float, reason: str | None) -> str:
    history, metric = training.history, training.exp.score_metric
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
            lines.append("nothing was trained: there was no time for an update")
    if run.about.get("demonstration"):
        lines.append(f"this was {run.about['demonstration']}")
    return "\n  ".join(lines)
