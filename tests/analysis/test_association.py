"""Orientations against the filters themselves; means against loops; turning by what it moves."""

import numpy as np
import pytest
import torch

import ff_5
import hgru
import hgru_bn_relu
from analysis import association
from layers.gabor import gabor_bank
from support.errors import UserError


def preferred_orientation(kernel: np.ndarray) -> float:
    """Degrees, counter-clockwise from the horizontal, of the bar that excites a filter most."""
    size = kernel.shape[-1]
    r = size // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    angles = np.arange(0, 180, 2.5)
    responses = []
    for angle in np.deg2rad(angles):
        across = x * np.sin(angle) + y * np.cos(angle)  # y points down on the screen
        shifts = np.arange(-2, 2.01, 0.25)
        bars = [np.exp(-((across - shift) ** 2) / 0.5) for shift in shifts]
        responses.append(max(float((bar * kernel).sum()) ** 2 for bar in bars))
    return float(angles[int(np.argmax(responses))])


def starting() -> np.ndarray:
    """(24,) orientations that the formula's filters prefer."""
    return np.tile(15.0 * np.arange(12), 2)


@pytest.mark.parametrize("channel", [0, 1, 3, 5, 6, 9, 11, 15, 20])
def test_orientation_is_that_of_the_bar_a_filter_answers_to(channel):
    kernel = gabor_bank(15).numpy()[channel, 0].astype(np.float64)  # large: finer angles
    found = preferred_orientation(kernel)
    (measured,), (selectivity,) = association.orientation_of(kernel[None])
    assert association.folded(np.array(found - measured)) <= 5
    assert selectivity > 0.7


def test_selectivity_is_one_minus_the_circular_variance_of_the_power():
    """Of gratings whose frequencies are on the grid, in closed form."""
    y, x = 2 * np.pi * np.mgrid[:64, :64] / 64
    vertical, horizontal, finest = np.cos(8 * x), np.cos(5 * y), np.cos(24 * x + 24 * y)
    filters = np.stack([2 * vertical + horizontal + 3, vertical + 2 * finest])
    orientation, selectivity = association.orientation_of(filters)
    assert selectivity == pytest.approx([(4 - 1) / (4 + 1), 1])  # beyond ½ nothing counts
    assert orientation == pytest.approx([90, 90])


def test_orientation_is_measured_in_the_trained_filters():
    """The bank moved by one orientation counts as moved; noise, and the disc, have none."""
    network = hgru.build_model()
    before = association.channel_orientation(network)
    assert np.isnan(before[24])
    assert association.folded(before[:24] - starting()).max() < 4
    weight = network.drive.weight.data
    weight[:12] = weight[:12].roll(-1, 0)
    weight[12] = torch.randn(weight[12].shape, generator=torch.Generator().manual_seed(0))
    after = association.channel_orientation(network)
    assert association.folded(after[:12] - np.roll(starting()[:12], -1)).max() < 4
    assert np.isnan(after[12])


def test_means_by_orientation_and_distance_as_loops_give():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(25, 25, 5, 5))
    orientation = np.append(random.uniform(0, 180, 24), np.nan)
    found = association.association_field(kernel, orientation, shuffles=3)
    sums: dict = {}
    for o in range(24):
        for i in range(24):
            difference = abs(orientation[o] - orientation[i]) % 180
            relative = 15 * round(min(difference, 180 - difference) / 15)
            for y in range(5):
                for x in range(5):
                    d = round(((y - 2) ** 2 + (x - 2) ** 2) ** 0.5)
                    sums.setdefault((relative, d), []).append(kernel[o, i, y, x])
    assert found.relative.tolist() == [0, 15, 30, 45, 60, 75, 90]
    assert found.distance.tolist() == [0, 1, 2] and found.channels == 24
    for row, relative in enumerate(found.relative):
        for column, d in enumerate(found.distance):
            values = np.array(sums[relative, d])
            assert found.excitatory[row, column] == pytest.approx(np.maximum(values, 0).mean())
            assert found.inhibitory[row, column] == pytest.approx(np.maximum(-values, 0).mean())


def test_the_null_holds_what_does_not_depend_on_orientation_and_not_what_does():
    random = np.random.default_rng(1)
    kernel = random.normal(size=(24, 24, 5, 5))
    found = association.association_field(kernel, starting())
    inside = (found.by_orientation >= found.null[:, 0]) & (found.by_orientation <= found.null[:, 1])
    assert inside.mean() > 0.7
    alike = association.folded(starting()[:, None] - starting()[None]) < 1
    found = association.association_field(kernel + 2 * alike[:, :, None, None], starting())
    assert found.by_orientation[0, 0] > found.null[0, 1, 0] + 0.5
    assert (found.null[:, 0] <= found.null[:, 1]).all()


def test_turning_lays_every_receiving_unit_flat():
    """Connections along each unit's own orientation all come to lie on the horizontal axis."""
    size, r = 15, 7
    kernel = np.zeros((25, 25, size, size))
    for o, angle in enumerate(np.deg2rad(starting())):
        for step in np.linspace(-6, 6, 61):
            row, column = r - step * np.sin(angle), r + step * np.cos(angle)
            kernel[o, :24, round(row), round(column)] = 1
    field = association.association_field(kernel, np.append(starting(), np.nan), 1).field[
        0
    ]  # units of one orientation
    on_axis, off_axis = field[r, 2:13].mean(), np.delete(field, [r - 1, r, r + 1], axis=0)
    assert on_axis > 0.6 and off_axis.max() < 0.15
    mirrored = association.association_field(
        kernel[..., ::-1], np.append(starting(), np.nan), 1
    ).field[0]  # y turned around
    assert mirrored[r, 2:13].mean() < 0.5


def test_an_even_kernel_turns_about_its_receiving_unit():
    kernel = np.zeros((1, 2, 6, 6))  # offsets −2…3, as TensorFlow pads
    kernel[0, 0, 2, 2] = kernel[0, 1, 0, 2] = 1  # the unit itself; two pixels above it
    turned = association.turn(kernel, np.array([90.0]))
    assert turned.shape == (1, 2, 7, 7)
    assert np.unravel_index(turned[0, 0].argmax(), (7, 7)) == (3, 3)
    assert np.unravel_index(turned[0, 1].argmax(), (7, 7)) == (3, 5)  # 90° clockwise: to its right
    field = association.association_field(np.ones((2, 2, 6, 6)), np.array([0.0, 90.0]), 1).field
    assert field.shape == (7, 7, 7)


def test_stages_are_the_kernel_with_its_letters():
    network = hgru_bn_relu.build_model()  # two kernels
    layer = network.hgru
    W1, W2 = layer.W1.detach().numpy(), layer.W2.detach().numpy()
    gain = (layer.kappa * layer.gamma).detach().numpy()[:, None]
    μ = layer.mu.detach().numpy()[:, None]
    assert np.array_equal(association.connections(network), W1)
    assert np.array_equal(association.connections(network, "second_weights"), W2)
    assert np.allclose(association.connections(network, "excitation"), gain * W2)
    assert np.allclose(association.connections(network, "inhibition"), -μ * W1)


def test_constant_letters_count_as_what_they_are():
    network = hgru.build_model({"aux": {"lesion_mu": True, "gamma": False}})
    κ = network.hgru.kappa.detach().numpy()[:, None]
    expected = κ * network.hgru.W1.detach().numpy()
    assert np.allclose(association.connections(network, "excitation"), expected)
    assert not association.connections(network, "inhibition").any()


def test_wrong_requests_are_refused():
    with pytest.raises(UserError, match="both"):
        association.connections(hgru.build_model(), "both")
    with pytest.raises(UserError, match="FeedforwardNetwork has 0"):
        association.connections(ff_5.build_model())
