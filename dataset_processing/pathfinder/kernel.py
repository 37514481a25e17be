"""The inner loop of the Pathfinder generator, compiled by numba.

Everything here is arithmetic on whole numbers, so the outcome does not depend on the machine, its
vector units or the compiler. Only the neighbourhood of a paddle is ever looked at or changed.
`tests.oracles.pathfinder` states the same rules with whole-window arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

# All that the machine code depends on stands in this file: numba compiles anew where it changes.
WEIGHT_ONE = 1 << 20  # the weight of a candidate straight ahead
TAKEN = 76  # a mask above this (0.3 of 255) is taken for a seed
COLLISION = 459  # two masks whose sum reaches this (1.8 of 255) meet
DEAD_END = int(255 * WEIGHT_ONE * 1e-4)  # candidates that together weigh less are no way on
PROPOSALS = 100  # random places tried for a seed before all free ones are listed
PADDLE_DRAWS = 3  # draws before a paddle fails
SNAKE_TRIES, SINGLE_TRIES = 5, 3  # tries before a distractor, or a paddle alone, is skipped

ZERO, ONE, TWO = np.int64(0), np.int64(1), np.int64(2)  # numba compiles anew for a bare 0 or 1

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


class Pixels(NamedTuple):
    """The pixels of all paddles one after another, as offsets from the paddle's anchor: the tail
    of a seed, the head of a later paddle."""

    start: np.ndarray  # (P + 1,): where each paddle's own begin, and where the last's end
    offsets: np.ndarray  # a row a pixel


class Tables(NamedTuple):
    """What the kernel works from: P paddles, C candidate heads, 360 + C last orientations.

    Last orientations 0–359 are a seed's whole degrees; 360 + c is a paddle at candidate c.

    The mask of what is occupied is a single row of pixels: the window with a rim that stays 0,
    wider than any template reaches, so that reading needs no bounds. A flat offset counts in it.
    """

    height: int
    width: int
    border: int
    seed_border: int  # the first seed keeps off the edges by this
    contour_length: int
    distractor_length: int
    distractors: int
    single_paddles: int
    image_tries: int
    snake_contrasts: int  # how many there are
    paddle_contrasts: int
    size: int  # pixels of the mask
    stride: int  # from a row of the mask to the next
    origin: int  # the window's first pixel in the mask
    most_changed: int  # pixels of the mask that an attempt changes at most
    end: np.ndarray  # (P, 2): far end of the drawn line from the anchor, magnified pixels
    line: Pixels  # (·, 3): row, column, brightness 1–255
    mask: Pixels  # (·, 3): row, column, occupancy 1–255
    hit: Pixels  # (·, 2): flat offset and occupancy of what can collide
    fit: Pixels  # (·,): flat offsets, from its tail, of pixels that must be free under a seed
    fit_box: np.ndarray  # (P, 4): first and last row, first and last column of those
    paddle: np.ndarray  # (360 + C,): the paddle of an orientation
    seed_head: np.ndarray  # (360, 2): head from tail
    seed_pivot: np.ndarray  # (360, 2): pivot from head
    candidates: np.ndarray  # (C, 2): heads from the pivot
    step: np.ndarray  # (360 + C, 2): the next pivot from the last
    weight: np.ndarray  # (360 + C, C): 0 … WEIGHT_ONE
    neighbours: np.ndarray  # flat offsets of the disc of the margin's radius, its centre first
    ahead: np.ndarray  # (360 + C, rows, 2): by row from the pivot, first and past flat offset of
    # all that lies within the margin of a candidate with a weight
    marker: np.ndarray  # (·, 3): row, column, brightness of a marker's pixels
    ring: np.ndarray  # (360, 2): second tail from the first, by direction
    shades: np.ndarray  # (·, 256) uint8: brightness by snake's and paddle's contrast; a marker's


class Scene(NamedTuple):
    """An image in the making: its tables, and what the functions below read and write."""

    t: Tables
    state: np.ndarray  # (1,) uint64: the image's own random numbers
    mask: np.ndarray  # (t.size,) uint8: what is occupied, 0–255
    placed: np.ndarray  # (most paddles, 5) int32: paddle, row, column, shade, 1 for a seed
    summed: np.ndarray  # (C,) int64: the candidates' weights added up
    history: np.ndarray  # (·, 2) int64: places of the mask and what they held before


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles what Python calls, without the interpreter's lock.

    The result is kept on disk where that is possible: beside this file or in the user's cache.
    """
    function.__qualname__ = f"{__name__}.{function.__name__}"  # apart from hgru_pytorch's
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither place can be written to
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


# What only compiled functions call needs no way in from Python, which halves the time to compile.
compiled = numba.njit(  # type: ignore[call-overload]
    nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True
)


@compiled
def mix(value):
    """A one-to-one scrambling of 64 bits (splitmix64's)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX1
    value = (value ^ (value >> np.uint64(27))) * _MIX2
    return value ^ (value >> np.uint64(31))


@compiled
def random_bits(state):
    """The next 30 random bits of an image's own sequence; ``state`` is (1,) uint64."""
    state[0] += _STEP
    return np.int64(mix(state[0]) >> np.uint64(34))


@compiled
def below(state, count):
    """A random whole number 0 … count - 1."""
    return (random_bits(state) * count) >> 30


@compiled
def pick(state, count):
    """The same; where there is nothing to choose it costs no random number."""
    return below(state, count) if count > 1 else ZERO


@compiled
def inside(t, row, col):
    return (0 <= row) & (row < t.height) & (0 <= col) & (col < t.width)


@compiled
def place(t, row, col):
    """Where a pixel of the window lies in the mask."""
    return row * t.stride + col + t.origin


@compiled
def fits(s, paddle, row, col):
    """Whether a seed's zone at this tail is free; the zone must lie inside the window."""
    tail = place(s.t, row, col)
    for i in range(s.t.fit.start[paddle], s.t.fit.start[paddle + 1]):
        if s.mask[tail + s.t.fit.offsets[i]] > TAKEN:
            return False
    return True


@compiled
def place_seed(s, paddle, border):
    """A tail in the window, uniform over those whose zone is free and ``border`` from the edges.

    Returns (row, column), or (-1, -1) where there is none.
    """
    box = s.t.fit_box[paddle]
    row0, col0 = max(border - box[0], 0), max(border - box[2], 0)
    rows = min(s.t.height - border - box[1], s.t.height) - row0
    cols = min(s.t.width - border - box[3], s.t.width) - col0
    if rows <= 0 or cols <= 0:
        return -1, -1
    for _ in range(PROPOSALS):
        row, col = row0 + below(s.state, rows), col0 + below(s.state, cols)
        if fits(s, paddle, row, col):
            return row, col
    free = 0
    for i in range(rows * cols):
        free += fits(s, paddle, row0 + i // cols, col0 + i % cols)
    if free == 0:
        return -1, -1
    chosen, i = below(s.state, free), -1
    while chosen >= 0:
        i += 1
        chosen -= fits(s, paddle, row0 + i // cols, col0 + i % cols)
    return row0 + i // cols, col0 + i % cols


@compiled
def occupancy_near(s, pixel):
    """The mask's maximum within the margin of one of its pixels."""
    highest = np.int64(0)
    for i in range(len(s.t.neighbours)):
        value = np.int64(s.mask[pixel + s.t.neighbours[i]])
        if value > highest:
            highest = value
            if value == 255:
                break
    return highest


@compiled
def all_free_ahead(s, turn, row, col):
    """Whether every candidate with a weight lies in the window, with nothing within the margin."""
    reach = len(s.t.ahead[turn]) // 2
    if not inside(s.t, row - reach, col - reach):
        return False
    if not inside(s.t, row + reach, col + reach):
        return False
    pivot = place(s.t, row, col)
    seen = np.uint8(0)
    for i in range(2 * reach + 1):
        for j in range(pivot + s.t.ahead[turn, i, 0], pivot + s.t.ahead[turn, i, 1]):
            seen |= s.mask[j]
    return seen == 0


@compiled
def collides(s, paddle, row, col):
    """Whether a paddle's zone meets what is occupied."""
    anchor = place(s.t, row, col)
    for i in range(s.t.hit.start[paddle], s.t.hit.start[paddle + 1]):
        value = np.int64(s.mask[anchor + s.t.hit.offsets[i, 0]])
        if value + s.t.hit.offsets[i, 1] >= COLLISION:
            return True
    return False


@compiled
def occupy(s, placed, past):
    """Adds a paddle's zone to the mask, and what it overwrites to the history from ``past``.

    Returns the new ``past`` and how many pixels ceased to be free.
    """
    lost = 0
    for i in range(s.t.mask.start[placed[0]], s.t.mask.start[placed[0] + 1]):
        row, col = placed[1] + s.t.mask.offsets[i, 0], placed[2] + s.t.mask.offsets[i, 1]
        value = s.t.mask.offsets[i, 2]
        if inside(s.t, row, col):
            pixel = place(s.t, row, col)
            before = np.int64(s.mask[pixel])
            if value > before:
                lost += (value > TAKEN) and (before <= TAKEN)
                s.history[past, 0], s.history[past, 1] = pixel, before
                past += 1
                s.mask[pixel] = value
    return past, lost


@compiled
def seed(s, first, border, placed, pivot):
    """Puts a snake's first paddle down; returns its whole-degree orientation, or -1.

    It goes where it fits or, with a ``border`` of -1, to the seed distance from the paddle
    ``first``. Its tail, head and pivot must lie in the window.
    """
    for _ in range(PADDLE_DRAWS):
        degree = below(s.state, 360)
        paddle = s.t.paddle[degree]
        if border >= 0:
            row, col = place_seed(s, paddle, border)
            if row < 0:
                return -1
        else:
            direction = below(s.state, 360)
            row, col = first[1] + s.t.ring[direction, 0], first[2] + s.t.ring[direction, 1]
        head_row, head_col = row + s.t.seed_head[degree, 0], col + s.t.seed_head[degree, 1]
        pivot[0] = head_row + s.t.seed_pivot[degree, 0]
        pivot[1] = head_col + s.t.seed_pivot[degree, 1]
        within = inside(s.t, row, col) & inside(s.t, head_row, head_col)
        if within & inside(s.t, pivot[0], pivot[1]):
            placed[0], placed[1], placed[2], placed[4] = paddle, row, col, 1
            return degree
    return -1


@compiled
def extend(s, turn, placed, pivot):
    """Adds a paddle to a snake whose last has orientation ``turn``; its turn, or -1."""
    row, col = pivot[0] + s.t.step[turn, 0], pivot[1] + s.t.step[turn, 1]
    free = all_free_ahead(s, turn, row, col)
    total = np.int64(0)
    for c in range(len(s.t.candidates)):
        weight = s.t.weight[turn, c]
        if weight > 0:
            head_row, head_col = row + s.t.candidates[c, 0], col + s.t.candidates[c, 1]
            if free:
                total += weight * 255
            elif inside(s.t, head_row, head_col):
                total += weight * (255 - occupancy_near(s, place(s.t, head_row, head_col)))
        s.summed[c] = total
    if total < DEAD_END:
        return -1
    for _ in range(PADDLE_DRAWS):
        drawn = (random_bits(s.state) * total) >> 30
        c = 0
        while s.summed[c] <= drawn:
            c += 1
        paddle = s.t.paddle[360 + c]
        head_row, head_col = row + s.t.candidates[c, 0], col + s.t.candidates[c, 1]
        if not collides(s, paddle, head_row, head_col):
            pivot[0], pivot[1] = row, col
            placed[0], placed[1], placed[2], placed[4] = paddle, head_row, head_col, 0
            return 360 + c
    return -1


@compiled
def clear(s):
    """Empties the mask but for the border; returns how many pixels are free."""
    border, height, width = s.t.border, s.t.height, s.t.width
    s.mask[:] = 0
    for row in range(height):
        start = place(s.t, row, 0)
        if border <= row < height - border:
            s.mask[start : start + border] = 255
            s.mask[start + width - border : start + width] = 255
        else:
            s.mask[start : start + width] = 255
    return (height - 2 * border) * (width - 2 * border)


@compiled
def snakes(s, start, count, length, border):
    """One attempt at ``count`` snakes of ``length`` paddles, which grow in turn.

    They take the rows of ``placed`` from ``start`` on, in turn; the second of two is seeded beside
    the first. A snake's newest paddle joins the mask when its next has been placed; at the end the
    last snake's does. Returns how many pixels they take, or -1: a failure leaves no trace.
    """
    pivots = np.empty((count, 2), np.int64)
    turns = np.empty(count, np.int64)
    contrasts = np.empty(count, np.int64)
    for i in range(count):
        contrasts[i] = pick(s.state, s.t.snake_contrasts)
    for i in range(count):
        edge = -ONE if i else border
        turns[i] = seed(s, s.placed[start], edge, s.placed[start + i], pivots[i])
        if turns[i] < 0:
            return -1
    past, taken = ZERO, ZERO
    for i in range(count * length):
        snake, placed = i % count, s.placed[start + i]
        if i >= count:
            turns[snake] = extend(s, turns[snake], placed, pivots[snake])
            if turns[snake] < 0:
                for j in range(past - 1, -1, -1):
                    s.mask[s.history[j, 0]] = s.history[j, 1]
                return -1
            past, lost = occupy(s, s.placed[start + i - count], past)
            taken += lost
        shade = pick(s.state, s.t.paddle_contrasts)
        placed[3] = contrasts[snake] * s.t.paddle_contrasts + shade
    return taken + occupy(s, s.placed[start + count * length - 1], past)[1]


@compiled
def distractors(s, start, count, length, tries, free):
    """Up to ``count`` of them; returns where ``placed`` ends and how many pixels are left free."""
    for _ in range(count):
        for _ in range(tries):
            if 100 * free < s.t.height * s.t.width:
                return start, free
            taken = snakes(s, start, ONE, length, max(s.t.border, 1))
            if taken >= 0:
                start += length
                free -= taken
                break
    return start, free


@compiled
def paint(image, pixels, row, col, shade):
    """Draws a template over an image, the lighter winning."""
    height, width = image.shape
    for i in range(len(pixels)):
        at_row, at_col = row + pixels[i, 0], col + pixels[i, 1]
        if (0 <= at_row) & (at_row < height) & (0 <= at_col) & (at_col < width):
            image[at_row, at_col] = max(image[at_row, at_col], shade[pixels[i, 2]])


@compiled
def draw(s, image, count, first, last):
    """The picture: paddles, a marker on two of them, scaled so that the lightest pixel is 255."""
    image[:] = 0
    for i in range(count):
        paddle = s.placed[i, 0]
        line = s.t.line.offsets[s.t.line.start[paddle] : s.t.line.start[paddle + 1]]
        paint(image, line, s.placed[i, 1], s.placed[i, 2], s.t.shades[s.placed[i, 3]])
    for i in (first, last):
        paint(image, s.t.marker, s.placed[i, 1], s.placed[i, 2], s.t.shades[-1])
    pixels = image.reshape(-1)
    top = ZERO
    for i in range(len(pixels)):
        top = max(top, np.int64(pixels[i]))
    if 0 < top < 255:
        for i in range(len(pixels)):
            pixels[i] = (510 * np.int64(pixels[i]) + top) // (2 * top)


@entry
def make_images(key, indices, which, t, images, labels, placed, marked):
    """Makes pictures, each from its own random numbers.

    Args:
        key: uint64, of settings and seed.
        indices: (n,) int64, of the pictures.
        which: int64: the places in ``indices``, and in all arrays below, of those to be made.
        t: `Tables`.
        images, labels: (n, height, width) uint8 and (n,) int64 to be written.
        placed: (n, most paddles, 5) int32, see `Scene`: the two targets' paddles in turn, then the
            distractors' and the single ones; -1 beyond the last.
        marked: (n, 2) int64: the rows of ``placed`` that the two markers sit on.

    Returns:
        -1, or the first place whose image could not be made.
    """
    mask = np.empty(t.size, np.uint8)
    summed = np.empty(len(t.candidates), np.int64)
    history = np.empty((t.most_changed, 2), np.int64)
    state = np.empty(1, np.uint64)
    for n in which:
        s = Scene(t, state, mask, placed[n], summed, history)
        state[0] = mix(np.uint64(key) + mix(np.uint64(indices[n]) * _STEP))
        labels[n] = below(state, 2)
        free = clear(s)
        taken = -1
        for _ in range(t.image_tries):
            taken = snakes(s, ZERO, TWO, t.contour_length, t.seed_border)
            if taken >= 0:
                break
        if taken < 0:
            return n
        end, free = 2 * t.contour_length, free - taken
        end, free = distractors(s, end, t.distractors, t.distractor_length, SNAKE_TRIES, free)
        end, free = distractors(s, end, t.single_paddles, ONE, SINGLE_TRIES, free)

        first = below(state, 2)
        last = first if labels[n] == 1 else 1 - first
        marked[n, 0], marked[n, 1] = first, 2 * (t.contour_length - 1) + last
        placed[n, end:, 0] = -1
        draw(s, images[n], end, marked[n, 0], marked[n, 1])
    return -1
