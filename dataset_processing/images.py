"""The one way to read and to write an image, and whether its pixels are on the scale 0–255.

An image is read as a viewer shows it on a black ground: grey of 8 bits as it is; 1, 2 and 4 bits,
palettes, colours and transparency made 8 bits of luminance (ITU-R 601); turned as EXIF says. What
would need a choice of scale (16 bits, floats) or of a frame is refused.
"""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from support.errors import UserError, refusals

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
# What Pillow's readers are known to raise for damaged files, besides its own kinds.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError,
           struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip
MAGIC = {  # how files begin that are taken for images or for records
    b"\x1f\x8b": "gzip (gunzip it first)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"PK": "a zip or npz archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
}


class BadImageError(UserError):
    """An image, or the record that holds one, that cannot be used; the message names it."""


def read_image(path: Path) -> np.ndarray:
    """An image file as :func:`decode_image` gives it; a warning says how it was converted.

    Raises:
        UserError: it cannot be read, is no image of 8 bits, or is damaged.
    """
    image, converted = decode_image(read_bytes(path), str(path))
    if converted:
        warnings.warn(f"{path}: {converted}", stacklevel=2)
    return image


def read_bytes(path: Path) -> bytes:
    """A file's contents; MissingError or SystemRefusal, which name it, if they cannot be had."""
    with refusals(path, "cannot be read"):
        return path.read_bytes()


def decode_image(data: bytes, name: str) -> tuple[np.ndarray, str]:
    """The image in the contents of a file that messages call ``name``: (H, W) uint8, perhaps
    read-only; and what it was before it was converted, "" where the file's own numbers are used.

    Raises:
        BadImageError: it is no image of 8 bits, or is damaged.
    """
    if not data:
        raise BadImageError(f"{name}: the file is empty (0 bytes); expected an image")
    file = io.BytesIO(data)
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_whole(data, image.format, file.tell(), name)
            return _grey(image, name)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        kind = kind_of(data)
        what = f"damaged {kind[2:]}" if kind.endswith(" image") else f"not an image but {kind}"
        raise BadImageError(f"{name}: {what}; expected one of {', '.join(FORMATS)}") from None
    except DAMAGED as error:
        raise BadImageError(f"{name}: the image is damaged ({error})") from error


def _check_whole(data: bytes, form: str | None, start: int, name: str) -> None:
    """BadImageError where a file's pixels, which begin after ``start``, are not those that were
    written: of PNG and JPEG this can be told, and Pillow makes up what is lost (a file whose end a
    crash left as zeros) without a word."""
    at = len(b"\x89PNG\r\n\x1a\n")
    while form == "PNG" and at < len(data):  # length, kind and body of a chunk, their checksum
        end = at + 8 + int.from_bytes(data[at : at + 4])
        told = int.from_bytes(data[end : end + 4])
        if data[at + 4 : at + 8] == b"IDAT" and zlib.crc32(data[at + 4 : end]) != told:
            raise BadImageError(f"{name}: the image is damaged (its checksum does not match)")
        at = end + 4
    if form == "JPEG" and data.find(b"\xff\xd9", start) < 0:  # nothing else in it has this mark
        raise BadImageError(f"{name}: the image is damaged (its end is missing)")


def _grey(image: Image.Image, name: str) -> tuple[np.ndarray, str]:
    """A file's image as grey of 8 bits, and what it was before."""
    mode = image.mode
    if mode.startswith(("I", "F")) or ";16" in str(getattr(image, "tile", "")):
        raise BadImageError(
            f"{name}: the image has 16 bits or more a channel (mode {mode}); expected 8. Convert "
            "it by a scale of your choice"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImageError(f"{name}: holds {frames} frames; expected one image")
    image.load()
    how, orientation = [], 1
    with suppress(*DAMAGED):  # viewers pass a damaged EXIF over
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(2, 9):
        image, how = ImageOps.exif_transpose(image), ["turned as its EXIF says"]
    transparent = "transparency" in image.info or mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if mode in ("1", "L") and not transparent:
        return np.asarray(image.convert("L")), ", ".join(how)
    if transparent:
        over = image.convert("RGBA")
        transparent = over.getchannel("A").getextrema() != (255, 255)
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    colours = image.convert("RGB")
    red, green, blue = (np.asarray(channel) for channel in colours.split())
    if np.array_equal(red, green) and np.array_equal(green, blue):
        how += ["transparent; put on black"] * transparent
        return red, ", ".join(how)
    colour = "in colour; its luminance is taken"
    how += [f"transparent and {colour}, on black" if transparent else colour]
    return np.asarray(colours.convert("L")), ", ".join(how)


def encode_png(image: np.ndarray) -> bytes:
    """An (H, W) uint8 image as an 8-bit grey PNG.

    Rows unfiltered, runs compressed (zlib's Z_RLE): for these sparse images faster than Pillow's
    default, and no larger.
    """
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = image
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    data = squeeze.compress(rows.tobytes()) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def kind_of(data: bytes) -> str:
    """What a file's first bytes say it is."""
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return kind
    return f"the bytes {data[:8].hex(' ')}" if data else "an empty file"


def check_scale(image: np.ndarray, name: str, meant: bool = False) -> str:
    """Whether the pixels of an image, (H, W) uint8 or float32, that messages call ``name`` are on
    the scale 0–255; a blank image is on every scale.

    ``meant``: another may be meant, as the network's preprocessing does not divide by 255.

    Returns what to warn of, or "".

    Raises:
        BadImageError: a pixel is not finite, or the scale is another and cannot be meant.
    """
    low, high = float(image.min()), float(image.max())
    if low >= 0 and (16 <= high <= 255 or high == 0):
        return ""
    if (low >= -64 and 16 <= high <= 320) or (low >= 0 and 1 < high < 16):
        return f"{name}: pixels lie between {low:g} and {high:g}; used as they are"
    finite = image[np.isfinite(image)]
    what = f"{name}: pixels lie between {low:g} and {high:g}; expected 0–255"
    if finite.size < image.size:
        count = image.size - finite.size
        what = f"{name}: {count} of its {image.size} pixels are not finite; expected 0–255"
    largest = np.abs(finite).max(initial=0)
    if meant and finite.size == image.size and largest > 1e-6:
        return f"{what}. Used as they are, since uint8_rescale is left out"
    if not 1e-6 < largest < 1e6:
        size = f"{2 * image.shape[0]}×{2 * image.shape[1]}"
        what += f" in little-endian float32. Are these big-endian floats, or uint8 of {size}?"
    raise BadImageError(
        f"{what}. Write such an image as PNG; or leave uint8_rescale, which divides by 255, out of "
        "the augmentations where another scale is meant"
    )
