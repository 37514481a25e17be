"""Encoding: what is in the records, what is dropped, and what a stop or a full disk leaves."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import Config
from dataset_processing import encode as encode_module
from dataset_processing import load_set, open_set
from dataset_processing.records import RecordReader
from support.shell import exit_code


def main(arguments: list[str]) -> int:
    return exit_code(encode_module.main, arguments)


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
    for number, why in enumerate(("No such file", "damaged PNG", "32×32")):
        (line,) = (x for x in said.out.splitlines() if f"{positive(config, number)}" in x)
        assert line.startswith("  dropped ") and why in line
    assert "error: 3 images could not be used and are left out" in said.err
    folds = {name: open_set(NAME, config).fold(name) for name in ("train", "val")}
    assert sum(map(len, folds.values())) == 13
    for name, fold in folds.items():  # the mean is that of the images that are left
        mean = np.mean([fold[number][0] for number in range(len(fold))], axis=0)
        found = np.load(config.tf_records / f"{NAME}_{name}_means.npy")
        np.testing.assert_allclose(found, mean, rtol=1e-12)


def test_too_many_that_cannot_be_used_write_nothing(config, capsys):
    for number in range(3):
        positive(config, number).unlink()
    assert encode("--max-dropped", "2") == 2
    assert "error: more than 2 images cannot be used" in capsys.readouterr().err
    assert contents(config.tf_records) == {}


def test_images_of_another_size_write_nothing(config, capsys):
    for file in load_set(NAME, config).get_data()[0]["val"]:
        Image.open(file).resize((32, 32)).save(file)
    assert encode() == 2
    said = capsys.readouterr().err
    assert "32×32" in said and "300×300" in said and said.startswith("error: ")
    assert not config.tf_records.exists()


def test_images_of_a_size_of_their_own_are_encoded_as_they_are(config):
    for file in (config.data_root / "curvy_2snakes_300").rglob("*.png"):
        Image.open(file).resize((64, 64)).save(file)
    assert encode() == 0
    data = open_set(NAME, config)
    assert (data.im_size, data.input_size) == ((64, 64), (32, 32))


def test_colour_images_are_stored_by_their_luminance(config, capsys):
    grey = np.asarray(Image.open(positive(config, 0)))
    colour = Image.fromarray(np.stack([grey // 3, grey // 2, grey], 2))
    colour.save(positive(config, 0))
    assert encode() == 0
    assert f"warning: {NAME} train" in capsys.readouterr().err
    found = [
        np.array_equal(image, np.asarray(colour.convert("L")))
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
    said = capsys.readouterr().err
    assert said.startswith(f"error: {meta}: ") and "(8, 1)" in said
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
from support.shell import exit_code
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.exit(exit_code(main, sys.argv[1:]))
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
from support.shell import exit_code
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits its neglect
encode_image = encode.encode_image
def slow(*image):
    time.sleep(0.3)
    return encode_image(*image)
encode.encode_image = slow
sys.exit(exit_code(encode.main, sys.argv[1:]))
"""


def test_a_thread_that_cannot_be_started_is_one_line(config, monkeypatch, capsys):
    start = threading.Thread.start

    def none(own):
        if "ThreadPoolExecutor" in own.name:
            raise RuntimeError("can't start new thread")
        start(own)

    monkeypatch.setattr(threading.Thread, "start", none)
    assert encode() == 2
    assert "a thread that reads images cannot be started" in capsys.readouterr().err
    assert not [*contents(config.tf_records)]


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
    assert "read from" in open_set(NAME, config).fold("train").describe()  # the images, no records
    assert encode() == 0
    assert sorted(contents(config.tf_records)) == sorted(FILES)
    assert len(open_set(NAME, config).fold("train")) == 14
