"""The spectral horizontal convolution on a CUDA device, in Triton.

The transforms are dense matrix products with cosines and sines of half-integer frequencies, and the
four real numbers of a pair of frequencies are joined only for the product with the kernel's
spectrum; docs/kernels.md says how and in what precision. The layouts:

    activity        (N, K, H, W), or folded (N, K, H', W')
    row spectrum    (u, pq, N, K, H')           pq of the row transform
    spectrum        (u, v, pq, pq, K, N)        pq of the column transform, then of the row's
    kernel spectrum (u, v, sign, c, O, I)       sign of v; c real, imaginary

A folded axis lists the pixels from the middle to the right, then those from the middle to the left,
each padded with zeros to a multiple of four (`Axis.pitch` numbers in all).
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from layers.kernels import compiled
from layers.kernels.axes import (
    FLOAT32,
    HALF_PRECISION,
    Sizes,
    covered,
    tap_waves,
    waves,
    whole_matrix,
)
from layers.kernels.spectral_triton import (
    back_kernel,
    columns_back_kernel,
    columns_there_kernel,
    correlate_kernel,
    product_kernel,
    there_kernel,
)
from layers.methods import GradientSum, own_backward

# From measurements on an H200. Of the transforms in half precision, for plain and folded rows and
# for columns: rows of a program, frequencies or pairs that it takes at a time, warps, stages.
TRANSFORMS = {
    "there": (64, 16, 4, 2),
    "there_folded": (128, 16, 4, 2),
    "there_columns": (64, 16, 4, 2),
    "back": (64, 16, 4, 4),
    "back_folded": (64, 16, 4, 4),
    "back_columns": (64, 16, 4, 4),
}
FLOAT32_TRANSFORM = (64, 16, 4, 2)
# Of columns in half precision, from measurements on an H100: rows of a tile, warps, stages; and how
# many frequencies there may be for the matrix to fit into so much shared memory.
COLUMNS, COLUMN_FREQUENCIES, COLUMN_MEMORY = (64, 4, 3), 96, 160 * 1024
# Of the products: images of a program, warps and stages.
LAUNCH = {
    "product": (32, 1, 1),
    "product_float32": (16, 1, 1),
    "correlate": (16, 1, 1),
}


class Rows(NamedTuple):
    """Row spectra: values (u, 2, N, K, H') and the largest pixels (N,) of the images they are of
    (in half precision; any numbers otherwise)."""

    values: Tensor
    largest: Tensor


class Spectrum(NamedTuple):
    """Spectra: values (u, v, 2, 2, K, N) and the largest pixels (N,) of their images."""

    values: Tensor
    largest: Tensor


class Kernel(NamedTuple):
    """A kernel's spectrum: values (u, v, 2, 2, O, I), and what they are multiplied by, a scalar."""

    values: Tensor
    scale: Tensor


class Convolved(NamedTuple):
    """What a convolution made, folded (N, K, H', W'): float32, or half precision in units of 2⁻¹⁴
    times the kernel's scale and a power of two above the largest pixel (N,) of its activity, which
    together no result exceeds."""

    values: Tensor
    largest: Tensor
    kernel_scale: Tensor


@dataclass(frozen=True)
class Plan:
    """Sizes and precision of a pass's convolutions; its methods launch their kernels."""

    sizes: Sizes
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.precision == HALF_PRECISION else torch.float32

    @property
    def unit_x(self) -> float:
        return self.sizes.x.unit if self.precision == HALF_PRECISION else 1.0

    @property
    def unit_y(self) -> float:
        return self.sizes.y.unit if self.precision == HALF_PRECISION else 1.0

    @property
    def back(self) -> float:
        """What the inverse row transform multiplies by: 2 / N, and the units taken back."""
        return 1 / (self.sizes.x.half * self.unit_x * self.unit_y)

    def new_largest(self, count: int, images: int, device: torch.device) -> Tensor:
        """Where kernels put the largest pixels of what they write, (count, N)."""
        return torch.zeros(count, images, device=device)

    def new_spectra(self, count: int, channels: int, images: int, device: torch.device) -> Tensor:
        shape = (count, self.sizes.x.half, self.sizes.y.half, 2, 2, channels, images)
        return torch.empty(shape, dtype=self.dtype, device=device)

    def rows_there(self, x: Tensor, largest: Tensor | None = None, folded: bool = False) -> Rows:
        """Activity (N, K, H, W), or folded, → row spectra. `largest` (N,): of its pixels, if they
        are known."""
        images, channels = x.shape[:2]
        if largest is None and self.precision == HALF_PRECISION:
            largest = torch.linalg.vector_norm(x, math.inf, (1, 2, 3))
        elif largest is None:
            largest = x.new_empty(images)  # float32 needs no exponents
        y = self.sizes.y
        out = x.new_empty(self.sizes.x.half, 2, images, channels, y.pitch, dtype=self.dtype)
        rows = images * channels * y.pitch
        self._launch(
            there_kernel, "there_folded" if folded else "there", (x, out), self.sizes.x, False,
            (largest, self.unit_x, rows // images), rows, (rows, 1, 1), folded,
        )  # fmt: skip
        return Rows(out, largest)

    def rows_back(
        self, rows: Rows, kernel_scale: Tensor, folded: bool = False, units: bool = False
    ) -> Tensor:
        """Row spectra → activity (N, K, H, W), or folded; `units`: the values of Convolved."""
        y, x = self.sizes.y, self.sizes.x
        images, channels = rows.values.shape[2:4]
        shape = (y.pitch, x.pitch) if folded else (y.size, x.size)
        count = images * channels * y.pitch
        units &= self.precision == HALF_PRECISION
        like, factor = (rows.values, self.back * 2.0**14) if units else (rows.largest, self.back)
        out = like.new_empty(images, channels, *shape)
        scales = (None, None) if units else (rows.largest, kernel_scale)
        self._launch(
            back_kernel, "back_folded" if folded else "back", (rows.values, out), x, True,
            (*scales, factor, count // images), count, (count, 1, 1), folded,
        )  # fmt: skip
        return out

    def columns_there(self, rows: Rows, out: Tensor | None = None) -> Spectrum:
        """Row spectra → spectra, put into `out` (u, v, 2, 2, K, N) if given."""
        images, channels = rows.values.shape[2:4]
        if out is None:
            out = self.new_spectra(1, channels, images, rows.values.device)[0]
        planes = images * channels
        if self._by_matrix(out.device):
            self._launch_columns(columns_there_kernel, rows.values, out, False, images, channels)
        else:
            self._launch(
                there_kernel, "there_columns", (rows.values, out), self.sizes.y, False,
                (None, self.unit_y, 1), 2 * planes, (planes, images, channels), True, len(out),
            )  # fmt: skip
        return Spectrum(out, rows.largest)

    def columns_back(self, spectrum: Spectrum) -> Rows:
        """Spectra → row spectra."""
        channels, images = spectrum.values.shape[-2:]
        y, planes = self.sizes.y, images * channels
        out = spectrum.values.new_empty(self.sizes.x.half, 2, images, channels, y.pitch)
        if self._by_matrix(out.device):
            of = spectrum.values, out, True, images, channels, 0.5 / y.half
            self._launch_columns(columns_back_kernel, *of)
        else:
            self._launch(
                back_kernel, "back_columns", (spectrum.values, out), y, True,
                (None, None, 0.5 / y.half, 1), 2 * planes, (planes, images, channels), True,
                len(out),
            )  # fmt: skip
        return Rows(out, spectrum.largest)

    def _by_matrix(self, device: torch.device) -> bool:
        """Whether columns are transformed as products with one matrix."""
        small = self.sizes.y.half <= COLUMN_FREQUENCIES
        return self.precision == HALF_PRECISION and small and _programs(device) > 0

    def _launch_columns(self, kernel, x, out, back: bool, images, channels, *unit) -> None:
        axis, (rows, warps, stages) = self.sizes.y, COLUMNS
        count = 2 * images * channels
        tiles = self.sizes.x.half * triton.cdiv(count, rows)
        (P1, P2), (F1, F2) = covered(axis.pitch), covered(2 * axis.half)
        kernel[(min(tiles, _programs(x.device)),)](
            x, out, whole_matrix(axis, back, x.device), *unit, count, images, channels, tiles,
            PITCH=axis.pitch, LINES=2 * axis.half, P1=P1, P2=P2, F1=F1, F2=F2, ROWS=rows,
            STAGES=stages, num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _launch(
        self, kernel, name, tensors, axis, by_pair, scales, rows, order, folded, batch=1
    ) -> None:
        """Launch a transform along `axis` of so many rows (for each of a batch), in `order`."""
        y, (first, second, groups) = self.sizes.y, axis.blocks
        half = self.precision == HALF_PRECISION
        per_program, depth, warps, stages = TRANSFORMS[name] if half else FLOAT32_TRANSFORM
        matrix = waves(axis, self.precision, by_pair, tensors[0].device)
        kernel[(triton.cdiv(rows, per_program), batch, groups)](
            *tensors, matrix, *scales, rows, *order, y.size, axis.size,
            y.right, y.left, axis.right, axis.left,
            HALF=axis.half, RUN=axis.run, RUN_Y=y.run, FOLDED=folded, ODD=axis.odd, ODD_Y=y.odd,
            FIRST=first, SECOND=second, ROWS=per_program, DEPTH=depth, PRECISION=self.precision,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    def _warps(self, images: int, inputs: int, outputs: int, device: torch.device) -> int:
        """How many warps compute products in CUDA C++ (products.cu), 0 if they cannot."""
        fits = self.precision == HALF_PRECISION and images % 16 == 0 and max(inputs, outputs) <= 32
        return _blocks(device, _at_once(images)) if fits else 0

    def _in_warps(
        self, name: str, kernel: Kernel, images: int, device: torch.device
    ) -> compiled.Function:
        outputs, inputs = kernel.values.shape[-2:]
        at_once = _at_once(images)
        return compiled.function(
            "products.cu", name, device, OUT=outputs, IN=inputs, IMAGES=at_once
        )

    def product(self, kernel: Kernel, spectrum: Spectrum, adjoint: bool = False) -> Spectrum:
        """A kernel's spectrum (…, O, I) times spectra (…, I, N) → (…, O, N); `adjoint`: its
        conjugate transpose, from (…, O, N) to (…, I, N)."""
        outputs, inputs = kernel.values.shape[-2:]
        strides = (inputs, 1)
        if adjoint:
            outputs, inputs, strides = inputs, outputs, (1, inputs)
        values, images = spectrum.values, spectrum.values.shape[-1]
        out = values.new_empty(*values.shape[:-2], outputs, images)
        if warps := self._warps(images, inputs, outputs, values.device):
            name = "product_adjoint" if adjoint else "product"
            self._in_warps(name, kernel, images, values.device)(
                (warps,), 32, kernel.values, values, out,
                values.shape[:2].numel() * images // _at_once(images), images,
            )  # fmt: skip
            return Spectrum(out, spectrum.largest)
        name = "product" if self.precision == HALF_PRECISION else "product_float32"
        together, warps, stages = _images_block(name, images)
        product_kernel[(triton.cdiv(images, together) * values.shape[:2].numel(),)](
            kernel.values, values, out, images, inputs, outputs, *strides,
            CONJUGATE=adjoint, OUT=block(outputs), IN=block(inputs), IMAGES=together,
            PRECISION=self.precision, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return Spectrum(out, spectrum.largest)

    def convolve(
        self, rows: Rows, kernel: Kernel, out: Tensor | None = None, adjoint: bool = False
    ) -> tuple[Rows, Spectrum]:
        """Row spectra of an activity → those of its convolution, or with `adjoint` of a gradient →
        those of what was convolved, to be multiplied by the kernel's scale; and the spectra of what
        came in, put into `out` if given."""
        spectrum = self.columns_there(rows, out)
        return self.columns_back(self.product(kernel, spectrum, adjoint)), spectrum

    def correlate(
        self,
        gradients: Spectrum,
        spectra: Spectrum,
        out: Tensor | None,
        like: Kernel,
        stride: int = 1,
    ) -> Tensor:
        """Σ over pairs and images of conj(gradient (…, O, N)) · spectrum (…, I, N), put or added
        into `out` (u, v, 2, 2, O, I), which is returned.

        Args:
            gradients, spectra: as many of each, along an axis before the others.
            out: the sum so far, None where it begins.
            like: the kernel whose gradient this is.
            stride: take every so-many-th.
        """
        add = out is not None
        if out is None:
            out = torch.empty_like(like.values, dtype=torch.float32)
        outputs, inputs = out.shape[-2:]
        count, images = len(gradients.values), gradients.values.shape[-1]
        steps = (stride * of.values[0].numel() for of in (gradients, spectra))
        pairs, device = -(-count // stride), out.device
        if warps := self._warps(images, inputs, outputs, device):
            self._in_warps("correlate", like, images, device)(
                (warps,), 32, gradients.values, spectra.values, gradients.largest, spectra.largest,
                out, add, out.shape[:2].numel(), images, pairs,
                *map(ctypes.c_longlong, steps), stride * images,
            )  # fmt: skip
            return out
        together, warps, stages = _images_block("correlate", images)
        correlate_kernel[(out.shape[:2].numel(),)](
            gradients.values, spectra.values, gradients.largest, spectra.largest, out,
            images, inputs, outputs, pairs, *steps, stride * images,
            ADD=add, OUT=block(outputs), IN=block(inputs), IMAGES=together,
            ALL_IMAGES=triton.next_power_of_2(images), PRECISION=self.precision,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out

    def kernel(self, W: Tensor) -> Kernel:
        """W (O, I, h, w) → Σ_d W(d) exp(iθd) as (u, v, s, c, O, I)."""
        outputs, inputs = W.shape[:2]
        sizes = self.sizes
        down, along = tap_waves(sizes.y, True, W.device), tap_waves(sizes.x, False, W.device)
        scale = _kernel_bound(W) if self.precision == HALF_PRECISION else W.new_ones(())
        taps = (W / scale).permute(3, 2, 0, 1).reshape(sizes.x.taps, -1).to(along.dtype)
        rows = (along @ taps).view(sizes.x.half, sizes.y.taps, -1)
        full = torch.view_as_real(torch.matmul(down, rows)).movedim(-1, 2)
        values = torch.empty(full.shape, dtype=self.dtype, device=W.device).copy_(full)
        return Kernel(values.view(sizes.x.half, sizes.y.half, 2, 2, outputs, inputs), scale)

    def kernel_gradient(self, gradient: Tensor, like: Tensor) -> Tensor:
        """The correlations' sum (u, v, s, c, O, I) → the gradient of W (O, I, h, w)."""
        sizes, (outputs, inputs) = self.sizes, like.shape[:2]
        device = like.device
        down, along = tap_waves(sizes.y, True, device), tap_waves(sizes.x, False, device)
        parts = gradient.view(sizes.x.half, 2 * sizes.y.half, 2, -1).movedim(2, -1).contiguous()
        rows = torch.matmul(down.t(), torch.view_as_complex(parts))  # (u, h, O·I)
        scale = sizes.scale / (self.unit_x * self.unit_y) ** 2
        taps = (along.t() @ rows.view(sizes.x.half, -1)).real * scale
        taps = taps.view(sizes.x.taps, sizes.y.taps, outputs, inputs)
        return taps.permute(2, 3, 1, 0).contiguous()


def _kernel_bound(W: Tensor) -> Tensor:
    """A power of two that no sum over channels of the sizes of W's spectrum exceeds."""
    sizes = W.abs().sum((2, 3))
    bound = torch.maximum(sizes.sum(0).amax(), sizes.sum(1).amax())
    return torch.exp2(torch.ceil(torch.log2(bound.clamp(1e-30, 1e30))))


def block(channels: int) -> int:
    """Channels of a program's tile: a power of two."""
    return max(16, triton.next_power_of_2(channels))


@functools.cache
def _programs(device: torch.device) -> int:
    """Programs that transform columns by a matrix; 0 where it does not fit into shared memory."""
    if device.type != "cuda":
        return 2
    card = torch.cuda.get_device_properties(device)
    fits = card.shared_memory_per_multiprocessor >= COLUMN_MEMORY
    return 2 * card.multi_processor_count if fits else 0


def _at_once(images: int) -> int:
    """Images that a warp of products.cu takes at once."""
    return 16 if images % 32 else 32


@functools.cache
def _blocks(device: torch.device, at_once: int) -> int:
    """Blocks of products.cu that a device holds at a time, 0 if none."""
    if not compiled.available(device):
        return 0
    if device.type != "cuda":
        return 3
    card = torch.cuda.get_device_properties(device)
    each = 8 if at_once == 32 else 12
    return each * card.multi_processor_count if card.major >= 8 else 0


def _images_block(name: str, images: int) -> tuple[int, int, int]:
    together, warps, stages = LAUNCH[name]
    return (16 if images <= 16 else together), warps, stages


# -- the convolution -------------------------------------------------------------------------------


class TritonKernel:
    """W's spectrum for one image size, to be called on activities (see HorizontalKernel)."""

    def __init__(self, W: Tensor, sizes: tuple[int, int, int, int]):
        self.plan = Plan(Sizes.of(*sizes), chosen_precision())
        self.sum = GradientSum()
        self.joint, *self.kernel = _SpectrumFunction.apply(W, self.plan)

    def __call__(self, activity: Tensor) -> Tensor:
        return _ConvolutionFunction.apply(
            activity.contiguous(), self.joint, *self.kernel, self.plan, self.sum
        )


class _SpectrumFunction(torch.autograd.Function):
    """W → what carries its spectrum's gradient (float32, without values), and the spectrum."""

    @staticmethod
    def forward(ctx, W, plan):
        # Not saved: of W only the shape is read, by as many backward passes as there are.
        ctx.plan, ctx.like = plan, W.detach()
        kernel = plan.kernel(W)
        ctx.mark_non_differentiable(*kernel)
        return W.new_empty(()).expand(kernel.values.shape), *kernel

    @staticmethod
    @own_backward
    def backward(ctx, total, *_):
        return ctx.plan.kernel_gradient(total, ctx.like), None


class _ConvolutionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activity, joint, values, scale, plan, gradient_sum):
        kernel = Kernel(values, scale)
        rows, spectrum = plan.convolve(plan.rows_there(activity), kernel)
        ctx.plan, ctx.sum = plan, gradient_sum
        kept = spectrum if ctx.needs_input_grad[1] else (None, None)
        ctx.save_for_backward(*kernel, *kept)
        return plan.rows_back(rows, kernel.scale)

    @staticmethod
    @own_backward
    def backward(ctx, gradient):
        plan, kernel = ctx.plan, Kernel(*ctx.saved_tensors[:2])
        transformed = plan.columns_there(plan.rows_there(gradient.contiguous()))
        grad_activity = grad_joint = None
        if ctx.needs_input_grad[1]:
            pair = [Spectrum(s[None], m[None]) for s, m in (transformed, ctx.saved_tensors[2:])]
            grad_joint = ctx.sum.add(
                lambda: plan.correlate(*pair, None, kernel),
                lambda sum: plan.correlate(*pair, sum, kernel),
            )
        if ctx.needs_input_grad[0]:
            rows = plan.columns_back(plan.product(kernel, transformed, adjoint=True))
            grad_activity = plan.rows_back(rows, kernel.scale)
        return grad_activity, grad_joint, None, None, None, None


def tf32_allowed() -> bool:
    """Whether PyTorch's own convolutions may round their inputs to TF32 on this machine's GPU."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    precision = getattr(conv, "fp32_precision", None)
    return torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32"


def chosen_precision() -> str:
    """How spectra are kept: HALF_PRECISION where TF32 is allowed, or FLOAT32."""
    return HALF_PRECISION if tf32_allowed() else FLOAT32
