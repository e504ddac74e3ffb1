"""The one writer of a journal: frames in, durable and acknowledged; fences, bookmarks and forks."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from journal import layout, metalog
from journal.errors import BadContent, JournalExists, JournalWriteFailed, NotRecoverable
from journal.frame import Buffer, FrameHeader
from journal.metalog import Meta
from journal.notes import checked_name
from journal.pins import require_standing
from journal.reader import JournalReader
from journal.recover import Recovery, recover
from journal.sequence import Sequence as Sequenced
from journal.sequence import sequence_of
from journal.space import Reserve, stop_below
from journal.standing import Standing
from journal.storage import ActiveSegment, lock, make_folder, replace_file, write_error
from lastwrite.errors import LastwriteError
from lastwrite.failpoints import reach

SEGMENT_BYTES = 1 << 30
SEGMENT_FRAMES = 4096


class JournalWriter(Standing):
    """Appends to one timeline of a journal and holds its lock. One thread owns it.

    append() writes, commit() makes durable: only what commit() returned may be acknowledged.
    """

    def __init__(
        self, folder: Path, timeline: int, segment_bytes: int, lock_fd: int, reserve_bytes: int = 0
    ) -> None:
        """Use create() or open()."""
        self.folder = folder
        self.timeline = timeline
        self.segment_bytes = segment_bytes
        self._lock_fd = lock_fd
        self._broken = ""
        self._active: ActiveSegment | None = None
        self.recovery: Recovery = recover(folder, timeline)
        reader = JournalReader(folder)
        self.name, self.journal_id = reader.name, reader.journal_id
        self._journal = reader.identity.journal.bytes
        self._fence = next(
            (m.get("token") for m in reversed(reader.meta.records) if m["meta"] == "fence"), None
        )
        if self._name_damage(reader):
            reader.refresh()
        self._state = self._durable = sequence_of(reader, timeline)
        self._in_use = _hold_timeline(folder, timeline)
        self._default_reserve = reserve_bytes
        self._log_bytes, self._own_reserve = -1, reserve_bytes
        self._reserve = Reserve(folder, self._present_reserve)
        self._previous = self._resume(reader)

    @classmethod
    def create(cls, folder: Path | str, vm_name: str, *, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """Make a journal for a VM and open it. Raises JournalExists, JournalBusy, JournalFull, BadContent."""
        folder = Path(folder)
        checked_name(vm_name)
        try:
            make_folder(folder)
        except OSError as error:
            raise write_error(folder, error) from error
        lock_fd = lock(folder)
        try:
            _require_empty(folder)
            main = {"meta": "timeline", "timeline": layout.MAIN, "name": "main", "parent": None}
            begin = metalog.encode(main | {"fork_lsn": 0, "epoch": 0, "created": time.time_ns()})
            replace_file(folder / layout.META_LOG, begin)
            identity = layout.identity_text(layout.new_identity(vm_name))
            replace_file(folder / layout.IDENTITY, identity)
            return cls(folder, layout.MAIN, segment_bytes, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    @classmethod
    def open(
        cls,
        folder: Path | str,
        timeline: int = layout.MAIN,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = 0,
    ) -> Self:
        """Open a journal to go on with; a torn tail is cut off, damage is named in the metadata log.

        Nothing is appended when less than `reserve_bytes` stay free; the journal's own promise may name another number.
        Raises NotAJournal, WrongFormat, JournalBusy, NoSuchTimeline, DamagedJournal, JournalFull.
        """
        folder = Path(folder)
        layout.read_identity(folder)
        try:
            lock_fd = lock(folder)
        except OSError as error:
            raise write_error(folder / layout.LOCK, error) from error
        try:
            return cls(folder, timeline, segment_bytes, lock_fd, reserve_bytes)
        except BaseException:
            os.close(lock_fd)
            raise

    def _resume(self, reader: JournalReader) -> bytes:
        """Take up the last segment; return the digest that the next one names."""
        scans = reader.scans(self.timeline)
        if not scans:
            return layout.NO_DIGEST
        if isinstance(scans[-1].header, layout.NetHeader):
            return scans[-1].header.stands_for
        if scans[-1].footer:
            return scans[-1].footer.digest
        if scans[-1].suspect or scans[-1].is_net:
            return scans[-1].digest
        self._active = ActiveSegment.reopen(scans[-1])
        return layout.NO_DIGEST

    def _name_damage(self, reader: JournalReader) -> bool:
        named = {
            (m.get("timeline"), m.get("first_lsn"), m.get("next_lsn"))
            for m in reader.meta.records
            if m["meta"] == "damage"
        }
        found = [(d.timeline, d.first_lsn, d.next_lsn, d.reason) for d in reader.damage()]
        found += [(self.timeline, *bad) for bad in self.recovery.damaged]
        new = [entry for entry in found if entry[:3] not in named]
        for timeline, first_lsn, next_lsn, reason in new:
            self._log(
                {
                    "meta": "damage",
                    "timeline": timeline,
                    "first_lsn": first_lsn,
                    "next_lsn": next_lsn,
                    "reason": reason,
                }
            )
        return bool(new)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Make everything durable and let go of the journal. Raises JournalFull, JournalWriteFailed."""
        if self._lock_fd < 0:
            return
        try:
            if self._active and not self._broken:
                self.commit()
        finally:
            if self._active:
                self._active.close()
            for fd in (self._in_use, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._in_use = self._lock_fd = -1

    @property
    def fence(self) -> str | None:
        """Token of whom the appliance lets append."""
        return self._fence

    def append(self, header: FrameHeader, head: Buffer, payload: Buffer) -> None:
        """Write one frame: see append_all."""
        self.append_all([(header, head, payload)])

    def append_all(self, frames: Sequence[tuple[FrameHeader, Buffer, Buffer]]) -> int:
        """Write as many of some frames as may follow and go into one segment; return how many (at least 1).

        The caller has compared their checksums. Not durable before commit(). Raises BadSequence or BadContent when
        the first may not follow (nothing is written), JournalFull when there is no space for it, JournalWriteFailed.
        Nothing of it stays then; next_lsn and position say where to go on (frames before it may have been taken
        back, when they could not be made durable).
        """
        self._require_whole()
        states = self._states(frames)
        try:
            self._reserve.require(sum(header.frame_bytes for header, _, _ in frames[: len(states)]))
            active = self._room_for(frames[0][0].frame_bytes)
            written = active.append_all(frames[: self._fitting(active, frames[: len(states)])])
        except LastwriteError:
            raise
        except OSError as error:
            raise self._break(error) from error
        self._state = states[written - 1]
        return written

    def _states(self, frames: Sequence[tuple[FrameHeader, Buffer, Buffer]]) -> list[Sequenced]:
        """Return the state after each frame, up to the first that may not follow; raises when that is the first."""
        states: list[Sequenced] = []
        state = self._state
        for header, head, payload in frames:
            try:
                if len(head) != header.head_bytes or len(payload) != header.payload_bytes:
                    lsn = header.first_lsn
                    raise BadContent(f"the frame at LSN {lsn} is not as long as its header says")
                state = state.after(header, head)
            except LastwriteError:
                if not states:
                    raise
                break
            states.append(state)
        return states

    def _fitting(self, active: ActiveSegment, frames: Sequence[tuple[FrameHeader, Buffer, Buffer]]) -> int:
        """Return how many of some frames go into the segment, at least the first."""
        length, count, records = active.length, active.frames, active.records
        for index, (header, _, _) in enumerate(frames):
            if index and self._is_full(length + header.frame_bytes, count, records):
                return index
            length, count = length + header.frame_bytes, count + 1
            records += header.records
        return len(frames)

    def _is_full(self, length: int, frames: int, records: int) -> bool:
        return records > 0 and (length > self.segment_bytes or frames >= SEGMENT_FRAMES)

    def _room_for(self, frame_bytes: int) -> ActiveSegment:
        """Return the segment for the next frame, sealing the last one when it is full."""
        active = self._active
        if active and self._is_full(active.length + frame_bytes, active.frames, active.records):
            self.commit()
            self._previous = active.seal(self._state.next_lsn)
            self._active = active = None
        if active is None:
            fields = (self.timeline, self._state.next_lsn, self._previous)
            active = self._active = ActiveSegment.create(self.folder, self._journal, *fields)
        return active

    def commit(self) -> tuple[int, int]:
        """Make everything appended durable; return (next LSN, position), which may be acknowledged.

        Raises JournalFull or JournalWriteFailed; then everything since the last commit has been taken back,
        and next_lsn and position say where the tap must go on.
        """
        self._require_whole()
        if self._active and self._active.length > self._active.durable:
            try:
                self._active.sync()
            except LastwriteError:
                self._state = self._durable
                raise
            except OSError as error:
                raise self._break(error) from error
        self._durable = self._state
        return self._state.next_lsn, self._state.position

    def _present_reserve(self) -> int:
        """Return the bytes to leave free: the last promise in the log may have changed them."""
        path = self.folder / layout.META_LOG
        size = path.stat().st_size if path.exists() else 0
        if size != self._log_bytes:
            records = metalog.read(path).records if size else []
            self._log_bytes, self._own_reserve = size, stop_below(records, self._default_reserve)
        return self._own_reserve

    def _require_whole(self) -> None:
        if self._broken or self._lock_fd < 0:
            raise JournalWriteFailed(f"the journal {self.folder} is closed{self._broken}")

    def _break(self, error: OSError) -> JournalWriteFailed:
        self._broken = f" since what could not be written could not be taken back either: {error.strerror}"
        return JournalWriteFailed(f"the journal {self.folder} is closed{self._broken}")

    def set_fence(self, token: str, instance: str | None) -> None:
        """Let only the holder of `token` append from now on. Durable."""
        self._log({"meta": "fence", "token": token, "instance": instance, "created": time.time_ns()})
        self._fence = token

    def bookmark(self, lsn: int, name: str) -> None:
        """Give a name to a point of the past. Durable. Raises NotRecoverable for an LSN that is not there."""
        checked_name(name)
        if not 0 <= lsn < self._durable.next_lsn:
            newest = self._durable.next_lsn - 1
            raise NotRecoverable(
                f"there is no LSN {lsn} yet, the newest is {newest}", before=newest, after=None
            )
        self._log(
            {
                "meta": "bookmark",
                "timeline": self.timeline,
                "lsn": lsn,
                "name": name,
                "created": time.time_ns(),
            },
            lambda records: require_standing(self.folder, records, self.timeline, lsn),
        )

    def fork(self, lsn: int, name: str) -> int:
        """Begin a timeline that shares everything up to `lsn` with this one; return its number. Durable.

        Raises NotRecoverable when `lsn` is no recovery point.
        """
        checked_name(name)
        self.commit()
        reader = JournalReader(self.folder)
        epoch = reader.point(lsn, self.timeline).number
        number = metalog.next_timeline(reader.meta.records)
        try:
            make_folder(layout.timeline_folder(self.folder, number))
        except OSError as error:
            raise write_error(self.folder, error) from error
        reach("fork-folder")
        self._log(
            {
                "meta": "timeline",
                "timeline": number,
                "name": name,
                "parent": self.timeline,
                "fork_lsn": lsn,
                "epoch": epoch,
                "created": time.time_ns(),
            },
            lambda records: require_standing(self.folder, records, self.timeline, lsn),
        )
        return number

    def _log(self, meta: Meta, check: metalog.Check | None = None) -> None:
        """Append a record to the metadata log, durably; on an error the log is as it was."""
        self._require_whole()
        metalog.append(self.folder, meta, check)


def _hold_timeline(folder: Path, timeline: int) -> int:
    """Return a descriptor that keeps others from giving up the timeline; -1 before its first segment."""
    home = layout.timeline_folder(folder, timeline)
    if not home.is_dir():
        return -1
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _require_empty(folder: Path) -> None:
    """Raise JournalExists when a folder holds anything of a journal, also of one that lost its JOURNAL file."""
    if (folder / layout.IDENTITY).exists():
        raise JournalExists(f"{folder} holds a journal already")
    log = folder / layout.META_LOG
    # A crash in create() leaves a log that names the main timeline and nothing else: nothing is lost with it.
    begun = log.exists() and [meta["meta"] for meta in metalog.read(log).records] != ["timeline"]
    if begun or (folder / layout.TIMELINES).exists():
        raise JournalExists(
            f"{folder} holds what is left of a journal: its file {layout.IDENTITY} is missing",
            hint=f"Put {layout.IDENTITY} back from a copy of the journal, or choose an empty folder.",
        )
