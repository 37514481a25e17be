"""The page of results: its numbers are those that the runs recorded, here or on another machine."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import hgru
from analysis import evaluate, export, figures, predict, results
from analysis.evaluate import evaluated, kept
from analysis.trained import TrainedRun, load_run
from config import CLONE, Config
from support.errors import UserError
from support.files import read_arrays, write_arrays
from support.shell import exit_code
from tests.analysis.conftest import DATASET
from training.command_line import run_script

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
    return TrainedRun("x", params, record, None, step, "last", torch.device("cpu"), Config())


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


def test_only_an_evaluation_of_the_same_kind_is_taken(as_on_a_gpu, copied):
    run = load_run(as_on_a_gpu[0], device="cpu", config=copied)
    assert kept(run, DATASET)[0].about["device"] == "cuda"
    validated = run.record["data"]["validation"]["fingerprint"]
    assert kept(run, DATASET, fingerprint=validated)
    assert kept(run, DATASET, fingerprint="another") is None
    assert kept(run, DATASET, 5) is None and kept(run, DATASET, seed=1) is None
    assert kept(load_run(run.name, "6", "cpu", copied), DATASET) is None
    run.network.hgru.timesteps = 2
    assert kept(run, DATASET) is None


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


def rows(page: Path, heading: str) -> list[dict[str, str]]:
    """The table below a heading of a page."""
    lines = page.read_text(encoding="utf-8").split(f"### {heading}\n")[1].splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:] if len(row) == len(cells[0])]


@pytest.fixture
def page(copied_with_data, names, tmp_path) -> Path:
    """A page about the four runs."""
    page = tmp_path / "docs" / "r.md"
    assert exit_code(results.main, [*names.values(), "--output", str(page), *CPU]) == 0
    return page


def test_the_page_has_what_the_runs_recorded(page, copied_with_data, names, capsys):
    table = {row["run"]: row for row in rows(page, f"Trained on {DATASET} (resized to 24×24)")}
    assert set(table) == {"tiny_hgru", "tiny_multiplicative_lesion", "tiny_ff_5"}
    assert all(len(row) == 6 for row in table.values())
    run = load_run(names["ff_5"], device="cpu", config=copied_with_data)
    accuracy = evaluate.evaluate(run, DATASET).accuracy()
    assert table["tiny_ff_5"]["accuracy (95%)"].startswith(f"{100 * accuracy['accuracy']:.1f}%")
    assert table["tiny_ff_5"]["training images"] == "44"
    assert "2 seeds" in table["tiny_hgru"]["accuracy (95%)"]
    for figure in (page.parent / "figures").iterdir():
        assert f"](figures/{figure.name})" in page.read_text()
    commands = page.with_name("r_commands.sh").read_text()
    assert subprocess.run(["sh", "-n"], input=commands, text=True, check=True).returncode == 0
    for name in names.values():
        assert name in commands
    with page.with_name("r_curves.csv").open(newline="") as file:
        curve = [row for row in csv.DictReader(file) if row["run"] == names["hgru"]]
    history = load_run(names["hgru"], device="cpu", config=copied_with_data).history
    assert [int(row["training_images"]) for row in curve] == history.validation_images
    for row, accuracy in zip(curve, history.validation_metric, strict=True):
        assert float(row["validation_accuracy"]) == pytest.approx(accuracy, abs=1e-5)
    assert str(page.parent) not in page.read_text()


def test_a_page_is_not_overwritten_unless_told_to(page, names, capsys):
    before = page.read_text()
    again = [names["ff_5"], "--output", str(page), *CPU]
    assert exit_code(results.main, again) == 2
    assert str(page) in capsys.readouterr().err and page.read_text() == before
    page.write_text("# Mine\n\nprose\n\n" + before.partition("# Results\n\n")[2])
    assert exit_code(results.main, [*again, "--overwrite"]) == 0
    after = page.read_text()
    assert after.startswith("# Mine\n\nprose\n") and "tiny_ff_5" in after
    assert "tiny_hgru" not in after
    page.unlink()  # its tables are there still
    assert exit_code(results.main, again) == 2


def test_a_page_is_redrawn_from_its_tables_without_a_run(page, copied_with_data, capsys):
    before = {path: path.read_bytes() for path in page.parent.rglob("*.*")}
    shutil.rmtree(copied_with_data.project_directory)
    for path in page.parent.glob("figures/*"):
        path.unlink()
    page.write_text(page.read_text().partition(results.MARK)[0])
    assert exit_code(results.main, ["--redraw", str(page)]) == 0
    assert {path: path.read_bytes() for path in page.parent.rglob("*.*")} == before
    page.with_name("r_runs.csv").write_text("a,b\n1,2\n")
    assert exit_code(results.main, ["--redraw", str(page)]) == 2
    assert "r_runs.csv" in capsys.readouterr().err


def test_the_projects_own_page_is_that_of_its_tables(tmp_path):
    """docs/results.md, its commands and its tables, are what --redraw makes."""
    docs = tmp_path / "docs"
    shutil.copytree(CLONE / "docs", docs)
    assert exit_code(results.main, ["--redraw", str(docs / "results.md")]) == 0
    for name in ("results.md", "results_commands.sh"):
        assert (docs / name).read_bytes() == (CLONE / "docs" / name).read_bytes()


def test_a_row_is_of_the_runs_data_and_weights(copied_with_data, names):
    run = load_run(names["hgru"], "6", "cpu", copied_with_data)
    row, drawn = results.gather(run, "x")
    assert row["training_images"] == 22 and row["command"].startswith("python hgru.py --set ")
    assert drawn.table[-1, 0] <= 24 and row["images_to"] == drawn.images_to(0.9)


def test_a_copied_run_needs_no_images(as_on_a_gpu, copied, tmp_path):
    """Evaluations of another device are there, data are not: nothing is computed anew."""
    page = str(tmp_path / "r.md")
    assert exit_code(results.main, [*as_on_a_gpu, "--output", page, *CPU]) == 0
    arguments = [*as_on_a_gpu, "--images", "5", "--output", page, "--overwrite"]
    assert exit_code(results.main, [*arguments, *CPU]) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{hgru}", "{hgru}"], "tiny_hgru"),
        (["{hgru}", "--output", "page.html"], "page.html"),
        (["{hgru}", "--label", "a", "b"], "--label"),
        (["--redraw", "none.md"], "none.md"),
        ([], "--redraw"),
        (["{hgru}", "--redraw", "a.md"], "--redraw"),
        (["nonsense"], "nonsense"),
    ],
)
def test_errors_are_one_line_and_exit_2(config, names, arguments, named, capsys):
    given = [text.format(**names) for text in arguments]
    assert exit_code(results.main, [*given, *CPU]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and named in said[0]


def test_what_is_not_a_run_of_accuracies_is_refused(copied_with_data, names, tmp_path):
    run = load_run(names["hgru"], device="cpu", config=copied_with_data)
    path = export.export_safetensors(run, tmp_path / "w.safetensors")
    with pytest.raises(UserError):
        results.gather(load_run(path, device="cpu", config=run.config), "x")
    run.params["score_metric"] = "pearson"
    with pytest.raises(UserError, match="'pearson'"):
        results.gather(run, "x")
    run.params["score_metric"] = "accuracy"
    run.record["data"]["validation"]["fingerprint"] = "abc"
    with pytest.raises(UserError, match="abc"):
        results.gather(run, "x")
