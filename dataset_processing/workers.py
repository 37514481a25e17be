"""Worker processes that end in good order, whoever ends them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from support.errors import SystemRefusal


@contextmanager
def processes(what: str, count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """``map`` over worker processes, which end with the block, at once if it raises.

    Args:
        what: is written by them, for the message.
        count: processes; 1: this one.

    Raises:
        SystemRefusal: a process was ended from outside.
    """
    if count == 1:
        yield map
        return
    others = multiprocessing.active_children()
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, fork, start_worker, (os.getpid(),))
    try:
        yield lambda work, items: pool.map(partial(Worker.run, work), items)
    except BaseException as error:
        for worker in set(multiprocessing.active_children()) - set(others):
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            raise SystemRefusal(
                f"a process that writes {what} was ended from outside (for want of memory?); run "
                "the same command again, with fewer --workers"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class Worker:
    """A worker that is told to end does so between chunks: an exit may not fall into a clean-up."""

    busy = False
    told = False

    @classmethod
    def tell(cls, *_: Any) -> None:
        """The signal: at once where nothing is in hand."""
        cls.told = True
        if not cls.busy:
            os._exit(143)

    @classmethod
    def heed(cls) -> None:
        """Between chunks: leave through the clean-up of what is written."""
        if cls.told:
            raise SystemExit(143)

    @classmethod
    def run(cls, work: Callable[[Any], Any], item: Any) -> Any:
        """``work(item)``, after which no other item is taken up if the worker was told to end."""
        cls.busy = True
        try:
            return work(item)
        finally:
            cls.busy = False
            if cls.told:
                os._exit(143)


def start_worker(parent: int) -> None:
    """Ends with the parent, even one that was killed; leaves Ctrl-C to it.

    A terminated worker leaves through the clean-up of what it was writing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, Worker.tell)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
