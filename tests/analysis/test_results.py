"""The page of results: its numbers are those that the runs recorded, here or on another machine."""

import csv
import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import hgru
from analysis import evaluate, export, figures, origin, predict, results
from analysis.card import model_card
from analysis.evaluate import evaluated, kept, percent
from analysis.trained import load_run
from analysis.training_time import read_events, training_time
from config import Config
from support.files import read_arrays, write_arrays
from support.shell import exit_code
from tests.analysis.conftest import CIRCUIT, DATASET, train
from training.command_line import run_script
from training.history import History
from training.run import write_yaml

RECORD = {"parameters": {"batch_size": 4}, "data": {"train": {"images": 22}}}  # 6 updates an epoch
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


def log(folder: Path, *events: tuple) -> SimpleNamespace:
    """A run's files with these events: (step, images a second) or (step, 'validation', seconds)."""
    lines = [
        {"event": "train", "step": event[0], "images_per_second": event[1]}
        if len(event) == 2
        else {"event": event[1], "step": event[0], "seconds": event[2]}
        for event in events
    ]
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SimpleNamespace(json_log=path)


def table(page: str, heading: str) -> list[dict[str, str]]:
    """The first table below a heading."""
    lines = page.split(f"## {heading}\n")[1].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines
             if line.startswith("|")]  # fmt: skip
    header = cells[0]
    return [dict(zip(header, row, strict=True)) for row in cells[2:] if len(row) == len(header)]


def test_time_is_that_of_updates_and_validations(tmp_path):
    files = log(tmp_path, (0, "validation", 2.0), (3, 6.0), (3, "validation", 1.0), (6, 10.0))
    found = training_time(files, RECORD)
    # 12 images at 6 a second; 10 at 10 a second: an epoch's last batch has 2
    assert [found.until(step) for step in (0, 3, 6)] == pytest.approx([2, 5, 6])
    assert found.until(4) == pytest.approx(5 + 1 / 3)
    assert found.until(8) == pytest.approx(6 + 2 / 3)  # not logged: as fast as before
    assert found.images_per_second == pytest.approx(22 / 3)


def test_pauses_and_lost_work_are_not_counted(tmp_path):
    """Left at 4, killed past 8, gone on from there; intervals of 3 updates and parts of them."""
    record = {**RECORD, "data": {}, "resumed": [{"step": 4}, {"step": 8}]}
    files = log(tmp_path, (3, 4.0), (4, "end", 0), (6, 2.0), (9, 1.0))
    found = training_time(files, record)
    # 1–3: 3 s; 4, not logged: 1 s; 5–6: 4 s; 7–8, not logged: 4 s; 9: 4 s
    assert [found.until(step) for step in (3, 4, 6, 8, 9)] == pytest.approx([3, 4, 8, 12, 16])
    # A session that began further back takes back those after it.
    record["resumed"] = [{"step": 4}, {"step": 8}, {"step": 6}]
    assert training_time(files, record).until(9) == pytest.approx(3 + 1 + 4 + 12)


def test_a_run_without_an_interval_has_no_time(tmp_path):
    found = training_time(log(tmp_path, (0, "validation", 2.0)), RECORD)
    assert found.until(5) is None and found.images_per_second is None
    assert results.duration(found.until(5)) == "–"


def test_a_log_that_cannot_be_used_is_said(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(FileNotFoundError, match=r"log.jsonl is missing: copy it with the run"):
        read_events(path)
    path.write_text('{"event": "train", "step": 3}\n{"event": "tra')
    assert [event["step"] for event in read_events(path)] == [3]  # a killed process's last line
    for line in ("nonsense", "3", '{"step": 4}'):
        path.write_text(f'{{"event": "train", "step": 3}}\n{line}\n')
        with pytest.raises(ValueError, match=r"log.jsonl, line 2: a JSON object .* is expected"):
            read_events(path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0.2, "0 s"), (59.4, "59 s"), (59.6, "1.0 min"), (754, "12.6 min"),
        (3596, "59.9 min"), (3598, "1 h 00 min"), (11_100, "3 h 05 min"),
    ],
)  # fmt: skip
def test_durations_read_well(seconds, text):
    assert results.duration(seconds) == text


def test_the_command_repeats_the_run():
    record = {
        "script": "hgru.py",
        "parameters": {"model_name": "hgru"},
        "overrides": ["epochs=2", "aux.timesteps=6", "model_input_image_size=[16,16]", "epochs=4"],
        "seed": 3,
    }
    expected = (
        "python hgru.py --set aux.timesteps=6 --set 'model_input_image_size=[16,16]' "
        "--set epochs=4 --seed 3"
    )
    assert origin.command(record) == expected
    record |= {"deterministic": True, "environment": {"processes": 4}, "script": None}
    assert origin.command(record).startswith("torchrun --nproc_per_node=4 hgru.py --set aux")
    assert origin.command(record).endswith("--seed 3 --deterministic")


def test_devices_and_commits_are_those_of_the_sessions_that_count():
    def session(step, device, commit, **more):
        return {"step": step, "environment": {"device": device, "git_commit": commit, **more}}

    record = {
        **session(0, "H100", "a" * 40),
        "resumed": [
            session(10, "H200", "b" * 40, processes=2),
            session(20, "killed before a checkpoint", None),
            session(20, "H100", "a" * 40, git_dirty=True),
            session(30, "looked at only", "c" * 40),
        ],
    }
    assert origin.devices(record, 30) == "H100, 2 × H200"
    expected = "aaaaaaaaaaaa, bbbbbbbbbbbb, aaaaaaaaaaaa (with uncommitted changes)"
    assert origin.commits(record, 30) == expected
    assert origin.devices(record, 10) == "H100"
    assert origin.devices({}, 10) is None and origin.commits({}, 10) is None


def test_the_page_has_what_the_runs_recorded(copied_with_data, names, tmp_path, capsys):
    config = copied_with_data
    (tmp_path / "notes.md").write_text("Some *prose*.\n")
    page = tmp_path / "docs" / "r.md"
    arguments = [
        *names.values(), "--out", str(page), "--notes", str(tmp_path / "notes.md"),
        "--not-run", "hgru_bn: later", "--not-run", "sets of 2018: not here", *CPU,
    ]  # fmt: skip
    assert exit_code(results.main, arguments) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Results\n\nSome *prose*.\n\nWritten by")
    assert text.endswith("\n\n## Not run\n\n- hgru_bn: later\n- sets of 2018: not here\n")
    assert str(tmp_path) not in text
    rows = table(text, "What was reached")
    commands = table(text, "How to repeat it")
    for name, row, repeat in zip(names.values(), rows, commands, strict=True):
        run = load_run(name, device="cpu", config=config)
        accuracy = evaluate.evaluate(run, DATASET).accuracy()
        assert row["script"] == run.record["script"] and row["seed"] == str(run.seed)
        assert row["trained on"] == f"{DATASET} (resized to 24×24)"
        assert ("aux.hidden_init=identity" in row["settings"]) == (run.model_name != "ff_5")
        assert "batch_size=4" in row["settings"] and "epochs" not in row["settings"]
        assert row["training images"] == "48" and row["device"] == "cpu"
        assert row["accuracy (95%)"] == percent(accuracy) and row["validation images"] == "9"
        spent = training_time(run.files, run.record)
        assert row["time in all"] == results.duration(spent.until(12))
        assert row["images/s"] == f"{spent.images_per_second:,.0f}"
        assert repeat["run"] == name and f"--seed {run.seed}" in repeat["command"]
    figures_made = sorted(path.name for path in (page.parent / "figures").iterdir())
    assert figures_made == ["r_comparison_48.png", f"r_curves_{DATASET}_resized_to_24_24.png"]
    assert all(f"](figures/{name})" in text for name in figures_made)
    assert "## Models side by side, 48 training images" in text
    with (page.parent / "r_curves.csv").open(newline="") as file:
        curve = [row for row in csv.DictReader(file) if row["run"] == names["hgru"]]
    history = load_run(names["hgru"], device="cpu", config=config).history
    steps = [int(row["training_images"]) // 4 for row in curve]
    assert steps == history.validation_step and "](r_curves.csv)" in text
    for row, accuracy in zip(curve, history.validation_metric, strict=True):
        assert float(row["validation_accuracy"]) == pytest.approx(accuracy, abs=1e-5)
    first, second = steps[:2]
    mean = np.mean(history.train_loss[first:second])
    assert float(curve[1]["training_loss"]) == pytest.approx(mean, abs=1e-5)
    assert curve[0]["training_loss"] == ""
    assert "| ff_5 − hgru |" in text and "| multiplicative_lesion − hgru |" in text
    said = capsys.readouterr().out
    assert all(str(page.parent / "figures" / name) in said for name in figures_made)

    before = {path: path.read_bytes() for path in page.parent.rglob("*.*")}
    assert exit_code(results.main, arguments) == 0
    assert {path: path.read_bytes() for path in page.parent.rglob("*.*")} == before


def test_levels_are_those_of_the_validations(copied_with_data, names):
    run = load_run(names["hgru"], device="cpu", config=copied_with_data)
    run.history.validation_step = [0, 3, 6, 9, 12]
    run.history.validation_metric = [0.5, 0.91, 0.97, 0.6, 0.6]
    one = results.result(run)
    row = results.reached_row(one)
    assert (row["images to 90%"], row["images to 95%"]) == ("12", "24")
    assert row["time to 95%"] == results.duration(one.time.until(6))
    run.history.validation_metric[0] = 0.92  # it began with trained weights
    row = results.reached_row(results.result(run))
    assert (row["images to 90%"], row["time to 90%"]) == ("at its start", "at its start")
    run.history.validation_metric[0] = 0.5
    run.step, run.weights = 3, "3"
    row = results.reached_row(results.result(run))
    assert (row["images to 90%"], row["images to 95%"]) == ("12", "not reached")
    assert row["time to 95%"] == "not reached" and row["training images"] == "12"


def test_a_history_ends_with_the_weights():
    whole = History([1, 2, 3], [1, 2, 3], [1, 2, 3], [0, 2, 3], [7, 8, 9], [4, 5, 6])
    assert results.until(whole, 2) == History([1, 2], [1, 2], [1, 2], [0, 2], [7, 8], [4, 5])


def test_only_runs_of_equal_training_are_compared(copied_with_data, names):
    def of(name, weights="last"):
        return results.result(load_run(names[name], weights, "cpu", copied_with_data))

    full, lesion = of("hgru"), of("multiplicative_lesion")
    assert [m.model for m in results.comparable([full, lesion])[48]] == [
        "hgru", "multiplicative_lesion",
    ]  # fmt: skip
    assert results.comparable([full, of("multiplicative_lesion", "6")]) == {}
    assert list(results.comparable([of("hgru", "6"), of("multiplicative_lesion", "6")])) == [24]
    assert results.comparable([full]) == {}
    lesion.evaluation.about["set"] = "others"
    assert results.comparable([full, lesion]) == {}


def test_a_row_says_what_its_initial_weights_had_seen(
    copied_with_data, names, tmp_path, monkeypatch
):
    def of(name):
        return results.result(load_run(name, device="cpu", config=copied_with_data))

    project = copied_with_data.project_directory
    chained = train(
        project, hgru, exp_name="chained", initial_weights=names["hgru"], epochs="1", **CIRCUIT
    )
    again = train(project, hgru, exp_name="again", initial_weights=chained, epochs="1", **CIRCUIT)
    first, second, third = (of(name) for name in (names["hgru"], chained, again))
    rows = [results.reached_row(one) for one in results.with_beginnings([third, second, first])]
    of_set = f"of {DATASET} (resized to 24×24)"
    assert [row["training images"] for row in rows] == [
        f"24, after 24 {of_set}, after 48 {of_set}", f"24, after 48 {of_set}", "48",
    ]  # fmt: skip
    (alone,) = results.with_beginnings([second])
    assert results.reached_row(alone)["training images"] == "24, after trained weights"
    card = model_card(second.run, "w")
    assert f"| initial weights | {names['hgru']}, fingerprint " in card
    assert f", after 48 images of {DATASET} |" in card
    assert f", after 24 images of {DATASET}; these began with {names['hgru']}" in model_card(
        third.run, "w"
    )
    # A file of weights knows it where no run is.
    file = tmp_path / "elsewhere" / "w.safetensors"
    export.export_safetensors(third.run, file)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "empty"))
    elsewhere = load_run(file, device="cpu", config=Config())
    assert model_card(elsewhere, "w").count(f"images of {DATASET}") == 2
    # Without them it is another training: not compared with a lesion of as many images.
    lesion = results.result(
        load_run(names["multiplicative_lesion"], "6", "cpu", copied_with_data)
    )
    assert results.comparable([second, lesion])
    assert not results.comparable(results.with_beginnings([second, lesion]))


def test_a_copied_run_needs_its_newest_weights_alone(as_on_a_gpu, copied, tmp_path):
    """No data, no other checkpoint, evaluations of another device: nothing is computed anew."""
    for folder in copied.checkpoints.iterdir():
        for path in [*sorted(folder.glob("step_*.pt"))[:-1], folder / "best.pt"]:
            path.unlink()
    for settings in copied.log_dir.glob("*/settings.yaml"):
        name = settings.parent.name
        record = load_run(name, device="cpu", config=copied).record
        record["environment"] |= {"device": "NVIDIA H100", "cuda": "12.8"}
        write_yaml(settings, record)
    page = tmp_path / "r.md"
    assert exit_code(results.main, [*as_on_a_gpu, "--out", str(page), *CPU]) == 0
    for row in table(page.read_text(), "What was reached"):
        assert row["device"] == "NVIDIA H100" and row["validation images"] == "9"
    assert exit_code(results.main, [*as_on_a_gpu, "--images", "5", "--out", str(page), *CPU]) == 2

    shutil.rmtree(copied.checkpoints)  # weights of the last validation remain
    assert load_run(as_on_a_gpu[0], device="cpu", config=copied).step == 12
    shutil.rmtree(copied.experiment_evaluations)
    with pytest.raises(FileNotFoundError, match=r"has no weights: no checkpoint in .*, no weights"):
        load_run(as_on_a_gpu[0], device="cpu", config=copied)


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


def test_a_run_resumed_with_a_pause_has_the_time_of_its_sessions(
    copied_with_data, names, monkeypatch
):
    config, name = copied_with_data, names["hgru"]
    first = training_time(*_files(name, config)).until(12)
    time.sleep(1.5)
    monkeypatch.setattr(sys, "argv", ["hgru.py"])
    began = time.perf_counter()
    arguments = ["--resume", name, "--set", "epochs=4", *CPU, "--workers", "0"]
    assert run_script(hgru.experiment_params, hgru.build_model, arguments) == 0
    passed = time.perf_counter() - began
    assert load_run(name, device="cpu", config=config).step == 24
    spent = training_time(*_files(name, config))
    assert spent.until(12) == pytest.approx(first, rel=0.2)
    assert 0 < spent.until(24) - spent.until(12) < passed


def _files(name, config):
    run = load_run(name, device="cpu", config=config)
    return run.files, run.record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{hgru}", "{hgru}"], "given twice: tiny_hgru"),
        (["{hgru}", "--out", "page.html"], "--out page.html: the page is an .md file"),
        (["{hgru}", "--notes", "none.md"], "--notes none.md: no such file"),
        (["{hgru}", "--out", "a.md", "--notes", "./a.md"], "--notes a.md is the page itself"),
        (["{hgru}", "--images", "0"], "must be a whole number of at least 1, found '0'"),
        (["nonsense"], "holds no run of that name"),
    ],
)
def test_errors_are_one_line_and_exit_2(config, names, arguments, message, capsys):
    given = [text.format(**names) for text in arguments]
    assert exit_code(results.main, [*given, *CPU]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


def test_what_is_not_a_run_of_accuracies_is_refused(copied_with_data, names, tmp_path):
    run = load_run(names["hgru"], device="cpu", config=copied_with_data)
    path = export.export_safetensors(run, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="is a file of weights: results need the run's log"):
        results.result(load_run(path, device="cpu", config=run.config))
    run.params["score_metric"] = "pearson"
    with pytest.raises(ValueError, match="score_metric must be accuracy, found 'pearson'"):
        results.result(run)
    run.params["score_metric"] = "accuracy"
    run.record["data"]["validation"]["fingerprint"] = "abc"
    with pytest.raises(ValueError, match=r"validated on other images of .*: fingerprint abc there"):
        results.result(run)
    run.files.results = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match=r"x.npz is missing: copy it with the run"):
        results.result(run)


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
    assert about["run"] == names["hgru"] and about["images_seen"] == "48" and about["seed"] == "0"
    assert about["data"].startswith(f"{DATASET}, 22 images, fingerprint ")
    assert about["accuracy"].startswith(f"{DATASET}: ") and "of 9 images" in about["accuracy"]
    assert about["command"].startswith("python hgru.py --set batch_size=4 ")
    environment = json.loads(about["record"])["environment"]
    assert (environment["git_commit"] or "not known")[:12] in about["commit"]
    whole = json.dumps(about)
    assert str(tmp_path) not in whole and "working_directory" not in whole and "host" not in whole
    card = weights.with_suffix(".md").read_text()
    for fact in (about["data"], f"`{about['command']}`", about["commit"], "| seed | 0 |",
                 "48, repeats counted (12 updates of 4)", f"| {DATASET} | 9 |"):  # fmt: skip
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


@pytest.mark.slow
def test_two_sets_have_two_figures_and_seeds_share_a_row(copied_with_data, tmp_path):
    config = copied_with_data
    stream = {"dataset": "pathfinder_6_stream", "stream_val_images": "8"}
    short = {**CIRCUIT, **stream, "stream_epoch_images": "24", "stream_settings": "{window: 180}"}
    other = train(config.project_directory, hgru, exp_name="other", **short)
    mine = [path.name for path in config.log_dir.glob("tiny_hgru_*")]
    page = tmp_path / "r.md"
    assert exit_code(results.main, [*mine, other, "--out", str(page), *CPU]) == 0
    text = page.read_text()
    file = "figures/r_curves_pathfinder_6_stream_window_180_resized_to_24_24.png"
    assert f"({file})" in text and f"r_curves_{DATASET}" in text
    trained_on = table(text, "What was reached")[-1]["trained on"]
    assert trained_on == "pathfinder_6_stream (window 180, resized to 24×24)"
    assert "## Models side by side" not in text
