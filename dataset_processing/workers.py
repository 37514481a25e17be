"""Worker processes that end in good order, whoever ends them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from support.errors import SystemRefusal, refusals
from support.parents import signal_at_end_of_parent

_stop: Any = None  # in a worker: a byte that becomes 1 when it is to end


@contextmanager
def processes(what: str, count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """``map`` over ``count`` worker processes (1: this one), which end with the block, at the next
    `heed` if it raises. ``what`` they write is for the message.

    Raises:
        SystemRefusal: a process cannot be started, or was ended from outside.
    """
    if count == 1:
        yield map
        return
    fork = multiprocessing.get_context("fork")
    with refusals(f"a process that writes {what}", "cannot be started"):
        stop = fork.RawValue("b", 0)
        pool = ProcessPoolExecutor(count, fork, _start_worker, (stop,))
        try:
            pool.submit(heed)  # starts all of them
        except BaseException:
            for worker in (pool._processes or {}).values():
                worker.kill()  # one that waits for work would be waited for at the end
            raise
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise SystemRefusal(
            f"a process that writes {what} was ended from outside (for want of memory?); run "
            "the same command again, with fewer --workers"
        ) from error
    except BaseException:
        stop.value = 1
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def heed() -> None:
    """Between two pieces of work: a worker that is to end leaves through its clean-up."""
    if _stop is not None and _stop.value:
        raise SystemExit(143)


def end_with_parent() -> None:
    """Has Linux kill this worker as soon as its parent ends, even one that was killed."""
    signal_at_end_of_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent and multiprocessing.get_start_method() == "fork" and os.getppid() != parent.pid:
        os._exit(1)  # it was killed before it could be asked for that signal, which never comes now


def _start_worker(stop: Any) -> None:
    """Ends with the parent, and leaves Ctrl-C to it."""
    global _stop
    _stop = stop
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
