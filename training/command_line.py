"""The command line of the scripts, and how a run ends as an exit code."""

import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from support.errors import UserError
from support.kinds import TEXT, number
from support.shell import ERROR, INTERRUPTED, Parser, fail, option, whole
from training import log
from training.experiment import Experiment, help_text
from training.signals import LEFT_EARLY, Stop

COMPLETE, NOT_FINITE, OUT_OF_MEMORY = 0, 3, 4
EXIT_CODES = """exit codes:
  0    the run is complete
  1    a bug, in the program or in this script: the traceback says where
  2    an error that the message explains: command line, settings, data, checkpoint, full disk
  3    a loss, a gradient or a weight was not finite
  4    out of memory
  75   left early (SIGTERM, SIGUSR1, SIGHUP, Ctrl-C, --max-minutes): --resume goes on
  130  Ctrl-C before the training began, or a second Ctrl-C: left at once"""


def parser(description: str, parameters: Mapping[str, Any]) -> Parser:
    """The options of a script that does what ``description`` says, with its settings below."""
    settings = f"settings (--set):\n{help_text(parameters)}"
    parse = Parser(None, description, below=f"{settings}\n\n{EXIT_CODES}")
    add = parse.add_argument
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a setting for this run, e.g. --set lr=1e-4; may be repeated; KEY+=NAME adds "
        "an augmentation; aux.<option>=VALUE sets an option of the network",
    )
    parse.add_device()
    add("--seed", type=whole(0), help="what all random numbers follow from (default 0)")
    add(
        "--resume",
        type=option(TEXT),
        metavar="RUN",
        help="go on with a run: its name, its path, 'latest' (this script's run that was started "
        "or resumed last; of the experiment, where --set names one), or 'auto' (the experiment's "
        "run that was started or resumed last, or a new one where it has none)",
    )
    minutes = option(number(above=0))
    add("--max-minutes", type=minutes, help="leave with a checkpoint after this time")
    add("--deterministic", action="store_true", help="the same bits twice on a GPU too; slower")
    add("--eager", action="store_true", help="on a GPU: without a captured graph; slower")
    add("--workers", type=whole(0), help="processes that load images (half the cores, 8 at most)")
    add("--on-bad-record", choices=("error", "skip"), default="error", help="stop, or leave it out")
    return parse


def run_script(
    experiment_params: Callable[[], dict[str, Any]],
    build_model: Callable[[dict[str, Any]], Any],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line, train, and tell how it ended as an exit code: what goes wrong in a
    foreseen way is a line on the terminal.

    ``arguments`` is the command line without the program's name; None takes ``sys.argv``'s.
    """
    quiet = os.environ.get("RANK", "0") != "0"
    log.listen(quiet)
    params = experiment_params()
    description = textwrap.dedent(sys.modules[experiment_params.__module__].__doc__ or "")
    try:
        options = parser(description, Experiment.of(params)).parse_args(arguments)
        Experiment.of(params, options.overrides)
    except UserError as error:
        return ERROR if quiet else fail(str(error))
    from training.distribution import OtherRankError, Ranks, device_of
    from training.loop import NotFiniteError, OutOfMemoryError
    from training.start import train

    try:
        with Stop(options.max_minutes) as stop, Ranks(device_of(options.device)) as ranks:
            complete = train(params, build_model, options, ranks, stop)
        return COMPLETE if complete else LEFT_EARLY
    except KeyboardInterrupt:
        return fail("interrupted before the training began", INTERRUPTED)
    except OtherRankError:
        return ERROR  # the process that failed says why
    except NotFiniteError as error:  # all processes find the same
        return NOT_FINITE if quiet else fail(str(error), NOT_FINITE)
    except OutOfMemoryError as error:
        return fail(str(error), OUT_OF_MEMORY)
    except UserError as error:
        return fail(str(error))
