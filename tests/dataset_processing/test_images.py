"""One way to read an image, whatever its kind, and images that are off the scale."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from dataset_processing.images import (
    BadImageError,
    check_scale,
    decode_image,
    read_image,
)
from support.errors import MissingError, SystemRefusal

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 15), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (12, 15), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 15, 3), dtype=np.uint8)


def luminance(colour: np.ndarray) -> np.ndarray:
    """ITU-R 601, to a grey level."""
    return colour.astype(float) @ [0.299, 0.587, 0.114]


def png(bits: int, kind: int, rows: list[bytes], extra: bytes = b"", width: int = 15) -> bytes:
    """A PNG file of any bit depth and colour type, put together by hand."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
        + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )  # fmt: skip


def packed(image: np.ndarray, bits: int) -> list[bytes]:
    """Rows of a PNG of fewer than 8 bits a pixel."""
    digits = (image[..., None] >> np.arange(bits)[::-1]) & 1
    return [np.packbits(row.flatten()).tobytes() for row in digits]


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files, and the images that a viewer shows of them on black."""
    palette = Image.fromarray(GREY % 7).convert("L")
    shades = np.array([0, 40, 90, 130, 170, 210, 255], np.uint8)
    palette = Image.fromarray(GREY % 7, "L")
    palette.putpalette(np.stack([shades] * 3, 1).flatten().tolist())
    white = np.dstack([np.full_like(GREY, 255)] * 3 + [ALPHA])
    trns = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 9)
    trns += struct.pack(">I", zlib.crc32(trns[4:]))
    return {
        "grey": (saved(Image.fromarray(GREY)), GREY),
        "1 bit": (png(1, 0, packed(GREY & 1, 1)), (GREY & 1) * 255),
        "2 bits": (png(2, 0, packed(GREY & 3, 2)), (GREY & 3) * 85),
        "4 bits": (png(4, 0, packed(GREY & 15, 4)), (GREY & 15) * 17),
        "palette": (saved(palette), shades[GREY % 7]),
        "grey as colour": (saved(Image.fromarray(np.dstack([GREY] * 3))), GREY),
        "colour": (saved(Image.fromarray(COLOUR)), luminance(COLOUR)),
        "blue on black": (
            saved(Image.fromarray(np.dstack([0 * GREY, 0 * GREY, GREY]))), 0.114 * GREY,
        ),
        "white ink on a transparent ground": (saved(Image.fromarray(white)), ALPHA),
        "grey and transparency": (
            saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA")), GREY * (ALPHA / 255),
        ),
        "colour and transparency": (
            saved(Image.fromarray(np.dstack([COLOUR, ALPHA]))), luminance(COLOUR) * (ALPHA / 255),
        ),
        "one grey is transparent": (
            png(8, 0, [row.tobytes() for row in GREY % 10], trns),
            np.where(GREY % 10 == 9, 0, GREY % 10),
        ),
        "BMP": (saved(Image.fromarray(GREY), "BMP"), GREY),
        "TIFF": (saved(Image.fromarray(GREY), "TIFF"), GREY),
    }  # fmt: skip


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.filterwarnings("ignore")
def test_an_image_is_read_as_a_viewer_shows_it_on_black(tmp_path, kind):
    data, expected = kinds()[kind]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    image = read_image(path)
    assert (image.dtype, image.shape) == (np.uint8, GREY.shape)
    exact = expected.dtype == np.uint8 and kind != "white ink on a transparent ground"
    assert np.abs(image - expected.astype(float)).max() <= (0 if exact else 1.5)


@pytest.mark.parametrize("kind", kinds())
def test_a_conversion_is_told_with_the_files_name(tmp_path, kind):
    path = tmp_path / "image.png"
    path.write_bytes(kinds()[kind][0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(path)
    told = [str(one.message) for one in caught]
    plain = kind in (
        "grey",
        "1 bit",
        "2 bits",
        "4 bits",
        "palette",
        "grey as colour",
        "BMP",
        "TIFF",
    )
    assert len(told) == (0 if plain else 1)
    assert all(str(path) in one for one in told)


DEEP = GREY.astype(np.uint16) * 257


@pytest.mark.parametrize(
    "data, what",
    [
        (b"", "0 bytes"),
        (b"nonsense", "6e 6f 6e"),
        (saved(Image.fromarray(DEEP)), "16 bits"),
        (png(16, 2, [np.repeat(row, 3).astype(">u2").tobytes() for row in DEEP]), "16 bits"),
        (png(16, 4, [np.repeat(row, 2).astype(">u2").tobytes() for row in DEEP]), "16 bits"),
        (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "mode F"),
        (saved(Image.fromarray(GREY))[:60], "damaged"),
        (
            saved(Image.fromarray(GREY), "GIF", save_all=True,
                  append_images=[Image.fromarray(255 - GREY)]),
            "2 frames",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, data, what):
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=f"{path}.*{what}"):
        read_image(path)


def test_files_that_cannot_be_had(tmp_path):
    with pytest.raises(MissingError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(SystemRefusal, match=str(tmp_path)):
        read_image(tmp_path)


@pytest.mark.parametrize("cut", range(0, 400, 23))
def test_a_file_cut_anywhere_is_an_error_of_its_own_kind(cut):
    data = saved(Image.fromarray(np.dstack([COLOUR, ALPHA])))
    with pytest.raises(BadImageError, match=r"x\.png"):
        decode_image(data[:cut], "x.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_file_whose_end_a_crash_left_as_zeros_is_damaged(form):
    """Pillow shows what there is of such an image, and says nothing."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "\xff\xd9"  # the mark of an end, in a header
    data = saved(Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8))), form, exif=exif)
    assert decode_image(data + b"appended", "x")[0].shape == (96, 120)
    for kept in range(len(data) // 2, len(data) - 16, 7):
        with pytest.raises(BadImageError, match=r"x\.png: .*damaged"):
            decode_image(data[:kept] + bytes(len(data) - kept), "x.png")


def test_a_bit_of_a_pngs_pixels_that_has_changed_is_damage():
    data = saved(Image.fromarray(GREY))
    pixels = data.index(b"IDAT") + 4
    for place in range(pixels, data.index(b"IEND") - 4):
        flipped = bytearray(data)
        flipped[place] ^= 4
        with pytest.raises(BadImageError, match=r"x\.png: .*damaged"):
            decode_image(bytes(flipped), "x.png")


def test_a_tiff_with_a_damaged_second_directory_is_damaged():
    data = bytearray(saved(Image.fromarray(GREY), "TIFF"))
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * entries  # to the next directory, of no entries
    data[link : link + 4] = len(data).to_bytes(4, "little")
    with pytest.raises(BadImageError, match=r"x\.tif: .*damaged"):
        decode_image(bytes(data) + bytes(6), "x.tif")


def looked(images: np.ndarray, meant: bool = False) -> list[str]:
    """What is said of them, each by itself."""
    return [check_scale(image, f"image {n}", meant) for n, image in enumerate(images)]


STIMULI = np.where(RANDOM.random((5, 20, 20)) < 0.1, 255, 0).astype(np.float32)


def test_images_on_the_scale_pass_without_a_word():
    for images in (STIMULI, STIMULI.astype(np.uint8), STIMULI / 8, 0 * STIMULI):
        assert looked(images) == [""] * 5


@pytest.mark.parametrize(
    "images, found",
    [
        (STIMULI / 255, "between 0 and 1"),
        ((STIMULI - STIMULI.mean()) / STIMULI.std(), "between -0.3"),
        (STIMULI / 127.5 - 1, "between -1 and 1"),
        (STIMULI * 257, "and 65535"),
        ((STIMULI / 255).astype(np.uint8), "between 0 and 1"),
        (np.where(STIMULI == 0, np.nan, STIMULI), "of its 400 pixels are not finite"),
        (np.frombuffer(STIMULI.astype(">f4").tobytes(), "<f4").reshape(5, 20, 20), "big-endian"),
        (np.frombuffer(STIMULI.astype("u1").tobytes(), "<f4").reshape(5, 10, 10), "uint8.*20×20"),
    ],
)
def test_an_image_off_the_scale_is_refused(images, found):
    for number, image in enumerate(images):
        with pytest.raises(BadImageError, match=f"image {number}.*{found}"):
            check_scale(image, f"image {number}")


def test_another_scale_may_be_meant_where_nothing_divides_by_255():
    assert all("between 0 and 1" in told for told in looked(STIMULI / 255, meant=True))
    with pytest.raises(BadImageError, match="not finite"):
        looked(np.where(STIMULI == 0, 1, np.inf), meant=True)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(form, turn):
    """EXIF's orientation n: where the file's first row and column belong."""
    held = np.zeros((40, 48), np.uint8)
    held[:16, :8] = 200  # tall, at the first row and column
    rows_first = turn < 5
    upright = held if rows_first else held.T
    upright = upright[::-1] if turn in (3, 4, 7, 8) else upright
    upright = upright[:, ::-1] if turn in (2, 3, 6, 7) else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    image, told = decode_image(saved(Image.fromarray(held), form, exif=exif), "name")
    assert np.abs(image.astype(int) - upright).max() <= (2 if form == "JPEG" else 0)
    assert ("EXIF" in told) == (turn > 1 and form != "TIFF")  # Pillow itself turns that


def test_a_damaged_exif_is_passed_over():
    image, told = decode_image(saved(Image.fromarray(GREY), exif=b"Exif\0\0nothing"), "name")
    assert np.array_equal(image, GREY) and told == ""


def test_what_a_resize_overshoots_is_told_and_used():
    told = looked(np.clip(STIMULI * 1.1 - 12, None, 267))
    assert all("between -12 and 267" in one for one in told)
