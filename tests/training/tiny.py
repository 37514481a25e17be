"""A small experiment that trains in a second: the hGRU on 12×12 images of a handmade set.

``python -m tests.training.tiny`` runs it as a script, with a script's options.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import hgru
import training
from dataset_processing.records import RecordWriter

TRAIN, VAL, BATCH, EPOCHS = 22, 9, 4, 3
NAME = "curv_contour_length_14_full"
STEPS = EPOCHS * -(-TRAIN // BATCH)
STEP_BEGINS = "an update begins"


def make_records(project: Path) -> None:
    """Two folds of 300×300 images: blocks of noise, darker in the upper half for label 1."""
    random = np.random.default_rng(0)
    for fold, count in (("train", TRAIN), ("val", VAL)):
        path = project / "tf_records" / f"{NAME}_{fold}.tfrecords"
        with RecordWriter(path) as writer:
            for i in range(count):
                blocks = random.integers(0, 256, (20, 20), dtype=np.uint8)
                if i % 2:
                    blocks[:10] //= 3
                writer.write(np.kron(blocks, np.ones((15, 15), np.uint8)), i % 2)


def experiment_params() -> dict[str, Any]:
    params = hgru.experiment_params()
    params |= {
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "validation_iters": 4,
        "log_iters": 3,
        "model_input_image_size": [12, 12],
        "data_augmentations": ["uint8_rescale", "resize", "left_right", "gaussian_noise_small"],
        "val_augmentations": ["uint8_rescale", "resize"],
        "exp_name": "tiny",
        "aux": {"timesteps": 3, "h_ext": 5},
    }
    return params


build_model = hgru.build_model


def build_slow(params: dict[str, Any]) -> torch.nn.Module:
    """A network each of whose updates says so when it begins, and takes a minute."""

    def wait(model: torch.nn.Module, _: Any) -> None:
        if model.training:
            print(STEP_BEGINS, flush=True)
            time.sleep(60)

    model = build_model(params)
    model.register_forward_pre_hook(wait)
    return model


def run(
    arguments: list[str],
    project: Path,
    environment: dict[str, str] | None = None,
    build: Callable[..., torch.nn.Module] = build_model,
    ahead: int = 0,
) -> None:
    """The script's last line, for a process of its own; what it says goes to ``said.txt``.

    Batches that several processes load ahead on a CPU: ``ahead``.
    """
    from training import feed
    from training.command_line import run_script

    feed.AHEAD["cpu"] = ahead

    rank = (environment or {}).get("RANK", "0")
    said = open(project / f"said_{rank}.txt", "a")  # open to the end
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a script of its own
    tqdm.set_lock(threading.RLock())  # its default outlives a killed process
    os.environ.update({"HGRU_PROJECT_DIRECTORY": str(project), **(environment or {})})
    raise SystemExit(run_script(experiment_params, build, arguments))


if __name__ == "__main__":
    training.main(experiment_params, build_model)
