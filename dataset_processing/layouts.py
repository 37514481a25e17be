"""Where a Pathfinder set's images lie and what their labels are, in the layouts of 2018, 2020 and
2025: docs/data.md, "Layouts of images"."""

import codecs
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataset_processing.images import SUFFIXES, kind_of, read_bytes
from support.errors import MissingError, UserError, refusals
from support.files import DAMAGED_ARRAY

LABEL_COLUMN = 3
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "0.": 0, "1.": 1}
COMPANIONS = ("._", ".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave behind
SHOWN = 5
Classes = tuple[list[str], list[str]]  # paths of the positives and of the negatives


def list_images(folder: Path, negative: Path, meta: str) -> Classes:
    """Paths of a set's positive and of its negative images, in the order they are listed.

    Args:
        folder, negative: of the set, and of its negatives in the layout of 2018.
        meta: the metadata file inside each of the two, ``metadata/combined.npy``.

    A warning counts files that lie where images or metadata do and are not read.

    Raises:
        UserError: something is missing; the metadata cannot be read or have another shape; or the
            folders and column 3 of the metadata say different things about the labels.
    """
    with refusals(folder, "cannot be read"):
        pos, neg = folder / "imgs" / "pos", folder / "imgs" / "neg"
        has_classes = pos.is_dir() or neg.is_dir()
        has_negative, has_metadata = negative.is_dir(), (folder / "metadata").is_dir()
    if has_classes and has_negative:
        raise UserError(
            f"{folder}: has imgs/pos or imgs/neg (layout of 2025), and {negative} lies beside it "
            "(layout of 2018); move one of them away"
        )
    if has_classes:
        classes = _files(pos, SUFFIXES), _files(neg, SUFFIXES)
        _say_left_out(folder / "imgs", (pos, neg), SUFFIXES)
        if has_metadata:
            _check_against_metadata(folder, classes)
        return classes
    if has_metadata:
        return _two_folders(folder, negative, meta) if has_negative else _labelled(folder, negative)
    raise MissingError(
        f"{folder}: no Pathfinder images found. Expected one of: {negative.name}/ beside it and "
        "metadata/ in both (layout of 2018), metadata/*.npy in it (2020), or imgs/pos and imgs/neg "
        "in it (2025)"
    )


def _files(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """Paths of a folder's files of these kinds, without what file managers leave behind."""
    with refusals(folder, "cannot be read"):
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith(COMPANIONS))
    found = [f"{folder}/{name}" for name in names if name.lower().endswith(endings)]
    if not found:
        shown = ", ".join(names[:SHOWN]) or "nothing"
        raise MissingError(f"{folder}: no file in it ends in {' '.join(endings)}; found {shown}")
    return found


def _say_left_out(folder: Path, places: tuple[Path, ...], endings: tuple[str, ...]) -> None:
    """Warns of files in and below a folder that :func:`_files` of these places did not give."""
    left: list[str] = []
    for top, _, names in os.walk(folder):
        taken = endings if Path(top) in places else ()
        own = [name for name in names if not name.startswith(COMPANIONS)]
        left += [f"{top}/{name}" for name in own if not name.lower().endswith(taken)]
    if left:
        warnings.warn(
            f"{folder}: files that are left out: {len(left)}, {min(left)} for one; read is what "
            f"ends in {' '.join(endings)} and lies directly in {' or '.join(map(str, places))}",
            stacklevel=2,
        )


def _two_folders(folder: Path, negative: Path, meta: str) -> Classes:
    """Layout of 2018: each class listed by its own metadata, unless column 3 says otherwise."""
    classes, labels, told = [], [], []
    for place in (folder, negative):
        if not (place / meta).is_file():
            raise MissingError(
                f"{place / meta}: the metadata of the layout of 2018 is missing. If column "
                f"{LABEL_COLUMN} of {folder / 'metadata'}/*.npy holds the labels (layout of 2020), "
                f"move {negative.name} away"
            )
        rows = list(_rows(place, place / meta))
        values = {value for *_, value in rows}
        classes.append(list(dict.fromkeys(image for _, image, _ in rows)))
        labels.append({LABELS.get(value) for value in values})
        told.append(f"{', '.join(sorted(values)[:SHOWN])} in {place / meta}")
    if any({0, 1} <= own for own in labels) or labels == [{0}, {1}]:
        raise UserError(
            f"{folder}: the labels are in doubt. {negative} beside it says that all its images are "
            f"of label 1 (layout of 2018); column {LABEL_COLUMN} of the metadata, where the layout "
            f"of 2020 has the label, holds {' and '.join(told)}. Move {negative.name} away to read "
            "the labels of column 3"
        )
    return classes[0], classes[1]


def _labelled(folder: Path, negative: Path) -> Classes:
    """Layout of 2020: both classes; an image that several files list counts once."""
    hint = f"If this is the layout of 2018, {negative.name}/ is missing beside the folder"
    labels: dict[str, int] = {}
    metadata, ending = folder / "metadata", (".npy",)
    _say_left_out(metadata, (metadata,), ending)
    for file in _files(metadata, ending):
        for row, image, value in _rows(folder, Path(file), LABEL_COLUMN + 1):
            if value not in LABELS:
                raise UserError(
                    f"{row}: column {LABEL_COLUMN} must be the label, 0 or 1; found {value!r}. "
                    f"{hint}"
                )
            if labels.setdefault(image, LABELS[value]) != LABELS[value]:
                raise UserError(f"{row}: {image} is listed with both labels")
    positives, negatives = ([one for one in labels if labels[one] == label] for label in (1, 0))
    if not positives or not negatives:
        raise UserError(
            f"{folder}: column {LABEL_COLUMN} of the metadata holds the label "
            f"{int(bool(positives))} alone; expected 0 and 1. {hint}"
        )
    return positives, negatives


def _check_against_metadata(folder: Path, classes: Classes) -> None:
    """UserError where metadata beside ``imgs/pos`` and ``imgs/neg`` has other images or labels."""
    by_folder = dict.fromkeys(classes[0], 1) | dict.fromkeys(classes[1], 0)
    inside = (f"{folder}/imgs/pos/", f"{folder}/imgs/neg/")
    for file in sorted((folder / "metadata").glob("*.npy")):
        rows = [] if file.name.startswith(COMPANIONS) else list(_rows(folder, file))
        labelled = {LABELS.get(value) for *_, value in rows} >= {0, 1}
        for row, image, value in rows:
            if not image.startswith(inside):
                raise UserError(
                    f"{row} lists {image}, which is in neither imgs/pos nor imgs/neg (layout of "
                    "2025); move the metadata or those folders away"
                )
            own = by_folder.get(image)
            if labelled and own is not None and LABELS.get(value) != own:
                raise UserError(
                    f"{row}: column {LABEL_COLUMN} holds {value!r}, but {image} lies in the folder "
                    f"of label {own}; move the metadata away or mend it"
                )


def _rows(folder: Path, file: Path, columns: int = 2) -> Iterator[tuple[str, str, str]]:
    """Of each row of a metadata file what errors call it, the image's path, and what column 3 holds
    ("": there is none). Sub-folders are in column 0, file names in column 1; however they are
    spelt, a file has one path."""
    for number, row in enumerate(read_metadata(file, columns)[:, : LABEL_COLUMN + 1].tolist()):
        inside = os.path.normpath(f"{row[0]}/{row[1]}".replace("\\", "/"))
        image = f"{folder}/{inside}"
        yield f"{file}: row {number}", image, row[LABEL_COLUMN] if len(row) > LABEL_COLUMN else ""


def read_metadata(file: Path, columns: int) -> np.ndarray:
    """A metadata file's rows of strings, at least ``columns`` wide.

    Reads numpy's files and, under the same name, text. Runs no code that such a file may hold.

    Raises:
        UserError: it cannot be read, is neither, or is not such a table of at least one row.
    """
    data = read_bytes(file)
    try:
        is_array = data.startswith(b"\x93NUMPY")
        table = np.load(io.BytesIO(data), allow_pickle=False) if is_array else _text_table(data)
        if table.ndim != 2 or table.shape[1] < columns or not len(table):
            raise ValueError(f"it has the shape {table.shape}")
        if table.dtype.kind == "S":
            table = np.char.decode(table, "utf-8")
        if table.dtype.kind != "U":
            raise ValueError(f"it holds {table.dtype}")
        if b"\0" in os.fsencode("".join(table[:, : LABEL_COLUMN + 1].ravel().tolist())):
            raise ValueError("it holds NUL characters: damaged, or UTF-16 without its mark?")
    except (*DAMAGED_ARRAY, SystemError) as error:  # SystemError: characters that are none
        raise UserError(
            f"{file}: metadata cannot be read ({error}; it begins as {kind_of(data)}). Expected "
            f"(images, {columns} columns or more) of strings, a row an image: a numpy array, or "
            "text in UTF-8 or UTF-16. If it holds Python objects and you trust it: "
            "np.save(file, np.load(file, allow_pickle=True).astype(str))"
        ) from error
    return table


def _text_table(data: bytes) -> np.ndarray:
    """Rows of text in UTF-8, or in UTF-16 with its byte-order mark; ValueError if it is neither."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"line {number} has {len(row)} columns, the first has {len(rows[0])}")
    return np.array(rows, dtype=np.str_)
