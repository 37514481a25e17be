"""The shell of all commands: two kinds of errors, exit codes, output that closes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.errors import MissingError, SystemRefusal, UserError, refusals
from support.kinds import number
from support.shell import ERROR, INTERRUPTED, Parser, exit_code, option, whole

CLONE = Path(__file__).parents[2]


def raising(error: BaseException):
    def main(arguments: object) -> None:
        raise error

    return main


@pytest.mark.parametrize("kind", [UserError, MissingError, SystemRefusal])
def test_what_the_user_can_put_right_is_one_line(
    kind: type[UserError], capsys: pytest.CaptureFixture
) -> None:
    assert exit_code(raising(kind("the\nfile"))) == ERROR
    assert capsys.readouterr().err == "error: the file\n"


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, KeyError, FileNotFoundError])
def test_anything_else_is_a_bug(kind: type[Exception], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(kind):
        exit_code(raising(kind("a bug")))
    assert capsys.readouterr().err == ""


def test_exit_codes() -> None:
    assert exit_code(lambda arguments: None) == 0
    assert exit_code(lambda arguments: 1) == 1
    assert exit_code(raising(KeyboardInterrupt())) == INTERRUPTED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, "No such file"), MissingError),
        (NotADirectoryError(20, "Not a directory"), SystemRefusal),
        (PermissionError(13, "Permission denied"), SystemRefusal),
        (OSError(28, "No space left"), SystemRefusal),
    ],
)
def test_what_the_system_refuses_is_named(error: OSError, kind: type[Exception]) -> None:
    with (
        pytest.raises(kind, match=r"a/b cannot be read: .*") as found,
        refusals("a/b", "cannot be read"),
    ):
        raise error
    assert str(error.strerror) in str(found.value)


def test_numbers_of_the_command_line_are_checked() -> None:
    parse = Parser("x", None)
    parse.add_argument("--whole", type=whole(1))
    parse.add_argument("--number", type=option(number(least=0, most=1)))
    parse.add_argument("--above", type=option(number(above=0)))
    for words in (["--whole", "0"], ["--whole", "2.5"], ["--number", "nan"], ["--number", "2"]):
        with pytest.raises(UserError, match=words[1]):
            parse.parse_args(words)
    with pytest.raises(UserError, match="above 0"):
        parse.parse_args(["--above", "0"])
    assert parse.parse_args(["--whole", "3", "--above", "0.5"]).above == 0.5


def commands() -> list[str]:
    """Every module that is a command."""
    found = []
    for package in ("analysis", "dataset_processing", "benchmarks"):
        for file in sorted((CLONE / package).glob("*.py")):
            if '__name__ == "__main__"' in file.read_text(encoding="utf-8"):
                found.append(f"{package}.{file.stem}")
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_an_option_that_it_lacks(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    assert exit_code(importlib.import_module(name).main, ["--no-such-option"]) == ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_command_whose_output_is_closed_ends_well() -> None:
    command = [sys.executable, "-m", "training.experiment"]
    process = subprocess.Popen(
        command, cwd=CLONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    os.close(process.stdout.fileno())
    assert "Traceback" not in process.stderr.read()
    assert process.wait(60) == 0
