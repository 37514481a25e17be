"""What the commands of this folder share: one-line errors, exit codes, common options."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ERROR, INTERRUPTED = 2, 130
Main = Callable[[Sequence[str] | None], int | None]


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
    """A parser whose errors are one line.

    Args:
        module: name of the command's module in this folder.
        description: what the command does, with examples: the module's docstring.
    """

    def __init__(self, module: str, description: str | None, package: str = "analysis") -> None:
        super().__init__(
            prog=f"python -m {package}.{module}",
            description=description,
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (--help lists the options)")

    def add_run(self, many: bool = True) -> None:
        """The runs to look at, and which of their weights."""
        self.add_argument(
            "runs" if many else "run", nargs="+" if many else None, metavar="RUN",
            help="a run's name or the path of one of its files or folders, 'latest', or a "
            ".safetensors file that analysis.export wrote",
        )  # fmt: skip
        self.add_argument(
            "--weights", default="last", metavar="WHICH",
            help="last, best (the best validation: its own accuracy there is biased upwards), or "
            "the number of a step",
        )  # fmt: skip

    def add_device(self) -> None:
        """Where to compute."""
        self.add_argument(
            "--device", default="auto",
            help="auto (a GPU where there is one), cpu, cuda or cuda:<number>",
        )  # fmt: skip

    def add_images(self, count: int) -> None:
        """How many images, drawn how."""
        self.add_argument(
            "--images", type=whole(1), default=count, metavar="N", help="images of each set at most"
        )
        self.add_argument(
            "--seed", type=whole(0), default=0, metavar="S",
            help="of generated images, of the choice among more, and of the hidden state",
        )  # fmt: skip
        self.add_argument(
            "--workers", type=whole(0), metavar="N",
            help="processes that load images; default: none on a CPU, half of the cores beside a "
            "GPU, 8 at most",
        )  # fmt: skip

    def add_circuit(self) -> None:
        """Changes to the circuit in evaluation."""
        self.add_argument(
            "--lesion", nargs="+", default=[], metavar="LETTER",
            help="hold these letters at 0: alpha, mu, gamma, kappa, omega",
        )  # fmt: skip
        self.add_argument(
            "--timesteps", type=whole(1), metavar="T",
            help="steps of the circuit, other than the run's own",
        )  # fmt: skip

    def add_output(self, what: str) -> None:
        """Where to write."""
        self.add_argument("--output", type=Path, metavar="DIR", help=what)


def whole(least: int) -> Callable[[str], int]:
    """A type for options: a whole number of at least ``least``."""

    def read(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, found {text!r}"
            )
        return value

    return read


def number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """A type for options: a number between these, both included."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {low:g} to {high:g}, found {text!r}")
        return value

    return read


def run_command(main: Main) -> None:
    """Run a command and leave: 0; 2 and a line for an error that is foreseen; 130 for Ctrl-C."""
    raise SystemExit(exit_code(main))


def exit_code(main: Main, arguments: Sequence[str] | None = None) -> int:
    """As :func:`run_command`, with the exit code as the result."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return main(arguments) or 0
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr, flush=True)
            return INTERRUPTED
        except (ValueError, OSError, RuntimeError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            return ERROR


def name_outputs(paths: Iterable[Path]) -> None:
    """Say what was written."""
    print("written:")
    for path in paths:
        print(f"  {path}")


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
