"""Record files: TensorFlow's bytes, random access, and damage that is found."""

import errno
import gzip
import os
import pickle
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tfrecord import example_pb2 as pb
from tfrecord.reader import tfrecord_loader
from tfrecord.writer import TFRecordWriter

from dataset_processing import generate
from dataset_processing.images import BadImageError
from dataset_processing.records import RecordReader, RecordWriter, scan
from support.errors import MissingError, SystemRefusal, UserError

CLONE = Path(__file__).parents[2]
NAME = "curv_contour_length_14_full"


@pytest.fixture
def tensorflow_file(samples) -> Path:
    """Two records of real stimuli, written by TensorFlow."""
    return samples / "tf_records" / f"{NAME}_train.tfrecords"


@pytest.fixture
def images(samples) -> list[np.ndarray]:
    files = sorted((samples / "curvy_2snakes_300").rglob("*.png"))
    return [np.asarray(Image.open(file)) for file in files[:6]]


@pytest.fixture
def compact_file(tmp_path, images) -> Path:
    path = tmp_path / "compact.tfrecords"
    with RecordWriter(path) as writer:
        for number, image in enumerate(images):
            writer.write(image, number % 2)
    return path


def test_reads_what_tensorflow_wrote(tensorflow_file):
    reader = RecordReader([tensorflow_file])
    parsed = list(tfrecord_loader(str(tensorflow_file), None, {"image": "byte", "label": "int"}))
    assert len(reader) == len(parsed) == 2
    for number, record in enumerate(parsed):
        image, label = reader[number]
        assert (image.dtype, image.shape, label) == (np.float32, (300, 300), record["label"][0])
        assert image.tobytes() == record["image"]
        assert image.max() == 255


@pytest.mark.parametrize("as_type", [np.float32, np.uint8])
def test_writes_the_bytes_that_tensorflow_wrote(tensorflow_file, tmp_path, as_type):
    reader = RecordReader([tensorflow_file])
    with RecordWriter(tmp_path / "again.tfrecords", compact=False) as writer:
        for number in range(len(reader)):
            image, label = reader[number]
            writer.write(image.astype(as_type), label)
    assert (tmp_path / "again.tfrecords").read_bytes() == tensorflow_file.read_bytes()


def test_bytes_are_the_same_in_every_process(tmp_path):
    """Protocol buffers order a map differently from process to process."""
    program = (
        "from dataset_processing.records import example_bytes as e; print(e(b'image', 1).hex())"
    )
    written = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=CLONE, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    }
    assert len(written) == 1
    assert bytes.fromhex(written.pop()).index(b"label") < 16


def test_compact_form_holds_the_same_image_in_a_fraction_of_the_room(compact_file, images):
    reader = RecordReader([compact_file])
    for number, image in enumerate(images):
        found, label = reader[number]
        np.testing.assert_array_equal(found, image)
        assert (found.dtype, label) == (np.uint8, number % 2)
    assert compact_file.stat().st_size < 0.03 * 360_000 * len(images)


def test_several_files_are_one_row_of_records(compact_file, tensorflow_file):
    reader = RecordReader([compact_file, tensorflow_file, compact_file])
    assert len(reader) == 14
    assert reader.name(7) == f"{tensorflow_file.name} record 1"
    np.testing.assert_array_equal(reader[8][0], reader[0][0])
    assert reader[7][0].dtype == np.float32
    for index in (-1, 14):
        with pytest.raises(IndexError):
            reader[index]


def test_pickled_after_reading(compact_file):
    reader = RecordReader([compact_file])
    first = reader[0][0]
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again[0][0], first)


def test_what_a_form_cannot_hold_is_an_error_and_leaves_no_file(tmp_path):
    cases = [
        (True, np.full((4, 4), 0.5, np.float32), "whole numbers 0–255"),
        (True, np.full((4, 4), 256, np.float32), "whole numbers 0–255"),
        (True, np.zeros((4, 4), np.int64), "int64"),
        (True, np.zeros((4, 4, 3), np.uint8), r"\(4, 4, 3\)"),
        (False, np.zeros((4, 5), np.uint8), "square"),
    ]
    for compact, image, message in cases:
        with pytest.raises(UserError, match=message):
            with RecordWriter(tmp_path / "bad.tfrecords", compact) as writer:
                writer.write(image, 0)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_found(compact_file, images):
    """1,000 single-bit flips: none opens and reads as if nothing had happened."""
    data = compact_file.read_bytes()
    flips = random.Random(0)
    for _ in range(1000):
        bit = flips.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        compact_file.write_bytes(damaged)
        with pytest.raises(BadImageError, match=r"compact.tfrecords: record \d"):
            reader = RecordReader([compact_file])
            for number in range(len(reader)):
                reader[number]


def test_no_record_with_a_flipped_bit_passes_where_damaged_files_are_kept(compact_file, images):
    """Every record either raises or is what was written, and only what was hit is lost."""
    data = compact_file.read_bytes()
    flips = random.Random(1)
    for _ in range(300):
        bit = flips.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        compact_file.write_bytes(damaged)
        reader = RecordReader([compact_file], keep_damaged=True)
        whole = []
        for number in range(len(reader)):
            try:
                image, label = reader[number]
            except BadImageError:
                continue
            np.testing.assert_array_equal(image, images[number])
            assert label == number % 2
            whole.append(number)
        assert len(reader) == len(images)
        assert len(whole) == len(images) - 1


def test_flipped_bits_in_a_file_that_tensorflow_wrote(tensorflow_file, tmp_path):
    path = tmp_path / "flipped.tfrecords"
    path.write_bytes(tensorflow_file.read_bytes())
    flips = random.Random(2)
    size = path.stat().st_size
    with open(path, "r+b", buffering=0) as file:
        for _ in range(100):
            bit = flips.randrange(8 * size)
            byte = os.pread(file.fileno(), 1, bit // 8)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
            with pytest.raises(BadImageError):
                reader = RecordReader([path])
                for number in range(len(reader)):
                    reader[number]
            os.pwrite(file.fileno(), byte, bit // 8)
    assert len(RecordReader([path])) == 2


def test_a_file_cut_anywhere_is_found(compact_file):
    data = compact_file.read_bytes()
    ends = set(scan(compact_file).tolist())
    cuts = random.Random(3)
    for _ in range(100):
        cut = cuts.randrange(1, len(data))
        compact_file.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends) - 1
        if cut in ends:
            assert len(RecordReader([compact_file])) == whole
            continue
        with pytest.raises(BadImageError) as caught:
            RecordReader([compact_file])
        offset = max(end for end in ends if end < cut)
        assert f"record {whole}: the file ends inside it (offset {offset} of {cut} bytes)" in str(
            caught.value
        )
        assert str(compact_file) in str(caught.value)
        kept = RecordReader([compact_file], keep_damaged=True)
        assert len(kept) == whole + 1
        with pytest.raises(BadImageError, match="its end is missing"):
            kept[whole]


def test_a_file_cut_while_it_is_read(compact_file):
    reader = RecordReader([compact_file])
    reader[0]
    os.truncate(compact_file, compact_file.stat().st_size - 1)
    with pytest.raises(BadImageError, match="cut short since it was opened"):
        reader[5]


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingError, match=r"gone.tfrecords: no such record file"):
        RecordReader([tmp_path / "gone.tfrecords"])


def write_example(path: Path, **features) -> None:
    """A record of any features."""
    kinds = {bytes: ("bytes_list", pb.BytesList), int: ("int64_list", pb.Int64List)}
    kinds[float] = ("float_list", pb.FloatList)
    made = {}
    for key, values in features.items():
        values = values if isinstance(values, list) else [values]
        field, kind = kinds[type(values[0])]
        made[key] = pb.Feature(**{field: kind(value=values)})
    payload = pb.Example(features=pb.Features(feature=made)).SerializeToString()
    length = struct.pack("<Q", len(payload))
    crc = TFRecordWriter.masked_crc
    path.write_bytes(length + crc(length) + payload + crc(payload))


@pytest.mark.parametrize(
    "features, told",
    [
        ({"image": b"\x89PNG\r\n\x1a\nnot really", "label": 0}, ["damaged"]),
        ({"image": b"1234567", "label": 0}, ["7 bytes", "square float32"]),
        ({"image": b"1234", "label": [0, 1]}, ["image (1 bytes of 4 bytes)", "label (2 int64)"]),
        ({"image_raw": bytes(64), "target": 1.5}, ["image_raw (1 bytes", "target (1 float 1.5)"]),
        (
            {"image": bytes(4 * 108), "label": 1, "height": 6, "width": 6, "channels": 3},
            ["432 bytes", "channels (1 int64 3)"],
        ),
        (
            {"image": bytes(36), "label": 1, "height": 6, "width": 6},
            ["36 bytes", "height (1 int64 6)"],
        ),
        (  # as many floats as a square has
            {"image": bytes(4 * 16 * 64), "label": 1, "height": 16, "width": 64},
            ["4096 bytes", "height (1 int64 16), image", "width (1 int64 64)"],
        ),
        ({"image": bytes(4 * 16 * 64), "label": 1, "shape": [16, 64]}, ["shape (2 int64)"]),
        (
            {"image": bytes(4 * 16 * 16 * 4), "label": 1, "height": 16, "width": 16, "depth": 4},
            ["4096 bytes", "depth (1 int64 4)"],
        ),
    ],
)
def test_an_example_that_is_no_image_and_label(tmp_path, features, told):
    """The message has the features that were found, with their types and counts."""
    path = tmp_path / "other.tfrecords"
    write_example(path, **features)
    with pytest.raises(BadImageError) as caught:
        RecordReader([path])[0]
    assert str(caught.value).startswith(f"{path}: record 0: ")
    assert [what for what in told if what not in str(caught.value)] == []


def test_a_square_image_with_its_size_beside_it_is_read(tmp_path):
    path, pixels = tmp_path / "told.tfrecords", np.arange(16, dtype="<f4").reshape(4, 4)
    for told in ({"height": 4, "width": 4, "depth": 1}, {"shape": [4, 4, 1]}, {"channels": 1}):
        write_example(path, image=pixels.tobytes(), label=1, **told)
        assert np.array_equal(RecordReader([path])[0][0], pixels)


@pytest.mark.parametrize(
    "content, kind",
    [
        (gzip.compress(bytes(100), mtime=0), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
    ],
    ids=["gzip", "HDF5", "PNG"],
)
@pytest.mark.parametrize("keep_damaged", [False, True])
def test_another_kind_of_file_is_named(tmp_path, content, kind, keep_damaged):
    path = tmp_path / "other.tfrecords"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=f"{path}.*{kind}"):
        RecordReader([path], keep_damaged)


def test_an_interrupted_writer_leaves_the_older_file(compact_file, images):
    before = compact_file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with RecordWriter(compact_file) as writer:
            writer.write(images[0], 1)
            raise KeyboardInterrupt
    assert compact_file.read_bytes() == before
    assert list(compact_file.parent.iterdir()) == [compact_file]


def test_two_writers_of_one_file(tmp_path, images):
    path = tmp_path / "one.tfrecords"
    with RecordWriter(path) as first:
        with pytest.raises(SystemRefusal, match="another process is writing it"):
            with RecordWriter(path):
                pass
        first.write(images[0], 1)
    assert len(RecordReader([path])) == 1


FILL = """
import resource, signal, sys
import numpy as np
from dataset_processing.records import RecordWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    with RecordWriter(sys.argv[1], compact=False) as writer:
        for _ in range(4):
            writer.write(np.zeros((300, 300), np.uint8), 0)
except RuntimeError as error:
    print(error)
    sys.exit(2)
"""


def test_no_room_keeps_the_older_file(compact_file):
    """A limit on the size of files stands in for a full disk: the writes fail in the same way."""
    before = compact_file.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(compact_file)], cwd=CLONE, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert f"{compact_file}: could not be written ({os.strerror(errno.EFBIG)})" in done.stdout
    assert compact_file.read_bytes() == before
    assert list(compact_file.parent.iterdir()) == [compact_file]


def test_a_disk_that_is_full(tmp_path, images):
    """The kernel's own answer, from /dev/full under the open file."""
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(SystemRefusal, match=r"new.tfrecords: could not be written \(No space left"):
        with RecordWriter(tmp_path / "new.tfrecords") as writer:
            os.dup2(full, writer._file.fileno())
            writer.write(images[0], 0)
    os.close(full)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EPERM, errno.EINVAL])
def test_a_file_system_without_locks(tmp_path, images, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("support.files.fcntl.flock", refuse)
    with RecordWriter(tmp_path / "one.tfrecords") as writer:
        writer.write(images[0], 1)
    assert len(RecordReader([tmp_path / "one.tfrecords"])) == 1
    with open(tmp_path / "lock", "w") as file:
        generate.hold(file.fileno(), tmp_path / "lock")  # for a whole set
