"""Writing a view out as an image file: raw or qcow2, by the file's suffix.

An image appears under its name whole and durable, or not at all: it is written beside it under a temporary
name. Nothing is ever overwritten. The layout of a qcow2 file is `recovery.qcow2`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from recovery import qcow2
from recovery.errors import ImageExists, ImageNotWritten, UnknownImageFormat
from recovery.view import Readable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all): of the disk for raw, of its data for qcow2."""

STEP_BYTES = 4 << 20
MAX_VECTOR = 1024  # IOV_MAX of Linux
_NOT_OFFERED = {errno.EOPNOTSUPP, errno.EINVAL, errno.EISDIR, errno.ENOSYS, errno.EPERM, errno.ENOENT}
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
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
    """Give a file to write; put it under its name, durably, when the block ends well, else remove it."""
    if path.exists() or path.is_symlink():
        raise ImageExists(f"{path} exists already")
    try:
        file, temporary = _nameless(path.parent)
    except OSError as error:
        raise ImageNotWritten(f"{path}: {error.strerror}") from error
    try:
        yield file
        os.fdatasync(file)
        _publish(file, temporary, path)
    except FileExistsError as error:
        raise ImageExists(f"{path} exists already") from error
    except OSError as error:
        raise ImageNotWritten(f"{path}: {error.strerror or error}") from error
    finally:
        os.close(file)
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _nameless(folder: Path) -> tuple[int, str | None]:
    """Return a new file to write, and its temporary name: None where the file system can do without.

    A file without a name is gone when its process is killed; one with a name is left behind.
    """
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
    return tempfile.mkstemp(prefix=".lastwrite.", suffix=".partial", dir=folder)


def _publish(file: int, temporary: str | None, path: Path) -> None:
    """Give the file its name, durably, unless something has that name by now."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # link, unlike rename, never replaces a file; a descriptor of the folder makes Python follow /proc's link.
        os.link(temporary or f"/proc/self/fd/{file}", path.name, dst_dir_fd=folder)
    except OSError as error:
        if not temporary or error.errno not in _NOT_OFFERED:
            raise
        _rename_new(temporary, path)  # such as FAT, which has no links
    finally:
        os.fsync(folder)
        os.close(folder)


def _rename_new(temporary: str, path: Path) -> None:
    """Rename a file unless something has that name. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(temporary), os.fsencode(path))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
