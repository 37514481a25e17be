"""Sets written to disk: the same bytes however they come about, and nothing half-written."""

import errno
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures.process import _ExecutorManagerThread
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from config import Config
from dataset_processing import forms, open_set
from dataset_processing.forms import Job, encode_png
from dataset_processing.generate import described, generate_set, generate_small, job_of, parser
from dataset_processing.generate import main as generate_main
from dataset_processing.generated import GENERATED, SMALL_SET, set_settings
from dataset_processing.layouts import list_images
from dataset_processing.pathfinder import Pathfinder, Settings, generate
from dataset_processing.records import RecordReader
from support.errors import SystemRefusal, UserError
from support.shell import exit_code

CLONE = Path(__file__).resolve().parents[2]
SMALL = Settings(contour_length=4, window=120, seed_distance=12, border=8, distractors=4)
COMMAND = [
    sys.executable, "-m", "dataset_processing.generate", "--length", "4", "--dataset", "small",
    "--window", "120", "--seed-distance", "12", "--border", "8", "--distractors", "4",
]  # fmt: skip


def main(arguments: list[str]) -> int:
    return exit_code(generate_main, arguments)


def job(folder: Path, **changes) -> Job:
    values = {"name": "small", "settings": SMALL, "seed": 5, "count": 60, "folder": folder}
    return Job(**{**values, "shard_images": 16, **changes})


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file in a folder, by its name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def run(folder: Path, *arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, "--output", str(folder), *arguments],
        cwd=CLONE, capture_output=True, text=True, check=False, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["compact", "float32"])
def test_records_hold_the_images(tmp_path, form):
    generate_set(job(tmp_path, form=form))
    train = RecordReader(sorted(tmp_path.glob("small_train-*-of-00004.tfrecords")))
    val = RecordReader([tmp_path / "small_val.tfrecords"])
    assert (len(train), len(val)) == (54, 6)
    images, labels = generate(4, 60, 5, window=120, seed_distance=12, border=8, distractors=4)
    for number in range(60):
        image, label = train[number] if number < 54 else val[number - 54]
        assert image.dtype == (np.uint8 if form == "compact" else np.float32)
        np.testing.assert_array_equal(image, images[number])
        assert label == labels[number]
    means = np.load(tmp_path / "small_train_means.npy")
    np.testing.assert_allclose(means, images[:54].mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(
        np.load(tmp_path / "small_val_means.npy"), images[54:].mean(axis=0), atol=1e-12
    )
    assert not list(tmp_path.glob("*.partial"))


def test_the_mean_image_is_of_all_images_of_a_long_shard(tmp_path):
    settings = Settings(**GENERATED[SMALL_SET])
    generate_set(Job("small", settings, 0, 300, tmp_path, val_fraction=0.0))
    images, _ = Pathfinder(settings, 0).images(range(300))
    found = np.load(tmp_path / "small_train_means.npy")
    np.testing.assert_allclose(found, images.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("form", ["compact", "webdataset", "png", "png2025"])
def test_files_do_not_depend_on_the_number_of_workers(tmp_path, form):
    generate_set(job(tmp_path / "one", form=form), workers=1)
    generate_set(job(tmp_path / "two", form=form), workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) >= 6


@pytest.mark.parametrize(
    "form, finished",
    [
        ("tfrecords", "*.tfrecords"),
        pytest.param("webdataset", "*.tar", marks=pytest.mark.slow),
        pytest.param("png", "small/metadata/*.npy", marks=pytest.mark.slow),
        pytest.param("png2025", "small/metadata/*.npy", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, form, finished):
    arguments = ["--count", "3000", "--shard-images", "150", "--workers", "2", "--format", form]
    assert run(tmp_path / "whole", *arguments).returncode == 0
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [*COMMAND, "--output", str(folder), *arguments],
        cwd=CLONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(folder.glob(finished))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(folder.glob(finished)))
    assert done < 20
    again = run(folder, *arguments)
    assert again.returncode == 0, again.stderr
    written_now = int(again.stdout.split("(")[1].split()[0])
    assert 0 < written_now < 3000
    assert digests(folder) == digests(tmp_path / "whole")


@pytest.mark.parametrize("what", ["process", "thread"])
def test_a_process_that_cannot_be_started_is_one_line(tmp_path, monkeypatch, what):
    """And those that could be do not stay; ``what`` says what the system has no room for."""
    fork, forks = os.fork, itertools.count()

    def limited():
        if next(forks) == 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    def none(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        if what == "process":
            patch.setattr(os, "fork", limited)
        else:
            patch.setattr(_ExecutorManagerThread, "start", none)
        with pytest.raises(SystemRefusal, match=r"process that writes small .* cannot be started"):
            generate_set(job(tmp_path), workers=3)
    for child in multiprocessing.active_children():
        child.join(10)
    assert not multiprocessing.active_children()
    assert not [*tmp_path.iterdir()]


def test_a_range_of_indices_is_part_of_the_whole(tmp_path):
    generate_set(job(tmp_path, start=40, count=20, val_fraction=0.0))
    part = RecordReader(sorted(tmp_path.glob("*.tfrecords")))
    images, labels = generate(4, 60, 5, window=120, seed_distance=12, border=8, distractors=4)
    assert len(part) == 20
    for number in range(20):
        np.testing.assert_array_equal(part[number][0], images[40 + number])
        assert part[number][1] == labels[40 + number]


@pytest.mark.parametrize("masked", [{}, {"form": "webdataset", "masks": True}])
def test_a_finished_set_is_left_alone(tmp_path, masked):
    generate_set(job(tmp_path, **masked))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert "(0 of them written now" in generate_set(job(tmp_path, **masked))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_lost_shard_is_written_again(tmp_path):
    generate_set(job(tmp_path))
    before = digests(tmp_path)
    (tmp_path / "small_train-00002-of-00004.tfrecords").unlink()
    (tmp_path / "small_train_means.npy").unlink()
    generate_set(job(tmp_path))
    assert digests(tmp_path) == before


def test_a_shard_of_a_folder_is_written_again_where_a_class_is_not_whole(tmp_path):
    generate_set(job(tmp_path, form="png"))
    before = digests(tmp_path)
    (tmp_path / "small_neg" / "metadata" / "1.npy").unlink()
    generate_set(job(tmp_path, form="png"))
    assert digests(tmp_path) == before


def test_a_full_disk_leaves_no_broken_shard(tmp_path):
    """A limit on the size of a file stands in for the disk; a PNG's metadata is what exceeds it."""

    for form in ("tfrecords", "webdataset", "png", "png2025"):
        folder = tmp_path / form
        found = run(
            folder, "--count", "200", "--workers", "2", "--shard-images", "100", "--format", form,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        )  # fmt: skip
        assert found.returncode == 2
        assert "error: " in found.stderr
        assert "File too large" in found.stderr
        assert "Traceback" not in found.stderr
        assert list(folder.iterdir()) == []


def test_metadata_of_one_class_are_not_left_without_the_others(tmp_path, monkeypatch):
    write, calls = forms.write_bytes, itertools.count()

    def full(path, content):
        if next(calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(forms, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        generate_set(job(tmp_path, count=8, form="png"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["tfrecords", "png", "png2025"])
def test_a_command_that_came_to_nothing_is_not_in_the_way_of_the_right_one(tmp_path, form):
    """Its last images do not fit: those before them go too, as their shard is not whole."""
    wrong = ["--length", "14", "--border", "2", "--image-tries", "10"]  # image 300
    right = ["--length", "4", "--window", "120", "--seed-distance", "12", "--count", "10"]
    same = ["--dataset", "small", "--format", form, "--output", str(tmp_path)]
    assert main([*wrong, "--count", "500", *same]) == 2
    assert list(tmp_path.iterdir()) == []
    assert main([*right, *same]) == 0


@pytest.mark.parametrize("form", ["compact", "png2025"])
def test_what_is_written_before_a_command_fails_is_gone_on_from(tmp_path, form):
    whole = job(tmp_path, count=16, val_fraction=0.0, form=form)
    generate_set(whole)
    before = digests(tmp_path)
    with pytest.raises(UserError, match="another set"):
        generate_set(replace(whole, seed=6))
    with pytest.raises(KeyboardInterrupt), described(whole):
        raise KeyboardInterrupt
    assert digests(tmp_path) == before


def test_another_process_that_writes_the_set_is_waited_for_and_told(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with described(job(tmp_path)), pytest.raises(SystemRefusal, match="another process is writing"):
        generate_set(job(tmp_path))
    assert waited and [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_set_that_another_process_gave_up_meanwhile_is_not_gone_on_with(tmp_path, monkeypatch):
    """That one took the description away: files would be written that no later run knows."""
    other = described(job(tmp_path))
    other.__enter__()

    def give_up(_):
        other.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    monkeypatch.setattr(time, "sleep", give_up)
    with pytest.raises(SystemRefusal):
        generate_set(job(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_another_set_in_the_same_place_is_refused(tmp_path):
    generate_set(job(tmp_path))
    with pytest.raises(UserError, match=r"another set of this name is there: seed 5 \(asked for"):
        generate_set(job(tmp_path, seed=6))
    description = tmp_path / "small.generated.json"
    told = json.loads(description.read_text())
    description.write_text(json.dumps({**told, "fingerprint": "1f"}))
    with pytest.raises(UserError, match="fingerprint '1f'"):
        generate_set(job(tmp_path))
    description.write_text(json.dumps({key: told[key] for key in told if key != "seed"}))
    with pytest.raises(UserError, match="seed None"):
        generate_set(job(tmp_path))
    del told["fingerprint"]  # as a version wrote it that had none
    description.write_text(json.dumps(told))
    assert "(0 of them written now" in generate_set(job(tmp_path))
    description.unlink()
    (tmp_path / "small_val.tfrecords").unlink()
    with pytest.raises(UserError, match=r"00000-of-00004.* was not written by this command"):
        generate_set(job(tmp_path))


def test_a_shard_of_another_length_is_named(tmp_path):
    generate_set(job(tmp_path))
    shorter = tmp_path / "small_val.tfrecords"
    (tmp_path / "small_train-00001-of-00004.tfrecords").write_bytes(shorter.read_bytes())
    with pytest.raises(UserError, match=r"00001-of-00004.tfrecords: holds 6 images where 1"):
        generate_set(job(tmp_path))
    shorter.write_bytes((tmp_path / "small_train-00000-of-00004.tfrecords").read_bytes())
    (tmp_path / "small_train-00001-of-00004.tfrecords").unlink()
    with pytest.raises(UserError, match=r"small_val.tfrecords: holds 13 images where 6 belong"):
        generate_set(job(tmp_path))


def test_a_damaged_tar_file_is_named(tmp_path):
    generate_set(job(tmp_path, count=4, val_fraction=0.0, form="webdataset"))
    (tmp_path / "small_train.tar").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(UserError, match=r"small_train\.tar: is no tar file; delete it"):
        generate_set(job(tmp_path, count=4, val_fraction=0.0, form="webdataset"))


def test_the_last_images_validate_and_shards_are_as_even_as_can_be(tmp_path):
    folds = job(tmp_path, start=40, count=16).folds()
    assert folds == {"train": range(40, 54), "val": range(54, 56)}  # 1.6 of them, rounded
    assert [len(shard) for shard in job(tmp_path, count=40).shards()] == [12, 12, 12, 4]
    assert [len(shard) for shard in job(tmp_path, count=32, val_fraction=0.0).shards()] == [16] * 2


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    return generate(4, 60, 5, window=120, seed_distance=12, border=8, distractors=4)


@pytest.mark.parametrize("form", ["png", "png2020", "lra", "png2025"])
def test_folders_lie_in_their_layouts(tmp_path, form):
    generate_set(job(tmp_path, form=form, masks=True))
    files, others = list_images(tmp_path / "small", tmp_path / "small_neg", "metadata/combined.npy")
    images, labels = images_and_labels()
    assert (len(files), len(others)) == (labels.sum(), 60 - labels.sum())
    for listed, label in ((files, 1), (others, 0)):
        for file in listed:
            index = int(Path(file).stem.removeprefix("sample_"))
            assert labels[index] == label
            np.testing.assert_array_equal(np.array(Image.open(file)), images[index])
            mask = np.array(Image.open(file.replace("/imgs/", "/seg/")))
            assert set(np.unique(mask)) == {0, 255}
            mask = mask > 0
            assert (images[index][mask] > 127).all()
            assert 25 < mask.sum() < 120


def test_the_metadata_of_2018_have_the_releases_columns(tmp_path):
    generate_set(job(tmp_path, form="png"))
    rows = np.load(tmp_path / "small" / "metadata" / "combined.npy")
    assert rows.shape == (images_and_labels()[1].sum(), 11)
    assert rows[0, 3:].tolist() == ["1.8", "4", "1", "4", "5", "2", "3", "1"]
    several = replace(SMALL, contour_length=6, margin=(2, 3), paddle_contrasts=(0.5, 1.0))
    alone = job(tmp_path / "several", settings=several, count=9, shard_images=1, form="png")
    generate_set(alone)  # in each shard there is one class
    rows = [np.load(alone.root(label) / "metadata" / "combined.npy").tolist() for label in (0, 1)]
    found = {int(row[2]): row[-2:] for part in rows for row in part}
    assert found == {n: [str(alone.generator.margin(n)), "2"] for n in range(9)}
    assert len({margin for margin, _ in found.values()}) == 2
    assert {(row[4], row[5], row[6]) for part in rows for row in part} == {("6", "2", "4")}


@pytest.mark.parametrize("size, length", [(32, 14), (64, 9), (128, 14), (256, 6)])
def test_long_range_arenas_sets_are_read_by_its_rules(tmp_path, size, length):
    """Its builder's: rows of text, the label in column 3, files named by number."""
    name = "curv_baseline" if length == 6 else f"curv_contour_length_{length}"
    arguments = ["--dataset", f"pathfinder{size}_{name}", "--format", "lra", "--masks",
                 "--count", "20", "--shard-images", "8", "--output", str(tmp_path)]  # fmt: skip
    assert main(arguments) == 0
    folder, read = tmp_path / name, {}
    for file in sorted((folder / "metadata").glob("*.npy"), key=lambda path: int(path.stem)):
        for line in file.read_text().splitlines():
            row = line.split(" ")
            read[int(row[2])] = (row[0], row[1], int(row[3]), int(row[5]))
    assert sorted(read) == list(range(20))
    generator = Pathfinder(Settings(**set_settings(f"pathfinder{size}_{name}")), 0)
    for index, (place, file, label, paddles) in read.items():
        stimulus = generator.stimulus(index)
        np.testing.assert_array_equal(np.array(Image.open(folder / place / file)), stimulus.image)
        assert (stimulus.image.shape, label, paddles) == ((size, size), stimulus.label, length)
        mask = np.array(Image.open(folder / place.replace("imgs", "seg") / file)) > 0
        near = ndimage.binary_dilation(mask, np.ones((3, 3)))
        middles = stimulus.paddles[stimulus.marked_snakes[0]].mean(axis=1).round().astype(int)
        assert near[tuple(middles.T)].mean() > 0.9


def test_webdataset_is_read_by_its_own_library(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    generate_set(job(tmp_path, form="webdataset", masks=True))
    images, labels = images_and_labels()
    for name, indices in (("train-{00000..00003}-of-00004", range(54)), ("val", range(54, 60))):
        data = webdataset.WebDataset(str(tmp_path / f"small_{name}.tar"), shardshuffle=False)
        samples = list(data.decode("l8").to_tuple("png", "seg.png", "cls", "json"))
        for index, (image, mask, label, told) in zip(indices, samples, strict=True):
            np.testing.assert_array_equal(image, images[index])
            assert (label, told["index"], told["margin"]) == (labels[index], index, 3)
            assert 25 < (mask > 0).sum() < 120 and (images[index][mask > 0] > 127).all()
        (first, *_) = sorted(tmp_path.glob(f"small_{name[:3]}*.tar"))
        assert first.read_bytes().endswith(bytes(1024))  # as POSIX has an archive end
    assert {path.suffix for path in tmp_path.iterdir()} == {".tar", ".json"}
    described = json.loads((tmp_path / "small.generated.json").read_text())
    assert (described["seed"], described["settings"]["window"]) == (5, 120)
    again = job(tmp_path / "other", form="png").description()["fingerprint"]
    assert described["fingerprint"] == again  # the images', whatever their form
    for other in ({"seed": 6}, {"start": 1}, {"count": 61}, {"settings": Settings(4)}):
        assert described["fingerprint"] != job(tmp_path, **other).description()["fingerprint"]


def test_png_bytes_are_png():
    image = np.random.default_rng(0).integers(0, 256, (37, 53)).astype(np.uint8)
    decoded = Image.open(io.BytesIO(encode_png(image)))
    decoded.verify()
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(encode_png(image)))), image)


def test_compact_records_are_small(tmp_path):
    generate_set(Job("curv", Settings(), 0, 100, tmp_path))
    size = sum(path.stat().st_size for path in tmp_path.glob("*.tfrecords"))
    assert size / 100 < 3500


def test_the_demonstrations_set_has_the_size_that_its_module_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    config = Config()
    generate_small(config, count=40)
    data = open_set("curv_contour_length_3_small", config)
    assert len(data.fold("train")) == 36
    assert (data.im_size, data.input_size) == ((40, 40), (20, 20))
    first = RecordReader([config.tf_records / f"{SMALL_SET}_train.tfrecords"])[0][0]
    expected = Pathfinder(Settings(**GENERATED[SMALL_SET]), 0).image(0)[0]
    np.testing.assert_array_equal(first, expected)


def test_command_line_settings_reach_the_images(tmp_path, capsys):
    arguments = ["--length", "4", "--window", "120", "--seed-distance", "12", "--border", "8",
                 "--count", "10", "--margin", "2", "3", "--paddle-contrasts", "0.5",
                 "--single-paddles", "auto", "--output", str(tmp_path)]  # fmt: skip
    assert main(arguments) == 0
    assert "10 images" in capsys.readouterr().out
    written = json.loads((tmp_path / "curv_contour_length_4_full.generated.json").read_text())
    assert written["settings"]["margin"] == [2, 3]
    assert written["settings"]["paddle_contrasts"] == [0.5]
    assert written["settings"]["single_paddles"] is None


def test_what_the_command_line_asks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "data"))

    def asked(*arguments: str) -> Job:
        return job_of(parser().parse_args(arguments))

    usual = asked()
    assert usual == Job("curv_contour_length_14_full", Settings(14), 0, 10_000, Config().tf_records)
    assert asked("--length", "6").name == "curv_baseline_full"
    assert asked("--dataset", SMALL_SET).count == 12_000
    assert asked("--val-fraction", "0").val_fraction == 0
    assert asked("--continuity", "1").settings.continuity == 1
    numbers = "--seed 3 --start 7 --count 5 --shard-images 4 --output there --float32"
    expected = Job(usual.name, Settings(14), 3, 5, Path("there"), "float32", 0.1, 4, False, 7)
    assert asked(*numbers.split()) == expected
    for arguments, place in (
        ("--format png", "curvy_2snakes_300/curv_contour_length_14"),
        ("--format lra --dataset pathfinder32", "pathfinder32/curv_contour_length_14"),
        ("--format lra --dataset pathfinder64_curv_baseline", "pathfinder64/curv_baseline"),
        ("--format png --dataset my_full_set --length 4", "curvy_2snakes_300/my_full_set"),
    ):
        found = asked(*arguments.split())
        assert found.root(1) == tmp_path / "data" / place and found.val_fraction == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count", "0"], "--count: must be a whole number of at least 1, found '0'"),
        (["--length", "0"], "--length: must be a whole number of at least 2, found '0'"),
        (["--start", "-1"], "--start: must be a whole number of at least 0"),
        (["--length", "14", "--window", "100"], "image 0: two snakes of 14 paddles did not fit"),
        (["--dataset", "curv_baselin_full"], "curv_baseline_full"),
        (["--dataset", "curv_baseline_ful"], "curv_baseline_full"),
        (["--dataset", "my set/é", "--length", "4"], "name without / or"),
        (["--dataset", "my_stream", "--length", "4"], "'my_stream': a name that ends in _stream"),
        (["--dataset", "curv_baseline_full", "--length", "9"], "curv_baseline_full means contours"),
        (["--dataset", "pathfinder32", "--length", "9", "--format", "lra"], "of 14 paddles"),
        (["--dataset", "curv_contour_length_7_mine", "--length", "9"], "of 7 paddles"),
        (["--dataset", "pathfinder32", "--window", "64"], "images of 32×32, not of 64×64"),
        (["--float32", "--format", "lra"], "--format lra"),
        (["--float32", "--format", "webdataset"], "--format webdataset"),
        (["--val-fraction", "0.2", "--format", "png"], "--val-fraction has no place"),
        (["--masks"], "masks have no place in records"),
        (["--masks", "--float32"], "masks have no place in records"),
        (["--val-fraction", "-0.5"], "val_fraction: a share"),
        (["--workers", "0"], "--workers: must be a whole number of at least 1"),
        (["--val-fraction", "1"], "val_fraction: a share"),
        (["--float32", "--window", "200", "240"], "float32 form holds square images"),
    ],
)
def test_command_line_errors_are_one_sentence(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    found = capsys.readouterr().err.strip().splitlines()[-1]
    assert found.startswith("error: ")
    assert message in found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["tfrecords", "png"])
def test_a_set_is_opened_by_the_name_that_it_was_given(tmp_path, monkeypatch, form):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "out"))
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "data"))
    name = "my set [1] é"
    arguments = ["--length", "4", "--window", "120", "--seed-distance", "12", "--count", "20",
                 "--shard-images", "8", "--dataset", name, "--format", form]  # fmt: skip
    assert main(arguments) == 0
    data = open_set(name, Config())
    assert sum(len(data.fold(fold)) for fold in ("train", "val")) >= 10
    with pytest.raises(UserError, match="without / or"):
        open_set("my set/é", Config())
    (description,) = tmp_path.rglob("*.generated.json")
    description.unlink()
    assert main(arguments) == 2  # files of that name that it did not write


def test_preview_is_a_sheet_of_coloured_stimuli(tmp_path, capsys):
    file = tmp_path / "sheet.png"
    assert main(["--preview", str(file), "--length", "6"]) == 0
    assert str(file) in capsys.readouterr().out
    sheet = np.array(Image.open(file)).astype(int)
    assert sheet.shape == (2 * 324, 4 * 306 + 6, 3)
    assert (np.ptp(sheet, axis=2) > 100).sum() > 8 * 2 * 50  # two coloured markers each
    assert main(["--preview", str(file), "--dataset", "pathfinder32"]) == 0
    assert Image.open(file).size == (4 * 38 + 6, 2 * 56)
    small = "--window 120 --seed-distance 10 --border 4 --paddle-length 3 --margin 2".split()
    sheets = set()
    for seed in ("0", "1"):
        assert main(["--preview", str(file), *small, "--seed", seed]) == 0
        assert Image.open(file).size == (4 * 126 + 6, 6 * 144)  # of three lengths
        sheets.add(file.read_bytes())
    assert len(sheets) == 2
