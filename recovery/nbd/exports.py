"""Which exports there are, and what a name of one means: `VM/DISK@POINT`.

A name is resolved when a client connects. Views of the same (journal, disk, LSN) are shared by all
connections; the most recent ones stay for a while after the last connection has gone.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from journal.layout import read_identity
from journal.reader import JournalReader
from lastwrite.errors import LastwriteError
from recovery import points
from recovery.points import Form, Point, RecoveryPoint
from recovery.view import Readable, View, disks_at

MAX_IDLE_VIEWS = 8
MAX_LISTED_LABELS = 100


@dataclass(frozen=True)
class Export:
    """What a client is connected to. `floating`: the same name may mean another LSN at the next connection."""

    name: str
    description: str
    floating: bool
    view: Readable


class ExportSource(Protocol):
    """Where a server finds its exports. Called by many threads."""

    def open(self, name: str) -> Export:
        """Return the export of that name. Raises a LastwriteError saying why there is none."""

    def names(self) -> Iterable[tuple[str, str]]:
        """Return (name, description) of the exports that are offered by name."""


Key = tuple[str, int, int, str]


class ViewCache:
    """Views by (journal, timeline, LSN, disk): one for all who use it, a few kept when nobody does."""

    def __init__(self, idle: int = MAX_IDLE_VIEWS) -> None:
        self._idle = idle
        self._lock = threading.Lock()
        self._recent: OrderedDict[Key, View] = OrderedDict()
        self._shared: weakref.WeakValueDictionary[Key, View] = weakref.WeakValueDictionary()

    def get(self, key: Key) -> View | None:
        """Return the view that is there, if any, and make it the most recent one."""
        with self._lock:
            view = self._shared.get(key)
            if view is not None:
                self._remember(key, view)
            return view

    def put(self, key: Key, view: View) -> None:
        """Keep a view."""
        with self._lock:
            self._shared[key] = view
            self._remember(key, view)

    def _remember(self, key: Key, view: View) -> None:
        self._recent[key] = view
        self._recent.move_to_end(key)
        while len(self._recent) > self._idle:
            self._recent.popitem(last=False)


class _OpenJournal:
    """A reader and the lock of those who use it."""

    def __init__(self, folder: Path) -> None:
        self.reader = JournalReader(folder)
        self.lock = threading.Lock()


class JournalExports:
    """The exports of a set of journals.

    `find_journal` returns the folder of a VM's journal by the VM's name and raises NotFoundError;
    `list_journals` returns (VM name, folder) of every VM. Both are asked anew each time: VMs come and go.
    """

    def __init__(
        self, find_journal: Callable[[str], Path], list_journals: Callable[[], Iterable[tuple[str, Path]]]
    ) -> None:
        self._find = find_journal
        self._list = list_journals
        self._lock = threading.Lock()
        self._journals: dict[Path, _OpenJournal] = {}
        self._views = ViewCache()

    def open(self, name: str) -> Export:
        """Resolve `VM/DISK@POINT`. Raises BadExport, BadPoint, NotFoundError, PointInGap, IntegrityError."""
        vm, disk, point = points.split_export(name)
        folder = self._find(vm)
        journal = self._journal(folder)
        with journal.lock:
            journal.reader.refresh()
            found = points.find(journal.reader, point)
            view = self._view(journal.reader, found, disk)
        return Export(name, f"{vm}/{disk}: {found.description}", point.floating, view)

    def _view(self, reader: JournalReader, found: RecoveryPoint, disk: str) -> View:
        key = (reader.journal_id, found.timeline, found.lsn, disk)
        view = self._views.get(key)
        if view is None:
            view = View(reader, found, disk)
            self._views.put(key, view)
        return view

    def _journal(self, folder: Path) -> _OpenJournal:
        # The same folder may hold another journal by now: protection ended, and began anew.
        identity = str(read_identity(folder).journal)
        with self._lock:
            known = self._journals.get(folder)
            if known is None or known.reader.journal_id != identity:
                known = self._journals[folder] = _OpenJournal(folder)
            return known

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield the live names: of every VM that has a point, `latest`, its bookmarks and its AppShots."""
        for vm, folder in self._list():
            try:
                yield from self._names_of(vm, folder)
            except LastwriteError:
                continue  # no journal yet, or no point yet: there is nothing to connect to

    def _names_of(self, vm: str, folder: Path) -> list[tuple[str, str]]:
        journal = self._journal(folder)
        with journal.lock:
            journal.reader.refresh()
            latest = points.find(journal.reader, points.parse("latest"))
            found = [("latest", latest), *_labelled(journal.reader)]
            had = [[disk.name for disk in disks_at(journal.reader, point)] for _, point in found]
        return [
            (f"{vm}/{disk}@{name}", point.description)
            for disk in dict.fromkeys(chain.from_iterable(had))
            for (name, point), disks in zip(found, had, strict=True)
            if disk in disks
        ]


def _labelled(reader: JournalReader) -> Iterator[tuple[str, RecoveryPoint]]:
    """Yield (how to write it, point) of the newest labelled cuts that one can recover to."""
    cuts = [cut for cut in reader.cuts() if cut.label]
    count = Counter(cut.label for cut in cuts)
    for cut in cuts[-MAX_LISTED_LABELS:]:
        name = _spelling(str(cut.label), cut.lsn, count[cut.label] == 1)
        try:
            yield name, points.find(reader, points.parse(name))
        except LastwriteError:
            continue  # a label inside a gap is no point


def _spelling(label: str, lsn: int, alone: bool) -> str:
    if not alone:
        return f"lsn:{lsn}"
    try:
        plain: Point | None = points.parse(label)
    except LastwriteError:
        plain = None
    return label if plain and plain.form is Form.NAME else f"app:{label}"
