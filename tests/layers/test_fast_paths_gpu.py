"""The fused paths on a CUDA device against the plain ones in float64."""

import copy

import pytest
import torch

from layers.hgru import HGRU
from layers.horizontal import HorizontalKernel, horizontal_method
from layers.normalisation import BatchNormalisation
from models.recurrent import RecurrentNetwork
from tests.layers.ranks import Twice
from training.distribution import Ranks
from training.optimizers import optimizer
from training.step import GraphedForward, TrainStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
# Largest ‖difference‖ / ‖reference‖ with TF32 and without, of outputs and of gradients.
TOLERANCE = {True: 1e-2, False: 3e-5}


def difference(a, b):
    return float(((a.double() - b).norm() / b.norm()).detach())


# Every size with its taps, and every block of channels and images, compiles kernels of its own: few
# of them, which the tests of this folder share.
SMALL, ODD = (24, 24), (33, 30)
SHAPES = [  # images, in, out, height, width, taps
    (2, 25, 25, 150, 150, (15, 15)),
    (3, 25, 9, *ODD, (20, 20)),
    (33, 4, 4, *SMALL, (15, 15)),
    (1, 6, 6, 300, 75, (31, 31)),
    (2, 40, 9, *SMALL, (9, 11)),
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


CIRCUITS = [
    (SMALL, {"adaptation": True}),
    (ODD, {"recurrent_nl": "relu", "separate_kernels": True}),
    (SMALL, {"adaptation": True, "lesion_alpha": True, "lesion_omega": True, "recompute": True}),
    (ODD, {"adaptation": True, "lesion_mu": True, "lesion_kappa": True}),
    (SMALL, {"multiplicative_excitation": False, "symmetric_weights": False, "gamma": False}),
    (SMALL, {"batch_norm": True}),
    (ODD, {"batch_norm": True, "reuse": False, "adaptation": True, "lesion_alpha": True}),
    (ODD, {"batch_norm": True, "recurrent_nl": "relu", "separate_kernels": True}),
    (SMALL, {"batch_norm": True, "multiplicative_excitation": False, "gamma": False}),
]


@pytest.mark.parametrize("size, options", CIRCUITS, ids=str)
def test_circuit(size, options, tf32):
    """With the running averages. The gate biases' gradient is 0 with batch normalisation, and what
    rounding leaves of it."""
    torch.manual_seed(0)
    layer = HGRU(6, timesteps=4, hidden_init="identity", **options).to(CUDA)
    X = torch.rand(3, 6, *size, device=CUDA, requires_grad=True)
    g = torch.randn(3, 6, *size, device=CUDA)
    assert layer._fused(layer._prepared(X), X)

    def results(layer, X, g):
        y = layer(X)
        named = layer.named_parameters()
        used = [p for n, p in named if not (layer.batch_norm and n.startswith("b_"))]
        return [y, *torch.autograd.grad(y, [X, *used], g), *(b.clone() for b in layer.buffers())]

    plain = copy.deepcopy(layer).double()
    found = results(layer, X, g)
    with horizontal_method("direct"):
        exact = results(plain, X.double(), g.double())
        assert not plain._fused(plain._prepared(X.double()), X.double())
    limit = (1e-2 if tf32 else 1e-4) if layer.batch_norm else TOLERANCE[tf32]
    pairs = list(zip(found, exact, strict=True))
    if tf32 and layer.recurrent_nl == "relu":
        # The gradients hang on the signs of a few pixels near 0; float32 compares them.
        pairs = [pairs[0], *pairs[len(pairs) - len(list(layer.buffers())) :]]
    for a, b in pairs:
        assert difference(a, b) < limit


def test_circuit_with_batch_normalisation_over_processes():
    """This process's images and another's, which are the same: as one process with both."""
    layer = HGRU(6, timesteps=3, hidden_init="identity", batch_norm=True, reuse=False).to(CUDA)
    X, g = torch.rand(3, 6, *SMALL, device=CUDA), torch.randn(3, 6, *SMALL, device=CUDA)
    plain = copy.deepcopy(layer).double()
    for norm in layer.norms.modules():
        if isinstance(norm, BatchNormalisation):
            norm.over_ranks = Twice(X.device)
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
    X = torch.rand(3, 6, *SMALL, device=CUDA, requires_grad=True)
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
    X = torch.rand(3, 6, *SMALL, device=CUDA, requires_grad=True)
    with pytest.raises(RuntimeError, match="horizontal_method"):
        torch.autograd.grad(layer(X).sum(), X, create_graph=True)


def test_circuit_repeats_bit_for_bit():
    layer = HGRU(25, timesteps=3, hidden_init="identity", adaptation=True).to(CUDA)
    X = torch.rand(2, 25, 150, 150, device=CUDA)
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

    Without TF32 and with cudnn's fixed algorithms: either would let the two runs round otherwise.
    With plain descent, as nadam's first updates are as large for a gradient that is nothing but
    rounding as for any other.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def losses(captured):
        torch.manual_seed(0)
        model = RecurrentNetwork(timesteps=3, adaptation=True).to(CUDA)
        generator = torch.Generator(CUDA)
        model.hgru.noise_generator = generator
        arguments = (
            model, torch.nn.functional.cross_entropy,
            lambda logits, labels: (logits.argmax(1) == labels).float().mean(),
            optimizer("sgd", model.parameters(), 1e-2), 7.0, Ranks(CUDA),
        )  # fmt: skip
        step = TrainStep(*arguments, captured=captured, generators=(generator,))
        data = torch.Generator().manual_seed(5)
        found = []
        for i in range(9):
            generator.manual_seed(i)
            n = 2 if i == 6 else 4
            images = torch.rand(n, 1, *SMALL, generator=data).to(CUDA)
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
    model.hgru.noise_generator = generator
    forward = GraphedForward(model, (generator,))
    for i, n in enumerate((4, 4, 4, 2, 4)):
        images = torch.rand(n, 1, *SMALL, device=CUDA)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        expected, found = (
            call(images)[0].clone() for call in (model, forward) if generator.manual_seed(i)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
