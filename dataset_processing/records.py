"""Records: images and labels in TFRecord files, written whole and read by number.

A file is a row of frames: the payload's length (uint64, little-endian), that field's checksum, the
payload, its checksum (masked CRC-32C). The payload is a ``tf.train.Example`` with two features:

- ``label``: one int64;
- ``image``: one byte string. The 2018 release's form holds the raw float32 pixels (0–255) of a
  square image in row order, 360 kB for 300×300. The compact form holds the same image as an 8-bit
  grey PNG, about 4 kB. A reader tells them apart by the PNG signature, whose first four bytes read
  as a float32 are far above 255.
"""

import io
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tfrecord import example_pb2
from tfrecord.writer import TFRecordWriter

from dataset_processing.images import BadImageError, decode_image, kind_of
from support.errors import MissingError, UserError, refusals
from support.files import WholeFile

HEADER = 12  # bytes: the length and its checksum
FOOTER = 4  # bytes: the payload's checksum
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SHAPE = ("height", "width", "channels", "depth")  # features that some writers put beside an image


class RecordWriter(WholeFile):
    """Writes a TFRecord file that appears under its name only once it is whole.

    A context manager; see :class:`WholeFile` for what happens to the file.

    Args:
        path: the file to make; its folder is made if need be.
        compact: PNG images; False writes the 2018 release's raw float32 pixels, byte for byte as
            TensorFlow does.

    Raises:
        SystemRefusal: another process is writing this file, or it cannot be written (a full disk).
    """

    def __init__(self, path: str | Path, compact: bool = True) -> None:
        super().__init__(path)
        self.compact = compact

    def __enter__(self) -> "RecordWriter":
        super().__enter__()
        return self

    def write(self, image: np.ndarray, label: int) -> None:
        """Appends one record.

        Args:
            image: (H, W), uint8 or float32 in 0–255; square unless compact.
            label: the class.

        Raises:
            UserError: the image cannot be held in this form.
            SystemRefusal: the file cannot be written (a full disk).
        """
        self.write_encoded(encode_image(image, self.compact), label)

    def write_encoded(self, image: bytes, label: int) -> None:
        """Appends one record whose image is encoded already: a PNG file, or raw float32 pixels."""
        payload = example_bytes(image, label)
        length = struct.pack("<Q", len(payload))
        checksum = TFRecordWriter.masked_crc
        self.append(length + checksum(length) + payload + checksum(payload))


class RecordReader(Sequence):
    """Random access to the records of TFRecord files, in either form.

    Opening reads the length fields of each file, checks them against their checksums and keeps an
    index of offsets. Reading a record checks both of its checksums again. A reader can be pickled
    and shared by processes; files are opened when first read from.

    Args:
        paths: the files, in order; one without a record, of 0 bytes, is allowed.
        keep_damaged: open files with damaged lengths or a cut end too; what lies between two whole
            records there counts as one record, and reading it raises.

    Raises:
        MissingError, SystemRefusal: a file is missing or cannot be read.
        BadImageError: a file holds no records, a length field is damaged, or a file ends inside a
            record.
    """

    def __init__(self, paths: Sequence[str | Path], keep_damaged: bool = False) -> None:
        self.paths = [Path(path) for path in paths]
        # Each file's record offsets, and its end as the last.
        self.offsets = [scan(path, keep_damaged) for path in self.paths]
        self.starts = np.cumsum([0] + [len(offsets) - 1 for offsets in self.offsets])
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:  # type: ignore[override]
        """The image, (H, W) uint8 if compact and float32 if not, perhaps read-only, and its label.

        Raises:
            IndexError: there is no such record.
            BadImageError: a checksum does not match, or the payload is no image and label.
        """
        return self.read(index)[:2]

    def read(self, index: int) -> tuple[np.ndarray, int, str]:
        """As ``[index]``, and how the image was converted to grey ("" if it is grey)."""
        file, number = self.locate(index)
        return decode(self._payload(file, number), self.place(index))

    def label(self, index: int) -> int:
        """The label alone, checksums checked, the image not decoded."""
        file, number = self.locate(index)
        return parse(self._payload(file, number), self.place(index))[1]

    def locate(self, index: int) -> tuple[int, int]:
        """The file's place in ``paths`` and the record's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        return file, int(index - self.starts[file])

    def name(self, index: int) -> str:
        """A record's name for messages: ``train.tfrecords record 17``."""
        file, number = self.locate(index)
        return f"{self.paths[file].name} record {number}"

    def place(self, index: int) -> str:
        """The same with the whole path: ``/data/train.tfrecords: record 17``."""
        file, number = self.locate(index)
        return f"{self.paths[file]}: record {number}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def _payload(self, file: int, number: int) -> bytes:
        """One record's payload, its checksums checked."""
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
        elif TFRecordWriter.masked_crc(payload) != frame[-FOOTER:]:
            what = "its contents do not match their checksum"
        else:
            return payload
        raise BadImageError(f"{path}: record {number}: {what} (offset {start})")


def scan(path: Path, keep_damaged: bool = False) -> np.ndarray:
    """Offsets of a file's records and, last, of its end: int64.

    Reads the length fields alone, through a window where records are small.

    Args:
        path: the file.
        keep_damaged: count what lies between two whole records as one record, which cannot be
            read, instead of raising.

    Raises:
        MissingError, SystemRefusal: there is no such file, or it cannot be read.
        BadImageError: it is another kind of file, a length does not match its checksum, or the
            file ends too soon.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such record file")
    offsets = [0]
    with refusals(path, "cannot be read"), open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        window, start, offset = b"", 0, 0
        while offset < size:
            if offset + HEADER > start + len(window):
                ahead = 1 << 22 if offset < 65536 * len(offsets) else HEADER
                window, start = os.pread(descriptor, ahead, offset), offset
            length = _length(window[offset - start : offset - start + HEADER])
            if length is not None and offset + HEADER + length + FOOTER <= size:
                offset += HEADER + length + FOOTER
            elif offset == 0 and length is None and not kind_of(window).startswith("the bytes"):
                raise BadImageError(f"{path}: is {_told(kind_of(window))}; expected TFRecords")
            elif keep_damaged:
                offset = _next_header(descriptor, offset + 1, size)
            else:
                damaged = length is None and size - offset >= HEADER
                what = "its length is damaged" if damaged else "the file ends inside it"
                where = f"offset {offset} of {size} bytes"
                raise BadImageError(
                    f"{path}: record {len(offsets) - 1}: {what} ({where}); it begins as "
                    f"{kind_of(window[offset - start :])}"
                )
            offsets.append(offset)
    return np.array(offsets, dtype=np.int64)


def _told(kind: str) -> str:
    return "compressed by gzip (gunzip it first)" if kind == "gzip" else kind


def _next_header(descriptor: int, offset: int, size: int) -> int:
    """Where the next whole record begins, from ``offset`` on; else the file's end."""
    while offset < size:
        window = os.pread(descriptor, 1 << 20, offset)
        for at in range(len(window) - HEADER + 1):
            length = _length(window[at : at + HEADER])
            if length is not None and offset + at + HEADER + length + FOOTER <= size:
                return offset + at
        offset += max(len(window) - HEADER + 1, 1)
    return size


def _length(header: bytes) -> int | None:
    """The length in a record's header; None if its checksum does not match."""
    if len(header) != HEADER or TFRecordWriter.masked_crc(header[:8]) != header[8:]:
        return None
    return int(struct.unpack("<Q", header[:8])[0])


def encode_image(image: np.ndarray, compact: bool) -> bytes:
    """A record's ``image`` feature from an (H, W) image in 0–255.

    Raises:
        UserError: it is not a grey image of uint8 or float32; compact, it is not whole numbers
            0–255; not compact, it is not square (that form does not hold the shape).
    """
    if image.ndim != 2 or image.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"a record holds an (H, W) image of uint8 or float32, not {image.shape} {image.dtype}"
        )
    if not compact:
        if image.shape[0] != image.shape[1]:
            raise UserError(f"the float32 form holds square images only, not {image.shape}")
        return np.ascontiguousarray(image, dtype="<f4").tobytes()
    if image.dtype != np.uint8:
        whole = np.clip(image, 0, 255).astype(np.uint8)
        if not np.array_equal(whole, image):
            raise UserError(
                "a compact record holds whole numbers 0–255; write the float32 form (--float32)"
            )
        image = whole
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def example_bytes(image: bytes, label: int) -> bytes:
    """A serialised ``tf.train.Example`` as TensorFlow writes it: ``label``, then ``image``.

    Protocol buffers leave a map's order open and it changes from process to process, so the two
    entries are serialised alone and joined. What encloses them, field 1 with a length, is the same
    on the wire for ``Example.features`` as for a list of one byte string.
    """
    pb = example_pb2
    label_entry = {"label": pb.Feature(int64_list=pb.Int64List(value=[int(label)]))}
    image_entry = {"image": pb.Feature(bytes_list=pb.BytesList(value=[image]))}
    entries = b"".join(
        pb.Features(feature=entry).SerializeToString() for entry in (label_entry, image_entry)
    )
    return pb.BytesList(value=[entries]).SerializeToString()


def parse(payload: bytes, name: str) -> tuple[bytes, int]:
    """The ``image`` and ``label`` features of a serialised example.

    Args:
        payload: the example.
        name: the record, for messages.

    Raises:
        BadImageError: it is no example, or has other features; the message lists those it has.
    """
    try:
        features = example_pb2.Example.FromString(payload).features.feature
    except DecodeError as error:
        raise BadImageError(f"{name}: its contents are no tf.train.Example") from error
    found = {key: features[key] for key in sorted(features)}
    images = found["image"].bytes_list.value if "image" in found else []
    labels = found["label"].int64_list.value if "label" in found else []
    if len(images) != 1 or len(labels) != 1:
        raise BadImageError(
            f"{name}: expected one byte string 'image' and one int64 'label', found the features "
            f"{_listed(found)}"
        )
    told = [n for key in SHAPE if key in found for n in found[key].int64_list.value]
    encoded = not kind_of(images[0]).startswith("the bytes")
    if not encoded and len(told) > 1 and (3 in told or 4 * math.prod(told) != len(images[0])):
        raise BadImageError(
            f"{name}: expected one channel of float32; found an image of {len(images[0])} bytes "
            f"beside the features {_listed(found)}"
        )
    return images[0], int(labels[0])


def _listed(features: dict[str, Any]) -> str:
    """Features with their types, counts and, of a single number or string, value or length."""
    told = []
    for key, feature in features.items():
        kind = feature.WhichOneof("kind")
        if kind is None:
            told.append(f"{key} (empty)")
            continue
        values = getattr(feature, kind).value
        one = ""
        if len(values) == 1:
            one = f" of {len(values[0])} bytes" if kind == "bytes_list" else f" {values[0]:g}"
        told.append(f"{key} ({len(values)} {kind.removesuffix('_list')}{one})")
    return ", ".join(told) or "none"


def decode(payload: bytes, name: str) -> tuple[np.ndarray, int, str]:
    """Image and label of a serialised example, and how the image was converted to grey.

    Raises:
        BadImageError: the image cannot be made out.
    """
    image, label = parse(payload, name)
    kind = kind_of(image)
    if image.startswith(PNG_SIGNATURE) or kind.endswith("JPEG image"):
        pixels, converted = decode_image(image, name)
        return pixels, label, converted
    side = math.isqrt(len(image) // 4)
    if not side or 4 * side * side != len(image):
        raise BadImageError(
            f"{name}: its image of {len(image)} bytes, which begins as {kind}, is neither PNG nor "
            "square float32"
        )
    return np.frombuffer(image, dtype="<f4").reshape(side, side), label, ""
