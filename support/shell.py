"""The command line: options, errors of one line, exit codes, output that may be closed.

A ``UserError`` is one line on standard error and exit code 2. Any other exception is a bug, the
project's or the user's own: Python prints its traceback and leaves with 1.
"""

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from support import kinds
from support.errors import UserError
from support.kinds import Kind
from support.progress import Progress

ERROR, INTERRUPTED = 2, 130
Main = Callable[[Sequence[str] | None], int | None]

log = logging.getLogger(__name__)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows the description as it is, and defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        says_nothing = default is None or default is False or default in ([], argparse.SUPPRESS)
        if says_nothing or "default" in text:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        return f"{text} (default: {shown})"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, of a command's ``module``; None: of a script. ``above``
    and ``below`` the options stand texts, the module's docstring the first."""

    def __init__(
        self, module: str | None, above: str | None, package: str = "analysis", below: str = ""
    ) -> None:
        prog = module and f"python -m {package}.{module}"
        super().__init__(
            prog=prog, description=above, epilog=below, formatter_class=_Help, allow_abbrev=False
        )

    def error(self, message: str) -> Any:
        raise UserError(f"{message} (--help lists the options)")

    def add_run(self, many: bool = True) -> None:
        """The runs to look at, and which of their weights."""
        self.add_argument(
            "runs" if many else "run",
            nargs="+" if many else None,
            metavar="RUN",
            help="a run's name or the path of one of its files or folders, 'latest' (the run that "
            "was started or resumed last), or a .safetensors file that analysis.export wrote",
        )
        self.add_argument(
            "--weights",
            default="last",
            metavar="WHICH",
            help="last, best (the best validation: its own accuracy there is biased upwards), or "
            "the number of a step",
        )

    def add_device(self) -> None:
        """Where to compute."""
        devices = "auto (a GPU if there is one), cpu, cuda, cuda:<number>"
        self.add_argument("--device", default="auto", help=devices)

    def add_images(self, count: int) -> None:
        """How many images, drawn how."""
        add = self.add_argument
        add(
            "--images", type=whole(1), default=count, metavar="N", help="images of each set at most"
        )
        add("--seed", type=whole(0), default=0, help="of images, their choice and the hidden state")
        add(
            "--workers",
            type=whole(0),
            help="that load images; default: none on a CPU, half of the cores for a GPU, 8 at most",
        )

    def add_circuit(self, several: bool = False) -> None:
        """Changes to the circuit in evaluation; `several` numbers of steps may be named."""
        letters = "alpha, mu, gamma, kappa, omega"
        self.add_argument("--lesion", nargs="+", default=[], help=f"held at 0, of {letters}")
        self.add_argument(
            "--timesteps",
            type=whole(1),
            nargs="+" if several else None,
            help="steps, other than the run's own; further ones take the last one's η",
        )

    def add_output(self, what: str) -> None:
        """Where to write."""
        self.add_argument("--output", type=Path, metavar="DIR", help=what)


def option(kind: Kind) -> Callable[[str], Any]:
    """A type for options that are of a kind."""

    def read(text: str) -> Any:
        with contextlib.suppress(UserError):
            return kind.of_text("", text)
        raise argparse.ArgumentTypeError(f"must be {kind.expected}, found {text!r}")

    return read


def whole(least: int) -> Callable[[str], Any]:
    """A type for options: a whole number of at least ``least``."""
    return option(kinds.whole(least))


class Console(logging.Handler):
    """Shows what the project logs: warnings on standard error, the rest on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one text, above a progress bar if there is one."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        if sys.stderr.isatty():
            Progress.write(said(record), stream)
        else:
            print(said(record), file=stream, flush=True)


CONSOLE = Console(logging.INFO)


def said(record: logging.LogRecord) -> str:
    """The text of a record; a warning says that it is one."""
    return "warning: " * (record.levelno >= logging.WARNING) + record.getMessage()


def run_command(main: Main) -> None:
    """Run a command and leave: with its exit code, 2 for a UserError, 130 for Ctrl-C."""
    keep_output()
    raise SystemExit(exit_code(main))


def exit_code(main: Main, arguments: Sequence[str] | None = None) -> int:
    """As :func:`run_command`, with the exit code as the result; raises whatever is no UserError."""
    with warnings.catch_warnings():
        show_warnings()
        try:
            return main(arguments) or 0
        except KeyboardInterrupt:
            return fail("interrupted", INTERRUPTED)
        except UserError as error:
            return fail(str(error))


def show_warnings() -> None:
    """From now on show the project's warnings and those of libraries, without a place in code."""
    logging.getLogger().addHandler(CONSOLE)
    warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)


def fail(message: str, code: int = ERROR) -> int:
    """Say an error in one line; the exit code."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def keep_output() -> None:
    """Go on where standard output or error is closed (``| head -1``) or full.

    What is said from then on is lost; of standard output a warning says so.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed from the beginning
            setattr(sys, name, open("/dev/null", "w"))
            continue
        stream.flush()
        kept = io.TextIOWrapper(
            io.BufferedWriter(_Output(stream.fileno())),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, kept)


class _Output(io.FileIO):
    """A descriptor that takes everything; what cannot be written is dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self.lost and self.fileno() == 1:
                log.warning("standard output is no longer written: %s", error.strerror)
            self.lost = True
            return len(data)


def name_outputs(paths: Iterable[Path]) -> None:
    """Say what was written."""
    print("written:", *paths, sep="\n  ")
