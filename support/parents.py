"""Processes that hear of their parent's end."""

import contextlib
import ctypes

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent ends


def signal_at_end_of_parent(number: int) -> None:
    """Have Linux send this process a signal when its parent ends, even one that was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
