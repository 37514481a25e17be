"""Machine code kept on disk (layers/kernels/compiled.py), by a compiler that is a stand-in."""

import importlib.util
from pathlib import Path

import pytest

from layers.kernels import compiled

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.fixture
def code(monkeypatch, tmp_path):
    """`machine_code` for K channels, and how often it compiled."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kept"))
    count = []

    def compile(file, text, options):
        count.append(file)
        return " ".join(options).encode()

    monkeypatch.setattr(compiled, "compile", compile)
    monkeypatch.setattr(compiled, "compiler_version", lambda: "1")

    def of(channels, architecture="sm_90"):
        before = len(count)
        image = compiled.machine_code("pointwise.cu", architecture, K=channels)
        assert image.decode().endswith(f"-DK={channels}")
        return len(count) - before

    return of


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_compiled_is_kept(code, monkeypatch):
    assert [code(25), code(25), code(6), code(25)] == [1, 0, 1, 0]
    assert [code(25, "sm_100"), code(25, "sm_100")] == [1, 0]
    monkeypatch.setattr(compiled, "compiler_version", lambda: "2")
    assert [code(25), code(25)] == [1, 0]
    monkeypatch.setattr(compiled, "source", lambda file: "another")
    assert [code(25), code(25)] == [1, 0]


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b"?" + b[1:]])
def test_a_damaged_file_is_compiled_again(code, tmp_path, damage):
    assert code(25) == 1
    (file,) = kept(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert [code(25), code(25)] == [1, 0]


def test_where_nothing_can_be_written_it_compiles_each_time(code, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert [code(25), code(25)] == [1, 1]
