"""torchrun that ends as its run does: with the run's exit code, and without a traceback of its own.

    python -m training.launch --nproc_per_node=2 hgru.py --resume auto

Takes torchrun's options. A signal that asks a run to leave (SIGTERM, SIGINT, SIGHUP, SIGUSR1) is
handed on to its processes, and the exit code is 75 once they have left with a checkpoint. torchrun
itself knows 0 and 1 only, so beneath it a run that left early ends with 0. Where it starts the
processes again (--max_restarts), their last attempt counts.
"""

import logging
import os
import sys
from typing import TYPE_CHECKING

from support.shell import ERROR, fail
from training.signals import EXIT_CODES, LEFT_EARLY, listen

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

GRAVEST = (1, 4, 3, 2, 130, LEFT_EARLY, 0)
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun in this process; the gravest exit code of the processes that it started."""
    listen()
    # Or a lost connection is a page of C++ frames beside what the run says of it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    options = parse_args(arguments)
    options.signals_to_handle = SIGNALS
    if str(options.nproc_per_node).isdigit():
        if not int(options.nproc_per_node):
            return fail("--nproc_per_node must be at least 1, found 0")
        share = max(1, len(os.sched_getaffinity(0)) // int(options.nproc_per_node))
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
    if options.max_restarts:  # or the next attempt finds the addresses of this one's processes
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    logging.disable()  # torchrun's own words about what its processes say themselves
    with open(os.memfd_create("exit codes"), "r+") as file:  # no disk that could be full
        os.environ[EXIT_CODES] = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        failure, code, ignored, last = "", 0, set(), 0
        try:
            run(options)
        except SignalException as error:
            failure = "the processes had not begun, or did not leave in time and were killed"
            failure, code = f"{error.sigval.name}: {failure}", 128 + error.sigval
        except ChildFailedError as error:
            failure, code = _failure(*error.get_first_failure())
            ignored = {LEFT_EARLY, 0}  # of the others, whom torchrun tells to leave
            last = options.max_restarts
        except RendezvousError as error:
            why = str(error.__cause__ or error).splitlines()[:1] or ["some are missing"]
            met = f"{options.nnodes} nodes did not meet at {options.rdzv_endpoint}"
            return fail(f"{met}: {why[0]}")
        except (ValueError, AssertionError, RuntimeError) as error:  # of torchrun's options
            return fail(f"torchrun: {error}")
        left = [tuple(map(int, line.split())) for line in file]
    # Where another node's process failed, the attempts here are not counted: the port is another.
    own = {code for *attempt, code in left if attempt == list(left[-1][:2]) and attempt[0] >= last}
    codes = own - ignored
    if failure and not codes:
        return fail(failure, code)
    return min(codes, key=_place, default=0)


def _place(code: int) -> int:
    """Where an exit code stands among them; one that the script chose itself comes first."""
    return GRAVEST.index(code) if code in GRAVEST else -1


def _failure(rank: int, process: "ProcessFailure") -> tuple[str, int]:
    """What to say of a process that failed without leaving its exit code, and the launcher's."""
    if process.exitcode < 0:
        return f"process {rank} was ended by {process.signal_name()}", ERROR
    return f"process {rank} ended with the exit code {process.exitcode}", process.exitcode


if __name__ == "__main__":
    sys.exit(main())
