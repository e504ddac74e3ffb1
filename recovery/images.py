"""Writing a view out as an image file: raw or qcow2, by the file's suffix.

An image appears under its name whole and durable, or not at all: it is written beside it under a temporary
name. Nothing is ever overwritten. The layout of a qcow2 file is `recovery.qcow2`'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lastwrite.wholefile import whole_file
from recovery import qcow2
from recovery.errors import ImageExists, ImageNotWritten, UnknownImageFormat
from recovery.view import Readable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all): of the disk for raw, of its data for qcow2."""

STEP_BYTES = 4 << 20
MAX_VECTOR = 1024  # IOV_MAX of Linux
SUFFIXES = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2"}


def write_image(view: Readable, path: Path, progress: Progress | None = None) -> None:
    """Write `view` in the format that the suffix of `path` says.

    Raises UnknownImageFormat, ImageExists, ImageNotWritten, or IntegrityError when data is damaged.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UnknownImageFormat(
            f"{path}: {path.suffix or 'no suffix'} is no image format that can be written"
        )
    (write_qcow2 if kind == "qcow2" else write_raw)(view, path, progress)


def write_raw(view: Readable, path: Path, progress: Progress | None = None) -> None:
    """Write `view` as a sparse raw image. Raises ImageExists, ImageNotWritten, IntegrityError."""
    with _new_file(path) as file:
        os.ftruncate(file, view.disk_bytes)
        for offset, length, data in _steps(view.extents(0, view.disk_bytes)):
            if data:
                _write(file, view.pieces(offset, length), offset)
            if progress:
                progress(offset + length, view.disk_bytes)


def write_qcow2(view: Readable, path: Path, progress: Progress | None = None) -> None:
    """Write `view` as a qcow2 image (version 3). Raises ImageExists, ImageNotWritten, IntegrityError."""
    layout = qcow2.plan(view.disk_bytes, view.extents(0, view.disk_bytes))
    with _new_file(path) as file:
        for offset, metadata in layout.metadata():
            _write(file, [memoryview(metadata)], offset)
        data = _Appender(file, layout.data_offset)
        for start, size, _ in _steps((offset, length, True) for offset, length in layout.runs()):
            inside = min(size, view.disk_bytes - start)
            data.add(view.pieces(start, inside), inside)
            if progress and data.flushed_now:
                progress(data.written, layout.data_bytes)
        data.flush()
        os.ftruncate(file, layout.file_bytes)
        if progress:
            progress(layout.data_bytes, layout.data_bytes)


class _Appender:
    """Writes pieces one after the other, many with one system call: scattered blocks are small."""

    def __init__(self, file: int, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._pieces: list[memoryview] = []
        self._waiting = 0
        self.written = 0
        self.flushed_now = False

    def add(self, pieces: list[memoryview], length: int) -> None:
        self._pieces += pieces
        self._waiting += length
        self.flushed_now = self._waiting >= STEP_BYTES
        if self.flushed_now:
            self.flush()

    def flush(self) -> None:
        _write(self._file, self._pieces, self._offset)
        self._offset += self._waiting
        self.written += self._waiting
        self._pieces = []
        self._waiting = 0


def _steps(extents: Iterable[tuple[int, int, bool]]) -> Iterator[tuple[int, int, bool]]:
    """Yield the extents, those with data in parts of at most STEP_BYTES."""
    for offset, length, data in extents:
        if not data:
            yield offset, length, False
            continue
        for start in range(offset, offset + length, STEP_BYTES):
            yield start, min(STEP_BYTES, offset + length - start), True


def _write(file: int, pieces: list[memoryview], offset: int) -> None:
    for first in range(0, len(pieces), MAX_VECTOR):
        vector = pieces[first : first + MAX_VECTOR]
        total = sum(map(len, vector))
        written = os.pwritev(file, vector, offset)
        if written < total:
            _write_rest(file, b"".join(vector)[written:], offset + written)
        offset += total


def _write_rest(file: int, data: bytes, offset: int) -> None:
    """Finish a short write: either it goes on, or the error that cut it short comes now."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest = rest[written:]
        offset += written


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Give a file to write that gets its name when the block ends well. Raises ImageExists, ImageNotWritten."""
    try:
        with whole_file(path) as file:
            yield file
    except FileExistsError as error:
        raise ImageExists(f"{path} exists already") from error
    except OSError as error:
        raise ImageNotWritten(f"{path}: {error.strerror or error}") from error
