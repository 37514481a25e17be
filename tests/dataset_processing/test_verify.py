"""The verify command finds what is wrong with a set, and nothing where nothing is."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter

from config import Config
from dataset_processing import encode, verify
from dataset_processing.forms import Job
from dataset_processing.generate import generate_set
from dataset_processing.generated import GENERATED, SMALL_SET
from dataset_processing.pathfinder import Pathfinder, Settings
from dataset_processing.records import RecordReader, RecordWriter
from dataset_processing.sets import DiskSet
from support.shell import exit_code

NAME = "curv_contour_length_14_full"


@pytest.fixture
def config(samples, tmp_path, monkeypatch) -> Config:
    """An encoded set, its images gone."""
    monkeypatch.setenv("HGRU_DATA_ROOT", str(samples))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    encode.main(["--dataset", NAME])
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path / "no images"))
    return Config()


def run(capsys, *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = exit_code(verify.main, list(arguments) or ["--dataset", NAME])
    said = capsys.readouterr()
    return status, said.out + said.err


def rewrite(config: Config, fold: str, change) -> None:
    """Writes a fold again, its list of (image, label) changed."""
    path = config.tf_records / f"{NAME}_{fold}.tfrecords"
    records = list(RecordReader([path]))
    with RecordWriter(path, compact=records[0][0].dtype == np.uint8) as writer:
        for image, label in change(records):
            writer.write(image, label)


def test_nothing_wrong(config, capsys):
    status, said = run(capsys)
    assert status == 0
    assert "train: 14 records in 1 file" in said and "val: 2 records in 1 file" in said
    assert "pixels: 0 to 255" in said
    assert "nothing wrong" in said


def test_files_that_tensorflow_wrote(samples, capsys):
    files = [str(file) for file in sorted((samples / "tf_records").glob("*.tfrecords"))]
    status, said = run(capsys, *files)
    assert status == 0
    assert "read: 2 records; 1 of label 0, 1 of label 1" in said


def test_corrupt_records(config, capsys):
    path = config.tf_records / f"{NAME}_train.tfrecords"
    data = bytearray(path.read_bytes())
    offsets = RecordReader([path]).offsets[0]
    data[int(offsets[3]) + 100] ^= 1  # contents
    data[int(offsets[7])] ^= 1  # length
    path.write_bytes(data[:-9])  # the last one's end
    status, said = run(capsys)
    assert status == 1
    assert "corrupt records: 3" in said and "3 findings" in said
    assert f"{path}: record 3: its contents do not match their checksum" in said
    assert f"{path}: record 7: its length is damaged" in said
    assert f"{path}: record 13: its length is damaged or its end is missing" in said
    status, said = run(capsys, str(path))  # and by itself
    assert (status, "corrupt records: 3" in said) == (1, True)


def test_duplicates_within_a_fold_and_across_folds(config, capsys):
    first = RecordReader([config.tf_records / f"{NAME}_train.tfrecords"])[0]
    rewrite(config, "train", lambda records: [*records, records[4]])
    rewrite(config, "val", lambda records: [*records, first])
    (config.tf_records / f"{NAME}_train_means.npy").unlink()
    (config.tf_records / f"{NAME}_val_means.npy").unlink()
    status, said = run(capsys)
    assert status == 1
    for name, copy in (
        (f"{NAME}_train.tfrecords record 14", "record 4"),
        (f"{NAME}_val.tfrecords record 2", "record 0"),
    ):
        assert f"{name} is the image of {NAME}_train.tfrecords {copy}" in said
    assert "2 findings" in said
    files = [str(config.tf_records / f"{NAME}_{fold}.tfrecords") for fold in ("train", "val")]
    assert "2 findings" in run(capsys, *files)[1]  # across files too


def test_labels(config, capsys):
    rewrite(config, "train", lambda records: [(image, 1) for image, _ in records] * 4)
    rewrite(config, "val", lambda records: [(image, 2) for image, _ in records])
    _, said = run(capsys)
    assert "56 of 56 are 1, 100.0%" in said
    assert "labels other than 0 and 1: 1\n    2 of label 2" in said


def test_image_ranges(config, capsys):
    def change(records):
        images = [np.float32(image) for image, _ in records[:5]]
        images[0] = images[0] / 255  # scaled already
        images[1][5, 5] = np.nan
        images[2] = images[2] - 1
        images[3][:] = 9
        images[4][:] = 200
        images[4][0] = 201
        return [(image, number % 2) for number, image in enumerate(images)]

    path = config.tf_records / f"{NAME}_train.tfrecords"
    records = list(RecordReader([path]))
    with RecordWriter(path, compact=False) as writer:
        for image, label in change(records):
            writer.write(image, label)
    status, said = run(capsys, str(path))
    assert status == 1
    for finding in (
        "record 0: pixels lie between 0 and 1",
        "record 1: 1 of its 90000 pixels are not finite",
        "record 2: pixels lie between -1 and 254",
        "record 3: pixels lie between 9 and 9",
        "record 4: 200 to 201",
    ):
        assert finding in said
    assert "5 findings" in said
    assert "pixels: -1 to 254" in said  # where they are numbers


def test_images_of_several_sizes(config, capsys):
    rewrite(
        config,
        "val",
        lambda records: [(image[: 300 - n], n) for n, (image, _) in enumerate(records)],
    )
    (config.tf_records / f"{NAME}_val_means.npy").unlink()
    status, said = run(capsys)
    assert status == 1
    assert "images of several sizes: 1\n    1 of 300×300, 1 of 299×300" in said


def test_of_many_findings_the_first_are_shown():
    findings = verify.Findings("a set")
    for number in range(25):
        findings.note("duplicate images", f"image {number} of them")
    lines = findings.report().splitlines()
    assert "  duplicate images: 25" in lines and "    … and 5 more" in lines
    assert [line for line in lines if "of them" in line][-1] == "    image 19 of them"


def test_a_mean_image_of_other_records(config, capsys):
    means = config.tf_records / f"{NAME}_val_means.npy"
    np.save(means, np.load(means) + 0.01)  # a mean of a few other records is not far off
    status, said = run(capsys)
    assert status == 1
    assert f"{means}: is not the mean of these records" in said
    np.save(means, np.zeros((30, 40)))
    assert f"{means}: is not the mean of these records" in run(capsys)[1]
    means.write_bytes(means.read_bytes().replace(b"{'descr", b"\xff'descr"))
    status, said = run(capsys)
    assert status == 1
    assert f"{means} cannot be read" in said


def test_missing_records_of_images_that_are_there(config, samples, capsys, monkeypatch):
    monkeypatch.setenv("HGRU_DATA_ROOT", str(samples))
    assert run(capsys)[0] == 0
    rewrite(config, "train", lambda records: records[:-2])
    (config.tf_records / f"{NAME}_train_means.npy").unlink()
    status, said = run(capsys)
    assert status == 1
    assert "12 of the 14 images of the data set" in said


def test_missing_records_of_a_generated_set(config, capsys):
    description = config.tf_records / f"{NAME}.generated.json"
    description.write_text(json.dumps({"count": 17}))
    status, said = run(capsys)
    assert status == 1
    assert f"16 in both folds; {description} has 17" in said


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"count": "17"}'])
def test_a_description_that_is_damaged(config, capsys, content):
    description = config.tf_records / f"{NAME}.generated.json"
    description.write_text(content)
    status, said = run(capsys)
    assert status == 2 and f"error: {description}" in said


def test_missing_files(config, capsys):
    path = config.tf_records / f"{NAME}_val.tfrecords"
    path.rename(config.tf_records / f"{NAME}_val-00001-of-00003.tfrecords")
    status, said = run(capsys)
    assert status == 2
    assert f"{NAME}_val lacks 2 of its 3 shards: 0, 2" in said
    (config.tf_records / f"{NAME}_val-00001-of-00003.tfrecords").unlink()
    status, said = run(capsys)
    assert (status, f"missing files: 1\n    {path}" in said) == (1, True)


def test_images_without_records(samples, tmp_path, capsys, monkeypatch):
    shutil.copytree(samples / "curvy_2snakes_300", tmp_path / "curvy_2snakes_300")
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "project"))
    assert run(capsys)[0] == 0
    images = tmp_path / "curvy_2snakes_300/curv_contour_length_14/imgs/0"
    shutil.copyfile(images / "sample_1.png", images / "sample_2.png")
    (images / "sample_3.png").unlink()
    status, said = run(capsys)
    assert status == 1
    assert f"{images / 'sample_3.png'} cannot be read: No such file" in said
    assert "duplicate images: 1" in said


def test_files_that_are_left_out_are_a_finding(samples, tmp_path, capsys, monkeypatch):
    for label, origin in (("pos", ""), ("neg", "_neg")):
        source = samples / "curvy_2snakes_300" / f"curv_contour_length_14{origin}" / "imgs" / "0"
        shutil.copytree(source, tmp_path / "mine" / "imgs" / label)
    shutil.copytree(source, tmp_path / "mine" / "imgs" / "neg" / "session 2")
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path / "project"))
    status, said = run(capsys, "--dataset", "mine")
    assert status == 1
    assert (
        "files that are left out: 1\n" in said and "left out: 8," in said and "1 findings" in said
    )


def test_what_cannot_be_checked(config, capsys):
    for arguments, message in (
        (["--dataset", "pathfinder_14_stream"], "images drawn while training"),
        (["--dataset", "curv_baseline_full"], "error: no data for 'curv_baseline_full'"),
        (["nowhere.tfrecords"], "error: nowhere.tfrecords: no such record file"),
        (["--dataset", NAME, "a.tfrecords"], "one of the two"),
    ):
        status, said = run(capsys, *arguments)
        assert (status, message in said) == (2, True), said


def test_a_set_without_discs(config, capsys):
    """As a generator writes it that draws the discs at 1 of 255."""

    def without_discs(records):
        for image, label in records:
            small = Image.fromarray(image).resize((150, 150))
            thick = np.asarray(small.filter(ImageFilter.MinFilter(3))) > 60
            halo = np.asarray(Image.fromarray(thick).filter(ImageFilter.MaxFilter(9)))
            cover = np.asarray(Image.fromarray(halo).resize((300, 300)))
            yield np.where(cover, np.uint8(1), image), label

    def half(records):
        return [*without_discs(records[:7]), *records[7:]]

    for fold in ("train", "val"):
        (config.tf_records / f"{NAME}_{fold}_means.npy").unlink()
    rewrite(config, "train", half)
    assert run(capsys)[0] == 0
    for fold in ("train", "val"):
        rewrite(config, fold, without_discs)
    status, said = run(capsys)
    assert status == 1
    assert "images without discs" in said and "14 of 14" in said and "2 of 2" in said


@pytest.mark.parametrize("length", [3, 6, 14, 25])
def test_discs_are_found_in_every_generated_image(length):
    settings = GENERATED[SMALL_SET] if length == 3 else {"contour_length": length}
    images, _ = Pathfinder(Settings(**settings)).images(range(40))
    assert all(verify.has_discs(image) for image in images)


def test_images_of_another_size_than_training_takes_are_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    sides = {"pathfinder32": (40, 40), "mine": (40, 44)}
    for name, sizes in sides.items():
        for fold, side in zip(("train", "val"), sizes, strict=True):
            settings = Settings(**{**GENERATED[SMALL_SET], "window": side})
            path = tmp_path / "tf_records" / f"{name}_{fold}.tfrecords"
            with RecordWriter(path) as writer:
                for image, label in map(Pathfinder(settings, side).image, range(4)):
                    writer.write(image, label)
        status, said = run(capsys, "--dataset", name)
        assert status == 1
        expected = 32 if name == "pathfinder32" else 40
        for side in set(sizes) - {expected}:
            assert f"{side}×{side}; im_size of the data set is {expected}×{expected}" in said


def test_small_discs_of_a_set_that_was_generated_are_taken_for_discs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    settings = Settings(3, marker_radius=2)
    generate_set(Job("mine", settings, 0, 10, tmp_path / "tf_records"))
    status, said = run(capsys, "--dataset", "mine")
    assert (status, "nothing wrong" in said) == (0, True)
    (tmp_path / "tf_records" / "mine.generated.json").unlink()
    assert "images without discs" in run(capsys, "--dataset", "mine")[1]


def test_a_folder_far_from_balance_is_said_and_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HGRU_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("HGRU_PROJECT_DIRECTORY", str(tmp_path))
    image = Image.fromarray(Pathfinder(Settings(3, window=150, seed_distance=15)).image(0)[0])
    for kind, count in {"pos": 80, "neg": 20}.items():
        folder = tmp_path / "mine" / "imgs" / kind
        folder.mkdir(parents=True)
        for number in range(count):
            image.save(folder / f"{number}.png")
    told = "80 images of label 1 and 20 of label 0; 20 of each are used"
    assert told in run(capsys, "--dataset", "mine")[1]
    with pytest.warns(UserWarning, match=told):
        DiskSet("mine", Config(), {}, "error").images("train")
    for number in range(40, 80):
        (tmp_path / "mine" / "imgs" / "pos" / f"{number}.png").unlink()
    assert "of each are used" not in run(capsys, "--dataset", "mine")[1]  # as chance may have it
