"""Encoding: what is in the records, what is dropped, and what a stop or a full disk leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import Config
from dataset_processing import load_set, open_dataset
from dataset_processing.encode import main
from dataset_processing.records import RecordReader

CLONE = Path(__file__).parents[2]
NAME = "curv_contour_length_14_full"
DATA_NAME = "curv_contour_length_14"
FILES = [f"{NAME}_{fold}{end}" for fold in ("train", "val") for end in (".tfrecords", "_means.npy")]


@pytest.fixture
def config(samples, tmp_path, monkeypatch) -> Config:
    """Images in a folder of their own, and an empty project folder."""
    shutil.copytree(samples / "curvy_2snakes_300", tmp_path / "data" / "curvy_2snakes_300")
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "project"))
    return Config()


def encode(*arguments: str) -> int:
    return main(["--dataset", NAME, "--threads", "2", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def positive(config: Config, number: int) -> Path:
    return config.data_root / "curvy_2snakes_300" / DATA_NAME / "imgs/0" / f"sample_{number}.png"


@pytest.mark.parametrize("form", [[], ["--float32"]])
def test_records_hold_the_images_and_their_mean(config, form, capsys):
    assert encode(*form) == 0
    assert sorted(contents(config.tf_records)) == sorted(FILES)
    files, labels = load_set(NAME, config).get_data()
    for fold in ("train", "val"):
        reader = RecordReader([config.tf_records / f"{NAME}_{fold}.tfrecords"])
        assert len(reader) == len(files[fold])
        expected = [np.asarray(Image.open(file)) for file in files[fold]]
        for number, image in enumerate(expected):
            found, label = reader[number]
            np.testing.assert_array_equal(found, image)
            assert found.dtype == (np.float32 if form else np.uint8)
            assert label == labels[fold][number]
        means = np.load(config.tf_records / f"{NAME}_{fold}_means.npy", allow_pickle=False)
        assert means.dtype == np.float64
        np.testing.assert_allclose(means, np.mean(expected, axis=0), rtol=1e-12)
    said = capsys.readouterr()
    assert "train: 14 records" in said.out and "0 images dropped" in said.out
    assert "encode train: 100% 14/14" in said.err


def test_again_gives_the_same_bytes_and_another_seed_others(config):
    encode()
    first = contents(config.tf_records)
    encode("--threads", "5")
    assert contents(config.tf_records) == first
    encode("--seed", "1")
    assert contents(config.tf_records) != first


def test_an_image_that_cannot_be_used_is_left_out_counted_and_named(config, capsys):
    positive(config, 0).unlink()
    positive(config, 1).write_bytes(b"\x89PNG\r\n\x1a\nno more")
    Image.new("L", (32, 32)).save(positive(config, 2))
    assert encode() == 1
    said = capsys.readouterr()
    reasons = (
        "there is no such file",
        "the image cannot be read",
        "the image is 32×32; im_size of the data set is 300×300",
    )
    for number, why in enumerate(reasons):
        assert f"dropped {positive(config, number)}: {why}" in said.out
    assert "error: 3 images could not be used and are left out" in said.err
    total = sum(len(open_dataset(NAME, fold, config)) for fold in ("train", "val"))
    assert total == 13


def test_too_many_that_cannot_be_used_write_nothing(config, capsys):
    for number in range(3):
        positive(config, number).unlink()
    assert encode("--max-dropped", "2") == 2
    assert "error: more than 2 images cannot be used" in capsys.readouterr().err
    assert contents(config.tf_records) == {}


def test_images_of_another_size_write_nothing(config, capsys):
    for file in (config.data_root / "curvy_2snakes_300").rglob("*.png"):
        Image.new("L", (32, 32)).save(file)
    assert encode() == 2
    said = capsys.readouterr().err
    assert "the image is 32×32; im_size of the data set is 300×300" in said
    assert contents(config.tf_records) == {}


def test_colour_images_are_stored_by_their_first_channel(config):
    grey = np.asarray(Image.open(positive(config, 0)))
    Image.fromarray(np.stack([grey, grey // 2, grey // 3], 2)).save(positive(config, 0))
    assert encode() == 0
    found = [
        np.array_equal(image, grey)
        for fold in ("train", "val")
        for image, _ in RecordReader([config.tf_records / f"{NAME}_{fold}.tfrecords"])
    ]
    assert sum(found) == 1


def test_errors_are_one_line_and_write_nothing(config, tmp_path, capsys):
    assert main(["--dataset", "curv_contour_lenght_14_full"]) == 2
    assert "did you mean 'curv_contour_length_14_full'?" in capsys.readouterr().err
    meta = positive(config, 0).parents[2] / "metadata" / "combined.npy"
    np.save(meta, np.load(meta)[:, :1])
    assert encode() == 2
    assert f"error: {meta}: metadata has the shape (8, 1)" in capsys.readouterr().err
    shutil.rmtree(config.data_root)
    assert encode() == 2
    said = capsys.readouterr().err
    assert f"no images in {config.data_root / 'curvy_2snakes_300' / DATA_NAME}" in said
    assert "dataset_processing.encode" in said and "dataset_processing.generate" in said
    assert said.count("\n") == 1
    assert not config.tf_records.exists()


def test_a_generated_set_is_not_written_over(config, capsys):
    config.tf_records.mkdir(parents=True)
    (config.tf_records / f"{NAME}.generated.json").write_text("{}")
    assert encode() == 2
    said = capsys.readouterr().err
    assert f"{NAME}.generated.json: a generated set of this name is there" in said
    assert len(contents(config.tf_records)) == 1


LIMITED = """
import resource, signal, sys
from dataset_processing.encode import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.exit(main(sys.argv[1:]))
"""


def test_no_room_leaves_the_older_files_whole(config):
    """A limit on the size of files stands in for a full disk."""
    encode()
    before = contents(config.tf_records)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "--dataset", NAME, "--float32"],
        cwd=CLONE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"error: {config.tf_records / FILES[0]}: could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(config.tf_records) == before


SLOW = """
import signal, sys, time
from dataset_processing import encode
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits its neglect
read = encode.Encoder._read
def slow(self, file):
    time.sleep(0.3)
    return read(self, file)
encode.Encoder._read = slow
sys.exit(encode.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle(config, stop):
    """What is left is not taken for a data set, and the same command then writes it whole."""
    running = subprocess.Popen(
        [sys.executable, "-c", SLOW, "--dataset", NAME, "--threads", "1"],
        cwd=CLONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = config.tf_records / f"{FILES[0]}.partial"
    deadline = time.monotonic() + 60
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, stop)
    _, said = running.communicate(timeout=60)
    code = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[stop]
    assert running.returncode == code, said
    assert "Traceback" not in said
    assert list(contents(config.tf_records)) == ([partial.name] if code == -9 else [])
    assert "read from" in open_dataset(NAME, "train", config).describe()  # the images, no records
    assert encode() == 0
    assert sorted(contents(config.tf_records)) == sorted(FILES)
    assert len(open_dataset(NAME, "train", config)) == 14
