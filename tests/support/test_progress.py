"""Bars in a file, and bars whose making is interrupted."""

import gc
import io
import sys
import threading
from typing import Any

import pytest
from tqdm import TMonitor

from support import progress
from support.progress import Progress


def test_a_file_gets_whole_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    file = io.StringIO()
    with Progress(total=2, desc="outer", file=file) as outer:
        outer.update()
        with Progress(total=3, desc="inner", file=file, leave=False, delay=1e-9) as inner:
            inner.update(2)
        outer.update()
    text = file.getvalue()
    assert text.endswith("\n") and "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines] == ["outer"] * 2 + ["inner"] + ["outer"] * 2
    assert " 67% 2/3 " in lines[2] and "100% 2/2 " in lines[-1]


def test_a_bar_whose_making_is_interrupted_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    missed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", missed.append)
    monkeypatch.setattr(Progress, "set_postfix", interrupt)  # the last step before it has a place
    interrupted = False
    try:
        Progress(total=1, postfix={"loss": 1}, file=io.StringIO())
    except KeyboardInterrupt:
        interrupted = True
    gc.collect()
    assert interrupted and not missed


def test_a_bar_starts_no_thread() -> None:
    with Progress(total=1, file=io.StringIO()):
        assert not [one for one in threading.enumerate() if isinstance(one, TMonitor)]
