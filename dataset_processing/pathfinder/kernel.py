"""The inner loop of the Pathfinder generator, compiled by numba.

Everything here is arithmetic on whole numbers, so the outcome does not depend on the machine, its
vector units or the compiler. Only the neighbourhood of a paddle is ever looked at or changed.
`tests.oracles.pathfinder` states the same rules with whole-window arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from dataset_processing.pathfinder.templates import COLLISION, TAKEN, WEIGHT_ONE, Templates

DEAD_END = int(255 * WEIGHT_ONE * 1e-4)  # candidates that together weigh less are no way on
PROPOSALS = 100  # random places tried for a seed before all free ones are listed

ZERO, ONE = np.int64(0), np.int64(1)  # numba compiles a function anew for a bare 0 or 1

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


class Rules(NamedTuple):
    """The settings the loop needs, as numbers and tables (see `pathfinder.Settings`)."""

    height: int
    width: int
    border: int
    seed_distance: int
    contour_length: int
    distractor_length: int
    distractors: int
    single_paddles: int
    paddle_draws: int  # draws before a paddle fails
    snake_tries: int  # tries before a distractor is skipped
    single_tries: int  # the same for a single paddle
    image_tries: int  # starts before an image is given up
    snake_contrasts: int  # how many there are
    paddle_contrasts: int
    shades: np.ndarray  # (snake_contrasts · paddle_contrasts, 256) uint8: brightness by contrast
    ring: np.ndarray  # (360, 2) int64: second tail from the first, by direction


class Grid(NamedTuple):
    """Where things lie in the mask: the window in one row of pixels, with a rim that stays 0.

    The rim is wider than any template reaches, so that reading needs no bounds.
    """

    size: int  # pixels of the mask
    stride: int  # from a row to the next
    origin: int  # the window's first pixel
    zone: int  # pixels of the largest paddle's zone
    neighbours: np.ndarray  # the templates' offsets, each as one number
    hit: np.ndarray
    fit: np.ndarray


def make_grid(t: Templates, height: int, width: int) -> Grid:
    """The grid of a window."""
    rim = t.radius + 1
    stride = width + 2 * rim
    flat = np.array([stride, 1])
    return Grid(
        size=(height + 2 * rim) * stride,
        stride=stride,
        origin=rim * stride + rim,
        zone=int(np.diff(t.mask_start).max()),
        neighbours=t.neighbours @ flat,
        hit=t.hit_pixels[:, :2] @ flat,
        fit=t.fit_pixels @ flat,
    )


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
def inside(row, col, height, width):
    return (0 <= row) & (row < height) & (0 <= col) & (col < width)


@compiled
def fits(mask, t, grid, paddle, row, col):
    """Whether a seed's zone at this tail is free; the zone must lie inside the window."""
    place = row * grid.stride + col + grid.origin
    for i in range(t.fit_start[paddle], t.fit_start[paddle + 1]):
        if mask[place + grid.fit[i]] > TAKEN:
            return False
    return True


@compiled
def place_seed(state, mask, t, rules, grid, paddle, border):
    """A tail in the window, uniform over those whose zone is free and ``border`` from the edges.

    Returns (row, column), or (-1, -1) where there is none.
    """
    row0, col0 = max(border - t.fit_box[paddle, 0], 0), max(border - t.fit_box[paddle, 2], 0)
    rows = min(rules.height - border - t.fit_box[paddle, 1], rules.height) - row0
    cols = min(rules.width - border - t.fit_box[paddle, 3], rules.width) - col0
    if rows <= 0 or cols <= 0:
        return -1, -1
    for _ in range(PROPOSALS):
        row, col = row0 + below(state, rows), col0 + below(state, cols)
        if fits(mask, t, grid, paddle, row, col):
            return row, col
    free = 0
    for place in range(rows * cols):
        free += fits(mask, t, grid, paddle, row0 + place // cols, col0 + place % cols)
    if free == 0:
        return -1, -1
    chosen = below(state, free)
    place = -1
    while chosen >= 0:
        place += 1
        chosen -= fits(mask, t, grid, paddle, row0 + place // cols, col0 + place % cols)
    return row0 + place // cols, col0 + place % cols


@compiled
def occupancy_near(mask, grid, place):
    """The mask's maximum within the margin of a pixel."""
    highest = np.int64(0)
    for i in range(len(grid.neighbours)):
        value = np.int64(mask[place + grid.neighbours[i]])
        if value > highest:
            highest = value
            if value == 255:
                break
    return highest


@compiled
def all_free_ahead(mask, t, rules, grid, turn, row, col):
    """Whether every candidate with a weight lies in the window, with nothing within the margin."""
    reach = len(t.ahead[turn]) // 2
    if not inside(row - reach, col - reach, rules.height, rules.width):
        return False
    if not inside(row + reach, col + reach, rules.height, rules.width):
        return False
    seen = np.uint8(0)
    for i in range(2 * reach + 1):
        place = (row + i - reach) * grid.stride + col + grid.origin
        for j in range(place + t.ahead[turn, i, 0], place + t.ahead[turn, i, 1]):
            seen |= mask[j]
    return seen == 0


@compiled
def collides(mask, t, grid, paddle, row, col):
    """Whether a paddle's zone meets what is occupied."""
    place = row * grid.stride + col + grid.origin
    for i in range(t.hit_start[paddle], t.hit_start[paddle + 1]):
        if np.int64(mask[place + grid.hit[i]]) + t.hit_pixels[i, 2] >= COLLISION:
            return True
    return False


@compiled
def grow(state, mask, t, rules, grid, turn, row, col, summed):
    """The candidate at which a snake's next paddle goes, or -1 at a dead end.

    ``turn`` is the last paddle's orientation, (row, col) the pivot, ``summed`` (C,) is scratch.
    """
    free = all_free_ahead(mask, t, rules, grid, turn, row, col)
    total = np.int64(0)
    for c in range(len(t.candidates)):
        weight = t.weight[turn, c]
        if weight > 0:
            head_row, head_col = row + t.candidates[c, 0], col + t.candidates[c, 1]
            if free:
                total += weight * 255
            elif inside(head_row, head_col, rules.height, rules.width):
                place = head_row * grid.stride + head_col + grid.origin
                total += weight * (255 - occupancy_near(mask, grid, place))
        summed[c] = total
    if total < DEAD_END:
        return -1
    for _ in range(rules.paddle_draws):
        drawn = (random_bits(state) * total) >> 30
        c = 0
        while summed[c] <= drawn:
            c += 1
        head_row, head_col = row + t.candidates[c, 0], col + t.candidates[c, 1]
        if not collides(mask, t, grid, t.paddle[c], head_row, head_col):
            return c
    return -1


@compiled
def occupy(mask, t, rules, grid, placed, history, past):
    """Adds a paddle's zone to the mask, and what it overwrites to ``history`` (·, 2) from ``past``.

    Returns the new ``past`` and how many pixels ceased to be free.
    """
    lost = 0
    for i in range(t.mask_start[placed[0]], t.mask_start[placed[0] + 1]):
        row, col = placed[1] + t.mask_pixels[i, 0], placed[2] + t.mask_pixels[i, 1]
        value = t.mask_pixels[i, 2]
        if inside(row, col, rules.height, rules.width):
            place = row * grid.stride + col + grid.origin
            before = np.int64(mask[place])
            if value > before:
                lost += (value > TAKEN) and (before <= TAKEN)
                history[past, 0], history[past, 1] = place, before
                past += 1
                mask[place] = value
    return past, lost


@compiled
def restore(mask, history, past):
    """Takes back what `occupy` wrote down."""
    for i in range(past - 1, -1, -1):
        mask[history[i, 0]] = history[i, 1]


@compiled
def pick_shade(state, rules, snake_contrast):
    paddle_contrast = below(state, rules.paddle_contrasts) if rules.paddle_contrasts > 1 else 0
    return snake_contrast * rules.paddle_contrasts + paddle_contrast


@compiled
def pick_snake_contrast(state, rules):
    return below(state, rules.snake_contrasts) if rules.snake_contrasts > 1 else 0


@compiled
def set_seed(t, degree, row, col, pivot):
    """Writes a seed's pivot, (2,), and returns its head."""
    head_row, head_col = row + t.seed_head[degree, 0], col + t.seed_head[degree, 1]
    pivot[0] = head_row + t.seed_pivot[degree, 0]
    pivot[1] = head_col + t.seed_pivot[degree, 1]
    return head_row, head_col


@compiled
def seed_within(state, mask, t, rules, grid, border, placed, pivot):
    """Seeds a snake where its paddle fits; returns its whole-degree orientation, or -1."""
    for _ in range(rules.paddle_draws):
        degree = below(state, 360)
        paddle = t.seed_paddle[degree]
        row, col = place_seed(state, mask, t, rules, grid, paddle, border)
        if row < 0:
            return -1
        head_row, head_col = set_seed(t, degree, row, col, pivot)
        if inside(head_row, head_col, rules.height, rules.width) and inside(
            pivot[0], pivot[1], rules.height, rules.width
        ):
            placed[0], placed[1], placed[2] = paddle, row, col
            return degree
    return -1


@compiled
def seed_beside(state, t, rules, first, placed, pivot):
    """Seeds the second snake at the seed distance from the first; returns its degree, or -1."""
    for _ in range(rules.paddle_draws):
        degree, direction = below(state, 360), below(state, 360)
        row, col = first[1] + rules.ring[direction, 0], first[2] + rules.ring[direction, 1]
        head_row, head_col = set_seed(t, degree, row, col, pivot)
        if (
            inside(row, col, rules.height, rules.width)
            and inside(head_row, head_col, rules.height, rules.width)
            and inside(pivot[0], pivot[1], rules.height, rules.width)
        ):
            placed[0], placed[1], placed[2] = t.seed_paddle[degree], row, col
            return degree
    return -1


@compiled
def extend(state, mask, t, rules, grid, turn, pivot, placed, summed):
    """Adds a paddle to a snake whose last has orientation ``turn``; its turn, or -1."""
    row, col = pivot[0] + t.step[turn, 0], pivot[1] + t.step[turn, 1]
    c = grow(state, mask, t, rules, grid, turn, row, col, summed)
    if c < 0:
        return -1
    pivot[0], pivot[1] = row, col
    placed[0] = t.paddle[c]
    placed[1], placed[2] = row + t.candidates[c, 0], col + t.candidates[c, 1]
    return 360 + c


@compiled
def clear(mask, rules, grid):
    """Empties the mask but for the border; returns how many pixels are free."""
    mask[:] = 0
    for row in range(rules.height):
        start = row * grid.stride + grid.origin
        if rules.border <= row < rules.height - rules.border:
            mask[start : start + rules.border] = 255
            mask[start + rules.width - rules.border : start + rules.width] = 255
        else:
            mask[start : start + rules.width] = 255
    return (rules.height - 2 * rules.border) * (rules.width - 2 * rules.border)


@compiled
def target_snakes(state, mask, t, rules, grid, placed, summed, history):
    """One attempt at the two target snakes, which grow in turn; a failure leaves no trace.

    ``placed`` (2 · contour_length, 4) takes paddle, row, column and shade, the snakes' in turn. A
    snake's newest paddle joins the mask when its next has been placed; at the end the second
    snake's does. Returns how many pixels they take, or -1 if they did not fit.
    """
    pivots = np.empty((2, 2), np.int64)
    turns = np.empty(2, np.int64)
    contrasts = (pick_snake_contrast(state, rules), pick_snake_contrast(state, rules))
    border = max(rules.border, 2 * rules.seed_distance, 1)
    turns[0] = seed_within(state, mask, t, rules, grid, border, placed[0], pivots[0])
    if turns[0] < 0:
        return -1
    turns[1] = seed_beside(state, t, rules, placed[0], placed[1], pivots[1])
    if turns[1] < 0:
        return -1
    for i in range(2):
        placed[i, 3] = pick_shade(state, rules, contrasts[i])
    past, taken = ZERO, ZERO
    for i in range(2, 2 * rules.contour_length):
        snake = i % 2
        turn = extend(state, mask, t, rules, grid, turns[snake], pivots[snake], placed[i], summed)
        if turn < 0:
            restore(mask, history, past)
            return -1
        turns[snake] = turn
        placed[i, 3] = pick_shade(state, rules, contrasts[snake])
        past, lost = occupy(mask, t, rules, grid, placed[i - 2], history, past)
        taken += lost
    last = placed[2 * rules.contour_length - 1]
    return taken + occupy(mask, t, rules, grid, last, history, past)[1]


@compiled
def distractor(state, mask, t, rules, grid, length, placed, summed, history):
    """One attempt at a distractor of ``length`` paddles; a failure leaves no trace.

    Returns how many pixels it takes, or -1 if it got stuck.
    """
    pivot = np.empty(2, np.int64)
    contrast = pick_snake_contrast(state, rules)
    turn = seed_within(state, mask, t, rules, grid, max(rules.border, 1), placed[0], pivot)
    if turn < 0:
        return -1
    placed[0, 3] = pick_shade(state, rules, contrast)
    past, taken = ZERO, ZERO
    for i in range(1, length):
        turn = extend(state, mask, t, rules, grid, turn, pivot, placed[i], summed)
        if turn < 0:
            restore(mask, history, past)
            return -1
        placed[i, 3] = pick_shade(state, rules, contrast)
        past, lost = occupy(mask, t, rules, grid, placed[i - 1], history, past)
        taken += lost
    return taken + occupy(mask, t, rules, grid, placed[length - 1], history, past)[1]


@compiled
def add_snakes(
    state, mask, t, rules, grid, count, length, tries, free, placed, start, summed, history
):
    """Up to ``count`` distractors; returns where ``placed`` ends and what is left free."""
    for _ in range(count):
        for _ in range(tries):
            if 100 * free < rules.height * rules.width:
                return start, free
            taken = distractor(state, mask, t, rules, grid, length, placed[start:], summed, history)
            if taken >= 0:
                start += length
                free -= taken
                break
    return start, free


@compiled
def paint(image, pixels, first, last, row, col, shade):
    """Draws a template over an image, the lighter winning; returns its lightest pixel."""
    height, width = image.shape
    lightest = np.uint8(0)
    for i in range(first, last):
        at_row, at_col = row + pixels[i, 0], col + pixels[i, 1]
        if inside(at_row, at_col, height, width):
            value = shade[pixels[i, 2]]
            if value > image[at_row, at_col]:
                image[at_row, at_col] = value
            if value > lightest:
                lightest = value
    return lightest


@compiled
def draw(image, t, rules, placed, count, markers):
    """The picture: all paddles, the two markers, scaled so that the lightest pixel is 255."""
    image[:] = 0
    lightest = np.uint8(0)
    for i in range(count):
        paddle = placed[i, 0]
        value = paint(
            image,
            t.line_pixels,
            t.line_start[paddle],
            t.line_start[paddle + 1],
            placed[i, 1],
            placed[i, 2],
            rules.shades[placed[i, 3]],
        )
        if value > lightest:
            lightest = value
    full = np.arange(256).astype(np.uint8)
    for i in range(2):
        value = paint(image, t.marker, ZERO, len(t.marker), markers[i, 0], markers[i, 1], full)
        if value > lightest:
            lightest = value
    if 0 < lightest < 255:
        top = np.int64(lightest)
        for row in range(rules.height):
            for col in range(rules.width):
                value = np.int64(image[row, col])
                image[row, col] = (510 * value + top) // (2 * top)


@entry
def make_images(key, indices, t, rules, grid, images, labels, placed, counts, markers, marked):
    """Makes the pictures of ``indices``, each from its own random numbers.

    Args:
        key: uint64, of settings and seed.
        indices: (n,) int64.
        t, rules, grid: tables and settings.
        images, labels: (n, height, width) uint8 and (n,) int64 to be written.
        placed: (n, most paddles, 4) int32: paddle, row, column, shade of all paddles: the two
            targets' in turn, then the distractors' and the single ones.
        counts: (n, 2) int32: paddles in all, and those before the single ones.
        markers: (n, 2, 2) int32: row and column of the two markers.
        marked: (n, 2) int32: the snakes they sit on.

    Returns:
        -1, or the first place in ``indices`` whose image could not be made.
    """
    mask = np.empty(grid.size, np.uint8)
    summed = np.empty(len(t.candidates), np.int64)
    longest = max(2 * rules.contour_length, rules.distractor_length)
    history = np.empty((longest * grid.zone, 2), np.int64)
    state = np.empty(1, np.uint64)
    for n in range(len(indices)):
        state[0] = mix(np.uint64(key) + mix(np.uint64(indices[n]) * _STEP))
        label = below(state, 2)
        free = clear(mask, rules, grid)
        taken = -1
        for _ in range(rules.image_tries):
            taken = target_snakes(state, mask, t, rules, grid, placed[n], summed, history)
            if taken >= 0:
                break
        if taken < 0:
            return n
        end, free = add_snakes(
            state,
            mask,
            t,
            rules,
            grid,
            rules.distractors,
            rules.distractor_length,
            rules.snake_tries,
            free - taken,
            placed[n],
            2 * rules.contour_length,
            summed,
            history,
        )
        counts[n, 1] = end
        end, free = add_snakes(
            state,
            mask,
            t,
            rules,
            grid,
            rules.single_paddles,
            ONE,
            rules.single_tries,
            free,
            placed[n],
            end,
            summed,
            history,
        )
        counts[n, 0] = end

        marked[n, 0] = below(state, 2)
        marked[n, 1] = marked[n, 0] if label == 1 else 1 - marked[n, 0]
        last = 2 * (rules.contour_length - 1) + marked[n, 1]
        markers[n, 0, 0], markers[n, 0, 1] = placed[n, marked[n, 0], 1], placed[n, marked[n, 0], 2]
        markers[n, 1, 0], markers[n, 1, 1] = placed[n, last, 1], placed[n, last, 2]
        labels[n] = label
        draw(images[n], t, rules, placed[n], end, markers[n])
    return -1
