"""Train a family of runs, or collect them, and compare them.

python -m analysis.sweep scripts=hgru,multiplicative_lesion,additive_lesion,ff_5 \\
    datasets=pathfinder_6_stream,pathfinder_14_stream seeds=0,1 --name ablation
python -m analysis.sweep scripts=hgru,ff_5 --submit 'sbatch --gres=gpu:1 --wrap {command}'
python -m analysis.sweep scripts=hgru,ff_5 --collect
python -m analysis.sweep --runs RUN RUN RUN --dataset pathfinder_6 pathfinder_14

Each combination is an experiment <name>_<script>_<dataset>_seed<seed>. Runs are trained one after
another; what is complete is not trained again and what was left early goes on, so the same command
resumes a sweep. The comparison has accuracy by model and set with intervals, parameters, training
images to 90%, and paired tests against a reference on the same images.
"""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from analysis import comparison, curves
from analysis.evaluate import IMAGES
from analysis.figures import add_label
from analysis.record import ended
from analysis.style import save
from analysis.trained import TrainedRun, load_run, load_runs, script_module
from config import CLONE, Config
from support import shell
from support.errors import SystemRefusal, UserError, choose
from support.files import write_csv, write_text
from support.tables import markdown_table, text_table
from training.command_line import COMPLETE, LEFT_EARLY
from training.experiment import Experiment, plain
from training.provenance import PARTS, options_of
from training.run import Run, runs
from training.start import build, other_settings

AXES = ("scripts", "datasets", "seeds")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# How a run ends that was told to, before or after its training began.
STOPPED = (LEFT_EARLY, shell.INTERRUPTED, *(-number for number in FORWARDED))


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep."""

    script: str  # its name, without .py
    settings: Experiment  # the run's parameters, all overrides applied
    overrides: tuple[str, ...]  # key=value texts for --set
    seed: int  # of the run

    @property
    def experiment(self) -> str:
        return str(self.settings["exp_name"])

    def command(self, device: str = "auto") -> list[str]:
        """The command that trains it, or goes on with it."""
        sets = [word for text in self.overrides for word in ("--set", text)]
        script = [sys.executable, str(CLONE / f"{self.script}.py")]
        return [*script, *sets, "--seed", str(self.seed), "--device", device, "--resume", "auto"]

    def run(self, config: Config) -> Run | None:
        """Its newest run; UserError where that has other settings, or another network, than this
        sweep."""
        known = runs(config, self.experiment)
        if not known:
            return None
        network = options_of(build(script_module(self.script).build_model, self.settings))
        here = plain({"parameters": self.settings, "network": network})
        if other := other_settings(known[-1].record(), here):
            raise UserError(
                f"{known[-1].name} has other settings than this sweep (there: the run; here: the "
                f"sweep): {'; '.join(other)}. Give this sweep another --name"
            )
        return known[-1]

    def is_complete(self, config: Config) -> bool:
        """Whether its newest run trained to the end, for as many epochs as wanted."""
        run, epochs = self.run(config), self.settings["epochs"]
        return bool(run and run.record()["parameters"]["epochs"] >= epochs and ended(run))


def cells(name: str, axes: dict[str, list[str]], overrides: Sequence[str] = ()) -> list[Cell]:
    """All combinations of scripts, data sets and seeds; UserError where one is not known, or there
    twice.

    Args:
        name: of the sweep; experiments' names begin with it.
        axes: ``scripts``; optionally ``datasets`` (else each script's own) and ``seeds`` (else 0).
    """
    if not axes.get("scripts"):
        raise UserError("a sweep needs scripts=NAME,NAME (--help shows examples)")
    seeds = axes.get("seeds", ["0"])
    if wrong := [text for text in seeds if not text.isdigit()]:
        raise UserError(f"seeds must be whole numbers of 0 or more, found {wrong[0]!r}")
    found = []
    for script, dataset, seed in product(axes["scripts"], axes.get("datasets", [""]), seeds):
        script = script.removesuffix(".py")
        params = script_module(script).experiment_params()
        dataset = dataset or params["dataset"]
        exp_name = f"{name}_{script}_{dataset}_seed{int(seed)}"
        texts = (*overrides, f"dataset={dataset}", f"exp_name={exp_name}")
        found.append(Cell(script, Experiment.of(params, texts), texts, int(seed)))
        if found[-1].experiment in (cell.experiment for cell in found[:-1]):
            raise UserError(f"{exp_name} is there twice: name each script, data set and seed once")
    return found


def axes_of(texts: Iterable[str]) -> dict[str, list[str]]:
    """``scripts=a,b seeds=0,1`` as lists by name."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"expected name=value,value (scripts=hgru,ff_5), found {text!r}")
        choose("axis", key, dict.fromkeys(AXES))
        if key in found:
            raise UserError(f"{key}= is there twice: name all of them in one")
        found[key] = [part.strip() for part in value.split(",") if part.strip()]
        if not found[key]:
            raise UserError(f"{key}= has no value")
    return found


def train(wanted: Sequence[Cell], config: Config, device: str = "auto") -> list[str]:
    """Train what is not complete, one after another; a line for each that failed.

    SystemRefusal where a run left early; the same call goes on.
    """
    failed = []
    for number, cell in enumerate(wanted, start=1):
        head, complete = f"[{number}/{len(wanted)}] {cell.experiment}", cell.is_complete(config)
        print(f"{head}: {'complete' if complete else 'training'}", flush=True)
        code = COMPLETE if complete else run_forwarding_signals(cell.command(device))
        if code in STOPPED:
            raise SystemRefusal(f"stopped during {cell.experiment}; the same command goes on")
        if code != COMPLETE:
            failed.append(f"{cell.experiment} ended with exit code {code}")
            print(f"{head}: failed with exit code {code}", flush=True)
    return failed


def run_forwarding_signals(command: Sequence[str]) -> int:
    """Run a program to its end, hand it the signals that reach this one, but for those that are
    ignored (nohup); its exit code."""
    process = subprocess.Popen(command, cwd=CLONE, start_new_session=True)
    before = {
        number: signal.signal(number, lambda which, _: process.send_signal(which))
        for number in FORWARDED
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def submit(wanted: Sequence[Cell], config: Config, template: str, device: str = "auto") -> int:
    """Hand each combination that is not complete to a job system; how many.

    ``template``: a command in which a word with ``{command}`` takes the training command. UserError
    where it has no such word; SystemRefusal where a submission fails.
    """
    words = shlex.split(template)
    if not any("{command}" in word for word in words):
        raise UserError(f"--submit needs {{command}} in it, found {template!r}")
    missing = [cell for cell in wanted if not cell.is_complete(config)]
    for cell in missing:
        command = shlex.join(cell.command(device))
        answer = subprocess.run([word.replace("{command}", command) for word in words], cwd=CLONE)
        if answer.returncode:
            raise SystemRefusal(
                f"{words[0]} ended with exit code {answer.returncode} for {cell.experiment}"
            )
    return len(missing)


def collect(
    wanted: Sequence[Cell], config: Config, weights: str, device: str
) -> tuple[list[TrainedRun], list[str], list[str]]:
    """The runs of a sweep, their scripts, and a line for each that is missing or not complete."""
    found, names, notes = [], [], []
    for cell in wanted:
        run = cell.run(config)
        if run is None:
            notes.append(f"{cell.experiment}: not trained yet, left out")
            continue
        if not ended(run):
            notes.append(f"{run.name}: not complete, compared as it stands")
        found.append(load_run(run.name, weights, device, config, PARTS))
        names.append(cell.script)
    return found, names, notes


def compare(trained: Sequence[TrainedRun], names: Sequence[str], options: Any) -> list[Path]:
    """Evaluate runs, print the comparison and write it; the files."""
    config = Config()
    how = {key: getattr(options, key) for key in ("images", "seed", "workers")}
    members, paths = comparison.family(trained, options.dataset, names, **how)
    points = comparison.points(members)
    tests = comparison.paired_tests(members, options.reference)
    tables = [comparison.table(points)]
    folder, plots = config.condition_evaluations / options.name, config.plots / options.name
    paths.append(write_csv(folder / "comparison.csv", [vars(point) for point in points]))
    if tests:
        tables.append(comparison.tests_table(tests))
        paths.append(write_csv(folder / "tests.csv", tests))
    print("\n\n".join(map(text_table, tables)))
    text = "\n\n".join(map(markdown_table, tables)) + "\n"
    paths.append(write_text(folder / "comparison.md", text))
    paths += save(comparison.comparison_figure(points), plots / "comparison")
    drawn = [curves.curve(member.run, member.model) for member in members]
    if any(len(one.table) for one in drawn):
        paths += save(curves.learning_curves(drawn), plots / "curves")
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    parse = shell.Parser("sweep", __doc__)
    parse.add_argument(
        "axes", nargs="*", metavar="AXIS=VALUE,VALUE", help="scripts=…, datasets=…, seeds=…"
    )
    parse.add_argument("--name", default="sweep", help="of the sweep; experiments begin with it")
    parse.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a parameter in all runs; may be repeated",
    )  # fmt: skip
    parse.add_argument("--runs", nargs="+", metavar="RUN", help="compare these runs; train nothing")
    parse.add_argument(
        "--collect", action="store_true", help="compare what is there; train nothing"
    )
    parse.add_argument("--list", action="store_true", help="print the commands; train nothing")
    parse.add_argument(
        "--submit", metavar="TEMPLATE",
        help="hand each run to a job system: a command with {command} in it; then use --collect",
    )  # fmt: skip
    parse.add_argument(
        "--dataset", nargs="+", default=[], metavar="NAME",
        help="sets to compare on; default: what each run validated on",
    )  # fmt: skip
    parse.add_argument("--reference", metavar="MODEL", help="of the paired tests; default: hgru")
    add_label(parse)
    parse.add_argument(
        "--weights", default="last", metavar="WHICH", help="last, best or the number of a step"
    )
    parse.add_images(IMAGES)
    parse.add_device()
    options = parse.parse_args(arguments)
    config, failed = Config(), []
    if options.runs:
        others = {"axes (scripts=…)": options.axes, "--set": options.overrides}
        others |= {f"--{name}": getattr(options, name) for name in ("list", "submit", "collect")}
        if given := [name for name, value in others.items() if value]:
            raise UserError(f"give either --runs or {', '.join(given)}, not both")
        trained, names = load_runs(options), options.label
    elif options.label:
        raise UserError("--label goes with --runs; a sweep's runs are called by their scripts")
    else:
        wanted = cells(options.name, axes_of(options.axes), options.overrides)
        if options.list:
            print("\n".join(shlex.join(cell.command(options.device)) for cell in wanted))
            return
        if options.submit:
            count = submit(wanted, config, options.submit, options.device)
            print(f"{count} of {len(wanted)} runs submitted; compare them later with --collect")
            return
        if not options.collect:
            failed = train(wanted, config, options.device)
        trained, names, notes = collect(wanted, config, options.weights, options.device)
        print("".join(f"note: {note}\n" for note in notes), end="")
    if not trained:
        raise UserError("no run to compare" + (f": {'; '.join(failed)}" if failed else ""))
    shell.name_outputs(compare(trained, names, options))
    if failed:
        raise SystemRefusal("; ".join(failed))


if __name__ == "__main__":
    shell.run_command(main)
