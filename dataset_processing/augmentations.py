"""Preprocessing and augmentations of the 2018 release, on batches, on the device that trains."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F

from support.errors import UserError
from support.kinds import some_of

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
        UserError: a name is not known; the message has the nearest one.
    """

    def __init__(self, names: Sequence, model_input_image_size: Sequence[int]) -> None:
        chosen = some_of("names of augmentations", STEPS).of("augmentation", list(names))
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

        Args:
            images: (N, H, W), uint8 or float32, 0–255.
            generator: for the random ones, each image its own draw. It may be on another device.
            draw_images, draw_offset: number of images that random numbers are drawn for, and where
                these N are among them, so that processes that share a batch draw what one would.

        Returns:
            (N, 1, h, w) float32 on the device of ``images``.

        Raises:
            ValueError: there is no generator and one is needed, or random numbers are drawn for
                other images than these.
            UserError: a crop is larger than the image.
        """
        if self.random and generator is None:
            raise ValueError(f"{', '.join(self.names)}: needs a torch.Generator to draw from")
        n, total = len(images), draw_images or len(images)
        if not 0 <= draw_offset <= total - n:
            raise ValueError(
                f"{n} images from draw_offset = {draw_offset} on are not all among draw_images = "
                f"{total}"
            )

        def draw(shape: Sequence[int], make: Callable[..., torch.Tensor]) -> torch.Tensor:
            assert generator is not None
            drawn = make((total, *shape), generator=generator, device=generator.device)
            return drawn[draw_offset : draw_offset + n].to(images.device)

        images = images[:, None].to(torch.float32)
        for name in self.names:
            images = STEPS[name](images, self.size, draw)
        return images


Draw = Callable[..., torch.Tensor]  # (shape, torch.rand or torch.randn) -> (N, *shape)


def uniform(draw: Draw, low: float, high: float) -> torch.Tensor:
    """(N, 1, 1, 1), each uniform on low…high."""
    return low + (high - low) * draw((1, 1, 1), torch.rand)


def flip(images: torch.Tensor, draw: Draw, dim: int) -> torch.Tensor:
    """Half of the images mirrored."""
    return torch.where(uniform(draw, 0, 1) < 0.5, images.flip(dim), images)


# What each makes of images x, (N, 1, H, W), in the order in which they are applied whatever the
# order of their names. The one channel of ``singleton`` and ``grayscale`` is there in any case.
STEPS: dict[str, Callable[[torch.Tensor, tuple[int, int], Draw], torch.Tensor]] = {
    "singleton": lambda x, size, draw: x,
    "uint8_rescale": lambda x, size, draw: x / 255,
    "uint8_rescale_-1_1": lambda x, size, draw: x / 127.5 - 1,
    "random_contrast": lambda x, size, draw: change_contrast(x, uniform(draw, *CONTRAST)),
    "random_brightness": lambda x, size, draw: x + uniform(draw, -BRIGHTNESS, BRIGHTNESS),
    "grayscale": lambda x, size, draw: x,
    "rotate": lambda x, size, draw: rotate(x, uniform(draw, -ROTATION, ROTATION).flatten()),
    "random_crop": lambda x, size, draw: crop(
        "random_crop", x, size, lambda room: (uniform(draw, 0, 1).flatten() * (room + 1)).long()
    ),
    "center_crop": lambda x, size, draw: crop(
        "center_crop", x, size, lambda room: torch.full((len(x),), room // 2, device=x.device)
    ),
    "resize": lambda x, size, draw: resize_bicubic(x, size),
    "resize_nn": lambda x, size, draw: resize_nearest(x, size),
    "left_right": lambda x, size, draw: flip(x, draw, 3),
    "up_down": lambda x, size, draw: flip(x, draw, 2),
    "gaussian_noise": lambda x, size, draw: x + NOISE * draw(x.shape[1:], torch.randn),
    "gaussian_noise_small": lambda x, size, draw: x + SMALL_NOISE * draw(x.shape[1:], torch.randn),
    "threshold": lambda x, size, draw: (x > THRESHOLD).to(x.dtype),
    "zero_one": lambda x, size, draw: x.clamp(0, 1),
    "per_image_standardization": lambda x, size, draw: standardise(x),
    "flip_polarity": lambda x, size, draw: (x - 1).abs(),
}
ORDER = tuple(STEPS)
RANDOM = {
    *("random_contrast", "random_brightness", "rotate", "random_crop"),
    *("left_right", "up_down", "gaussian_noise", "gaussian_noise_small"),
}
# Those that set the size of an image, and what it then is.
SIZES = {
    "random_crop": "cropped", "center_crop": "cropped", "resize": "resized", "resize_nn": "resized",
}  # fmt: skip


def change_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Distances from each image's mean times its factor."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * factor + mean


def resize_bicubic(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic interpolation (a = −0.75), corners aligned, as TensorFlow 1 computes it.

    Takes (N, C, H, W) float32 to (N, C, h, w). Each side is a weighted sum of four pixels, in the
    images' own precision (no matrix product, so no TF32).
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
    # The grid's axes run −1…1 over sides of different length: from the first pixel's middle to the
    # last one's, or where that is the same, from edge to edge.
    corners = min(height, width) > 1
    aspect = (height - corners) / (width - corners)
    matrix = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=corners)
    return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=corners)


def crop(
    name: str, images: torch.Tensor, size: tuple[int, int], place: Callable[[int], torch.Tensor]
) -> torch.Tensor:
    """A window of ``size`` of each image, (N, C, H, W); ``name`` is for the message.

    ``place``: of the pixels by which the window can move down or right, those it does, (N,) int64.
    """
    height, width = images.shape[2:]
    if height < size[0] or width < size[1]:
        raise UserError(
            f"{name}: the image, {height}×{width}, is smaller than model_input_image_size, "
            f"{size[0]}×{size[1]}"
        )
    rows, columns = (
        place(side - length)[:, None] + torch.arange(length, device=images.device)
        for side, length in ((height, size[0]), (width, size[1]))
    )
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images[batch, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 for each image; a flat image is not blown up."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / deviation.clamp(min=1 / math.sqrt(images[0].numel()))
