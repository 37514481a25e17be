"""Where a Pathfinder set's images lie and what their labels are, in three layouts.

- 2018: ``<set>/`` holds the positives, ``<set>_neg/`` the negatives; ``metadata/combined.npy`` in
  each is an array of strings, a row an image: sub-folder, file name, the stimulus's settings.
- 2020, and Long Range Arena: ``<set>/`` holds both; ``metadata/*.npy`` has the label in column 3.
  Long Range Arena's files of that name are plain text, columns split by spaces.
- 2025: ``<set>/imgs/pos/*.png`` and ``<set>/imgs/neg/*.png``, no metadata.
"""

from pathlib import Path

import numpy as np

NPY_MAGIC = b"\x93NUMPY"
LABEL_COLUMN = 3


def list_images(folder: Path, negative: Path, meta: str) -> tuple[list[str], list[str]]:
    """Paths of a set's positive and of its negative images, in the order they are listed.

    The layout is told by what is on disk.

    Args:
        folder: the set's folder.
        negative: the folder of its negatives in the layout of 2018.
        meta: the metadata file inside each of the two, ``metadata/combined.npy``.

    Raises:
        FileNotFoundError: the folder, or what belongs into it, is missing.
        ValueError: the metadata cannot be read, has another shape, or contradicts itself.
    """
    if (folder / "imgs" / "pos").is_dir() and (folder / "imgs" / "neg").is_dir():
        return _folder_of_pngs(folder / "imgs" / "pos"), _folder_of_pngs(folder / "imgs" / "neg")
    if negative.is_dir():
        return _combined(folder, meta), _combined(negative, meta)
    if (folder / "metadata").is_dir():
        return _labelled(folder)
    raise FileNotFoundError(
        f"{folder}: no Pathfinder images found. Expected one of: {negative.name}/ beside it "
        "(layout of 2018), metadata/*.npy in it (2020), or imgs/pos and imgs/neg in it (2025)"
    )


def _folder_of_pngs(folder: Path) -> list[str]:
    """Layout of 2025: a class is what its folder holds."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not names:
        raise FileNotFoundError(f"{folder}: no .png files in it")
    return [f"{folder}/{name}" for name in names]


def _combined(folder: Path, meta: str) -> list[str]:
    """Layout of 2018: one class, listed by its metadata file."""
    file = folder / meta
    if not file.is_file():
        raise FileNotFoundError(f"{file}: the metadata of the layout of 2018 is missing")
    table = read_metadata(file, columns=2)
    return list(dict.fromkeys(_paths(folder, table)))


def _paths(folder: Path, table: np.ndarray) -> list[str]:
    """The images' paths: sub-folders are in column 0, file names in column 1."""
    columns = zip(table[:, 0].tolist(), table[:, 1].tolist(), strict=True)
    return [f"{folder}/{inside}/{name}" for inside, name in columns]


def _labelled(folder: Path) -> tuple[list[str], list[str]]:
    """Layout of 2020: both classes; an image that several files list counts once."""
    files = sorted((folder / "metadata").glob("*.npy"))
    if not files:
        raise FileNotFoundError(f"{folder / 'metadata'}: no .npy files in it")
    labels: dict[str, str] = {}
    for file in files:
        table = read_metadata(file, columns=LABEL_COLUMN + 1)
        rows = zip(_paths(folder, table), table[:, LABEL_COLUMN].tolist(), strict=True)
        for number, (image, label) in enumerate(rows):
            if label not in ("0", "1"):
                raise ValueError(
                    f"{file}: row {number}: column {LABEL_COLUMN} must be the label, 0 or 1; found "
                    f"{label!r}. If this is the layout of 2018, {folder.name}_neg/ is missing "
                    "beside the folder"
                )
            if labels.setdefault(image, label) != label:
                raise ValueError(f"{file}: row {number}: {image} is listed with both labels")
    return (
        [image for image, label in labels.items() if label == "1"],
        [image for image, label in labels.items() if label == "0"],
    )


def read_metadata(file: Path, columns: int) -> np.ndarray:
    """A metadata file's rows of strings, at least ``columns`` wide.

    Reads numpy's files, and Long Range Arena's plain text under the same name. Runs no code that
    such a file may hold.

    Raises:
        ValueError: it is neither, or not a table of at least one row and ``columns`` columns.
    """
    with open(file, "rb") as stream:
        is_npy = stream.read(len(NPY_MAGIC)) == NPY_MAGIC
    table = _read_npy(file) if is_npy else _read_text(file)
    if table.ndim != 2 or table.shape[1] < columns or not len(table):
        raise ValueError(
            f"{file}: metadata has the shape {table.shape}; expected (images, {columns} columns or "
            "more), a row an image"
        )
    if table.dtype.kind == "S":
        table = np.char.decode(table, "utf-8")
    if table.dtype.kind != "U":
        raise ValueError(f"{file}: metadata holds {table.dtype}; expected strings")
    return table


def _read_npy(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{file}: cannot be read ({error}). If it holds Python objects and you trust it, save "
            "it again as strings: np.save(file, np.load(file, allow_pickle=True).astype(str))"
        ) from error


def _read_text(file: Path) -> np.ndarray:
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: neither a numpy file nor plain text") from error
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{file}: line {number + 1} has {len(row)} columns, the first has {len(rows[0])}"
            )
    return np.array(rows, dtype=np.str_)
