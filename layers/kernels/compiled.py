"""CUDA C++ compiled at run time, by the NVRTC that PyTorch's packages for CUDA bring along.

A kernel is a function `extern "C" __global__` in a file next to this one, which begins with
device.cuh: no header of CUDA's own is needed, nor nvcc, nor a C++ compiler. It is compiled for the
device at hand with its constants as macros, kept on disk beside Triton's kernels, and launched
through the driver on the current stream, so that CUDA graphs capture it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor

from support.errors import SystemRefusal
from support.files import write_bytes

HERE = Path(__file__).parent
COMMON = "device.cuh"
SHARED_LIMIT = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Unavailable(RuntimeError):
    """CUDA C++ cannot be compiled or loaded on this machine."""


class Function:
    """A kernel of one device, to be called with its grid (up to three numbers), the threads of a
    block, its arguments, and the bytes of shared memory that it is to have besides its own.

    Arguments: tensors and None are pointers, int is `int`, float is `float`; for other types,
    a number of ctypes.
    """

    def __init__(self, handle: ctypes.c_void_p, device: torch.device):
        self.handle, self.device, self.shared = handle, device, 0

    def __call__(self, grid: tuple[int, ...], threads: int, *arguments, shared: int = 0) -> None:
        values = [_value(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        with torch.cuda.device(self.device):
            if shared > self.shared:
                _check(_driver().cuFuncSetAttribute(self.handle, SHARED_LIMIT, shared))
                self.shared = shared
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            size = (*grid, 1, 1)[:3]
            launch = _driver().cuLaunchKernel
            _check(launch(self.handle, *size, threads, 1, 1, shared, stream, pointers, None))


@functools.cache
def function(file: str, name: str, device: torch.device, **constants: int) -> Function:
    """The kernel `name` of a file, with these macros. Raises Unavailable, and RuntimeError with the
    compiler's words where it is the source that is wrong."""
    handle = ctypes.c_void_p()
    with torch.cuda.device(device):
        module = _module(file, device, **constants)
        _check(_driver().cuModuleGetFunction(ctypes.byref(handle), module, name.encode()))
    return Function(handle, device)


@functools.cache
def _module(file: str, device: torch.device, **constants: int) -> ctypes.c_void_p:
    module = ctypes.c_void_p()
    major, minor = torch.cuda.get_device_capability()
    image = machine_code(file, f"sm_{major}{minor}", **constants)
    torch.cuda.current_stream().synchronize()  # there is a context from here on
    _check(_driver().cuModuleLoadData(ctypes.byref(module), image))
    return module


@functools.cache
def available(device: torch.device) -> bool:
    """Whether this is a CUDA device and kernels can be compiled for it; says once why not."""
    if device.type != "cuda":
        return False
    try:
        _driver()
        _nvrtc()
    except Unavailable as error:
        logging.getLogger(__name__).warning("CUDA C++ is not compiled on %s: %s", device, error)
        return False
    return True


def source(file: str) -> str:
    """A file's text, after what all files share."""
    parts = (COMMON, (HERE / COMMON).read_text()), (file, (HERE / file).read_text())
    return "\n".join(f'#line 1 "{name}"\n{text}' for name, text in parts)


def machine_code(file: str, architecture: str, **constants: int) -> bytes:
    """A file's machine code for e.g. sm_90, as it was kept or else compiled (a second or two, at
    each start of a script where the folder cannot be written). Raises as :func:`function` does."""
    from triton import knobs

    options = [f"--gpu-architecture={architecture}", "-std=c++17"]
    options += [f"-D{name}={int(value)}" for name, value in constants.items()]
    text = source(file)
    made_of = repr((text, options, compiler_version())).encode()
    kept = Path(knobs.cache.dir) / "cuda" / hashlib.sha256(made_of).hexdigest()
    try:
        found = kept.read_bytes()
        if hashlib.sha256(found[32:]).digest() == found[:32]:
            return found[32:]
        reason = "damaged"
    except OSError as error:
        reason = str(error)
    log = logging.getLogger(__name__)
    log.debug("%s is compiled, as %s is not there: %s", file, kept, reason)
    image = compile(file, text, options)
    try:
        write_bytes(kept, hashlib.sha256(image).digest() + image)
    except SystemRefusal as error:
        log.debug("%s is compiled again at the next start: %s", file, error)
    return image


def compiler_version() -> str:
    """Which compiler :func:`compile` is."""
    numbers = ctypes.c_int(), ctypes.c_int()
    _good(_nvrtc().nvrtcVersion(*map(ctypes.byref, numbers)))
    return f"{torch.__version__}, NVRTC {numbers[0].value}.{numbers[1].value}"


def compile(file: str, text: str, options: list[str]) -> bytes:
    """The machine code of a source. Raises as :func:`function` does."""
    nvrtc = _nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    create = nvrtc.nvrtcCreateProgram
    _good(create(ctypes.byref(program), text.encode(), file.encode(), 0, None, None))
    try:
        words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), words):
            _good(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            said = ctypes.create_string_buffer(size.value)
            _good(nvrtc.nvrtcGetProgramLog(program, said))
            raise RuntimeError(
                f"{file} does not compile with {' '.join(options)}:\n{said.value.decode()}"
            )
        _good(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        _good(nvrtc.nvrtcGetCUBIN(program, image))
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _value(argument):
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_int(argument) if isinstance(argument, int) else argument


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    """The library of the CUDA that PyTorch was built with: a loaded or installed one, or that of
    NVIDIA's packages beside PyTorch's."""
    name = f"libnvrtc.so.{(torch.version.cuda or '0').split('.')[0]}"
    packages = Path(torch.__file__).parents[1] / "nvidia"
    for place in (Path(name), *sorted(packages.glob(f"*/lib/{name}"))):
        try:
            for part in place.parent.glob("libnvrtc-builtins.so.*") if place.is_absolute() else ():
                ctypes.CDLL(str(part))  # the library would look for it elsewhere
            return ctypes.CDLL(str(place))
        except OSError:
            continue
    raise Unavailable(f"there is no {name}")


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unavailable(str(error)) from error


def _good(status: int) -> None:
    if status:
        raise Unavailable(f"NVRTC's error {status}")


def _check(status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA: {(text.value or b'?').decode()} ({status})")
