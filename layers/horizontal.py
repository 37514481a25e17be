"""The horizontal convolution: one large kernel, used many times in a pass.

The circuit applies the same K×K×15×15 kernel twice at each of eight timesteps. Here the kernel is
prepared once a pass and then applied to as many activities as the circuit likes::

    kernel = HorizontalKernel(W, symmetric=True)
    C1 = kernel(H2 * G1)            # (N, K, H, W) -> (N, K, H, W)
    C2 = kernel(H1)

Three methods give the same numbers to rounding. ``direct`` is PyTorch's own convolution, the plain
reference. ``fft`` multiplies spectra: the kernel's is computed once and shared by every
application, and the kernel's gradient is summed over applications in the frequency domain and
brought back once. ``triton`` (layers/kernels/spectral.py) is the same product on a CUDA device,
with the transforms as matrix products on its matrix units; it rounds to TF32 where PyTorch's own
convolutions may (torch.backends.cudnn.allow_tf32). :func:`horizontal_method` forces one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.initial import symmetric_gradient
from layers.methods import (
    GradientSum,
    forced_method,
    has_triton,
    horizontal_method,
    in_weights_precision,
    known_method,
    own_backward,
    transformed,
)
from layers.published import as_published

__all__ = ["HorizontalKernel", "direct_convolution", "horizontal_method"]

# From here up, by the kernel's taps (height × width), the method is faster than `direct`
# (benchmarks/scaling.py); Triton's in a captured step.
FFT_TAPS_CPU = 81
FFT_TAPS_CUDA = 400
TRITON_TAPS = 49


def same_padding(size: int) -> tuple[int, int]:
    """Zeros (before, after) that keep an axis' length: TensorFlow's rule, 20 → (9, 10)."""
    return (size - 1) // 2, size // 2


class HorizontalKernel:
    """A kernel prepared for one pass, to be called on activities.

    Args:
        W: (K_out, K_in, h, w), float32 or float64; any sizes, even ones too.
        symmetric: the gradient that reaches W is ½(g + gᵀ) over in and out channels, so that a
            kernel that starts symmetric stays so (`symmetric_weights`).
        method: None (what :func:`horizontal_method` says, 'auto' by default) or a method's name.

    Calling it: activity (N, K_in, H, W) → (N, K_out, H, W), same padding, stride 1. Its spectrum
    is made at the first call for an image size and kept, one with gradients and one without; make
    a new object after W has changed.

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
        self.method = known_method(method or forced_method())
        self._prepared: dict[tuple, Any] = {}

    @in_weights_precision("W")
    def __call__(self, activity: Tensor) -> Tensor:
        self._check(activity)
        method = self.method_for(activity)
        if method == "direct":
            return direct_convolution(activity, self.W)
        if method == "fft" and transformed():
            return spectral_ref(activity, self.W)
        return self._prepared_for(method, activity)(activity)

    def method_for(self, activity: Tensor) -> str:
        """The method a call on this activity takes: 'direct', 'fft' or 'triton'."""
        if activity.numel() == 0:
            return "direct"
        if self.method != "auto":
            return self.method
        # A trace keeps the transform's lengths, which would be another image size's.
        if activity.dtype not in (torch.float32, torch.float64) or torch.jit.is_tracing():
            return "direct"
        if not as_published(direct_convolution, same_padding):
            return "direct"
        taps = self.W.shape[-2] * self.W.shape[-1]
        if transformed():
            return "direct" if activity.is_cuda or taps < FFT_TAPS_CPU else "fft"
        if not activity.is_cuda:
            return "fft" if taps >= FFT_TAPS_CPU else "direct"
        if self._fits_triton(activity):
            return "triton" if taps >= TRITON_TAPS else "direct"
        return "fft" if taps >= FFT_TAPS_CUDA else "direct"

    def common(self, activity: Tensor) -> Tensor:
        """What all calls on activities of this size have in common: W, or its spectrum."""
        method = self.method_for(activity)
        return self.W if method == "direct" else self._prepared_for(method, activity).spectrum

    def in_share(self, common: Tensor, activity: Tensor) -> HorizontalKernel:
        """This kernel for a share of the images (layers/shares.py), on its own copy of that."""
        own = copy.copy(self)
        own.method = self.method_for(activity)
        if own.method == "direct":
            own.W = common
        else:
            key, sizes = self._key(own.method, activity), self._sizes(activity)
            own._prepared = {key: _FFTKernel(common, _Plan.of(*sizes), by_image=True)}
        return own

    def _sizes(self, activity: Tensor) -> tuple[int, int, int, int]:
        return (*activity.shape[-2:], *self.W.shape[-2:])  # type: ignore[return-value]

    def _key(self, method: str, activity: Tensor) -> tuple:
        """Of what is prepared; without gradients it is another, as that one leads to none."""
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return method, self._sizes(activity), *modes

    def _prepared_for(self, method: str, activity: Tensor) -> Any:
        """What computes calls on activities of this size; made at the first."""
        key = self._key(method, activity)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(method, self._sizes(activity))
        return self._prepared[key]

    def _prepare(self, method: str, sizes: tuple[int, int, int, int]) -> Callable[[Tensor], Tensor]:
        if method == "fft":
            plan = _Plan.of(*sizes)
            return _FFTKernel(_Spectrum.apply(self.W, plan), plan)
        from layers.kernels.spectral import (
            TritonKernel,  # needs Triton, which not all machines have
        )

        return TritonKernel(self.W, sizes)

    def _fits_triton(self, activity: Tensor) -> bool:
        """Float32, at most 64 channels, and tensors of fewer than 2³¹ numbers, on a recent GPU."""
        channels = max(self.W.shape[:2])
        if activity.dtype != torch.float32 or channels > 64:
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
                "capability 8.0 or more with Triton installed (or its interpreter); got "
                f"{activity.dtype}, {max(self.W.shape[:2])} channels, {activity.device}"
            )


def direct_convolution(activity: Tensor, W: Tensor) -> Tensor:
    """The plain reference: PyTorch's convolution with same padding. Shapes as the kernel's call."""
    top, bottom = same_padding(W.shape[-2])
    left, right = same_padding(W.shape[-1])
    if (top, left) == (bottom, right):
        return F.conv2d(activity, W, padding=(top, left))
    return F.conv2d(F.pad(activity, (left, right, top, bottom)), W)


def spectral_ref(activity: Tensor, W: Tensor) -> Tensor:
    """The spectral method in plain operations, which autograd, compilers and transforms can follow.

    With θ the frequencies of a transform that is long enough for nothing to wrap round,
    X̂(θ) = Σ_d x(d) exp(−iθd) and Ŵ(θ) = Σ_d W(d) exp(+iθd), d counted from the tap that lies on
    the output's pixel: Ŷ = Σ over input channels of Ŵ X̂. Shapes as :func:`direct_convolution`.
    """
    (height, width), (taps_y, taps_x) = activity.shape[-2:], W.shape[-2:]
    plan = _Plan.of(height, width, taps_y, taps_x)
    lengths = (plan.rows, plan.columns)
    down, along = (w.to(activity.device) for w in plan.waves(W))
    kernel = torch.einsum("uy,vx,oiyx->oiuv", down, along, W.to(down.dtype))
    spectrum = torch.fft.rfft2(activity, lengths)
    product = torch.einsum("oiuv,niuv->nouv", kernel, spectrum)
    return torch.fft.irfft2(product, lengths)[..., :height, :width]


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
    d = torch.arange(taps, dtype=torch.float64, device="cpu") - same_padding(taps)[0]
    k = torch.arange(frequencies, dtype=torch.float64, device="cpu")
    turn = torch.remainder(torch.outer(k, d), length) / length
    waves = torch.polar(torch.ones_like(turn), 2 * math.pi * turn)
    kind = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    return waves.to(device=like.device, dtype=kind)


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


class _FFTKernel:
    """W's spectrum for one image size, to be called on activities.

    By image: each product has the images as its rows. For fewer than 12 of them, as in a share,
    MKL is then up to three times as fast; its rounding is another.
    """

    def __init__(self, spectrum: Tensor, plan: _Plan, by_image: bool = False):
        self.spectrum, self.plan, self.by_image = spectrum, plan, by_image
        self.sum = GradientSum()

    def __call__(self, activity: Tensor) -> Tensor:
        how = self.plan, self.sum, self.by_image
        return _SpectralConvolution.apply(activity, self.spectrum, *how)


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
    @own_backward
    def backward(ctx, grad):
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
    def forward(ctx, activity, spectrum, plan, gradient_sum, by_image):
        transformed = _transform(activity, plan, by_image)  # (frequencies, 2 I, N)
        out = _inverse(_product(spectrum, transformed, by_image), plan)
        ctx.plan, ctx.gradient_sum, ctx.by_image = plan, gradient_sum, by_image
        ctx.save_for_backward(spectrum, transformed if ctx.needs_input_grad[1] else None)
        return out

    @staticmethod
    @own_backward
    def backward(ctx, grad):
        spectrum, transformed = ctx.saved_tensors
        gradient = _transform(grad, ctx.plan, ctx.by_image)  # (frequencies, 2 O, N)
        grad_spectrum = grad_activity = None
        if ctx.needs_input_grad[0]:
            product = _product(spectrum.transpose(1, 2), gradient, ctx.by_image)
            grad_activity = _inverse(product, ctx.plan)
        if ctx.needs_input_grad[1]:
            right = transformed.transpose(1, 2)
            grad_spectrum = ctx.gradient_sum.add(
                lambda: torch.bmm(gradient, right), lambda sum: sum.baddbmm_(gradient, right)
            )
        return grad_activity, grad_spectrum, None, None, None


def _transform(activity: Tensor, plan: _Plan, by_image: bool) -> Tensor:
    """(N, K, H, W) → (frequencies, 2 K, N), real parts before imaginary ones: channels and images
    of a frequency together."""
    images, channels = activity.shape[:2]
    spectrum = torch.view_as_real(torch.fft.rfft2(activity, (plan.rows, plan.columns)))
    if by_image:  # the same numbers, laid out as (frequencies, N, 2 K)
        return spectrum.permute(2, 3, 0, 4, 1).reshape(-1, images, 2 * channels).transpose(1, 2)
    return spectrum.permute(2, 3, 4, 1, 0).reshape(-1, 2 * channels, images)


def _product(left: Tensor, right: Tensor, by_image: bool) -> Tensor:
    """The matrix product of each frequency; by image, as its transpose."""
    return torch.bmm(right.mT, left.mT).mT if by_image else torch.bmm(left, right)


def _inverse(product: Tensor, plan: _Plan) -> Tensor:
    """(frequencies, 2 K, N) → (N, K, H, W)."""
    images, half_row = product.shape[2], plan.columns // 2 + 1
    parts = product.view(plan.rows, half_row, 2, -1, images).permute(2, 4, 3, 1, 0)
    columns = torch.fft.ifft(torch.complex(*parts))[..., : plan.height]  # (N, K, half row, H)
    full = torch.fft.irfft(columns.transpose(2, 3), plan.columns)
    return full[..., : plan.width].contiguous()
