"""The horizontal convolution: every method against float64 and against an independent library."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch.utils.checkpoint import checkpoint

from layers.horizontal import (
    HorizontalKernel,
    direct_convolution,
    fast_length,
    horizontal_method,
    same_padding,
)

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def difference(a, b):
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-30))


def results(x, W, g, method, symmetric=False):
    """Output and gradients of two applications of one kernel (of one where channels differ)."""
    x, W = x.clone().requires_grad_(), W.clone().requires_grad_()
    kernel = HorizontalKernel(W, symmetric=symmetric, method=method)
    y = kernel(x)
    if W.shape[0] == W.shape[1]:
        y = kernel(torch.tanh(y))
    return [y, *torch.autograd.grad((y * g).sum(), (x, W))]


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 28), st.integers(1, 28)),
    taps=st.tuples(st.integers(1, 31), st.integers(1, 31)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_fft_meets_float64_direct(images, channels, size, taps, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = channels

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x, g = draw(images, inputs, *size), draw(images, outputs, *size)
    W = draw(outputs, inputs, *taps) / (inputs * taps[0] * taps[1]) ** 0.5
    symmetric = outputs == inputs
    found = results(x, W, g, "fft", symmetric)
    exact = results(x.double(), W.double(), g.double(), "direct", symmetric)
    for a, b in zip(found, exact, strict=True):
        scale = b.norm() + 1e-2 * b.numel() ** 0.5
        assert float((a.double() - b).detach().norm() / scale.detach()) < TOLERANCE[dtype]


@pytest.mark.parametrize("taps", [(15, 15), (20, 20), (4, 7)])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_same_padding_is_tensorflows(taps, method):
    """Against scipy: the full correlation, of which same padding keeps the part from the tap that
    (k − 1) // 2 zeros before the image put first."""
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((2, 3, 24, 21)), rng.standard_normal((2, 3, *taps))
    full = [
        [sum(signal.correlate2d(x[n, i], W[o, i]) for i in range(3)) for o in range(2)]
        for n in range(2)
    ]
    top, left = (k - 1 - same_padding(k)[0] for k in taps)
    expected = np.array(full)[:, :, top : top + 24, left : left + 21]
    found = HorizontalKernel(torch.from_numpy(W), method=method)(torch.from_numpy(x))
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_padding_of_even_kernels():
    assert same_padding(20) == (9, 10)
    assert same_padding(15) == (7, 7)


def test_fft_passes_gradcheck():
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    W = torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, W: HorizontalKernel(W, method="fft")(x), (x, W))


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_symmetric_gradient(method):
    x, W = torch.randn(2, 3, 9, 9, dtype=torch.float64), torch.randn(3, 3, 5, 5).double()
    g = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    plain, symmetric = results(x, W, g, method)[2], results(x, W, g, method, True)[2]
    torch.testing.assert_close(symmetric, 0.5 * (plain + plain.transpose(0, 1)))


def test_gradient_sum_survives_broken_off_and_repeated_passes():
    """The shared sum of the spectrum's gradient starts afresh however a pass before it ended."""
    W = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    kernel = HorizontalKernel(W, method="fft")
    y = kernel(kernel(x)).square().sum()
    (first,) = torch.autograd.grad(y, W, retain_graph=True)
    torch.autograd.grad(y, x, retain_graph=True)  # asks for no gradient of W
    (second,) = torch.autograd.grad(y, W, retain_graph=True)
    assert torch.equal(first, second)
    reference = HorizontalKernel(W, method="direct")
    (expected,) = torch.autograd.grad(reference(reference(x)).square().sum(), W)
    torch.testing.assert_close(first, expected)


def test_gradient_sums_of_two_backward_passes_at_once():
    """In each the first application waits for the other pass's; hooks keep what went by alive."""
    W = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    kernel = HorizontalKernel(W, method="fft")
    once = kernel(x)
    losses = [once.sum() + kernel(once).square().sum(), once.sum() - kernel(once.sin()).sum()]
    expected = [torch.autograd.grad(loss, W, retain_graph=True)[0] for loss in losses]
    both, kept = threading.Barrier(2, timeout=60), []
    once.grad_fn.register_prehook(lambda gradients: (both.wait(), gradients)[1])
    once.grad_fn.register_hook(lambda *gradients: kept.append(gradients))

    def gradient(loss):
        return torch.autograd.grad(loss, W, retain_graph=True)[0]

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            for found, exact in zip(pool.map(gradient, losses), expected, strict=True):
                torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_gradients_after_a_call_without(method, first):
    W = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)

    def gradients(kernel):
        return torch.autograd.grad(kernel(x).square().sum(), [x, W])

    kernel = HorizontalKernel(W, method=method)
    with first():
        kernel(x)
    torch.testing.assert_close(gradients(kernel), gradients(HorizontalKernel(W, method=method)))


def gradients_of_three(apply, W, x):
    """Of W and x, through three applications one after the other."""
    y, W.grad, x.grad = x, None, None
    for _ in range(3):
        y = apply(y).sin()
    y.sum().backward()
    return W.grad, x.grad


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_each_application_in_a_checkpoint(method, reentrant):
    W = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    kernel = HorizontalKernel(W, method=method)
    found = gradients_of_three(lambda y: checkpoint(kernel, y, use_reentrant=reentrant), W, x)
    expected = gradients_of_three(HorizontalKernel(W, method=method), W, x)
    torch.testing.assert_close(found, expected)


def test_second_derivative_is_refused_by_fft_and_given_by_direct():
    W = torch.randn(2, 2, 5, 5, requires_grad=True)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    loss = HorizontalKernel(W, method="fft")(x).square().sum()
    with pytest.raises(RuntimeError, match="horizontal_method"):
        torch.autograd.grad(loss, x, create_graph=True)
    with horizontal_method("direct"):
        loss = HorizontalKernel(W)(x).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), x)[0].abs().sum() > 0


def test_choice_can_be_forced_and_is_restored():
    W, x = torch.randn(2, 2, 15, 15), torch.randn(1, 2, 30, 30)
    automatic = HorizontalKernel(W).method_for(x)
    with horizontal_method("direct"):
        assert HorizontalKernel(W).method_for(x) == "direct"
        assert HorizontalKernel(W, method="fft").method_for(x) == "fft"
    assert HorizontalKernel(W).method_for(x) == automatic
    for taps, method in (((3, 3), "direct"), ((20, 4), "direct"), ((3, 27), "fft")):  # 81 of them
        assert HorizontalKernel(torch.randn(2, 2, *taps)).method_for(x) == method
    assert HorizontalKernel(W.half()).method_for(x.half()) == "direct"


def test_errors_say_what_is_wrong():
    W, x = torch.randn(2, 2, 15, 15), torch.randn(1, 2, 30, 30)
    with pytest.raises(ValueError, match="'quick'"), horizontal_method("quick"):
        raise AssertionError("the block must not be entered")
    with pytest.raises(ValueError, match="as many output as input"):
        HorizontalKernel(torch.randn(2, 3, 5, 5), symmetric=True)
    with pytest.raises(ValueError, match=r"\(K_out, K_in, h, w\)"):
        HorizontalKernel(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"\(N, 2, H, W\)"):
        HorizontalKernel(W)(torch.randn(1, 3, 30, 30))
    with pytest.raises(ValueError, match=r"\(N, 2, H, W\)"):
        HorizontalKernel(W)(torch.randn(1, 2, 30))
    with pytest.raises(ValueError, match="float64"):
        HorizontalKernel(W)(x.double())
    with pytest.raises(ValueError, match="CUDA"):
        HorizontalKernel(W, method="triton")(x)


def test_whatever_the_default_device_is():
    x, W = torch.rand(2, 3, 12, 13), torch.rand(3, 3, 9, 9)
    expected = HorizontalKernel(W, method="fft")(x)
    with torch.device("meta"):
        assert torch.equal(HorizontalKernel(W, method="fft")(x), expected)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_one_kernel_on_images_of_several_sizes(method):
    W = torch.randn(3, 2, 9, 6, dtype=torch.float64)
    kernel = HorizontalKernel(W, method=method)
    for size in ((12, 13), (30, 7), (12, 13)):
        x = torch.randn(1, 2, *size, dtype=torch.float64)
        torch.testing.assert_close(kernel(x), direct_convolution(x, W))


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_no_image_by_any_method(method):
    W = torch.randn(3, 2, 5, 5, requires_grad=True)
    y = HorizontalKernel(W, method=method)(torch.randn(0, 2, 8, 8))
    assert y.shape == (0, 3, 8, 8)


def test_direct_keeps_the_size():
    x = torch.randn(1, 2, 7, 6)
    assert direct_convolution(x, torch.randn(3, 2, 20, 5)).shape == (1, 3, 7, 6)


@given(st.integers(1, 3000))
def test_fast_length(least):
    n = fast_length(least)
    assert n >= least and n % 2 == 0
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    assert n == 1
