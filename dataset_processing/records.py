"""Records: images and labels in TFRecord files, written whole and read by number.

A file is a row of frames: the payload's length (uint64, little-endian), that field's checksum, the
payload, its checksum (masked CRC-32C). The payload is a ``tf.train.Example`` with two features:

- ``label``: one int64;
- ``image``: one byte string. The 2018 release's form holds the raw float32 pixels (0–255) of a
  square image in row order, 360 kB for 300×300. The compact form holds the same image as an 8-bit
  grey PNG, about 4 kB. A reader tells them apart by the PNG signature, whose first four bytes read
  as a float32 are far above 255.
"""

import hashlib
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError
from tfrecord import example_pb2 as pb
from tfrecord.writer import TFRecordWriter

from dataset_processing.images import BadImageError, decode_image, encode_png, kind_of
from support.errors import MissingError, UserError, refusals
from support.files import WholeFile

HEADER = 12  # bytes: the length and its checksum
FOOTER = 4  # bytes: the payload's checksum
SAMPLES = 64  # records of a file, or images of a set, that a fingerprint looks at
SHAPE = ("height", "width", "channels", "depth", "shape")  # that writers put beside an image
checksum = TFRecordWriter.masked_crc


class RecordWriter(WholeFile):
    """Writes a TFRecord file that appears under its name only once it is whole; see `WholeFile`.

    ``compact``: PNG images; False writes the 2018 release's raw float32 pixels, byte for byte as
    TensorFlow does.
    """

    def __init__(self, path: str | Path, compact: bool = True) -> None:
        super().__init__(path)
        self.compact = compact

    def write(self, image: np.ndarray, label: int) -> None:
        """Appends a record of an image, (H, W), and its class; see :func:`encode_image`."""
        self.write_encoded(encode_image(image, self.compact), label)

    def write_encoded(self, image: bytes, label: int) -> None:
        """Appends one record whose image is encoded already: a PNG file, or raw float32 pixels."""
        payload = example_bytes(image, label)
        length = struct.pack("<Q", len(payload))
        self.append(length + checksum(length) + payload + checksum(payload))


class RecordReader(Sequence):
    """Random access to the records of TFRecord files, in either form.

    Opening checks the length fields and keeps an index of offsets; reading a record checks both of
    its checksums. A reader can be pickled and shared by processes.

    Args:
        paths: the files, in order; one without a record, of 0 bytes, is allowed.
        keep_damaged: see :func:`scan`, which raises what is wrong with a file.
    """

    def __init__(self, paths: Sequence[str | Path], keep_damaged: bool = False) -> None:
        self.paths = [Path(path) for path in paths]
        self.offsets = [scan(path, keep_damaged) for path in self.paths]
        self.starts = np.cumsum([0] + [len(offsets) - 1 for offsets in self.offsets])
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:  # type: ignore[override]
        return self.read(index)[:2]

    def read(self, index: int) -> tuple[np.ndarray, int, str]:
        """A record's image, (H, W), uint8 if compact and float32 if not, perhaps read-only; its
        label; and what the image was before it was converted, "" if it was not.

        Raises:
            IndexError: there is no such record.
            BadImageError: a checksum does not match, or the payload is no image and label.
        """
        file, number = self.locate(index)
        path = self.paths[file]
        start, end = (int(offset) for offset in self.offsets[file][number : number + 2])
        with refusals(path, "cannot be read"):
            if file not in self._descriptors:
                self._descriptors[file] = os.open(path, os.O_RDONLY)
            frame = os.pread(self._descriptors[file], end - start, start)
        payload = frame[HEADER:-FOOTER]
        if len(frame) != end - start:
            what = "the file has been cut short since it was opened"
        elif _length(frame[:HEADER]) != end - start - HEADER - FOOTER:
            what = "its length is damaged or its end is missing"
        elif checksum(payload) != frame[-FOOTER:]:
            what = "its contents do not match their checksum"
        else:
            return decode(payload, self.place(index))
        raise BadImageError(f"{self.place(index)}: {what} (offset {start})")

    def locate(self, index: int) -> tuple[int, int]:
        """The file's place in ``paths`` and the record's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        return file, int(index - self.starts[file])

    def name(self, index: int) -> str:
        """A record in tables: ``train.tfrecords record 17``."""
        file, number = self.locate(index)
        return f"{self.paths[file].name} record {number}"

    def place(self, index: int) -> str:
        """A record in errors: ``/data/train.tfrecords: record 17``."""
        file, number = self.locate(index)
        return f"{self.paths[file]}: record {number}"

    def fingerprint(self, named: bool = True) -> str:
        """A short hash of the files' names (unless not ``named``), lengths and some of their
        records' checksums."""
        digest = hashlib.sha256()
        for path, offsets in zip(self.paths, self.offsets, strict=True):
            digest.update(f"{path.name if named else ''} {len(offsets)} {offsets[-1]}".encode())
            picked = np.linspace(1, len(offsets) - 1, SAMPLES).astype(int)
            with refusals(path, "cannot be read"), open(path, "rb") as file:
                for end in offsets[np.unique(picked)] if len(offsets) > 1 else ():
                    file.seek(max(int(end) - FOOTER, 0))
                    digest.update(file.read(FOOTER))
        return digest.hexdigest()[:16]

    def describe(self, size: str = "") -> str:
        """How many records of what ``size`` in which files."""
        room = sum(int(offsets[-1]) for offsets in self.offsets) / 1e6
        files = f"{len(self.paths)} file{'s' * (len(self.paths) > 1)}"
        return f"{len(self)} records{size} in {files} ({room:.1f} MB) of {self.paths[0].parent}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)


def scan(path: Path, keep_damaged: bool = False) -> np.ndarray:
    """Offsets of a file's records and, last, of its end: int64. Reads the length fields alone.

    ``keep_damaged``: count what lies between two whole records as one record, which cannot be read,
    instead of raising.

    Raises:
        BadImageError: it is another kind of file, a length does not match its checksum, or the
            file ends inside a record.
        UserError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such record file")
    offsets = [0]
    with refusals(path, "cannot be read"), open(path, "rb", buffering=4096) as file:
        size = os.fstat(file.fileno()).st_size
        while offsets[-1] < size:
            offset = offsets[-1]
            file.seek(offset)
            header = file.read(HEADER)
            length = _length(header)
            if length is not None and offset + HEADER + length + FOOTER <= size:
                offsets.append(offset + HEADER + length + FOOTER)
                continue
            kind = kind_of(header)
            if offset == 0 and length is None and not kind.startswith("the bytes"):
                raise BadImageError(f"{path}: is {kind}; expected TFRecords")
            if not keep_damaged:
                damaged = length is None and size - offset >= HEADER
                what = "its length is damaged" if damaged else "the file ends inside it"
                raise BadImageError(
                    f"{path}: record {len(offsets) - 1}: {what} (offset {offset} of {size} bytes); "
                    f"it begins as {kind}"
                )
            offsets.append(_next_header(file, offset + 1, size))
    return np.array(offsets, dtype=np.int64)


def _next_header(file: BinaryIO, offset: int, size: int) -> int:
    """Where the next whole record begins, from ``offset`` on; else the file's end."""
    while offset < size:
        file.seek(offset)
        window = file.read(1 << 20)
        for at in range(len(window) - HEADER + 1):
            length = _length(window[at : at + HEADER])
            if length is not None and offset + at + HEADER + length + FOOTER <= size:
                return offset + at
        offset += max(len(window) - HEADER + 1, 1)
    return size


def _length(header: bytes) -> int | None:
    """The length in a record's header; None if its checksum does not match."""
    if len(header) != HEADER or checksum(header[:8]) != header[8:]:
        return None
    return int(struct.unpack("<Q", header[:8])[0])


def encode_image(image: np.ndarray, compact: bool) -> bytes:
    """A record's ``image`` feature from an (H, W) image, uint8 or float32 in 0–255.

    Raises:
        UserError: it is no such image; compact, it is not whole numbers 0–255; not compact, it is
            not square (that form does not hold the shape).
    """
    if image.ndim != 2 or image.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"a record holds an (H, W) image of uint8 or float32, not {image.shape} {image.dtype}"
        )
    if not compact:
        if image.shape[0] != image.shape[1]:
            raise UserError(f"the float32 form holds square images only, not {image.shape}")
        return np.ascontiguousarray(image, dtype="<f4").tobytes()
    whole = image if image.dtype == np.uint8 else np.clip(image, 0, 255).astype(np.uint8)
    if not np.array_equal(whole, image):
        raise UserError(
            "a compact record holds whole numbers 0–255; write the float32 form (--float32)"
        )
    return encode_png(whole)


def example_bytes(image: bytes, label: int) -> bytes:
    """A serialised ``tf.train.Example`` as TensorFlow writes it: ``label``, then ``image``.

    Protocol buffers leave a map's order open and it changes from process to process, so the two
    entries are serialised alone and joined. What encloses them, field 1 with a length, is the same
    on the wire for ``Example.features`` as for a list of one byte string.
    """
    features = {
        "label": pb.Feature(int64_list=pb.Int64List(value=[int(label)])),
        "image": pb.Feature(bytes_list=pb.BytesList(value=[image])),
    }
    entries = [pb.Features(feature={key: features[key]}) for key in features]
    joined = b"".join(entry.SerializeToString() for entry in entries)
    return pb.BytesList(value=[joined]).SerializeToString()


def decode(payload: bytes, name: str) -> tuple[np.ndarray, int, str]:
    """What :meth:`RecordReader.read` gives, of a serialised example.

    Raises:
        BadImageError: it is no example, has other features (the message lists those it has), or
            the image cannot be made out.
    """
    try:
        features = pb.Example.FromString(payload).features.feature
    except DecodeError as error:
        raise BadImageError(f"{name}: its contents are no tf.train.Example") from error
    images = features["image"].bytes_list.value if "image" in features else []
    labels = features["label"].int64_list.value if "label" in features else []
    if len(images) != 1 or len(labels) != 1:
        raise BadImageError(
            f"{name}: expected one byte string 'image' and one int64 'label', found the features "
            f"{_listed(features)}"
        )
    (image,), (label,) = images, labels
    kind = kind_of(image)
    if kind in ("a PNG image", "a JPEG image"):
        pixels, converted = decode_image(image, name)
        return pixels, label, converted
    shape = [n for key in SHAPE if key in features for n in features[key].int64_list.value]
    side = math.isqrt(len(image) // 4)
    told_otherwise = len(shape) > 1 and not {*shape} <= {1, side}
    if not side or 4 * side * side != len(image) or told_otherwise:
        raise BadImageError(
            f"{name}: expected a PNG or JPEG image, or square float32 pixels of one channel (uint8 "
            f"pixels are not read; write them as PNG); found {len(image)} bytes, which begin as "
            f"{kind}, and the features {_listed(features)}"
        )
    return np.frombuffer(image, dtype="<f4").reshape(side, side), label, ""


def _listed(features: Any) -> str:
    """Features with their types, counts and, of a single number or string, value or length."""
    told = []
    for key in sorted(features):
        kind = features[key].WhichOneof("kind")
        values = getattr(features[key], kind).value if kind else []
        one = ""
        if len(values) == 1:
            one = f" of {len(values[0])} bytes" if kind == "bytes_list" else f" {values[0]:g}"
        told.append(f"{key} ({len(values)} {str(kind).removesuffix('_list')}{one})")
    return ", ".join(told) or "none"
