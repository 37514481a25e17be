"""Pathfinder images: two dashed contours among shorter ones, with a disc on two ends.

Label 1: both discs sit on the ends of one contour; label 0: on ends of two different contours
(Linsley, Kim, Veerabadran, Windolf and Serre, NeurIPS 2018, arXiv:1805.08315). The pictures follow
the rules, paddle for paddle and pixel for pixel, of the generator that the authors published.

An image depends on the settings, the seed and its index alone: it is the same for any batch size,
order, number of workers and machine. A large set is split by ranges of indices.

    images, labels = generate(14, count=1000, seed=0)

How an image comes about:

1. A mask holds what is occupied: at first a border. A paddle occupies its line dilated by a disc
   of the margin's radius, drawn magnified and shrunk like the line itself.
2. Two seeds. The first paddle has a whole-degree orientation and lies anywhere at least twice the
   seed distance from the edges. The second's tail is the seed distance away in a random direction.
3. The two snakes grow in turn. The next pivot lies the margin past the last head. Candidate heads
   are the pixels on the circle of radius length + margin round it; a bend by δ weighs
   max(cos(min(continuity · δ, 90°)), 0)², times how free the mask is there, dilated by the margin.
   A paddle whose zone meets an occupied one is drawn again; three failures start the image anew. A
   snake's newest paddle joins the mask only when its next is placed.
4. Distractors grow by the same rule from wherever a paddle fits; five tries each; no more once
   less than 1% of the window is free.
5. A disc on the first tail of one target snake, chosen at random, and on the last head of the same
   (label 1) or the other (label 0).
6. The maximum of everything drawn, the lightest pixel at 255.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dataset_processing.pathfinder.kernel import Grid, Rules, make_grid, make_images
from dataset_processing.pathfinder.templates import Templates, half_up, templates
from support.errors import UserError

CHUNK = 256  # images made at once
LEAST = {
    "contour_length": 2, "border": 0, "paddle_length": 1, "seed_distance": 0, "antialias": 1,
    "distractor_length": 1, "distractors": 0, "single_paddles": 0, "image_tries": 1,
}  # fmt: skip
OPTIONAL = ("distractor_length", "distractors", "single_paddles")


@dataclass(frozen=True)
class Settings:
    """What a Pathfinder set looks like; the defaults are those of the 2018 release, length 14.

    Lengths are in pixels of the finished image.

    Args:
        contour_length: paddles in each of the two target snakes, at least 2.
        window: height and width, or one number for both.
        border: width of the frame that stays empty.
        paddle_length, paddle_thickness: of a paddle; thickness × antialias is a whole number.
        margin: gap between paddles, and the zone round each; several values: one is drawn for each
            image.
        continuity: factor on the angle between two paddles; the larger, the straighter.
        seed_distance: between the tails of the two target snakes.
        marker_radius: of the two discs; × antialias it is a whole number.
        distractor_length: paddles in a distractor; None: a third of contour_length, rounded down.
        distractors: distractor snakes; None: 30 / distractor_length, rounded down.
        single_paddles: further paddles that stand alone; None: as many as the published generator
            adds when told to, so that paddles number about 224 in all at margin 3.
        snake_contrasts: brightness, of which one is drawn for each snake; above 1, at most 2, it
            makes up for what thin paddles lose when they are shrunk.
        paddle_contrasts: the same for each paddle; multiplied by its snake's.
        antialias: magnification at which shapes are drawn before they are shrunk.
        image_tries: attempts at the two target snakes before an image is given up.

    Raises:
        UserError: a setting is out of its range; the message names it.
    """

    contour_length: int = 14
    window: int | tuple[int, int] = 300
    border: int = 22
    paddle_length: int = 5
    paddle_thickness: float = 2
    margin: int | tuple[int, ...] = 3
    continuity: float = 1.8
    seed_distance: int = 27
    marker_radius: float = 5
    distractor_length: int | None = None
    distractors: int | None = None
    single_paddles: int | None = 0
    snake_contrasts: tuple[float, ...] = (1.0,)
    paddle_contrasts: tuple[float, ...] = (1.0,)
    antialias: int = 2
    image_tries: int = 10000

    def __post_init__(self) -> None:
        for name in ("window", "margin", "snake_contrasts", "paddle_contrasts"):
            if isinstance(getattr(self, name), list):  # so that settings can be hashed
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, smallest in LEAST.items():
            if getattr(self, name) is not None or name not in OPTIONAL:
                _check(name, getattr(self, name), int, smallest)
        _check("continuity", self.continuity, float, 0)
        for margin in self.margins:
            _check("margin", margin, int, 1)
        for side in self.shape:
            _check("window", side, int, 2 * self.border + 1)
        for name in ("snake_contrasts", "paddle_contrasts"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values:
                raise UserError(f"{name}: a list of numbers 0–2 is expected, not {values!r}")
            for value in values:
                _check(name, value, float, 0)
                if not 0 < value <= 2:
                    raise UserError(f"{name}: each lies above 0 and at most at 2, not {value!r}")
        for name in ("paddle_thickness", "marker_radius"):
            size = getattr(self, name)
            _check(name, size, float, 0)
            blown = size * self.antialias
            if blown < 1 or blown != round(blown):
                raise UserError(
                    f"{name} {size} × antialias {self.antialias} must be a whole number, at least "
                    "1: 1.5 needs antialias 2 or 4, for example"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        if not isinstance(self.window, tuple):
            return self.window, self.window
        if len(self.window) != 2:
            raise UserError(f"window: height and width are expected, not {self.window!r}")
        height, width = self.window
        return height, width

    @property
    def margins(self) -> tuple[int, ...]:
        """The margins that an image may have."""
        if not isinstance(self.margin, tuple):
            return (self.margin,)
        if not self.margin:
            raise UserError("margin: a whole number, or several, is expected")
        return self.margin

    @property
    def paddles_a_distractor(self) -> int:
        """Paddles in a distractor snake."""
        return self.distractor_length or max(self.contour_length // 3, 1)

    @property
    def distractor_count(self) -> int:
        """Distractor snakes."""
        if self.distractors is None:
            return 30 // self.paddles_a_distractor
        return self.distractors

    def single_count(self, margin: int) -> int:
        """Paddles that stand alone."""
        if self.single_paddles is not None:
            return self.single_paddles
        total = int(150 * 123.5 / (7.5 + 13 * margin + 4 * margin**2))
        snakes = 2 * self.contour_length + self.distractor_count * self.paddles_a_distractor
        return max(total - snakes, 0)

    def fingerprint(self) -> str:
        """A hash of all settings; part of what an image depends on."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Stimulus:
    """One image and what it is made of. Coordinates are (row, column) in pixels.

    Attributes:
        image: (H, W) uint8.
        label: 1: both markers on one snake; 0: on two.
        contour_mask: (H, W) bool: the snake with the first marker, where its paddles are brighter
            than half (what the published generator's segmentation sets show, without the marker).
            Thin paddles are dim: of these what is brighter than 0.6 of their lightest pixel.
        paddles: (2, contour_length, 2, 2): tail and head of each paddle of the two target snakes.
        distractor_paddles: (M, 2, 2): the same of all other paddles; single ones come last.
        markers: (2, 2): centres of the two discs.
        marked_snakes: the snake (0 or 1) on which each of them sits.
        margin: of this image.
    """

    image: np.ndarray
    label: int
    contour_mask: np.ndarray
    paddles: np.ndarray
    distractor_paddles: np.ndarray
    markers: np.ndarray
    marked_snakes: tuple[int, int]
    margin: int


class Pathfinder:
    """An endless, numbered set of Pathfinder images.

    Args:
        settings: of the set.
        seed: 0 … 2**64 - 1; another seed gives other images.

    Raises:
        UserError: the seed is out of range.
    """

    def __init__(self, settings: Settings, seed: int = 0) -> None:
        _check("seed", seed, int, 0)
        if seed >= 2**64:
            raise UserError(f"seed: below 2**64 is expected, not {seed!r}")
        self.settings, self.seed = settings, int(seed)
        digest = hashlib.sha256(f"{settings.fingerprint()} {self.seed}".encode()).digest()
        self._key = np.uint64(int.from_bytes(digest[:8], "little"))

    def images(self, indices: Sequence[int] | np.ndarray | range) -> tuple[np.ndarray, np.ndarray]:
        """The images of these indices and their labels.

        Args:
            indices: numbers 0 … 2**63 - 1, in any order.

        Returns:
            images (n, H, W) uint8, labels (n,) int64.

        Raises:
            UserError: an index is out of range, or the two snakes do not fit in an image.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        images = np.empty((len(wanted), *self.settings.shape), np.uint8)
        labels = np.empty(len(wanted), np.int64)
        for start in range(0, len(wanted), CHUNK):
            part = slice(start, start + CHUNK)
            self._make(wanted[part], images[part], labels[part])
        return images, labels

    def image(self, index: int) -> tuple[np.ndarray, int]:
        """One image (H, W) and its label."""
        images, labels = self.images([index])
        return images[0], int(labels[0])

    def stimulus(self, index: int) -> Stimulus:
        """One image with what it is made of."""
        wanted = np.array([index], np.int64)
        images = np.empty((1, *self.settings.shape), np.uint8)
        labels = np.empty(1, np.int64)
        placed, counts, markers, marked = self._make(wanted, images, labels)
        margin = self.margin(index)
        drawn = _tables(self.settings, margin)[0]
        made = placed[0, : counts[0]]
        targets = 2 * self.settings.contour_length
        ends = _ends(drawn, made, self.settings.antialias)
        snakes = ends[:targets].reshape(-1, 2, 2, 2).swapaxes(0, 1)
        return Stimulus(
            image=images[0],
            label=int(labels[0]),
            contour_mask=_contour(drawn, made[marked[0, 0] : targets : 2], self.settings.shape),
            paddles=np.ascontiguousarray(snakes),
            distractor_paddles=ends[targets:],
            markers=markers[0].astype(np.int64),
            marked_snakes=(int(marked[0, 0]), int(marked[0, 1])),
            margin=margin,
        )

    def margin(self, index: int) -> int:
        """The margin of one image."""
        return self.settings.margins[int(self._margin_numbers(np.array([index]))[0])]

    def _margin_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Which of the margins each image has."""
        count = len(self.settings.margins)
        if count == 1:
            return np.zeros(len(indices), np.int64)
        digests = (hashlib.sha256(f"{self._key} {index}".encode()).digest() for index in indices)
        return np.array([int.from_bytes(digest[:8], "little") % count for digest in digests])

    def _make(
        self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Fills ``images`` and ``labels``; returns what `make_images` tells besides."""
        if len(indices) and indices.min() < 0:
            raise UserError(f"an image's index is 0 or more, not {indices.min()}")
        count = len(indices)
        settings = self.settings
        snakes = 2 * settings.contour_length
        snakes += settings.distractor_count * settings.paddles_a_distractor
        most = snakes + max(settings.single_count(margin) for margin in settings.margins)
        told = (
            np.zeros((count, most, 5), np.int32),
            np.zeros(count, np.int32),
            np.zeros((count, 2, 2), np.int32),
            np.zeros((count, 2), np.int32),
        )
        numbers = self._margin_numbers(indices)
        for number, margin in enumerate(settings.margins):
            mine, tables = np.flatnonzero(numbers == number), _tables(settings, margin)
            failed = make_images(self._key, indices, mine, *tables, images, labels, *told)
            if failed >= 0:
                raise UserError(_no_room(settings, margin, int(indices[failed])))
        return told


def generate(
    contour_length: int, count: int, seed: int, start: int = 0, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Makes Pathfinder images.

    Args:
        contour_length: paddles in each of the two target snakes: 6, 9 and 14 in the 2018 release.
        count: number of images.
        seed: 0 … 2**64 - 1.
        start: index of the first image: ``generate(14, 5, 0, start=10)`` are the images 10 to 14
            of ``generate(14, 15, 0)``.
        **settings: any other of `Settings`.

    Returns:
        images uint8 (count, H, W), labels int64 (count,); H = W = 300 unless set otherwise.

    Raises:
        UserError: a setting is out of range, or the snakes do not fit.
        TypeError: a setting is not known.
    """
    _check("count", count, int, 0)
    _check("start", start, int, 0)
    generator = Pathfinder(Settings(contour_length=contour_length, **settings), seed)
    return generator.images(range(start, start + count))


def _ends(drawn: Templates, placed: np.ndarray, antialias: int) -> np.ndarray:
    """(n, 2, 2) float64: tail and head, (row, column), of paddles as the kernel tells them.

    A snake's first paddle is anchored at its tail, the others at their heads.
    """
    near = placed[:, 1:3].astype(np.float64)
    far = near + drawn.end[placed[:, 0]] / antialias
    ends = np.stack([near, far], axis=1)
    return np.where(placed[:, 4, None, None] == 1, ends, ends[:, ::-1])


def _contour(drawn: Templates, placed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: where these paddles are bright; see `Stimulus`."""
    mask = np.zeros(shape, dtype=bool)
    for paddle, row, col in placed[:, :3]:
        pixels = drawn.line_pixels[drawn.line_start[paddle] : drawn.line_start[paddle + 1]]
        bright = pixels[:, 2] > min(127, 0.6 * pixels[:, 2].max())
        rows, cols = (pixels[bright, :2] + (row, col)).T
        seen = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
        mask[rows[seen], cols[seen]] = True
    return mask


@lru_cache(maxsize=32)
def _tables(s: Settings, margin: int) -> tuple[Templates, Rules, Grid]:
    """What the kernel needs besides indices."""
    drawn = templates(
        s.paddle_length, s.paddle_thickness, margin, s.continuity, s.marker_radius, s.antialias
    )
    return drawn, _rules(s, margin), make_grid(drawn, *s.shape)


def _rules(settings: Settings, margin: int) -> Rules:
    """The settings as the kernel takes them."""
    shades = [
        [min(math.floor(value * snake * paddle + 0.5), 255) for value in range(256)]
        for snake in settings.snake_contrasts
        for paddle in settings.paddle_contrasts
    ]
    ring = [
        [half_up(round(settings.seed_distance * turn(math.radians(d)), 9)) for d in range(360)]
        for turn in (math.sin, math.cos)
    ]
    height, width = settings.shape
    return Rules(
        height=height,
        width=width,
        border=settings.border,
        seed_distance=settings.seed_distance,
        contour_length=settings.contour_length,
        distractor_length=settings.paddles_a_distractor,
        distractors=settings.distractor_count,
        single_paddles=settings.single_count(margin),
        image_tries=settings.image_tries,
        snake_contrasts=len(settings.snake_contrasts),
        paddle_contrasts=len(settings.paddle_contrasts),
        shades=np.array([*shades, range(256)], np.uint8),
        ring=np.array(ring, np.int64).T.copy(),
    )


def _no_room(settings: Settings, margin: int, index: int) -> str:
    height, width = settings.shape
    return (
        f"image {index}: two snakes of {settings.contour_length} paddles did not fit in "
        f"{settings.image_tries} attempts (window {height}×{width}, border {settings.border}, "
        f"paddle_length {settings.paddle_length}, margin {margin}, seed_distance "
        f"{settings.seed_distance}); use a larger window, shorter contours, or a smaller border, "
        "margin or seed_distance, or allow more attempts (image_tries)"
    )


def _check(name: str, value: Any, kind: type, smallest: float) -> None:
    """UserError unless ``value`` is a number of that kind and large enough."""
    known = int | np.integer if kind is int else int | float | np.integer | np.floating
    word = "whole number" if kind is int else "number"
    if isinstance(value, bool) or not isinstance(value, known) or not math.isfinite(value):
        raise UserError(f"{name}: a {word} is expected, not {value!r}")
    if value < smallest:
        raise UserError(f"{name}: at least {smallest} is expected, not {value!r}")


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings that change an image, in one form whatever way they were written."""
    values = asdict(settings)
    values["window"] = list(settings.shape)
    values["margin"] = list(settings.margins)
    values["distractor_length"] = settings.paddles_a_distractor
    values["distractors"] = settings.distractor_count
    for name in ("paddle_thickness", "continuity"):
        values[name] = float(values[name])
    for name in ("snake_contrasts", "paddle_contrasts"):
        values[name] = [float(value) for value in values[name]]
    if float(values["marker_radius"]).is_integer():  # as it was when it was always whole
        values["marker_radius"] = int(values["marker_radius"])
    del values["image_tries"]
    return values
