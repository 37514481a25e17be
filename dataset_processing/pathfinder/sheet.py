"""One picture of many stimuli, with contours and markers coloured in."""

import io
from itertools import count, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataset_processing.pathfinder import Pathfinder, Settings, Stimulus
from support.files import write_bytes

COLUMNS = 4  # stimuli of a label and length
GAP, TITLE = 6, 18  # pixels
CONTOURS = ((255, 170, 40), (90, 170, 255))  # the contour with the first marker; the other
MARKERS = (255, 80, 90)


def write_sheet(path: Path, chosen: list[Settings], seed: int = 0) -> str:
    """Writes the sheet as a PNG file: a row for each of the settings, of one window, and labels.

    Returns a line that says what was written. UserError: the snakes do not fit, or the file cannot
    be written.
    """
    rows = [(settings, label) for settings in chosen for label in (1, 0)]
    sheet = Image.fromarray(np.vstack([strip(settings, label, seed) for settings, label in rows]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
    return f"{path}: {len(rows)} rows of {COLUMNS} stimuli, {sheet.width}×{sheet.height} pixels"


def strip(settings: Settings, label: int, seed: int) -> np.ndarray:
    """A row, (height, width, 3) uint8: the first stimuli of one label."""
    height, width = settings.shape
    result = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, height + TITLE + GAP), (40, 40, 40))
    where = "both markers on one contour" if label else "markers on two contours"
    title = f"{settings.contour_length} paddles, label {label}: {where}"
    ImageDraw.Draw(result).text((GAP, 3), title, fill=(230, 230, 230))
    generator = Pathfinder(settings, seed)
    of_label = (index for index in count() if generator.image(index)[1] == label)
    for column, index in enumerate(islice(of_label, COLUMNS)):
        picture = Image.fromarray(coloured(generator.stimulus(index)))
        result.paste(picture, (GAP + column * (width + GAP), TITLE))
    return np.asarray(result)


def coloured(stimulus: Stimulus) -> np.ndarray:
    """(H, W, 3) uint8: the image with its two contours and its markers in colour."""
    rows, cols = np.indices(stimulus.image.shape)
    tint = np.ones((*stimulus.image.shape, 3))
    order = (stimulus.marked_snakes[0], 1 - stimulus.marked_snakes[0])
    for snake, colour in zip(order, CONTOURS, strict=True):
        for tail, head in stimulus.paddles[snake]:
            centre, reach = (tail + head) / 2, np.hypot(*(head - tail)) / 2 + 2
            tint[(rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 <= reach**2] = (
                np.array(colour) / 255
            )
    for row, col in stimulus.markers:
        tint[(rows - row) ** 2 + (cols - col) ** 2 <= 7**2] = np.array(MARKERS) / 255
    return (stimulus.image[..., None] * tint).astype(np.uint8)
