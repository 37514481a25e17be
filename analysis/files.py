"""Writing what a command makes, each file whole or not at all."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_processing.whole_file import WholeFile


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file; its folder is made if need be."""
    with WholeFile(path) as file:
        file.append(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write plain values as indented JSON."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows of the same keys as a table with a header."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return write_text(path, text.getvalue())


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write an ``.npz`` file without pickles."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return write_bytes(path, content.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What an ``.npz`` file holds; nothing in it is run.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error})") from error


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the same keys as aligned text; numbers to the right."""
    header = list(rows[0])
    cells = [[str(row[key]) for key in header] for row in rows]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    right = [all(line[i][:1].isdigit() or line[i] in ("", "–") for line in cells)
             for i in range(len(header))]  # fmt: skip
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [header, *cells]
    ]
    return "\n".join(lines)
