"""New files that appear under their names whole and durable, or not at all. Nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NOT_OFFERED = {errno.EOPNOTSUPP, errno.EINVAL, errno.EISDIR, errno.ENOSYS, errno.EPERM, errno.ENOENT}
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[int]:
    """Give a file to write; put it under its name, durably, when the block ends well, else remove it.

    Raises FileExistsError, also when something gets that name meanwhile, and OSError.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    file, temporary = _nameless(path.parent)
    try:
        yield file
        os.fdatasync(file)
        _publish(file, temporary, path)
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
