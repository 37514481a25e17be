"""Loading runs and weights, and writing them for other programs."""

import importlib
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import additive_lesion
import ff_5
import hgru
import hgru_bn
import hgru_bn_for
import hgru_bn_relu
import multiplicative_lesion
from analysis import export, trained
from analysis.evaluate import evaluated, percent
from analysis.export import model_card
from analysis.probing import hidden_seed
from analysis.trained import TrainedRun, load_run
from config import CLONE
from models.tf_variables import load_npy_folder
from support.shell import exit_code
from tests.analysis.conftest import CIRCUIT, DATASET, train
from training.checkpoints import load, save
from training.provenance import ANSWERS, PARTS

IMAGES = torch.rand(3, 1, 24, 24)


@torch.no_grad()
def logits(network):
    with hidden_seed(network, 0):
        return network(IMAGES)[0]


def test_a_run_has_its_weights_settings_and_history(run, config, names):
    with np.load(config.results / f"{run.name}.npz", allow_pickle=False) as results:
        assert run.history.validation_metric == results["val_accuracy"].tolist()
        assert run.history.train_loss == results["train_loss"].tolist()
    assert run.step == 12 and run.images_seen == 44 and run.seed == 0
    assert run.image_size == (24, 24) and run.stimulus_size == (300, 300)
    assert run.params["aux"]["h_ext"] == 5 and not run.network.training
    state = load(config.checkpoints / run.name / "step_00000012.pt")["model"]
    expected = hgru.build_model(run.params).eval()
    expected.load_state_dict(state)
    assert torch.equal(logits(run.network), logits(expected))
    assert load_run(names["hgru seed 1"], config=config).seed == 1


def test_other_weights_of_a_run(run, config):
    first = load_run(run.name, "0", "cpu", config)  # from the weights of the validation
    assert first.step == 0 and not torch.equal(logits(first.network), logits(run.network))
    best = load_run(run.name, "best", "cpu", config)
    assert best.step == run.history.validation_step[run.history.best()]
    with np.load(config.experiment_evaluations / run.name / "weights_00000000.npz") as arrays:
        gabor = arrays["cnn/input/gabor_input_pretrained:0"]
    assert np.array_equal(first.network.drive.weight.detach().numpy().transpose(2, 3, 1, 0), gabor)


def test_a_run_is_found_by_any_of_its_paths(run, config):
    for place in (run.files.folder, run.files.results, run.files.log, run.files.checkpoints):
        assert load_run(place, config=config).name == run.name
    newest = max((f for f in config.log_dir.iterdir()), key=lambda f: (f / "settings.yaml").stat())
    assert load_run("latest", config=config).name != "" and newest.is_dir()


@pytest.mark.parametrize(
    ("which", "weights", "message"),
    [
        ("nonsense", "last", "nonsense: .* holds no run of that name"),
        (None, "7", "has no weights of step 7; it has those of 0, "),
        (None, "newest", "weights must be last, best or the number of a step, found 'newest'"),
        ("nowhere.safetensors", "last", "nowhere.safetensors: no such file"),
    ],
)
def test_what_is_not_there_is_said(run, config, which, weights, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_run(which or run.name, weights, "cpu", config)


def test_damaged_results_are_said(run, config, monkeypatch, tmp_path):
    whole = run.files.results.read_bytes()
    monkeypatch.setattr(config, "results", tmp_path)
    for content, message in (
        (whole[: len(whole) // 2], "is damaged and cannot be read"),
        (b"", "is damaged and cannot be read"),
    ):
        (tmp_path / f"{run.name}.npz").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_run(run.name, config=config)
    np.savez(tmp_path / f"{run.name}.npz", train_loss=np.zeros(2))
    with pytest.raises(ValueError, match=r"lacks train_accuracy, .*: it is no run's results"):
        load_run(run.name, config=config)


def test_a_run_whose_script_is_gone_is_said(run, config):
    from analysis.trained import build_network

    params = {**run.params, "model_name": "my_hgru"}
    with pytest.raises(FileNotFoundError, match=r"looked for mine.py, my_hgru.py"):
        build_network({"script": "mine.py", "parameters": params})


@pytest.mark.parametrize(
    ("part", "parts", "said"),
    [
        ("layers", ANSWERS, True),
        ("dataset_processing", ANSWERS, True),
        ("training", ANSWERS, False),  # it has no part in what trained weights answer
        ("training", PARTS, True),
    ],
)
def test_other_code_than_a_runs_own_is_said_once(run, config, tmp_path, part, parts, said):
    state = load(config.checkpoints / run.name / "step_00000012.pt")
    path = tmp_path / "step_00000012.pt"
    for known in ({}, {part: "another"}):
        state["record"]["sessions"][0]["code"]["fingerprint"] |= known
        save(path, state)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            load_run(path, device="cpu", config=config, code=parts)
        assert [part in str(one.message) for one in told] == [True] * bool(known and said)


def test_a_script_that_stands_in_is_named(project, config, tmp_path, monkeypatch):
    """The pilot's own change of the network is none of its options: nothing else tells of it."""
    text = (CLONE / "hgru.py").read_text()
    circuit = "    net = RecurrentNetwork("
    text = text.replace("    return RecurrentNetwork(", circuit)
    text = text.replace(
        "\n\n\nif __name__", "\n    net.hgru.timesteps = 1\n    return net\n\n\nif __name__"
    )
    (tmp_path / "pilot.py").write_text(text)
    shutil.copy(CLONE / "hgru.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trained, "CLONE", tmp_path)
    name = train(project, importlib.import_module("pilot"), exp_name="pilot", **CIRCUIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_run(name, config=config).network.hgru.timesteps == 1
        (tmp_path / "pilot.py").rename(tmp_path / "pilot_v1.py")
        with pytest.warns(match=r"hgru\.py stands in for pilot\.py") as told:
            assert load_run(name, config=config).network.hgru.timesteps == 4
        assert len(told) == 1
    finally:
        shutil.rmtree(project / "logs" / name)


def test_export_writes_what_loads_again(run, config, tmp_path, capsys):
    arguments = [run.name, "--output", str(tmp_path), "--size", "30", "26", "--batch", "2"]
    assert exit_code(export.main, arguments) == 0
    said = capsys.readouterr().out
    (weights,) = tmp_path.glob("*.safetensors")
    (program,) = tmp_path.glob("*.pt2")
    (folder,) = tmp_path.glob("*_npy")
    assert all(str(path) in said for path in (weights, program, folder))

    tensors = load_file(weights)
    assert all(torch.equal(t, tensors[k]) for k, t in run.network.state_dict().items())
    again = load_run(weights, device="cpu", config=config)
    assert (again.name, again.step, again.params) == (run.name, run.step, run.params)
    assert torch.equal(logits(again.network), logits(run.network))

    fresh = hgru.build_model(run.params).eval()
    label, step = load_npy_folder(fresh, folder)
    assert (label, step) == (run.experiment, 12)
    assert torch.equal(logits(fresh), logits(run.network))

    module = torch.export.load(program).module()
    images = torch.rand(2, 1, 30, 26)
    with torch.no_grad():
        for found, expected in zip(module(images), run.network(images), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


def test_a_network_of_ones_own_is_exported_without_npy(run, tmp_path, monkeypatch, capsys):
    run.network = torch.nn.Sequential(run.network)
    run.network.forward = run.network[0].forward
    monkeypatch.setattr(export, "load_run", lambda *_: run)
    arguments = [run.name, "--output", str(tmp_path), "--size", "20", "20"]
    with pytest.warns(UserWarning, match=r"no \.npy"):
        export.main(arguments)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".md", ".pt2"}
    assert exit_code(export.main, [*arguments, "--format", "npy"]) == 2
    assert "no variables of the original are known" in capsys.readouterr().err


def test_weights_of_a_step_are_written_however_they_lie_in_memory(run, config):
    assert exit_code(export.main, [run.name, "--weights", "6", "--format", "safetensors"]) == 0
    folder = config.experiment_evaluations / run.name / "export"
    (weights,) = folder.glob("*_step6.safetensors")
    assert load_run(weights, device="cpu", config=config).step == 6
    shutil.rmtree(folder)
    run.network.to(memory_format=torch.channels_last)
    again = load_run(export.export_safetensors(run, weights), device="cpu", config=config)
    assert torch.equal(again.network.hgru.W1, run.network.hgru.W1)
    shutil.rmtree(folder)


def test_a_program_that_does_not_answer_as_its_network_is_not_written(run, tmp_path):
    run.network.hgru.W1.data.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="differs from the network"):
        export.export_program(run, tmp_path / "x.pt2", (24, 24))
    assert not list(tmp_path.iterdir())


def test_a_file_of_weights_keeps_when_its_run_reached_90_percent(run, tmp_path, config):
    metrics, images = run.history.validation_metric, run.history.validation_images
    metrics[:] = [0.5] * len(metrics)
    assert export.images_to_90(run) is None and "to 90%" not in model_card(run, "w")
    metrics[2:4] = [0.85, 0.95]
    file = export.export_safetensors(run, tmp_path / "w.safetensors")
    for one in (run, load_run(file, device="cpu", config=config)):
        assert export.images_to_90(one) == images[3]
        assert f"to 90% in validation | {images[3]} |" in model_card(one, "w")


def test_a_foreign_safetensors_file_is_refused(tmp_path, config):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors does not say"):
        load_run(tmp_path / "x.safetensors", config=config)
    (tmp_path / "y.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_run(tmp_path / "y.safetensors", config=config)


SCRIPTS = [
    hgru, hgru_bn, hgru_bn_for, hgru_bn_relu, multiplicative_lesion, additive_lesion, ff_5,
]  # fmt: skip


def test_a_script_may_take_its_network_from_another(tmp_path, monkeypatch):
    """One that differs in its settings alone; the hash in the run's record is of that other one."""
    text = "from hgru import (\n    build_model,\n    experiment_params,\n)\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(trained, "CLONE", tmp_path)
    script = trained.script_of({"script": "mine.py", "parameters": {"model_name": "mine"}})
    assert trained.file_of(script) == Path(hgru.__file__)


def test_the_card_has_what_was_trained_and_what_was_measured(config, names, tmp_path):
    run = load_run(names["hgru seed 1"], device="cpu", config=config)
    shutil.rmtree(config.condition_evaluations / run.name, ignore_errors=True)  # another test's
    arguments = [run.name, "--format", "card", "--device", "cpu", "--output", str(tmp_path)]
    assert exit_code(export.main, arguments) == 0
    (card,) = tmp_path.glob("*.md")
    assert "Not evaluated yet" in card.read_text()
    found, _ = evaluated(run, DATASET)
    evaluated(run, DATASET, lesion=["mu"])  # not of the whole circuit: left out
    evaluated(run, DATASET, timesteps=2)
    evaluated(load_run(run.name, "3", device="cpu", config=config), DATASET)  # other weights
    assert exit_code(export.main, arguments) == 0
    text = card.read_text()
    assert f"| {DATASET} | 9 | {percent(found.accuracy())} | {found.loss:.4f} |" in text
    assert text.count(f"| {DATASET} | 9 |") == 1
    for fact in ("| seed | 1 |", "| script | hgru.py |", "12 updates of 4",
                 f"| parameters | {run.parameters:,} |", "nadam, lr 0.001 (constant)",
                 "| updates | all |"):  # fmt: skip
        assert fact in text, fact
    assert "initial weights" not in text
    del run.params["lr_schedule"], run.params["updates"]  # as of a run before there were these
    assert "(constant)" in model_card(run, "w") and "| updates | all |" in model_card(run, "w")
    run.record["initial_weights"] = {"source": "w.npz", "fingerprint": "0123456789abcdef"}
    assert "| initial weights | w.npz, fingerprint 0123456789abcdef |" in model_card(run, "w")
    assert "evaluate w --dataset pathfinder_14\n" in model_card(run, "w")
    run.params["dataset"] = "pathfinder_6_stream"
    assert "evaluate w --dataset pathfinder_6\n" in model_card(run, "w")
    run.record["data"]["train"]["im_size"] = [40, 40]  # evaluate would refuse 300×300
    assert "evaluate w --dataset own\n" in model_card(run, "w")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
@pytest.mark.parametrize("size", [(40, 40), (31, 50)])
def test_every_network_exports_at_any_size(script, size, tmp_path, config):
    params = script.experiment_params()
    network = script.build_model(params).eval()
    whole = TrainedRun(
        "x", params, {"environment": {}}, 0, network, "last", torch.device("cpu"), config
    )
    path, difference = export.export_program(whole, tmp_path / "x.pt2", size)
    assert difference < 1e-4 and path.stat().st_size > 100_000
    module = torch.export.load(path).module()
    images = torch.rand(1, 1, *size)
    with torch.no_grad():
        torch.manual_seed(3)
        expected = network(images)[0]
        torch.manual_seed(3)
        assert torch.allclose(module(images)[0], expected, atol=1e-4)
