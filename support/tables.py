"""Tables, as text."""

from collections.abc import Sequence
from typing import Any


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
