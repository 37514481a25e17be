"""A number belongs to its weights, a run to its folder."""

import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import hgru
from analysis.image_sets import open_images
from analysis.trained import load_run
from config import Config
from dataset_processing import DataSet, curv_contour_length_14_full
from dataset_processing.forms import Job
from dataset_processing.generate import generate_set
from dataset_processing.generated import GENERATED, SMALL_SET
from dataset_processing.pathfinder import Settings
from layers.hgru import HGRU
from models.recurrent import RecurrentNetwork
from support.errors import MissingError, UserError
from tests.conftest import TESTS
from tests.training import tiny
from tests.training.conftest import QUIET
from training import checkpoints, provenance
from training.command_line import COMPLETE, ERROR, LEFT_EARLY, run_script
from training.distribution import Ranks
from training.experiment import Experiment
from training.loop import Training
from training.losses import loss_function
from training.metrics import metric_function
from training.run import Run, runs
from training.weights import find_weights

Script = Callable[..., int]
OLDER = TESTS / "data" / "older_run"  # written by commit 98b9011


@pytest.fixture
def trained(script: Script, project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A complete run's name."""
    monkeypatch.setattr(sys, "argv", ["hgru.py"])
    assert script("--set", "keep_every=1") == COMPLETE
    return next(project.glob("logs/*")).name


def record_of(project: Path, name: str) -> dict:
    return yaml.safe_load((project / "logs" / name / "settings.yaml").read_text())


def mark(checkpoint: Path, value: float) -> None:
    """Write a recognisable number into a checkpoint's weights."""
    state = checkpoints.load(checkpoint)
    state["model"]["readout.linear.bias"].fill_(value)
    checkpoints.save(checkpoint, state)


def bias(which: object, weights: str = "last") -> float:
    network = load_run(str(which), weights, "cpu", Config()).network
    return float(network.readout.linear.bias[0])


def test_a_run_records_images_and_seconds_of_all_its_sessions(
    script: Script, project: Path
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    assert script("--resume", "latest", "--set", "epochs=2") == COMPLETE
    (name,) = (path.name for path in project.glob("logs/*"))
    first, second = record_of(project, name)["sessions"]
    assert (first["step"], first["images"], first["seconds"]) == (0, 0, 0)
    assert (second["step"], second["images"]) == (6, tiny.TRAIN) and second["seconds"] > 0
    state = checkpoints.load(project / "checkpoints" / name / "step_00000012.pt")
    assert state["images"] == 2 * tiny.TRAIN and state["seconds"] > second["seconds"]
    events = Run(Config(), name).events("validation")
    assert [event["images"] for event in events] == [0, 16, 22, 22 + 8, 44]
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(events))
    with np.load(project / "results" / f"{name}.npz") as results:
        assert results["train_images"].tolist() == [4, 8, 12, 16, 20, 22, 26, 30, 34, 38, 42, 44]
        assert results["val_images"].tolist() == [0, 16, 22, 30, 44]


def test_a_path_means_that_path_and_not_the_run_of_that_name_here(
    trained: str, project: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for folder in ("logs", "checkpoints", "experiment_evaluations", "results"):
        shutil.copytree(project / folder, other / folder)
    for step in (4, 18):
        mark(other / "checkpoints" / trained / f"step_{step:08d}.pt", step)
        mark(project / "checkpoints" / trained / f"step_{step:08d}.pt", -step)
    mark(other / "checkpoints" / trained / "best.pt", 7)
    assert bias(trained) == -18 and bias(trained, "4") == -4
    assert bias(other / "checkpoints" / trained) == 18
    assert bias(other / "logs" / trained) == bias(other / "results" / f"{trained}.npz") == 18
    assert bias(other / "checkpoints" / trained / "step_00000004.pt") == 4
    assert bias(other / "checkpoints" / trained / "best.pt") == 7
    (project / trained / "checkpoints" / "step_00000004.pt").resolve(strict=True)  # by a link
    assert bias(project / trained / "checkpoints" / "step_00000004.pt") == -4
    saved = other / "experiment_evaluations" / trained / "weights_00000000.npz"
    first = load_run(saved, device="cpu", config=Config())
    assert (first.step, first.images_seen) == (0, 0)
    alone = tmp_path / "alone.pt"  # a checkpoint says by itself what it is
    shutil.copy(other / "checkpoints" / trained / "step_00000004.pt", alone)
    assert bias(alone) == 4
    shutil.copytree(project / trained, tmp_path / "copied" / "mine", symlinks=False)
    mark(tmp_path / "copied" / "mine" / "checkpoints" / "step_00000018.pt", 99)
    assert bias(tmp_path / "copied" / "mine") == 99


@pytest.mark.parametrize(
    ("place", "near"),
    [
        ("checkpoints/{}/step_00000005.pt", "step_0000000"),
        ("{}/checkpoint", "checkpoints"),
        ("logs/{}x", "{}"),
        ("results/{}.npy", "{}.npz"),
    ],
)
def test_a_misspelt_path_is_an_error_that_names_the_nearest(
    place: str, near: str, trained: str, project: Path, script: Script, capsys
) -> None:
    path = project / place.format(trained)
    with pytest.raises(MissingError) as error:
        load_run(str(path), device="cpu", config=Config())
    assert str(path) in str(error.value)
    assert script("--resume", str(path)) == ERROR
    assert near.format(trained) in capsys.readouterr().err


def test_what_cannot_go_on_is_refused_with_what_to_do(
    trained: str, project: Path, script: Script, capsys
) -> None:
    logs = (project / "logs" / trained / "log.jsonl").read_bytes()
    for file in (
        project / "checkpoints" / trained / "best.pt",
        project / "checkpoints" / trained / "step_00000004.pt",
        project / "experiment_evaluations" / trained / "weights_00000000.npz",
    ):
        assert script("--resume", str(file)) == ERROR
        assert f"--set initial_weights={file}" in capsys.readouterr().err
        offered = ("--set", f"initial_weights={file}", "--set", "exp_name=next")
        assert script(*offered, "--set", "epochs=1") == COMPLETE
    assert (project / "logs" / trained / "log.jsonl").read_bytes() == logs


@pytest.mark.parametrize("which", ["latest", "auto"])
def test_a_run_whose_checkpoints_are_gone_does_not_start_over_its_log(
    which: str, trained: str, project: Path, script: Script, capsys
) -> None:
    shutil.rmtree(project / "checkpoints" / trained)
    before = {p: p.read_bytes() for p in project.rglob("*") if p.is_file() and trained in str(p)}
    assert script("--resume", which) == ERROR
    said = capsys.readouterr().err
    assert f"step {tiny.STEPS}" in said and str(project / "checkpoints" / trained) in said
    assert {p: p.read_bytes() for p in before} == before
    assert len(list(project.glob("logs/*"))) == 1


def test_the_record_of_a_run_alone_is_found_and_does_not_go_on(
    trained: str, project: Path, tmp_path: Path, script: Script, capsys
) -> None:
    kept = tmp_path / "kept" / "mine"
    kept.mkdir(parents=True)
    for name in ("settings.yaml", "log.jsonl"):
        shutil.copy(project / "logs" / trained / name, kept)
    assert Run.find(kept, Config()).reached() == tiny.STEPS
    assert script("--resume", str(kept)) == ERROR
    said = capsys.readouterr().err
    assert f"step {tiny.STEPS}" in said and f"{kept / 'checkpoints'} holds no checkpoint" in said
    assert len(list(kept.iterdir())) == 2


def test_the_links_of_a_renamed_run_follow(trained: str, project: Path, script: Script) -> None:
    for path in [*project.glob(f"*/{trained}*"), project / trained]:
        path.rename(path.with_name(path.name.replace(trained, "renamed")))
    assert script("--resume", "renamed") == COMPLETE
    links = list((project / "renamed").iterdir())
    assert len(links) == 7
    assert all("renamed" in str(link.resolve(strict=True).relative_to(project)) for link in links)


def test_deleted_summaries_are_made_anew(trained: str, project: Path, script: Script) -> None:
    shutil.rmtree(project / "summaries")
    assert script("--resume", "latest", "--set", "epochs=4") == COMPLETE
    assert list((project / "summaries" / trained).iterdir())


def test_results_reach_to_the_last_step_of_a_run_that_leaves_early(
    script: Script, project: Path
) -> None:
    options = ("--set", "epochs=1000", "--set", "validation_iters=100000")
    assert script(*options, "--max-minutes", "0.02") == LEFT_EARLY
    (results,) = project.glob("results/*.npz")
    newest = sorted(project.glob("checkpoints/*/step_*.pt"))[-1]
    with np.load(results) as arrays:
        assert arrays["train_step"][-1] == checkpoints.load(newest)["step"] > 0


def other_nonlinearity(params: dict) -> torch.nn.Module:
    return hgru.build_model({**params, "aux": {**params["aux"], "recurrent_nl": "relu"}})


def test_a_run_does_not_go_on_with_another_circuit_or_input(
    trained: str, script: Script, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = ["--resume", "latest", "--set", "epochs=4", "--workers", "0", "--device", "cpu"]
    assert run_script(tiny.experiment_params, other_nonlinearity, longer) == ERROR
    assert "recurrent_nl: 'tanh' there, 'relu' here" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(DataSet, "input_size", property(lambda _: (10, 10)))
        assert script(*longer[:4]) == ERROR
        assert "input_size: [12, 12] there, [10, 10] here" in capsys.readouterr().err
    assert script(*longer[:4]) == COMPLETE


class OwnNetwork(torch.nn.Module):
    """A network of the user's own, of which the release knows nothing."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.drive, self.circuit = torch.nn.Conv2d(1, 4, width), HGRU(4, 2, 3)
        self.decide = torch.nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        activity = self.circuit(self.drive(images))
        return self.decide(activity.amax((2, 3))), activity


def with_a_part_of_ones_own(params: dict, name: str) -> torch.nn.Module:
    """The network with another circuit beside its own, or with another normalisation."""
    network = tiny.build_model(params)
    parts = {"second": HGRU(25, 2, 3), "norm": torch.nn.BatchNorm2d(25)}
    setattr(network, name, parts[name])
    return network


@pytest.mark.parametrize(
    "build",
    [
        lambda params: OwnNetwork(),
        partial(with_a_part_of_ones_own, name="second"),
        partial(with_a_part_of_ones_own, name="norm"),
    ],
    ids=["own", "second circuit", "other normalisation"],
)
def test_a_network_of_ones_own_trains_and_its_weights_of_each_validation_are_whole(
    build: Callable, project: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["own.py"])

    def build_model(params: dict) -> torch.nn.Module:
        return build(params)

    options = [*QUIET, "--set", "epochs=1", "--set", "keep_every=1"]
    assert run_script(tiny.experiment_params, build_model, options) == COMPLETE
    assert capsys.readouterr().err.count("save_weights=True (keep_every=1") == 1
    # A file without some of them would load as a network that is half trained.
    assert not list(project.glob("experiment_evaluations/*/weights_*.npz"))
    network = build(tiny.experiment_params())
    found = find_weights("latest", Config(), 4)
    found.into(network)
    trained = torch.load(found.path, weights_only=True)["model"]
    assert all(torch.equal(value, trained[name]) for name, value in network.state_dict().items())


def test_a_run_does_not_go_on_with_a_network_that_was_edited(project: Path, capsys) -> None:
    """One of the user's own says nothing of its options: its weights do."""
    for width, options in ((3, ()), (5, ("--resume", "auto", "--set", "epochs=4"))):

        def build_model(params: dict, width: int = width) -> torch.nn.Module:
            return OwnNetwork(width)

        code = run_script(tiny.experiment_params, build_model, [*QUIET, *options])
        assert code == (ERROR if options else COMPLETE)
    (error,) = capsys.readouterr().err.split("error: ")[1:]
    assert "step_00000018.pt" in error and "drive.weight has the shape (4, 1, 3, 3)" in error


def made(params: dict, network: torch.nn.Module | None = None) -> Training:
    """The training of an experiment, with a small network where none is given."""
    network = network or RecurrentNetwork(timesteps=1)
    return Training(Experiment.of(params), network, Config(), Ranks(torch.device("cpu")), seed=0)


def test_what_several_processes_compute_otherwise_than_one_is_said() -> None:
    def told(network: torch.nn.Module, processes: int) -> str:
        ranks = Ranks(torch.device("cpu"))
        ranks.world_size = processes
        return ranks.caution(network)

    network = RecurrentNetwork(timesteps=1)
    assert not told(network, 2)
    network.norm = torch.nn.BatchNorm2d(25)
    assert told(network, 2).startswith("norm: ")
    assert not told(network, 1)
    network.norm.eval()  # frozen, it takes its averages
    assert not told(network, 2)


def test_hidden_states_of_a_network_of_ones_own_follow_from_the_seed(project: Path) -> None:
    """Those of each of its layers, on each of several processes and when the run goes on."""
    network = torch.nn.Sequential(*(HGRU(2, 2, 3, hidden_init="random") for _ in range(2)))
    training = made(tiny.experiment_params(), network)
    assert {layer.noise_generator for layer in network} == {training.generators.hidden}


def test_a_network_that_is_trained_in_evaluation_mode_is_told(project: Path) -> None:
    for mode in (True, False):
        network = RecurrentNetwork(timesteps=1).train(mode)
        cautions = made(tiny.experiment_params(), network).cautions()
        assert any("evaluation mode" in one for one in cautions) is not mode


@pytest.mark.parametrize("named", [None, [300, 300]])
def test_the_size_that_is_recorded_is_the_one_that_is_given(project: Path, named) -> None:
    one = {"data_augmentations": ["uint8_rescale"], "val_augmentations": ["uint8_rescale"]}
    one = {**tiny.experiment_params(), **one, "model_input_image_size": named}
    training = made(one)
    assert training.about()["network"]["input_size"] == [300, 300]  # nothing resizes


def test_the_size_that_a_sets_class_gives_is_made_or_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = curv_contour_length_14_full.data_processing
    monkeypatch.setattr(own, "model_input_image_size", [14, 16])
    none = {**tiny.experiment_params(), "model_input_image_size": None}
    assert made(none).augment.size == (14, 16)
    bare = {"data_augmentations": ["uint8_rescale"], "val_augmentations": ["uint8_rescale"]}
    with pytest.raises(UserError, match=r"model_input_image_size is 14×16, .* 300×300 images"):
        made({**none, **bare})
    assert made({**none, **bare, "model_input_image_size": [300, 300]}).augment.size == (300, 300)


def test_settings_reach_what_they_set(project: Path) -> None:
    """In the release clip_gradients and loss_function never did."""
    changed = {
        "loss_function": "l2", "score_metric": "pearson", "optimizer": "sgd", "lr": 0.5,
        "clip_gradients": 1e-3, "lr_schedule": "cosine", "warmup_iters": 2, "shuffle_train": False,
        "num_validation_evals": 2, "val_augmentations": ["uint8_rescale", "resize", "zero_one"],
    }  # fmt: skip
    training = made({**tiny.experiment_params(), **changed})
    step, validation, loader = training.train_step, training.validation, training.feed.loader
    assert (step.loss, step.metric) == (loss_function("l2"), metric_function("pearson"))
    orders = [
        np.array_equal(one.order(0), np.sort(one.order(0))) for one in (loader, validation.loader)
    ]
    assert orders == [True, False]
    assert (validation.batches, validation.augment.names[2:]) == (2, ["zero_one"])
    before = [w.detach().clone() for w in training.model.parameters()]
    batch = next(loader.batches(0))
    training.schedule.set(0, 10)
    *_, norm = step(training.augment(batch.images, training.generators.images), batch.labels)
    moved = [w - was for w, was in zip(training.model.parameters(), before, strict=True)]
    length = torch.cat([one.flatten() for one in moved]).norm().item()
    assert length == pytest.approx(0.25 * 1e-3, rel=1e-3) and norm > 1e-3
    assert training.schedule.at(6, 10) == pytest.approx(0.25)


@pytest.mark.parametrize("key", ["loss_function", "score_metric"])
def test_one_image_has_no_correlation(project: Path, key: str) -> None:
    params = {**tiny.experiment_params(), key: "pearson"}
    drawn = {"val_dataset": "pathfinder_3_stream", "stream_val_images": 1}
    assert (tiny.TRAIN % 7, tiny.VAL % 8) == (1, 1)
    for changed, fold in (
        ({"batch_size": 1}, "training"),
        (drawn, "validation"),
        ({"batch_size": 7}, "training"),
        ({"batch_size": 8}, "validation"),
    ):
        with pytest.raises(UserError, match=f"the last batch of {fold} has 1 image"):
            made({**params, **changed})
    made({**params, "batch_size": 2, "num_validation_evals": 4})
    made({**params, "batch_size": 8, "num_validation_evals": 1})


def test_a_crop_that_an_image_is_too_small_for_leaves_no_run(
    project: Path, script: Script, capsys
) -> None:
    crops = [f"{fold}_augmentations=uint8_rescale,center_crop" for fold in ("data", "val")]
    drawn = "stream_settings={window: 150, border: 8, seed_distance: 12}"
    smaller = ["val_dataset=pathfinder_3_stream", drawn, "model_input_image_size=200,200"]
    for sets, side in (["model_input_image_size=200,301"], 300), (smaller, 150):
        assert script(*(word for text in (*crops, *sets) for word in ("--set", text))) == ERROR
        assert f"center_crop: the image, {side}×{side}, is smaller" in capsys.readouterr().err
        assert [path.name for path in project.iterdir()] == ["tf_records"]


def test_validation_images_that_are_trained_on_are_counted(
    project: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HGRU_DATA_ROOT", str(samples))
    shutil.rmtree(project / "tf_records")
    params = {**tiny.experiment_params(), "dataset": "curv_baseline_full"}
    assert made(params).cautions() == []
    assert made({**params, "val_dataset": tiny.NAME}).cautions() == []
    other = curv_contour_length_14_full.data_processing
    monkeypatch.setattr(other, "data_name", "curv_baseline")
    monkeypatch.setattr(other, "cv_split", 0.25)
    training = made({**params, "val_dataset": tiny.NAME})
    own, held_out = (
        {one.name(i) for i in range(len(one))}
        for one in (training.train_set, training.validation_set)
    )
    (caution,) = training.cautions()
    assert caution.startswith(f"{len(own & held_out)} of the {len(held_out)} validation images")


@pytest.mark.parametrize(
    ("form", "changes", "twice"),
    [
        ("compact", {}, "36 to 39"),
        ("compact", {"stream_epoch_images": 19}, "36 to 37"),
        ("compact", {"stream_epoch_images": 18}, ""),
        ("compact", {"stream_seed": 1}, ""),
        ("compact", {"dataset": "pathfinder_4_stream", "curriculum": [3]}, "36 to 39"),
        ("compact", {"dataset": "pathfinder_4_stream"}, ""),
        ("compact", {"dataset": "drawn", "val_dataset": None}, ""),
        ("png", {}, "0 to 39"),
        ("png", {"dataset": "drawn", "val_dataset": "drawn"}, ""),
    ],
)
def test_drawn_images_that_validate_and_are_trained_on_are_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, form: str, changes: dict, twice: str
) -> None:
    monkeypatch.setenv("HGRU_DATA_ROOT", str(project / "tf_records"))
    named = {**GENERATED[SMALL_SET], "contour_length": 3}
    generate_set(Job("drawn", Settings(**named), 0, 40, project / "tf_records", form))
    del named["contour_length"]
    params = {**tiny.experiment_params(), "dataset": "pathfinder_3_stream", "val_dataset": "drawn",
              "stream_settings": named, "stream_epoch_images": 40, "epochs": 2}  # fmt: skip
    told = [one for one in made({**params, **changes}).cautions() if "draw them" in one]
    assert [f"numbers {twice};" in one for one in told] == [True] * bool(twice)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        open_images("drawn", Config(), {**params, **changes}, 4)
    assert [str(one.message) for one in said if "draw them" in str(one.message)] == told


def test_other_code_and_threads_are_said(
    trained: str, project: Path, script: Script, capsys
) -> None:
    file = project / "logs" / trained / "settings.yaml"
    record = yaml.safe_load(file.read_text())
    record["sessions"][-1]["code"]["fingerprint"]["layers"] = "another"
    del record["sessions"][-1]["code"]["fingerprint"]["dataset_processing"]  # an earlier version's
    record["sessions"][-1]["environment"]["threads"] = 77
    file.write_text(yaml.safe_dump(record))
    assert script("--resume", "latest", "--set", "epochs=4") == COMPLETE
    said = capsys.readouterr().err
    assert "layers" in said and "dataset_processing" not in said and "77 threads" in said
    assert script("--resume", "latest", "--set", "epochs=5") == COMPLETE
    assert "warning" not in capsys.readouterr().err


def test_an_edited_script_does_not_undo_what_the_run_was_given_and_that_is_said(
    project: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = project / "edited_later.py"
    shutil.copy(hgru.__file__, file)
    monkeypatch.syspath_prepend(project)
    mine = importlib.import_module("edited_later")

    def go_on(*sets: str) -> str:
        file.write_text(file.read_text() + "# edited\n")
        overrides = [f"--set={text}" for text in sets]
        arguments = [*QUIET, "--resume", "auto", *overrides]
        assert run_script(mine.experiment_params, mine.build_model, arguments) == COMPLETE
        return capsys.readouterr().err

    given = [
        "lr=1e-4", "epochs=1", "aux.timesteps=2", "aux.h_ext=5", "batch_size=4",
        "model_input_image_size=12,12",
    ]  # fmt: skip
    assert "warning" not in go_on(*given)
    (line,) = (line for line in go_on().splitlines() if "warning" in line)
    assert all(f"--set {text}" in line for text in given)
    (line,) = (line for line in go_on("epochs=2").splitlines() if "warning" in line)
    assert "lr=1e-4" in line and "epochs" not in line
    assert "lr=1e-4" not in go_on(*given[:1], "epochs=2")


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("dataset_processing/augmentations.py", "dataset_processing"),
        ("dataset_processing/pathfinder/kernel.py", "dataset_processing"),
        ("layers/kernels/pointwise.cu", "layers"),
        ("models/recurrent.py", "models"),
        ("training/step.py", "training"),
        ("hgru.py", "script"),
    ],
)
def test_the_fingerprint_is_of_all_code_that_decides_the_numbers(
    file: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("dataset_processing", "layers", "models", "training"):
        shutil.copytree(provenance.CLONE / folder, tmp_path / folder)
    shutil.copy(provenance.CLONE / "hgru.py", tmp_path)
    monkeypatch.setattr(provenance, "CLONE", tmp_path)
    before = provenance.code_fingerprint(tmp_path / "hgru.py")
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\n")
    for folder in ("layers", "training"):  # an editor's lock, a file manager's companion
        (tmp_path / folder / ".#step.py").symlink_to("user@host.1234")
        (tmp_path / folder / "._step.py").write_bytes(b"\0\5\x16\7\xb0")
        (tmp_path / folder / ".ipynb_checkpoints").mkdir()
        (tmp_path / folder / ".ipynb_checkpoints" / "step-checkpoint.py").touch()
    after = provenance.code_fingerprint(tmp_path / "hgru.py")
    assert [key for key in after if after[key] != before[key]] == [part]


def test_opening_lines_show_what_the_network_is_given(script: Script, capsys) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    said = capsys.readouterr().out
    assert "12×12 pixels" in said and "uint8_rescale, resize" in said


def test_initial_weights_bring_the_options_that_they_need(
    script: Script, project: Path, capsys
) -> None:
    assert script("--set", "exp_name=before", "--set", "aux.readout_epsilon=1e-5") == COMPLETE
    before = next(project.glob("logs/before_*")).name
    options = ("--set", f"initial_weights={before}", "--set", "epochs=1")
    capsys.readouterr()
    assert script(*options, "--set", "exp_name=after") == COMPLETE
    assert "aux.readout_epsilon" in capsys.readouterr().err
    after = record_of(project, next(project.glob("logs/after_*")).name)
    assert after["network"]["options"]["readout_epsilon"] == 1e-5
    with (
        np.load(next(project.glob("results/before_*"))) as a,
        np.load(next(project.glob("results/after_*"))) as b,
    ):
        assert b["val_loss"][0] == a["val_loss"][-1]
    assert script("--resume", "latest", "--set", "exp_name=after", "--set", "epochs=2") == COMPLETE
    own = (*options, "--set", "exp_name=own", "--set", "aux.readout_epsilon=0.5")
    capsys.readouterr()
    assert script(*own) == COMPLETE
    assert "readout_epsilon: 1e-05 there, 0.5 here" in capsys.readouterr().err


def test_the_trained_circuit_is_evaluated_whatever_the_script_says_now(
    trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import trained as analysis_trained

    own = hgru.build_model

    def edited(params: dict) -> torch.nn.Module:
        return own({**params, "aux": {"recurrent_nl": "relu", **params["aux"]}})

    script = type("script", (), {"build_model": staticmethod(edited), "__file__": "hgru.py"})
    monkeypatch.setattr(analysis_trained, "script_of", lambda record: script)
    run = load_run(trained, device="cpu", config=Config())
    assert run.network.hgru.recurrent_nl == "tanh"
    monkeypatch.setattr(script, "build_model", staticmethod(partial(other_nonlinearity)))
    with pytest.raises(UserError) as error:
        load_run(trained, device="cpu", config=Config())
    assert "recurrent_nl: 'tanh' there, 'relu' here" in str(error.value)


def test_a_copy_within_another_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    copy = tmp_path / "copy"
    copy.mkdir()
    git("init")
    (tmp_path / "a.txt").write_text("theirs")
    git("add", "a.txt")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "theirs")
    monkeypatch.setattr(provenance, "CLONE", tmp_path)
    os.utime(tmp_path / "a.txt", (1, 1))  # git would note so in its index, under a lock
    index = (tmp_path / ".git/index").read_bytes()
    assert provenance.code(tmp_path / "hgru.py")["commit"]
    assert (tmp_path / ".git/index").read_bytes() == index
    monkeypatch.setattr(provenance, "CLONE", copy)
    for folder in (None, str(tmp_path / ".git")):
        if folder:
            monkeypatch.setenv("GIT_DIR", folder)
        found = provenance.code(copy / "hgru.py")
        assert [found[k] for k in ("commit", "dirty", "difference")] == [None, None, None]


def test_latest_is_the_run_that_was_started_or_resumed_last(script: Script, project: Path) -> None:
    for name in ("a", "b"):
        assert script("--set", "epochs=1", "--set", f"exp_name={name}") == COMPLETE
    assert runs(Config())[-1].name.startswith("b_")
    assert script("--resume", "latest", "--set", "exp_name=a", "--set", "epochs=2") == COMPLETE
    assert Run.find("latest", Config()).name.startswith("a_")


def test_latest_is_what_the_runs_recorded_not_their_files_times(
    script: Script, project: Path
) -> None:
    for name in ("a", "b"):
        assert script("--set", "epochs=1", "--set", f"exp_name={name}") == COMPLETE
    first, second = runs(Config())
    os.utime(first.settings)  # as a copy, or an edit by hand
    assert [run.name for run in runs(Config())] == [first.name, second.name]
    for run, hour in ((first, 12), (second, 11)):  # an earlier version's
        text = run.settings.read_text()
        run.settings.write_text(re.sub(r"\n  time: .*", "", text))
        line = {"event": "end", "step": 6, "time": f"2020-11-25T{hour}:00:00+0000"}
        run.json_log.write_text(json.dumps(line) + "\n")
    assert [run.name for run in runs(Config())] == [second.name, first.name]
    first.settings.write_text("no record")
    assert runs(Config())[-1].name == first.name  # written last
    with pytest.raises(UserError, match=r"settings\.yaml has no"):
        Run.find("latest", Config()).record()


def test_a_run_of_the_version_before_is_evaluated_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    project = tmp_path / "older"
    shutil.copytree(OLDER, project)
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(project))
    monkeypatch.setattr(sys, "argv", ["hgru.py"])
    (name,) = (path.name for path in project.glob("logs/*"))
    run = load_run(name, device="cpu", config=Config())
    assert (run.step, run.images_seen, run.seconds) == (12, 48, None)
    assert run.commits == "98b90114acb8" or run.commits.startswith("98b9011")
    assert (run.image_size, run.stimulus_size) == ((16, 16), (96, 96))
    assert run.history.validation_images == [0, 12, 24, 36, 48]
    arguments = ["--resume", name, "--set", "epochs=3", "--workers", "0", "--device", "cpu"]
    assert run_script(hgru.experiment_params, hgru.build_model, arguments) == COMPLETE
    assert "earlier version" in capsys.readouterr().err
    again = load_run(name, device="cpu", config=Config())
    assert (again.step, again.images_seen, again.seconds) == (18, 72, None)
    assert again.history.train_loss[:12] == run.history.train_loss
    lines = (project / "logs" / name / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "end"


def test_a_record_of_a_later_version_is_refused(trained: str, project: Path) -> None:
    file = project / "logs" / trained / "settings.yaml"
    file.write_text(file.read_text().replace("format: 2", "format: 3"))
    with pytest.raises(UserError) as error:
        Run(Config(), trained).record()
    assert "3" in str(error.value) and "2" in str(error.value)


@pytest.mark.parametrize(
    ("key", "edit"),
    [
        ("sessions", lambda record: record.pop("sessions")),
        ("sessions", lambda record: record.update(sessions=[])),
        ("sessions[0]", lambda record: record.update(sessions=[None])),
        ("sessions[0].code", lambda record: record["sessions"][0].update(code=None)),
        ("sessions[0].step", lambda record: record["sessions"][0].pop("step")),
        ("overrides", lambda record: record.update(overrides=None)),
        ("overrides", lambda record: record.update(overrides=[3])),
        ("parameters", lambda record: record.update(parameters=None)),
        ("seed", lambda record: record.update(seed="one")),
        ("data", lambda record: record.update(data=[])),
    ],
)
def test_a_record_that_was_edited_into_none_is_one_line(
    key: str,
    edit: Callable[[dict], object],
    script: Script,
    project: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert script("--set", "epochs=1") == COMPLETE
    (file,) = project.glob("logs/*/settings.yaml")
    record = yaml.safe_load(file.read_text())
    edit(record)
    file.write_text(yaml.safe_dump(record))
    for how in ("auto", file.parent.name):
        assert script("--resume", how) == ERROR
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and f"{file}: {key} must be" in error


def test_a_file_of_the_users_own_beside_the_weights(trained: str, project: Path) -> None:
    """It is no weights of a step; named, it is what it holds."""
    config = Config()
    run = Run(config, trained)
    first, *_ = run.saved_weights().values()
    for name in ("mine.npz", "weights_final.npz"):
        own = first.with_name(name)
        own.write_bytes(first.read_bytes())
        assert own not in run.saved_weights().values()
        found = find_weights(own, config)
        assert (found.path, found.step, found.record) == (own, None, None)
        own.unlink()
