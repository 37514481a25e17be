"""The CUDA C++ kernels on the CPU: layers/kernels/compiled.py's interface, by a C++ compiler."""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from layers.kernels import compiled

COMPILER = shutil.which("g++")


class Function:
    """As compiled.Function, for tensors on the CPU."""

    def __init__(self, run):
        self.run = run

    def __call__(self, grid, threads, *arguments, shared=0):
        values = [compiled._value(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        size = (ctypes.c_int * 5)(*(*grid, 1, 1)[:3], threads, shared)
        self.run(size, pointers)


@functools.cache
def function(file, name, device=None, reverse=False, **constants):
    """As compiled.function. `reverse`: threads run from the last to the first."""
    return Function(getattr(_library(file, reverse, **constants), f"run_{name}"))


def kernels(text):
    """The names of a source's kernels, whether macros stand in it or what they say."""
    bounds = r"(?:__launch_bounds__\(.*\)\s+)?"
    return re.findall(rf'extern "C"\s+(?:__global__\s+)?void\s+{bounds}(\w+)\(', text)


@functools.cache
def _library(file, reverse, **constants):
    """All kernels of a file."""
    folder = Path(tempfile.mkdtemp(prefix="kernels-"))
    macros = [f"-D{k}={int(v)}" for k, v in constants.items()] + reverse * ["-DREVERSE"]
    common = ["-include", str(Path(__file__).with_name("host.h")), "-DHOST", *macros]
    command = [COMPILER, "-x", "c++", "-std=c++17", "-O1", "-w"]

    def run(text, *options):
        command_line = [*command, *options, "-"]
        return subprocess.run(command_line, input=text, text=True, check=True, stdout=-1).stdout

    try:
        text = run(compiled.source(file), *common, "-E", "-P")
        for name in kernels(text):
            text += f"""
extern "C" void run_{name}(const int* size, void** values) {{
  host_run({name}, size, values);
}}
"""
        run(text, "-shared", "-fPIC", "-o", str(folder / "kernel.so"))
        return ctypes.CDLL(str(folder / "kernel.so"))
    finally:
        shutil.rmtree(folder)
