"""Reading a journal, also while another process writes it: epochs, cuts, instants, disks at points."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from journal import layout, metalog, table
from journal.ahead import files_ahead
from journal.damage import segment_damage
from journal.data import SegmentData
from journal.errors import DamagedJournal, NoSuchDisk, NoSuchTimeline, NotRecoverable
from journal.history import Cut, Damage, Epoch, History
from journal.map.blockmap import BlockMap
from journal.map.resolve import Source, resolve
from journal.metalog import Timeline
from journal.notes import JournalDisk
from journal.scan import Owner, PlacedNote, SegmentScan
from journal.thinned import NetRange, Thinned
from journal.times import Instant, Times

_NO_END = (1 << 62) - 1
_LOOKS = 1000
T = TypeVar("T")


class Part(NamedTuple):
    """A timeline's share of a lineage: what it has up to an LSN and an epoch counts."""

    timeline: int
    last_lsn: int
    last_epoch: int


class Lineage(NamedTuple):
    """A timeline with its ancestors, as of the last refresh. `taken`: notes of each source that are in `history`."""

    parts: list[Part]
    sources: list[Source]
    taken: list[int]
    history: History
    times: Times

    def grew_from(self, older: Lineage | None) -> bool:
        """Return whether all that `older` held is at the beginning of this."""
        if older is None or older.parts != self.parts or len(older.sources) > len(self.sources):
            return False
        same = all(a.data is b.data for a, b in zip(older.sources, self.sources, strict=False))
        # Only the last source may have grown: notes are taken in order.
        return same and older.taken[:-1] == self.taken[: max(len(older.taken) - 1, 0)]


class JournalReader:
    """A journal as it was at the last refresh(). Takes no lock, writes nothing. Safe for several threads.

    Raises NotAJournal, WrongFormat, DamagedJournal.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        identity: layout.Identity | None = None,
        extra: Sequence[metalog.Meta] = (),
        cached: bool = True,
    ) -> None:
        """For a rescue: `identity` stands for a lost JOURNAL, `extra` for records that meta.log lost.

        Without `cached` no index is looked at: what the files themselves say counts.
        """
        self.folder = Path(folder)
        self.identity = identity or layout.read_identity(self.folder)
        self._extra = list(extra)
        self._cached = cached
        self.name = self.identity.vm
        self.journal_id = str(self.identity.journal)
        self.meta = metalog.MetaLog([], 0, [])
        self._timelines: dict[int, Timeline] = {}
        self._segments: dict[int, list[SegmentData]] = {}
        self._lineages: dict[int, Lineage] = {}
        self._older: dict[int, Lineage] = {}
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Take in what was written since. Costs what is new."""
        with self._lock:
            path = self.folder / layout.META_LOG
            self.meta = metalog.read(path) if path.exists() else metalog.MetaLog([], 0, [0])
            self.meta = self.meta._replace(records=[*self.meta.records, *self._extra])
            self._timelines = {t.number: t for t in metalog.timelines(self.meta.records)}
            for number in self._timelines:
                self._segments[number] = self._scanned(number, self._segments.get(number, []))
            self._older |= self._lineages
            self._lineages = {}

    def _scanned(self, timeline: int, known: list[SegmentData]) -> list[SegmentData]:
        """Return the files of a timeline, each scanned to its present end."""
        by_path = {data.scan.path: data for data in known}
        for _ in range(_LOOKS):
            try:
                files = layout.files(self.folder, timeline)
                found = files_ahead(files, by_path) if self._cached else files
                return [self._scan(file, timeline, by_path) for file in found]
            except FileNotFoundError:
                continue  # retention has put a net segment in its place meanwhile
        raise DamagedJournal(f"the files of timeline {timeline} in {self.folder} do not stay as they are")

    def _scan(self, file: layout.StoredFile, timeline: int, known: dict[Path, SegmentData]) -> SegmentData:
        data = known.get(file.path)
        if data is None or data.scan.unsettled or data.scan.replaced() or not data.scan.still_holds():
            owner = Owner(self.identity.journal.bytes, timeline)
            data = known[file.path] = SegmentData(
                SegmentScan(file.path, file.first_lsn, owner, file.next_lsn, cached=self._cached)
            )
        data.scan.extend()
        return data

    def scans(self, timeline: int) -> list[SegmentScan]:
        """Return the scans of a timeline's own segments, oldest first."""
        with self._lock:
            return [data.scan for data in self._segments[self.timeline(timeline).number]]

    def timelines(self) -> list[Timeline]:
        """Return every timeline, by number."""
        return list(self._timelines.values())

    def timeline(self, number: int) -> Timeline:
        """Return a timeline. Raises NoSuchTimeline."""
        if number not in self._timelines:
            known = ", ".join(map(str, self._timelines))
            raise NoSuchTimeline(f"{self.folder} has no timeline {number}; it has {known}")
        return self._timelines[number]

    def parts(self, timeline: int) -> list[Part]:
        """Return what a timeline consists of, the oldest ancestor first. Raises NoSuchTimeline."""
        line = self.timeline(timeline)
        parts = [Part(line.number, _NO_END, _NO_END)]
        while line.parent is not None and line.parent < line.number:
            last_lsn, last_epoch = parts[-1].last_lsn, parts[-1].last_epoch
            parts.append(Part(line.parent, min(line.fork_lsn, last_lsn), min(line.fork_epoch, last_epoch)))
            line = self.timeline(line.parent)
        return parts[::-1]

    def lineage(self, timeline: int = layout.MAIN) -> Lineage:
        """Return segments, history and times of a timeline with its ancestors. Raises NoSuchTimeline."""
        with self._lock:
            return self.settled(lambda: self._lineage(timeline))

    def _lineage(self, timeline: int) -> Lineage:
        if timeline not in self._lineages:
            self._lineages[timeline] = self._make_lineage(timeline)
        return self._lineages[timeline]

    def settled(self, look: Callable[[], T]) -> T:
        """Return what `look` returns; it looks anew, after a refresh, when retention replaced files meanwhile.

        What a file's index holds is read when it is asked for: the file may be gone by then.
        """
        for _ in range(_LOOKS):
            try:
                return look()
            except (DamagedJournal, FileNotFoundError):
                if not self._is_replaced():
                    raise
                self.refresh()  # retention has put a net segment in the place of files meanwhile
        raise DamagedJournal(f"the files of {self.folder} do not stay as they are")

    def _make_lineage(self, timeline: int) -> Lineage:
        parts = self.parts(timeline)
        sources: list[Source] = []
        damage: list[Damage] = []
        last = 0
        for part in parts:
            datas = [d for d in self._segments[part.timeline] if d.scan.first_lsn <= part.last_lsn + 1]
            sources += [Source(data, part.last_lsn, part.last_epoch) for data in datas]
            damage += [d for d in self._damage(part.timeline) if d.first_lsn <= part.last_lsn]
            last = max([last, *(min(data.scan.following_lsn - 1, part.last_lsn) for data in datas)])
        taken = [len(source.data.scan.notes) for source in sources]
        thinned = Thinned(net_range for source in sources if (net_range := _net_range(source)))
        empty = History([], last, damage)
        lineage = Lineage(parts, sources, taken, empty, Times(sources, empty))
        older = self._older.get(timeline)
        before = older if lineage.grew_from(older) else None
        known = before.history if before else None
        history = History(_new_notes(lineage, before), last, damage, known, thinned)
        return lineage._replace(history=history, times=Times(sources, history))

    def damage(self) -> list[Damage]:
        """Return every range that is known to be bad, by timeline and LSN."""
        with self._lock:
            return self.settled(lambda: [bad for number in self._timelines for bad in self._damage(number)])

    def _damage(self, timeline: int) -> list[Damage]:
        scans = [data.scan for data in self._segments[timeline]]
        found = segment_damage(timeline, scans, self._first_due(timeline))
        for meta in self.meta.records:
            if meta["meta"] == "damage" and meta.get("timeline") == timeline:
                found += self._bad_data(int(meta["first_lsn"]), int(meta["next_lsn"]), timeline)
        return sorted(found, key=lambda d: d.first_lsn)

    def _bad_data(self, first_lsn: int, next_lsn: int, timeline: int) -> list[Damage]:
        """Return the frames of a named range whose data really is bad (it may have been restored)."""
        found = []
        for data in self._segments[timeline]:
            frames = data.scan.frames.array()
            inside = (frames["first_lsn"] >= first_lsn) & (frames["next_lsn"] <= next_lsn)
            for index in np.flatnonzero(inside & (frames["data_bytes"] > 0)).tolist():
                reason = data.damaged(index)
                if reason:
                    row = frames[index]
                    first, epoch = int(row["first_lsn"]), int(row["epoch"])
                    where = (first, int(row["next_lsn"]), data.scan.path, int(row["offset"]), reason)
                    found.append(Damage(timeline, *where, epoch, epoch, lost=False))
        return found

    def _first_due(self, timeline: int) -> int:
        return self._timelines[timeline].fork_lsn + 1

    @property
    def next_lsn(self) -> int:
        """The LSN that the next record of timeline 1 will have."""
        return self.last_lsn() + 1

    def last_lsn(self, timeline: int = layout.MAIN) -> int:
        """Return the newest LSN of a timeline, 0 when it has none."""
        return self.lineage(timeline).history.last_lsn

    def epochs(self, timeline: int = layout.MAIN) -> list[Epoch]:
        """Return the epochs, oldest first."""
        return list(self.lineage(timeline).history.epochs)

    def cuts(self, timeline: int = layout.MAIN) -> list[Cut]:
        """Return cuts and bookmarks (number 0: made after the fact), by LSN."""
        return self.settled(lambda: self._cuts(timeline))

    def _cuts(self, timeline: int) -> list[Cut]:
        lineage = self.lineage(timeline)
        cuts = lineage.history.cuts + self._bookmarks(timeline, lineage)
        return sorted(cuts, key=lambda cut: (cut.lsn, cut.wall))

    def _bookmarks(self, timeline: int, lineage: Lineage) -> list[Cut]:
        limits = {part.timeline: part.last_lsn for part in self.parts(timeline)}
        found = []
        for meta in self.meta.records:
            if meta["meta"] == "bookmark" and meta["lsn"] <= limits.get(meta["timeline"], -1):
                found.append(_bookmark(int(meta["lsn"]), str(meta["name"]), lineage))
        return found

    def known_disks(self) -> dict[int, JournalDisk]:
        """Return every disk that the journal ever had, by its number, as the newest epoch that has it says."""
        epochs = [e for number in self._timelines for e in self.epochs(number)]
        epochs.sort(key=lambda epoch: epoch.number)
        return {disk.disk: disk for epoch in epochs for disk in epoch.disks}

    def disks(self, timeline: int = layout.MAIN) -> list[JournalDisk]:
        """Return the disks as the newest epoch names them."""
        epochs = self.epochs(timeline)
        return list(epochs[-1].disks) if epochs else []

    def point(self, lsn: int, timeline: int = layout.MAIN) -> Epoch:
        """Return the epoch of a recovery point. Raises NotRecoverable with the nearest points."""
        return self.lineage(timeline).history.require(lsn)

    def latest(self, timeline: int = layout.MAIN) -> int | None:
        """Return the newest LSN that is a recovery point, None when there is none yet."""
        return self.lineage(timeline).history.latest()

    def last_time(self, timeline: int = layout.MAIN) -> int | None:
        """Return the source's wall time (ns) of the newest record or note."""
        return self.settled(lambda: self.lineage(timeline).times.newest)

    def known_until(self, epoch: Epoch, timeline: int = layout.MAIN) -> int:
        """Return the source's wall time (ns) up to which the state of an epoch is known."""
        return self.settled(lambda: self.lineage(timeline).times.known_until(epoch))

    def lsn_at(self, wall: int, timeline: int = layout.MAIN) -> Instant:
        """Return the point that holds all records up to a wall time (ns, source's clock) and none after."""
        return self.settled(lambda: self.lineage(timeline).times.lsn_at(wall))

    def record_time(self, lsn: int, timeline: int = layout.MAIN) -> int:
        """Return the source's wall time (ns) of a record. Raises NotRecoverable when there is none."""
        return self.settled(lambda: self.lineage(timeline).times.record_time(lsn))

    def resolve(self, lsn: int, disk: int | str, timeline: int = layout.MAIN) -> BlockMap:
        """Return a disk (by number or name) as it was at a point.

        Raises NotRecoverable for a point without an exact state, NoSuchDisk, NoSuchTimeline, DiskTooLarge.
        """
        with self._lock:
            return self.settled(lambda: self._resolve(lsn, disk, timeline))

    def _resolve(self, lsn: int, disk: int | str, timeline: int) -> BlockMap:
        lineage = self.lineage(timeline)
        epoch = lineage.history.require(lsn)
        entry = _disk_of(epoch, disk)
        blocks = resolve(lineage.sources, lineage.history.layers(epoch), lsn, entry.disk, entry.bytes)
        self._refuse_damaged(lineage, blocks, lsn, timeline)
        return blocks

    def _is_replaced(self) -> bool:
        """Return whether a file is gone, or is another by now."""
        try:
            return any(data.scan.replaced() for datas in self._segments.values() for data in datas)
        except FileNotFoundError:
            return True

    def _refuse_damaged(self, lineage: Lineage, blocks: BlockMap, lsn: int, timeline: int) -> None:
        """Raise NotRecoverable when the map needs data that is known not to match its checksum."""
        limits = {part.timeline: part.last_lsn for part in self.parts(timeline)}
        for damage in self.damage():
            if damage.lost or damage.first_lsn > limits.get(damage.timeline, -1):
                continue
            for number, source in enumerate(lineage.sources):
                if source.data.scan.path == damage.path and blocks.needs(number, *_payload(source, damage)):
                    raise lineage.history.damaged(lsn, damage)


def _new_notes(lineage: Lineage, before: Lineage | None) -> Iterator[PlacedNote]:
    for index, (source, count) in enumerate(zip(lineage.sources, lineage.taken, strict=True)):
        known = before.taken[index] if before and index < len(before.taken) else 0
        for note in islice(source.data.scan.notes, known, count):
            if note.lsn <= source.last_lsn and note.epoch <= source.last_epoch:
                yield note


def _net_range(source: Source) -> NetRange | None:
    """Return what of a source is thinned; None when it is no net segment."""
    scan, limit = source.data.scan, source.last_lsn + 1
    if not scan.is_net:
        return None
    ends = scan.intervals - 1
    return NetRange(scan.first_lsn, min(scan.following_lsn, limit), ends[ends < limit])


def _payload(source: Source, damage: Damage) -> tuple[int, int]:
    frames = source.data.scan.frames.array()
    hit: table.Table = frames[frames["offset"] == damage.offset]
    return (int(hit[0]["data"]), int(hit[0]["data_bytes"])) if len(hit) else (0, 0)


def _bookmark(lsn: int, name: str, lineage: Lineage) -> Cut:
    epoch = next((e for e in reversed(lineage.history.epochs) if e.begins < lsn), None)
    try:
        wall = lineage.times.record_time(lsn)
    except NotRecoverable:  # the record itself is damaged: its epoch's beginning is what is known
        wall = epoch.wall if epoch else 0
    consistency = "approximate" if epoch and epoch.order == "cycle" else "crash"
    number = epoch.number if epoch else 0
    return Cut(0, lsn, "bookmark", name, consistency, wall, 0, None, None, number)


def _disk_of(epoch: Epoch, disk: int | str) -> JournalDisk:
    for entry in epoch.disks:
        if disk in (entry.disk, entry.name):
            return entry
    known = ", ".join(entry.name for entry in epoch.disks)
    raise NoSuchDisk(f"epoch {epoch.number} has no disk {disk!r}; it has {known}")
