"""Pathfinder images against the plain reference, Pillow, the published images and the rules."""

import hashlib
import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage, stats

from benchmarks.pathfinder_statistics import PUBLISHED, compare, measure
from dataset_processing.generated import set_settings
from dataset_processing.pathfinder import Pathfinder, Settings, generate
from dataset_processing.pathfinder import templates as pathfinder_templates
from dataset_processing.pathfinder.templates import tables
from support.errors import UserError
from tests.oracles.pathfinder import Reference

SMALL = {"window": 150, "seed_distance": 15, "border": 10}
EIGHT = np.ones((3, 3))


@pytest.mark.parametrize(
    "settings",
    [
        {"contour_length": 6},
        {"contour_length": 14, "window": 240},
        {"contour_length": 5, **SMALL, "single_paddles": None, "distractors": 4},
        {"contour_length": 4, "window": (90, 130), "seed_distance": 10, "border": 0,
         "single_paddles": 80, "distractors": 30,
         "snake_contrasts": (1.0, 0.5), "paddle_contrasts": (0.3, 0.8)},
        {"contour_length": 4, **SMALL, "margin": 2, "paddle_thickness": 1.5, "antialias": 4},
        {"contour_length": 4, **SMALL, "paddle_length": 7, "margin": 4, "continuity": 0.8,
         "marker_radius": 3},
        {"contour_length": 4, **SMALL, "antialias": 1, "paddle_thickness": 1, "marker_radius": 1,
         "snake_contrasts": (0.5,), "paddle_contrasts": (0.5, 0.25)},
        {"contour_length": 3, **SMALL, "snake_contrasts": (0.5, 1.5), "paddle_thickness": 3},
        {"contour_length": 3, "window": 60, "seed_distance": 6, "border": 4, "antialias": 4,
         "marker_radius": 1, "snake_contrasts": (0.5,)},  # markers, the lightest, are of 246
        set_settings("pathfinder32"),
        set_settings("pathfinder64_curv_contour_length_9"),
    ],
)  # fmt: skip
def test_images_are_those_of_the_plain_reference(settings):
    generator = Pathfinder(Settings(**settings), seed=7)
    reference = Reference(generator)
    images, labels = generator.images(range(2))
    for index in range(2):
        picture, label = reference.image(index)
        np.testing.assert_array_equal(images[index], picture)
        assert labels[index] == label
        stimulus, snake = generator.stimulus(index), reference.marked
        bright = [line > min(127, 0.6 * line.max()) for line in snake.drawn]
        np.testing.assert_array_equal(stimulus.contour_mask, np.any(bright, axis=0))
        first, *others = stimulus.paddles[stimulus.marked_snakes[0]]
        np.testing.assert_array_equal([first[0], *(head for _, head in others)], snake.tips)
        lengths = np.linalg.norm(stimulus.paddles[..., 1, :] - stimulus.paddles[..., 0, :], axis=-1)
        asked = generator.settings
        assert np.abs(lengths - asked.paddle_length).max() < 1.5 / asked.antialias


def test_lines_are_pillows():
    centre = 20
    for width in (1, 2, 3, 4, 6):
        for row in range(-14, 15, 3):
            for col in range(-13, 15, 2):
                if row == col == 0:
                    continue
                image = Image.new("L", (2 * centre + 1, 2 * centre + 1))
                ImageDraw.Draw(image).line(
                    [(centre, centre), (centre + col, centre + row)], fill=255, width=width
                )
                ours = pathfinder_templates.thick_line((row, col), width, centre)
                np.testing.assert_array_equal(ours, np.asarray(image))


@pytest.mark.parametrize(
    "sizes", [((41, 41), (21, 21)), ((600, 500), (300, 250)), ((64, 9), (9, 9))]
)
def test_resampling_is_pillows(sizes):
    (height, width), shrunk = sizes
    image = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    expected = Image.fromarray(image).resize(shrunk[::-1], Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pathfinder_templates.shrink(image, *shrunk), expected)


def test_paddles_of_published_images_are_pixel_for_pixel_ours(samples):
    drawn = tables(Settings(), 3)
    known = set()
    for paddle in range(len(drawn.end)):
        pixels = drawn.line.offsets[drawn.line.start[paddle] : drawn.line.start[paddle + 1]]
        pixels = pixels[pixels[:, 2] > 127]
        rows, cols = (pixels[:, :2] - pixels[:, :2].min(axis=0)).T
        core = np.zeros((rows.max() + 1, cols.max() + 1), np.uint8)
        core[rows, cols] = pixels[:, 2]
        known.add((core.shape, core.tobytes()))
    files = sorted((samples / "curvy_2snakes_300").rglob("*.png"))
    assert len(files) >= 8
    strange, paddles = 0, 0
    for file in files:
        image = np.array(Image.open(file))
        parts, count = ndimage.label(image > 127, EIGHT)
        paddles += count
        for number, place in enumerate(ndimage.find_objects(parts), 1):
            core = np.where(parts[place] == number, image[place], 0)
            strange += (core.shape, core.tobytes()) not in known
    # All but the two markers, what they touch, and the rare overlap that the rules allow.
    assert strange <= 2.3 * len(files)
    assert paddles > 40 * len(files)


@pytest.mark.parametrize("length", [6, 9, 14])
def test_measures_agree_with_the_published_ones(length):
    with open(PUBLISHED) as file:
        published = json.load(file)[str(length)]
    found = measure(length, 300, seed=0)
    rows = compare(found, published)
    assert len(rows) == 15
    for name, ours, our_error, theirs, their_error in rows:
        assert abs(ours - theirs) < 4 * math.hypot(our_error, their_error), name


def test_an_image_depends_on_settings_seed_and_index_alone():
    images, labels = generate(6, 40, seed=3)
    generator = Pathfinder(Settings(contour_length=6), 3)
    order = np.random.default_rng(0).permutation(40)
    shuffled, shuffled_labels = generator.images(order)
    np.testing.assert_array_equal(shuffled, images[order])
    np.testing.assert_array_equal(shuffled_labels, labels[order])
    np.testing.assert_array_equal(generator.image(17)[0], images[17])
    np.testing.assert_array_equal(generate(6, 5, seed=3, start=10)[0], images[10:15])
    written_otherwise = Settings(
        contour_length=6, window=(300, 300), distractors=15, margin=[3], distractor_length=2,
        paddle_thickness=2.0, marker_radius=5.0, snake_contrasts=[1], image_tries=9999,
    )  # fmt: skip
    np.testing.assert_array_equal(Pathfinder(written_otherwise, 3).images([4])[0][0], images[4])
    whole, number = Settings(continuity=2), Settings(continuity=2.0)
    assert whole.fingerprint() == number.fingerprint()
    few, many = Pathfinder(Settings(3, window=80, seed_distance=8, border=4)), range(3)
    np.testing.assert_array_equal(
        few.images([*many] * 90)[0], np.tile(few.images(many)[0], (90, 1, 1))
    )
    for other in (generate(6, 1, seed=4), generate(6, 1, seed=3, continuity=1.7)):
        assert not np.array_equal(other[0][0], images[0])


@pytest.mark.parametrize(
    "length, expected",
    [
        (6, "5d26455d84d52752"),
        (9, "6c51e7c12b414e9e"),
        (14, "9dca31551e043af8"),
        (25, "db9c7be595281170"),
    ],
)
def test_the_same_bytes_on_every_machine(length, expected):
    images, labels = generate(length, 8, seed=0)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == expected


def test_stimulus_tells_what_the_image_is_made_of():
    generator = Pathfinder(Settings(contour_length=9), 1)
    for index in range(20):
        stimulus = generator.stimulus(index)
        image, label = generator.image(index)
        np.testing.assert_array_equal(stimulus.image, image)
        assert stimulus.label == label
        first, last = stimulus.marked_snakes
        assert (first == last) == (label == 1)
        np.testing.assert_array_equal(stimulus.markers[0], stimulus.paddles[first, 0, 0])
        np.testing.assert_array_equal(stimulus.markers[1], stimulus.paddles[last, -1, 1])
        for row, col in stimulus.markers:
            assert image[row - 2 : row + 3, col - 2 : col + 3].min() > 240
        assert stimulus.paddles.shape == (2, 9, 2, 2)
        assert stimulus.distractor_paddles.shape == (30, 2, 2)
        near = ndimage.binary_dilation(stimulus.contour_mask, EIGHT)
        mine, others = (
            near[tuple(stimulus.paddles[snake].mean(axis=1).round().astype(int).T)]
            for snake in (first, 1 - first)
        )
        assert mine.all()
        assert others.sum() <= 2  # two contours may touch, no more
        assert (image[stimulus.contour_mask] > 127).all()


def test_a_contour_is_cut_at_the_edges_as_its_image_is():
    settings = Settings(4, window=60, seed_distance=10, border=0, paddle_thickness=4)
    for index in range(40):
        stimulus = Pathfinder(settings, 1).stimulus(index)
        assert (stimulus.image[stimulus.contour_mask] > 127).all()


def test_seeds_and_growth_follow_the_rules():
    settings = Settings(contour_length=6)
    generator = Pathfinder(settings, 2)
    snakes = np.stack([generator.stimulus(index).paddles for index in range(1500)])
    tails = snakes[:, 0, 0, 0]
    assert tails.min() >= 54
    assert tails.max() <= 299 - 54
    between = np.linalg.norm(snakes[:, 1, 0, 0] - tails, axis=1)
    assert np.abs(between - 27).max() <= math.sqrt(0.5)
    direction = snakes[:, 1, 0, 0] - tails
    sector = np.round(np.arctan2(direction[:, 0], direction[:, 1]) / (math.pi / 4)).astype(int) % 8
    assert stats.chisquare(np.bincount(sector)).pvalue > 1e-4
    for axis in (0, 1):  # uniform but for the paddle's own reach
        inner = tails[(tails[:, axis] > 70) & (tails[:, axis] < 230), axis]
        assert stats.kstest(inner, stats.uniform(71, 158).cdf).pvalue > 1e-4
    lengths = np.linalg.norm(snakes[:, :, :, 1] - snakes[:, :, :, 0], axis=-1)
    assert np.abs(lengths - 5).max() < 0.75
    gaps = np.linalg.norm(snakes[:, :, 1:, 0] - snakes[:, :, :-1, 1], axis=-1)
    assert 3 < gaps.mean() < 6
    ahead = snakes[:, :, :, 1] - snakes[:, :, :, 0]
    angles = np.arctan2(ahead[..., 0], ahead[..., 1])
    bends = np.abs((np.diff(angles, axis=2) + math.pi) % (2 * math.pi) - math.pi)
    # Whole pixels turn a paddle of length 5 by some degrees.
    assert np.degrees(bends).max() < 90 / 1.8 + 12


def test_first_orientation_is_uniform_over_whole_degrees():
    drawn = tables(Settings(contour_length=6), 3)
    generator = Pathfinder(Settings(contour_length=6), 5)
    tails_to_heads = np.array(
        [np.diff(generator.stimulus(i).paddles[0, 0], axis=0)[0] * 2 for i in range(2000)]
    ).astype(int)
    number = {tuple(end): i for i, end in enumerate(drawn.end.tolist())}
    found = np.bincount([number[tuple(end)] for end in tails_to_heads], minlength=len(drawn.end))
    expected = np.bincount(drawn.paddle[:360], minlength=len(drawn.end)) / 360 * 2000
    often = expected > 5
    assert found[expected == 0].sum() == 0
    chi2 = ((found[often] - expected[often]) ** 2 / expected[often]).sum()
    assert stats.chi2(often.sum() - 1).sf(chi2) > 1e-4


def test_candidate_weights_are_the_formulas():
    drawn = tables(Settings(continuity=1.8), 3)
    assert len(drawn.candidates) == 49
    theta = np.arctan2(drawn.candidates[:, 0], drawn.candidates[:, 1])
    for degree in (0, 45, 133, 359):
        bend = np.abs(np.angle(np.exp(1j * (theta - np.radians(degree)))))
        weight = np.maximum(np.cos(np.minimum(1.8 * bend, np.pi / 2)), 0) ** 2
        np.testing.assert_allclose(drawn.weight[degree] / 2**20, weight, atol=1e-6)


def test_labels_are_even_and_independent_of_the_index():
    labels = generate(6, 4000, seed=9, window=150, seed_distance=15, distractors=0)[1]
    assert stats.binomtest(int(labels.sum()), 4000).pvalue > 1e-4
    assert stats.binomtest(int((labels[1:] == labels[:-1]).sum()), 3999).pvalue > 1e-4


def test_margins_and_contrasts_are_drawn_from_their_lists():
    generator = Pathfinder(Settings(contour_length=4, **SMALL, margin=(1, 4)), 0)
    margins = [generator.stimulus(index).margin for index in range(60)]
    assert set(margins) == {1, 4}
    alone = Pathfinder(Settings(contour_length=4, **SMALL, margin=(1, 4)), 0).images(range(60))[0]
    np.testing.assert_array_equal(alone[margins.index(4)], generator.image(margins.index(4))[0])
    for index in margins.index(1), margins.index(4):
        stimulus = generator.stimulus(index)
        middles = stimulus.paddles.mean(axis=2).round().astype(int).reshape(-1, 2)
        assert (stimulus.image[tuple(middles.T)] > 127).all()
    dim = generate(4, 20, 0, **SMALL, snake_contrasts=[0.5], paddle_contrasts=[0.2])[0]
    values = np.bincount(dim.ravel(), minlength=256)
    assert values[255] > 0
    assert values[26] > values[27:60].max()  # 0.1 of 255 is the paddles' brightness


def test_single_paddles_and_distractors_number_as_asked():
    settings = Settings(contour_length=4, single_paddles=20, distractors=5, distractor_length=3)
    stimulus = Pathfinder(settings, 0).stimulus(0)
    assert len(stimulus.distractor_paddles) == 20 + 15
    assert Settings(contour_length=6, single_paddles=None).single_count(3) == 224 - 42
    assert Settings(contour_length=6, single_paddles=None).single_count(10) == 0
    assert Settings(contour_length=6, distractors=0).snake_paddles == 2 * 6
    assert Settings(contour_length=2).snake_paddles == 2 * 2 + 30 * 1
    settings = Settings(contour_length=4, **SMALL, margin=(4, 1), single_paddles=None)
    generator = Pathfinder(settings, 0)
    index = next(index for index in range(60) if generator.margin(index) == 1)
    others = generator.stimulus(index).distractor_paddles
    assert len(others) > 30 + settings.single_count(4)


def test_single_paddles_begin_at_their_tails_where_distractors_were_skipped():
    settings = Settings(contour_length=3, window=120, seed_distance=10, border=4,
                        distractor_length=8, distractors=12, single_paddles=6)  # fmt: skip
    for index in range(8):
        others = Pathfinder(settings, 0).stimulus(index).distractor_paddles
        assert len(others) < 8 * 12  # so some were
        assert (others[-3:, 0] % 1 == 0).all()  # the end that was drawn from is a whole pixel


def test_a_full_window_stops_distractors():
    settings = Settings(contour_length=4, **SMALL, distractors=200, distractor_length=2)
    stimulus = Pathfinder(settings, 0).stimulus(0)
    assert 20 < len(stimulus.distractor_paddles) < 200


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"contour_length": 1}, "contour_length must be a whole number of at least 2, found 1"),
        ({"contour_length": 6.5}, "contour_length must be a whole number of .* found 6.5"),
        ({"window": 44}, "window must be .* at least 45, found 44"),
        ({"window": (300, 300, 3)}, "window: height and width"),
        ({"margin": 0}, "margin must be .* at least 1, found 0"),
        ({"margin": ()}, "margin: a whole number, or several"),
        ({"contour_length": (6, 7)}, r"contour_length must be a whole number .* found \(6, 7\)"),
        ({"border": None}, "border must be a whole number .* found None"),
        ({"paddle_length": 0}, "paddle_length must be .* at least 1, found 0"),
        ({"antialias": 0}, "antialias must be .* at least 1, found 0"),
        ({"distractor_length": 0}, "distractor_length must be .* at least 1, found 0"),
        ({"image_tries": 0}, "image_tries must be .* at least 1, found 0"),
        ({"continuity": -1}, "continuity must be .* at least 0, found -1"),
        ({"continuity": math.nan}, "continuity must be a number .* found nan"),
        ({"paddle_thickness": 1.3}, "paddle_thickness 1.3 × antialias 2 must be a whole number"),
        ({"paddle_thickness": 0}, "paddle_thickness 0 × antialias 2 .* at least 1"),
        ({"marker_radius": 1.3}, "marker_radius 1.3 × antialias 2 must be a whole number"),
        ({"paddle_length": 1, "antialias": 1}, "paddle_length 1 needs antialias 2 or more"),
        ({"paddle_contrasts": ()}, "paddle_contrasts: a list of numbers"),
        ({"snake_contrasts": (0.0,)}, "snake_contrasts must be a number above 0"),
        ({"snake_contrasts": (2.5,)}, "snake_contrasts must be .* at most 2, found 2.5"),
        ({"distractors": -1}, "distractors must be .* at least 0, found -1"),
        ({"distractors": 2**63}, r"distractors must be a number of at most 2e\+09, found 9223"),
        ({"image_tries": 2**63}, r"image_tries must be a number of at most 2e\+09, found 9223"),
        ({"seed_distance": True}, "seed_distance must be a whole number .* found True"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


@pytest.mark.parametrize("size", [{"paddle_length": 1}, {"paddle_length": 2, "antialias": 1}])
def test_the_shortest_paddles_are_drawn(size):
    images, labels = generate(3, 2, 0, window=60, border=2, seed_distance=5, **size)
    assert (images.max(axis=(1, 2)) == 255).all() and len(labels) == 2


def test_numbers_of_numpy_are_numbers():
    plain = {"window": (120, 130), "margin": (2, 3), "marker_radius": 4.5, "continuity": 1.5}
    lists = {"seed_distance": 9, "border": 5, "snake_contrasts": (0.5, 1.0)}
    arrays = {
        "window": np.array([120, 130]), "margin": (np.int64(2), 3), "continuity": np.float32(1.5),
        "marker_radius": np.float64(4.5), "seed_distance": np.int32(9), "border": np.uint8(5),
        "snake_contrasts": np.linspace(0.5, 1, 2),
    }  # fmt: skip
    assert Settings(np.int64(3), **arrays) == Settings(3, **plain, **lists)
    same = [generate(*own)[0] for own in ((np.int64(3), 2, 0), (3, 2, 0))]
    assert np.array_equal(*same)


def test_snakes_that_do_not_fit_end_in_an_error():
    with pytest.raises(ValueError, match="two snakes of 60 paddles did not fit in 500 attempts"):
        generate(60, 1, 0, window=150, seed_distance=15, image_tries=500)
    for window in (100, (100, 300), (300, 100)):  # 54 from each edge leaves no place for a seed
        with pytest.raises(ValueError, match="image 5: two snakes of 6 paddles did not fit"):
            generate(6, 1, 0, start=5, window=window)


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0, found -1"):
        generate(6, 1, -1)
    with pytest.raises(ValueError, match=r"seed must be below 2\*\*64"):
        Pathfinder(Settings(), 2**64)
    with pytest.raises(ValueError, match="count must be a whole number of at least 0, found -1"):
        generate(6, -1, 0)
    with pytest.raises(ValueError, match="start must be a whole number of at least 0, found -1"):
        generate(6, 1, 0, start=-1)
    with pytest.raises(ValueError, match="index is 0 or more"):
        Pathfinder(Settings(), 0).images([-1])
    for start in 2**63 - 1, 2**64:
        with pytest.raises(UserError, match=r"index is below 2\*\*63, found"):
            generate(6, 2, 0, start=start)
    with pytest.raises(TypeError, match="contnuity"):
        generate(6, 1, 0, contnuity=0.8)
    images, labels = generate(6, 0, 0)
    assert images.shape == (0, 300, 300)
    assert labels.shape == (0,)
