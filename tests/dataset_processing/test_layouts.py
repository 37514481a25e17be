"""The three layouts on disk, the labels they give, and the split."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from config import Config
from dataset_processing import load_set
from dataset_processing.base import out_of_balance
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
    config_at(monkeypatch, samples)
    data_set = module()
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


def test_a_class_of_ones_own_says_the_networks_size(monkeypatch):
    monkeypatch.setattr(Length14, "im_size", [300, 201])
    assert Length14().model_input_image_size == [150, 100, 1]
    monkeypatch.setattr(Length14, "model_input_image_size", [75, 80])
    assert Length14().model_input_image_size == [75, 80]


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
    notes = tmp_path / DATA_NAME / "imgs" / "pos" / "notes.txt"
    notes.write_text("not an image")
    with pytest.warns(UserWarning, match=f"left out: 1, {notes}"):
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
    other_path = other_label.astype("U30")
    other_path[-1, 0] = f"./{other_path[-1, 0]}/"
    cases = [
        (table[:, :3], r"shape \(16, 3\).*Expected \(images, 4 columns"),
        (table.ravel(), r"shape \(176,\)"),
        (table[:0], r"shape \(0, 11\)"),
        (np.zeros((16, 11)), "holds float64.*Expected .*strings"),
        (table.astype(object), "allow_pickle=False.*Python objects"),
        (np.full((16, 11), b"\xff"), "utf-8"),
        (wrong_labels, r"row 5: column 3 must be the label, 0 or 1; found '1.8'.*_neg/ is missing"),
        (other_label, r"row 16: .*sample_0.png is listed with both labels"),
        (other_path, r"row 16: .*sample_0.png is listed with both labels"),
    ]
    for array, message in cases:
        np.save(file, array, allow_pickle=True)
        with pytest.raises(UserError, match=message) as caught:
            listed(labelled)
        assert str(file) in str(caught.value)
    stream = io.BytesIO()
    np.save(stream, np.array([["imgs/0", "a.png", "0", "1"]]))
    npy = stream.getvalue()
    for text, message in (
        (b"imgs/0 a.png 0 1\nimgs/0 b.png 1\n", "line 2 has 3 columns, the first has 4"),
        (b"\x89\xfe\x00", "89 fe 00.*text in UTF-8"),
        (b"", r"shape \(0,\)"),
        (b"\x93NUMPY\x01\x00", "cannot be read"),
        (npy.replace(b"{'descr", b"\xff'descr"), "cannot be read"),
        (npy[:-24] + b"\0\0\x7f\0" + npy[-20:], "cannot be read"),
        ("imgs/0 a.png 0 1".encode("utf-16-le"), "NUL.*UTF-16"),
    ):
        file.write_bytes(text)
        with pytest.raises(UserError, match=message) as caught:
            listed(labelled)
        assert str(file) in str(caught.value)


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


def test_classes_are_out_of_balance_beyond_five_standard_deviations():
    """Of 10,000 fair labels one is 50."""
    assert [out_of_balance(ones, 10_000) for ones in (4749, 4750, 5250, 5251)] == [
        True, False, False, True,
    ]  # fmt: skip


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


def write_rows(folder: Path, column: list[str], name: str = "combined.npy") -> None:
    """A class's images and metadata with these values in column 3."""
    (folder / "imgs" / "0").mkdir(parents=True, exist_ok=True)
    (folder / "metadata").mkdir(exist_ok=True)
    rows = [["imgs/0", f"s{i}.png", str(i), value, "1.8", "14"] for i, value in enumerate(column)]
    np.save(folder / "metadata" / name, np.array(rows))


@pytest.mark.parametrize(
    "own, beside",
    [
        (["0", "1", "1", "0"], ["1.8"] * 4),  # a labelled set beside a folder of 2018
        (["0", "1", "1", "0"], ["0", "1", "0", "1"]),
        (["1.8"] * 4, ["0", "1", "0", "1"]),
        (["0.0"] * 4, ["1.0"] * 4),
        (["0", "1", "2", "0"], ["1.8"] * 4),  # one that is no label changes nothing
    ],
)
def test_labels_in_doubt_are_refused_and_both_sides_are_said(tmp_path, own, beside):
    folder = tmp_path / DATA_NAME
    write_rows(folder, own)
    write_rows(tmp_path / f"{DATA_NAME}_neg", beside)
    with pytest.raises(UserError) as caught:
        listed(folder)
    said = str(caught.value)
    assert f"{folder}_neg" in said and "column 3" in said
    assert all(value in said for value in {*own, *beside})


@pytest.mark.parametrize(
    "own, beside", [("1.8", "1.8"), ("1", "1"), ("1.0", "1.0"), ("1", "0"), ("0", "0"), ("2", "3")]
)
def test_one_value_throughout_is_a_setting_of_the_layout_of_2018(tmp_path, own, beside):
    """A continuity of 1, for example; or labels that agree with the folders."""
    write_rows(tmp_path / DATA_NAME, [own] * 3)
    write_rows(tmp_path / f"{DATA_NAME}_neg", [beside] * 2)
    assert [len(images) for images in listed(tmp_path / DATA_NAME)] == [3, 2]


def test_the_published_generators_combined_file_counts_no_image_twice(tmp_path):
    folder = tmp_path / DATA_NAME
    for name in ("0.npy", "combined.npy"):
        write_rows(folder, ["0", "1", "1"], name)
    assert [len(images) for images in listed(folder)] == [2, 1]


def test_a_labelled_set_of_one_label_is_refused(tmp_path):
    write_rows(tmp_path / DATA_NAME, ["1.0"] * 4)
    with pytest.raises(UserError, match=f"{DATA_NAME}: column 3.*label 1 alone.*_neg/ is missing"):
        listed(tmp_path / DATA_NAME)


def of_2025(folder: Path) -> None:
    for label in ("pos", "neg"):
        (folder / "imgs" / label).mkdir(parents=True)
        for number in range(3):
            (folder / "imgs" / label / f"{label}{number}.png").write_bytes(b"")


def test_files_that_are_left_out_are_counted(tmp_path, labelled):
    """In sub-folders, of another kind, in a third class, and metadata that are not read."""
    folder = tmp_path / "new" / DATA_NAME
    of_2025(folder)
    for name in ("pos/session 2/pos7.png", "neg/session 2/deep/neg7.png", "neg/a.webp", "0/b.png"):
        (folder / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "imgs" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=f"{folder}/imgs: .*left out: 4, .*/imgs/0/b.png"):
        assert [len(images) for images in listed(folder)] == [3, 3]
    shutil.copy(labelled / "metadata" / "0_as_text.npy", labelled / "metadata" / "1.txt")
    with pytest.warns(UserWarning, match=f"{labelled}/metadata: .*left out: 1, .*/1.txt"):
        assert [len(images) for images in listed(labelled)] == [7, 9]


def test_metadata_beside_the_layout_of_2025_must_agree(tmp_path):
    folder = tmp_path / DATA_NAME
    of_2025(folder)
    (folder / "metadata").mkdir()
    rows = [[f"imgs/{x}", f"{x}{n}.png", "0", str(int(x == "pos"))] for x in ("pos", "neg") for n in
            range(3)]  # fmt: skip
    file = folder / "metadata" / "0.npy"
    np.save(file, np.array(rows))
    assert [len(images) for images in listed(folder)] == [3, 3]
    np.save(file, np.array([[*row[:3], "0"] for row in rows]))
    assert [len(images) for images in listed(folder)] == [3, 3]  # a setting, of one value
    rows[1][3] = "0"
    np.save(file, np.array(rows))
    with pytest.raises(UserError, match=f"{file}: row 1: .*pos1.png.*label 1"):
        listed(folder)
    rows[1][0] = "imgs/0"
    np.save(file, np.array(rows))
    with pytest.raises(UserError, match=f"{file}: row 1.*imgs/0/pos1.png"):
        listed(folder)


def test_half_of_the_layout_of_2025_and_a_folder_of_2018_beside_it(tmp_path):
    folder = tmp_path / DATA_NAME
    of_2025(folder)
    (tmp_path / f"{DATA_NAME}_neg").mkdir()
    with pytest.raises(UserError, match=f"{folder}.*{folder}_neg"):
        listed(folder)
    (tmp_path / f"{DATA_NAME}_neg").rmdir()
    for gone in ("neg", "pos"):
        (folder / "imgs" / gone).rename(tmp_path / gone)
        with pytest.raises(MissingError, match=f"{folder}/imgs/{gone}"):
            listed(folder)
        (tmp_path / gone).rename(folder / "imgs" / gone)


@pytest.mark.filterwarnings("error")
def test_what_file_managers_leave_behind_is_no_data(tmp_path, labelled):
    folder = tmp_path / "new" / DATA_NAME
    of_2025(folder)
    (folder / "imgs" / "neg" / "empty").mkdir()
    for name in ("._pos0.png", ".DS_Store", "Thumbs.db"):
        (folder / "imgs" / "pos" / name).write_bytes(b"\0\5\x16\7")
        (labelled / "metadata" / name.replace("pos0.png", "0.npy")).write_bytes(b"\0\5\x16\7")
    assert [len(images) for images in listed(folder)] == [3, 3]
    assert [len(images) for images in listed(labelled)] == [7, 9]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark", "windows lines"]
)
def test_text_metadata_as_other_systems_write_it(labelled, encoding):
    before = [sorted(images) for images in listed(labelled)]
    (labelled / "metadata" / "0.npy").unlink()
    file = labelled / "metadata" / "0_as_text.npy"
    rows = [line.split(" ") for line in file.read_text().splitlines()]
    text = "\n".join(
        " ".join([row[0].replace("/", "\\"), *row[1:3], f"{row[3]}.0"]) for row in rows
    )
    if encoding == "windows lines":
        file.write_bytes((text.replace("\n", "\r\n") + "\r\n\r\n").encode())
    elif encoding.endswith("mark"):
        file.write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    else:
        file.write_text(text, encoding=encoding)
    assert [sorted(images) for images in listed(labelled)] == before


def test_images_of_other_kinds_than_png_are_listed(tmp_path):
    folder = tmp_path / DATA_NAME
    of_2025(folder)
    (folder / "imgs" / "pos" / "a.JPG").write_bytes(b"")
    assert [len(images) for images in listed(folder)] == [4, 3]
    for path in (folder / "imgs" / "neg").iterdir():
        path.rename(path.with_suffix(".webp"))
    with pytest.raises(MissingError, match=rf"{folder}/imgs/neg.*neg0\.webp"):
        listed(folder)
