"""The fused paths on a CUDA device against the plain ones in float64."""

import copy

import pytest
import torch

from layers.hgru import HGRU
from layers.horizontal import HorizontalKernel, horizontal_method
from layers.normalisation import BatchNormalisation
from models.recurrent import RecurrentNetwork
from training.distribution import Ranks
from training.optimizers import optimizer
from training.step import GraphedForward, TrainStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
# Largest ‖difference‖ / ‖reference‖ with TF32 and without, of outputs and of gradients. A relu
# whose input's sign is a matter of rounding has another gradient: hence more room for its circuit.
TOLERANCE = {True: 1e-2, False: 3e-5}
RELU_TOLERANCE = {True: 4e-2, False: 3e-5}


def difference(a, b):
    return float((a.double() - b).norm() / b.norm())


SHAPES = [  # images, in, out, height, width, taps
    (2, 25, 25, 150, 150, (15, 15)),
    (1, 3, 3, 37, 50, (15, 15)),
    (3, 25, 9, 41, 33, (20, 20)),
    (2, 9, 9, 150, 150, (20, 20)),
    (33, 4, 4, 20, 21, (9, 11)),
    (1, 6, 6, 300, 75, (31, 31)),
    (2, 40, 40, 24, 24, (3, 3)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution(shape, tf32):
    images, inputs, outputs, height, width, taps = shape
    x = torch.randn(images, inputs, height, width, device=CUDA, requires_grad=True)
    W = torch.randn(outputs, inputs, *taps, device=CUDA)
    W = (W / (inputs * taps[0] * taps[1]) ** 0.5).requires_grad_()
    g = torch.randn(images, outputs, height, width, device=CUDA)

    def results(x, W, g, method):
        kernel = HorizontalKernel(W, method=method)
        y = kernel(x) + kernel(2 * x)
        return [y, *torch.autograd.grad(y, (x, W), g)]

    exact = results(x.double(), W.double(), g.double(), "direct")
    for a, b in zip(results(x, W, g, "triton"), exact, strict=True):
        assert torch.isfinite(a).all()
        assert difference(a, b) < TOLERANCE[tf32]


OPTIONS = [
    {"adaptation": True},
    {"recurrent_nl": "relu", "separate_kernels": True},
    {"adaptation": True, "lesion_alpha": True, "lesion_omega": True, "recompute": True},
    {"adaptation": True, "lesion_mu": True, "lesion_kappa": True},
    {"multiplicative_excitation": False, "symmetric_weights": False, "gamma": False},
]


@pytest.mark.parametrize("size", [(24, 24), (33, 30)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o))
def test_circuit(options, size, tf32):
    layer = HGRU(6, timesteps=4, hidden_init="identity", **options).to(CUDA)
    X = torch.rand(3, 6, *size, device=CUDA, requires_grad=True)
    g = torch.randn(3, 6, *size, device=CUDA)

    def results(layer, X, g):
        y = layer(X)
        return [y, *torch.autograd.grad(y, [X, *layer.parameters()], g)]

    found = results(layer, X, g)
    with horizontal_method("direct"):
        exact = results(copy.deepcopy(layer).double(), X.double(), g.double())
    limits = RELU_TOLERANCE if options.get("recurrent_nl") == "relu" else TOLERANCE
    for a, b in zip(found, exact, strict=True):
        assert difference(a, b) < limits[tf32]


BATCH_NORM = [
    {},
    {"reuse": False, "adaptation": True, "lesion_alpha": True},
    {"recurrent_nl": "relu", "separate_kernels": True},
    {"multiplicative_excitation": False, "gamma": False, "symmetric_weights": False},
]


@pytest.mark.parametrize("size", [(24, 24), (33, 30)], ids=str)
@pytest.mark.parametrize("options", BATCH_NORM, ids=lambda o: "-".join(o) or "plain")
def test_circuit_with_batch_normalisation(options, size, tf32):
    """With the running averages. The gate biases' gradient is 0, and what rounding leaves of it."""
    layer = HGRU(6, timesteps=4, hidden_init="identity", batch_norm=True, **options).to(CUDA)
    X = torch.rand(3, 6, *size, device=CUDA, requires_grad=True)
    g = torch.randn(3, 6, *size, device=CUDA)
    assert layer._fused(layer._prepared(X), X)

    def results(layer, X, g):
        y = layer(X)
        named = {n: p for n, p in layer.named_parameters() if not n.startswith("b_")}
        gradients = torch.autograd.grad(y, [X, *named.values()], g)
        return [y, *gradients, *(b.clone() for b in layer.buffers())]

    plain = copy.deepcopy(layer).double()
    found = results(layer, X, g)
    with horizontal_method("direct"):
        exact = results(plain, X.double(), g.double())
        assert not plain._fused(plain._prepared(X.double()), X.double())
    pairs = list(zip(found, exact, strict=True))
    if tf32 and options.get("recurrent_nl") == "relu":
        # The letters' gradients hang on the signs of a few pixels near 0; float32 compares them.
        pairs = [pairs[0], *pairs[-len(list(layer.buffers())) :]]
    for a, b in pairs:
        assert difference(a, b) < (1e-2 if tf32 else 1e-4)


def test_circuit_with_batch_normalisation_over_processes():
    """This process's images and another's, which are the same: as one process with both."""
    layer = HGRU(6, timesteps=3, hidden_init="identity", batch_norm=True, reuse=False).to(CUDA)
    X, g = torch.rand(3, 6, 24, 24, device=CUDA), torch.randn(3, 6, 24, 24, device=CUDA)
    plain = copy.deepcopy(layer).double()
    for norm in layer.norms.modules():
        if isinstance(norm, BatchNormalisation):
            norm.over_ranks = lambda mean, variance, n: (mean, variance, mean.new_tensor(2.0 * n))
            norm.sum_over_ranks = lambda sums: 2 * sums
    assert layer._fused(layer._prepared(X), X)

    def results(layer, X, g):
        X.requires_grad_()
        y = layer(X)
        named = {n: p for n, p in layer.named_parameters() if not n.startswith("b_")}
        return [y, *torch.autograd.grad(y, [X, *named.values()], g)]

    with horizontal_method("triton"):
        (y, x, *parameters) = results(layer, X, g)
    with horizontal_method("direct"):
        exact = results(plain, *(torch.cat([t, t]).double() for t in (X.detach(), g)))
    for a, b in zip([y, x], exact[:2], strict=True):
        assert difference(a, b[:3]) < 1e-2
    for a, b in zip(parameters, exact[2:], strict=True):
        assert difference(2 * a, b) < 1e-2
    for a, b in zip(layer.buffers(), plain.buffers(), strict=True):
        assert difference(a, b) < 1e-2


def test_circuit_is_differentiated_twice_over():
    """With retain_graph, to the same bits; an edited weight is noticed."""
    layer = HGRU(6, timesteps=2, hidden_init="identity").to(CUDA)
    X = torch.rand(1, 6, 20, 20, device=CUDA, requires_grad=True)
    loss, weights = layer(X).square().sum(), list(layer.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        layer.U1.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(loss, weights)


def test_circuit_refuses_a_second_derivative():
    layer = HGRU(6, timesteps=2, hidden_init="identity").to(CUDA)
    X = torch.rand(1, 6, 20, 20, device=CUDA, requires_grad=True)
    with pytest.raises(RuntimeError, match="horizontal_method"):
        torch.autograd.grad(layer(X).sum(), X, create_graph=True)


def test_circuit_repeats_bit_for_bit():
    layer = HGRU(25, timesteps=3, hidden_init="identity", adaptation=True).to(CUDA)
    X = torch.rand(4, 25, 60, 60, device=CUDA)
    first, second = (
        torch.autograd.grad(layer(X).square().sum(), list(layer.parameters())) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shift", [True, False])
def test_batch_normalisation(shift):
    norm = BatchNormalisation(7, scale=0.1, shift=shift).to(CUDA)
    plain = copy.deepcopy(norm).double()
    x = (torch.randn(5, 7, 61, 50, device=CUDA) * 3 + 10).requires_grad_()
    g = torch.randn_like(x)
    y = norm(x)
    found = [y, *torch.autograd.grad(y, [x, *norm.parameters()], g)]
    y = plain(x.double())
    exact = [y, *torch.autograd.grad(y, [x, *plain.parameters()], g.double())]
    found += [norm.running_mean, norm.running_var]
    exact += [plain.running_mean, plain.running_var]
    for a, b in zip(found, exact, strict=True):
        assert difference(a, b.double()) < 3e-5


def test_captured_step_gives_the_eager_steps_numbers(monkeypatch):
    """With random hidden states, a smaller batch between, and the generators seeded at each.

    Without TF32 and with cudnn's fixed algorithms: either would let the two runs round otherwise,
    and nadam's first updates are as large for a gradient near zero as for any other.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def losses(captured):
        torch.manual_seed(0)
        model = RecurrentNetwork(timesteps=3, adaptation=True).to(CUDA)
        generator = torch.Generator(CUDA)
        model.set_generator(generator)
        arguments = (
            model, torch.nn.functional.cross_entropy,
            lambda logits, labels: (logits.argmax(1) == labels).float().mean(),
            optimizer("nadam", model.parameters(), 1e-3), 7.0, Ranks(CUDA),
        )  # fmt: skip
        step = TrainStep(*arguments, captured=captured, generators=(generator,))
        data = torch.Generator().manual_seed(5)
        found = []
        for i in range(9):
            generator.manual_seed(i)
            n = 2 if i == 6 else 4
            images = torch.rand(n, 1, 40, 40, generator=data).to(CUDA)
            labels = torch.randint(0, 2, (n,), generator=data).to(CUDA)
            found.append(torch.stack([v.detach().clone() for v in step(images, labels)]))
        return torch.stack(found), list(model.parameters())

    eager, eager_weights = losses(captured=False)
    captured, captured_weights = losses(captured=True)
    torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-5)
    for a, b in zip(captured_weights, eager_weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


@torch.no_grad()
def test_captured_forward_pass_gives_the_eager_ones_numbers():
    """With random hidden states, a smaller batch between, and weights that are updated in place."""
    torch.manual_seed(0)
    model = RecurrentNetwork(timesteps=3, adaptation=True).to(CUDA).eval()
    generator = torch.Generator(CUDA)
    model.set_generator(generator)
    forward = GraphedForward(model, (generator,))
    for i, n in enumerate((4, 4, 4, 2, 4)):
        images = torch.rand(n, 1, 40, 40, device=CUDA)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        expected, found = (
            call(images)[0].clone() for call in (model, forward) if generator.manual_seed(i)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
