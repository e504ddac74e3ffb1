"""What an index stands for, read when it is asked for; the heads of the frames where the index turns out to be bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from journal import layout
from journal.errors import DamagedJournal
from journal.index.chunks import BadCache, Unit
from journal.index.filenets import Scanned, places_of
from journal.index.indexfile import IndexFile
from journal.index.lazy import LazyColumn
from journal.table import Table


class Walked(Scanned, Protocol):
    """What a walk through the heads of a file has found."""

    @property
    def footer(self) -> layout.Footer | None:
        """The footer, None when there is none."""

    @property
    def intact(self) -> bool:
        """Whether nothing bad was found."""

    def digest_state(self) -> layout.Digest:
        """Return a copy of the running digest."""


class Indexed:
    """The columns of an index: frames, records, places of their data. `complete`: it is of a whole sealed file, else of
    the first frames of one in use.

    `walk` looks at the heads. Columns and methods raise DamagedJournal when neither index nor heads say what the
    index once said.
    """

    def __init__(self, index: IndexFile, *, complete: bool, walk: Callable[[], Walked]) -> None:
        self.index = index
        self.complete = complete
        self._walk = walk
        self._walked: Walked | None = None
        self.frames, self.rows = LazyColumn(self._frames), LazyColumn(self._records)
        self.places = LazyColumn(lambda: places_of(self.frames.array(), self.rows.array()))

    def _frames(self) -> Table:
        found = self._read(self.index.frames)
        return self.heads().frames.array()[: self.index.header.frames] if found is None else found

    def _records(self) -> Table:
        found = self._read(self.index.records)
        return self.heads().rows.array()[: self.index.header.records] if found is None else found

    def expect(self) -> None:
        """Let the kernel begin to read frames and records."""
        if self._walked is None:
            self.index.expect()

    def unit(self) -> Unit | None:
        """Return the nets of the whole file, None when the index does not have them."""
        if not self.complete or self._walked is not None:
            return None
        try:
            return self.index.unit()
        except BadCache:
            return None

    def _read(self, read: Callable[[], Table]) -> Table | None:
        if self._walked is not None:
            return None
        try:
            return read()
        except BadCache:
            return None

    def heads(self) -> Walked:
        """Return what the heads say."""
        if self._walked is None:
            walked, said = self._walk(), self.index.header
            frames = walked.frames.array()
            last = frames["head_sum"][: said.frames]
            there = len(last) == said.frames and (not len(last) or int(last[-1]) == said.last_sum)
            if not there or not walked.intact or (self.complete and walked.footer is None):
                raise DamagedJournal(
                    f"{self.index.path.with_suffix('')} has been damaged since it was indexed"
                )
            self._walked = walked
        return self._walked
