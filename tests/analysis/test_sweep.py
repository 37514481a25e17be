"""Families of runs: what is trained, what is collected, and the numbers of the comparison."""

import csv
import json
import math
import re
import shlex
import shutil
import signal
import sys
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import hgru
from analysis import comparison, curves, figures, style, sweep, trained
from analysis.evaluate import Evaluation
from analysis.export import export_safetensors
from analysis.trained import load_run
from config import CLONE
from support.errors import SystemRefusal, UserError
from support.shell import exit_code
from tests.analysis.conftest import CIRCUIT, DATASET, SETTINGS

OVERRIDES = [f"{key}={value}" for key, value in SETTINGS.items()]
OF_CIRCUIT = [f"{key}={value}" for key, value in CIRCUIT.items()]


@pytest.fixture
def circuits():
    axes = {"scripts": ["hgru", "multiplicative_lesion"], "datasets": [DATASET]}
    return sweep.cells("tiny", axes, [*OVERRIDES, *OF_CIRCUIT])


def answers(correct, name="r") -> Evaluation:
    """An evaluation with these images right."""
    correct = np.asarray(correct, dtype=bool)
    logits = np.stack([~correct, correct], 1).astype(np.float32)
    label = np.ones(len(correct), dtype=int)
    about = {"set": "one"}
    return Evaluation(name, "d", np.arange(len(correct)), label, logits, label * 1.0, about)


def test_cells_are_all_combinations():
    axes = sweep.axes_of(["scripts=hgru,ff_5.py", "seeds=0,3", "datasets=pathfinder_6_stream"])
    found = sweep.cells("s", axes, ["lr=0.01"])
    assert [(c.script, c.seed) for c in found] == [
        ("hgru", 0), ("hgru", 3), ("ff_5", 0), ("ff_5", 3),
    ]  # fmt: skip
    assert found[1].experiment == "s_hgru_pathfinder_6_stream_seed3"
    assert found[1].settings["lr"] == 0.01
    command = found[1].command()
    assert command[0] == sys.executable and command[1].endswith("/hgru.py")
    for words in (["--seed", "3"], ["--set", "lr=0.01"], ["--resume", "auto"]):
        assert " ".join(words) in " ".join(command)
    (usual,) = sweep.cells("s", {"scripts": ["hgru"]}, ["dataset=mine", "exp_name=mine"])
    assert (usual.settings["dataset"], usual.seed) == (DATASET, 0)
    assert usual.experiment == f"s_hgru_{DATASET}_seed0"  # by which the sweep finds it again


def test_help_shows_examples_and_defaults(capsys):
    with pytest.raises(SystemExit):
        sweep.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "python -m analysis.sweep scripts=hgru,multiplicative_lesion" in said
    assert "(default: sweep)" in said and "(default: 10000)" in said
    assert "None)" not in said and "False)" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a sweep needs scripts="),
        (["script=hgru"], "axis 'script' is not known; did you mean 'scripts'"),
        (["scripts=hgrru"], "script 'hgrru' is not known; did you mean 'hgru'?"),
        (["scripts=hgru", "seeds=one"], "seeds must be whole numbers of 0 or more, found 'one'"),
        (["scripts="], "scripts= has no value"),
        (["scripts=hgru", "seeds=0", "seeds=1"], "seeds= is there twice"),
        (["scripts=hgru", "seeds=0,1,01", "--list"], "_seed1 is there twice"),
        (["scripts=hgru,hgru.py", "--list"], "_seed0 is there twice"),
        (["hgru"], "expected name=value,value"),
        (["scripts=hgru", "--set", "lrr=1"], "did you mean 'lr'"),
        (["scripts=hgru", "--submit", "sbatch"], "--submit needs {command} in it"),
        (["scripts=hgru", "--runs", "x"], "not both"),
        (["--collect", "--set", "lr=1", "--runs", "x"], "--runs or --set, --collect, not both"),
        (["scripts=hgru", "--list", "--label", "x"], "--label goes with --runs"),
        (["scripts=hgru", "--collect", "--name", "new"], "no run to compare"),
    ],
)
def test_errors_are_one_line_and_exit_2(config, arguments, message, capsys):
    assert exit_code(sweep.main, arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


def test_what_is_complete_is_not_trained_again(config, circuits, capsys):
    before = set(config.log_dir.iterdir())
    assert all(cell.is_complete(config) for cell in circuits)
    assert sweep.train(circuits, config) == []
    assert capsys.readouterr().out.count(": complete") == 2
    assert set(config.log_dir.iterdir()) == before


def test_a_longer_sweep_goes_on_and_other_settings_are_refused(config):
    axes = {"scripts": ["hgru"], "datasets": [DATASET]}
    longer = [text for text in OVERRIDES if not text.startswith("epochs=")]
    (cell,) = sweep.cells("tiny", axes, [*longer, *OF_CIRCUIT, "epochs=9"])
    assert not cell.is_complete(config)
    (cell,) = sweep.cells("tiny", axes, [*OVERRIDES, *OF_CIRCUIT, "lr=0.5"])
    with pytest.raises(UserError, match=r"lr: 0.001 there, 0.5 here.*another --name"):
        cell.is_complete(config)


@pytest.fixture
def own_scripts(tmp_path, monkeypatch) -> Path:
    """A folder of scripts, to edit, that the analysis takes for the clone's."""
    for script in ("hgru", "multiplicative_lesion"):
        shutil.copy(CLONE / f"{script}.py", tmp_path)
    monkeypatch.setattr(trained, "CLONE", tmp_path)
    return tmp_path


def test_another_network_is_refused_though_no_parameter_differs(config, circuits, own_scripts):
    assert circuits[0].is_complete(config)
    script = own_scripts / "hgru.py"
    text = script.read_text()
    script.write_text(text.replace('"recurrent_nl": "tanh"', '"recurrent_nl": "relu"'))
    for ask in (circuits[0].is_complete, circuits[0].run):
        with pytest.raises(UserError, match=r"'tanh' there, 'relu' here.*another --name"):
            ask(config)
    assert circuits[1].is_complete(config)


def test_a_longer_schedule_that_falls_to_its_end_is_another_sweep(config):
    """As for ``--resume``."""
    axes = {"scripts": ["hgru"], "datasets": [DATASET]}
    for setting in ("epochs=3", "epochs=1"):
        more = [*OVERRIDES, *OF_CIRCUIT, "lr_schedule=cosine", setting]
        with pytest.raises(UserError, match="epochs: 2 there"):
            sweep.cells("tiny", axes, more)[0].is_complete(config)


def test_runs_of_other_code_are_tabled_with_a_word(config, circuits, own_scripts, capsys):
    arguments = ["scripts=hgru,multiplicative_lesion", f"datasets={DATASET}", "--name", "tiny"]
    for text in [*OVERRIDES, *OF_CIRCUIT]:
        arguments += ["--set", text]
    assert exit_code(sweep.main, [*arguments, "--device", "cpu"]) == 0
    assert "warning" not in capsys.readouterr().err
    script = own_scripts / "hgru.py"
    script.write_text(script.read_text() + "# edited\n")
    assert exit_code(sweep.main, [*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().err.splitlines()
    (line,) = (line for line in said if line.startswith("warning: "))
    assert circuits[0].run(config).name in line and "script" in line


def test_of_several_runs_of_an_experiment_the_newest_counts(config, circuits):
    run = circuits[0].run(config)
    newest = f"{circuits[0].experiment}_2999-01-01_00-00-00"
    folders = [folder / newest for folder in (config.log_dir, config.checkpoints)]
    try:
        for folder in folders:
            shutil.copytree(folder.with_name(run.name), folder)
        assert circuits[0].run(config).name == newest and circuits[0].is_complete(config)
        log = circuits[0].run(config).json_log
        *lines, last = log.read_text().splitlines()
        log.write_text("\n".join([*lines, json.dumps({**json.loads(last), "complete": False})]))
        assert not circuits[0].is_complete(config)
        (note,) = sweep.collect(circuits[:1], config, "last", "cpu")[2]
        assert note.startswith(f"{newest}: not complete")
        settings = log.with_name("settings.yaml")
        settings.write_text(settings.read_text().replace("lr: 0.001", "lr: 0.5"))
        with pytest.raises(UserError, match=f"{newest} has other settings"):
            circuits[0].run(config)
    finally:
        for folder in folders:
            shutil.rmtree(folder)


def test_a_run_that_left_early_is_not_complete(config, circuits, tmp_path):
    run = circuits[0].run(config)
    assert sweep.ended(run)
    lines = run.json_log.read_text().splitlines()
    event = {**json.loads(lines[-1]), "complete": False}
    run.json_log = tmp_path / "log.jsonl"
    run.json_log.write_text("\n".join([*lines[:-1], json.dumps(event)]) + "\n")
    assert not sweep.ended(run)
    run.json_log = tmp_path / "none.jsonl"
    assert not sweep.ended(run)


def test_jobs_are_handed_the_commands_of_what_is_missing(config, circuits, tmp_path):
    (new,) = sweep.cells("other", {"scripts": ["hgru"]}, OVERRIDES)
    out = tmp_path / "job"
    template = f"{sys.executable} -c 'import sys; open(sys.argv[1], \"w\").write(sys.argv[2])'"
    count = sweep.submit([*circuits, new], config, f"{template} {out} {{command}}", "cpu")
    assert count == 1 and shlex.split(out.read_text()) == new.command("cpu")
    assert "--device cpu" in shlex.join(new.command("cpu"))
    with pytest.raises(RuntimeError, match="ended with exit code 1 for other_hgru"):
        sweep.submit([new], config, f"{sys.executable} -c 'exit(1)' {{command}}")


def test_a_programs_exit_code_and_signals_pass_through():
    command = [sys.executable, "-c", "raise SystemExit(75)"]
    assert sweep.run_forwarding_signals(command) == 75
    command[2] = "import os; exit(os.getsid(0) != os.getpid())"  # a terminal's Ctrl-C comes by us
    assert sweep.run_forwarding_signals(command) == 0


@pytest.mark.parametrize("number", [1, 2, 10, 15])  # SIGHUP, SIGINT, SIGUSR1, SIGTERM
def test_a_signal_is_handed_on(number, heard):
    mine = signal.signal(number, lambda *_: None)
    ask = (
        "import os, signal, sys, time;"
        f"signal.signal({number}, lambda *_: sys.exit(7));"
        f"os.kill(os.getppid(), {number}); time.sleep(30)"
    )
    try:
        own = signal.getsignal(number)
        assert sweep.run_forwarding_signals([sys.executable, "-c", ask]) == 7
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, mine)


def test_a_signal_that_nohup_has_ignored_is_not_handed_on(heard):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ask = "import os; os.kill(os.getppid(), 1); exit(os.system('sleep 0.2'))"
    assert sweep.run_forwarding_signals([sys.executable, "-c", ask]) == 0


def test_a_sweep_goes_on_after_a_run_that_failed_and_tells_of_it(config, capsys):
    devices = []

    class Failing(sweep.Cell):
        def command(self, device="auto"):
            devices.append(device)
            return [sys.executable, "-c", f"exit({len(devices)})"]

    wanted = [
        Failing("hgru", hgru.experiment_params() | {"exp_name": name}, (), 0) for name in "ab"
    ]
    failed = sweep.train(wanted, config, "cpu")
    assert devices == ["cpu"] * 2
    assert [(line[0], line[-1]) for line in failed] == [("a", "1"), ("b", "2")]  # run and code


@pytest.mark.parametrize("end", ["exit(75)", "exit(130)", "os.kill(os.getpid(), 1)"])
def test_a_sweep_whose_run_was_told_to_leave_does_not_begin_the_next(end, config, capsys):
    class Ended(sweep.Cell):
        def command(self, device="auto"):
            heard = "signal.signal(1, signal.SIG_DFL)"  # under nohup it would be ignored
            return [sys.executable, "-c", f"import os, signal; {heard}; {end}"]

    wanted = [Ended("hgru", hgru.experiment_params() | {"exp_name": name}, (), 0) for name in "ab"]
    with pytest.raises(SystemRefusal, match="stopped during a"):
        sweep.train(wanted, config)
    assert "[2/2]" not in capsys.readouterr().out


def point(model="hgru", accuracy=0.9, seed=0, reached=None, **more) -> comparison.Point:
    """A run's point, tested on 1,000 images."""
    low, high = stats.binomtest(round(1000 * accuracy), 1000).proportion_ci(method="wilson")
    sets = {"trained_on": "pathfinder_6_stream", "tested_on": "pathfinder_6_stream", **more}
    return comparison.Point(
        model=model, seed=seed, parameters=5, training_images=48, images=1000, accuracy=accuracy,
        low=low, high=high, images_to=reached, **{"run": f"{model} {seed}", **sets},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.9], ["90.0", "88.0", "91.7", "over images"]),  # Wilson's interval
        ([0.886, 0.499, 0.501], ["1 of 3 seeds", "49.9", "50.1", "88.6"]),
        ([0.562, 0.562, 0.562], ["56.2", "each of 3 seeds"]),
        ([0.8, 0.9], ["80.0", "90.0", "2 seeds"]),
        ([0.8, 0.82, 0.84, 0.86, 0.88], ["84.0", "80.1", "87.9", "over 5 seeds"]),  # Student's
    ],
)
def test_accuracies_of_seeds_say_what_their_interval_is(accuracies, expected):
    """No 0–100% of two seeds, no 56.2–56.2%, and no mean of 88, 50 and 50%."""
    text = comparison.accuracy_text([point(accuracy=a, seed=n) for n, a in enumerate(accuracies)])
    numbers = re.findall(r"\d+\.\d", text)
    assert numbers == [part for part in expected if "." in part]
    assert all(part in text for part in expected)


def test_images_to_a_level_tell_how_many_seeds_reached_it():
    def text(*reached):
        return comparison.images_text([point(reached=r) for r in reached])

    assert text(None, None) == "not reached" and text(40) == "40"
    assert "1 of 2" in text(40, None) and "40" in text(40, None)
    assert "40–80" in text(80, 40) and "start" in text(0)


def test_a_file_of_weights_tells_after_how_many_images_its_run_was_there(config, names, tmp_path):
    """It has no curve: where it tells nothing, "not reached" would be a guess."""
    run = load_run(names["hgru"], device="cpu", config=config)
    run.history.validation_metric[:3] = [0.5, 0.9, 0.95]
    told, silent = (
        load_run(path, device="cpu", config=config)
        for path in (
            export_safetensors(run, tmp_path / "told.safetensors"),
            export_safetensors(load_run(names["ff_5"], config=config), tmp_path / "x.safetensors"),
        )
    )
    found = comparison.points(
        [comparison.Member(one, one.name, {"d": answers([1, 0])}) for one in (told, silent)]
    )
    assert found[0].images_to == run.history.validation_images[1]
    assert [row["images to 90%"] for row in comparison.table(found)] == ["12", "not known"]
    *_, panel = comparison.comparison_figure(found).axes
    assert [line.get_marker() for line in panel.get_lines()] == ["o"]
    assert "images to 90%" not in comparison.table(found[1:])[0]
    assert comparison.images_text([point(reached=8), point(reached=math.nan)]) == "not known"


def test_training_images_are_those_of_the_seeds():
    group = [replace(point(seed=n), training_images=count) for n, count in enumerate((32, 1000, 0))]
    (row,) = comparison.table(group)
    assert row["training images"] == "0–1,000"  # no run had seen the median of two
    (row,) = comparison.table(group[:1])
    assert row["training images"] == "32"


def test_a_point_is_a_run_on_a_set(config, names):
    run = load_run(names["hgru"], device="cpu", config=config)
    run.history.validation_metric[:3] = [0.5, 0.9, 0.95]
    member = comparison.Member(run, "m", {"pathfinder_6": answers(np.arange(50) < 30)})
    (found,) = comparison.points([member])
    expected = stats.binomtest(30, 50).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.accuracy, found.images, found.training_images) == (0.6, 50, 44)
    assert found.images_to == run.history.validation_images[1]
    assert found.parameters == sum(p.numel() for p in run.network.parameters())


def test_paired_tests_compare_the_same_images_and_seed(config, names):
    full = load_run(names["hgru"], device="cpu", config=config)
    lesion = load_run(names["multiplicative_lesion"], device="cpu", config=config)
    a, b = np.arange(60) < 50, np.arange(60) >= 25
    members = [
        comparison.Member(full, "hgru", {"d": answers(a)}),
        comparison.Member(lesion, "lesion", {"d": answers(b)}),
    ]
    (row,) = comparison.paired_tests(members, "hgru")
    assert (row["only_model_right"], row["only_reference_right"]) == (10, 25)
    assert row["p"] == pytest.approx(stats.binomtest(10, 35).pvalue)
    assert row["p_holm"] == row["p"] and row["difference"] == pytest.approx(35 / 60 - 50 / 60)
    (shown,) = comparison.tests_table([{**row, "p_holm": 1e-5}])
    assert shown["right alone"] == "10, 25"
    assert shown["p (McNemar, Holm)"] == f"{row['p']:.2g}, < 0.0001"
    assert shown["points (95% over images)"].startswith("−25.0 (−")
    members[1].run.record["seed"] = 5  # no run of the reference from that seed
    assert comparison.paired_tests(members, "hgru") == []
    members[1].run.record["seed"] = 0
    members[1].evaluations["d"].about["set"] = "another"
    with pytest.raises(UserError, match=r"did not see the same images of d"):
        comparison.paired_tests(members, "hgru")
    with pytest.raises(UserError, match="'gru'"):
        comparison.paired_tests(members, "gru")


def test_the_figure_has_a_point_for_each_seed_beside_its_model():
    """Nine models of three seeds: every point is nearer to its own model than to another."""
    found = [
        point(f"model {m}", 0.5 + 0.05 * m + 0.001 * seed, seed, 40 if m else None)
        for m in range(9)
        for seed in range(3)
    ]
    left, right = comparison.comparison_figure(found).axes
    assert [t.get_text() for t in left.get_yticklabels()] == [f"model {m}" for m in range(9)]
    places = [c.lines[0].get_xydata()[0] for c in left.containers]
    assert len(places) == 27
    for one, (x, y) in zip(found, places, strict=True):
        assert x == pytest.approx(one.accuracy) and round(y) == int(one.model[-1])
    ends = [c.lines[2][0].get_segments()[0][:, 0] for c in left.containers]
    assert np.allclose(ends, [[one.low, one.high] for one in found])
    marks = {tuple(np.round(line.get_xydata()[0], 3)) for line in right.get_lines()}
    assert len(marks) == 27  # of model 0 where they stood untrained to 90%: 48 images
    assert sum(x == 0.048 for x, _ in marks) == 3 and sum(x == 0.04 for x, _ in marks) == 24


def test_two_runs_of_one_name_and_seed_are_two_points_of_every_panel():
    sets = ("pathfinder_6", "pathfinder_9")
    runs = (("first", 40), ("second", None), ("third", 20))
    found = [point(run=run, reached=to, tested_on=s) for run, to in runs for s in sets]
    *accuracies, needed = comparison.comparison_figure(found).axes
    assert [len(axes.containers) for axes in accuracies] == [3, 3]
    assert sorted(line.get_xdata()[0] for line in needed.get_lines()) == [0.02, 0.04, 0.048]


def test_a_panel_for_each_set_and_names_stay_on_the_page():
    sets = [f"pathfinder_{n}" for n in (6, 9, 14, 18, 20, 25)]
    found = [
        point(m, 0.6 + 0.05 * n, tested_on=s)
        for m in ("long " * 12, "ff_5")
        for n, s in enumerate(sets)
    ]
    figure = comparison.comparison_figure(found)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert len(titles) == 7
    for number, (one, axes) in enumerate(zip(sets, figure.axes, strict=False)):
        assert one.removeprefix("pathfinder_") in titles[number]
        drawn = [c.lines[0].get_xydata()[0, 0] for c in axes.containers]
        assert drawn == pytest.approx([0.6 + 0.05 * number] * 2)
    with style.style():
        figure.draw_without_rendering()
    for axes in figure.axes:
        for label in axes.get_yticklabels():
            assert label.get_window_extent().x0 >= 0


@pytest.mark.parametrize("tests", [(), ("pathfinder_9", "pathfinder_14", "a/my_long_contours")])
def test_titles_of_panels_do_not_overlap(tests):
    """As of the sweep that docs/analysis.md has: two sets, each tested on itself."""
    sets = ("pathfinder_6_stream", "pathfinder_14_stream")
    found = [
        point(m, trained_on=trained, tested_on=tested)
        for m in ("hgru", "multiplicative_lesion")
        for trained in sets
        for tested in tests or [trained]
    ]
    figure = comparison.comparison_figure(found)
    with style.style():
        figure.draw_without_rendering()
    boxes = [axes._left_title.get_window_extent() for axes in figure.axes if axes.axison]
    assert len(boxes) == len(sets) * (len(tests) or 1) + len(sets)
    for number, box in enumerate(boxes):
        right = boxes[number + 1].x0 if (number + 1) % 3 and number + 1 < len(boxes) else None
        assert box.x1 < (right or figure.bbox.x1) and box.y1 <= figure.bbox.y1


def test_sets_of_one_length_have_titles_of_their_own():
    sets = ["pathfinder_14", "pathfinder_14_stream", "pathfinder_9", "a/mine", "b/mine"]
    figure = comparison.comparison_figure([point(tested_on=name) for name in sets])
    titles = {axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes if axes.axison}
    others = {"length 9", "mine (a)", "mine (b)", "training images to 90%"}
    assert titles == {*sets[:2]} | others


def test_long_names_do_not_overlap():
    names = [f"{n} many settings that differ from those of others, told here" for n in range(4)]
    figure = comparison.comparison_figure([point(name) for name in names])
    with style.style():
        figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    for upper, lower in pairwise(boxes):
        assert upper.y0 > lower.y1


def test_a_run_is_one_seed(config, names, capsys):
    """Given twice, or as two seeds of one model with the weights of two steps, it is an error."""
    name, out = names["ff_5"], set(config.condition_evaluations.rglob("*"))
    checkpoints = sorted(load_run(name, config=config).files.checkpoints.glob("step_*.pt"))
    two, how = list(map(str, checkpoints[-2:])), ["--device", "cpu", "--name", "seeds"]
    for given in ([name, name], [name, two[1], "--label", "a", "b"], two):
        assert exit_code(sweep.main, ["--runs", *given, *how]) == 2
        assert f"error: {name} is there twice" in capsys.readouterr().err
    assert set(config.condition_evaluations.rglob("*")) == out
    assert exit_code(figures.main, [name, name, "--only", "curves", "--device", "cpu"]) == 2
    assert exit_code(sweep.main, ["--runs", *two, "--label", "early", "late", *how]) == 0


def test_two_runs_of_one_seed_are_told(config, names):
    runs = [load_run(names[key], device="cpu", config=config) for key in ("hgru", "hgru seed 1")]
    with warnings.catch_warnings(action="error"):
        assert curves.beside(runs) == ["tiny_hgru"] * 2
        runs[1].record["seed"] = 0
        with pytest.raises(UserWarning, match="both seed 0 of a: they count as two seeds"):
            curves.beside(runs, ["a", "a"])
        assert curves.beside(runs, ["a", "b"]) == ["a", "b"]


def test_another_metric_has_no_images_to_an_accuracy(config, names):
    """And it has no axis in common with accuracy."""
    runs = [load_run(names[key], device="cpu", config=config) for key in ("hgru", "hgru seed 1")]
    runs[0].params["score_metric"] = "pearson"
    for together in (comparison.family, curves.of_runs):
        with pytest.raises(
            UserError, match=f"'pearson' .{runs[0].name}.*'accuracy' .{runs[1].name}"
        ):
            together(runs)
    member = comparison.Member(runs[0], "m", {"pathfinder_6": answers(np.arange(50) < 30)})
    (row,) = comparison.table(comparison.points([member]))
    assert row["accuracy"].startswith("60.0%") and "images to 90%" not in row
    figure = comparison.comparison_figure(comparison.points([member]))
    assert len(figure.axes) == 1 and "90%" not in figure.get_supxlabel()


def test_collecting_writes_table_tests_and_figures(config, names, capsys):
    arguments = [
        "scripts=hgru,multiplicative_lesion", f"datasets={DATASET}", "--name", "tiny", "--collect",
        "--device", "cpu",
    ]  # fmt: skip
    for text in [*OVERRIDES, *OF_CIRCUIT]:
        arguments += ["--set", text]
    assert exit_code(sweep.main, arguments) == 0
    said = capsys.readouterr().out
    folder = config.condition_evaluations / "tiny"
    with open(folder / "comparison.csv", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    files = list((config.condition_evaluations / names["hgru"]).glob(f"{DATASET}_step12_*.json"))
    accuracies = {json.loads(f.read_text())["accuracy"] for f in files}
    assert float(rows["hgru"]["accuracy"]) in accuracies
    assert int(rows["multiplicative_lesion"]["parameters"]) + 50 == int(rows["hgru"]["parameters"])
    text = (folder / "comparison.md").read_text()
    assert f"| hgru | {DATASET} |" in text
    assert "multiplicative_lesion − hgru" in text
    assert len((folder / "tests.csv").read_text().splitlines()) == 2
    assert (config.plots / "tiny" / "comparison.pdf").exists()
    assert str(folder / "comparison.csv") in said


def test_what_is_asked_of_a_comparison_reaches_it(config, names, capsys):
    arguments = ["scripts=hgru,multiplicative_lesion", f"datasets={DATASET}", "seeds=0,7"]
    arguments += ["--name", "tiny", "--collect", "--weights", "6", "--dataset", "pathfinder_6"]
    arguments += ["--images", "5", "--seed", "3", "--reference", "multiplicative_lesion"]
    for text in [*OVERRIDES, *OF_CIRCUIT]:
        arguments += ["--set", text]
    assert exit_code(sweep.main, [*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for script in ("hgru", "multiplicative_lesion"):
        assert f"note: tiny_{script}_{DATASET}_seed7: not trained" in said
    with open(config.condition_evaluations / "tiny" / "tests.csv", newline="") as file:
        (test,) = csv.DictReader(file)
    assert (test["model"], test["reference"]) == ("hgru", "multiplicative_lesion")
    assert test["images"] == "5"
    (file,) = (config.condition_evaluations / names["hgru"]).glob("pathfinder_6_step6_*.json")
    told = json.loads(file.read_text())
    assert (told["images"], told["seed"], told["dataset"]) == (5, 3, "pathfinder_6")


def test_files_of_weights_are_compared_and_have_no_curves(config, names, tmp_path):
    run = load_run(names["hgru"], device="cpu", config=config)
    file = export_safetensors(run, tmp_path / "w.safetensors")
    how = ["--dataset", "pathfinder_6", "--images", "5", "--name", "files", "--device", "cpu"]
    assert exit_code(sweep.main, ["--runs", str(file), *how]) == 0
    assert {path.stem for path in (config.plots / "files").iterdir()} == {"comparison"}


@pytest.mark.slow
def test_a_sweep_trains_resumes_and_compares(config, capfd):
    arguments = ["scripts=hgru", "seeds=4,5", f"datasets={DATASET}", "--name", "whole"]
    for text in [*OVERRIDES, *OF_CIRCUIT]:
        arguments += ["--set", text]
    assert exit_code(sweep.main, [*arguments, "--device", "cpu"]) == 0
    (wanted, other) = sweep.cells(
        "whole", {"scripts": ["hgru"], "datasets": [DATASET], "seeds": ["4", "5"]},
        [*OVERRIDES, *OF_CIRCUIT],
    )  # fmt: skip
    assert wanted.is_complete(config) and other.is_complete(config)
    run = load_run(wanted.run(config).name, device="cpu", config=config)
    assert run.step == 12 and run.seed == 4
    assert run.parameters == sum(p.numel() for p in hgru.build_model(run.params).parameters())
    assert "2 seeds" in (config.condition_evaluations / "whole" / "comparison.md").read_text()
    capfd.readouterr()
    assert exit_code(sweep.main, [*arguments, "--device", "cpu"]) == 0
    assert capfd.readouterr().out.count(": complete") == 2
