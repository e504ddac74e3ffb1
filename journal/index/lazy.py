"""Columns that are read when they are asked for; the few used last stay in memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from journal.table import Column

_ROOM = 48 << 20

Array = npt.NDArray[Any]


class LazyColumn:
    """A column that `load` returns, each time the same."""

    def __init__(self, load: Callable[[], Array]) -> None:
        self._load = load
        self.kept: Array | None = None

    def array(self) -> Array:
        """Return all of it. Raises what `load` raises."""
        array = self.kept
        if array is None:
            array = self.kept = self._load()
            _RECENT.add(self)
        return array


class _Recent:
    """The columns that were read last; what the older ones keep is given up. Thread-safe.

    It holds them weakly, and without callbacks: the garbage collector may run while the lock is held.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._columns: list[weakref.ref[LazyColumn]] = []
        self._lock = threading.Lock()

    def add(self, column: LazyColumn) -> None:
        """Take in a column that was just read; the oldest give up their arrays until all take `room` bytes."""
        with self._lock:
            there = [known for reference in self._columns if (known := reference()) is not None]
            there = [known for known in there if known.kept is not None and known is not column]
            total = sum(_size(known) for known in [*there, column])
            while there and total > self._room:
                total -= _size(there[0])
                there.pop(0).kept = None
            self._columns = [weakref.ref(known) for known in [*there, column]]


def _size(column: LazyColumn) -> int:
    return 0 if column.kept is None else column.kept.nbytes


_RECENT = _Recent(_ROOM)


class JoinedColumn:
    """A column that goes on: what `first` returns, then what `rest` has come to hold."""

    def __init__(self, first: LazyColumn, rest: Column) -> None:
        self._first = first
        self._rest = rest
        self._made: tuple[int, Array] = (-1, np.empty(0))

    def array(self) -> Array:
        """Return all of it. Raises what `first` raises."""
        rest = self._rest.array()
        length, whole = self._made
        if length != len(rest):
            whole = np.concatenate([self._first.array(), rest])
            self._made = (len(rest), whole)
        return whole
