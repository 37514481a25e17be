"""Memory of a process that computes on the CPU."""

import contextlib
import ctypes


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
