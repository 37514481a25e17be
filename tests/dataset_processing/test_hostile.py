"""Hostile folders and records, drawn at random: each is read with the right pixels and labels by
training, encode, verify and predict alike, or refused with the name of the file or folder."""

import gzip
import io
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tfrecord.writer import TFRecordWriter

from analysis.image_sets import open_images
from config import Config
from dataset_processing import encode, open_set, verify
from dataset_processing.images import read_image
from dataset_processing.records import encode_image, example_bytes
from support.errors import UserError

DATA_NAME, NAME = "curv_contour_length_14", "curv_contour_length_14_full"
SIDE = 16
GOOD = ("grey", "grey as colour", "transparent white", "palette", "1 bit", "4 bits",
        "grey and alpha", "blue")  # fmt: skip
BINARY = "0 and 1"  # not a bad file, but a set of them is off the scale
BAD = ("16 bits", "16-bit colour", "empty", "cut", "text", "missing", "other size", "animated")
EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@dataclass
class Truth:
    """What is to be read: images and labels by file name; the names of files that are bad."""

    images: dict[str, tuple[np.ndarray, int]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)


def metadata(path: Path, table: list[list[str]], how: str, plan: dict) -> None:
    """A metadata file, spoilt in one of the ways of ``plan["beside"]``."""
    table = [row[:2] if how == "two columns" else list(row) for row in table]
    if how.startswith("wrong label"):
        table[3][3] = "2"
    elif how == "NUL":
        table[4][1] = "s\0.png"
    text = plan["layout"] == "2020 text"
    if how == "no array" or (how == "short row" and not text):
        path.write_bytes(b"\x93NUMPY\1\0\x76\0\xff'descr': '<U6'}".ljust(128) + b"\n" * 99)
    elif text:
        if how == "short row":
            table[2] = table[2][:1]
        path.write_text("\n".join(map(" ".join, table)), encoding=plan["encoding"])
    else:
        np.save(path, np.array(table))


def file_of(kind: str, image: np.ndarray) -> tuple[bytes | None, np.ndarray | None]:
    """A file of this kind, and the image in it: None where it must be refused."""
    alpha = Image.fromarray(image)
    black = Image.new("L", alpha.size, 0)
    blue = Image.merge("RGB", [black, black, alpha])
    quantized = Image.fromarray(image // 17).convert("P")
    quantized.putpalette([17 * (entry // 3) for entry in range(48)])
    white, opaque = Image.new("L", alpha.size, 255), Image.new("L", alpha.size, 255)
    made: dict[str, tuple[Image.Image, np.ndarray | None]] = {
        "grey": (alpha, image),
        "grey as colour": (Image.merge("RGB", [alpha] * 3), image),
        "transparent white": (Image.merge("RGBA", [white] * 3 + [alpha]), image),
        "grey and alpha": (Image.merge("LA", [alpha, opaque]), image),
        "palette": (alpha.convert("P"), image),
        "4 bits": (quantized, image // 17 * 17),
        "blue": (blue, ((7471 * image.astype(int) + 2**15) >> 16).astype("u1")),
        BINARY: (Image.fromarray(image // 255), image // 255),
        "1 bit": (alpha.convert("1", dither=Image.Dither.NONE), (image > 127).astype("u1") * 255),
        "16 bits": (Image.fromarray(image.astype(np.uint16) * 257), None),
        "other size": (alpha.resize((SIDE + 1, SIDE)), None),
        "cut": (alpha, None),
        "animated": (alpha, None),
    }
    if kind in ("empty", "text", "missing", "16-bit colour"):
        return {"empty": b"", "text": b"no image", "16-bit colour": DEEP}.get(kind), None
    picture, expected = made[kind]
    stream = io.BytesIO()
    more = {"save_all": True, "append_images": [picture.rotate(90)]} if kind == "animated" else {}
    more |= {"bits": 4} if kind == "4 bits" else {}
    picture.save(stream, "PNG", **more)
    return stream.getvalue()[: 80 if kind == "cut" else None], expected


def _deep() -> bytes:
    """A PNG of 16 bits a channel in colour, which Pillow cannot write: its header's depth."""
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, 2 * SIDE), (9, 9, 9)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[24] = 16
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


DEEP = _deep()


@st.composite
def folders(draw: st.DrawFn) -> dict:
    """How a folder is made: its layout, its files, its metadata's habits."""
    some = st.lists(st.sampled_from(GOOD), min_size=12, max_size=16)
    kinds = st.one_of(some, some, some, st.just([BINARY] * 12))
    few = st.lists(st.sampled_from(BAD), max_size=3)
    return {
        "layout": draw(st.sampled_from(["2018", "2020", "2020 text", "2025"])),
        "kinds": draw(kinds) + draw(few),
        "separator": draw(st.sampled_from("/\\")),
        "labels": draw(st.sampled_from([("0", "1"), ("0.0", "1.0")])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        "companions": draw(st.booleans()),
        "beside": draw(
            st.sampled_from(
                [
                    "",
                    "",
                    "",
                    "neg",
                    "empty neg",
                    "wrong label",
                    "wrong label, neg",
                    "short row",
                    "two columns",
                    "NUL",
                    "no array",
                ]
            )
        ),
        "name": draw(st.sampled_from(["s{}.png", "ä {}.png", "s{}.PNG"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def build(root: Path, plan: dict) -> Truth:
    """The folder of a plan."""
    random, truth = np.random.default_rng(plan["seed"]), Truth()
    set_folder, rows = root / DATA_NAME, {0: [], 1: []}
    text = plan["layout"] == "2020 text"
    name = plan["name"].replace(" ", "_" if text else " ")
    for number, kind in enumerate(plan["kinds"]):
        label, file = number % 2, name.format(number)
        image = random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        image.flat[:8] = [255 * ((number >> bit) & 1) for bit in range(8)]  # no two are alike
        image[5, 5] = 255
        data, expected = file_of(kind, image)
        top = set_folder if plan["layout"] != "2018" or label else root / f"{DATA_NAME}_neg"
        inside = f"imgs/{('neg', 'pos')[label]}" if plan["layout"] == "2025" else "imgs/0"
        (top / inside).mkdir(parents=True, exist_ok=True)
        if data is None and plan["layout"] == "2025":
            continue
        if data is not None:
            (top / inside / file).write_bytes(data)
        shown = inside.replace("/", plan["separator"])
        third = plan["labels"][label] if plan["layout"].startswith("2020") else "1.8"
        rows[label].append([shown, file, str(number), third, "1.8"])
        if expected is None:
            truth.bad.add(str(top / inside / file))
        else:
            truth.images[str(top / inside / file)] = expected, label
    if plan["layout"] == "2018":
        for label, top in ((1, set_folder), (0, root / f"{DATA_NAME}_neg")):
            (top / "metadata").mkdir()
            metadata(top / "metadata" / "combined.npy", rows[label], "", plan)
    elif plan["layout"].startswith("2020"):
        (set_folder / "metadata").mkdir()
        table = rows[0] + rows[1]
        metadata(set_folder / "metadata" / "0.npy", table, plan["beside"], plan)
    if plan["layout"] != "2018" and plan["beside"].endswith("neg"):
        (root / f"{DATA_NAME}_neg" / "metadata").mkdir(parents=True)
        if plan["beside"] == "neg":
            table = np.array([["imgs/0", "x.png", "0", "1.8", "1"]])
            np.save(root / f"{DATA_NAME}_neg" / "metadata" / "combined.npy", table)
    if plan["companions"]:
        for folder in [path for path in root.rglob("*") if path.is_dir()]:
            for companion in ("._s0.png", "._0.npy", ".DS_Store", "Thumbs.db"):
                (folder / companion).write_bytes(b"\0\5\x16\7")
    return truth


@contextmanager
def user() -> Iterator[tuple[Path, Config]]:
    """A data root and the paths of a user who has set it."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HGRU_DATA_ROOT", f"{home}/data")
        patch.setenv("HGRU_PROJECT_DIRECTORY", f"{home}/out")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Path(home), Config()


def read_all(fold) -> tuple[dict, set[str]]:
    """Images and labels by name, and the names of those that are refused."""
    good, bad = {}, set()
    for number in range(len(fold)):
        try:
            good[fold.name(number)] = fold[number]
        except UserError as error:
            assert fold.name(number).removesuffix(f" record {number}") in str(error)
            bad.add(fold.name(number))
    return good, bad


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name][0], image) and found[name][1] == label
        for name, (image, label) in expected.items()
    )


@EXAMPLES
@given(folders())
def test_a_folder_is_read_alike_everywhere_or_refused_by_name(plan):
    with user() as (home, config):
        root = home / "data"
        truth = build(root, plan)
        try:
            data = open_set(NAME, config)
            found, refused = read_all(data.fold("train"))
            more, others = read_all(data.fold("val"))
        except UserError as error:
            assert str(root) in str(error)
            beside = plan["beside"] != "" and plan["layout"] != "2018"
            assert beside or truth.bad or BINARY in plan["kinds"], error
            assert_refused(config)
            if not truth.bad:
                with pytest.raises(UserError, match=re.escape(str(root))):
                    open_images(str(root / DATA_NAME), config, {}, 0)
            return
        assert BINARY not in plan["kinds"]
        found, refused = found | more, refused | others
        listed = {name: truth.images[name] for name in found}
        assert same(found, listed)
        assert refused <= truth.bad
        whole, bad = read_all(open_images(str(root / DATA_NAME), config, {}, 0))  # as evaluate does
        assert same(whole, truth.images) and bad == truth.bad
        for name, (image, _) in truth.images.items():  # as predict does
            assert np.array_equal(read_image(Path(name)), image)
        assert encode.main(["--dataset", NAME, "--threads", "1"]) == (1 if refused else 0)
        folds = [open_set(NAME, config).fold(fold) for fold in ("train", "val")]
        held = [fold[number] for fold in folds for number in range(len(fold))]
        keys = sorted((image.tobytes(), label) for image, label in held)
        assert keys == sorted((image.tobytes(), label) for image, label in found.values())
        shutil.rmtree(config.tf_records)
        wrong = [what for one in verify.check_set(NAME, config, 1) for what in
                 one.wrong.get("corrupt records", [])]  # fmt: skip
        size = {name for name in refused if not any(name in what for what in wrong)}
        assert len(wrong) + len(size) == len(refused)  # another size is a finding of its own


def assert_refused(config: Config) -> None:
    """Encoding refuses it too, and leaves nothing."""
    with pytest.raises(UserError):
        encode.main(["--dataset", NAME, "--threads", "1"])
    assert not list(config.tf_records.glob("*"))


def frame(payload: bytes) -> bytes:
    length, crc = len(payload).to_bytes(8, "little"), TFRecordWriter.masked_crc
    return length + crc(length) + payload + crc(payload)


OFF_SCALE = ("0–1", "big-endian", "standardised", "uint8")
RECORDS = ("compact", "float32", "JPEG", *OFF_SCALE, "nan", "colour", "label 2", "flipped",
           "other features", "no example")  # fmt: skip


@st.composite
def shards(draw: st.DrawFn) -> dict:
    """How record files are made: the kinds of their records, what is done to the files."""
    kind = draw(st.sampled_from(RECORDS[:2] * 3 + OFF_SCALE))
    return {
        "shards": [
            [kind] * count + draw(st.lists(st.sampled_from(RECORDS[2:]), max_size=1))
            for count in draw(st.lists(st.sampled_from([0, 3, 9]), min_size=1, max_size=3))
        ],
        "file": draw(st.sampled_from(["", "", "", "cut", "gzip", "missing", "twice", "tail"])),
        "skip": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def record(kind: str, image: np.ndarray) -> tuple[bytes, np.ndarray | None]:
    """A record, and its image: None where it must be refused."""
    encoded = encode_image(image, True)
    floats = image.astype("<f4")
    if kind in ("compact", "label 2", "flipped"):
        payload = example_bytes(encoded, 2 if kind == "label 2" else 1)
        made = bytearray(frame(payload))
        if kind == "flipped":
            made[len(made) // 2] ^= 8
        return bytes(made), image if kind == "compact" else None
    if kind == "JPEG":
        stream = io.BytesIO()
        Image.fromarray(np.full_like(image, 128)).save(stream, "JPEG", quality=95)
        return frame(example_bytes(stream.getvalue(), 1)), np.full_like(image, 128)
    if kind == "nan":
        floats[0, 0] = np.nan
    raw = {
        "float32": floats.tobytes(),
        "nan": floats.tobytes(),
        "0–1": (floats / 255).tobytes(),
        "big-endian": floats.astype(">f4").tobytes(),
        "standardised": ((floats - floats.mean()) / floats.std()).tobytes(),
        "uint8": image.tobytes(),
        "colour": np.dstack([floats] * 3).tobytes(),
    }
    if kind in raw:
        return frame(example_bytes(raw[kind], 1)), image if kind == "float32" else None
    payload = example_bytes(encoded, 1).replace(b"image", b"imago")
    return frame(payload if kind == "other features" else b"\xff" * 40), None


@EXAMPLES
@given(shards())
def test_records_are_read_with_the_right_pixels_or_refused_by_name(plan):
    with user() as (_, config):
        random, expected = np.random.default_rng(plan["seed"]), []
        folder = config.tf_records
        folder.mkdir(parents=True)
        paths = []
        for number, kinds in enumerate(plan["shards"]):
            made = [record(k, random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)) for k in kinds]
            expected += [image for _, image in made]
            end = f"-{number:05d}-of-{len(plan['shards']):05d}" if len(plan["shards"]) > 1 else ""
            paths.append(folder / f"{NAME}_train{end}.tfrecords")
            paths[-1].write_bytes(b"".join(data for data, _ in made))
        spoil(plan["file"], paths[-1], folder)
        try:
            fold = open_set(NAME, config, {}, "skip" if plan["skip"] else "error").fold("train")
        except UserError as error:
            assert NAME in str(error)
            unusual = plan["file"] or any(
                k in RECORDS[2:] for kinds in plan["shards"] for k in kinds
            )
            assert unusual or not expected
            return
        kinds = {kind for kinds in plan["shards"] for kind in kinds}
        assert not kinds & set(OFF_SCALE) or kinds & {"compact", "float32", "JPEG"}
        damaged = plan["file"] in ("cut", "tail")
        assert len(fold) in ([len(expected), len(expected) + 1] if damaged else [len(expected)])
        for number, image in enumerate(expected):
            if damaged and number >= len(expected) - len(plan["shards"][-1]):
                break
            try:
                found, label = fold[number]
            except UserError as error:
                assert str(folder) in str(error)
                assert image is None
                continue
            assert image is not None and label == 1
            np.testing.assert_array_equal(found, image)
        for one in verify.check_files([path for path in paths if path.stat().st_size], 1):
            assert "images outside" not in one.report() or "float" in str(plan["shards"])


def spoil(how: str, path: Path, folder: Path) -> None:
    """What has happened to a record file."""
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:-7])
    elif how == "tail":
        path.write_bytes(data + b"left over")
    elif how == "gzip":
        path.write_bytes(gzip.compress(data))
    elif how == "missing":
        path.unlink()
    elif how == "twice":
        (folder / f"{NAME}_train-00000-of-00009.tfrecords").write_bytes(data)
