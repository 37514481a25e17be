"""Every augmentation against the original's vectors or a direct computation of another kind."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from dataset_processing.augmentations import ORDER, RANDOM, Augmentations, resize_bicubic, rotate

SCRIPTS = ["grayscale", "uint8_rescale", "singleton", "resize", "zero_one"]


@pytest.fixture
def images() -> torch.Tensor:
    """Six random grey images of 20×26, uint8."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 20, 26), np.uint8))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def apply(names, images, generator=None, size=(10, 13, 1)) -> np.ndarray:
    """The result without its channel axis, float64."""
    result = Augmentations(names, size)(images, generator)
    assert result.dtype == torch.float32
    assert result.shape[:2] == (len(images), 1)
    return result[:, 0].double().numpy()


def test_the_scripts_preprocessing_is_the_originals(golden):
    vectors = golden("preprocess")
    images = torch.from_numpy(vectors["images"])
    expected = vectors["preprocessed"][..., 0]
    for stored in (images, images.float()):
        np.testing.assert_allclose(apply(SCRIPTS, stored, size=(150, 150, 1)), expected, atol=1e-6)


def test_the_order_and_the_nesting_of_the_list_do_not_matter(images):
    expected = apply(SCRIPTS, images)
    for names in (SCRIPTS[::-1], [SCRIPTS], [[SCRIPTS[3]], SCRIPTS[:3], SCRIPTS[4]]):
        np.testing.assert_array_equal(apply(names, images), expected)
    pairs = [("uint8_rescale", "threshold"), ("threshold", "flip_polarity")]
    for first, second in pairs:
        assert ORDER.index(first) < ORDER.index(second)
    reference = 1 - (images.double().numpy() / 255 > 0.1)
    found = apply(["flip_polarity", "threshold", "uint8_rescale"], images)
    np.testing.assert_array_equal(found, reference)


def test_pointwise_ones(images):
    x = images.double().numpy()
    cases = {
        "singleton": x,
        "grayscale": x,
        "uint8_rescale": x / 255,
        "uint8_rescale_-1_1": 2 * (x / 255) - 1,
        "threshold": np.where(x > 0.1, 1.0, 0.0),
        "zero_one": np.minimum(np.maximum(x, 0), 1),
        "flip_polarity": np.abs(x - 1),
    }
    for name, expected in cases.items():
        np.testing.assert_allclose(apply([name], images), expected, rtol=1e-6, atol=1e-6)


def test_standardization(images):
    images = images.float()
    images[2] = 7  # flat: its deviation counts as 1 over the root of the number of pixels
    images[3] = 0
    images[3, 4, 5] = 0.5  # nearly flat: it does too
    x = images.double().numpy()
    found = apply(["per_image_standardization"], images)
    for number in range(len(x)):
        deviation = max(x[number].std(), 1 / np.sqrt(x[number].size))
        expected = (x[number] - x[number].mean()) / deviation
        np.testing.assert_allclose(found[number], expected, atol=1e-5)
    assert np.abs(found[2]).max() == 0


def keys(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """The cubic convolution kernel."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


@pytest.mark.parametrize(("before", "after"), [((20, 26), (10, 13)), ((9, 11), (21, 17))])
def test_resize_is_cubic_convolution(before, after):
    """Against a dense sum over all pixels in float64, the image continued by its edge's pixels."""
    x = np.random.default_rng(1).random((3, *before))
    expected = np.pad(x, ((0, 0), (4, 4), (4, 4)), mode="edge")
    for axis, (m, n) in enumerate(zip(before, after, strict=True), start=1):
        at = np.arange(n) * (m - 1) / (n - 1)
        matrix = keys(at[:, None] - (np.arange(m + 8) - 4))
        expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis)), 0, axis)
    found = resize_bicubic(torch.from_numpy(x)[:, None].float(), after)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1.5e-3)  # the table's 1024 steps


def test_resize_against_torch(images):
    x = images[:, None].float() / 255
    expected = torch.nn.functional.interpolate(x, (10, 13), mode="bicubic", align_corners=True)
    found = apply(["uint8_rescale", "resize"], images)
    np.testing.assert_allclose(found, expected[:, 0], atol=2e-3)


def test_resize_to_the_same_size_changes_nothing(images):
    np.testing.assert_array_equal(apply(["resize"], images, size=(20, 26)), images)


def test_resize_nn(images):
    rows = np.arange(1, 40) // 2  # 20 → 39: every other place lies half way, and takes the next
    columns = np.floor(np.arange(24) * 25 / 23 + 0.5).astype(int)
    expected = images.numpy()[:, rows][:, :, columns]
    np.testing.assert_array_equal(apply(["resize_nn"], images, size=(39, 24)), expected)


@pytest.mark.parametrize("shape", [(31, 31), (24, 41)])
@pytest.mark.parametrize("degrees", [-22.0, -3.5, 0.0, 15.0])
def test_rotation_against_scipy(shape, degrees):
    """Inside; where what lies outside is mixed in, the two libraries treat the edge differently."""
    x = np.random.default_rng(2).random(shape)
    found = rotate(torch.from_numpy(x)[None, None].float(), torch.tensor([degrees]))[0, 0].numpy()
    expected = ndimage.rotate(x, degrees, reshape=False, order=1, mode="constant")
    inside = ndimage.rotate(np.ones(shape), degrees, reshape=False, order=0, mode="constant") == 1
    inside = ndimage.binary_erosion(inside, iterations=2)
    assert inside.sum() > 0.4 * x.size
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)
    if abs(degrees) > 10:
        assert found[0, 0] == found[-1, -1] == 0


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_rotation_of_an_image_of_one_pixels_width(shape):
    """What moves out of it comes from outside, in part or as a whole."""
    line = torch.ones(1, 1, *shape)
    sine = math.sin(math.radians(20))
    expected = [1 - 2 * sine, 1 - sine, 1, 1 - sine, 1 - 2 * sine] if max(shape) > 1 else [1.0]
    found = rotate(line, torch.tensor([20.0])).flatten()
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    assert torch.equal(rotate(line, torch.tensor([0.0])), line)


@pytest.mark.parametrize("total, offset", [(3, 0), (6, 3), (6, -1)])
def test_images_beyond_those_that_are_drawn_for_are_an_error(images, generator, total, offset):
    four = images[:1].repeat(4, 1, 1)
    with pytest.raises(ValueError, match=f"4 images from draw_offset = {offset} on are not all"):
        Augmentations(["left_right"], four.shape[1:])(four, generator, total, offset)


def test_rotations_differ_and_stay_within_22_degrees(generator):
    """A ramp's gradient turns with the image."""
    columns = np.mgrid[:41, :41][1] - 20.0
    ramp = torch.from_numpy(np.repeat((100 + 2 * columns)[None], 200, 0)).float()
    found = apply(["rotate"], ramp, generator)
    down = found[:, 25, 20] - found[:, 15, 20]
    across = found[:, 20, 25] - found[:, 20, 15]
    angles = np.degrees(np.arctan2(down, across))
    assert np.abs(angles).max() <= 22.01
    assert angles.min() < -20 and angles.max() > 20
    np.testing.assert_allclose(np.hypot(down, across), 20, atol=1e-3)


def test_contrast(images, generator):
    many = images.repeat(50, 1, 1)
    found, x = apply(["random_contrast"], many, generator), many.double().numpy()
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    factors = (found * centred).sum(axis=(1, 2)) / (centred**2).sum(axis=(1, 2))
    expected = centred * factors[:, None, None] + x.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert 0.2 <= factors.min() < 0.25 and 1.75 < factors.max() <= 1.8


def test_brightness(images, generator):
    many = images.repeat(50, 1, 1)
    change = apply(["random_brightness"], many, generator) - many.double().numpy()
    deltas = change.mean(axis=(1, 2))
    assert np.abs(change - deltas[:, None, None]).max() < 1e-4
    assert -63 <= deltas.min() < -60 and 60 < deltas.max() <= 63


@pytest.mark.parametrize(("name", "axis"), [("left_right", 2), ("up_down", 1)])
def test_flips(images, generator, name, axis):
    many = images.repeat(50, 1, 1).numpy()
    found = apply([name], torch.from_numpy(many), generator)
    same = np.array([np.array_equal(a, b) for a, b in zip(found, many, strict=True)])
    mirrored = np.flip(many, axis)
    turned = np.array([np.array_equal(a, b) for a, b in zip(found, mirrored, strict=True)])
    assert np.all(same ^ turned)
    assert 110 < same.sum() < 190


def test_random_crops(generator):
    numbers = torch.arange(20 * 26).reshape(1, 20, 26).repeat(400, 1, 1).float()
    found = apply(["random_crop"], numbers, generator).astype(int)
    rows, columns = found[:, 0, 0] // 26, found[:, 0, 0] % 26
    for image, row, column in zip(found, rows, columns, strict=True):
        np.testing.assert_array_equal(image, numbers[0, row : row + 10, column : column + 13])
    assert set(rows) == set(range(11)) and set(columns) == set(range(14))


def test_center_crop(images):
    np.testing.assert_array_equal(apply(["center_crop"], images), images[:, 5:15, 6:19])
    np.testing.assert_array_equal(apply(["center_crop"], images, size=(20, 26)), images)


@pytest.mark.parametrize(
    ("name", "deviation"), [("gaussian_noise", 0.1), ("gaussian_noise_small", 0.05)]
)
def test_noise(images, generator, name, deviation):
    many = images.repeat(20, 1, 1)
    noise = apply(["uint8_rescale", name], many, generator) - many.double().numpy() / 255
    assert abs(noise.mean()) < 0.02 * deviation
    assert abs(noise.std() / deviation - 1) < 0.02
    assert abs(np.corrcoef(noise[0].ravel(), noise[6].ravel())[0, 1]) < 0.2
    assert abs((noise**4).mean() / (noise**2).mean() ** 2 - 3) < 0.15


def test_processes_that_share_a_batch_draw_what_one_would(images):
    names = [*RANDOM, "uint8_rescale", "singleton"]
    augment = Augmentations(names, (10, 13, 1))
    whole = augment(images, torch.Generator().manual_seed(3))
    parts = [
        augment(images[cut], torch.Generator().manual_seed(3), len(images), cut.start)
        for cut in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    other = augment(images, torch.Generator().manual_seed(4))
    assert not torch.equal(other, whole)


def test_errors(images):
    with pytest.raises(ValueError, match=r"'uint8_rescal' .*; did you mean 'uint8_rescale'"):
        Augmentations(["uint8_rescal"], (10, 13))
    with pytest.raises(ValueError, match=r"left_right: needs a torch.Generator"):
        Augmentations(["left_right"], (10, 13))(images)
    for name in ("center_crop", "random_crop"):
        with pytest.raises(ValueError, match=f"{name}: the image, 20×26, .*, 150×150"):
            Augmentations([name], (150, 150, 1))(images, torch.Generator())
    assert not Augmentations(SCRIPTS, (10, 13)).random
    assert all(Augmentations([name], (10, 13)).random for name in RANDOM)


@pytest.mark.gpu
def test_on_a_gpu(golden, images, monkeypatch):
    """The same numbers there, TF32 allowed or not."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    vectors = golden("preprocess")
    augment = Augmentations(SCRIPTS, (150, 150, 1))
    found = augment(torch.from_numpy(vectors["images"]).cuda())
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found[:, 0].cpu(), vectors["preprocessed"][..., 0], atol=1e-6)
    every = Augmentations([*RANDOM, "uint8_rescale", "per_image_standardization"], (10, 13, 1))
    here = every(images, torch.Generator().manual_seed(0))
    there = every(images.cuda(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
    drawn_there = every(images.cuda(), torch.Generator("cuda").manual_seed(0))
    assert drawn_there.shape == here.shape and torch.isfinite(drawn_there).all()
