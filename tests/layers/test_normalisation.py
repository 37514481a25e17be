"""Batch normalisation against its definition, in float64 numpy."""

import numpy as np
import pytest
import torch

from layers.normalisation import BatchNormalisation
from support.errors import UserError
from tests.layers.ranks import Twice


def by_definition(x, scale, shift, epsilon=1e-3):
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    column = (1, -1) + (1,) * (x.ndim - 2)
    return (x - mean) / np.sqrt(variance + epsilon) * scale.reshape(column) + shift.reshape(column)


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (7, 3), (1, 3), (1, 3, 1, 1)])
def test_training_normalises_by_the_batch(shape):
    norm = BatchNormalisation(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 3.0]))
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    expected = by_definition(x.numpy(), norm.weight.detach().numpy(), norm.bias.detach().numpy())
    np.testing.assert_allclose(norm(x).detach(), expected, atol=1e-10)
    assert torch.isfinite(norm.running_var).all()


@pytest.mark.parametrize("over_ranks", [False, True])
def test_epsilon(over_ranks):
    norm = BatchNormalisation(3, epsilon=0.5).double()
    if over_ranks:
        norm.over_ranks = Twice()
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    expected = by_definition(x.numpy(), np.ones(3), np.zeros(3), 0.5)
    np.testing.assert_allclose(norm(x).detach(), expected, atol=1e-10)
    running = BatchNormalisation(3, epsilon=0.5).double().eval()
    torch.testing.assert_close(running(x), x / np.sqrt(1.5))


@pytest.mark.parametrize(
    "name, value", [("momentum", 1.5), ("momentum", -0.1), ("momentum", None), ("epsilon", 0)]
)
def test_options_are_checked(name, value):
    with pytest.raises(UserError, match=f"{name} must be a number .*, found {value}"):
        BatchNormalisation(3, **{name: value})


@pytest.mark.parametrize("biased", [False, True])
def test_running_averages_move_by_the_momentum(biased):
    norm = BatchNormalisation(2, biased_running_variance=biased).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    norm(x)
    variance = x.numpy().var((0, 2, 3), ddof=0 if biased else 1)
    np.testing.assert_allclose(norm.running_mean, 0.01 * x.numpy().mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(norm.running_var, 0.99 + 0.01 * variance, atol=1e-12)


def test_evaluation_by_running_averages_or_by_the_batch():
    x = torch.randn(3, 2, 4, 4) + 2
    running = BatchNormalisation(2).eval()
    torch.testing.assert_close(running(x), x / np.sqrt(1 + 1e-3))
    batch = BatchNormalisation(2, validation="batch").eval()
    assert batch(x).mean().abs() < 1e-5
    assert (batch.running_mean == 0).all()  # evaluation moves nothing


@pytest.mark.parametrize("biased", [False, True])
def test_several_processes_compute_what_one_would(biased):
    """The rule over ranks, fed by hand with two halves of a batch of unequal size."""
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    whole, part = (BatchNormalisation(3, biased_running_variance=biased).double() for _ in "ab")
    for norm in (whole, part):
        torch.nn.init.constant_(norm.bias, 0.5)
    expected = whole(x)
    expected.square().mul(torch.arange(6.0).view(6, 1, 1, 1)).sum().backward()

    y = x.detach().clone().requires_grad_()

    class Halves:
        shares = torch.tensor([4 / 6, 2 / 6], dtype=torch.float64)

        def gather(self, own):
            each = (torch.var_mean(half, (0, 2, 3), correction=0) for half in y.split([4, 2]))
            return torch.stack([torch.cat([mean, variance]) for variance, mean in each])

        def total(self, count):
            assert count in (4 * 20, 2 * 20)
            return 6 * 20

    part.over_ranks = Halves()
    z = torch.cat([part(y[:4]), part(y[4:])])
    z.square().mul(torch.arange(6.0).view(6, 1, 1, 1)).sum().backward()
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(y.grad, x.grad)
    whole(x)  # the running averages have moved twice there
    torch.testing.assert_close(part.running_mean, whole.running_mean)
    torch.testing.assert_close(part.running_var, whole.running_var)


@pytest.mark.parametrize("validation", ["running", "batch"])
@pytest.mark.parametrize("training", [True, False])
def test_no_image_leaves_no_weight_without_a_gradient(validation, training):
    """A process of DistributedDataParallel waits for the gradient of every weight."""
    norm = BatchNormalisation(3, validation=validation).train(training)
    before = norm.running_var.clone()
    y = norm(torch.zeros(0, 3, 5, 5))
    y.sum().backward()
    assert y.shape == (0, 3, 5, 5)
    assert not norm.weight.grad.any() and not norm.bias.grad.any()
    assert torch.equal(norm.running_var, before)


def test_an_unknown_way_to_validate_is_refused():
    with pytest.raises(ValueError, match="validation 'both'"):
        BatchNormalisation(2, validation="both")


def test_a_scale_without_a_point_is_a_number_too():
    assert torch.equal(BatchNormalisation(2, scale=2).weight, torch.tensor([2.0, 2.0]))
