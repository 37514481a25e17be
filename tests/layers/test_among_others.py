"""The layer among others: what a network of the user's own may do with it."""

import copy
import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from layers.hgru import HGRU
from layers.horizontal import HorizontalKernel, direct_convolution, spectral_ref
from models.feedforward import FeedforwardNetwork
from models.recurrent import RecurrentNetwork

CIRCUITS = [
    {"adaptation": True},
    {"batch_norm": True},
    {"batch_norm": True, "reuse": False},
    {"batch_norm": True, "separate_kernels": True, "recurrent_nl": "relu"},
]


def layer_of(**options):
    return HGRU(3, **{"timesteps": 2, "h_ext": 9, "hidden_init": "identity", **options})


@pytest.mark.parametrize("size", [(24, 24), (17, 30)])
@pytest.mark.parametrize("taps", [(15, 15), (20, 9)])
def test_the_spectral_method_in_fifteen_lines(size, taps):
    x, W = torch.randn(2, 3, *size).double(), torch.randn(4, 3, *taps).double()
    difference = spectral_ref(x, W) - direct_convolution(x, W)
    assert difference.norm() / direct_convolution(x, W).norm() < 1e-12


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", CIRCUITS, ids=str)
def test_autocast(options, kind):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1), layer_of(**options))
    images = torch.rand(2, 1, 12, 13)
    expected = model(images)
    with torch.autocast("cpu", kind):
        found = model(images)
    found.square().sum().backward()
    assert found.dtype == torch.float32  # the circuit computes in its weights' precision
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_drive_given_by_its_name(autocast):
    layer, X = layer_of(), torch.rand(2, 3, 12, 13)
    kernel = HorizontalKernel(layer.W1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        drive = X.bfloat16() if autocast else X
        assert torch.equal(layer(X=drive), layer(drive))
        assert torch.equal(kernel(activity=drive), kernel(drive))
    with pytest.raises(TypeError, match="'X'"):
        layer()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shares", [1, 2])
def test_backward_within_autocast(shares, kind):
    layer, X = layer_of(), torch.rand(2, 3, 12, 13)
    layer.shares = shares

    def gradients():
        return torch.autograd.grad(layer(X).square().sum(), list(layer.parameters()))

    expected = gradients()
    with torch.autocast("cpu", kind):
        torch.testing.assert_close(gradients(), expected)


@pytest.mark.parametrize("network", [RecurrentNetwork, FeedforwardNetwork])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_of_whole_networks(network, kind):
    model = network(**({"timesteps": 2} if network is RecurrentNetwork else {"layers": 2}))
    with torch.autocast("cpu", kind):
        logits, _ = model(torch.rand(2, 1, 20, 21))
    logits.float().sum().backward()
    assert logits.shape == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("options", [*CIRCUITS, {"hidden_init": "random"}], ids=str)
def test_compiled_whole(options):
    layer, X = layer_of(**options), torch.rand(2, 3, 12, 13, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True)

    def results(call):
        torch.manual_seed(0)
        y = call(X)
        return y, torch.autograd.grad(y.square().sum(), X)[0]

    for a, b in zip(results(compiled), results(layer), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def around_the_layer(network):
    """What the page says to write."""
    page = (Path(__file__).parents[2] / "docs/kernels.md").read_text()
    lines = re.search(r"compile around the layer:\n\n((?: {4}.*\n)+)", page)[1]
    space = {"torch": torch, "HGRU": HGRU, "network": network}
    exec(textwrap.dedent(lines), space)
    return space["network"]


def test_a_copy_of_what_is_compiled_around_has_its_own_weights():
    network = RecurrentNetwork(timesteps=2, h_ext=3, hidden_init="zeros")
    around_the_layer(network)
    twin, X = copy.deepcopy(network), torch.rand(1, 25, 6, 7)
    torch.nn.utils.vector_to_parameters(torch.zeros(10**6), twin.hgru.parameters())
    assert network.hgru(X).any() and not twin.hgru(X).any()


@pytest.mark.slow
@pytest.mark.parametrize("options", CIRCUITS[:2], ids=str)
def test_compiled_around_the_layer(options):
    """What keeps the fused kernels on a GPU: the layer is left to itself (docs/kernels.md)."""
    model = RecurrentNetwork(timesteps=2, h_ext=9, hidden_init="zeros", **options)
    images = torch.rand(2, 1, 12, 13)
    aside = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = around_the_layer(aside)
    for one in (model, compiled):
        one(images)[0].square().sum().backward()
    torch.testing.assert_close(compiled(images)[0], model(images)[0], rtol=1e-4, atol=1e-5)
    expected = dict(model.named_parameters())
    for name, found in aside.named_parameters():
        torch.testing.assert_close(found.grad, expected[name].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("h_ext", [3, 9])
def test_transforms_of_torch_func(h_ext):
    layer = layer_of(adaptation=True, h_ext=h_ext).double()
    X = torch.rand(2, 3, 12, 13, dtype=torch.float64, requires_grad=True)
    expected = layer(X)
    torch.testing.assert_close(torch.func.vmap(lambda x: layer(x[None])[0])(X), expected)
    (gradient,) = torch.autograd.grad(expected.square().sum(), X)
    torch.testing.assert_close(torch.func.grad(lambda x: layer(x).square().sum())(X), gradient)
    ones = torch.ones_like(X)
    _, tangent = torch.func.jvp(layer, (X,), (ones,))
    difference = (layer(X + 1e-5) - layer(X - 1e-5)) / 2e-5
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", CIRCUITS[1:], ids=str)
def test_images_apart_in_evaluation(options):
    """Each by itself: a batch of one, by which the circuit's normalisations normalise."""
    layer, X = layer_of(**options).double().eval(), torch.rand(2, 3, 12, 13, dtype=torch.float64)
    apart = torch.func.vmap(lambda x: layer(x[None])[0])(X)
    torch.testing.assert_close(apart, torch.cat([layer(x[None]) for x in X]))


@pytest.mark.parametrize("h_ext", [3, 9])
def test_forward_mode_without_a_transform(h_ext):
    layer = layer_of(adaptation=True, h_ext=h_ext).double()
    X = torch.rand(2, 3, 12, 13, dtype=torch.float64)
    _, expected = torch.func.jvp(layer, (X,), (torch.ones_like(X),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    torch.testing.assert_close(tangent, expected)
    _, along = torch.func.linearize(layer, X)
    torch.testing.assert_close(along(torch.ones_like(X)), expected)


@pytest.mark.filterwarnings("ignore")  # a trace warns of every condition
@pytest.mark.parametrize("h_ext", [3, 9])
def test_a_trace_takes_other_sizes(h_ext):
    layer = layer_of(adaptation=True, h_ext=h_ext)
    traced = torch.jit.trace(layer, torch.rand(2, 3, 12, 13))
    for shape in [(2, 3, 12, 13), (3, 3, 17, 10)]:
        X = torch.rand(shape)
        torch.testing.assert_close(traced(X), layer(X))


@pytest.mark.parametrize("options", CIRCUITS, ids=str)
@pytest.mark.parametrize("h_ext", [3, 9])
def test_shapes_alone(h_ext, options):
    layer = layer_of(h_ext=h_ext, hidden_init="random", **options).to("meta")
    y = layer(torch.empty(2, 3, 12, 13, device="meta"))
    y.sum().backward()
    assert y.is_meta and y.shape == (2, 3, 12, 13) and layer.W1.grad.is_meta


@pytest.mark.parametrize("options", CIRCUITS, ids=str)
def test_a_batch_of_no_image(options):
    model = RecurrentNetwork(timesteps=2, **options)
    before = {n: b.clone() for n, b in model.named_buffers()}
    logits, activity = model(torch.rand(0, 1, 12, 13))
    logits.sum().backward()
    assert logits.shape == (0, 2) and activity.shape == (0, 25, 12, 13)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("compiler", [None, pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_checkpoint_with_a_noise_generator(compiler):
    layer = layer_of(hidden_init="random").double()
    torch._dynamo.reset()
    call = torch.compile(layer, backend=compiler) if compiler else layer
    layer.noise_generator = torch.Generator()
    X = torch.rand(1, 3, 8, 9, dtype=torch.float64, requires_grad=True)

    def gradient(call):
        layer.noise_generator.manual_seed(3)
        return torch.autograd.grad(call().square().sum(), X)[0]

    plain = gradient(lambda: layer(X))
    again = gradient(lambda: checkpoint(call, X, use_reentrant=False, context_fn=layer.same_noise))
    torch.testing.assert_close(again, plain)
    with pytest.raises(RuntimeError, match="same_noise"):
        gradient(lambda: checkpoint(call, X, use_reentrant=False))


def test_the_states_of_all_steps():
    layer, X, seen = layer_of(timesteps=3), torch.rand(2, 3, 8, 9), []
    H2, states = layer(X, return_states=True)
    layer.probe = lambda t, tensors: seen.append(tensors)
    assert torch.equal(layer(X), H2)
    assert set(states) == {"G1", "C1", "H1", "G2", "C2", "H2"}
    for name, values in states.items():
        assert values.shape == (3, 2, 3, 8, 9)
        assert torch.equal(values, torch.stack([step[name] for step in seen]))
    assert torch.equal(states["H2"][-1], H2)
