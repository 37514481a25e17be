"""The one way to read an image, and a look at whether images are on the scale that is expected.

An image is read as a viewer shows it on a black ground: grey of 8 bits as it is; 1, 2 and 4 bits,
palettes, colours and transparency turned into 8 bits of luminance (ITU-R 601). What would need a
choice of scale (16 bits, floats) or of a frame is refused.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from support.errors import UserError, refusals

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
# What Pillow's readers are known to raise for damaged files, besides its own kinds.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError,
           struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip
MAGIC = {  # how files begin that are taken for images or for records
    b"\x1f\x8b": "gzip",
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
    """An image file as (H, W) uint8, by the rule at the head of this file.

    A warning says where colour or transparency was converted.

    Raises:
        BadImageError: it is no image of 8 bits, or is damaged.
        MissingError, SystemRefusal: there is no such file, or it cannot be read.
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
    """The image in a file's contents, (H, W) uint8, and how it was converted.

    Args:
        data: the file's contents.
        name: the file, for messages.

    Returns:
        The image, perhaps read-only; "" where the file's own numbers are grey, else what it was.

    Raises:
        BadImageError: it is no image of 8 bits, or is damaged.
    """
    if not data:
        raise BadImageError(f"{name}: the file is empty (0 bytes); expected an image")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _grey(image, name)
    except UnidentifiedImageError:
        kind = kind_of(data)
        what = f"damaged {kind[2:]}" if kind.endswith(" image") else f"not an image but {kind}"
        raise BadImageError(f"{name}: {what}; expected one of {', '.join(FORMATS)}") from None
    except DAMAGED as error:
        if isinstance(error, BadImageError):
            raise
        raise BadImageError(f"{name}: the image is damaged ({error})") from error


def _grey(image: Image.Image, name: str) -> tuple[np.ndarray, str]:
    """A file's image as grey of 8 bits, and how it was converted."""
    mode, transparent = image.mode, "transparency" in image.info
    transparent |= mode in ("LA", "PA", "RGBA", "La", "RGBa")
    codings = [tile[3] for tile in getattr(image, "tile", [])]
    raw = " ".join(str(one if isinstance(one, str) else one and one[0]) for one in codings)
    if mode.startswith(("I", "F")) or ";16" in raw:
        bits = "32 bits" if mode in ("I", "F") and ";16" not in raw else "16 bits"
        raise BadImageError(
            f"{name}: the image has {bits} a channel (mode {mode}); expected 8. Convert it by a "
            "scale of your choice"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImageError(f"{name}: holds {frames} frames; expected one image")
    if mode in ("1", "L") and not transparent:
        return np.asarray(image.convert("L")), ""
    if transparent:
        over = image.convert("RGBA")
        opaque = over.getchannel("A").getextrema() == (255, 255)
        ground = Image.new("RGBA", over.size, (0, 0, 0, 255))
        colours = Image.alpha_composite(ground, over).convert("RGB")
    else:
        opaque, colours = True, image.convert("RGB")
    red, green, blue = (np.asarray(channel) for channel in colours.split())
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red, "" if opaque else "transparent; put on black"
    how = "in colour; its luminance is taken"
    return np.asarray(colours.convert("L")), how if opaque else f"transparent and {how}, on black"


def is_grey_png(data: bytes) -> bool:
    """Whether a PNG file is plain 8-bit grey: it is then a compact record's image as it is."""
    plain = data.startswith(b"\x89PNG\r\n\x1a\n") and data[24:26] == b"\x08\x00"
    return plain and b"tRNS" not in data[: data.find(b"IDAT")]


def kind_of(data: bytes) -> str:
    """What a file's first bytes say it is."""
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return kind
    return f"the bytes {data[:8].hex(' ')}" if data else "an empty file"


def check_scale(
    title: str, images: Sequence[np.ndarray], names: Sequence[str], meant: bool
) -> None:
    """Whether some images of a set are on the scale 0–255.

    Args:
        title: of the set, for messages.
        images: some of its images, (H, W) each.
        names: theirs.
        meant: another scale may be meant, as the network's preprocessing does not divide by 255.

    Raises:
        UserError: they are not, and it cannot be meant.
    """
    lows, highs = ([float(f(image)) for image in images] for f in (np.min, np.max))
    low, high = min(lows), max(highs)
    if low >= 0 and 16 <= high <= 255:
        return
    place = (
        f"{title}: pixels of the {len(images)} images looked at lie between {low:g} and {high:g}"
    )
    place += f" ({names[int(np.argmax(highs))]} for one)"
    if not 1 < high <= 255 and images[0].dtype != np.uint8 and _big_endian(images):
        raise UserError(f"{place}: the floats are big-endian; expected little-endian, 0–255")
    if (low >= -64 and 16 <= high <= 320) or (low >= 0 and 1 < high <= 255):
        warnings.warn(f"{place}; expected 0–255, and used as they are", stacklevel=3)
        return
    scale = "scaled to 0–1" if low >= 0 and high <= 1 else "standardised or scaled otherwise"
    told = f"{place}: {scale}; expected 0–255"
    if not meant:
        raise UserError(
            f"{told}, which data_augmentations (uint8_rescale) divides by 255. Write the images "
            "as they are, or leave uint8_rescale out where this scale is meant"
        )
    warnings.warn(f"{told}. Used as they are, since uint8_rescale is left out", stacklevel=3)


def _big_endian(images: Sequence[np.ndarray]) -> bool:
    """Whether float images make sense with their bytes in the other order."""
    swapped = [image.view(image.dtype.newbyteorder("S")) for image in images]
    highest = max(float(image.max()) for image in swapped)
    return all(float(image.min()) >= 0 for image in swapped) and 1 <= highest <= 255
