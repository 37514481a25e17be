"""The Pathfinder rules once more, plainly: whole-window arrays, Pillow's lines and resampling.

The oracle of the tests and what the benchmark compares with: the same pictures as
`dataset_processing.pathfinder` from the same random numbers, at a few hundred times the cost. Each
paddle here dilates and compares masks of the whole window, as the published generator does.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from dataset_processing.pathfinder import Pathfinder, Settings
from dataset_processing.pathfinder.kernel import PROPOSALS

Pixel = tuple[int, int]


class Draws:
    """An image's random numbers: splitmix64 from (key, index)."""

    def __init__(self, key: int, index: int) -> None:
        self.state = scramble(key + scramble(index * 0x9E3779B97F4A7C15))

    def below(self, count: int) -> int:
        """A whole number 0 … count - 1."""
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        return (scramble(self.state) >> 34) * count >> 30


def scramble(value: int) -> int:
    """splitmix64's output function."""
    value %= 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


class Snake:
    """A growing snake: its last pivot and orientation, and the zone that has yet to join."""

    def __init__(self, contrast: float) -> None:
        self.contrast = contrast
        self.pivot: Pixel = (0, 0)
        self.turn = 0.0
        self.zone = np.zeros((0, 0), np.uint8)
        self.lines: list[np.ndarray] = []  # in their contrasts
        self.drawn: list[np.ndarray] = []  # at full contrast
        self.tips: list[Pixel] = []


class Reference:
    """One image at a time, from the settings and seed of a `Pathfinder` with one margin."""

    def __init__(self, generator: Pathfinder) -> None:
        self.settings: Settings = generator.settings
        self.key = int(generator._key)
        (self.margin,) = self.settings.margins
        self.height, self.width = self.settings.shape
        self.disc = round_disc(self.margin)

    def image(self, index: int) -> tuple[np.ndarray, int]:
        """The picture (H, W) uint8 of an index, and its label; ``marked`` is then the target snake
        with the first marker."""
        s = self.settings
        self.draws = Draws(self.key, index)
        label = self.draws.below(2)
        for _ in range(s.image_tries):
            targets = self.targets()
            if targets is not None:
                break
        else:
            raise ValueError(f"image {index}: the snakes did not fit")
        lines = [line for snake in targets for line in snake.lines]
        lines += self.distractors(s.distractor_count, s.paddles_a_distractor, 5)
        lines += self.distractors(s.single_count(self.margin), 1, 3)
        first = self.draws.below(2)
        last = first if label == 1 else 1 - first
        self.marked = targets[first]
        lines.append(self.marker(self.marked.tips[0]))
        lines.append(self.marker(targets[last].tips[-1]))
        picture = np.max(lines, axis=0).astype(np.float64)
        return np.floor(picture / picture.max() * 255 + 0.5).astype(np.uint8), label

    def targets(self) -> list[Snake] | None:
        """Both target snakes, or None if they did not fit; leaves their zones in the mask."""
        s = self.settings
        self.mask = np.zeros((self.height, self.width), np.uint8)
        frame(self.mask, s.border)
        snakes = [Snake(self.pick(s.snake_contrasts)), Snake(self.pick(s.snake_contrasts))]
        if not self.seed_within(snakes[0], max(2 * s.seed_distance, s.border, 1)):
            return None
        if not self.seed_beside(snakes[1], snakes[0].tips[0]):
            return None
        for snake in snakes:
            self.shade(snake)
        for _ in range(s.contour_length - 1):
            for snake in snakes:
                if not self.extend(snake):
                    return None
        self.mask = np.maximum(self.mask, snakes[1].zone)
        return snakes

    def distractors(self, count: int, length: int, tries: int) -> list[np.ndarray]:
        """The lines of up to ``count`` snakes of ``length`` paddles."""
        lines: list[np.ndarray] = []
        for _ in range(count):
            for _ in range(tries):
                if (self.mask <= 76).sum() * 100 < self.mask.size:
                    return lines
                before = self.mask
                snake = Snake(self.pick(self.settings.snake_contrasts))
                if self.seed_within(snake, max(self.settings.border, 1)):
                    self.shade(snake)
                    if all(self.extend(snake) for _ in range(length - 1)):
                        self.mask = np.maximum(self.mask, snake.zone)
                        lines += snake.lines
                        break
                self.mask = before
        return lines

    def seed_within(self, snake: Snake, edge: int) -> bool:
        """Seeds a snake where its paddle fits, at least ``edge`` from the window's edges."""
        s = self.settings
        half = s.paddle_length + self.margin
        side = 2 * half + 1
        for _ in range(3):
            turn = self.draws.below(360) * math.pi / 180
            # Drawn one pixel further on than the middle, as the published generator does.
            zone = self.paddle((half + 1, half + 1), turn, (side, side))[1] == 255
            edged = self.mask.copy()
            frame(edged, edge)
            wide = spread(edged, zone, outside=255)
            free = wide <= 76  # 0.3 of full occupancy counts as taken
            tail = self.choose(free, zone, half, edge)
            if tail is None:
                return False
            if self.settle(snake, tail, turn):
                return True
        return False

    def choose(self, free: np.ndarray, zone: np.ndarray, half: int, edge: int) -> Pixel | None:
        """A free pixel, found by trying places of the box in which the zone keeps off the edges."""
        rows, cols = (np.flatnonzero(zone.any(axis=axis)) - half for axis in (1, 0))
        row0, col0 = max(edge - int(rows.min()), 0), max(edge - int(cols.min()), 0)
        box = free[row0 : self.height - edge - rows.max(), col0 : self.width - edge - cols.max()]
        if not box.size:
            return None
        for _ in range(PROPOSALS):
            row, col = self.draws.below(box.shape[0]), self.draws.below(box.shape[1])
            if box[row, col]:
                return row + row0, col + col0
        if not box.any():
            return None
        row, col = np.argwhere(box)[self.draws.below(int(box.sum()))].tolist()
        return row + row0, col + col0

    def seed_beside(self, snake: Snake, tail: Pixel) -> bool:
        """Seeds the second target snake at the seed distance from the first."""
        for _ in range(3):
            degree, direction = self.draws.below(360), self.draws.below(360) * math.pi / 180
            row = tail[0] + self.settings.seed_distance * math.sin(direction)
            col = tail[1] + self.settings.seed_distance * math.cos(direction)
            beside = (nearest(row, tail[0]), nearest(col, tail[1]))
            if self.settle(snake, beside, degree * math.pi / 180):
                return True
        return False

    def settle(self, snake: Snake, tail: Pixel, turn: float) -> bool:
        """Puts a seed down if its tail, head and pivot lie in the window."""
        s = self.settings
        head = ahead(tail, turn, s.paddle_length)
        pivot = ahead(head, opposite(turn), s.paddle_length + self.margin)
        if not all(self.in_window(pixel) for pixel in (tail, head, pivot)):
            return False
        line, snake.zone = self.paddle(tail, turn, (self.height, self.width))
        snake.lines, snake.drawn, snake.tips = [line], [line], [tail]
        snake.pivot, snake.turn = pivot, turn
        return True

    def extend(self, snake: Snake) -> bool:
        """Adds a paddle; False at a dead end or after three draws that meet what is occupied."""
        s = self.settings
        pivot = ahead(snake.pivot, snake.turn, s.paddle_length + 2 * self.margin)
        wide = spread(self.mask, self.disc)
        heads, turns, weights = self.candidates(pivot, snake.turn, wide)
        total = sum(weights)
        if total < int(255 * 2**20 * 1e-4):
            return False
        for _ in range(3):
            drawn = self.draws.below(total)
            place = int(np.argmax(np.cumsum(weights) > drawn))
            back = opposite(turns[place])
            line, zone = self.paddle(heads[place], back, (self.height, self.width))
            if (self.mask.astype(np.int64) + zone).max() < 459:
                break
        else:
            return False
        snake.pivot, snake.turn = pivot, turns[place]
        snake.lines.append(line)
        snake.drawn.append(line)
        snake.tips.append(heads[place])
        self.shade(snake)
        self.mask = np.maximum(self.mask, snake.zone)
        snake.zone = zone
        return True

    def candidates(
        self, pivot: Pixel, turn: float, wide: np.ndarray
    ) -> tuple[list[Pixel], list[float], list[int]]:
        """Heads round a pivot, their orientations and weights."""
        radius = self.settings.paddle_length + self.margin
        angles = np.arange(0, 2 * np.pi, 1 / radius)
        rows = np.floor(pivot[0] + radius * np.sin(angles)).astype(int)
        cols = np.floor(pivot[1] + radius * np.cos(angles)).astype(int)
        heads = [
            pixel
            for pixel in sorted(set(zip(rows.tolist(), cols.tolist(), strict=True)))
            if self.in_window(pixel)
        ]
        turns = [math.atan2(row - pivot[0], col - pivot[1]) for row, col in heads]
        weights = []
        for head, angle in zip(heads, turns, strict=True):
            bend = math.acos(min(max(math.cos(angle - turn), -1.0), 1.0))
            bend = min(self.settings.continuity * bend, math.pi / 2)
            weight = round(2**20 * max(math.cos(bend), 0.0) ** 2)
            weights.append(weight * (255 - int(wide[head])))
        return heads, turns, weights

    def paddle(self, start: Pixel, turn: float, shape: Pixel) -> tuple[np.ndarray, np.ndarray]:
        """A paddle's line and its zone, each (H, W) uint8."""
        s = self.settings
        reach = s.paddle_length + math.ceil(s.paddle_thickness) + self.margin
        centre, side = reach * s.antialias, 2 * reach + 1
        end = ahead((centre, centre), turn, s.paddle_length * s.antialias)
        blown = Image.new("L", (2 * centre + 1, 2 * centre + 1))
        ImageDraw.Draw(blown).line(
            [(centre, centre), (end[1], end[0])],
            fill=255,
            width=round(s.paddle_thickness * s.antialias),
        )
        zone = Image.fromarray(spread(np.asarray(blown), round_disc(self.margin * s.antialias)))
        return tuple(  # type: ignore[return-value]
            embed(np.asarray(drawn.resize((side, side), Image.Resampling.LANCZOS)), start, shape)
            for drawn in (blown, zone)
        )

    def marker(self, centre: Pixel) -> np.ndarray:
        """A disc, drawn in the whole window, magnified."""
        scale, rim = self.settings.antialias, 32  # a rim, so that no edge bends the resampling
        row, col = np.ogrid[: (self.height + 2 * rim) * scale, : (self.width + 2 * rim) * scale]
        distance = (row - (centre[0] + rim) * scale) ** 2 + (col - (centre[1] + rim) * scale) ** 2
        blown = distance <= (self.settings.marker_radius * scale) ** 2
        small = Image.fromarray(255 * blown.astype(np.uint8)).resize(
            (self.width + 2 * rim, self.height + 2 * rim), Image.Resampling.LANCZOS
        )
        return np.asarray(small)[rim : rim + self.height, rim : rim + self.width]

    def shade(self, snake: Snake) -> None:
        """Gives a snake's newest paddle its contrast."""
        contrast = snake.contrast * self.pick(self.settings.paddle_contrasts)
        lit = np.floor(snake.lines[-1] * contrast + 0.5)
        snake.lines[-1] = np.minimum(lit, 255).astype(np.uint8)

    def pick(self, values: tuple[float, ...]) -> float:
        """One of the values; a single one costs no random number."""
        return values[self.draws.below(len(values))] if len(values) > 1 else values[0]

    def in_window(self, pixel: Pixel) -> bool:
        return 0 <= pixel[0] < self.height and 0 <= pixel[1] < self.width


def ahead(start: Pixel, turn: float, distance: float) -> Pixel:
    """The pixel ``distance`` on in a direction, rounded up; whole numbers stay what they are."""
    row = start[0] + distance * math.sin(turn)
    col = start[1] + distance * math.cos(turn)
    return math.ceil(row - 1e-9), math.ceil(col - 1e-9)


def opposite(turn: float) -> float:
    return turn + math.pi if turn < 0 else turn - math.pi


def nearest(value: float, origin: int) -> int:
    """Nearest whole number, halves away from ``origin``."""
    step = round(value - origin, 9)
    return origin + int(math.copysign(math.floor(abs(step) + 0.5), step))


def round_disc(radius: int) -> np.ndarray:
    """Pixels within ``radius`` of the centre of a square."""
    row, col = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(row**2 + col**2 <= radius**2)


def spread(image: np.ndarray, footprint: np.ndarray, outside: int = 0) -> np.ndarray:
    """The maximum of an image over a footprint centred on each pixel."""
    height, width = image.shape
    half = footprint.shape[0] // 2
    padded = np.pad(image, half, constant_values=outside)
    result = np.zeros_like(image)
    for row, col in np.argwhere(footprint):
        np.maximum(result, padded[row : row + height, col : col + width], out=result)
    return result


def frame(mask: np.ndarray, width: int) -> None:
    """Fills a frame of that width."""
    inner = mask[width : mask.shape[0] - width, width : mask.shape[1] - width].copy()
    mask[:] = 255
    mask[width : mask.shape[0] - width, width : mask.shape[1] - width] = inner


def embed(small: np.ndarray, centre: Pixel, shape: Pixel) -> np.ndarray:
    """An image of ``shape`` with ``small`` centred on a pixel, cut at the edges."""
    rim = small.shape[0]
    half = rim // 2
    large = np.zeros((shape[0] + 2 * rim, shape[1] + 2 * rim), np.uint8)
    row, col = centre[0] + rim - half, centre[1] + rim - half
    large[row : row + rim, col : col + rim] = small
    return large[rim : rim + shape[0], rim : rim + shape[1]]
