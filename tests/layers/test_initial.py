"""Initial values against the distributions that they are said to have (scipy)."""

import numpy as np
import pytest
import torch
from scipy import stats

from layers import initial


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def test_uniform_xavier():
    W = initial.kernel(25, 25, 15, True, generator()).flatten().numpy()
    bound = np.sqrt(3 / (15 * 15 * 25))
    assert stats.kstest(W, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_normal_xavier_is_truncated_at_two_standard_deviations():
    W = initial.kernel(25, 25, 15, False, generator()).flatten().numpy()
    sd = np.sqrt(1.3 / (15 * 15 * 25))
    assert np.abs(W).max() <= 2 * sd * (1 + 1e-6)
    assert stats.kstest(W, stats.truncnorm(-2, 2, scale=sd).cdf).pvalue > 1e-3


def test_letters_have_the_fan_of_the_originals_shape():
    letter = torch.stack([initial.letter(25, True, generator(s)) for s in range(400)]).numpy()
    bound = np.sqrt(3 / 13)  # n = (1 + 25)/2
    assert letter.shape == (400, 25, 1, 1)
    assert stats.kstest(letter.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_chronos_spans_the_steps():
    u = np.exp(-initial.chronos(20000, 8, generator()).numpy())
    assert stats.kstest(u, stats.uniform(1, 6).cdf).pvalue > 1e-3
    assert (initial.chronos(5, 1, generator()) == 0).all()


def test_the_generator_alone_decides():
    first, again = (initial.kernel(4, 4, 3, False, generator(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, initial.kernel(4, 4, 3, False, generator(8)))


@pytest.mark.parametrize("size", [1, 5])
def test_symmetric_gradient(size):
    W = torch.randn(4, 4, size, size, dtype=torch.float64)
    V = W.clone().requires_grad_()
    # As a function of an unconstrained kernel the symmetric part has exactly this gradient.
    assert torch.autograd.gradcheck(
        lambda v: initial.symmetric_gradient(initial.symmetric(v)).square(), V
    )
