"""One look for all figures: sizes, type, colours that colour-blind readers tell apart, maps."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from support.files import write_bytes

PAGE = 7.0  # width of a journal's page, inches
# Okabe & Ito (2008); line styles and markers differ too, for grey prints.
BLUE, SKY, RED = "#0072B2", "#56B4E9", "#D55E00"
SERIES: list[dict[str, Any]] = [
    {"color": color, "marker": marker, "linestyle": line}
    for color, marker, line in zip(
        (BLUE, RED, "#009E73", "#E69F00", "#CC79A7", SKY, "#000000"),
        "os^DvPX",
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        strict=True,
    )
]
MUTED = "#5c5c5c"
PLAIN: Any = {"loc": "center", "fontweight": "normal"}  # of titles of small panels
CHANCE: Any = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (2, 2))}

ACTIVITY = "magma"  # perceptually uniform; 0 is dark
SEQUENTIAL = "cividis"  # made for colour-blind readers
SIGNED = LinearSegmentedColormap.from_list(  # as dark at +x as at −x, white at 0
    "blue_white_red", ["#08306b", "#2b7bba", "#a6cee3", "#ffffff", "#f4b183", "#c8500a", "#6b2700"]
)

TITLE_LETTERS = 70  # that the titles of panels side by side hold in a line
HEADING_LETTERS = 104  # that a line of a heading across a page holds
LEGEND_LETTERS = 100  # that a line below the axes of a page holds
LEGEND_ROW, TITLE_ROW = 0.15, 0.13  # inches
LOOK = Path(__file__).with_name("hgru.mplstyle")
DATE = {"pdf": {"CreationDate": None}, "png": {}}  # the same figure twice is the same file


@contextmanager
def style() -> Iterator[None]:
    """Within the block, or the function that it decorates, figures are drawn in this look."""
    with matplotlib.style.context(LOOK):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; call it, and draw, within :func:`style`."""
    return Figure(figsize=(width, height), layout="constrained")


def heading(figure: Any, text: str) -> None:
    """A heading above all axes, at the left, in lines as long as a page is wide."""
    figure.suptitle(
        textwrap.fill(text, HEADING_LETTERS), x=0.01, ha="left", fontsize=8.5, fontweight="bold"
    )


def note(figure: Figure, text: str) -> None:
    """A small line below all axes."""
    figure.supxlabel(text, fontsize=7, color=MUTED)


def legend_rows(names: Sequence[str]) -> tuple[list[str], int, float]:
    """A page-wide legend's names, wrapped where too long for a line; columns; height in inches."""
    wrapped = [textwrap.fill(name, LEGEND_LETTERS) for name in names]
    columns = max(1, min(3, len(names), LEGEND_LETTERS // (max(map(len, names)) + 10)))
    rows = -(-sum(name.count("\n") + 1 for name in wrapped) // columns)
    return wrapped, columns, LEGEND_ROW * rows + 0.1


def panel_titles(texts: Sequence[str], across: int) -> tuple[list[str], float]:
    """Titles of panels, so many side by side, wrapped where too long for a line; the height of the
    lines beyond the first in inches."""
    wrapped = [textwrap.fill(text, TITLE_LETTERS // across) for text in texts]
    return wrapped, TITLE_ROW * max(text.count("\n") for text in wrapped)


def picture(axes: Axes, values: np.ndarray | None = None, **look: Any) -> Any:
    """Axes that hold a picture: no ticks, no frame; the picture, if its values (H, W) are given."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return None if values is None else axes.imshow(values, **look)


@style()
def save(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure as ``<stem>.png`` and ``<stem>.pdf``, or one of them; the paths."""
    figure.draw_without_rendering()  # lays it out, once for both files
    figure.set_layout_engine("none")
    written = []
    for kind in kinds:
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata=DATE[kind])
        written.append(write_bytes(stem.with_name(f"{stem.name}.{kind}"), content.getvalue()))
    return written
