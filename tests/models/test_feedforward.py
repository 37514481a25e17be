"""The feedforward control against a convolution padded by hand and normalised by definition."""

import pytest
import torch
import torch.nn.functional as F

from models.feedforward import FeedforwardNetwork


def test_even_kernels_pad_9_before_and_10_after():
    network = FeedforwardNetwork(layers=1).double()
    images = torch.rand(2, 1, 24, 26, dtype=torch.float64)
    X = network.drive(images)
    padded = F.pad(X, (9, 10, 9, 10))
    raw = F.conv2d(padded, network.kernels[0])
    mean, variance = raw.mean((0, 2, 3), keepdim=True), raw.var((0, 2, 3), correction=0)
    expected = F.relu((raw - mean) / (variance.view(1, -1, 1, 1) + 1e-3).sqrt())
    _, activity = network(images)
    torch.testing.assert_close(activity, expected)
    assert activity.shape == (2, 9, 24, 26)


def test_a_wrong_size_is_named():
    with pytest.raises(ValueError, match="filters must be a whole number of at least 1, found 0"):
        FeedforwardNetwork(filters=0)
