"""What people do with runs and paths, tried: a table of what was said, with exit codes.

python -m tests.handlings     (two minutes; leaves with 1 where one ends otherwise than expected)
"""

import contextlib
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import yaml
from PIL import Image

import hgru
from analysis import evaluate, export, figures, predict, report, results
from support.shell import exit_code
from tests.training import tiny
from training import checkpoints
from training.command_line import run_script

OLDER = Path(__file__).parent / "data" / "older_run"
QUIET = ("--workers", "0", "--device", "cpu")
CPU = ("--device", "cpu")
WIDTH = 96  # of what was said, in the table
Handling = tuple[str, int, str, Callable[[], int]]  # what is done, exit code, words said, how


def train(*arguments: str, build: Callable = tiny.build_model) -> int:
    """The tiny experiment, with a script's options."""
    return run_script(tiny.experiment_params, build, [*QUIET, *arguments])


def settings(*texts: str) -> list[str]:
    """Options --set."""
    return [word for text in texts for word in ("--set", text)]


def other_circuit(params: dict) -> torch.nn.Module:
    """A script whose nonlinearity was edited."""
    return hgru.build_model({**params, "aux": {**params["aux"], "recurrent_nl": "relu"}})


def run_command(module: object, *arguments: object) -> int:
    """A command of analysis."""
    return exit_code(module.main, [*map(str, arguments), *CPU])  # type: ignore[attr-defined]


def handlings(project: Path, other: Path) -> Iterator[Handling]:
    """All that is tried, in order; each counts on those before it."""
    yield "train", 0, "complete at step 18", lambda: train(*settings("exp_name=a", "keep_every=1"))
    name = next(project.glob("logs/a_*")).name
    for folder in ("logs", "checkpoints", "experiment_evaluations", "results", "summaries"):
        shutil.copytree(project / folder, other / folder)
    shutil.copytree(project / name, other / "copied")
    points, saved = project / "checkpoints" / name, project / "experiment_evaluations" / name
    there = other / "checkpoints" / name
    negate(there / "step_00000018.pt")
    data = ("--dataset", "curv_contour_length_14_full")

    def look(which: object, *more: object) -> Callable[[], int]:
        return lambda: run_command(evaluate, which, *data, *more)

    yield "evaluate RUN", 0, "now", look(name)
    yield "evaluate RUN once more", 0, "kept", look(name)
    yield "evaluate RUN --again", 0, "now", look(name, "--again")
    two = (name, points / "best.pt", *data)
    yield "evaluate two runs", 0, "kept", lambda: run_command(evaluate, *two)
    yield "evaluate a run of another project", 0, "now", look(there)
    yield "evaluate its checkpoint", 0, "kept", look(there / "step_00000018.pt")
    yield "evaluate its results file", 0, "kept", look(other / "results" / f"{name}.npz")
    yield "evaluate a copied folder of a run", 0, "kept", look(other / "copied")
    yield "evaluate an older step", 0, " 4  curv", look(points / "step_00000004.pt")
    yield "evaluate the weights of step 0", 0, " 0  curv", look(saved / "weights_00000000.npz")
    yield "evaluate --weights best", 0, "% (", look(name, "--weights", "best")
    yield "evaluate --weights 5", 2, "has those of 0", look(name, "--weights", "5")
    yield (
        "evaluate FILE --weights best",
        2,
        "one file",
        look(points / "best.pt", "--weights", "best"),
    )
    yield "evaluate a misspelt name", 2, "did you mean", look(name[:-1])
    yield "evaluate a misspelt file of a run", 2, "no such file", look(points / "step_00000005.pt")
    yield (
        "evaluate a misspelt folder of a run",
        2,
        "did you mean",
        look(project / name / "log.text"),
    )
    yield "evaluate latest", 0, "kept", look("latest")
    alone = other / "alone.npz"
    shutil.copy(saved / "weights_00000004.npz", alone)
    yield "evaluate weights without their run", 2, "does not say how", look(alone)
    shutil.copy(points / "step_00000004.pt", other / "alone.pt")
    yield "evaluate a checkpoint without its run", 0, "% (", look(other / "alone.pt")
    torch.save({"state_dict": {}}, other / "theirs.pt")
    yield "evaluate a foreign file", 2, "not a checkpoint", look(other / "theirs.pt")
    (other / "cut.pt").write_bytes((points / "best.pt").read_bytes()[:5000])
    yield "evaluate half a checkpoint", 2, "not a checkpoint", look(other / "cut.pt")
    small = other / "small.png"
    Image.new("L", (64, 64)).save(small)
    yield (
        "predict an image of another size",
        2,
        "--resize",
        lambda: run_command(predict, name, small),
    )
    for label in ("pos", "neg"):
        (other / "set" / "imgs" / label).mkdir(parents=True)
        Image.effect_noise((64, 64), 60).save(other / "set" / "imgs" / label / "sample_1.png")
    sized = ("--dataset", other / "set")
    yield (
        "evaluate images of another size",
        2,
        "--resize",
        lambda: run_command(evaluate, name, *sized),
    )
    yield (
        "evaluate them with --resize", 0, "they are resized",
        lambda: run_command(evaluate, name, *sized, "--resize"),
    )  # fmt: skip

    def resume(which: object, *more: str, build: Callable = tiny.build_model) -> Callable[[], int]:
        return lambda: train("--resume", str(which), *more, build=build)

    longer = settings("epochs=4")
    yield "--resume a complete run", 0, "complete already", resume(name)
    yield (
        "--resume its newest checkpoint",
        0,
        "complete already",
        resume(points / "step_00000018.pt"),
    )
    yield "--resume best.pt", 2, "initial_weights=", resume(points / "best.pt")
    yield "--resume an older step", 2, "initial_weights=", resume(points / "step_00000004.pt")
    yield "--resume weights_*.npz", 2, "initial_weights=", resume(saved / "weights_00000004.npz")
    yield "--resume a misspelt name", 2, "did you mean", resume(name[:-1])
    yield "--resume a misspelt path", 2, "no such file", resume(points / "step_00000017.pt")
    yield "--resume a foreign file", 2, "not a checkpoint", resume(other / "theirs.pt")
    yield "--resume with another lr", 2, "lr: 0.001 there", resume(name, *settings("lr=0.5"))
    yield "--resume with another seed", 2, "--seed 9", resume(name, "--seed", "9")
    yield "--resume with fewer epochs", 2, "epochs", resume(name, *settings("epochs=1"))
    yield (
        "--resume, nonlinearity edited",
        2,
        "recurrent_nl",
        resume(name, *longer, build=other_circuit),
    )
    yield "--resume a run of another project", 0, "at step 24 of 24", resume(there, *longer)
    shutil.rmtree(project / "summaries")
    yield "--resume, summaries deleted", 0, "at step 24 of 24", resume(name, *longer)
    edit_record(project / "logs" / name / "settings.yaml")
    yield "--resume, layers edited", 0, "the code differs", resume(name, *settings("epochs=5"))
    yield (
        "--resume auto of no run",
        0,
        "run b_",
        lambda: train(
            "--resume", "auto", *settings("exp_name=b", "epochs=1", "aux.readout_epsilon=1e-5")
        ),
    )
    yield "--resume latest of no run", 2, "no run of", resume("latest", *settings("exp_name=none"))
    second = next(project.glob("logs/b_*")).name
    begin = settings("exp_name=c", "epochs=1", f"initial_weights={second}")
    yield "initial_weights of other options", 0, "bring", lambda: train(*begin)
    own = [*begin, *settings("aux.readout_epsilon=0.5")]
    yield "the same, other options set", 0, "other options", lambda: train(*own)
    for what, which, code, words in (
        ("best.pt", points / "best.pt", 0, "begins with"),
        ("an older step", points / "step_00000004.pt", 0, "begins with"),
        ("weights without their run", alone, 0, "begins with"),
        ("a misspelt file", points / "bets.pt", 2, "no such file"),
        ("a misspelt run", name[:-1], 2, "did you mean"),
        ("a foreign file", other / "theirs.pt", 2, "not a checkpoint"),
    ):
        given = settings("exp_name=d", "epochs=1", f"initial_weights={which}")
        yield f"initial_weights: {what}", code, words, lambda given=given: train(*given)
    no_fit = settings("exp_name=e", f"initial_weights={name}", "aux.separate_kernels=true")
    yield "initial_weights that do not fit", 2, "it lacks hgru.W2", lambda: train(*no_fit)
    shutil.rmtree(project / "checkpoints" / second)
    yield "--resume, checkpoints deleted", 2, "holds no checkpoint", resume(second)
    auto = settings("exp_name=b", "epochs=1", "aux.readout_epsilon=1e-5")
    yield "--resume auto, the same", 2, "holds no checkpoint", resume("auto", *auto)
    for text, words in (
        ("aux.batch_norm=flase", "aux.batch_norm"),
        ("aux.gate_bias_init=cronos", "chronos"),
        ("model_input_image_size=[0,0]", "model_input_image_size"),
        ("data_augmentations=left_right", "data_augmentations"),
    ):
        given = settings(text, "exp_name=g")
        yield f"--set {text}", 2, words, lambda given=given: train(*given)
    yield (
        "leave at the time limit",
        75,
        "left early",
        lambda: train("--max-minutes", "0.01", *settings("exp_name=f", "epochs=1000")),
    )
    yield (
        "export",
        0,
        "card",
        lambda: run_command(
            export, name, "--format", "safetensors", "card", "--name", "card", "--output", other
        ),
    )
    yield "evaluate the exported file", 0, "% (", look(other / "card.safetensors")
    yield "report", 0, ".html", lambda: run_command(report, name, *data, "--images", "4")
    yield "figures", 0, "kernels", lambda: run_command(figures, name, "--only", "kernels")
    page = ["--output", str(other / "page.md")]
    yield "results", 0, "page.md", lambda: exit_code(results.main, [name, *page])
    yield "results again", 0, "page.md", lambda: exit_code(results.main, page)
    for folder in ("logs", "checkpoints", "results"):
        shutil.copytree(OLDER / folder, project / folder, dirs_exist_ok=True)
    older = next((OLDER / "logs").iterdir()).name
    own_set = ("--dataset", "own", "--images", "4")
    yield (
        "evaluate a run of the version before", 0, "% (",
        lambda: run_command(evaluate, older, *own_set),
    )  # fmt: skip
    arguments = [*QUIET, "--resume", older, *settings("epochs=3")]
    yield (
        "--resume a run of the version before", 0, "earlier version",
        lambda: run_script(hgru.experiment_params, hgru.build_model, arguments),
    )  # fmt: skip


def negate(path: Path) -> None:
    """Turn a checkpoint's answers round."""
    state = checkpoints.load(path)
    for name in ("readout.linear.weight", "readout.linear.bias"):
        state["model"][name].neg_()
    checkpoints.save(path, state)


def edit_record(path: Path) -> None:
    """Let a record say that other layers trained the run."""
    record = yaml.safe_load(path.read_text())
    record["sessions"][-1]["code"]["fingerprint"]["layers"] = "another"
    path.write_text(yaml.safe_dump(record))


def tried(handling: Handling, places: Sequence[Path]) -> tuple[int, str, bool]:
    """Do it: exit code, the line that says most, whether it ended and spoke as expected."""
    _, code, words, do = handling
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        found = do()
    said = error.getvalue() + "\n" + out.getvalue()
    lines = [line.strip() for line in said.splitlines() if words in line]
    line = lines[0] if lines else "(not said) " + said.strip().splitlines()[-1]
    for place, name in zip(places, ("PROJECT", "OTHER"), strict=True):
        line = line.replace(str(place.resolve()), name).replace(str(place), name)
    line = re.sub(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "_TIME", re.sub(r" {2,}", "  ", line))
    return found, line, found == code and bool(lines)


def main() -> int:
    """The command: 0 where all ended as expected."""
    torch.set_num_threads(1)
    warnings.simplefilter("always")
    sys.argv = ["hgru.py"]
    with tempfile.TemporaryDirectory() as folder:
        project, other = Path(folder) / "project", Path(folder) / "other"
        project.mkdir()
        other.mkdir()
        tiny.make_records(project)
        os.environ["HGRU_PROJECT_DIRECTORY"] = str(project)
        wrong = count = 0
        for handling in handlings(project, other):
            code, line, right = tried(handling, (project, other))
            mark = " " if right else "!"
            print(f"{mark} {handling[0]:38} {code:3}  {line[:WIDTH]}", flush=True)
            count, wrong = count + 1, wrong + (not right)
        logging.getLogger().handlers.clear()
    print(f"{count} handlings; {wrong} ended otherwise than expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
