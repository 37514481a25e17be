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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset_processing.pathfinder.kernel import Tables, make_images
from dataset_processing.pathfinder.settings import Settings
from dataset_processing.pathfinder.templates import tables
from support.errors import UserError
from support.kinds import whole

CHUNK = 256  # images made at once


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
    """An endless, numbered set of Pathfinder images; each seed, 0 … 2**64 - 1, gives others.

    Raises:
        UserError: the seed is out of range.
    """

    def __init__(self, settings: Settings, seed: int = 0) -> None:
        self.settings, self.seed = settings, whole(0).of("seed", seed)
        if seed >= 2**64:
            raise UserError(f"seed must be below 2**64, found {seed!r}")
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
        try:
            wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        except OverflowError:
            raise UserError(f"an image's index is below 2**63, found {max(indices)}") from None
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
        images = np.empty((1, *self.settings.shape), np.uint8)
        labels = np.empty(1, np.int64)
        (placed,), (marked,) = self._make(np.array([index], np.int64), images, labels)
        margin = self.margin(index)
        drawn = tables(self.settings, margin)
        made = placed[placed[:, 0] >= 0]
        near = made[:, 1:3].astype(np.float64)  # a snake's first tail; of other paddles the head
        far = near + drawn.end[made[:, 0]] / self.settings.antialias
        begins = made[:, 4, None, None] == 1
        ends = np.where(begins, np.stack([near, far], 1), np.stack([far, near], 1))
        targets = 2 * self.settings.contour_length
        first, last = (int(row) % 2 for row in marked)
        return Stimulus(
            image=images[0],
            label=int(labels[0]),
            contour_mask=_contour(drawn, placed[first:targets:2]),
            paddles=np.ascontiguousarray(ends[:targets].reshape(-1, 2, 2, 2).swapaxes(0, 1)),
            distractor_paddles=ends[targets:],
            markers=placed[marked, 1:3].astype(np.int64),
            marked_snakes=(first, last),
            margin=margin,
        )

    def margin(self, index: int) -> int:
        """The margin of one image."""
        margins = self.settings.margins
        if len(margins) == 1:
            return margins[0]
        digest = hashlib.sha256(f"{self._key} {index}".encode()).digest()
        return margins[int.from_bytes(digest[:8], "little") % len(margins)]

    def _make(
        self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fills ``images`` and ``labels``; returns ``placed`` and ``marked`` of `make_images`."""
        if len(indices) and indices.min() < 0:
            raise UserError(f"an image's index is 0 or more, not {indices.min()}")
        s, margins = self.settings, np.array([self.margin(index) for index in indices])
        most = s.snake_paddles + max(map(s.single_count, s.margins))
        placed = np.empty((len(indices), most, 5), np.int32)
        marked = np.empty((len(indices), 2), np.int64)
        for margin in s.margins:
            mine = np.flatnonzero(margins == margin)
            drawn = tables(s, margin)
            failed = make_images(self._key, indices, mine, drawn, images, labels, placed, marked)
            if failed >= 0:
                height, width = s.shape
                raise UserError(
                    f"image {indices[failed]}: two snakes of {s.contour_length} paddles did not "
                    f"fit in {s.image_tries} attempts (window {height}×{width}, border {s.border}, "
                    f"paddle_length {s.paddle_length}, margin {margin}, seed_distance "
                    f"{s.seed_distance}); use a larger window, shorter contours, or a smaller "
                    "border, margin or seed_distance, or allow more attempts (image_tries)"
                )
        return placed, marked


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
    count, start = whole(0).of("count", count), whole(0).of("start", start)
    generator = Pathfinder(Settings(contour_length=contour_length, **settings), seed)
    return generator.images(range(start, start + count))


def _contour(drawn: Tables, placed: np.ndarray) -> np.ndarray:
    """(H, W) bool: where these paddles are bright; see `Stimulus`."""
    mask = np.zeros((drawn.height, drawn.width), dtype=bool)
    for paddle, row, col in placed[:, :3]:
        pixels = drawn.line.offsets[drawn.line.start[paddle] : drawn.line.start[paddle + 1]]
        bright = pixels[:, 2] > min(127, 0.6 * pixels[:, 2].max())
        rows, cols = (pixels[bright, :2] + (row, col)).T
        seen = (rows >= 0) & (rows < drawn.height) & (cols >= 0) & (cols < drawn.width)
        mask[rows[seen], cols[seen]] = True
    return mask
