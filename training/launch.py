"""torchrun that ends as its run does: with the run's exit code, and without a traceback of its own.

    python -m training.launch --nproc_per_node=2 hgru.py --resume auto

Takes torchrun's options. A signal that asks a run to leave (SIGTERM, SIGINT, SIGHUP, SIGUSR1) is
handed on to its processes, and the exit code is 75 once they have left with a checkpoint. torchrun
itself knows 0 and 1 only, so beneath it a run that left early ends with 0.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path

from training.signals import EXIT_CODES, LEFT_EARLY

GRAVEST = (1, 4, 3, 2, 130, LEFT_EARLY, 0)
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun in this process; the gravest exit code of the processes that it started."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(arguments)
    options.signals_to_handle = SIGNALS
    if str(options.nproc_per_node).isdigit():
        share = max(1, len(os.sched_getaffinity(0)) // int(options.nproc_per_node))
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
    logging.disable()  # torchrun's own words about what its processes say themselves
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes"
        file.touch()
        os.environ[EXIT_CODES] = str(file)
        failure = None
        try:
            run(options)
        except SignalException:
            failure = "the processes did not leave in time, and were killed"
        except ChildFailedError as error:
            rank, first = error.get_first_failure()
            failure = f"process {rank} ended with the exit code {first.exitcode} before it began"
        codes = [int(line) for line in file.read_text().split()]
    if failure and not codes:
        print(f"error: {failure}", file=sys.stderr, flush=True)
        return 1
    return min(codes, key=GRAVEST.index, default=0)


if __name__ == "__main__":
    sys.exit(main())
