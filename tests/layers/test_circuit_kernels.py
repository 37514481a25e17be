"""The circuit's CUDA C++ kernels on the CPU (host.py), against the plain path in float64.

In between, convolutions are direct ones; tests/layers/test_kernels_interpreted.py has all together.
"""

import copy
import functools
import importlib.util

import pytest
import torch
import torch.nn.functional as F

from layers.hgru import HGRU
from layers.horizontal import horizontal_method
from layers.kernels import compiled
from layers.normalisation import BatchNormalisation
from tests.layers import host
from tests.layers.ranks import Twice

pytestmark = [
    pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed"
    ),
]
SIZE = (9, 10)  # odd and even, with padding both ways


@functools.cache
def places(sizes):
    """Of each pixel of a folded plane, which one it is, from 1 on; 0 for padding."""

    def axis(a):
        right = [a.right + i if i < a.pairs else -1 for i in range(a.run)]
        left = [a.left - i if i <= a.left and i >= a.odd else -1 for i in range(a.run)]
        return torch.tensor(right + left)

    y, x = axis(sizes.y)[:, None], axis(sizes.x)[None]
    return torch.where((y < 0) | (x < 0), 0, y * sizes.x.size + x + 1)


def fold(x, sizes):
    return F.pad(x.flatten(2), (1, 0))[:, :, places(sizes)].contiguous()


def unfold(folded, sizes):
    plane = folded.new_zeros(*folded.shape[:2], sizes.y.size * sizes.x.size + 1)
    plane[:, :, places(sizes).flatten()] = folded.flatten(2)
    return plane[:, :, 1:].unflatten(2, (sizes.y.size, sizes.x.size))


@pytest.fixture
def kernels(monkeypatch):
    """Has the circuit run on the CPU: its kernels by the C++ compiler, its convolutions direct."""
    from layers.kernels import circuit, pointwise
    from layers.kernels.spectral import Convolved

    def convolve(self, which, activity, largest, out, back=False):
        W, sizes, scale = self.W[which], self.plan.sizes, self.kernels[which].scale
        by = F.conv_transpose2d if back else F.conv2d
        values = fold(by(unfold(activity, sizes), W, padding=W.shape[-1] // 2), sizes)
        if self.plan.precision == "half":
            assert torch.equal(largest, activity.abs().amax((1, 2, 3)))
            above = torch.exp2(torch.floor(torch.log2(largest)) + 1)
            values = (values / (above.view(-1, 1, 1, 1) * scale * 2.0**-14)).half()
        return Convolved(values, largest, scale)

    class Kernels:
        def __init__(self, circuit, x, timesteps, separate, together):
            self.circuit, self.separate = circuit, separate
            self.largest = torch.zeros(timesteps, 2, len(x))

        def place(self, t, which):
            return self.largest[t, which], None

        def take(self, *_):
            pass

        def of_kernels(self, W1, W2):  # stand-ins: test_kernels_interpreted.py has the real ones
            return torch.zeros_like(W1), None if W2 is None else torch.zeros_like(W2)

    monkeypatch.setattr(pointwise, "MULTIPROCESSORS", 1)  # so that a block has several tiles
    monkeypatch.setattr(circuit, "fold", fold)
    monkeypatch.setattr(circuit, "unfold", unfold)
    monkeypatch.setattr(circuit._Circuit, "convolve", convolve)
    monkeypatch.setattr(circuit, "_KernelGradients", Kernels)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(compiled, "available", lambda device: True)
    monkeypatch.setattr(compiled, "function", host.function)

    def use(layer):
        W = (layer.W1.detach(), (layer.W2 if layer.separate_kernels else layer.W1).detach())
        monkeypatch.setattr(circuit._Circuit, "W", W, raising=False)

    return use


def apart(found, exact):
    """The largest distance of two tensors in their places, relative to the exact one's length."""
    return max(
        float((a.detach().double() - b.detach()).norm() / b.detach().norm().clamp(min=1e-30))
        for a, b in zip(found, exact, strict=True)
    )


def results(layer, X, g, method):
    """Output, gradients and running averages."""
    named = [p for n, p in layer.named_parameters() if "W" not in n]
    if layer.batch_norm:  # the gates' biases have no gradient but rounding's
        named = [p for n, p in layer.named_parameters() if "W" not in n and "b_" not in n]
    with horizontal_method(method):
        assert layer._fused(layer._prepared(X), X) == (method == "triton")
        y = layer(X)
    return [y, *torch.autograd.grad(y, [X, *named], g), *layer.buffers()]


def drawn(channels=3, images=2):
    X = torch.rand(images, channels, *SIZE, requires_grad=True)
    return X, torch.randn(images, channels, *SIZE)


def layer_of(channels=3, **options):
    return HGRU(channels, h_ext=3, hidden_init="identity", **options)


@pytest.mark.parametrize(
    "options, tf32",
    [
        ({"channels": 25, "timesteps": 2, "adaptation": True}, False),
        ({"timesteps": 2, "adaptation": True, "lesion_omega": True}, True),
        ({"timesteps": 3, "separate_kernels": True, "recompute": True}, True),
        ({"timesteps": 2, "recurrent_nl": "relu", "recompute": True}, False),
        ({"timesteps": 3, "batch_norm": True, "reuse": False, "recompute": True}, False),
        ({"channels": 25, "timesteps": 2, "batch_norm": True, "separate_kernels": True}, True),
        ({"channels": 32, "timesteps": 2, "batch_norm": True, "recurrent_nl": "relu"}, False),
    ],
    ids=str,
)
def test_circuit(options, tf32, kernels, monkeypatch):
    torch.manual_seed(0)
    layer = layer_of(**options)
    kernels(layer)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    X, g = drawn(layer.channels)
    plain = copy.deepcopy(layer).double()
    exact = results(plain, X.detach().double().requires_grad_(), g.double(), "direct")
    assert apart(results(layer, X, g, "triton"), exact) < (5e-3 if tf32 else 1e-5)


@pytest.mark.parametrize(
    "name, shape, dtype",
    [
        ("alpha", (3, *SIZE), torch.float32),  # a letter for each pixel
        ("mu", (1,), torch.float32),
        ("kappa", (3, 1, 1), torch.float64),
        ("eta", (2, 3, 1, 1), torch.float32),  # one for each channel
        ("eta", (2,), torch.float64),
        ("W2", (3, 3, 5, 5), torch.float32),
        ("U1", (3, 3, 3, 1), torch.float32),
        ("U2", (3, 3, 3, 3), torch.float32),
    ],
)
def test_what_the_kernels_do_not_read_is_left_to_the_equations(name, shape, dtype, kernels):
    """A parameter may have been put in another's place."""
    layer = layer_of(timesteps=2, adaptation=True, separate_kernels=True)
    X, _ = drawn()
    with horizontal_method("triton"):
        assert layer._fused(layer._prepared(X), X)
        setattr(layer, name, torch.nn.Parameter(torch.rand(shape, dtype=dtype)))
        assert not layer._fused(layer._prepared(X), X)


def test_a_normalisation_whose_calls_somebody_waits_for(kernels):
    layer = layer_of(timesteps=2, batch_norm=True)
    X, _ = drawn()
    with horizontal_method("triton"):
        for register in ("register_forward_hook", "register_forward_pre_hook"):
            handle = getattr(layer.norms["c1"][0], register)(lambda *_: None)
            assert not layer._fused(layer._prepared(X), X)
            handle.remove()
            assert layer._fused(layer._prepared(X), X)
        layer.norms["c1"][0].forward = lambda x: x
        with pytest.warns(UserWarning, match="lambda.* was edited"):
            assert not layer._fused(layer._prepared(X), X)


def test_a_normalisation_by_itself_refuses_what_it_does_not_fit(kernels, monkeypatch):
    """As PyTorch's operations do, where kernels would read past its end or other numbers' bytes."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    norm, double = BatchNormalisation(3), BatchNormalisation(3)
    double.weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    x = torch.rand(2, 4, *SIZE)
    with horizontal_method("triton"):
        assert type(norm(x[:, :3]).grad_fn).__name__ == "_BatchNormalisationBackward"
        for one, given in ((norm, x), (double, x[:, :3])):
            with pytest.raises(RuntimeError):
                one(given)


@pytest.mark.parametrize("change", ["one for all", "one of four for all"])
def test_normalisations_that_steps_share_later(change, kernels):
    """As the equations take them, whatever the layer was built with."""
    layer = layer_of(timesteps=2, batch_norm=True, reuse=False)
    for t, norm in enumerate(layer.norms["g1"]):
        torch.nn.init.constant_(norm.weight, 1 + t)
    if change == "one for all":
        layer.reuse = True
    else:
        layer.norms["g1"][1] = layer.norms["g1"][0]
        torch.nn.init.constant_(layer.norms["c2"][1].weight, 2)
    kernels(layer)
    X, _ = drawn()
    plain = copy.deepcopy(layer).double()
    with horizontal_method("triton"):
        assert layer._fused(layer._prepared(X), X)
        found = layer(X)
    with horizontal_method("direct"):
        exact = plain(X.double())
    assert apart([found, *layer.buffers()], [exact, *plain.buffers()]) < 1e-5


@pytest.mark.parametrize("batch_norm", [False, True])
def test_backward_twice_over(batch_norm, kernels):
    """With retain_graph, to the same bits; threads in reverse order too; an edited weight is
    noticed."""
    layer = layer_of(timesteps=2, batch_norm=batch_norm)
    kernels(layer)
    X, g = drawn()
    weights = [p for n, p in layer.named_parameters() if "W" not in n]

    def gradients(y):
        return torch.autograd.grad(y, [X, *weights], g, retain_graph=True)

    with horizontal_method("triton"):
        y = layer(X)
        first = gradients(y)
        compiled.function = functools.partial(host.function, reverse=True)
        for again in (gradients(y), gradients(layer(X))):
            for a, b in zip(first, again, strict=True):
                assert torch.equal(a, b)
        with torch.no_grad():
            layer.U1.mul_(2)
        with pytest.raises(RuntimeError, match="inplace operation"):
            gradients(y)


def test_processes_that_share_a_batch(kernels):
    """This process's images and another's, which are the same: as one process with both."""
    layer = layer_of(timesteps=2, batch_norm=True, reuse=False)
    kernels(layer)
    X, g = drawn()
    whole = copy.deepcopy(layer).double()
    for norm in layer.norms.modules():
        if isinstance(norm, BatchNormalisation):
            norm.over_ranks = Twice(X.device)
    both = [torch.cat([t.detach(), t.detach()]).double() for t in (X, g)]
    y, x, *others = results(whole, both[0].requires_grad_(), both[1], "direct")
    found = results(layer, X, g, "triton")
    averages = len(list(layer.buffers()))
    assert apart(found[:2], (y[:2], x[:2])) < 1e-5
    assert apart([2 * a for a in found[2:-averages]], others[:-averages]) < 1e-5
    assert apart(found[-averages:], others[-averages:]) < 1e-5


def test_statistics_of_unequal_processes(kernels):
    """Three processes' images of two normalisations, with a count of channels above a block's."""
    from layers.kernels.normalisation import join_statistics

    x = torch.randn(2, 12, 140, 10, dtype=torch.float64) * 3 + 10
    weights, parts = torch.rand(2, 140), (slice(0, 5), slice(5, 6), slice(6, 12))

    def statistics(values, epsilon):
        variance, mean = torch.var_mean(values, (1, 3), correction=0)
        inverse = (variance + torch.tensor(epsilon)[:, None]).rsqrt()
        return torch.stack([weights * inverse, mean, inverse, variance], 1)

    class Three:
        peers, shares = None, torch.tensor([5 / 12, 1 / 12, 6 / 12])

        def gather(self, own):
            return torch.stack([statistics(x[:, part], [0, 0]).float().flatten() for part in parts])

    of = torch.empty(2, 4, 140)
    join_statistics(of, weights, [1.0, 0.1], Three())
    torch.testing.assert_close(of, statistics(x, [1.0, 0.1]).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("shape", [(5, 7, 61, 50), (1, 40, 3, 3)], ids=str)
def test_batch_normalisation(shift, shape, kernels, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    norm = BatchNormalisation(shape[1], scale=0.1, shift=shift)
    plain = copy.deepcopy(norm).double()
    x = (torch.randn(shape) * 3 + 10).requires_grad_()
    g = torch.randn(shape)

    def results(norm, x, g):
        y = norm(x)
        gradients = torch.autograd.grad(y, [x, *norm.parameters()], g)
        return [y, *gradients, norm.running_mean, norm.running_var]

    with horizontal_method("triton"):
        found = results(norm, x, g)
        assert "_BatchNormalisation" in type(found[0].grad_fn).__name__
    assert apart(found, results(plain, x.double(), g.double())) < 1e-5
