"""Long Range Arena's release: every size, from every folder that a user may name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.evaluate import evaluated
from analysis.trained import load_run
from config import Config
from dataset_processing import open_set
from dataset_processing.augmentations import Augmentations
from support.errors import MissingError, UserError

CLONE = Path(__file__).parents[2]
SETS = {"curv_contour_length_14": 14, "curv_contour_length_9": 9, "curv_baseline": 6}
COUNT = 30


def release(root: Path, side: int, sets=("curv_contour_length_14",), count: int = COUNT) -> None:
    """Folders as in the release: text metadata, both classes in ``imgs/<number>``."""
    random = np.random.default_rng(side)
    for name in sets:
        folder = root / f"pathfinder{side}" / name
        (folder / "imgs" / "0").mkdir(parents=True)
        (folder / "metadata").mkdir()
        lines = []
        for number in range(count):
            label = number % 2
            image = random.integers(0, 90 + 165 * label, (side, side), dtype=np.uint8)
            Image.fromarray(image).save(folder / "imgs" / "0" / f"sample_{number}.png")
            lines.append(f"imgs/0 sample_{number}.png {number} {label} 1.8 14 4 5 2 3 1")
        (folder / "metadata" / "0.npy").write_text("\n".join(lines) + "\n")


def user(monkeypatch, root: Path, project: Path) -> Config:
    monkeypatch.setenv("HGRU_DATA_ROOT", str(root))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(project))
    return Config()


def train(name: str, *more: str, batch: int = 4) -> subprocess.CompletedProcess:
    """One command; ``name`` is the data set."""
    options = [f"dataset={name}", f"batch_size={batch}", "epochs=1", "validation_iters=20"]
    options += ["aux.timesteps=1", "aux.h_ext=3", "aux.hidden_init=zeros", "exp_name=arena"]
    return subprocess.run(
        [sys.executable, "hgru.py", "--device", "cpu", "--workers", "0", *more]
        + [word for option in options for word in ("--set", option)],
        cwd=CLONE, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "side", [32, *(pytest.param(side, marks=pytest.mark.slow) for side in (64, 128, 256))]
)
def test_one_command_trains_and_accuracy_is_what_one_counts(tmp_path, monkeypatch, side):
    release(tmp_path / "data", side)
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    done = train(f"pathfinder{side}")
    assert done.returncode == 0, done.stderr
    assert f"{side}×{side}" in done.stdout
    run = load_run("latest", config=config, device="cpu")
    assert run.image_size == (side // 2, side // 2)
    found, kept = evaluated(run, f"pathfinder{side}", 100)

    fold = open_set(f"pathfinder{side}", config).fold("val")
    folder = tmp_path / "data" / f"pathfinder{side}" / "curv_contour_length_14"
    lines = [line.split() for line in (folder / "metadata" / "0.npy").read_text().splitlines()]
    labels = {f"{folder}/{line[0]}/{line[1]}": int(line[3]) for line in lines}
    files = [fold.name(number) for number in range(len(fold))]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    resize = Augmentations(["uint8_rescale", "resize", "zero_one"], [side // 2, side // 2])
    with torch.no_grad():
        logits = run.network(resize(torch.from_numpy(images)))[0]
    right = [
        int(answer) == labels[file] for answer, file in zip(logits.argmax(1), files, strict=True)
    ]
    assert found.accuracy()["images"] == len(files) == 3
    assert found.accuracy()["accuracy"] == pytest.approx(np.mean(right))
    with np.load(kept) as rows:  # a row an image
        assert [labels[fold.name(int(number))] for number in rows["record"]] == list(rows["label"])
        count = sum(
            a < b if label else a >= b
            for (a, b), label in zip(rows["logits"], rows["label"], strict=True)
        )
    assert found.summary()["accuracy"] == pytest.approx(count / 3)


@pytest.mark.parametrize("name", ["pathfinder32", "curv_contour_length_14_full"])
@pytest.mark.parametrize(
    "root", ["", "pathfinder32", "pathfinder32/curv_contour_length_14", "lra_release"]
)
def test_the_data_root_may_be_any_folder_of_the_release(tmp_path, monkeypatch, name, root):
    release(tmp_path / ("data/lra_release" if root == "lra_release" else "data"), 32)
    place = tmp_path / "data" / (root if root != "lra_release" else "")
    data = open_set(name, user(monkeypatch, place, tmp_path / "out"))
    assert (data.im_size, data.input_size, data.contour_length) == ((32, 32), (16, 16), 14)
    train = data.fold("train")
    for number in range(len(train)):
        assert train[number][1] == int(Path(train.name(number)).stem.split("_")[1]) % 2


@pytest.mark.parametrize("data_name, length", SETS.items())
def test_the_sets_of_the_release_by_name(tmp_path, monkeypatch, data_name, length):
    release(tmp_path, 64, SETS)
    config = user(monkeypatch, tmp_path, tmp_path / "out")
    data = open_set(f"pathfinder64_{data_name}", config)
    assert data.contour_length == length
    assert f"/{data_name}/" in data.fold("train").name(0)
    inside = user(monkeypatch, tmp_path / "pathfinder64" / data_name, tmp_path / "out")
    assert f"/{data_name}/" in open_set(f"pathfinder64_{data_name}", inside).fold("val").name(0)


def test_a_set_alone_is_taken_and_the_benchmarks_otherwise(tmp_path, monkeypatch):
    release(tmp_path / "one", 32, ["curv_baseline"])
    alone = open_set("pathfinder32", user(monkeypatch, tmp_path / "one", tmp_path / "out"))
    assert (alone.contour_length, "/curv_baseline/" in alone.fold("val").name(0)) == (6, True)
    release(tmp_path / "all", 32, SETS)
    every = open_set("pathfinder32", user(monkeypatch, tmp_path / "all", tmp_path / "out"))
    assert every.contour_length == 14


def test_several_sizes_under_one_name_are_not_chosen_among(tmp_path, monkeypatch):
    for side in (32, 64):
        release(tmp_path, side)
    config = user(monkeypatch, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"pathfinder32, pathfinder64.*--set dataset="):
        open_set("curv_contour_length_14_full", config)
    assert open_set("pathfinder64", config).im_size == (64, 64)
    with pytest.raises(MissingError, match="pathfinder128"):
        open_set("pathfinder128", config)


def test_images_of_another_size_than_the_name_says(tmp_path, monkeypatch):
    release(tmp_path, 32)
    (tmp_path / "pathfinder32").rename(tmp_path / "pathfinder64")
    data = open_set("pathfinder64", user(monkeypatch, tmp_path, tmp_path / "out"))
    with pytest.raises(UserError, match=r"pathfinder64 train: its images are 32×32.*64×64"):
        data.fold("train")


def test_the_releases_one_empty_file_is_named_and_left_out_on_request(tmp_path, monkeypatch):
    release(tmp_path / "data", 32)
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    empty = Path(open_set("pathfinder32", config).fold("train").name(4))
    empty.write_bytes(b"")
    done = train("pathfinder32")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert str(empty) in last and "0 bytes" in last and "--on-bad-record skip" in last
    again = train("pathfinder32", "--on-bad-record", "skip", batch=1)
    assert again.returncode == 0, again.stderr
    assert str(empty) in again.stderr and "26 of 26" in again.stdout
