"""Each of the seven scripts trains on records that TensorFlow wrote, and its run reloads."""

import importlib
import shutil

import numpy as np
import pytest
import torch
import yaml

from config import Config
from models.tf_variables import load_tf_variables
from tests.test_scripts import SCRIPTS
from training.command_line import run_script
from training.distribution import Ranks
from training.experiment import Experiment
from training.loop import Training

SMALL = ["--set", "model_input_image_size=[24, 24]", "--set", "batch_size=2", "--set", "epochs=3",
         "--set", "validation_iters=2", "--device", "cpu", "--workers", "0"]  # fmt: skip


@pytest.fixture
def project(tmp_path, samples, monkeypatch):
    shutil.copytree(samples / "tf_records", tmp_path / "tf_records")
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_short_run_reloads_to_the_same_validation_loss(name, project):
    script = importlib.import_module(name)
    assert run_script(script.experiment_params, script.build_model, SMALL) == 0

    (results,) = (project / "results").glob(f"{name}_*.npz")
    with np.load(results, allow_pickle=False) as measured:
        losses, steps = measured["val_loss"], measured["val_step"]
    assert steps.tolist() == [0, 2, 3] and np.isfinite(losses).all()

    run = results.stem
    record = yaml.safe_load((project / "logs" / run / "settings.yaml").read_text())
    for step, loss in zip(steps, losses, strict=True):
        network = script.build_model(record["parameters"])
        weights = project / "experiment_evaluations" / run / f"weights_{step:08d}.npz"
        with np.load(weights, allow_pickle=False) as variables:
            load_tf_variables(network, dict(variables))
        again = Training(
            record["parameters"], network, Config(), Ranks(torch.device("cpu")), record["seed"]
        )
        assert again.validation.measure()[0] == loss
        again.close()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_loss_on_a_repeated_batch_falls(name, project):
    script = importlib.import_module(name)
    settings = {**script.experiment_params(), "model_input_image_size": [20, 20], "batch_size": 2}
    settings = Experiment.of(settings)
    torch.manual_seed(0)
    training = Training(
        settings, script.build_model(settings), Config(), Ranks(torch.device("cpu")), seed=0
    )
    batch = next(training.feed.loader.batches(0))
    images = training.augment(batch.images)
    labels = torch.tensor([0, 1])
    losses = [training.train_step(images, labels)[0].item() for _ in range(20)]
    training.close()
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
