"""Which lengths are read after how many steps, against networks of so many steps."""

import argparse
import csv

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

import hgru_bn_for
from analysis import probing, reading
from analysis.evaluate import LABELS
from analysis.image_sets import open_images
from analysis.predict import prepare_images
from analysis.style import panel_titles, style
from analysis.trained import load_run
from dataset_processing.pathfinder import generate
from support import shell
from support.errors import UserError


def test_each_step_is_that_of_a_network_of_so_many(run):
    run.network.hgru.hidden_init = "random"  # so that seed and batches count
    rows = reading.read(run, [6, 9], timesteps=6, images=10, seed=3)
    assert [(row["length"], row["steps"]) for row in rows] == [
        (length, step) for length in (6, 9) for step in range(1, 7)
    ]
    for row in rows:
        fold = open_images(f"pathfinder_{row['length']}", run.config, run.params, 10, seed=3)
        images, labels = (
            np.array(part) for part in zip(*map(fold.__getitem__, range(10)), strict=True)
        )
        with torch.no_grad(), probing.steps(run.network, row["steps"]):
            logits = []
            for part in (images[:4], images[4:8], images[8:]):  # batches of the run's
                with probing.hidden_seed(run.network, 3):
                    logits.append(run.network(prepare_images(run, part))[0])
        logits = torch.cat(logits)
        right = (logits.argmax(1).numpy() == labels).mean()
        assert row["accuracy"] == pytest.approx(right) and row["low"] <= right <= row["high"]
        margin = (logits[:, 1] - logits[:, 0]).double().numpy()
        above = mannwhitneyu(margin[labels == 1], margin[labels == 0]).statistic
        assert row["auc"] == pytest.approx(above / (labels.sum() * (1 - labels).sum()))


def test_images_are_as_the_runs_own_but_for_their_length(run, monkeypatch):
    """And none that a stream trains or validates on."""
    how = {"window": 150, "seed_distance": 15, "contour_length": 6}
    monkeypatch.setitem(run.params, "dataset", "pathfinder_6_stream")
    monkeypatch.setitem(run.params, "stream_settings", how)
    fold = reading.images_of(run, 9, images=4, seed=2)
    first = 2**62 + 2**61
    expected, _ = generate(9, 4, 2, first, window=150, seed_distance=15)
    assert np.array_equal([image for image, _ in fold.__getitems__(range(4))], expected)


def test_answers_that_are_not_finite_are_an_error(run):
    run.network.readout.evidence.data.fill_(np.nan)
    for ask in (reading.read, reading.along):
        lengths = [6] if ask is reading.read else 6
        with pytest.raises(UserError, match=r"contours of 6, step 1: .* not finite"):
            ask(run, lengths, timesteps=2, images=4)


@torch.no_grad()
def test_what_is_along_a_contour_is_what_the_readout_finds_there(run):
    means = reading.along(run, 6, timesteps=5, images=6, seed=3)
    assert means.shape == (2, 5, 6)
    fold = open_images("pathfinder_6", run.config, run.params, 6, seed=3)
    sums, counts, network = np.zeros_like(means), [0, 0], run.network
    for stimulus in map(fold.stimulus, range(6)):
        counts[stimulus.label] += 1
        (snake, _), (disc, other) = stimulus.marked_snakes, stimulus.markers
        ends = stimulus.paddles[snake, 0, 0], stimulus.paddles[stimulus.marked_snakes[1], -1, 1]
        assert all(np.abs(end - at).max() < 2 for end, at in zip(ends, (disc, other), strict=True))
        for step in range(5):
            with probing.steps(network, step + 1), probing.hidden_seed(network, 3):
                activity = network(prepare_images(run, stimulus.image[None]))[1]
            weight = network.readout.evidence[1] - network.readout.evidence[0]  # (K, 1, 1)
            difference = (activity[0] * weight).sum(0)
            for paddle, (tail, head) in enumerate(stimulus.paddles[snake]):
                row, column = np.rint((tail + head) / 2 * 23 / 299).astype(int)
                sums[stimulus.label, step, paddle] += float(difference[row, column])
    np.testing.assert_allclose(means, sums / np.reshape(counts, (2, 1, 1)), atol=1e-4)


def test_along_wants_whole_images_of_both_labels(run, monkeypatch):
    with pytest.raises(UserError, match="all 1 images are of label"):
        reading.along(run, 6, timesteps=2, images=1)
    for name in ("random_crop", "center_crop", "rotate", "left_right", "up_down"):
        monkeypatch.setitem(run.params, "val_augmentations", [name, "uint8_rescale"])
        with pytest.raises(UserError, match=f"--along needs whole images, not {name}"):
            reading.along(run, 6, timesteps=2, images=2)


def test_the_command(run, names, capsys, tmp_path):
    asked = [run.name, "--lengths", "9", "6-7", "7", "--images", "4", "--timesteps", "5"]
    asked += ["--seed", "3"]
    assert shell.exit_code(reading.main, [*asked, "--output", str(tmp_path), "--device=cpu"]) == 0
    (table,) = tmp_path.glob("reading_*.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["length"]) for row in rows[::5]] == [6, 7, 9] and len(rows) == 15
    expected = reading.read(run, [6, 7, 9], timesteps=5, images=4, seed=3)
    assert [float(row["auc"]) for row in rows] == [row["auc"] for row in expected]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".pdf", ".png"]
    said = capsys.readouterr().out
    assert str(table) in said and said.count(run.name) == 3  # a line for each length
    asked = [run.name, "--along", "6", "--images", "4", "--output", str(tmp_path / "along")]
    assert shell.exit_code(reading.main, [*asked, "--device=cpu"]) == 0
    (table,) = (tmp_path / "along").glob("reading_*.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 + reading.MORE_STEPS) * 6
    means = reading.along(run, 6, timesteps=4 + reading.MORE_STEPS, images=4)
    for row in rows:
        label, step, paddle = (int(row[name]) for name in ("label", "steps", "paddle"))
        assert float(row["difference"]) == pytest.approx(means[label, step - 1, paddle - 1])
    assert shell.exit_code(reading.main, [names["ff_5"], "--device=cpu"]) == 2
    assert "ff_5 has no circuit whose steps could be read, or several" in capsys.readouterr().err


def test_maps_of_several_runs_and_weights_are_told_apart(run, names, config, tmp_path, monkeypatch):
    """By their titles, within the page, and in the table."""
    other = load_run(names["hgru seed 1"], device="cpu", config=config)
    early = load_run(run.name, 3, device="cpu", config=config)
    runs, drawn = [run, other, early], []
    kept = reading.reading_figure
    monkeypatch.setattr(reading, "load_runs", lambda options: runs)
    monkeypatch.setattr(reading, "reading_figure", lambda *a: drawn.append(kept(*a)) or drawn[0])
    asked = ["RUN", "--lengths", "6", "--images", "4", "--timesteps", "2", "--device=cpu"]
    assert shell.exit_code(reading.main, [*asked, "--output", str(tmp_path)]) == 0
    (table,) = tmp_path.glob("reading_*.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [f"{run.name}_seed0_step{step}" for step in (12, 3)]
    assert [row["run"] for row in rows[::2]] == [steps[0], other.name, steps[1]]
    columns = drawn[0].axes[:3]
    titles = [axes.get_title(loc="left").replace("\n", "") for axes in columns]
    assert titles[1] == "tiny_hgru, seed 1" and steps[0] in titles[0] and steps[1] in titles[2]
    assert all(axes.get_xlim() == (0.5, 2.5) for axes in columns)  # the run's four steps are beyond
    boxes = [axes._left_title.get_window_extent() for axes in columns]
    edges = [boxes[1].x0, boxes[2].x0, drawn[0].bbox.x1]
    for box, edge in zip(boxes, edges, strict=True):
        assert box.x1 < edge and box.y1 <= drawn[0].bbox.y1


def test_steps_of_their_own_end_the_map_and_few_lengths_leave_room_for_the_names(
    run, monkeypatch, tmp_path
):
    aux = {"timesteps": 2, "h_ext": 5, "hidden_init": "identity"}
    run.network = hgru_bn_for.build_model({"aux": aux}).eval()
    monkeypatch.setattr(reading, "load_runs", lambda options: [run])
    asked = [run.name, "--lengths", "6", "--images", "4", "--output", str(tmp_path)]
    assert shell.exit_code(reading.main, [*asked, "--device=cpu"]) == 0
    (table,) = tmp_path.glob("reading_*.csv")
    assert len(table.read_text().splitlines()) == 1 + 2  # no step beyond its normalisations
    with style():
        figure = reading.reading_figure([(run, reading.read(run, [6], 2, images=4))], ["a"])
        figure.draw_without_rendering()
    for axes in figure.axes:
        label = axes.yaxis.label.get_window_extent()
        assert label.y0 >= 0 and label.y1 <= figure.bbox.y1


@pytest.mark.parametrize("text", ["1", "9-6", "a", "6-", "6-9-12", "-3"])
def test_lengths_that_are_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
        reading.span(text)
    assert reading.span("6-8") == [6, 7, 8] and reading.span("14") == [14]


def test_the_step_that_tells_labels_apart_best_either_way_is_told():
    areas = {6: [0.5, 0.1, 0.8], 9: [0.6, 0.5, 0.4]}
    rows = [
        {"run": "r", "length": length, "steps": step, "auc": area, "accuracy": 0.75}
        for length, own in areas.items()
        for step, area in enumerate(own, start=1)
    ]
    told = [tuple(row.values()) for row in reading.best(rows)]
    assert told == [("r", 6, 2, "0.100", "75.0%"), ("r", 9, 1, "0.600", "75.0%")]


def test_the_map_has_steps_along_and_lengths_up(run, monkeypatch):
    areas = np.linspace(0.1, 0.9, 10).reshape(2, 5)
    rows = [
        {"length": (6, 14)[i], "steps": step + 1, "auc": areas[i, step]}
        for i, step in np.ndindex(areas.shape)
    ]
    monkeypatch.setitem(run.params, "dataset", "pathfinder_14_stream")
    axes, _ = reading.reading_figure([(run, rows)], ["a name"]).axes
    (image,) = axes.images
    assert np.array_equal(image.get_array(), areas) and image.origin == "lower"
    assert (image.get_clim(), list(image.get_extent())) == ((0, 1), [0.5, 5.5, -0.5, 1.5])
    upright, level = axes.get_lines()  # what it was trained on
    assert set(upright.get_xdata()) == {4} and set(level.get_ydata()) == {1}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["6", "14"]
    assert "a name" in axes.get_title("left") + axes.get_title()


def test_titles_that_fit_stay_on_one_line():
    """Those of docs/results.md do."""
    assert panel_titles(["trained on 25, 15 steps"] * 3, 3)[1] == 0


def test_along_a_contour_each_label_has_its_picture():
    means = np.random.default_rng(0).normal(size=(2, 3, 6))
    with style():
        figure = reading.along_figure([means, np.zeros((2, 3, 6))], ["one", "another"])
        figure.draw_without_rendering()
    axes = [axes for axes in figure.axes if not hasattr(axes, "_colorbar")]
    assert len(axes) == 4
    for one in axes:
        assert all(float(tick).is_integer() for tick in one.get_yticks())
    for label, one in enumerate(axes[:2]):
        (image,) = one.images
        assert np.array_equal(image.get_array(), means[label]) and image.origin == "lower"
        assert LABELS[label] in one.get_title("left") + one.get_title()
