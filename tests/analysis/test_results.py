"""The page of results: its numbers are those that the runs recorded, here or on another machine."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from scipy import stats

import hgru
from analysis import curves, evaluate, export, figures, predict, results
from analysis.evaluate import evaluated
from analysis.record import RunRecord, keep_record, stages_text
from analysis.trained import load_run
from config import CLONE, Config
from layers.hgru import HGRU
from support.files import read_arrays, write_arrays
from support.shell import exit_code
from tests.analysis.conftest import DATASET
from training.command_line import run_script
from training.run import Run

CPU = ["--device", "cpu"]


@pytest.fixture
def copied(project, config, tmp_path, monkeypatch) -> Config:
    """The paths, for the commands too, of a copy of the four runs: no data, no evaluations."""
    folder = tmp_path / "elsewhere"
    left = shutil.ignore_patterns("tf_records", "condition_evaluations")
    shutil.copytree(project, folder, symlinks=True, ignore=left)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(folder))  # after config has set another
    return Config()


@pytest.fixture
def copied_with_data(project, copied) -> Config:
    """The same with the data."""
    shutil.copytree(project / "tf_records", copied.tf_records)
    return copied


@pytest.fixture
def as_on_a_gpu(names, copied_with_data) -> list[str]:
    """Names of two runs whose kept evaluations were made on another device by another PyTorch."""
    config = copied_with_data
    for name in (names["hgru"], names["multiplicative_lesion"]):
        _, path = evaluated(load_run(name, device="cpu", config=config), DATASET)
        arrays = read_arrays(path)
        about = {**json.loads(str(arrays["about"])), "device": "cuda", "torch": "2.0.0+cu118"}
        write_arrays(path, {**arrays, "about": np.array(json.dumps(about))})
    shutil.rmtree(config.tf_records)
    return [names["hgru"], names["multiplicative_lesion"]]


def bare(record, step=0):
    """A run of this record alone."""
    params = {"model_name": "hgru", "dataset": DATASET}
    return RunRecord("x", params, record, step)


def test_the_command_repeats_the_run():
    overrides = ["epochs=2", "aux.timesteps=6", "model_input_image_size=[16,16]", "epochs=4"]
    record = {"script": "hgru.py", "overrides": overrides, "seed": 3}
    expected = (
        "python hgru.py --set aux.timesteps=6 --set 'model_input_image_size=[16,16]' "
        "--set epochs=4 --seed 3"
    )
    assert bare(record).command == expected
    sessions = [{"step": 0, "environment": {"processes": 4}}]
    record |= {"deterministic": True, "sessions": sessions, "script": None}
    assert bare(record).command.startswith("torchrun --nproc_per_node=4 hgru.py --set aux")
    assert bare(record).command.endswith("--seed 3 --deterministic")


def test_devices_and_commits_are_those_of_the_sessions_that_count():
    def session(step, device, commit, processes=1, dirty=False):
        code = {"commit": commit, "dirty": dirty}
        return {
            "step": step,
            "code": code,
            "environment": {"device": device, "processes": processes},
        }

    record = {
        "sessions": [
            session(0, "H100", "a" * 40),
            session(10, "H200", "b" * 40, processes=2),
            session(20, "killed before a checkpoint", None),
            session(20, "H100", "a" * 40, dirty=True),
            session(30, "looked at only", "c" * 40),
        ]
    }
    assert bare(record, 30).devices == "H100, 2 × H200"
    expected = "aaaaaaaaaaaa, bbbbbbbbbbbb, aaaaaaaaaaaa (with uncommitted changes)"
    assert bare(record, 30).commits == expected
    assert bare(record, 10).devices == "H100"
    assert bare({}, 10).devices is None and bare({}, 10).commits is None
    assert bare(record, 10).version == "aaaaaaaaaaaa" and bare({}, 10).version == "not known"
    code = {"commit": None, "fingerprint": {"layers": "0123456789abcdef"}}
    assert bare({"sessions": [{"step": 0, "code": code}]}, 10).version == "layers 012345"


def test_the_lengths_of_a_curriculum_read_well():
    stages = ((0, 6), (64_000, 14), (96_000, 14))  # with shorter ones among them, then alone
    assert stages_text(stages) == "6; 14 from 64,000; 14 alone from 96,000"


def test_a_run_resumed_with_a_pause_has_the_images_and_seconds_of_its_sessions(
    copied_with_data, names, monkeypatch
):
    config, name = copied_with_data, names["hgru"]
    first = load_run(name, device="cpu", config=config)
    time.sleep(1.5)
    monkeypatch.setattr(sys, "argv", ["hgru.py"])
    began = time.perf_counter()
    arguments = ["--resume", name, "--set", "epochs=4", *CPU, "--workers", "0"]
    assert run_script(hgru.experiment_params, hgru.build_model, arguments) == 0
    passed = time.perf_counter() - began
    again = load_run(name, device="cpu", config=config)
    assert (again.step, again.images_seen) == (24, 88)  # 22 images an epoch, not 6 batches of 4
    assert 0 < again.seconds - first.seconds < passed
    assert again.history.validation_images[-1] == 88
    assert again.history.validation_seconds[-1] == pytest.approx(again.seconds, rel=0.01)
    assert again.history.until(12).validation_seconds == first.history.validation_seconds
    (start, more) = again.record["sessions"]
    assert (start["step"], start["images"], start["seconds"]) == (0, 0, 0)
    assert (more["step"], more["images"], more["seconds"]) == (12, 44, first.seconds)
    events = again.files.events("train")
    assert [event["images"] for event in events] == [22 + 16, 66 + 8]  # steps 10 and 20, 6 an epoch
    assert events[0]["seconds"] < first.seconds < events[1]["seconds"]


@pytest.fixture
def weights(copied_with_data, names, tmp_path, monkeypatch) -> Path:
    """A file of weights with its card, in an otherwise empty place."""
    run = load_run(names["hgru"], device="cpu", config=copied_with_data)
    evaluated(run, DATASET)
    folder = tmp_path / "weights"
    arguments = ["--format", "safetensors", "card", "--name", "w", "--output", str(folder)]
    assert exit_code(export.main, [run.name, *arguments, *CPU]) == 0
    shutil.rmtree(copied_with_data.project_directory)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "fresh"))
    return folder / "w.safetensors"


def test_a_file_of_weights_says_what_it_is(weights, names, tmp_path):
    with safe_open(weights, framework="pt") as file:
        about = file.metadata()
    assert about["run"] == names["hgru"] and about["images_seen"] == "44" and about["seed"] == "0"
    assert about["data"].startswith(f"{DATASET}, 22 images, fingerprint ")
    assert about["accuracy"].startswith(f"{DATASET}: ") and "of 9 images" in about["accuracy"]
    assert about["command"].startswith("python hgru.py --set batch_size=4 ")
    (session,) = json.loads(about["record"])["sessions"]
    assert (session["code"]["commit"] or "not known")[:12] in about["commit"]
    whole = json.dumps(about)
    assert str(tmp_path) not in whole and "working_directory" not in whole and "host" not in whole
    card = weights.with_suffix(".md").read_text()
    for fact in (about["data"], f"`{about['command']}`", about["commit"], "| seed | 0 |",
                 "44, repeats counted (12 updates of 4)", f"| {DATASET} | 9 |"):  # fmt: skip
        assert fact in card, fact
    arguments = ["--format", "card", "--output", str(weights.parent), "--name", "w"]
    assert exit_code(export.main, [str(weights), *arguments, *CPU]) == 0
    assert weights.with_suffix(".md").read_text() == card  # the file alone knows all of it
    again = load_run(weights, device="cpu")
    written = export.export_safetensors(again, tmp_path / "again.safetensors")
    assert written.read_bytes() == weights.read_bytes()


def test_weights_that_the_release_has_no_name_for_are_told(run, tmp_path):
    with warnings.catch_warnings(action="error"):
        export.export_npy(run, tmp_path)
    run.network.second = HGRU(25, 2, 3)
    with pytest.warns(UserWarning, match=r"no such variable: second\.W1, second\.U1"):
        export.export_npy(run, tmp_path)


def test_a_file_of_weights_predicts_and_draws_without_a_run(weights, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    out = ["--output", str(tmp_path / "out")]
    assert exit_code(predict.main, [str(weights), str(tmp_path / "image.png"), *out, *CPU]) == 0
    kinds = ["curves", "gabors", "kernels"]
    assert exit_code(figures.main, [str(weights), "--only", *kinds, *out, *CPU]) == 0
    assert "nothing to draw for curves" in capsys.readouterr().out
    for name in ("predict_image", "gabors", "kernels"):
        assert (tmp_path / "out" / f"{name}.png").exists()


@pytest.mark.slow
def test_a_file_of_weights_draws_every_figure_without_a_run(weights, tmp_path):
    out = ["--output", str(tmp_path / "out"), "--samples", "2"]
    assert exit_code(figures.main, [str(weights), *out, *CPU]) == 0
    drawn = {path.name.split("_")[0].split(".")[0] for path in (tmp_path / "out").iterdir()}
    assert drawn == set(figures.KINDS) - {"curves"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"), (59.4, "59 s"), (59.6, "1.0 min"), (754, "12.6 min"), (3596, "59.9 min"),
        (3598, "1 h 00 min"), (11_100, "3 h 05 min"),
    ],
)  # fmt: skip
def test_durations_read_well(seconds, text):
    assert results.duration(seconds) == text


def tables(page: Path) -> list[list[dict[str, str]]]:
    """The tables of a page."""
    found: list[list[list[str]]] = [[]]
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[dict(zip(t[0], row, strict=True)) for row in t[2:]] for t in found if t]


@pytest.fixture
def page(copied, names, tmp_path) -> Path:
    """A page about the four runs, made without their data."""
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [*names.values(), "--output", str(page)]) == 0
    return page


def test_the_page_has_what_the_runs_recorded(page, copied, names):
    seeds, runs = tables(page)
    shown = {row["run"]: row["seeds"][0] for row in seeds}
    assert shown == {"tiny_hgru": "2", "tiny_ff_5": "1", "tiny_multiplicative_lesion": "1"}
    assert len(runs) == 4
    assert {len(row) for row in seeds} == {8} and {len(row) for row in runs} == {6}
    for name in names.values():
        run = load_run(name, device="cpu", config=copied)
        (row,) = [row for row in runs if f"](runs/{name})" in row["run"]]
        assert f", seed {run.seed}]" in row["run"] and run.script in row["script and settings"]
        assert "batch_size=4" in row["script and settings"]
        assert row["training images"] == "44" and row["commit"] == run.version
        assert row["time, device"].endswith(", cpu")
        right = run.history.validation_metric[-1]
        assert row["accuracy (95%)"].startswith(f"{100 * right:.1f}% (")
        assert " of 9" in row["accuracy (95%)"]
        assert ("not learned" in row["accuracy (95%)"]) == (right < 0.6)
    for figure in (page.parent / "figures").iterdir():
        assert f"](figures/{figure.name})" in page.read_text()
    commands = page.with_name("r_commands.sh").read_text()
    assert subprocess.run(["sh", "-n"], input=commands, text=True, check=True).returncode == 0
    assert all(name in commands for name in names.values())
    with page.with_name("r_runs.csv").open(newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == set(names.values())
    assert str(page.parent) not in page.read_text()


def test_a_page_is_made_again_from_the_kept_records_alone(page, copied):
    before = {path: path.read_bytes() for path in page.parent.rglob("*.*")}
    shutil.rmtree(copied.project_directory)
    for path in page.parent.glob("figures/*"):
        path.unlink()
    page.write_text(page.read_text().partition(results.MARK)[0] + results.MARK + "\nolder\n")
    assert exit_code(results.main, ["--output", str(page)]) == 0
    assert {path: path.read_bytes() for path in page.parent.rglob("*.*")} == before


def test_prose_stays_and_a_page_of_anothers_is_left_alone(page, names, capsys):
    page.write_text("# Mine\n\nprose\n\n" + page.read_text().partition("# Results\n\n")[2])
    shutil.rmtree(page.parent / "runs" / names["ff_5"])
    assert exit_code(results.main, ["--output", str(page)]) == 0
    after = page.read_text()
    assert after.startswith("# Mine\n\nprose\n") and "tiny_hgru" in after
    assert "tiny_ff_5" not in after
    page.write_text("# Mine\n")
    assert exit_code(results.main, ["--output", str(page)]) == 2
    assert str(page) in capsys.readouterr().err and page.read_text() == "# Mine\n"


def test_a_kept_record_is_small_and_has_every_validation(page, copied, names):
    run = load_run(names["hgru"], device="cpu", config=copied)
    kept = Run(copied, run.name, page.parent / "runs" / run.name)
    assert kept.record()["parameters"] == run.params and kept.record()["seed"] == run.seed
    text = kept.settings.read_text() + kept.json_log.read_text()
    assert (
        "working_directory" not in text and "host" not in text and str(copied.log_dir) not in text
    )
    drawn, log = curves.curve(run, "x"), curves.logged_curve(kept, "x")
    assert np.allclose(drawn.table[:, [0, 1, 4, 5]], log.table[:, [0, 1, 4, 5]], rtol=1e-5)
    again = curves.logged_curve(run.files, "x")
    assert np.allclose(again.table, log.table, rtol=1e-5, equal_nan=True)


@pytest.fixture
def taught(copied, names, tmp_path) -> Callable[..., Path]:
    """Writes a run that never trained, contours of 6 first: its folder."""

    def write(
        name: str, accuracies: Sequence[float], longer: int, complete: bool = True, of: str = "hgru"
    ) -> Path:
        folder = tmp_path / name
        record = Run(copied, names[of]).record()
        record["parameters"] |= {"curriculum": [6], "dataset": "pathfinder_14_stream"}
        record |= {"run": name, "seed": int(name[-1]), "overrides": ["lr=1", "curriculum=6"]}
        Run(copied, name, folder).write(record)
        lines: list[dict[str, Any]] = [{"event": "stage", "step": 0, "images": 0, "length": 6}]
        for step, accuracy in enumerate(accuracies):
            counts = {"step": step, "images": 32 * step, "seconds": 60.0 * step}
            train = {"event": "train", "loss": 1 - accuracy, "accuracy": accuracy, **counts}
            lines += [{**train, "step": step * n // 49, "loss": n / 49} for n in range(50)]
            measured = {"loss": 0.5, "accuracy": accuracy, "validation_images": 1000}
            lines.append({"event": "validation", **counts, **measured})
            lines += [{"event": "stage", "length": 14, **counts}] * (step == longer)
        lines.append({"event": "end", "step": len(accuracies) - 1, "complete": complete})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return write


def test_a_kept_log_has_the_means_of_training_between_validations(taught, copied, tmp_path):
    kept = Run(copied, "r1", keep_record(taught("r1", [0.5, 0.9, 0.8], 1), tmp_path / "k", copied))
    assert [event["event"] for event in kept.events()] == [
        *("stage", "train", "validation", "train", "validation", "stage", "train", "validation"),
        "end",
    ]
    trained = kept.events("train")
    assert [event["step"] for event in trained] == [0, 1, 2]
    assert [event["loss"] for event in trained] == [0.5] * 3
    assert [event["accuracy"] for event in trained] == pytest.approx([0.5, 0.9, 0.8])
    once = (kept.logs / "log.jsonl").read_text()
    again = keep_record(kept.logs, tmp_path / "again", copied)
    assert (again / "log.jsonl").read_text() == once


def test_the_cost_of_a_lesion_has_an_interval(taught, tmp_path):
    hgru, lesioned = (0.97, 0.98, 0.99), (0.91, 0.95)
    runs = [taught(f"hgru_seed{i}", [0.5, x], 0) for i, x in enumerate(hgru)]
    for i, x in enumerate(lesioned):
        runs.append(taught(f"lesion_seed{i}", [0.5, x], 0, of="multiplicative_lesion"))
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [*map(str, runs), "--output", str(page)]) == 0
    (whole, lesion), _ = tables(page)
    cost = next(key for key in whole if key.startswith("points below"))
    assert cost == f"points below {whole['run']} (95%)" and whole[cost] == "–"
    # Welch: 1/3 and 4 points² are the variances of the means, (1/3 + 4)² / (1/18 + 16) degrees.
    half = stats.t.ppf(0.975, (1 / 3 + 4) ** 2 / (1 / 18 + 16)) * (1 / 3 + 4) ** 0.5
    assert lesion[cost] == f"5.0 ({5 - half:.1f} to {5 + half:.1f})".replace("-", "−")
    assert lesion["accuracy"] == "91.0–95.0% (2 seeds, lowest–highest)"


def test_a_difference_of_seeds_that_do_not_differ_has_no_interval():
    def seeds(*values):
        return [SimpleNamespace(accuracy=value, complete=True) for value in values]

    assert results.below(seeds(0.9, 0.9), seeds(1, 1)) == "10.0"
    assert results.below(seeds(0.9, 0.88), seeds(1, 0.98)).startswith("10.0 (")


def test_two_runs_of_one_seed_have_rows_of_their_own(taught, tmp_path):
    names = "r_2026-01-01_00-00-01", "r_2026-01-01_00-00-11"
    runs = [taught(name, [0.5, 0.9], 0) for name in names]
    numbers = {"step": 1, "fold": "val", "images": 100, "seed": 0, "low": 0.1, "high": 0.9}
    numbers |= {"set": "x", "lesion": [], "timesteps": 4, "loss": 0.5, "auc": 0.5}
    for run, accuracy in zip(runs, (0.61, 0.72), strict=True):
        line = {"event": "evaluation", "dataset": "pathfinder_9", "accuracy": accuracy, **numbers}
        with (run / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [*map(str, runs), "--output", str(page)]) == 0
    *_, further = tables(page)
    shown = [(row["run"], row["pathfinder_9"][:5]) for row in further]
    assert shown == [
        (f"r, seed 1 ({name})", percent)
        for name, percent in zip(names, ("61.0%", "72.0%"), strict=True)
    ]


def test_every_section_has_figures_of_its_own_that_can_be_written(taught, tmp_path):
    """Also where names differ in signs alone, or tell more settings than a file's name can hold."""
    runs, sets = [], ("my-set", "my_set", "a" * 300, "a" * 300 + "b")
    for number, name in enumerate(sets):
        runs.append(taught(f"my run{number}", [0.5, 0.9], 0))
        settings = runs[-1] / "settings.yaml"
        text = settings.read_text().replace("dataset: pathfinder_14_stream", f"dataset: {name}")
        settings.write_text(text)
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [*map(str, runs), "--output", str(page)]) == 0
    assert len(list((page.parent / "figures").iterdir())) == 2 * len(sets)
    linked = {unquote(text) for text in re.findall(r"\]\((\S+)\)", page.read_text())}
    assert len(linked) == 3 * len(sets) and all((page.parent / path).exists() for path in linked)
    assert results.file_parts(["x (lengths 3, 6)"]) == ["x_lengths_3_6"]


def test_seeds_are_counted_by_what_they_reached(taught, tmp_path):
    """A run that stays at chance is said to, and one that was stopped."""
    runs = [
        taught("hgru_seed0", [0.5, 0.6, 0.6, 0.96, 0.98], 1),
        taught("hgru_seed1", [0.5, 0.6, 0.96, 0.97], 1),
        taught("hgru_seed2", [0.5, 0.5, 0.5, 0.51], 1),
        taught("hgru_seed3", [0.5, 0.7], 9, complete=False),
        taught("hgru_seed4", [0.5, 0.96], 1, complete=False),
    ]
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [*map(str, runs), "--output", str(page)]) == 0
    (seeds,), rows = tables(page)
    assert seeds["seeds"] == "3, 2 learned (21–94%) (2 more left early)"
    low, high = (stats.binomtest(n, 5).proportion_ci(method="wilson") for n in (3, 4))
    interval = f"{100 * low.low:.0f}–{100 * high.high:.0f}%"
    assert seeds["95% reached (95%)"] == f"3 to 4 of 5 ({interval})"
    assert seeds["to 95%: images, minutes"] == "64 (32–96), 2.0 (1.0–3.0)"
    assert seeds["97.4% reached (95%)"].startswith("1 to 3 of 5 ")
    assert seeds["to 97.4%: images, minutes"] == "128, 4.0"
    by_seed = {row["run"].partition("]")[0][-1]: row for row in rows}
    assert by_seed["0"]["training images"] == "128 (length 6; 14 from 32)"
    assert by_seed["3"]["training images"] == "32, left early"
    assert "not learned" in by_seed["2"]["accuracy (95%)"]
    assert "not learned" not in by_seed["3"]["accuracy (95%)"]
    assert "`hgru.py lr=1`" in by_seed["0"]["script and settings"]
    assert "on 1,000 images" in page.read_text()
    kept = page.parent / "runs" / "hgru_seed0" / "log.jsonl"
    assert kept.stat().st_size < 10_000
    before = kept.read_bytes()
    older = taught(
        "hgru_seed0", [0.5, 0.6], 1
    )  # a copy of the run from when it had not gone as far
    assert exit_code(results.main, [str(older), "--output", str(page)]) == 2
    assert kept.read_bytes() == before
    assert page.with_name("r_commands.sh").read_text().count("--set curriculum=6") == 5


def test_curves_show_where_the_length_changed(taught, config):
    folder = taught("hgru_seed0", [0.5, 0.8, 0.6, 0.96], 1)
    drawn = curves.logged_curve(Run(config, "hgru_seed0", folder), "one")
    assert drawn.stages == ((0, 6), (32, 14)) and drawn.images_to(0.9) == 96
    upper, lower = curves.learning_curves([drawn]).axes
    assert [text.get_text() for text in upper.texts] == ["14"] and not lower.texts
    (mark,) = [line for line in upper.get_lines() if line.get_marker() == "|"]
    assert np.allclose(mark.get_xydata(), [[32, 0.8]])


def test_an_evaluation_of_the_last_weights_counts_more_than_a_validation(
    as_on_a_gpu, copied, tmp_path
):
    """Evaluations of another device are taken; those of a lesion or other steps are listed."""
    run = load_run(as_on_a_gpu[0], device="cpu", config=copied)
    (path,) = (copied.condition_evaluations / run.name).glob("*.json")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "accuracy": 0.75, "low": 0.7, "high": 0.8}))
    lesion = {**whole, "lesion": ["mu"], "accuracy": 0.25, "low": 0.2, "high": 0.3}
    path.with_name("lesion.json").write_text(json.dumps(lesion))
    path.with_name("other_step.json").write_text(json.dumps({**whole, "step": 6}))
    path.with_name("other_set.json").write_text(json.dumps({**whole, "set": "another"}))
    page = tmp_path / "r.md"
    assert exit_code(results.main, [*as_on_a_gpu, "--output", str(page)]) == 0
    runs, others = tables(page)
    (row,) = [row for row in runs if run.name in row["run"]]
    assert row["accuracy (95%)"].startswith("75.0% (70.0–80.0) of 9")
    whole_row, row = sorted(others, key=lambda row: row["lesion"], reverse=True)
    assert whole_row["lesion"] == "–" and row["lesion"] == "mu"
    assert row["curv_contour_length_14_full"].startswith("25.0% (20.0–30.0)")


def test_of_several_evaluations_that_of_most_images_is_shown(as_on_a_gpu, copied, tmp_path):
    """Then that of the lowest seed, then the newest; whatever the files are called."""
    run = load_run(as_on_a_gpu[0], device="cpu", config=copied)
    (path,) = (copied.condition_evaluations / run.name).glob("*.json")
    whole = json.loads(path.read_text())
    path.unlink()
    versions = [
        ({"seed": 1, "accuracy": 0.9}, "f", 4), ({"images": 5, "accuracy": 0.8}, "e", 5),
        ({"accuracy": 0.7}, "d", 2), ({"accuracy": 0.6}, "c", 3), ({"accuracy": 0.5}, "g", 1),
    ]  # fmt: skip
    for other, name, age in versions:
        file = path.with_name(f"{name}.json")
        file.write_text(json.dumps({**whole, **other}))
        os.utime(file, (age, age))
        elsewhere = path.with_name(f"other_{name}.json")
        elsewhere.write_text(json.dumps({**whole, **other, "dataset": "another"}))
        os.utime(elsewhere, (age, age))
    page = tmp_path / "r.md"
    assert exit_code(results.main, [run.name, "--output", str(page)]) == 0
    ((row,), (other,)) = tables(page)
    assert row["accuracy (95%)"].startswith("60.0% (") and " of 9" in row["accuracy (95%)"]
    assert other["another"].startswith("60.0% (") and DATASET not in other


def test_training_images_are_told_from_validation_images(copied_with_data, names, tmp_path, capsys):
    run = load_run(names["hgru"], device="cpu", config=copied_with_data)
    for fold in ("train", "val"):
        assert exit_code(evaluate.main, [run.name, "--fold", fold, "--images", "8", *CPU]) == 0
        assert (f"{DATASET} (training images)" in capsys.readouterr().out) == (fold == "train")
    arguments = ["--format", "card", "safetensors", "--name", "w", "--output", str(tmp_path)]
    assert exit_code(export.main, [run.name, *arguments, *CPU]) == 0
    card = (tmp_path / "w.md").read_text()
    assert f"| {DATASET} | 8 |" in card and f"| {DATASET} (training images) | 8 |" in card
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        told = file.metadata()["accuracy"].split("; ")
    assert sorted(text.partition(":")[0] for text in told) == [
        DATASET, f"{DATASET} (training images)"
    ]  # fmt: skip
    assert exit_code(results.main, [run.name, "--output", str(tmp_path / "r.md")]) == 0
    ((row,), (other,)) = tables(tmp_path / "r.md")
    assert " of 8" in row["accuracy (95%)"]
    assert f"{DATASET} (training images)" in other and DATASET not in other


@pytest.mark.parametrize("evaluated_too", [True, False])
def test_a_run_that_was_stopped_has_the_images_that_its_accuracy_was_measured_after(
    as_on_a_gpu, copied, tmp_path, evaluated_too
):
    """It had trained on, which its weights, of step 12, do not have; its evaluation is kept."""
    run = Run(copied, as_on_a_gpu[0])
    (path,) = (copied.condition_evaluations / run.name).glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": 0.75}))
    if not evaluated_too:
        path.unlink()
    lines = [line for line in run.json_log.read_text().splitlines() if '"end"' not in line]
    (before,) = [event for event in run.events("validation") if event["step"] == 12]
    train = {"event": "train", "step": 14, "images": 52, "seconds": before["seconds"] + 600}
    lines += [json.dumps(train | {"loss": 1.0, "accuracy": 0.5, "gradient_norm": 1.0})]
    lines += [json.dumps({"event": "error", "step": 15, "error": "NotFiniteError"})]
    run.json_log.write_text("".join(f"{line}\n" for line in lines))
    page = tmp_path / "r.md"
    assert exit_code(results.main, [run.name, "--output", str(page)]) == 0
    ((row,),) = tables(page)
    assert row["training images"] == "44, left early"
    assert row["time, device"] == f"{results.duration(before['seconds'])}, cpu"
    assert row["accuracy (95%)"].startswith("75.0%") == evaluated_too


@pytest.mark.skipif(not (CLONE / "docs" / "runs").exists(), reason="no record is kept yet")
def test_the_projects_own_page_is_that_of_its_records(tmp_path):
    docs = tmp_path / "docs"
    shutil.copytree(CLONE / "docs", docs)
    assert exit_code(results.main, ["--output", str(docs / "results.md")]) == 0
    for name in ("results.md", "results_commands.sh", "results_runs.csv"):
        assert (docs / name).read_bytes() == (CLONE / "docs" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{hgru}", "--output", "page.html"], "page.html"),
        (["--output", "none/page.md"], "none/runs"),
        (["nonsense"], "nonsense"),
    ],
)
def test_errors_are_one_line_and_exit_2(config, names, arguments, named, capsys):
    given = [text.format(**names) for text in arguments]
    assert exit_code(results.main, given) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and named in said[0]


def test_what_is_not_a_run_of_accuracies_is_refused(copied, names, tmp_path, capsys):
    run = Run(copied, names["hgru"])
    record, log = run.record(), run.json_log.read_text()
    run.json_log.write_text("")
    page = ["--output", str(tmp_path / "r.md")]
    assert exit_code(results.main, [run.name, *page]) == 2
    assert "no validation" in capsys.readouterr().err
    run.json_log.write_text(log)
    run.write({**record, "parameters": {**record["parameters"], "score_metric": "pearson"}})
    assert exit_code(results.main, [run.name, *page]) == 2
    assert "'pearson'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_of_an_earlier_version_is_refused_before_it_is_kept(copied, tmp_path, capsys):
    older = CLONE / "tests" / "data" / "older_run" / "logs" / "older_2026-11-25_14-38-34"
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [str(older), "--output", str(page)]) == 2
    assert "log.jsonl has no validation that counts its images" in capsys.readouterr().err
    assert not page.parent.exists()  # each later page would have broken off at it


def test_a_curve_has_what_a_resumed_run_counted(taught, copied):
    folder = taught("r1", [0.5, 0.6, 0.7], 1)
    log = folder / "log.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(event for event in events if event["event"] == "validation")
    first |= {"images": first.pop("validation_images"), "seconds": 0.1}  # as earlier versions wrote
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    table = curves.logged_curve(Run(copied, "r1", folder), "x").table
    assert table[:, [0, 1, 5]].tolist() == [[32, 60, 0.6], [64, 120, 0.7]]
