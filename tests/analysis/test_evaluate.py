"""Evaluations and predictions against a direct computation."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torch import nn

from analysis import comparison, evaluate, export, image_sets, predict, reading
from analysis.probing import lesioned
from analysis.record import keep_record
from analysis.trained import TrainedRun, load_run
from config import Config
from dataset_processing import generate
from dataset_processing.augmentations import Augmentations
from dataset_processing.pathfinder import Pathfinder, Settings
from dataset_processing.records import RecordReader
from layers.hgru import HGRU
from support.errors import UserError
from support.shell import exit_code
from tests.analysis.conftest import DATASET, SIZE
from training.checkpoints import load, save
from training.run import Run


@torch.no_grad()
def direct(run, images):
    """Logits (N, 2) of images one at a time (this run's hidden state starts as the drive)."""
    augment = Augmentations(["uint8_rescale", "resize"], [SIZE, SIZE])
    return torch.cat([run.network(augment(torch.tensor(image)[None]))[0] for image in images])


@pytest.fixture
def records(config):
    reader = RecordReader([config.tf_records / f"{DATASET}_val.tfrecords"])
    images, labels = zip(*(reader[i] for i in range(len(reader))), strict=True)
    return np.stack(images), np.array(labels)


def test_every_number_as_a_direct_computation(run, records):
    images, labels = records
    found = evaluate.evaluate(run, DATASET)
    logits = direct(run, images)
    assert np.array_equal(found.label, labels) and found.record.tolist() == list(range(9))
    assert np.allclose(found.logits, logits, atol=1e-5)
    numbers = found.summary()
    right = int((logits.argmax(1).numpy() == labels).sum())
    assert numbers["images"] == 9 and numbers["accuracy"] == right / 9
    interval = stats.binomtest(right, 9).proportion_ci(method="wilson")
    assert (numbers["low"], numbers["high"]) == pytest.approx(tuple(interval))
    assert numbers["loss"] == pytest.approx(
        float(F.cross_entropy(logits, torch.tensor(labels))), abs=1e-6
    )
    scores = (logits[:, 1] - logits[:, 0]).numpy()
    u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert numbers["auc"] == pytest.approx(u / ((labels == 1).sum() * (labels == 0).sum()))
    for label in (0, 1):
        for answer in (0, 1):
            count = ((labels == label) & (logits.argmax(1).numpy() == answer)).sum()
            assert numbers["confusion"][label][answer] == count
    found.interval = "exact"
    exact = found.summary()
    assert exact["high"] == pytest.approx(
        stats.binomtest(right, 9).proportion_ci(method="exact").high
    )


def test_accuracy_by_label_and_distance():
    distance = np.array([25.0, 39.9, 40, 61, np.nan, 30])
    label = np.array([1, 1, 1, 1, 1, 0])
    logits = np.array([[0, 1], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1.0]], dtype=np.float32)
    found = evaluate.Evaluation("r", "d", np.arange(6), label, logits, distance, {})
    rows = {(r["label"], r["distance"]): (r["images"], r["accuracy"]) for r in found.by_property()}
    assert rows == {
        ("two contours", "all"): (1, 0.0),
        ("two contours", "20–40 px"): (1, 0.0),
        ("one contour", "all"): (5, 0.8),
        ("one contour", "20–40 px"): (2, 0.5),
        ("one contour", "40–60 px"): (1, 1.0),
        ("one contour", "60–80 px"): (1, 1.0),
        ("one contour", "unknown"): (1, 1.0),
    }


def test_lesions_steps_and_seed_reach_the_network(run, records):
    images, _ = records
    with lesioned(run.network, "mu", "omega"):
        expected = direct(run, images)
    found = evaluate.evaluate(run, DATASET, lesion=["mu", "omega"])
    assert np.allclose(found.logits, expected, atol=1e-5)
    fewer = evaluate.evaluate(run, DATASET, timesteps=2)
    run.network.hgru.timesteps = 2
    assert np.allclose(fewer.logits, direct(run, images), atol=1e-5)
    run.network.hgru.timesteps = 4
    some = evaluate.evaluate(run, DATASET, 5, seed=1)
    assert len(some.record) == 5 and len(set(some.record)) == 5
    whole = evaluate.evaluate(run, DATASET)
    assert np.allclose(some.logits, whole.logits[some.record], atol=1e-5)
    run.network.hgru.hidden_init = "random"  # its seed is that of the evaluation
    first, again, other = (evaluate.evaluate(run, DATASET, seed=seed).logits for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_letter_named_twice_is_lesioned_once(run):
    paths = {
        evaluate.evaluated(run, DATASET, lesion=letters)[1] for letters in (["mu"], ["mu"] * 2)
    }
    assert len(paths) == 1


def test_two_folders_of_one_name_are_told_apart(run, config, samples, tmp_path, capsys):
    """Table, card and page had one name for both, and the page the one of them alone."""
    folders = [tmp_path / place / "curv_baseline" for place in ("first", "second")]
    for folder in folders:
        shutil.copytree(samples / "curvy_2snakes_300", folder.parent)
    assert exit_code(evaluate.main, [run.name, "--dataset", *map(str, folders)]) == 0
    expected = {"curv_baseline (first)", "curv_baseline (second)"}
    said = capsys.readouterr().out
    assert all(f"{run.name} on {name}: " in said for name in expected)
    assert expected <= {one["dataset"] for one in export.evaluations(run)}
    kept = Run(config, run.name, keep_record(run.name, tmp_path / "runs", config))
    assert expected <= {one["dataset"] for one in kept.events("evaluation")}
    for sets, told in (
        (["x/a", "b", "./b"], ["a", "b", "b (.)"]),
        (["x/y/b", "/z/y/b", "y/b"], ["b (x)", "b (z)", "b (.)"]),  # of one layout
        (["x/b", "./x/b"], ["b (x)"] * 2),  # one folder
    ):
        assert list(image_sets.titles(sets).values()) == told
    points = {folder: evaluate.evaluate(run, str(folder)) for folder in map(str, folders)}
    shown = comparison.table(comparison.points([comparison.Member(run, "m", points)]))
    assert {row["tested on"] for row in shown} == expected
    for file in (config.condition_evaluations / run.name).glob("curv_baseline_*"):
        file.unlink()  # other tests look at what was kept


def test_the_command_writes_its_numbers_once(run, config, capsys):
    arguments = [run.name, "--dataset", DATASET, "--device", "cpu"]
    assert exit_code(evaluate.main, arguments) == 0
    said = capsys.readouterr().out
    (file,) = (Path(line.strip()) for line in said.splitlines() if line.endswith(".json"))
    assert file.parent == config.condition_evaluations / run.name
    written = json.loads(file.read_text())
    expected = evaluate.evaluate(run, DATASET)
    assert written["accuracy"] == expected.accuracy()["accuracy"]
    assert evaluate.percent(expected.accuracy()) in said
    assert f"{run.name} on {DATASET}: step12 T4" in said.splitlines()
    before = file.stat().st_mtime_ns
    assert exit_code(evaluate.main, arguments) == 0  # done already: read, not computed again
    assert file.stat().st_mtime_ns == before


def test_what_is_not_finite_is_no_answer(run):
    with torch.no_grad():
        run.network.hgru.W1.fill_(1e30)  # with relu, activity grows from step to step
    run.network.hgru.recurrent_nl = "relu"
    image = np.full((300, 300), 200, np.uint8)
    for ask in (
        lambda: evaluate.evaluated(run, DATASET),
        lambda: predict.predict(run, image),
        lambda: reading.read(run, [3], 4, 4),
        lambda: reading.along(run, 3, 4, 4),
    ):
        with pytest.raises(UserError, match="images are not finite"):
            ask()


def test_a_network_of_two_circuits_is_evaluated_too(run, records):
    run.network.hgru = nn.Sequential(run.network.hgru, HGRU(25, 2, 3, hidden_init="zeros"))
    images, _ = records
    found = evaluate.evaluate(run, DATASET)
    assert np.allclose(found.logits, direct(run, images), atol=1e-5)
    assert found.about["timesteps"] is None
    answer = predict.predict(run, images[0])
    assert np.allclose(answer.logits, found.logits[0], atol=1e-5)
    with pytest.raises(UserError, match="RecurrentNetwork has 2"):
        evaluate.evaluate(run, DATASET, timesteps=3)


class Own(nn.Module):
    """The run's drive and circuit behind another readout, of so many outputs."""

    def __init__(self, network, outputs):
        super().__init__()
        self.drive, self.hgru = network.drive, network.hgru
        self.decide = nn.Linear(25, outputs)

    def forward(self, images):
        activity = self.hgru(self.drive(images))
        return self.decide(activity.amax((2, 3))), activity


def test_a_network_with_a_readout_of_its_own(run, records):
    run.network, (images, _) = Own(run.network, 2).eval(), records
    found = evaluate.evaluate(run, DATASET)
    answer = predict.predict(run, images[0])
    assert np.allclose(answer.logits, found.logits[0], atol=1e-5)
    assert answer.maxima == []
    predict.prediction_figure(answer, "image", run)
    with pytest.raises(UserError, match="Own has no norm and readout"):
        reading.read(run, [3], 4, 4)
    with pytest.raises(UserError, match=r"--along needs .* Own has others"):
        reading.along(run, 3, 4, 4)
    run.network.norm, run.network.readout = nn.Identity(), lambda activity: activity[:, :2, 0, 0]
    with pytest.raises(UserError, match="reads H2 by more than its norm and readout"):
        reading.read(run, [3], 4, 4)


@pytest.mark.parametrize("outputs", [1, 3])
def test_answers_that_are_not_two_logits_are_an_error(run, records, config, outputs):
    run.network, folder = Own(run.network, outputs).eval(), config.condition_evaluations / run.name
    before = {*folder.glob("*")}
    for ask in (
        lambda: evaluate.evaluated(run, DATASET),
        lambda: predict.predict(run, records[0][0]),
    ):
        with pytest.raises(UserError, match=rf"two logits an image.*, {outputs}\)"):
            ask()
    assert {*folder.glob("*")} == before
    run.network.norm = nn.Identity()
    run.network.readout = lambda activity: run.network.decide(activity.amax((2, 3)))
    with pytest.raises(UserError, match=rf"two logits an image.*, {outputs}\)"):
        reading.read(run, [3], 4, 4)


def test_several_numbers_of_steps(run, capsys):
    arguments = [run.name, "--dataset", DATASET, "--device", "cpu", "--timesteps", "2", "5"]
    assert exit_code(evaluate.main, arguments) == 0
    lines = (line.strip() for line in capsys.readouterr().out.splitlines())
    written = [json.loads(Path(line).read_text()) for line in lines if line.endswith(".json")]
    assert [one["timesteps"] for one in written] == [2, 5]
    for one in written:
        assert one["loss"] == evaluate.evaluate(run, DATASET, timesteps=one["timesteps"]).loss
    assert written[0]["loss"] != written[1]["loss"]


def test_a_kept_number_is_of_the_weights_the_circuit_and_the_code(
    run, config, tmp_path, monkeypatch, capsys
):
    copy = tmp_path / "copy"
    shutil.copytree(config.project_directory, copy, symlinks=True)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(copy))
    arguments = [run.name, "--dataset", DATASET, "--device", "cpu"]

    def said(*more):
        capsys.readouterr()
        assert exit_code(evaluate.main, [*arguments, *more]) == 0
        row = capsys.readouterr().out.splitlines()[1]
        return next(p for p in row.split("  ") if "%" in p), "kept" in row

    said("--again")
    number, kept = said()
    assert kept and said("--again") == (number, False)
    checkpoint = copy / "checkpoints" / run.name / "step_00000012.pt"
    whole, state = checkpoint.read_bytes(), load(checkpoint)
    for name in ("readout.linear.weight", "readout.linear.bias"):
        state["model"][name].neg_()
    save(checkpoint, state)
    negated, kept = said()
    assert not kept and negated != number
    checkpoint.write_bytes(whole)
    assert said() == (number, True)
    with monkeypatch.context() as patch:  # the script was edited
        patch.setattr(TrainedRun, "code", {"script": "edited"})
        assert said()[1] is False
    assert said() == (number, True)


def test_bad_records_are_an_error_or_left_out(run, config, tmp_path, capsys):
    path = tmp_path / "damaged.tfrecords"
    content = bytearray((config.tf_records / f"{DATASET}_val.tfrecords").read_bytes())
    content[len(content) // 2] ^= 1  # within the fifth of nine records
    path.write_bytes(content)
    arguments = [run.name, "--dataset", str(path), "--device", "cpu"]
    assert exit_code(evaluate.main, arguments) == 2
    assert "damaged.tfrecords" in capsys.readouterr().err
    assert exit_code(evaluate.main, [*arguments, "--on-bad-record", "skip"]) == 0
    found, _ = evaluate.evaluated(run, str(path), on_bad_record="skip")
    assert found.kept and found.record.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert exit_code(evaluate.main, arguments) == 2  # what was kept then is not taken for all


def test_images_of_another_size_are_not_resized_in_silence(run, tmp_path, capsys):
    for label in ("pos", "neg"):
        folder = tmp_path / "small" / "imgs" / label
        folder.mkdir(parents=True)
        for number in range(2):
            noise = np.random.default_rng(number).integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"sample_{number}.png")
    arguments = [run.name, "--dataset", str(tmp_path / "small"), "--device", "cpu"]
    assert exit_code(evaluate.main, arguments) == 2
    said = capsys.readouterr().err
    assert "64×64" in said and "300×300" in said and "--resize" in said
    assert exit_code(evaluate.main, [*arguments, "--resize"]) == 0
    assert "warning: small: the images are 64×64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "curv_basline_full"], "did you mean 'curv_baseline_full'"),
        (["--dataset", "no/such/folder"], "no/such/folder: no such file or folder"),
        (
            ["--fold", "train", "--dataset", "pathfinder_6"],
            "the images of pathfinder_6 have no",
        ),
        (["--fold", "train", "--dataset", "own"], "the images of own have no"),
        (["--fold", "train", "--dataset", "."], "the images of . have no"),
        (["--dataset", "curv_baseline_full"], "no data for 'curv_baseline_full'"),
        (["--images", "none"], "--images: must be a whole number of at least 1, found 'none'"),
        (["--lesion", "beta"], "a letter to lesion 'beta' is not known"),
        (["--weights", "77"], "has no weights of step 77"),
        (["--device", "abacus"], "--device must be"),
    ],
)
def test_errors_are_one_line_and_exit_2(run, arguments, message, capsys):
    assert exit_code(evaluate.main, [run.name, *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and message in said


def test_folders_of_the_three_layouts_and_record_files(run, samples):
    for folder, count in (
        (samples / "curvy_2snakes_300" / "curv_baseline", None),
        (samples / "pathfinder_labelled" / "curv_contour_length_14", None),
    ):
        data = image_sets.open_images(str(folder), run.config, run.params, 10)
        image, _ = data[0]
        assert image.shape == (300, 300)
        assert {data[i][1] for i in range(len(data))} == {0, 1}, count
    file = next((samples / "tf_records").glob("*_val.tfrecords"))
    data = image_sets.open_images(str(file), run.config, run.params, 10)
    found = evaluate.evaluate(run, str(file), 3)
    assert np.allclose(found.logits, direct(run, [data[i][0] for i in found.record]), atol=1e-5)


def test_generated_sets_are_of_the_length_asked_for_and_never_trained_on(run):
    data = image_sets.open_images("pathfinder_9", run.config, run.params, 4, seed=3)
    assert len(data) == 4 and data.stimulus(0).paddles.shape == (2, 9, 2, 2)
    generator = Pathfinder(Settings(contour_length=9), 3)
    for first in (0, 2**62):  # where a stream's training and validation images begin
        assert not np.array_equal(data[0][0], generator.image(first)[0])
    again = image_sets.open_images("pathfinder_9", run.config, run.params, 4, seed=3)
    assert np.array_equal(data[1][0], again[1][0])
    assert data.fingerprint() == again.fingerprint()


def test_images_like_a_runs_own(run, config):
    own = image_sets.open_images("own", config, run.params, 3)
    assert np.array_equal(
        own[1][0], image_sets.open_images("pathfinder_14", config, run.params, 3)[1][0]
    )
    small = {**run.params, "dataset": "curv_contour_length_3_small", "model_input_image_size": None}
    image, _ = image_sets.open_images("own", config, small, 3)[0]
    assert image.shape == (40, 40)
    run.params, run.record = small, {}  # as an earlier version recorded it
    assert run.stimulus_size == (40, 40) and run.image_size == (20, 20)
    stream = {"dataset": "pathfinder_9_stream", "stream_settings": {"window": 280}}
    assert image_sets.open_images("own", config, stream, 3)[0][0].shape == (280, 280)
    sized = {**stream, "im_size": [300, 300]}  # --resize may be asked for: evaluated() judges
    other = image_sets.open_images("pathfinder_9_stream", config, sized, 3)
    assert other[0][0].shape == (280, 280)
    twice = {**stream, "stream_settings": {"window": 280, "contour_length": 9}}
    for length in (6, 9):  # a stream's length is that of its name, not that of the run's own
        named = image_sets.open_images(f"pathfinder_{length}_stream", config, twice, 3)
        assert named.stimulus(0).paddles.shape == (2, length, 2, 2)
        assert named.im_size == (280, 280)
    run.params = {**run.params, **stream}
    assert run.stimulus_size == (280, 280) and run.image_size == (150, 150)
    assert image_sets.example_set({"dataset": "mine"}) == "mine"
    with pytest.raises(ValueError, match="the settings of mine are not known"):
        image_sets.open_images("own", config, {"dataset": "mine"}, 3)


def test_a_set_of_the_users_own_is_that_set_in_its_folder_too(tmp_path, monkeypatch, samples):
    """Not all images of the folder of that name, those that were trained on among them."""
    shutil.copytree(samples / "pathfinder_labelled" / "curv_contour_length_14", tmp_path / "mine")
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    for key in ("dataset", "val_dataset"):
        params = {"dataset": "other", key: "mine"}
        assert len(image_sets.open_images("mine", Config(), params, 3)) == 1
        assert len(image_sets.open_images("./mine", Config(), params, 3)) == 16


@pytest.mark.parametrize("form", ["tfrecords", "png"])
def test_images_like_those_of_a_generated_set_are_drawn_as_it_was(tmp_path, monkeypatch, form):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "out"))
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "data"))
    config, name = Config(), "curv_baseline_full"
    asked = "--window 90 100 --margin 2 --border 8 --seed-distance 12 --count 4".split()
    generate.main(["--dataset", name, "--format", form, *asked])
    drawn = {"window": (90, 100), "margin": 2, "border": 8, "seed_distance": 12}
    own = image_sets.open_images("own", config, {"dataset": name}, 3)
    assert own.pathfinder.settings == Settings(contour_length=6, **drawn)
    assert image_sets.open_images("own", config, {"dataset": DATASET}, 3).im_size == (300, 300)


def test_markers_of_the_small_set_are_found(config):
    data = image_sets.open_images("own", config, {"dataset": "curv_contour_length_3_small"}, 40)
    found = image_sets.marker_distance(torch.from_numpy(np.stack([data[i][0] for i in range(40)])))
    markers = [data.stimulus(i).markers for i in range(40)]
    true = [float(np.linalg.norm(a - b)) for a, b in markers]
    assert np.allclose(found, true, atol=1)


@pytest.mark.parametrize("length", [6, 14])
def test_marker_distance_is_that_of_the_discs(length):
    generator = Pathfinder(Settings(contour_length=length), 5)
    stimuli = [generator.stimulus(i) for i in range(12)]
    found = image_sets.marker_distance(torch.from_numpy(np.stack([s.image for s in stimuli])))
    true = [float(np.linalg.norm(s.markers[0] - s.markers[1])) for s in stimuli]
    assert np.allclose(found, true, atol=0.5)


def test_marker_distance_is_unknown_without_two_discs():
    empty, one, block = np.zeros((3, 300, 300), np.uint8)
    y, x = np.mgrid[:300, :300]
    one[(y - 50) ** 2 + (x - 60) ** 2 <= 25] = 255
    block[10:60, 10:200] = 255
    assert np.isnan(
        image_sets.marker_distance(torch.from_numpy(np.stack([empty, one, block])))
    ).all()


def test_predict_says_what_the_network_says(run, config, samples, tmp_path, capsys):
    path = next((samples / "curvy_2snakes_300" / "curv_baseline").glob("imgs/*/*.png"))
    image = np.array(Image.open(path))
    logits = direct(run, [image])[0]
    found = predict.predict(run, image)
    assert np.allclose(found.logits, logits, atol=1e-6)
    assert found.answer == int(logits.argmax())
    assert found.probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-6)
    assert found.strength.shape == (SIZE, SIZE) and (found.strength >= 0).all()

    assert exit_code(predict.main, [run.name, str(path), "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{found.probability:.4f}" in said
    with Image.open(tmp_path / f"predict_{path.stem}.png") as figure:
        assert figure.width > 800 and np.asarray(figure.convert("L")).std() > 10
    assert (tmp_path / f"predict_{path.stem}.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_predicted_otherwise_is_beside_the_other(run, samples, tmp_path, capsys):
    """Figures of other weights, steps or a lesion took the place of the first, and no table said
    what it was of."""
    path = next((samples / "curvy_2snakes_300" / "curv_baseline").glob("imgs/*/*.png"))
    for more in (["--timesteps", "2"], ["--lesion", "mu"], ["--weights", "3"]):
        given = [run.name, str(path), *more, "--output", str(tmp_path), "--device", "cpu"]
        assert exit_code(predict.main, given) == 0
    found = {file.stem.removeprefix(f"predict_{path.stem}_") for file in tmp_path.glob("*.png")}
    assert found == {"T2", "lesion_mu", "step3"}
    head, row = capsys.readouterr().out.splitlines()[:2]
    assert head.split()[:4] == ["image", "step", "lesion", "T"]
    assert row.split()[1:4] == ["12", "–", "2"]


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_predict_refuses_the_scales_that_evaluate_refuses(run, tmp_path, capsys):
    path = tmp_path / "dim.png"
    stimulus = Pathfinder(Settings(), 1).image(0)[0]
    Image.fromarray(stimulus // 255).save(path)
    assert exit_code(predict.main, [run.name, str(path), "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "between 0 and 1" in said
    assert not list(tmp_path.glob("predict*"))
    Image.fromarray(np.zeros_like(stimulus)).save(path)  # a blank image is on every scale
    assert exit_code(predict.main, [run.name, str(path), "--output", str(tmp_path)]) == 0


def test_a_folder_on_the_scale_that_the_run_was_trained_on_is_read(tmp_path):
    for label in ("pos", "neg"):
        (tmp_path / "imgs" / label).mkdir(parents=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "imgs" / label / "a.png")
    with pytest.raises(UserError, match="between 0 and 1"):
        image_sets.open_images(str(tmp_path), None, {"val_augmentations": ["uint8_rescale"]}, 2)
    with pytest.warns(UserWarning, match="between 0 and 1"):
        found = image_sets.open_images(str(tmp_path), None, {"val_augmentations": ["resize"]}, 2)
    assert len(found) == 2


def test_predict_maps_hidden_state_and_maxima(run):
    from analysis.probing import record

    image = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    found = predict.predict(run, image)
    images = predict.prepare_images(run, image[None])
    H2 = record(run.network, images, ["H2"])["H2"][-1, 0]
    assert np.allclose(found.strength, H2.pow(2).mean(0).sqrt(), atol=1e-6)
    activity = run.network(images)[1][0].detach()
    weights = run.network.readout.evidence[:, :, 0, 0].detach()
    evidence = torch.einsum("ck,khw->chw", weights, activity)
    for map_, place in zip(evidence, found.maxima, strict=True):
        assert float(map_[place]) == pytest.approx(float(map_.max()), rel=1e-5)


def test_images_of_other_size_colour_or_kind(tmp_path):
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (40, 60), dtype=np.uint8)
    path = tmp_path / "grey.png"
    Image.fromarray(grey).save(path)
    assert np.array_equal(predict.read_image(path, (40, 60)), grey)
    with pytest.raises(ValueError, match=r"40×60 pixels .* takes 300×300; --resize resizes it"):
        predict.read_image(path, (300, 300))
    assert predict.read_image(path, (20, 30), resize=True).shape == (20, 30)
    with pytest.warns(UserWarning, match="ratio of width to height"):
        assert predict.read_image(path, (30, 30), resize=True).shape == (30, 30)
    Image.fromarray(np.stack([grey] * 3, 2)).save(path)
    assert np.array_equal(predict.read_image(path, (40, 60)), grey)
    Image.fromarray(np.stack([grey, grey, grey, np.full_like(grey, 255)], 2)).save(path)
    assert np.array_equal(predict.read_image(path, (40, 60)), grey)
    Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    with pytest.warns(UserWarning, match="its luminance is taken"):
        predict.read_image(path, (40, 60))
    Image.fromarray(grey.astype(np.uint16) * 200).save(path)
    with pytest.raises(UserError, match=f"{path}.*16 bits"):
        predict.read_image(path, (40, 60))
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"{path}: not an image"):
        predict.read_image(path, (40, 60))
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        predict.read_image(tmp_path / "missing.png", (40, 60))


def test_a_control_without_a_circuit_is_evaluated_too(config, names, records):
    images, _ = records
    run = load_run(names["ff_5"], device="cpu", config=config)
    found = evaluate.evaluate(run, DATASET)
    assert np.allclose(found.logits, direct(run, images), atol=1e-5)
    assert found.about["timesteps"] is None and not math.isnan(found.loss)
    with pytest.raises(ValueError, match="FeedforwardNetwork has 0"):
        evaluate.evaluate(run, DATASET, lesion=["mu"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_answers(run, config):
    here = evaluate.evaluate(run, DATASET)
    there = evaluate.evaluate(load_run(run.name, device="cuda", config=config), DATASET)
    assert np.allclose(here.logits, there.logits, atol=1e-2)
    assert np.array_equal(here.record, there.record)
    image = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    on_gpu = predict.predict(load_run(run.name, device="cuda", config=config), image)
    assert np.allclose(on_gpu.logits, predict.predict(run, image).logits, atol=1e-2)
