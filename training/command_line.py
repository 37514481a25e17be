"""The command line of the scripts.

Exit codes: 0 the run is complete; 1 a fault in the program, with a traceback; 2 an error that the
message explains (command line, settings, data, checkpoint, full disk); 3 a number that is not
finite; 4 out of memory; 75 left early, with a checkpoint to go on from (a signal, the time limit);
130 a second Ctrl-C.
"""

import argparse
import logging
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.experiment import DEFAULTS, Settings, resolve
from training.log import NOTICES

CLONE = Path(__file__).resolve().parent.parent
COMPLETE, ERROR, NOT_FINITE, OUT_OF_MEMORY, LEFT_EARLY, INTERRUPTED = 0, 2, 3, 4, 75, 130
EXIT_CODES = """exit codes:
  0    the run is complete
  2    an error that the message explains: command line, settings, data, checkpoint, full disk
  3    a loss, a gradient or a weight was not finite
  4    out of memory
  75   left early with a checkpoint (SIGTERM, SIGUSR1, Ctrl-C, --max-minutes): --resume goes on
  130  a second Ctrl-C: left at once"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (--help lists the options)")


def parser(description: str, parameters: Settings) -> argparse.ArgumentParser:
    """The options of a script.

    Args:
        description: what the script does.
        parameters: its parameters, listed at the end of the help.
    """
    lines = "\n".join(f"  {key} = {value!r}" for key, value in parameters.items())
    parse = _Parser(
        description=description,
        epilog=f"parameters (--set):\n{lines}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parse.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a parameter for this run, e.g. --set lr=1e-4; may be repeated; "
        "aux.<option>=value sets an option of the layer",
    )  # fmt: skip
    parse.add_argument(
        "--device", default="auto",
        help="auto (a GPU where there is one; default), cpu, cuda or cuda:<number>",
    )  # fmt: skip
    parse.add_argument("--seed", type=int, help="what all random numbers follow from (default 0)")
    parse.add_argument(
        "--resume", metavar="RUN",
        help="go on with a run: its name, its path, 'latest' (the experiment's newest run; where "
        "it has none, this script's), or 'auto' (the experiment's newest run, or a new one)",
    )  # fmt: skip
    parse.add_argument(
        "--max-minutes", type=_minutes, metavar="M",
        help="write a checkpoint and leave after this time",
    )  # fmt: skip
    parse.add_argument(
        "--deterministic", action="store_true",
        help="the same bits twice on a GPU too, at some cost in speed (on a CPU they always are)",
    )  # fmt: skip
    parse.add_argument(
        "--eager", action="store_true",
        help="on a GPU, launch each operation anew instead of replaying a captured CUDA graph: "
        "slower, for networks that cannot be captured",
    )  # fmt: skip
    parse.add_argument(
        "--workers", type=_count, metavar="N",
        help="processes that load images (default: half of the cores, 8 at most)",
    )  # fmt: skip
    parse.add_argument(
        "--on-bad-record", choices=("error", "skip"), default="error",
        help="what to do with a corrupt record: stop (default), or leave it out and say so",
    )  # fmt: skip
    return parse


def run_script(
    experiment_params: Callable[[], dict[str, Any]],
    build_model: Callable[[dict[str, Any]], Any],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line, train, and tell how it ended as an exit code.

    Args:
        experiment_params, build_model: the script's (see ``training.main``).
        arguments: the command line without the program's name; None takes ``sys.argv``'s.
    """
    warnings.showwarning = _show_warning
    logging.getLogger().addHandler(NOTICES)
    try:
        module = sys.modules[experiment_params.__module__]
        known = {**DEFAULTS, **experiment_params()}
        options = parser(textwrap.dedent(module.__doc__ or ""), known).parse_args(arguments)
        resolve(experiment_params(), options.overrides)
    except ValueError as error:
        return _fail(str(error), ERROR, show=os.environ.get("RANK", "0") == "0")
    return _train(experiment_params, build_model, options)


def _train(
    experiment_params: Callable[[], Settings], build_model: Callable[..., Any], options: Any
) -> int:
    """Train, and turn what goes wrong in a foreseen way into a line and an exit code."""
    from training.distribution import OtherRankError, Ranks, device_of
    from training.loop import NotFiniteError, OutOfMemoryError
    from training.start import train

    ranks = None
    try:
        with Ranks(device_of(options.device)) as ranks:
            complete = train(experiment_params, build_model, options, ranks)
        return COMPLETE if complete else LEFT_EARLY
    except KeyboardInterrupt:
        return _fail("interrupted before the training began", INTERRUPTED)
    except OtherRankError:
        return ERROR  # the process that failed says why
    except NotFiniteError as error:
        return _fail(str(error), NOT_FINITE, show=ranks is None or ranks.is_first)
    except OutOfMemoryError as error:
        return _fail(str(error), OUT_OF_MEMORY)
    except (ValueError, RuntimeError, OSError) as error:
        if not _is_ours(error):
            raise
        return _fail(str(error), ERROR)


def _is_ours(error: Exception) -> bool:
    """Whether this project raised the error, rather than a library that it calls."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).resolve().is_relative_to(CLONE)


def _fail(message: str, code: int, show: bool = True) -> int:
    if show:
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    """A library's warning, without the place in the code."""
    logging.getLogger("warnings").warning("%s", message)


def _minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, found {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, found {text}")
    return value
