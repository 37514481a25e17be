"""Finding a data set by its name: records, images, and what is said where there are none."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import Config
from dataset_processing import encode, open_set
from dataset_processing.demonstration import demonstration, prepare
from dataset_processing.folds import ImageFiles, is_same
from dataset_processing.forms import Job
from dataset_processing.generate import generate_set
from dataset_processing.images import BadImageError
from dataset_processing.pathfinder import Settings
from dataset_processing.records import RecordReader, RecordWriter
from dataset_processing.sets import drawn_twice
from support.errors import MissingError, UserError

NAME = "curv_contour_length_14_full"
CLONE = Path(__file__).resolve().parents[2]


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
    folder = config.data_root / "curvy_2snakes_300" / "curv_contour_length_14"
    for seed in range(4):  # whatever the class of the first image
        train = open_set(NAME, config, {"split_seed": seed}).fold("train")
        told = f"{NAME} train: 14 images of 300×300 pixels, read from {folder}"
        assert train.describe() == told


@pytest.mark.parametrize("seed", [0, 1])
def test_records_and_images_are_the_same_split(config, seed):
    files = open_set(NAME, config, {"split_seed": seed})
    images = {fold: files.fold(fold) for fold in ("train", "val")}
    others = open_set(NAME, config, {"split_seed": seed + 1}).fold("val")
    assert {others.name(n) for n in range(2)} != {images["val"].name(n) for n in range(2)}
    encode.main(["--dataset", NAME, "--seed", str(seed)])
    assert files.splits and not open_set(NAME, config).splits
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
    path.with_name(f"{NAME}_train-old.tfrecords").write_text("no shard")
    assert len(open_set(NAME, config).fold("train")) == 14
    for other in (path, path.with_name(f"{NAME}_train-00000-of-00002.tfrecords")):
        shutil.copyfile(shards[0], other)
        with pytest.raises(UserError, match="in several versions"):
            open_set(NAME, config).fold("train")
        other.unlink()
    shards[1].unlink()
    with pytest.raises(MissingError, match="lacks 1 of its 3 shards: 1"):
        open_set(NAME, config).fold("train")


def test_a_fold_alone_is_not_enough(config):
    encode.main(["--dataset", NAME])
    (config.tf_records / f"{NAME}_val.tfrecords").unlink()
    with pytest.raises(MissingError, match=r"_val.tfrecords: missing, though the other fold"):
        open_set(NAME, config).fold("val")


def test_a_set_of_which_one_fold_is_used_has_that_folds_size(config):
    encode.main(["--dataset", NAME])
    (config.tf_records / f"{NAME}_train.tfrecords").unlink()
    data = open_set(NAME, config)
    assert len(data.fold("val")) == 2 and data.input_size == (150, 150)


def test_folds_are_of_one_size(config):
    for fold, side in (("train", 30), ("val", 32)):
        with RecordWriter(config.tf_records / f"{NAME}_{fold}.tfrecords") as writer:
            for label in (0, 1):
                writer.write(np.eye(side, dtype=np.uint8) * 255, label)
    data = open_set(NAME, config)
    data.fold("train")
    with pytest.raises(UserError, match=f"{NAME} val: its images are 32×32 .* 30×30"):
        data.fold("val")


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


def test_a_fingerprint_follows_what_images_hold(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "mine"
    write_images(folder, suffix=".bmp")
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    train = open_set("mine", config).fold("train")
    before = train.fingerprint()
    assert before == open_set("mine", config).fold("train").fingerprint()
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    there = user(monkeypatch, tmp_path / "elsewhere", tmp_path / "out")
    assert before == open_set("mine", there).fold("train").fingerprint()
    others = ImageFiles(folder, train.reader.paths, 1 - train.reader.labels)
    assert others.fingerprint() != before
    invert_images(folder)
    assert train.fingerprint() != before
    earlier = before.split("-")[0]  # a version that looked at sizes alone
    assert is_same(earlier, train.fingerprint())
    Path(train.name(0)).write_bytes(Path(train.name(0)).read_bytes() + b"0")
    assert not is_same(earlier, train.fingerprint())
    Path(train.name(0)).unlink()  # a bad record when its turn comes, and no error here
    assert train.fingerprint() != before


def test_a_fingerprint_of_an_earlier_version_is_that_of_the_same_files():
    assert is_same("1f", "1f") and is_same("1f", "1f-2e")  # which left out what files hold
    assert not is_same("1f", "1f2e") and not is_same("1f-2e", "1f") and not is_same(None, "1f")


SMALL = {"contour_length": 4, "window": 120, "seed_distance": 12, "border": 8, "distractors": 4}


@pytest.mark.parametrize("form, first", [("compact", 40), ("png2025", 30)])
def test_images_that_are_trained_on_too_are_told(tmp_path, monkeypatch, form, first):
    """Of a set that was generated, beside a stream of 20 images an epoch."""
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    folder = config.tf_records if form == "compact" else config.data_root
    job = Job("mine", Settings(**SMALL), 3, 20, folder, form, val_fraction=0.5, start=30)
    generate_set(job)
    stream = {"stream_settings": {key: SMALL[key] for key in SMALL if key != "contour_length"}}
    stream |= {"stream_epoch_images": 20, "stream_val_images": 90}

    def told(epochs, seed=3, name="pathfinder_4_stream"):
        trained = open_set(name, config, {**stream, "stream_seed": seed})
        return drawn_twice([trained], epochs, open_set("mine", config))

    assert f"numbers {first} to 49;" in told(epochs=3)
    assert f"numbers {first} to 39;" in told(epochs=2) or (first, told(epochs=2)) == (40, "")
    assert not told(epochs=1) and not told(epochs=3, seed=4)
    assert not told(epochs=3, name="pathfinder_5_stream")
    mine, own = open_set("mine", config), open_set("pathfinder_4_stream", config, stream)
    assert not drawn_twice([mine], 3, mine) and not drawn_twice([own], 2**62, own)
    assert own.drawn("val", 3)[2] == range(2**62, 2**62 + 90)
    description = folder / "mine.generated.json"
    for text in ("{}", '{"settings": {"wind": 3}, "count": 20}'):  # edited by hand
        description.write_text(text)
        assert open_set("mine", config).drawn("val") is None


def test_names_of_another_encoding(tmp_path, monkeypatch):
    """As an archive of another system leaves them: bytes that are no UTF-8."""
    folder = tmp_path / "data" / "mine"
    write_images(folder)
    for path in [*folder.rglob("*.png")]:
        os.rename(path, os.fsencode(path.parent) + b"/\xe9" + os.fsencode(path.name))
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    train = open_set("mine", config).fold("train")
    assert train[0][0].shape == (64, 64) and train.fingerprint()


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
        ("pathfinder_14_stream_stream", "did you mean 'pathfinder_14_stream'"),
        ("pathfinder_14_steam", "did you mean 'pathfinder_14_stream'"),
    )
    for name, message in cases:
        with pytest.raises(UserError, match=message):
            open_set(name, config).fold("train")
    with pytest.raises(UserError, match="fold 'vall' is not known; did you mean 'val'"):
        open_set(NAME, config).fold("vall")


@pytest.mark.parametrize("name, folder", [("mine", "mine"), ("mine_full", "mine")])
def test_a_set_of_the_users_own_needs_no_module(tmp_path, monkeypatch, name, folder):
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match=f"'{name}' is not known"):
        open_set(name, config)
    write_images(tmp_path / "data" / folder)
    images = open_set(name, config)
    assert (images.im_size, images.contour_length) == ((64, 64), None)
    assert encode.main(["--dataset", name]) == 0
    shutil.rmtree(tmp_path / "data")
    assert "records" in open_set(name, config).fold("train").describe()


def test_a_folder_of_a_sets_very_name_comes_first(tmp_path, monkeypatch):
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    for folder, count in (("mine", 20), ("mine_full", 40)):
        write_images(tmp_path / "data" / folder, count=count)
        assert len(open_set(folder, config).fold("train")) == 0.9 * count


OWN = {  # what a class of the user's own says, and what comes of it: sizes and counts, or an error
    "as_it_is": ("", "(64, 64) (32, 32) 18 2"),
    "network": ("model_input_image_size = [30, 30, 1]", "(64, 64) (30, 30) 18 2"),
    "several": ("im_size = [64, 64]; max_ims = 4; cv_split = 0.5", "(64, 64) (32, 32) 4 4"),
    "other_size": ("im_size = [40, 40]", "64×64 40×40"),
    "negatives": ("negative = 'beside'", "move beside"),
    "with_a_method": ("_mine = 3\n    def missing(self): return 1", "(64, 64) (32, 32) 18 2"),
    "misspelt": ("balanced = False", "misspelt.py 'balanced' 'balance'"),
    "no_number": ("max_ims = 1e1", "no_number.py max_ims 10.0"),
    "negative_number": ("max_ims = -5", "negative_number.py max_ims -5"),
    "share": ("cv_split = 9", "share.py cv_split 9"),
    "whole": ("cv_split = 1.0", "whole.py cv_split below 1.0"),
    "no_size": ("model_input_image_size = 30", "no_size.py model_input_image_size 30"),
    "without_effect": ("score_metric = 'pearson'", "without_effect.py 'score_metric'"),
    "called_otherwise": ("name = 'mine'", "called_otherwise.py name 'called_otherwise' 'mine'"),
    "no_folder": ("del data_name", "no_folder.py data_name None"),
    "below": ("data_name = 'study/mine'", "(64, 64) (32, 32) 18 2"),
    "beside_itself": ("negative = 'mine'", "beside_itself.py negative 'mine'"),
    "no_set": ("\n\nclass data_processing:\n    name = 'no_set'", "no_set.py PathfinderSet"),
}


@pytest.mark.parametrize("copied", ["", "hgru_pytorch"])
def test_a_class_of_the_users_own_counts_as_it_is_written(tmp_path, copied):
    for folder in ("support", "dataset_processing", *filter(None, [copied])):
        shutil.copytree(CLONE / folder, tmp_path / "clone" / folder)
    shutil.copy(CLONE / "config.py", tmp_path / "clone")
    write_images(tmp_path / "data" / "mine")
    write_images(tmp_path / "data" / "study" / "mine")
    (tmp_path / "data" / "beside").mkdir()
    for name, (body, _) in OWN.items():
        (tmp_path / "clone" / "dataset_processing" / f"{name}.py").write_text(
            "from dataset_processing.base import PathfinderSet\n\n\n"
            "class data_processing(PathfinderSet):\n"
            f"    name, data_name = {name!r}, 'mine'\n    {body}\n"
        )
    (tmp_path / "clone" / "dataset_processing" / ".#mine.py").symlink_to("user@host.1234")
    (tmp_path / "clone" / "dataset_processing" / "._mine.py").write_bytes(b"\0\5\x16\7\xb0")
    program = f"""
from {f"{copied}." if copied else ""}dataset_processing import encode, open_set
from {f"{copied}." if copied else ""}config import Config
for name in {list(OWN)}:
    try:
        data = open_set(name, Config())
        print(data.im_size, data.input_size, len(data.fold("train")), len(data.fold("val")))
    except ValueError as error:
        assert type(error).__name__ == "UserError"
        print(error)
try:
    encode.main(["--dataset", "other_size"])
except ValueError as error:
    print(error)
"""
    paths = {"HGRU_DATA_ROOT": tmp_path / "data", "HGRU_PROJECT_DIRECTORY": tmp_path / "out"}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "clone", capture_output=True, text=True,
        env=os.environ | {key: str(path) for key, path in paths.items()},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    expected = [*(parts for _, parts in OWN.values()), OWN["other_size"][1]]
    for line, parts in zip(found.stdout.splitlines(), expected, strict=True):
        assert all(part in line for part in parts.split()), line


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("images", [12, 13, 40])
def test_a_fold_of_one_label_is_told(config, images):
    """Of 12, chance has it once in 2,000 times that all are of one."""
    config.tf_records.mkdir()
    random = np.random.default_rng(0)
    for fold, labels in (("train", [0, 1] * 20), ("val", [1] * images)):
        with RecordWriter(config.tf_records / f"{NAME}_{fold}.tfrecords") as writer:
            for label in labels:
                writer.write(random.integers(0, 256, (30, 30), dtype=np.uint8), label)
    data = open_set(NAME, config)
    data.fold("train")
    told = rf"{NAME} val: each of the {min(images, 24)} images .* label 1"
    with nullcontext() if images == 12 else pytest.raises(UserWarning, match=told):
        data.fold("val")


def test_an_empty_record_file(config):
    for fold in ("train", "val"):
        with RecordWriter(config.tf_records / f"{NAME}_{fold}.tfrecords"):
            pass
    with pytest.raises(UserError, match="no record in it"):
        open_set(NAME, config).fold("train")


def write_images(folder: Path, side: int = 64, count: int = 20, suffix: str = ".png") -> None:
    """A set in the layout of 2025."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / "imgs" / ("pos" if number % 2 else "neg")
        place.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(image).save(place / f"s{number}{suffix}")


def invert_images(folder: Path) -> None:
    """Change every pixel of BMP files, in place; their sizes stay."""
    for path in folder.rglob("*.bmp"):
        size, image = path.stat().st_size, np.array(Image.open(path))
        Image.fromarray(255 - image).save(path)
        assert path.stat().st_size == size


def user(monkeypatch, root: Path, project: Path) -> Config:
    """The paths that a user has set."""
    monkeypatch.setenv("HGRU_DATA_ROOT", str(root))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(project))
    return Config()


@pytest.mark.parametrize("side, given", [(300, 150), (64, 32), (35, 18), (33, 16)])
def test_the_images_say_their_size_and_the_networks_follows(tmp_path, monkeypatch, side, given):
    write_images(tmp_path / "data" / "curv_contour_length_14", side)
    data = open_set(NAME, user(monkeypatch, tmp_path / "data", tmp_path / "out"))
    assert (data.im_size, data.input_size) == ((side, side), (given, given))
    assert f"{side}×{side}" in data.describe() and f"{given}×{given}" in data.describe()
    assert (data.contour_length, data.is_generated) == (14, False)


def test_sizes_that_are_named(tmp_path, monkeypatch):
    write_images(tmp_path / "data" / "curv_contour_length_14")
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    data = open_set(NAME, config, {"im_size": [64, 64], "model_input_image_size": [20, 21]})
    assert (data.im_size, data.input_size) == ((64, 64), (20, 21))
    released = {"im_size": [64, 64, 1]}  # the release's form
    assert open_set(NAME, config, released).im_size == (64, 64)
    with pytest.raises(UserError, match=r"train: its images are 64×64.*300×300"):
        open_set(NAME, config, {"im_size": [300, 300]}).fold("train")


def test_an_image_of_another_size_is_a_bad_record(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "curv_contour_length_14"
    write_images(folder)
    odd = folder / "imgs" / "pos" / "s3.png"
    Image.fromarray(np.eye(96, dtype=np.uint8) * 255).save(odd)
    data = open_set(NAME, user(monkeypatch, tmp_path / "data", tmp_path / "out"))
    folds = [data.fold(fold) for fold in ("train", "val")]
    assert data.im_size == (64, 64)
    (fold,) = (fold for fold in folds if str(odd) in fold.reader.paths)
    with pytest.raises(BadImageError, match=f"{odd}.*96×96.*64×64"):
        fold[fold.reader.paths.index(str(odd))]


def test_a_set_of_which_nothing_can_be_read(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "curv_contour_length_14"
    write_images(folder)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match=rf"none of the 18 images.*{folder}.*0 bytes"):
        open_set(NAME, config).fold("train")


def test_a_set_of_black_images(tmp_path, monkeypatch):
    write_images(tmp_path / "data" / "curv_contour_length_14")
    for path in (tmp_path / "data").rglob("*.png"):
        Image.new("L", (64, 64)).save(path)
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match=r"none of the 18 images.*all of its pixels are 0"):
        open_set(NAME, config).fold("train")


def test_a_conversion_is_told_once_a_set(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "curv_contour_length_14"
    write_images(folder)
    for path in folder.rglob("*.png"):
        Image.merge("RGB", [Image.open(path)] * 2 + [Image.new("L", (64, 64))]).save(path)
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    with pytest.warns(UserWarning, match=f"{NAME} train.*{folder}.*colour") as caught:
        train = open_set(NAME, config).fold("train")
        [train[index] for index in range(len(train))]
    assert len(caught) == 1


@pytest.mark.parametrize(
    "augmentations, ends",
    [(["uint8_rescale"], True), (["uint8_rescale_-1_1"], True), (None, True), (["resize"], False)],
)
def test_records_off_the_scale(tmp_path, monkeypatch, augmentations, ends):
    config = user(monkeypatch, tmp_path / "data", tmp_path)
    path = config.tf_records / f"{NAME}_train.tfrecords"
    with RecordWriter(path, compact=False) as writer:
        for number in range(4):
            writer.write(np.eye(20, dtype=np.float32), number % 2)
    data = open_set(NAME, config, {"data_augmentations": augmentations})
    if ends:
        with pytest.raises(UserError, match=f"{NAME} train.*{path}.*0 and 1;.*0–255"):
            data.fold("train")
    else:
        with pytest.warns(UserWarning, match=f"{NAME} train.*0 and 1"):
            data.fold("train")


def test_a_record_that_is_not_finite_is_named(tmp_path, monkeypatch):
    config = user(monkeypatch, tmp_path / "data", tmp_path)
    path = config.tf_records / f"{NAME}_train.tfrecords"
    with RecordWriter(path, compact=False) as writer:
        for number in range(4):
            image = 255 * np.eye(20, dtype=np.float32)
            image[3, 3] = np.nan if number == 2 else 255
            writer.write(image, number % 2)
    train = open_set(NAME, config).fold("train")
    with pytest.raises(BadImageError, match=f"{path}: record 2: 1 of its 400 pixels"):
        train[2]


def test_empty_shards_and_a_file_of_no_bytes(config):
    encode.main(["--dataset", NAME])
    path = config.tf_records / f"{NAME}_train.tfrecords"
    before = open_set(NAME, config).fold("train")
    images = [before[number][0].copy() for number in range(len(before))]
    shards = [path.with_name(f"{NAME}_train-0000{n}-of-00003.tfrecords") for n in range(3)]
    for place in range(3):
        for number, shard in enumerate(shards):
            shard.write_bytes(path.read_bytes() if number == (place + 1) % 3 else b"")
        hidden = path.rename(path.with_suffix(".aside"))
        train = open_set(NAME, config).fold("train")
        assert len(train) == 14 and train.fingerprint()
        assert all(np.array_equal(train[n][0], image) for n, image in enumerate(images))
        hidden.rename(path)
    with pytest.raises(UserError, match=f"{path.name}.*00000-of-00003.*keep one"):
        open_set(NAME, config)
    for shard in shards:
        shard.unlink()
    path.write_bytes(b"")
    with pytest.raises(UserError, match=f"{path}: no record"):
        open_set(NAME, config).fold("train")


@pytest.mark.parametrize(
    "place",
    [
        f"out/tf_records/{NAME}_train.tfrecord",
        f"out/tf_records/{NAME}-train.tfrecord-00000-of-00001",
        f"out/tf_records/{NAME}_train.tfrecords.gz",
        f"out/tf_records/14/{NAME}_train.tfrecords",
        f"out/{NAME}_train.tfrecords",
        f"tf_records/{NAME}_train.tfrecords",
        f"data/{NAME}_train.tfrecords",
        "data/mine/curv_contour_length_14/imgs/pos/a.png",
        "data/mine/curvy_2snakes_300/curv_contour_length_14/imgs/0/a.png",
        "curv_contour_length_14/imgs/pos/a.png",
        "data/curv_contour_length_14_full/imgs/pos/a.png",
    ],
)
def test_a_near_miss_is_named(tmp_path, monkeypatch, place):
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(bytes(5000))
    found = tmp_path / place.partition("/imgs")[0]
    with pytest.raises(MissingError) as caught:
        open_set(NAME, config)
    for told in (found, config.tf_records, config.data_root / "curvy_2snakes_300"):
        assert str(told) in str(caught.value)


@pytest.mark.parametrize(
    "place",
    ["out/tf_records/mine_train.tfrecord", "out/mine_train.tfrecords", "data/study/mine/a.png"],
)
def test_a_near_miss_of_a_set_of_the_users_own_is_named(tmp_path, monkeypatch, place):
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(bytes(5000))
    with pytest.raises(MissingError, match=f"Found nearby: {tmp_path}/{place.partition('/a.')[0]}"):
        open_set("mine", config)
    with pytest.raises(UserError, match="'yours' is not known"):
        open_set("yours", config)


def test_a_folder_of_other_letters_is_named(tmp_path, monkeypatch):
    config = user(monkeypatch, tmp_path / "data", tmp_path / "out")
    write_images(tmp_path / "data" / "Mine")
    with pytest.raises(MissingError, match=f"Found nearby: {tmp_path}/data/Mine"):
        open_set("mine", config)
    write_images(tmp_path / "data" / "other")
    with pytest.raises(MissingError, match=f"Found nearby: {tmp_path}/data/other"):
        open_set("OTHER", config)


@pytest.fixture
def nothing_set(tmp_path, monkeypatch) -> Config:
    """A fresh clone whose user has set nothing."""
    for variable in ("HGRU_DATA_ROOT", "HGRU_PROJECT_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("config.CLONE", tmp_path / "clone")
    return Config()


def test_the_demonstration_is_for_who_has_set_nothing_and_has_nothing(nothing_set, tmp_path):
    overrides = dict(text.split("=") for text in demonstration(NAME, nothing_set))
    assert overrides["dataset"] == "curv_contour_length_3_small"
    assert "demonstration" in overrides["exp_name"]
    assert demonstration(NAME, nothing_set, {"dataset"}) == []
    assert "exp_name" not in dict(
        text.split("=") for text in demonstration(NAME, nothing_set, {"exp_name"})
    )
    assert demonstration("pathfinder_14_stream", nothing_set) == []
    assert not nothing_set.project_directory.exists()


@pytest.mark.parametrize(
    "place",
    [
        "data/curv_contour_length_14/imgs/pos/a.png",
        "data/curvy_2snakes_300/curv_contour_length_14/imgs/0/a.png",
        f"runs/tf_records/{NAME}_train.tfrecord",
        "runs/tf_records/mine.tfrecords",
        "runs/train.tfrecords",
    ],
)
def test_no_demonstration_where_something_is_there(nothing_set, place):
    path = nothing_set.data_root.parent / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert demonstration(NAME, nothing_set) == []


@pytest.mark.parametrize("set_by", ["HGRU_DATA_ROOT", "HGRU_PROJECT_DIRECTORY", "config.yaml"])
def test_no_demonstration_where_a_path_is_set(nothing_set, tmp_path, monkeypatch, set_by):
    if set_by == "config.yaml":
        (tmp_path / "config.yaml").write_text(f"project_directory: {tmp_path / 'mine'}\n")
        config = Config(tmp_path / "config.yaml")
    else:
        monkeypatch.setenv(set_by, str(tmp_path / "mine"))
        config = Config()
    assert demonstration(NAME, config) == []
    with pytest.raises(MissingError, match=NAME):
        open_set(NAME, config)
    prepare("curv_contour_length_3_small", config)
    assert not (tmp_path / "mine").exists()
