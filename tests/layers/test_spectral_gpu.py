"""The spectra on a CUDA device, half precision and float32: any shape, any magnitude, NaN."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from layers.horizontal import HorizontalKernel
from tests.layers.test_fast_paths_gpu import CUDA, ODD, SMALL, TOLERANCE, difference
from tests.layers.test_horizontal import gradients_of_three

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def results(x, W, g, method):
    y = HorizontalKernel(W, method=method)(x)
    return [y, *torch.autograd.grad(y, (x, W), g)]


def largest_difference(x, W, g):
    """Of output, activity's and kernel's gradient from those of a direct float64 convolution."""
    x, W = x.requires_grad_(), W.requires_grad_()
    exact = results(x.double(), W.double(), g.double(), "direct")
    pairs = zip(results(x, W, g, "triton"), exact, strict=True)
    return max(difference(a.detach(), b.detach()) for a, b in pairs)


def test_each_application_in_a_checkpoint_within_autocast():
    x = torch.randn(2, 3, *SMALL, device=CUDA, requires_grad=True)
    W = torch.randn(3, 3, 15, 15, device=CUDA, requires_grad=True)
    kernel = HorizontalKernel(W, method="triton")
    expected = gradients_of_three(HorizontalKernel(W, method="triton"), W, x)
    with torch.autocast("cuda", torch.float16):
        found = gradients_of_three(lambda y: checkpoint(kernel, y, use_reentrant=True), W, x)
    # In another order: three sums of one term, each transformed back, for one sum of three.
    for a, b in zip(found, expected, strict=True):
        assert difference(a, b) < TOLERANCE[False]


# Few sizes, and few blocks of images and channels, as every new one compiles its kernels first.
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    images=st.integers(1, 8),
    channels=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    shape=st.sampled_from([(SMALL, (15, 15)), (ODD, (20, 20)), ((180, 53), (31, 4))]),
    seed=st.integers(0, 2**31),
)
def test_random_shapes(tf32, images, channels, shape, seed):
    size, taps = shape
    generator = torch.Generator(CUDA).manual_seed(seed)
    outputs, inputs = channels

    def draw(*shape):
        return torch.randn(*shape, device=CUDA, generator=generator)

    x, g = draw(images, inputs, *size), draw(images, outputs, *size)
    W = draw(outputs, inputs, *taps) / inputs**0.5
    assert largest_difference(x, W, g) < TOLERANCE[tf32]


@pytest.mark.parametrize("images", [64, 48])  # 32 and 16 at once
@pytest.mark.parametrize("channels", [(25, 25), (3, 18), (18, 3)])
def test_many_images(channels, images, tf32):
    """Products in half precision in CUDA C++: both directions, and the gradient's sum twice."""
    outputs, inputs = channels
    x, g = (
        torch.randn(images, inputs, *SMALL, device=CUDA),
        torch.randn(images, outputs, *SMALL, device=CUDA),
    )
    W = torch.randn(outputs, inputs, 15, 15, device=CUDA) / inputs**0.5
    assert largest_difference(x, W, g) < TOLERANCE[tf32]

    def twice(x, W, method):
        convolve = HorizontalKernel(W, method=method)
        y = convolve(x) + convolve(x.flip(0))
        return torch.autograd.grad(y, W, g.to(y.dtype))[0]

    W, x = W.detach().requires_grad_(), x.detach()
    exact = twice(x.double(), W.double(), "direct")
    found = [twice(x, W, "triton") for _ in range(2)]
    assert torch.equal(*found)
    assert difference(found[0], exact) < TOLERANCE[tf32]


def test_any_magnitude(tf32):
    """Each image has exponents of its own: half precision alone holds none of these."""
    magnitude = torch.logspace(-25, 15, 5, device=CUDA).view(5, 1, 1, 1)
    x = torch.randn(5, 4, *SMALL, device=CUDA) * magnitude
    g = torch.randn(5, 4, *SMALL, device=CUDA) / magnitude
    W = torch.randn(4, 4, 15, 15, device=CUDA) * 1e-6
    for i in range(5):
        one = slice(i, i + 1)
        assert largest_difference(x[one].clone(), W.clone(), g[one]) < TOLERANCE[tf32]
    y = HorizontalKernel(W, method="triton")(x)
    exact = HorizontalKernel(W.double(), method="direct")(x.double())
    for a, b in zip(y, exact, strict=True):
        assert difference(a, b) < TOLERANCE[tf32]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stays_in_its_image(bad, tf32):
    x = torch.randn(2, 4, *SMALL, device=CUDA)
    x[1, 0, 7, 7] = bad
    y = HorizontalKernel(torch.randn(4, 4, 15, 15, device=CUDA), method="triton")(x)
    assert torch.isfinite(y[0]).all()
    assert not torch.isfinite(y[1]).all()


def test_zeros(tf32):
    x = torch.zeros(1, 4, *SMALL, device=CUDA)
    W = torch.randn(4, 4, 15, 15, device=CUDA)
    assert not HorizontalKernel(W, method="triton")(x).any()
    assert not HorizontalKernel(0 * W, method="triton")(x + 1).any()
