"""Files that appear under their name only once they are whole, and arrays read without pickles."""

import csv
import errno
import fcntl
import io
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from support.errors import SystemRefusal, UserError, refusals

# What NumPy raises for a damaged .npy file.
DAMAGED_ARRAY = (ValueError, EOFError, SyntaxError, tokenize.TokenError)


class WholeFile:
    """A binary file written aside, synced and renamed.

    A context manager. Bytes go to ``<path>.partial``, which takes the place of ``path`` at the end
    of the block; if the block raises, it is deleted and whatever stood at ``path`` stays. A
    process that is killed leaves ``<path>.partial`` behind: nothing reads it, the next writer
    empties it. The file's folder is made if need be.

    SystemRefusal where another process is writing it, or it cannot be written (a full disk).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")

    def __enter__(self) -> Self:
        with self._refusals():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_alone(self.partial)
        return self

    def append(self, data: bytes) -> None:
        """Writes bytes at the end; SystemRefusal if there is no room."""
        with self._refusals():
            self._file.write(data)

    def sync(self) -> None:
        """Waits until what was written is on the disk; SystemRefusal if there is no room for it."""
        with self._refusals():
            self._file.flush()
            os.fsync(self._file.fileno())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as otherwise:
            otherwise.callback(self._discard)
            if kind is None:
                self.sync()
                with self._refusals():
                    os.replace(self.partial, self.path)
                    self._file.close()
                    _sync_folder(self.path.parent)
                otherwise.pop_all()

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        with suppress(OSError):  # closing flushes; why the file is given up is said already
            self._file.close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError as error:
            raise SystemRefusal(
                f"{self.path}: another process is writing it; let that one finish"
            ) from error
        except OSError as error:
            raise SystemRefusal(
                f"{self.path}: could not be written ({os.strerror(error.errno or 0)}); nothing of "
                "it was kept. Make room or name another folder, then run the same command again"
            ) from error


def held_elsewhere(lock: Callable[[Any, int], object], file: Any) -> bool:
    """Whether another process holds an open file's lock. Else this one does now, until it closes
    the file or ends: ``lock`` is fcntl.flock, of the open file, or fcntl.lockf, of the process."""
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks, as some of clusters, refuses by another number: nobody holds.
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _open_alone(path: Path) -> BinaryIO:
    """``path`` emptied and open for writing by this process alone; BlockingIOError if it is not."""
    with ExitStack() as otherwise:
        file = otherwise.enter_context(open(path, "ab"))
        if held_elsewhere(fcntl.flock, file):
            raise BlockingIOError
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise BlockingIOError  # another process finished and renamed it a moment ago
        file.truncate(0)
        otherwise.pop_all()
    return file


def _sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` last over a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file; its folder is made if need be."""
    with WholeFile(path) as file:
        file.append(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write plain values as indented JSON."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows of the same keys as a table with a header."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return write_text(path, text.getvalue())


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write an ``.npz`` file without pickles."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return write_bytes(path, content.getvalue())


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of an ``.npy`` file, without pickles."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def read_array(path: Path) -> np.ndarray:
    """What an ``.npy`` file holds; nothing in it is run. UserError where it is damaged."""
    with refusals(path, "cannot be read"):
        try:
            return np.load(path, allow_pickle=False)
        except DAMAGED_ARRAY as error:
            raise UserError(f"{path} cannot be read as an array ({error}); damaged?") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What an ``.npz`` file holds; nothing in it is run. UserError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, KeyError, *DAMAGED_ARRAY) as error:
        raise UserError(f"{path} is damaged and cannot be read ({error})") from error
