"""What a Pathfinder paddle can look like: every template of a generator, drawn once.

A paddle is drawn at ``antialias`` times its size as a thick line from the centre of a small square
to an end point on whole pixels, and shrunk by Lanczos. As the end point lies on whole pixels, few
paddles differ: 70 at the published settings. Everything that may depend on a library's version or a
machine's arithmetic (lines, resampling, rounding) is done here on whole numbers, so that images are
the same everywhere. `tests.oracles.pathfinder` does the same with Pillow.

Coordinates are (row, column); orientations turn from the columns' direction towards the rows'.
"""

import math
from collections import defaultdict
from functools import lru_cache

import numpy as np
from scipy import ndimage

from dataset_processing.pathfinder.kernel import COLLISION, WEIGHT_ONE, Pixels, Tables
from dataset_processing.pathfinder.settings import Settings

RESAMPLING_BITS = 22  # of the fixed-point coefficients, as in Pillow's 8-bit resampling


@lru_cache(maxsize=32)
def tables(s: Settings, margin: int) -> Tables:
    """Draws the templates of images with this margin; arrays are int64 but where they say more."""
    length, far = s.paddle_length, s.paddle_length * s.antialias
    height, width = s.shape
    degrees = [math.radians(degree) for degree in range(360)]
    seeds = [(math.sin(angle), math.cos(angle)) for angle in degrees]
    candidates = candidate_heads(length + margin)
    grown = [(row / math.hypot(row, col), col / math.hypot(row, col)) for row, col in candidates]
    turns = degrees + [math.atan2(row, col) for row, col in candidates]
    weight = np.array(
        [[bend_weight(to - turn, s.continuity) for to in turns[360:]] for turn in turns]
    )

    radius = length + math.ceil(s.paddle_thickness) + margin  # that a template reaches
    side, rim = 2 * radius + 1, radius + 1
    stride = width + 2 * rim
    flat = np.array([stride, 1])
    ends = [reach(one, far) for one in seeds] + [reach((-row, -col), far) for row, col in grown]
    distinct = sorted(set(ends))
    thickness = round(s.paddle_thickness * s.antialias)
    blown = [thick_line(end, thickness, radius * s.antialias) for end in distinct]
    zone = disc(margin * s.antialias)
    masks = [
        shrink(ndimage.maximum_filter(line, footprint=zone, mode="constant"), side, side)
        for line in blown
    ]
    mask, hit = pixels(masks, 1), pixels(masks, COLLISION - 255)
    fits = [fit_zone(mask, length + margin) for mask in masks]

    offsets = np.argwhere(disc(margin)) - margin
    neighbours = offsets[np.argsort((offsets**2).sum(axis=1), kind="stable")]
    ring = [
        [half_up(round(s.seed_distance * part, 9)) for part in direction] for direction in seeds
    ]
    shades = [
        [min(math.floor(value * snake * paddle + 0.5), 255) for value in range(256)]
        for snake in s.snake_contrasts
        for paddle in s.paddle_contrasts
    ]
    return Tables(
        height=height,
        width=width,
        border=s.border,
        seed_border=max(s.border, 2 * s.seed_distance, 1),
        contour_length=s.contour_length,
        distractor_length=s.paddles_a_distractor,
        distractors=s.distractor_count,
        single_paddles=s.single_count(margin),
        image_tries=s.image_tries,
        snake_contrasts=len(s.snake_contrasts),
        paddle_contrasts=len(s.paddle_contrasts),
        size=(height + 2 * rim) * stride,
        stride=stride,
        origin=rim * (stride + 1),
        most_changed=max(2 * s.contour_length, s.paddles_a_distractor)
        * int(np.diff(mask.start).max()),
        end=np.array(distinct),
        line=pixels([shrink(line, side, side) for line in blown], 1),
        mask=mask,
        hit=Pixels(hit.start, np.column_stack([hit.offsets[:, :2] @ flat, hit.offsets[:, 2]])),
        fit=Pixels(np.cumsum([0, *map(len, fits)]), np.concatenate(fits) @ flat),
        fit_box=np.array([[fit.min(axis=0), fit.max(axis=0)] for fit in fits])
        .swapaxes(1, 2)
        .reshape(-1, 4),
        paddle=np.array([distinct.index(end) for end in ends]),
        seed_head=np.array([reach(direction, length) for direction in seeds]),
        seed_pivot=np.array([reach((-row, -col), length + margin) for row, col in seeds]),
        candidates=np.array(candidates),
        step=np.array([reach(direction, length + 2 * margin) for direction in seeds + grown]),
        weight=weight,
        neighbours=neighbours @ flat,
        ahead=zones_ahead(np.array(candidates), weight, neighbours, stride),
        marker=marker_pixels(s.marker_radius, s.antialias),
        ring=np.array(ring),
        shades=np.array([*shades, range(256)], np.uint8),
    )


def reach(direction: tuple[float, float], distance: int) -> tuple[int, int]:
    """Pixel ``distance`` along a unit vector, rounded up, as the published generator rounds.

    Whole numbers stay what they are on every machine: only 9 decimals count.
    """
    row, col = (math.ceil(round(distance * part, 9)) for part in direction)
    return row, col


def candidate_heads(radius: int) -> list[tuple[int, int]]:
    """The distinct pixels on the circle round a pivot, one sample a pixel of arc, rounded down."""
    angles = [step / radius for step in range(math.ceil(2 * math.pi * radius))]
    circle = [(radius * math.sin(angle), radius * math.cos(angle)) for angle in angles]
    return sorted({(math.floor(round(r, 9)), math.floor(round(c, 9))) for r, c in circle})


def bend_weight(bend: float, continuity: float) -> int:
    """max(cos(min(continuity · |bend|, 90°)), 0)² of a candidate, in units of 1 / WEIGHT_ONE."""
    bend = abs(bend) % (2 * math.pi)
    bend = min(continuity * min(bend, 2 * math.pi - bend), math.pi / 2)
    return round(WEIGHT_ONE * max(math.cos(bend), 0.0) ** 2)


def zones_ahead(
    candidates: np.ndarray, weight: np.ndarray, neighbours: np.ndarray, stride: int
) -> np.ndarray:
    """(turns, rows, 2) flat offsets, row by row round the pivot, that a growth step looks at."""
    reach_out = int(np.abs(candidates).max() + np.abs(neighbours).max())
    zones = np.zeros((len(weight), 2 * reach_out + 1, 2), dtype=np.int64)
    for turn, weights in enumerate(weight):
        places = (candidates[weights > 0][:, None] + neighbours).reshape(-1, 2)
        for row in np.unique(places[:, 0]):
            columns = places[places[:, 0] == row, 1]
            zones[turn, row + reach_out] = row * stride + [columns.min(), columns.max() + 1]
    return zones


def thick_line(end: tuple[int, int], width: int, centre: int) -> np.ndarray:
    """A line from the centre of a square to ``end``, in 0 and 255: Pillow's ``ImageDraw.line``.

    Pillow fills the quadrilateral whose corners are the ends moved half the width sideways and
    rounded to pixels; a row is filled from the first to the last pixel that an edge crosses.
    """
    side = 2 * centre + 1
    image = np.zeros((side, side), dtype=np.uint8)
    rows, cols = end
    if width == 1:  # one pixel for each step along the longer side
        steps = max(abs(rows), abs(cols))
        for step in range(steps + 1):
            place = (half_up(step * rows / steps), half_up(step * cols / steps))
            image[centre + place[0], centre + place[1]] = 255
        return image
    half, span = (width - 1) / 2, math.hypot(*end)
    wide, narrow = half_up(half) / span, half_down(half) / span
    right, left = half_down(round(wide * rows, 9)), half_down(round(narrow * rows, 9))
    below, above = half_up(round(wide * cols, 9)), half_up(round(narrow * cols, 9))
    corners = [
        (below, -left),
        (rows + below, cols - left),
        (rows - above, cols + right),
        (-above, right),
    ]
    crossed: dict[int, list[float]] = defaultdict(list)  # columns, by row
    for (row0, col0), (row1, col1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if row0 == row1:
            crossed[row0] += [col0, col1]
            continue
        for row in range(min(row0, row1), max(row0, row1) + 1):
            crossed[row].append(round(col0 + (row - row0) * (col1 - col0) / (row1 - row0), 9))
    for row, found in crossed.items():
        first, last = math.floor(min(found) + 0.5), math.ceil(max(found) - 0.5)  # halves inwards
        image[centre + row, centre + first : centre + last + 1] = 255
    return image


def half_up(value: float) -> int:
    """Nearest whole number, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def half_down(value: float) -> int:
    """Nearest whole number, halves towards zero."""
    return int(math.copysign(math.ceil(abs(value) - 0.5), value))


def disc(radius: int) -> np.ndarray:
    """(2 radius + 1)² bool: pixels within ``radius`` of the centre."""
    row, col = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(row**2 + col**2 <= radius**2)


def shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resamples a uint8 image by Lanczos (three lobes) in the arithmetic of Pillow's 8-bit images.

    Columns first, then rows; sums in whole numbers; each pass rounded to 8 bits.
    """
    for size in (width, height):
        coefficients = lanczos(image.shape[1], size)
        sums = image.astype(np.int64) @ coefficients.T + (1 << (RESAMPLING_BITS - 1))
        image = np.clip(sums >> RESAMPLING_BITS, 0, 255).astype(np.uint8).T
    return image


@lru_cache(maxsize=16)
def lanczos(size: int, shrunk: int) -> np.ndarray:
    """(shrunk, size) int64 coefficients, in units of 2^-22: sinc(x) sinc(x / 3) for |x| < 3."""
    scale = size / shrunk
    x = (np.arange(size) + 0.5) / scale - (np.arange(shrunk)[:, None] + 0.5)
    lobes = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    units = lobes / lobes.sum(axis=1, keepdims=True) * (1 << RESAMPLING_BITS)
    return np.where(units < 0, np.ceil(units - 0.5), np.floor(units + 0.5)).astype(np.int64)


def pixels(images: list[np.ndarray], least: int) -> Pixels:
    """The pixels of at least ``least``: rows and columns from the centre, and values."""
    lists = []
    for image in images:
        places = np.argwhere(image >= least)
        values = image[tuple(places.T)].astype(np.int64)[:, None]
        lists.append(np.concatenate([places - image.shape[0] // 2, values], axis=1))
    return Pixels(np.cumsum([0, *map(len, lists)]), np.concatenate(lists))


def fit_zone(mask: np.ndarray, half: int) -> np.ndarray:
    """Pixels that must be free under a seed, from its tail: the full ones of its mask.

    The published generator looks for room one row and column further on than it draws, within a
    square of ``half`` pixels each way; both are kept.
    """
    places = np.argwhere(mask == 255) - mask.shape[0] // 2
    return np.asarray(places[(np.abs(places + 1) <= half).all(axis=1)] + 1)


def marker_pixels(radius: float, antialias: int) -> np.ndarray:
    """(·, 3) row, column, brightness of a disc drawn at ``antialias`` times its size and shrunk."""
    reach_out = math.ceil(radius) + 4
    side = (2 * reach_out + 1) * antialias
    row, col = np.ogrid[:side, :side]
    centre = reach_out * antialias
    blown = (row - centre) ** 2 + (col - centre) ** 2 <= (radius * antialias) ** 2
    image = shrink(255 * blown.astype(np.uint8), 2 * reach_out + 1, 2 * reach_out + 1)
    return pixels([image], 1).offsets
