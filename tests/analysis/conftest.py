"""Runs to look at: trained in a few seconds on small images of a handmade set."""

import sys
from pathlib import Path

import pytest
import torch

import ff_5
import hgru
import multiplicative_lesion
from analysis.trained import TrainedRun, load_run
from config import Config
from tests.training.tiny import make_records
from training.command_line import run_script

SIZE = 24
SETTINGS = {
    "batch_size": "4", "epochs": "2", "validation_iters": "3", "keep_every": "1",
    "model_input_image_size": f"{SIZE},{SIZE}", "num_validation_evals": "3",
    "data_augmentations": "uint8_rescale,resize", "val_augmentations": "uint8_rescale,resize",
}  # fmt: skip
CIRCUIT = {"aux.timesteps": "4", "aux.h_ext": "5", "aux.hidden_init": "identity"}
DATASET = "curv_contour_length_14_full"


def train(project: Path, script, seed: int = 0, **settings: str) -> str:
    """Train a script's network as its command line would; the run's name."""
    sets = [f"--set={key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    before = set((project / "logs").glob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HGRU_PROJECT_DIRECTORY", str(project))
        patch.setattr(sys, "argv", [f"{script.__name__}.py"])
        code = run_script(
            script.experiment_params, script.build_model,
            [*sets, "--seed", str(seed), "--device", "cpu", "--workers", "0"],
        )  # fmt: skip
    assert code == 0
    (made,) = set((project / "logs").glob("*")) - before
    return made.name


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A project directory with a data set and four runs, named as a sweep called 'tiny' would."""
    folder = tmp_path_factory.mktemp("project")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_records(folder)
    for script, seed in ((hgru, 0), (hgru, 1), (multiplicative_lesion, 0)):
        name = f"tiny_{script.__name__}_{DATASET}_seed{seed}"
        train(folder, script, seed, exp_name=name, **CIRCUIT)
    train(folder, ff_5, 0, exp_name=f"tiny_ff_5_{DATASET}_seed0")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def config(project, monkeypatch) -> Config:
    """The paths of that project, for the commands too."""
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(project))
    monkeypatch.delenv("HGRU_DATA_ROOT", raising=False)
    return Config()


@pytest.fixture
def names(config) -> dict[str, str]:
    """The runs' names: 'hgru', 'hgru seed 1', 'multiplicative_lesion', 'ff_5'."""
    found = {}
    for folder in config.log_dir.iterdir():
        script = folder.name.removeprefix("tiny_").split(f"_{DATASET}")[0]
        found[script + (" seed 1" if "_seed1_" in folder.name else "")] = folder.name
    return found


@pytest.fixture
def run(config, names) -> TrainedRun:
    """The hGRU's run of seed 0."""
    return load_run(names["hgru"], device="cpu", config=config)
