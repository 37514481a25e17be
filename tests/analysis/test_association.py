"""Orientations against the filters themselves; means against loops; turning by what it moves."""

import numpy as np
import pytest

import ff_5
import hgru
import hgru_bn_relu
from analysis import association
from layers.gabor import gabor_bank


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


@pytest.mark.parametrize("channel", [0, 1, 3, 5, 6, 9, 11, 15, 20])
def test_orientation_is_that_of_the_bar_a_filter_answers_to(channel):
    kernel = gabor_bank(15).numpy()[channel, 0].astype(np.float64)  # large: finer angles
    found = preferred_orientation(kernel)
    expected = association.channel_orientation()[channel]
    assert association.folded(np.array(found - expected)) <= 5


def test_orientations_are_twelve_twice_and_the_disc():
    orientation = association.channel_orientation()
    assert len(orientation) == 25 and np.isnan(orientation[24])
    assert sorted(orientation[:12]) == list(range(0, 180, 15))
    assert np.array_equal(orientation[:12], orientation[12:24])
    order = association.sorted_channels()
    assert sorted(order) == list(range(25)) and order[-1] == 24
    assert (np.diff(orientation[order[:24]]) >= 0).all()


def test_means_by_orientation_and_distance_as_loops_give():
    kernel = np.random.default_rng(0).normal(size=(25, 25, 5, 5))
    found = association.association_field(kernel)
    orientation = association.channel_orientation()
    sums: dict = {}
    for o in range(24):
        for i in range(24):
            difference = abs(orientation[o] - orientation[i]) % 180
            relative = min(difference, 180 - difference)
            for y in range(5):
                for x in range(5):
                    d = round(((y - 2) ** 2 + (x - 2) ** 2) ** 0.5)
                    sums.setdefault((relative, d), []).append(kernel[o, i, y, x])
    assert found.relative.tolist() == [0, 15, 30, 45, 60, 75, 90]
    assert found.distance.tolist() == [0, 1, 2]
    for row, relative in enumerate(found.relative):
        for column, d in enumerate(found.distance):
            values = np.array(sums[relative, d])
            assert found.excitatory[row, column] == pytest.approx(np.maximum(values, 0).mean())
            assert found.inhibitory[row, column] == pytest.approx(np.maximum(-values, 0).mean())


def test_turning_lays_every_receiving_unit_flat():
    """Connections along each unit's own orientation all come to lie on the horizontal axis."""
    size, r = 15, 7
    kernel = np.zeros((25, 25, size, size))
    for o, angle in enumerate(np.deg2rad(association.channel_orientation()[:24])):
        for step in np.linspace(-6, 6, 61):
            row, column = r - step * np.sin(angle), r + step * np.cos(angle)
            kernel[o, :24, round(row), round(column)] = 1
    field = association.association_field(kernel).field[0]  # units of one orientation
    on_axis, off_axis = field[r, 2:13].mean(), np.delete(field, [r - 1, r, r + 1], axis=0)
    assert on_axis > 0.6 and off_axis.max() < 0.15
    mirrored = association.association_field(kernel[..., ::-1]).field[0]  # y turned around
    assert mirrored[r, 2:13].mean() < 0.5


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
    with pytest.raises(ValueError, match=r"stage must be one of weights.*'both'"):
        association.connections(hgru.build_model(), "both")
    with pytest.raises(ValueError, match="FeedforwardNetwork has 0"):
        association.connections(ff_5.build_model())
    with pytest.raises(ValueError, match="24 oriented channels"):
        association.association_field(np.zeros((6, 6, 5, 5)))
