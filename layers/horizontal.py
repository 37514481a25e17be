"""The horizontal convolution: one large kernel, used many times in a pass.

The circuit applies the same K×K×15×15 kernel twice at each of eight timesteps. Here the kernel is
prepared once a pass and then applied to as many activities as the circuit likes::

    kernel = HorizontalKernel(W, symmetric=True)
    C1 = kernel(H2 * G1)            # (N, K, H, W) -> (N, K, H, W)
    C2 = kernel(H1)

Three methods give the same numbers to rounding. ``direct`` is PyTorch's own convolution, the plain
reference. ``fft`` multiplies spectra: the kernel's is computed once and shared by every
application, and the kernel's gradient is summed over applications in the frequency domain and
brought back once. ``triton`` (layers/spectral_triton.py) is the same product on a CUDA device, with
the transforms as matrix products on its matrix units; it rounds to TF32 where PyTorch's own
convolutions may (torch.backends.cudnn.allow_tf32). :func:`horizontal_method` forces one.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.initial import symmetric_gradient

METHODS = ("auto", "direct", "fft", "triton")
_forced: contextvars.ContextVar[str] = contextvars.ContextVar("horizontal_method", default="auto")

# From here up, by the kernel's taps (height × width), the method is faster than `direct`
# (benchmarks/scaling.py); Triton's in a captured step.
FFT_TAPS_CPU = 81
FFT_TAPS_CUDA = 400
TRITON_TAPS = 49


@contextlib.contextmanager
def horizontal_method(method: str) -> Iterator[None]:
    """Within the block, every kernel made without a method of its own uses this one.

    ``method``: 'auto' (chosen by shape and device), 'direct', 'fft' or 'triton'. Raises
    ValueError for another name.
    """
    token = _forced.set(_known(method))
    try:
        yield
    finally:
        _forced.reset(token)


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    return method


def same_padding(size: int) -> tuple[int, int]:
    """Zeros (before, after) that keep an axis' length: TensorFlow's rule, 20 → (9, 10)."""
    return (size - 1) // 2, size // 2


class HorizontalKernel:
    """A kernel prepared for one pass, to be called on activities.

    Args:
        W: (K_out, K_in, h, w), float32 or float64; any sizes, even ones too.
        symmetric: the gradient that reaches W is ½(g + gᵀ) over in and out channels, so that a
            kernel that starts symmetric stays so (SPEC 5, `symmetric_weights`).
        method: None (what :func:`horizontal_method` says, 'auto' by default) or a method's name.

    Calling it: activity (N, K_in, H, W) → (N, K_out, H, W), same padding, stride 1. Its spectrum
    is made at the first call for an image size and kept; make a new object after W has changed.

    Raises ValueError when W is not square over channels although `symmetric`, when W is not
    four-dimensional, or when an activity's channels or type differ from the kernel's.
    """

    def __init__(self, W: Tensor, symmetric: bool = False, method: str | None = None):
        if W.dim() != 4:
            raise ValueError(f"W has shape {tuple(W.shape)}; expected (K_out, K_in, h, w)")
        if symmetric and W.shape[0] != W.shape[1]:
            raise ValueError(
                f"a symmetric W needs as many output as input channels, got {tuple(W.shape)}"
            )
        self.W = symmetric_gradient(W) if symmetric else W
        self.method = _known(method or _forced.get())
        self._prepared: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def __call__(self, activity: Tensor) -> Tensor:
        self._check(activity)
        method = self.method_for(activity)
        if method == "direct":
            return direct_convolution(activity, self.W)
        sizes = (*activity.shape[-2:], *self.W.shape[-2:])
        if (method, sizes) not in self._prepared:
            self._prepared[method, sizes] = self._prepare(method, sizes)
        return self._prepared[method, sizes](activity)

    def method_for(self, activity: Tensor) -> str:
        """The method a call on this activity takes: 'direct', 'fft' or 'triton'."""
        if self.method != "auto":
            return self.method
        if activity.dtype not in (torch.float32, torch.float64) or activity.numel() == 0:
            return "direct"
        taps = self.W.shape[-2] * self.W.shape[-1]
        if self._fits_triton(activity):
            return "triton" if taps >= TRITON_TAPS else "direct"
        return "fft" if taps >= (FFT_TAPS_CUDA if activity.is_cuda else FFT_TAPS_CPU) else "direct"

    def _prepare(self, method: str, sizes: tuple[int, int, int, int]) -> Callable[[Tensor], Tensor]:
        if method == "fft":
            return _FFTKernel(self.W, sizes)
        from layers.spectral_triton import TritonKernel  # needs Triton, which not all machines have

        return TritonKernel(self.W, sizes)

    def _fits_triton(self, activity: Tensor) -> bool:
        """Float32, at most 64 channels, and tensors of fewer than 2³¹ numbers, on a recent GPU."""
        channels = max(self.W.shape[:2])
        if not activity.is_cuda or activity.dtype != torch.float32 or channels > 64:
            return False
        spread = activity.shape[0] * channels * (activity.shape[2] + 64) * (activity.shape[3] + 64)
        return 2 * spread < 2**31 and has_triton(activity.device)

    def _check(self, activity: Tensor) -> None:
        if activity.dim() != 4 or activity.shape[1] != self.W.shape[1]:
            raise ValueError(
                f"activity has shape {tuple(activity.shape)}; expected "
                f"(N, {self.W.shape[1]}, H, W) for a kernel of shape {tuple(self.W.shape)}"
            )
        if activity.dtype != self.W.dtype:
            raise ValueError(f"activity is {activity.dtype} and W {self.W.dtype}; make them alike")
        if self.method == "triton" and not self._fits_triton(activity):
            raise ValueError(
                "method 'triton' needs float32, at most 64 channels and a CUDA device of compute "
                f"capability 8.0 or more with Triton installed; got {activity.dtype}, "
                f"{max(self.W.shape[:2])} channels, {activity.device}"
            )


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton is installed and this CUDA device has matrix units that take TF32."""
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def wants_triton(device: torch.device) -> bool:
    """Whether fused kernels may take the place of PyTorch's own here: where Triton runs, unless
    :func:`horizontal_method` asks for 'direct'."""
    return device.type == "cuda" and _forced.get() != "direct" and has_triton(device)


def direct_convolution(activity: Tensor, W: Tensor) -> Tensor:
    """The plain reference: PyTorch's convolution with same padding. Shapes as the kernel's call."""
    top, bottom = same_padding(W.shape[-2])
    left, right = same_padding(W.shape[-1])
    if (top, left) == (bottom, right):
        return F.conv2d(activity, W, padding=(top, left))
    return F.conv2d(F.pad(activity, (left, right, top, bottom)), W)


@dataclass(frozen=True)
class _Plan:
    """The sizes of one spectral convolution: image, kernel, and the transform's length each way.

    Same padding reads at most `reach` pixels past an edge, so a transform of that much more than
    the image wraps nothing into the result.
    """

    height: int
    width: int
    taps_y: int
    taps_x: int
    rows: int
    columns: int

    @classmethod
    def of(cls, height: int, width: int, taps_y: int, taps_x: int) -> _Plan:
        rows = fast_length(height + same_padding(taps_y)[1])
        columns = fast_length(width + same_padding(taps_x)[1])
        return cls(height, width, taps_y, taps_x, rows, columns)

    def waves(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """exp(iθd) of every frequency at every tap: (rows, taps_y) and (columns // 2 + 1, taps_x),
        d counted from the tap that lies on the output's pixel."""
        down = _waves(self.rows, self.rows, self.taps_y, like)
        along = _waves(self.columns, self.columns // 2 + 1, self.taps_x, like)
        return down, along


def _waves(length: int, frequencies: int, taps: int, like: Tensor) -> Tensor:
    d = torch.arange(taps, dtype=torch.float64) - same_padding(taps)[0]
    k = torch.arange(frequencies, dtype=torch.float64)
    turn = torch.remainder(torch.outer(k, d), length) / length
    waves = torch.polar(torch.ones_like(turn), 2 * math.pi * turn)
    return waves.to(device=like.device, dtype=like.dtype.to_complex())


def fast_length(least: int) -> int:
    """The smallest even number from `least` up without a prime factor above 5."""
    n = least + least % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


class GradientSum:
    """Where one pass's applications add up the gradient of the spectrum they share.

    Autograd would add sixteen large tensors; instead the first application to run backward hands
    its tensor to autograd and the others add into that same one. Only autograd keeps it alive, so
    a pass that was broken off, or that asked for no gradient of W, leaves nothing behind.
    """

    def __init__(self) -> None:
        self._tensor: weakref.ref[Tensor] | None = None

    def add(self, put: Callable[[], Tensor], join: Callable[[Tensor], object]) -> Tensor | None:
        """`put` makes the sum's first term, `join` adds to the sum in place. Returns what to hand
        to autograd: the sum if it is new, None if autograd holds it already."""
        held = self._tensor() if self._tensor else None
        if held is not None:
            join(held)
            return None
        held = put()
        self._tensor = weakref.ref(held)
        return held


class _FFTKernel:
    """W's spectrum for one image size, to be called on activities."""

    def __init__(self, W: Tensor, sizes: tuple[int, int, int, int]):
        self.plan = _Plan.of(*sizes)
        self.spectrum = _Spectrum.apply(W, self.plan)
        self.sum = GradientSum()

    def __call__(self, activity: Tensor) -> Tensor:
        return _SpectralConvolution.apply(activity, self.spectrum, self.plan, self.sum)


class _Spectrum(torch.autograd.Function):
    """W (O, I, h, w) → its conjugate spectrum S (frequencies, 2 O, 2 I), frequencies = rows × half
    row, as real numbers: [[Re S, −Im S], [Im S, Re S]].

    A batched product of real matrices is one call of the BLAS; of complex ones, a call a frequency.

    The gradient it receives is the sum over images of [Re Ĝ, Im Ĝ]ᵀ [Re X̂, Im X̂], the half plane's
    terms once.
    """

    @staticmethod
    def forward(ctx, W, plan):
        ctx.plan, ctx.shape, ctx.like = plan, W.shape, W.new_empty(0)
        outputs, inputs = W.shape[:2]
        down, along = plan.waves(W)
        taps = W.permute(2, 3, 0, 1).reshape(plan.taps_y, plan.taps_x, -1).to(along.dtype)
        half = torch.matmul(along, taps)  # (taps_y, half row, O·I)
        full = (down @ half.reshape(plan.taps_y, -1)).view(-1, outputs, inputs)
        blocks = W.new_empty(len(full), 2, outputs, 2, inputs)
        blocks[:, 0, :, 0] = blocks[:, 1, :, 1] = full.real
        blocks[:, 1, :, 0] = full.imag
        blocks[:, 0, :, 1] = -full.imag
        return blocks.view(-1, 2 * outputs, 2 * inputs)

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward()
        plan = ctx.plan
        outputs, inputs = ctx.shape[:2]
        blocks = grad.view(-1, 2, outputs, 2, inputs)
        conjugate = torch.complex(  # conj(Ĝ) X̂
            blocks[:, 0, :, 0] + blocks[:, 1, :, 1], blocks[:, 0, :, 1] - blocks[:, 1, :, 0]
        )
        down, along = plan.waves(ctx.like)
        half_row = plan.columns // 2 + 1
        columns = down.t() @ conjugate.reshape(plan.rows, -1)  # (taps_y, half row · O·I)
        weight = along.new_full((half_row, 1), 2 / (plan.rows * plan.columns))
        weight[0] /= 2
        weight[-1] /= 2
        along = (along * weight).t()
        taps = torch.matmul(along, columns.view(plan.taps_y, half_row, -1)).real
        return taps.view(plan.taps_y, plan.taps_x, *ctx.shape[:2]).permute(2, 3, 0, 1), None


class _SpectralConvolution(torch.autograd.Function):
    """Activity (N, I, H, W) and a spectrum (frequencies, 2 O, 2 I) → (N, O, H, W)."""

    @staticmethod
    def forward(ctx, activity, spectrum, plan, gradient_sum):
        transformed = _transform(activity, plan)  # (frequencies, 2 I, N)
        out = _inverse(torch.bmm(spectrum, transformed), plan)
        ctx.plan, ctx.gradient_sum = plan, gradient_sum
        ctx.save_for_backward(spectrum, transformed if ctx.needs_input_grad[1] else None)
        return out

    @staticmethod
    def backward(ctx, grad):
        refuse_double_backward()
        spectrum, transformed = ctx.saved_tensors
        gradient = _transform(grad, ctx.plan)  # (frequencies, 2 O, N)
        grad_spectrum = grad_activity = None
        if ctx.needs_input_grad[0]:
            grad_activity = _inverse(torch.bmm(spectrum.transpose(1, 2), gradient), ctx.plan)
        if ctx.needs_input_grad[1]:
            right = transformed.transpose(1, 2)
            grad_spectrum = ctx.gradient_sum.add(
                lambda: torch.bmm(gradient, right), lambda sum: sum.baddbmm_(gradient, right)
            )
        return grad_activity, grad_spectrum, None, None


def _transform(activity: Tensor, plan: _Plan) -> Tensor:
    """(N, K, H, W) → (frequencies, 2 K, N), real parts before imaginary ones: channels and images
    of a frequency together."""
    images, channels = activity.shape[:2]
    spectrum = torch.view_as_real(torch.fft.rfft2(activity, (plan.rows, plan.columns)))
    return spectrum.permute(2, 3, 4, 1, 0).reshape(-1, 2 * channels, images)


def _inverse(product: Tensor, plan: _Plan) -> Tensor:
    """(frequencies, 2 K, N) → (N, K, H, W)."""
    images, half_row = product.shape[2], plan.columns // 2 + 1
    parts = product.view(plan.rows, half_row, 2, -1, images).permute(4, 3, 0, 1, 2)
    spectrum = torch.view_as_complex(parts.contiguous())  # (N, K, rows, half row)
    full = torch.fft.irfft2(spectrum, (plan.rows, plan.columns))
    return full[..., : plan.height, : plan.width].contiguous()


def refuse_double_backward() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the spectral horizontal convolution has no second derivative; for double backward "
            "(create_graph=True) run the forward pass within horizontal_method('direct')"
        )
