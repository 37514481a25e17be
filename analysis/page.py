"""Pieces of a self-contained HTML page: text, tables, figures as data URIs."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("report.css")
NUMBER = re.compile(r"[<+−-]?\s*\d")
TYPES = {".png": "image/png", ".gif": "image/gif"}


def page(title: str, header: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """A whole page.

    Args:
        title: of the window.
        header: HTML of the header.
        sections: (id, heading, HTML) in order; the contents list links to them.
        footer: HTML of the footer.
    """
    links = "".join(
        f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections
    )
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-heading">'
        f'<h2 id="{name}-heading">{escape(heading)}</h2>\n{content}</section>\n'
        for name, heading, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'  # a browser then asks for no icon
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f'<header>\n{header}<nav aria-label="Contents"><ul>{links}</ul></nav>\n</header>\n'
        f"<main>\n{body}</main>\n<footer>\n{footer}</footer>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(text)}</p>\n"


def numbers(items: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: (name, value, what is small below)."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
        + (f"<small>{escape(small)}</small>" if small else "")
        + "</dd></div>"
        for name, value, small in items
    )
    return f'<dl class="numbers">{cells}</dl>\n'


def table(
    rows: Sequence[dict[str, Any]], caption: str, changed: set[tuple[int, str]] | None = None
) -> str:
    """A table; the first column heads its row, columns of numbers stand to the right.

    Args:
        rows: of the same keys, which are the header.
        caption: what it shows, with units.
        changed: cells to mark, (row, key).
    """
    header = list(rows[0])
    right = {key for key in header[1:] if all(_is_number(row[key]) for row in rows)}
    head = "".join(
        f'<th scope="col"{_class(key in right, False, "")}>{escape(key)}</th>' for key in header
    )
    lines = []
    for place, row in enumerate(rows):
        cells = [f'<th scope="row">{escape(str(row[header[0]]))}</th>']
        for key in header[1:]:
            marked = changed is not None and (place, key) in changed
            text = str(row[key])
            cells.append(f"<td{_class(key in right, marked, text)}>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def figure(path: Path, alt: str, caption: str, small: bool = False) -> str:
    """An image inside the page.

    Args:
        path: a PNG or GIF file.
        alt: what a reader who cannot see it should know.
        caption: what stands below.
        small: not the full width.
    """
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    mark = ' class="small"' if small else ""
    return (
        f'<figure{mark}><div class="picture" tabindex="0" role="group" aria-label="figure">'
        f'<img src="data:{TYPES[path.suffix]};base64,{data}" alt="{escape(alt)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def folded(summary: str, content: str) -> str:
    """Content behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>\n"


def _is_number(value: Any) -> bool:
    text = str(value)
    return NUMBER.match(text) is not None or text in ("–", "")


def _class(number: bool, changed: bool, text: str) -> str:
    kinds = [
        name
        for name, holds in (("number", number), ("changed", changed), ("wide", len(text) > 60))
        if holds
    ]
    return f' class="{" ".join(kinds)}"' if kinds else ""
