"""Who computes: the choice of the convolution's method, and what the machine can do."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import inspect
import os
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

METHODS = ("auto", "direct", "fft", "triton")
_forced: contextvars.ContextVar[str] = contextvars.ContextVar("horizontal_method", default="auto")


@contextlib.contextmanager
def horizontal_method(method: str) -> Iterator[None]:
    """Within the block, every kernel made without a method of its own uses this one.

    ``method``: 'auto' (chosen by shape and device), 'direct', 'fft' or 'triton'. Raises
    ValueError for another name.
    """
    token = _forced.set(known_method(method))
    try:
        yield
    finally:
        _forced.reset(token)


def known_method(method: str) -> str:
    """The method itself; ValueError for a name that is none."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    return method


@torch.compiler.assume_constant_result
def forced_method() -> str:
    """What :func:`horizontal_method` says; 'auto' outside of such a block.

    A compiler keeps what was said when it looked.
    """
    return _forced.get()


def transformed() -> bool:
    """Whether a compiler, torch.jit.trace, a transform of torch.func or differentiation in forward
    mode looks on, which need operations that they can follow: no autograd function of our own."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    )


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter (TRITON_INTERPRET=1), on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton is installed and has something to run on: a CUDA device whose matrix units
    take TF32, or its interpreter."""
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type == "cpu":
        return interpreted()
    return _has_matrix_units(device)


def _has_matrix_units(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def wants_kernels(device: torch.device) -> bool:
    """Whether kernels of our own in CUDA C++ may take the place of PyTorch's operations here: where
    they can be compiled, unless 'direct' is asked for or operations must stay open. On the CPU,
    tests only."""
    from layers.kernels import compiled

    if device.type == "cpu":
        asked = interpreted() and forced_method() == "triton"
    else:
        asked = device.type == "cuda" and forced_method() != "direct" and _has_matrix_units(device)
    return asked and not transformed() and compiled.available(device)


class GradientSum:
    """Where one pass's applications add up the gradient of the spectrum they share.

    Autograd would add sixteen large tensors; instead the first application to run backward hands
    its tensor to autograd and the others add into that same one. Each backward pass has a sum of
    its own: two may run at once, in threads. Only autograd keeps it alive, so a pass that was
    broken off, or that asked for no gradient of W, leaves nothing behind.
    """

    def __init__(self) -> None:
        self._sums: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def add(self, put: Callable[[], Tensor], join: Callable[[Tensor], object]) -> Tensor | None:
        """`put` makes the sum's first term, `join` adds to the sum in place. Returns what to hand
        to autograd: the sum if it is new, None if autograd holds it already."""
        backward_pass = torch._C._current_graph_task_id()
        held = self._sums.get(backward_pass)
        if held is not None:
            join(held)
            return None
        held = self._sums[backward_pass] = put()
        return held


def autocasts(kind: str) -> bool:
    """Whether autocast is on for this kind of device; some kinds, as 'meta', know none."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def own_backward(backward):
    """A decorator of the backward pass of an autograd function of ours, which computes in the
    precision of what it kept, under autocast too, and has no derivative: RuntimeError where it is
    to be differentiated itself."""

    @functools.wraps(backward)
    def wrapped(ctx, gradient: Tensor, *others):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the spectral horizontal convolution has no second derivative; for double backward "
                "(create_graph=True) run the forward pass within "
                f"{__name__}.horizontal_method('direct')"
            )
        kind = gradient.device.type
        if not autocasts(kind):
            return backward(ctx, gradient, *others)
        with torch.autocast(kind, enabled=False):
            return backward(ctx, gradient, *others)

    return wrapped


def in_weights_precision(weights: str):
    """A decorator of a call on an activity: under autocast, compute in the precision of the
    object's weights (the attribute of that name), as the spectra and the recurrence need it."""

    def decorate(call):
        name = list(inspect.signature(call).parameters)[1]  # after self

        @functools.wraps(call)
        def wrapped(self, *arguments, **named):
            activity = arguments[0] if arguments else named.get(name)
            if not isinstance(activity, Tensor) or not autocasts(activity.device.type):
                return call(self, *arguments, **named)
            with torch.autocast(activity.device.type, enabled=False):
                activity = activity.to(getattr(self, weights).dtype)
                named.pop(name, None)
                return call(self, activity, *arguments[1:], **named)

        return wrapped

    return decorate
