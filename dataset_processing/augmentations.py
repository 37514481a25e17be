"""Preprocessing and augmentations of the 2018 release, on batches, on the device that trains."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F

from support.errors import UserError, unknown

# The order in which they are applied, whatever the order of the list.
ORDER = (
    "singleton",
    "uint8_rescale",
    "uint8_rescale_-1_1",
    "random_contrast",
    "random_brightness",
    "grayscale",
    "rotate",
    "random_crop",
    "center_crop",
    "resize",
    "resize_nn",
    "left_right",
    "up_down",
    "gaussian_noise",
    "gaussian_noise_small",
    "threshold",
    "zero_one",
    "per_image_standardization",
    "flip_polarity",
)
RANDOM = {
    *("random_contrast", "random_brightness", "rotate", "random_crop"),
    *("left_right", "up_down", "gaussian_noise", "gaussian_noise_small"),
}
CONTRAST = (0.2, 1.8)
BRIGHTNESS = 63.0
ROTATION = 22.0  # degrees
NOISE, SMALL_NOISE = 0.1, 0.05
THRESHOLD = 0.1
BICUBIC_A = -0.75
TABLE = 1024  # TensorFlow 1 rounds a position between two pixels to one part in so many


class Augmentations:
    """Applies augmentations by name to a batch.

    Args:
        names: of ORDER, in any order; a list of lists, as the 2018 release has it, is accepted.
        model_input_image_size: (h, w) or (h, w, channels) that the crops and resizes make.

    Attributes:
        random: whether any of them draws random numbers.

    Raises:
        ValueError: a name is not known; the message has the nearest one.
    """

    def __init__(self, names: Sequence, model_input_image_size: Sequence[int]) -> None:
        chosen = _flat(names)
        for name in chosen:
            if name not in ORDER:
                raise unknown("augmentation", name, ORDER)
        self.names = [name for name in ORDER if name in chosen]
        self.size = (int(model_input_image_size[0]), int(model_input_image_size[1]))
        self.random = bool(RANDOM & set(self.names))

    def __call__(
        self,
        images: torch.Tensor,
        generator: torch.Generator | None = None,
        draw_images: int | None = None,
        draw_offset: int = 0,
    ) -> torch.Tensor:
        """Preprocesses a batch.

        ``singleton`` and ``grayscale`` add and keep the one channel of a grey image, so the result
        has it whether they are named or not.

        Args:
            images: (N, H, W), uint8 or float32, 0–255.
            generator: for the random ones, each image its own draw. It may be on another device.
            draw_images, draw_offset: number of images that random numbers are drawn for, and where
                these N are among them, so that processes that share a batch draw what one would.

        Returns:
            (N, 1, h, w) float32 on the device of ``images``.

        Raises:
            ValueError: there is no generator and one is needed.
            UserError: a crop is larger than the image.
        """
        if self.random and generator is None:
            names = ", ".join(name for name in self.names if name in RANDOM)
            raise ValueError(f"{names}: needs a torch.Generator to draw from")
        draw = _Draw(generator, len(images), draw_images, draw_offset, images.device)
        images = images[:, None].to(torch.float32)  # (N, 1, H, W)
        for name in self.names:
            images = self._apply(name, images, draw)
        return images

    def __repr__(self) -> str:
        return f"Augmentations({self.names}, {self.size})"

    def _apply(self, name: str, x: torch.Tensor, draw: "_Draw") -> torch.Tensor:
        match name:
            case "uint8_rescale":
                return x / 255
            case "uint8_rescale_-1_1":
                return x / 127.5 - 1
            case "random_contrast":
                mean = x.mean(dim=(2, 3), keepdim=True)
                return (x - mean) * draw.uniform(*CONTRAST) + mean
            case "random_brightness":
                return x + draw.uniform(-BRIGHTNESS, BRIGHTNESS)
            case "rotate":
                return rotate(x, draw.uniform(-ROTATION, ROTATION).flatten())
            case "random_crop":
                return random_crop(x, self.size, draw)
            case "center_crop":
                return center_crop(x, self.size)
            case "resize":
                return resize_bicubic(x, self.size)
            case "resize_nn":
                return resize_nearest(x, self.size)
            case "left_right":
                return torch.where(draw.uniform(0, 1) < 0.5, x.flip(3), x)
            case "up_down":
                return torch.where(draw.uniform(0, 1) < 0.5, x.flip(2), x)
            case "gaussian_noise":
                return x + NOISE * draw.normal(x.shape[1:])
            case "gaussian_noise_small":
                return x + SMALL_NOISE * draw.normal(x.shape[1:])
            case "threshold":
                return (x > THRESHOLD).to(x.dtype)
            case "zero_one":
                return x.clamp(0, 1)
            case "per_image_standardization":
                return standardise(x)
            case "flip_polarity":
                return (x - 1).abs()
        return x  # singleton, grayscale: the one channel is there


class _Draw:
    """Random numbers, one or one image's worth for each image of a slice of a batch."""

    def __init__(
        self,
        generator: torch.Generator | None,
        count: int,
        total: int | None,
        offset: int,
        device: torch.device,
    ) -> None:
        self.generator, self.device = generator, device
        self.total, self.slice = total or count, slice(offset, offset + count)

    def uniform(self, low: float, high: float) -> torch.Tensor:
        """(N, 1, 1, 1), each uniform on low…high."""
        return low + (high - low) * self._draw(torch.rand, (1, 1, 1))

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """(N, *shape), standard normal."""
        return self._draw(torch.randn, shape)

    def _draw(self, make: Callable[..., torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
        assert self.generator is not None
        drawn = make((self.total, *shape), generator=self.generator, device=self.generator.device)
        return drawn[self.slice].to(self.device)


def resize_bicubic(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic interpolation (a = −0.75), corners aligned, as TensorFlow 1 computes it.

    Each side is a weighted sum of four pixels, in the images' own precision (no matrix product, so
    no TF32).

    Args:
        images: (N, C, H, W) float32.
        size: (h, w) of the result.
    """
    for dim, length in zip((2, 3), size, strict=True):
        pixels, weights = bicubic_taps(images.shape[dim], length, images.device)
        picked = images.index_select(dim, pixels.flatten()).unflatten(dim, pixels.shape)
        images = (picked * weights.reshape(4, length, *[1] * (3 - dim))).sum(dim)
    return images


@lru_cache(maxsize=16)
def bicubic_taps(
    before: int, after: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The four pixels that each of ``after`` positions is made of, and their weights: (4, after).

    TensorFlow 1 looks weights up in a table of 1024 steps, and takes the edge's pixel for those
    beyond it; so does this.
    """
    position = _aligned_positions(before, after)
    first = position.floor()
    t = ((position - first) * TABLE).round().double() / TABLE
    a = BICUBIC_A

    def near(d: torch.Tensor) -> torch.Tensor:  # |d| ≤ 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: torch.Tensor) -> torch.Tensor:  # 1 ≤ |d| ≤ 2
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    weights = torch.stack([far(1 + t), near(t), near(1 - t), far(2 - t)])
    pixels = torch.stack([first + k for k in (-1, 0, 1, 2)]).clamp(0, before - 1)
    return pixels.long().to(device), weights.float().to(device)


def resize_nearest(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The nearest pixel, corners aligned, halves rounded up: (N, C, H, W) → (N, C, h, w)."""
    for dim, length in zip((2, 3), size, strict=True):
        nearest = (_aligned_positions(images.shape[dim], length) + 0.5).floor().long()
        nearest = nearest.clamp(max=images.shape[dim] - 1).to(images.device)
        images = images.index_select(dim, nearest)
    return images


def _aligned_positions(before: int, after: int) -> torch.Tensor:
    """Where ``after`` positions lie among ``before`` pixels, first on first and last on last."""
    scale = (before - 1) / (after - 1) if after > 1 else 0.0
    return torch.arange(after, dtype=torch.float32) * torch.tensor(scale, dtype=torch.float32)


def rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotates about the centre, bilinear; what comes from outside is 0.

    Args:
        images: (N, C, H, W).
        degrees: (N,), anticlockwise as an image is seen (rows downwards).
    """
    height, width = images.shape[2:]
    angle = degrees.to(images) * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    aspect = (height - 1) / (width - 1)  # the grid's axes run −1…1 over sides of different length
    matrix = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=True)


def random_crop(images: torch.Tensor, size: tuple[int, int], draw: _Draw) -> torch.Tensor:
    """A window of ``size`` at its own place in each image."""
    rooms = _room("random_crop", images, size)
    corners = [(draw.uniform(0, 1).flatten() * (room + 1)).long() for room in rooms]
    rows, columns = (
        corner[:, None] + torch.arange(length, device=images.device)
        for corner, length in zip(corners, size, strict=True)
    )
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images[batch, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def center_crop(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The window of ``size`` in the middle."""
    row, column = (room // 2 for room in _room("center_crop", images, size))
    return images[:, :, row : row + size[0], column : column + size[1]]


def _room(name: str, images: torch.Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """How many pixels a window of ``size`` can move down and to the right."""
    height, width = images.shape[2:]
    if height < size[0] or width < size[1]:
        raise UserError(
            f"{name}: the image, {height}×{width}, is smaller than model_input_image_size, "
            f"{size[0]}×{size[1]}"
        )
    return height - size[0], width - size[1]


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 for each image; a flat image is not blown up."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / deviation.clamp(min=1 / math.sqrt(images[0].numel()))


def _flat(names: Sequence) -> list[str]:
    """The names in a list, or in a list of lists."""
    if isinstance(names, str):
        return [names]
    return [name for entry in names for name in ([entry] if isinstance(entry, str) else entry)]
