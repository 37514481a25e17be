"""Finding a data set by its name: records, images, and what is said where there are none."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from config import Config
from dataset_processing import encode, open_set, prepare
from dataset_processing.images import BadImageError
from dataset_processing.records import RecordReader, RecordWriter
from support.errors import MissingError, UserError

NAME = "curv_contour_length_14_full"


@pytest.fixture
def config(samples, tmp_path, monkeypatch) -> Config:
    monkeypatch.setenv("HGRU_DATA_ROOT", str(samples))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    return Config()


def in_shards(path: Path, number: int) -> None:
    """Replaces a record file by shards."""
    records = list(RecordReader([path]))
    path.unlink()
    for part in range(number):
        shard = path.with_name(f"{path.stem}-{part:05d}-of-{number:05d}.tfrecords")
        with RecordWriter(shard) as writer:
            for image, label in records[part::number]:
                writer.write(image, label)


def test_images_are_read_where_there_are_no_records(config):
    train, val = (open_set(NAME, config).fold(fold) for fold in ("train", "val"))
    assert (len(train), len(val)) == (14, 2)
    for index in (3, 14 + 3):
        image, label = train[index]
        assert (image.shape, image.dtype) == ((300, 300), np.uint8)
        assert label == (0 if "_neg/" in train.name(index) else 1)
    assert train.name(3) == train.name(17)
    assert (
        train.describe()
        == f"{NAME} train: 14 images of 300×300 pixels, read from {train.files[0][:-20]}"
    )


def test_records_and_images_are_the_same_split(config):
    images = {fold: open_set(NAME, config).fold(fold) for fold in ("train", "val")}
    encode.main(["--dataset", NAME])
    for fold, expected in images.items():
        records = open_set(NAME, config).fold(fold)
        assert records.name(0) == f"{NAME}_{fold}.tfrecords record 0"
        for index in range(len(expected)):
            np.testing.assert_array_equal(records[index][0], expected[index][0])
            assert records[index][1] == expected[index][1]
        assert records.name(len(expected) + 1) == records.name(1)


def test_the_records_that_tensorflow_wrote(config, samples):
    shutil.copytree(samples / "tf_records", config.tf_records)
    train = open_set(NAME, config).fold("train")
    assert (len(train), train[0][0].dtype) == (2, np.float32)
    assert "train: 2 records of 300×300 pixels in 1 file (0.7 MB)" in train.describe()


def test_shards_are_one_fold(config):
    encode.main(["--dataset", NAME])
    path = config.tf_records / f"{NAME}_train.tfrecords"
    in_shards(path, 3)
    train = open_set(NAME, config).fold("train")
    assert len(train) == 14
    assert "14 records of 300×300 pixels in 3 files" in train.describe()
    shards = sorted(config.tf_records.glob(f"{NAME}_train-*"))
    shutil.copyfile(shards[0], path)
    with pytest.raises(UserError, match="in several versions"):
        open_set(NAME, config).fold("train")
    path.unlink()
    shards[1].unlink()
    with pytest.raises(MissingError, match="lacks 1 of its 3 shards: 1"):
        open_set(NAME, config).fold("train")


def test_a_fold_alone_is_not_enough(config):
    encode.main(["--dataset", NAME])
    (config.tf_records / f"{NAME}_val.tfrecords").unlink()
    with pytest.raises(MissingError, match=r"_val.tfrecords: missing, though the other fold"):
        open_set(NAME, config).fold("val")


def test_a_fingerprint_follows_the_contents_not_the_place(config, tmp_path, monkeypatch):
    def fingerprints() -> list[str]:
        return [open_set(NAME, Config()).fold(fold).fingerprint() for fold in ("train", "val")]

    from_images = fingerprints()
    encode.main(["--dataset", NAME])
    before = fingerprints()
    assert len({*before, *from_images}) == 4
    shutil.copytree(config.tf_records, tmp_path / "elsewhere" / "tf_records")
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "elsewhere"))
    assert fingerprints() == before
    encode.main(["--dataset", NAME, "--seed", "1"])
    assert fingerprints() != before


def test_missing_data_under_a_path_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "mine"))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "out"))
    config = Config()
    for attempt in (lambda: open_set(NAME, config).fold("train"),):
        with pytest.raises(MissingError) as caught:
            attempt()
        said = str(caught.value)
        assert str(tmp_path / "mine" / "curvy_2snakes_300" / "curv_contour_length_14") in said
        assert str(tmp_path / "out" / "tf_records") in said
        assert f"python -m dataset_processing.encode --dataset {NAME}" in said
        assert f"python -m dataset_processing.generate --dataset {NAME}" in said
    assert list(tmp_path.iterdir()) == []


def test_prepare_leaves_data_that_is_there(config):
    prepare(NAME, config)
    assert not config.tf_records.exists()
    encode.main(["--dataset", NAME])
    before = {path: path.stat().st_mtime_ns for path in config.tf_records.iterdir()}
    prepare(NAME, config)
    assert {path: path.stat().st_mtime_ns for path in config.tf_records.iterdir()} == before


def test_a_generated_set_beside_images_is_not_chosen_in_silence(config):
    encode.main(["--dataset", NAME])
    (config.tf_records / f"{NAME}.generated.json").write_text("{}")
    with pytest.raises(UserError, match="is there twice"):
        open_set(NAME, config).fold("train")


def test_names_that_are_not_known(config):
    cases = (
        ("curv_contour_lenght_14_full", "did you mean 'curv_contour_length_14_full'"),
        ("base", "data set 'base' is not known"),
        ("pathfinder_14_steam", "did you mean 'pathfinder_14_stream'"),
    )
    for name, message in cases:
        with pytest.raises(UserError, match=message):
            open_set(name, config).fold("train")
    with pytest.raises(UserError, match="fold 'vall' is not known; did you mean 'val'"):
        open_set(NAME, config).fold("vall")


def test_damaged_files_open_where_bad_records_are_skipped(config):
    encode.main(["--dataset", NAME])
    path = config.tf_records / f"{NAME}_train.tfrecords"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadImageError, match=f"{path}: record 13: the file ends inside it"):
        open_set(NAME, config).fold("train")
    kept = open_set(NAME, config, on_bad_record="skip").fold("train")
    assert len(kept) == 14 and kept[12][0].shape == (300, 300)
    with pytest.raises(BadImageError, match="record 13"):
        kept[13]


def test_a_label_that_is_no_class(config):
    config.tf_records.mkdir()
    path = config.tf_records / f"{NAME}_train.tfrecords"
    with RecordWriter(path) as writer:
        for label in (0, 1, 2):
            writer.write(np.eye(30, dtype=np.uint8) * 255, label)
    train = open_set(NAME, config).fold("train")
    with pytest.raises(BadImageError, match=f"{path}: record 2: its label is 2; expected 0 or 1"):
        train[2]


def test_an_empty_record_file(config):
    for fold in ("train", "val"):
        with RecordWriter(config.tf_records / f"{NAME}_{fold}.tfrecords"):
            pass
    with pytest.raises(UserError, match="no record in it"):
        open_set(NAME, config).fold("train")
