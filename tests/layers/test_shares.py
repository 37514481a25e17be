"""Threads that share a pass by images give the numbers of one that computes it alone."""

import multiprocessing
import threading
import traceback

import pytest
import torch
from torch import nn

from layers.hgru import HGRU
from layers.horizontal import horizontal_method
from layers.shares import each, in_shares, shared_images


@pytest.fixture
def threads():
    """Two threads of PyTorch's, as on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def layer_of(**options) -> HGRU:
    generator = torch.Generator().manual_seed(0)
    return HGRU(3, **{"timesteps": 3, "h_ext": 9, "generator": generator, **options}).double()


def gradients(layer: HGRU, X: torch.Tensor) -> list[torch.Tensor]:
    """The pass's result, and the gradient of its drive and of every parameter, by one number."""
    layer.noise_generator = torch.Generator().manual_seed(1)
    X = X.clone().requires_grad_()
    H2 = layer(X)
    weights = torch.linspace(-1, 1, H2.numel(), dtype=H2.dtype).view_as(H2)
    return [H2.detach(), *torch.autograd.grad((weights * H2).sum(), [X, *layer.parameters()])]


@pytest.mark.parametrize(
    "options",
    [
        {"adaptation": True},
        {"hidden_init": "identity", "recurrent_nl": "relu"},
        {"hidden_init": "learned", "separate_kernels": True},
        {"lesion_omega": True, "symmetric_gate_weights": True, "gate_filter": 3},
        {"multiplicative_excitation": False, "hidden_init": "zeros"},
        {"h_ext": 3},  # a direct convolution
    ],
    ids=str,
)
@pytest.mark.parametrize("images", [2, 5])
def test_the_numbers_are_those_of_one_thread(threads, options, images):
    layer = layer_of(**options)
    X = torch.rand(images, 3, 10, 12, dtype=torch.float64)
    alone = gradients(layer, X)
    with shared_images(layer, images):
        assert layer.shares == 2
        together = gradients(layer, X)
        again = gradients(layer, X)
        with torch.no_grad():
            layer.noise_generator = torch.Generator().manual_seed(1)
            forward = layer(X)
        rest = gradients(layer, X[:1])  # as of an epoch's last batch
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(again, together, strict=True))
    assert torch.equal(forward, together[0])
    assert not forward.requires_grad
    torch.testing.assert_close(rest, gradients(layer, X[:1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("number", [3, 2])
def test_every_share_has_as_many_threads_of_pytorchs_as_this_one(threads, number):
    torch.set_num_threads(number)
    assert each(lambda _: torch.get_num_threads(), [(0,), (1,)]) == [number] * 2


@pytest.mark.parametrize(("name", "axes"), [("alpha", ()), ("eta", (3,))])
@pytest.mark.parametrize("images", [2, 5])
def test_a_number_for_each_image_is_not_split(threads, name, axes, images):
    layer, X = layer_of(adaptation=True), torch.rand(images, 3, 9, 9, dtype=torch.float64)
    delattr(layer, name)
    of_each = torch.rand(*axes, images, 3, 1, 1, dtype=torch.float64)
    setattr(layer, name, of_each)
    alone = gradients(layer, X)
    with shared_images(layer, images):
        together = gradients(layer, X)
    torch.testing.assert_close(together, alone)
    setattr(layer, name, of_each[..., :1, :, :, :])  # one for all, with an axis to spare
    alone = gradients(layer, X)
    with shared_images(layer, images):
        torch.testing.assert_close(gradients(layer, X), alone)


def test_what_is_frozen_stays_without_a_gradient(threads):
    layer, X = layer_of(), torch.rand(4, 3, 9, 9, dtype=torch.float64)
    layer.W1.requires_grad_(False)
    with shared_images(layer, 4):
        layer(X).sum().backward()
    assert layer.W1.grad is None
    assert layer.U1.grad is not None


def test_each_thread_takes_images_of_its_own(threads):
    seen = {}

    def call(tensors):
        seen[threading.get_ident()] = tensors[0].flatten().tolist()
        return tensors[0] * tensors[1]

    found = in_shares(call, 2, [torch.arange(5.0)], [torch.tensor(2.0)])
    assert found.tolist() == [0, 2, 4, 6, 8]
    assert sorted(seen.values()) == [[0, 1, 2], [3, 4]]
    seen.clear()
    assert in_shares(call, 3, [torch.arange(2.0)], [torch.tensor(2.0)]).tolist() == [0, 2]
    assert sorted(seen.values()) == [[0], [1]]  # no more shares than images


def test_without_gradients_no_graph_is_made(threads):
    made = []

    def call(tensors):
        made.append(torch.is_grad_enabled())
        return tensors[0] * tensors[1]

    weight = torch.ones((), requires_grad=True)
    with torch.no_grad():
        in_shares(call, 2, [torch.arange(4.0)], [weight])
    assert made == [False] * 2


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_in_a_share_shows_where(wrong):
    done = []

    def stumble(number):
        if number == wrong:
            raise ZeroDivisionError(f"share {number}")
        done.append(number)

    with pytest.raises(ZeroDivisionError, match=f"share {wrong}") as caught:
        each(stumble, [(0,), (1,)])
    assert done == [1 - wrong]  # nothing runs on
    assert "stumble" in "".join(traceback.format_exception(caught.value))


def test_threads_are_as_before(threads):
    layer = layer_of()
    with pytest.raises(KeyError), shared_images(nn.Sequential(layer), 8):
        assert (layer.shares, torch.get_num_threads()) == (2, 1)
        raise KeyError
    assert (layer.shares, torch.get_num_threads()) == (1, 2)
    torch.set_num_threads(4)
    with shared_images(layer, 2):
        with shared_images(layer, 2):
            assert (layer.shares, torch.get_num_threads()) == (2, 1)
        assert (layer.shares, torch.get_num_threads()) == (2, 2)
    assert (layer.shares, torch.get_num_threads()) == (1, 4)
    for images, shares, threads_of_a_share in ((3, 2, 2), (8, 2, 2), (12, 3, 1), (20, 4, 1)):
        with shared_images(layer, images):  # four images a share where there are so many
            assert (layer.shares, torch.get_num_threads()) == (shares, threads_of_a_share)


@pytest.mark.parametrize(
    ("layer", "images", "threads_of_process"),
    [(layer_of(batch_norm=True), 8, 2), (layer_of(), 1, 2), (layer_of(), 8, 1)],
    ids=["a batch's statistics", "one image", "one thread"],
)
def test_what_cannot_be_shared_is_left_as_it_is(threads, layer, images, threads_of_process):
    torch.set_num_threads(threads_of_process)
    with shared_images(layer, images):
        assert (layer.shares, torch.get_num_threads()) == (1, threads_of_process)


@pytest.mark.parametrize("options", [{"batch_norm": True}, {"batch_norm": True, "reuse": False}])
def test_the_attribute_does_not_share_what_cannot_be(options):
    layer, X = layer_of(hidden_init="identity", **options), torch.rand(4, 3, 9, 9).double()
    alone = layer(X)
    layer.shares = 2
    assert torch.equal(layer(X), alone)


def test_a_second_backward_pass_where_the_graph_is_kept(threads):
    layer, X = layer_of(), torch.rand(4, 3, 9, 9, dtype=torch.float64)
    with shared_images(layer, 4):
        loss = layer(X).square().sum()
    weights = list(layer.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    second = torch.autograd.grad(loss, weights)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, weights)


def test_edited_equations_are_computed_as_they_stand(threads):
    class OverTheBatch(HGRU):
        def forward(self, X, return_states=False, given=None):
            return super().forward(X - X.mean(0), return_states, given)

    torch.manual_seed(0)
    layer = OverTheBatch(3, timesteps=2, h_ext=9, hidden_init="identity").double()
    X = torch.rand(4, 3, 9, 9, dtype=torch.float64)
    alone = layer(X)
    with shared_images(layer, 4):
        assert torch.equal(layer(X), alone)


def test_what_is_put_around_the_equations_acts_once(threads):
    layer, X = layer_of(hidden_init="identity"), torch.rand(4, 3, 9, 9, dtype=torch.float64)
    alone, equations = layer(X), layer.forward
    layer.forward = lambda X: 2 * equations(X)
    with shared_images(layer, 4):
        assert layer.shares == 2
        torch.testing.assert_close(layer(X), 2 * alone)


def test_second_derivatives_as_without_shares(threads):
    layer, X = layer_of(), torch.rand(4, 3, 9, 9, dtype=torch.float64, requires_grad=True)

    def second() -> torch.Tensor:
        layer.noise_generator = torch.Generator().manual_seed(1)
        (first,) = torch.autograd.grad(layer(X).sum(), X, create_graph=True)
        return torch.autograd.grad(first.square().sum(), X)[0]

    with horizontal_method("direct"):
        alone = second()
        with shared_images(layer, 4):
            torch.testing.assert_close(second(), alone)
    with shared_images(layer, 4), pytest.raises(RuntimeError, match="double backward"):
        second()


def test_a_process_that_was_forked_has_threads_of_its_own(threads):
    assert each(abs, [(-1,), (-2,)]) == [1, 2]
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=each, args=(abs, [(-1,), (-2,)]), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
