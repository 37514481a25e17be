"""What a Pathfinder set looks like."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from support.errors import UserError
from support.kinds import number, plain, whole

LEAST = {"contour_length": 2, "paddle_length": 1, "margin": 1, "antialias": 1,
         "distractor_length": 1, "image_tries": 1}  # of the others 0  # fmt: skip


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
        for field in fields(self):
            name, kinds, given = field.name, str(field.type), getattr(self, field.name)
            value = plain(given)  # of numpy's numbers Python's
            if isinstance(value, list):  # so that settings can be hashed
                alone = isinstance(given, list) and len(value) == 1 and "contrasts" not in name
                value = value[0] if alone else tuple(value)
            object.__setattr__(self, name, value)
            if value is None and "None" in kinds:
                continue
            least = LEAST.get(name, 0)
            kind = number(least=least) if "float" in kinds else whole(least)
            for one in value if isinstance(value, tuple) and "tuple" in kinds else (value,):
                kind.of(name, one)
                number(most=2e9).of(name, one)  # well within what the kernel counts with
        if not self.margins:
            raise UserError("margin: a whole number, or several, is expected")
        if len(self.shape) != 2:
            raise UserError(f"window: height and width are expected, not {self.window!r}")
        for side in self.shape:
            whole(2 * self.border + 1).of("window", side)
        for name in ("snake_contrasts", "paddle_contrasts"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values:
                raise UserError(f"{name}: a list of numbers 0–2 is expected, not {values!r}")
            for value in values:
                number(above=0, most=2).of(name, value)
        if self.paddle_length * self.antialias < 2:  # drawn, some paddles would be a point
            raise UserError("paddle_length 1 needs antialias 2 or more, found antialias 1")
        for name in ("paddle_thickness", "marker_radius"):
            size = getattr(self, name)
            blown = size * self.antialias
            if blown < 1 or blown != round(blown):
                raise UserError(
                    f"{name} {size} × antialias {self.antialias} must be a whole number, at least "
                    "1: 1.5 needs antialias 2 or 4, for example"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.window if isinstance(self.window, tuple) else (self.window, self.window)

    @property
    def margins(self) -> tuple[int, ...]:
        """The margins that an image may have."""
        return self.margin if isinstance(self.margin, tuple) else (self.margin,)

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

    @property
    def snake_paddles(self) -> int:
        """Paddles in all snakes together, distractors that found no room included."""
        return 2 * self.contour_length + self.distractor_count * self.paddles_a_distractor

    def single_count(self, margin: int) -> int:
        """Paddles that stand alone."""
        if self.single_paddles is not None:
            return self.single_paddles
        return max(int(150 * 123.5 / (7.5 + 13 * margin + 4 * margin**2)) - self.snake_paddles, 0)

    def fingerprint(self) -> str:
        """A hash of what an image depends on, in one form whatever way it was written."""
        values = asdict(self)
        values["window"] = list(self.shape)
        values["margin"] = list(self.margins)
        values["distractor_length"] = self.paddles_a_distractor
        values["distractors"] = self.distractor_count
        for name in ("paddle_thickness", "continuity"):
            values[name] = float(values[name])
        for name in ("snake_contrasts", "paddle_contrasts"):
            values[name] = [float(value) for value in values[name]]
        if float(values["marker_radius"]).is_integer():  # as it was when it was always whole
            values["marker_radius"] = int(values["marker_radius"])
        del values["image_tries"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
