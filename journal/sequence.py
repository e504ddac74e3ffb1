"""What a journal's next frame must be: LSN, epoch, cut number, disks. Checks frames before writing."""

from __future__ import annotations

import functools
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from journal import frame, layout, notes, table
from journal.errors import BadContent, BadSequence
from journal.frame import SECTOR, SYNC, Buffer, FrameHeader
from journal.history import Cut, Damage, Epoch, History
from journal.notes import ADDING_SYNCS, CutNote, EpochNote, GapNote, JournalDisk, Parsed, SyncNote
from journal.reader import JournalReader

_MAX_BASE_TIME = (1 << 62) - 1


@dataclass(frozen=True, slots=True)
class Sequence:
    """Where a timeline stands. `after` gives the state that follows a frame, or refuses the frame."""

    next_lsn: int = 1
    next_cut: int = 1
    epoch: int = 0
    epoch_open: bool = False
    valid: bool = False
    valid_base: bool = False
    generation: int | None = None
    position: int = 0
    sync_cursor: dict[str, int] | None = None
    last_cut: Cut | None = None
    disks: tuple[JournalDisk, ...] = field(default=())
    known: dict[int, JournalDisk] = field(default_factory=dict)

    def after(self, header: FrameHeader, head: Buffer) -> Sequence:
        """Return the state after a frame whose checksums hold. Raises BadSequence, BadContent, FrameError."""
        if header.kind not in frame.FROM_TAPS:
            raise BadContent(
                f"the frame at LSN {header.first_lsn} has kind {header.kind}, which no tap sends"
            )
        parsed = _notes(header, head)
        self._check_order(header, parsed)
        state = self
        if parsed and isinstance(parsed[0], EpochNote):
            state = self._begin(header, parsed[0])
            parsed = parsed[1:]
        state._check_records(header, head)
        state = replace(state, next_lsn=header.next_lsn, position=header.position)
        for note in parsed:
            state = state._take(note)
        return state

    def _check_order(self, header: FrameHeader, parsed: Items[Parsed]) -> None:
        if header.first_lsn != self.next_lsn:
            raise BadSequence(f"a frame begins with LSN {header.first_lsn}, due is {self.next_lsn}")
        begins = bool(parsed) and isinstance(parsed[0], EpochNote)
        if begins and header.epoch != self.epoch + 1:
            raise BadSequence(f"epoch {header.epoch} begins, due is {self.epoch + 1}")
        if begins and header.records:
            raise BadSequence(f"the frame that begins epoch {header.epoch} has records")
        if not begins and (header.epoch != self.epoch or not self.epoch_open):
            state = f"epoch {self.epoch} is open" if self.epoch_open else "no epoch is open"
            raise BadSequence(f"a frame belongs to epoch {header.epoch}, but {state}")
        if header.kind == SYNC and header.records and self.valid and not begins:
            raise BadSequence(f"a sync frame at LSN {header.first_lsn} follows the end of its sync")
        if header.base_time > _MAX_BASE_TIME:
            raise BadContent(f"the frame at LSN {header.first_lsn} has time {header.base_time}")

    def _begin(self, header: FrameHeader, note: EpochNote) -> Sequence:
        if note.epoch != header.epoch:
            raise BadSequence(f"a note begins epoch {note.epoch} in a frame of epoch {header.epoch}")
        if note.sync in ADDING_SYNCS and not self.valid_base:
            raise BadSequence(
                f"epoch {note.epoch} syncs a {note.sync}, but there is no valid epoch that it adds to"
            )
        for disk in note.disks:
            self._check_number(note.epoch, disk)
        return replace(
            self,
            epoch=note.epoch,
            epoch_open=True,
            valid=False,
            generation=note.generation,
            sync_cursor=None,
            disks=note.disks,
            known=self.known | {disk.disk: disk for disk in note.disks},
        )

    def _check_number(self, epoch: int, disk: JournalDisk) -> None:
        """Refuse a number that means another disk, or a disk that has another number, in this journal."""
        former = self.known.get(disk.disk)
        if former is not None and not former.same_as(disk):
            raise BadSequence(
                f"epoch {epoch} calls {disk.described} disk {disk.disk}, which is {former.described} in this journal"
            )
        if former is None:
            for other in self.known.values():
                if (other.name, other.serial) == (disk.name, disk.serial):
                    raise BadSequence(
                        f"epoch {epoch} gives {disk.described} the number {disk.disk}, it has {other.disk}"
                    )

    def _check_records(self, header: FrameHeader, head: Buffer) -> None:
        rows = table.table_of(header, head)
        reason = table.problem(header, rows)
        if reason:
            raise BadContent(f"the frame at LSN {header.first_lsn} is wrong: {reason}")
        if not header.records:
            return
        ends = _ends(self.disks)
        last = (rows["place"] & table.SECTOR_MASK) + rows["sectors"]
        outside = np.flatnonzero(last > ends[np.minimum(rows["place"] >> table.SECTOR_BITS, len(ends) - 1)])
        if len(outside):
            row = rows[outside[0]]
            where = f"disk {int(row['place']) >> 48}, sector {int(row['place']) & int(table.SECTOR_MASK)}"
            raise BadContent(f"record {header.first_lsn + int(outside[0])} lies outside its disk ({where})")

    def _take(self, note: Parsed) -> Sequence:
        if not self.epoch_open:
            raise BadSequence(f"a note follows the gap that ended epoch {self.epoch}")
        if isinstance(note, CutNote):
            return self._cut(note)
        if isinstance(note, SyncNote):
            if self.valid or note.disk not in {disk.disk for disk in self.disks}:
                raise BadSequence(f"a sync cursor names disk {note.disk}, which is not being synced")
            return replace(self, sync_cursor={"disk": note.disk, "sector": note.sector})
        if isinstance(note, GapNote):
            return replace(self, epoch_open=False)
        raise BadSequence("a note that begins an epoch is not the first of its frame")

    def _cut(self, note: CutNote) -> Sequence:
        if note.number != self.next_cut:
            raise BadSequence(f"cut {note.number} was sent, due is {self.next_cut}")
        ends = note.kind == "sync-end"
        if ends and self.valid:
            raise BadSequence(f"the sync of epoch {self.epoch} ends a second time")
        cut = Cut.of(note, lsn=self.next_lsn - 1, epoch=self.epoch)
        valid, cursor = self.valid or ends, None if ends else self.sync_cursor
        base = self.valid_base or ends
        return replace(
            self, next_cut=note.number + 1, last_cut=cut, valid=valid, valid_base=base, sync_cursor=cursor
        )


@functools.lru_cache(maxsize=256)
def _ends(disks: tuple[JournalDisk, ...]) -> npt.NDArray[np.uint64]:
    """Return the sectors of each disk at its number, and at the end 0: for every number that is not there."""
    ends = np.zeros(max((disk.disk for disk in disks), default=-1) + 2, np.uint64)
    for disk in disks:
        ends[disk.disk] = disk.bytes // SECTOR
    return ends


def _notes(header: FrameHeader, head: Buffer) -> list[Parsed]:
    found = []
    for note in frame.notes(header, head):
        parsed = notes.parse(note)
        if parsed is None:
            raise BadContent(
                f"the frame at LSN {header.first_lsn} has an unknown note {str(note['note'])[:40]!r}"
            )
        found.append(parsed)
    return found


def sequence_of(reader: JournalReader, timeline: int = layout.MAIN) -> Sequence:
    """Return where a timeline stands, from what its journal holds. Raises NoSuchTimeline."""
    history = reader.lineage(timeline).history
    scans = reader.scans(timeline)
    own = [scan for scan in scans if scan.frame_count]
    noted = history.epochs[-1] if history.epochs else None
    number = max(
        noted.number if noted else 0, own[-1].epoch if own else 0, reader.timeline(timeline).fork_epoch
    )
    lost = _lost(reader, timeline)
    goes_on = noted if noted and own and own[-1].epoch == noted.number == number else None
    epoch_open = (
        goes_on is not None and goes_on.gap_reason is None and not _hit(lost, _needed(history, goes_on))
    )
    valid = goes_on is not None and goes_on.valid_from is not None
    cursor = history.cursors.get(number) if goes_on and not valid else None
    cuts = [cut.number for t in reader.timelines() for cut in reader.lineage(t.number).history.cuts]
    return Sequence(
        next_lsn=history.last_lsn + 1,
        next_cut=max(cuts, default=0) + 1,
        epoch=number,
        epoch_open=epoch_open,
        valid=valid,
        valid_base=_has_base(history, lost),
        generation=goes_on.generation if goes_on else None,
        position=int(own[-1].frames.array()["position"][-1]) if own else 0,
        sync_cursor={"disk": cursor.disk, "sector": cursor.sector} if cursor else None,
        last_cut=history.cuts[-1] if history.cuts else None,
        disks=goes_on.disks if goes_on else (),
        known=reader.known_disks(),
    )


def _lost(reader: JournalReader, timeline: int) -> list[Damage]:
    """Return what is damaged of a lineage: unreadable frames that matter, and frames whose data is bad."""
    limits = {part.timeline: part.last_lsn for part in reader.parts(timeline)}
    known = reader.lineage(timeline).history.damage
    data = [d for d in reader.damage() if not d.lost and d.first_lsn < d.next_lsn]
    return known + [d for d in data if d.first_lsn <= limits.get(d.timeline, -1)]


def _needed(history: History, epoch: Epoch) -> int:
    return epoch.number if epoch.sync not in ADDING_SYNCS else history.base(epoch)


def _hit(lost: Items[Damage], oldest: int) -> bool:
    return any(damage.high_epoch >= oldest for damage in lost)


def _has_base(history: History, lost: Items[Damage]) -> bool:
    """Return whether the newest valid epoch can be added to: nothing since its base is damaged."""
    newest = next((e for e in reversed(history.epochs) if e.valid_from is not None), None)
    return newest is not None and not _hit(lost, history.base(newest))
