"""Memory and threads of a process that computes on the CPU."""

import contextlib
import ctypes
import os


def keep_memory() -> None:
    """Have the C library keep what tensors free, for the next ones, rather than hand it back.

    It gives each large tensor fresh pages otherwise, which the system has to clear anew at every
    step or pass: at batch 32 of 150×150 images that took most of the time. For a process that
    computes on the CPU; call it before its threads start, which then keep memory in one place.
    Does nothing where the C library is not glibc.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # M_TRIM_THRESHOLD … of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def wait_briefly() -> None:
    """Have PyTorch's threads sleep when one of them waits for more than some microseconds.

    They turn on the spot for milliseconds otherwise. Where another program has one of their cores,
    they take it from the very thread that they wait for. Call it before PyTorch is imported; what
    the user has set stays. Means something to GNU's OpenMP alone, which PyTorch has on Linux.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
