"""Letting the kernel read ahead what a new process needs of a journal's files, while the process does other work.

Hints only: they change no result, and what goes wrong with them goes unnoticed until the file is really read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from journal.frame import BLOCK
from journal.index.chunks import expect
from journal.index.indexfile import FRONT, index_path
from journal.layout import StoredFile

_FILES = 32  # so many files ahead of the one that is looked at


def files_ahead(files: Iterable[StoredFile], known: Iterable[Path]) -> Iterator[StoredFile]:
    """Yield files; what is read when a file is opened that is not `known` has been asked for some files before."""
    opened = set(known)
    waiting: list[StoredFile] = []
    for file in files:
        if file.path not in opened:
            _expect_file(file.path)
        waiting.append(file)
        if len(waiting) > _FILES:
            yield waiting.pop(0)
    yield from waiting


def _expect_file(path: Path) -> None:
    """Expect a file's footer and the front of its index."""
    for name, at_end in ((path, True), (index_path(path), False)):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if at_end:
                expect(fd, max(os.fstat(fd).st_size - BLOCK, 0), BLOCK)
            else:
                expect(fd, 0, FRONT)
        finally:
            os.close(fd)
