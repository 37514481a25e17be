"""Tables: rows of the same keys, which are the header, as text, Markdown or an HTML template's."""

import re
from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]
NUMBER = re.compile(r"[<+−-]?\s*\d")


def number_columns(rows: Rows) -> list[bool]:
    """For each column, whether all its cells begin as a number does, or are empty."""
    return [
        all(NUMBER.match(text) or text in ("", "–") for text in (str(row[key]) for row in rows))
        for key in rows[0]
    ]


def text_table(rows: Rows) -> str:
    """Aligned text; numbers to the right."""
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = number_columns(rows)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown_table(rows: Rows) -> str:
    """A Markdown table; numbers to the right. A bar within a cell is escaped."""
    rule = ["---:" if right else "---" for right in number_columns(rows)]
    lines = [list(rows[0]), rule, *(list(row.values()) for row in rows)]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
