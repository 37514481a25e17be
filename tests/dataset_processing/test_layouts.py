"""The three layouts on disk, the labels they give, and the split."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from config import Config
from dataset_processing import load_set
from dataset_processing.curv_baseline_full import data_processing as Baseline
from dataset_processing.curv_contour_length_9_full import data_processing as Length9
from dataset_processing.curv_contour_length_14_full import data_processing as Length14
from dataset_processing.layouts import list_images, read_metadata
from support.errors import MissingError, UserError

META = "metadata/combined.npy"
DATA_NAME = "curv_contour_length_14"


@pytest.fixture
def labelled(samples, tmp_path) -> Path:
    """A copy of the set in the layout of 2020."""
    folder = tmp_path / DATA_NAME
    shutil.copytree(samples / "pathfinder_labelled" / DATA_NAME, folder)
    return folder


def listed(folder: Path) -> tuple[list[str], list[str]]:
    return list_images(folder, folder.with_name(f"{folder.name}_neg"), META)


def config_at(monkeypatch, data_root: Path) -> Config:
    monkeypatch.setenv("HGRU_DATA_ROOT", str(data_root))
    return Config()


@pytest.mark.parametrize(
    ("module", "name", "data_name", "each"),
    [
        (Baseline, "curv_baseline_full", "curv_baseline", 4),
        (Length9, "curv_contour_length_9_full", "curv_contour_length_9", 4),
        (Length14, "curv_contour_length_14_full", "curv_contour_length_14", 8),
    ],
)
def test_a_data_set_carries_what_the_release_has(
    samples, monkeypatch, module, name, data_name, each
):
    data_set = module(config_at(monkeypatch, samples))
    expected = {
        "name": name,
        "data_name": data_name,
        "negative": f"{data_name}_neg",
        "contour_dir": samples / "curvy_2snakes_300",
        "im_size": [300, 300],
        "model_input_image_size": [150, 150, 1],
        "max_ims": 125000,
        "output_size": [1],
        "balance": True,
        "shuffle": True,
        "cv_split": 0.9,
        "folds": {"train": "train", "val": "val"},
        "meta": "metadata/combined.npy",
        "score_metric": "accuracy",
        "default_loss_function": "cce",
    }
    assert {key: getattr(data_set, key) for key in expected} == expected
    files, labels = data_set.get_data()
    assert [len(files["train"]), len(files["val"])] == [round(1.8 * each), round(0.2 * each)]
    for fold in ("train", "val"):
        for file, label in zip(files[fold], labels[fold], strict=True):
            assert Path(file).is_file()
            assert label == (0 if f"/{data_name}_neg/" in file else 1)
    every = files["train"] + files["val"]
    assert len(set(every)) == 2 * each


def test_layout_of_2018(samples):
    folder = samples / "curvy_2snakes_300" / DATA_NAME
    positives, negatives = listed(folder)
    assert positives == [f"{folder}/imgs/0/sample_{i}.png" for i in range(8)]
    assert negatives == [f"{folder}_neg/imgs/0/sample_{i}.png" for i in range(8)]


@pytest.mark.parametrize("kept", ["0.npy", "0_as_text.npy", "both"])
def test_layout_of_2020_and_of_long_range_arena(labelled, kept):
    text = (labelled / "metadata" / "0_as_text.npy").read_text()
    for file in (labelled / "metadata").iterdir():
        if kept not in ("both", file.name):
            file.unlink()
    positives, negatives = listed(labelled)
    rows = [line.split(" ") for line in text.splitlines()]
    for found, label in ((positives, "1"), (negatives, "0")):
        assert found == [f"{labelled}/{row[0]}/{row[1]}" for row in rows if row[3] == label]
    assert (len(positives), len(negatives)) == (7, 9)


def test_numpy_and_text_metadata_say_the_same(samples):
    folder = samples / "pathfinder_labelled" / DATA_NAME / "metadata"
    tables = [read_metadata(folder / name, 4) for name in ("0.npy", "0_as_text.npy")]
    np.testing.assert_array_equal(*tables)


def test_layout_of_2025(samples, tmp_path):
    source = samples / "curvy_2snakes_300"
    for label, origin in (("pos", DATA_NAME), ("neg", f"{DATA_NAME}_neg")):
        shutil.copytree(source / origin / "imgs" / "0", tmp_path / DATA_NAME / "imgs" / label)
    (tmp_path / DATA_NAME / "imgs" / "pos" / "notes.txt").write_text("not an image")
    positives, negatives = listed(tmp_path / DATA_NAME)
    assert sorted(Path(file).name for file in positives) == [f"sample_{i}.png" for i in range(8)]
    assert all("/imgs/pos/" in file for file in positives)
    assert len(negatives) == 8 and all("/imgs/neg/" in file for file in negatives)


def test_metadata_of_bytes_is_read(labelled):
    table = np.load(labelled / "metadata" / "0.npy")
    (labelled / "metadata" / "0_as_text.npy").unlink()
    before = listed(labelled)
    np.save(labelled / "metadata" / "0.npy", table.astype(np.bytes_))
    assert listed(labelled) == before


def test_metadata_that_cannot_be_used(labelled):
    table = np.load(labelled / "metadata" / "0.npy")
    (labelled / "metadata" / "0_as_text.npy").unlink()
    file = labelled / "metadata" / "0.npy"
    wrong_labels = table.copy()
    wrong_labels[5, 3] = "1.8"
    other_label = np.concatenate([table, table[:1]])
    other_label[-1, 3] = "01"[table[0, 3] == "0"]
    cases = [
        (table[:, :3], r"shape \(16, 3\); expected \(images, 4 columns"),
        (table.ravel(), r"shape \(176,\)"),
        (table[:0], r"shape \(0, 11\)"),
        (np.zeros((16, 11)), "holds float64; expected strings"),
        (table.astype(object), "Python objects"),
        (wrong_labels, r"row 5: column 3 must be the label, 0 or 1; found '1.8'.*_neg/ is missing"),
        (other_label, r"row 16: .*sample_0.png is listed with both labels"),
    ]
    for array, message in cases:
        np.save(file, array, allow_pickle=True)
        with pytest.raises(UserError, match=message) as caught:
            listed(labelled)
        assert str(file) in str(caught.value)
    for text, message in (
        (b"imgs/0 a.png 0 1\nimgs/0 b.png 1\n", "line 2 has 3 columns, the first has 4"),
        (b"\x89\xfe\x00", "neither a numpy file nor text"),
        (b"", r"shape \(0,\)"),
        (b"\x93NUMPY\x01\x00", "cannot be read"),
    ):
        file.write_bytes(text)
        with pytest.raises(UserError, match=message):
            listed(labelled)


def test_what_is_missing_is_named(tmp_path, samples):
    folder = tmp_path / DATA_NAME
    with pytest.raises(MissingError, match=r"_neg/ beside it.*metadata.*imgs/pos"):
        listed(folder)
    shutil.copytree(samples / "curvy_2snakes_300" / DATA_NAME, folder)
    (tmp_path / f"{DATA_NAME}_neg").mkdir()
    with pytest.raises(MissingError, match=r"_neg/metadata/combined.npy"):
        listed(folder)


def test_the_split_follows_the_seed(samples, monkeypatch):
    data_set = Length14(config_at(monkeypatch, samples))
    first, again, other = (data_set.get_data(seed) for seed in (0, 0, 1))
    assert first[0] == again[0]
    assert first[0]["train"] != other[0]["train"]
    assert set(first[0]["train"] + first[0]["val"]) == set(other[0]["train"] + other[0]["val"])


def test_classes_are_cut_to_the_smaller_and_to_max_ims(samples, tmp_path, monkeypatch):
    shutil.copytree(samples / "curvy_2snakes_300", tmp_path / "curvy_2snakes_300")
    meta = tmp_path / "curvy_2snakes_300" / f"{DATA_NAME}_neg" / META
    np.save(meta, np.load(meta)[:5])
    data_set = Length14(config_at(monkeypatch, tmp_path))

    def counts() -> list[int]:
        labels = np.concatenate(list(data_set.get_data()[1].values()))
        return [int((labels == label).sum()) for label in (0, 1)]

    assert counts() == [5, 5]
    data_set.max_ims = 3
    assert counts() == [3, 3]
    data_set.balance, data_set.max_ims = False, None
    assert counts() == [5, 8]


def test_a_set_that_lies_in_the_data_root_itself(samples, monkeypatch):
    config = config_at(monkeypatch, samples / "pathfinder_labelled")
    files, labels = load_set("curv_contour_length_14_full", config).get_data()
    assert len(files["train"]) + len(files["val"]) == 14
    assert sum(int(label.sum()) for label in labels.values()) == 7


def test_too_few_images_for_two_folds(samples, monkeypatch):
    data_set = Length14(config_at(monkeypatch, samples))
    data_set.max_ims = 1
    with pytest.raises(UserError, match=r"leave none for 'val' at cv_split 0\.9"):
        data_set.get_data()
