"""Where a Pathfinder set's images lie and what their labels are, in three layouts.

- 2018: ``<set>/`` holds the positives, ``<set>_neg/`` the negatives; ``metadata/combined.npy`` in
  each is an array of strings, a row an image: sub-folder, file name, the stimulus's settings.
- 2020, the generator as published today, and Long Range Arena: ``<set>/`` holds both classes;
  ``metadata/*.npy`` (``combined.npy`` may be among them) has the label in column 3. Long Range
  Arena's files of that name are plain text, columns split by spaces.
- 2025: ``<set>/imgs/pos`` and ``<set>/imgs/neg``, no metadata.

Column 3 and the folders are both looked at. Where they contradict each other, nothing is read.
"""

import codecs
import os
from pathlib import Path

import numpy as np

from dataset_processing.images import SUFFIXES, kind_of, read_bytes
from support.errors import MissingError, UserError, refusals
from support.files import DAMAGED_ARRAY

NPY_MAGIC = b"\x93NUMPY"
LABEL_COLUMN = 3
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "0.": 0, "1.": 1}
COMPANIONS = ("._", ".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave behind
SHOWN = 5


def list_images(folder: Path, negative: Path, meta: str) -> tuple[list[str], list[str]]:
    """Paths of a set's positive and of its negative images, in the order they are listed.

    Args:
        folder: the set's folder.
        negative: the folder of its negatives in the layout of 2018.
        meta: the metadata file inside each of the two, ``metadata/combined.npy``.

    Raises:
        MissingError: the folder, or what belongs into it, is missing.
        UserError: the metadata cannot be read or has another shape; or the folders and column 3
            of the metadata say different things about the labels.
    """
    with refusals(folder, "cannot be read"):
        pos, neg = folder / "imgs" / "pos", folder / "imgs" / "neg"
        has_classes = [path.is_dir() for path in (pos, neg)]
        has_negative, has_metadata = negative.is_dir(), (folder / "metadata").is_dir()
    if any(has_classes):
        if not all(has_classes):
            there, gone = (pos, neg) if has_classes[0] else (neg, pos)
            raise MissingError(f"{gone}: missing, though {there} is there (layout of 2025)")
        if has_negative:
            raise UserError(
                f"{folder}: has imgs/pos and imgs/neg (layout of 2025), and {negative} lies beside "
                "it (layout of 2018); move one of them away"
            )
        classes = _folder_of_images(pos), _folder_of_images(neg)
        if has_metadata:
            _check_against_metadata(folder, classes)
        return classes
    if has_negative and has_metadata:
        return _two_folders(folder, negative, meta)
    if has_metadata:
        return _labelled(folder, negative)
    raise MissingError(
        f"{folder}: no Pathfinder images found. Expected one of: {negative.name}/ beside it and "
        "metadata/ in both (layout of 2018), metadata/*.npy in it (2020), or imgs/pos and imgs/neg "
        "in it (2025)"
    )


def _listing(folder: Path) -> list[str]:
    """Names of a folder's files, without what file managers leave behind."""
    with refusals(folder, "cannot be read"):
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(COMPANIONS))


def _folder_of_images(folder: Path) -> list[str]:
    """Layout of 2025: a class is what its folder holds."""
    listing = _listing(folder)
    names = [name for name in listing if name.lower().endswith(SUFFIXES)]
    if not names:
        raise MissingError(
            f"{folder}: no images in it ({', '.join(SUFFIXES)}); found "
            f"{', '.join(listing[:SHOWN]) or 'nothing'}"
        )
    return [f"{folder}/{name}" for name in names]


def _two_folders(folder: Path, negative: Path, meta: str) -> tuple[list[str], list[str]]:
    """Layout of 2018: each class listed by its own metadata, unless column 3 says otherwise."""
    tables = []
    for place in (folder, negative):
        if not (place / meta).is_file():
            raise MissingError(
                f"{place / meta}: the metadata of the layout of 2018 is missing. If column "
                f"{LABEL_COLUMN} of {folder / 'metadata'}/*.npy holds the labels (layout of 2020), "
                f"move {negative.name} away"
            )
        tables.append(read_metadata(place / meta, columns=2))
    found = [set(t[:, LABEL_COLUMN:][:, :1].flatten().tolist()) for t in tables]
    labels = [{LABELS.get(value) for value in values} for values in found]
    contradicts = any({0, 1} <= own for own in labels) or labels == [{0}, {1}]
    if contradicts:
        told = " and ".join(
            f"{', '.join(sorted(values)[:SHOWN])} in {place / meta}"
            for values, place in zip(found, (folder, negative), strict=True)
        )
        raise UserError(
            f"{folder}: the labels are in doubt. {negative} beside it says that all its images are "
            f"of label 1 (layout of 2018); column {LABEL_COLUMN} of the metadata, where the layout "
            f"of 2020 has the label, holds {told}. Move {negative.name} away to read the labels of "
            "column 3"
        )
    classes = [
        list(dict.fromkeys(_paths(place, table)))
        for place, table in zip((folder, negative), tables, strict=True)
    ]
    return classes[0], classes[1]


def _paths(folder: Path, table: np.ndarray) -> list[str]:
    """The images' paths: sub-folders are in column 0, file names in column 1."""
    columns = zip(table[:, 0].tolist(), table[:, 1].tolist(), strict=True)
    return [f"{folder}/{inside}/{name}".replace("\\", "/") for inside, name in columns]


def _labelled(folder: Path, negative: Path) -> tuple[list[str], list[str]]:
    """Layout of 2020: both classes; an image that several files list counts once."""
    files = [name for name in _listing(folder / "metadata") if name.endswith(".npy")]
    if not files:
        found = ", ".join(_listing(folder / "metadata")[:SHOWN])
        raise MissingError(
            f"{folder / 'metadata'}: no .npy files in it; found {found or 'nothing'}"
        )
    labels: dict[str, int] = {}
    for file in (folder / "metadata" / name for name in files):
        table = read_metadata(file, columns=LABEL_COLUMN + 1)
        rows = zip(_paths(folder, table), table[:, LABEL_COLUMN].tolist(), strict=True)
        for number, (image, text) in enumerate(rows):
            if text not in LABELS:
                raise UserError(
                    f"{file}: row {number}: column {LABEL_COLUMN} must be the label, 0 or 1; found "
                    f"{text!r}. If this is the layout of 2018, {negative.name}/ is missing beside "
                    "the folder"
                )
            if labels.setdefault(image, LABELS[text]) != LABELS[text]:
                raise UserError(f"{file}: row {number}: {image} is listed with both labels")
    classes = [[image for image, own in labels.items() if own == label] for label in (1, 0)]
    if not all(classes):
        raise UserError(
            f"{folder}: column {LABEL_COLUMN} of the metadata holds the label "
            f"{int(bool(classes[0]))} alone; expected 0 and 1. If this is the layout of 2018, "
            f"{negative.name}/ is missing beside the folder"
        )
    return classes[0], classes[1]


def _check_against_metadata(folder: Path, classes: tuple[list[str], list[str]]) -> None:
    """UserError where metadata beside ``imgs/pos`` and ``imgs/neg`` has other images or labels."""
    by_folder = dict.fromkeys(classes[0], 1) | dict.fromkeys(classes[1], 0)
    inside = (f"{folder}/imgs/pos/", f"{folder}/imgs/neg/")
    for file in (folder / "metadata" / name for name in _listing(folder / "metadata")):
        if file.suffix != ".npy":
            continue
        table = read_metadata(file, columns=2)
        column = table[:, LABEL_COLUMN].tolist() if table.shape[1] > LABEL_COLUMN else []
        labelled = len({LABELS.get(value) for value in column} & {0, 1}) == 2
        for number, image in enumerate(_paths(folder, table)):
            if not image.startswith(inside):
                raise UserError(
                    f"{file}: row {number} lists {image}, which is in neither imgs/pos nor "
                    "imgs/neg (layout of 2025); move the metadata or those folders away"
                )
            own = by_folder.get(image)
            if labelled and own is not None and LABELS.get(column[number]) != own:
                raise UserError(
                    f"{file}: row {number}: column {LABEL_COLUMN} holds {column[number]!r}, but "
                    f"{image} lies in the folder of label {own}; move the metadata away or mend it"
                )


def read_metadata(file: Path, columns: int) -> np.ndarray:
    """A metadata file's rows of strings, at least ``columns`` wide.

    Reads numpy's files, and Long Range Arena's plain text under the same name. Runs no code that
    such a file may hold.

    Raises:
        UserError: it is neither, or not a table of at least one row and ``columns`` columns.
        MissingError, SystemRefusal: it cannot be read.
    """
    data = read_bytes(file)
    table = _read_npy(file) if data.startswith(NPY_MAGIC) else _read_text(file, data)
    if table.ndim != 2 or table.shape[1] < columns or not len(table):
        raise UserError(
            f"{file}: metadata has the shape {table.shape}; expected (images, {columns} columns or "
            "more), a row an image"
        )
    if table.dtype.kind == "S":
        try:
            table = np.char.decode(table, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: metadata holds bytes that are not UTF-8 ({error})") from error
    if table.dtype.kind != "U":
        raise UserError(f"{file}: metadata holds {table.dtype}; expected strings")
    try:
        told = os.fsencode("".join(table[:, : LABEL_COLUMN + 1].ravel().tolist()))
    except (UnicodeEncodeError, SystemError) as error:  # NumPy's own characters may be none
        raise UserError(f"{file}: metadata holds what is no text ({error}); damaged?") from error
    if b"\0" in told:
        raise UserError(
            f"{file}: metadata holds NUL characters, which no file's name has; damaged, or UTF-16 "
            "without its byte-order mark?"
        )
    return table


def _read_npy(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except DAMAGED_ARRAY as error:
        raise UserError(
            f"{file}: cannot be read ({error}). If it holds Python objects and you trust it, save "
            "it again as strings: np.save(file, np.load(file, allow_pickle=True).astype(str))"
        ) from error


def _read_text(file: Path, data: bytes) -> np.ndarray:
    """Rows of text in UTF-8, or in UTF-16 with its byte-order mark."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: neither a numpy file nor text in UTF-8 or UTF-16; it begins as "
            f"{kind_of(data)}"
        ) from error
    rows = [line.split() for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{file}: line {number + 1} has {len(row)} columns, the first has {len(rows[0])}"
            )
    return np.array(rows, dtype=np.str_)
