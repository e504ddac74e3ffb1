"""The one writer of a journal: frames in, durable and acknowledged; fences, bookmarks and forks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Self

from journal import layout, metalog
from journal.errors import BadContent, JournalExists, JournalWriteFailed, NotRecoverable
from journal.frame import HEADER_BYTES, Buffer, FrameHeader
from journal.history import Cut
from journal.metalog import Meta
from journal.notes import MAX_NAME, JournalDisk
from journal.reader import JournalReader
from journal.recover import Recovery, recover
from journal.sequence import sequence_of
from journal.storage import FILE_MODE, ActiveSegment, lock, make_folder, replace_file, write_error
from lastwrite.errors import LastwriteError

SEGMENT_BYTES = 1 << 30


class JournalWriter:
    """Appends to one timeline of a journal and holds its lock. One thread owns it.

    append() writes, commit() makes durable: only what commit() returned may be acknowledged.
    """

    def __init__(self, folder: Path, timeline: int, segment_bytes: int, lock_fd: int) -> None:
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
        self._meta_end = reader.meta.end
        if self._name_damage(reader):
            reader.refresh()
        self._state = self._durable = sequence_of(reader, timeline)
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
        cls, folder: Path | str, timeline: int = layout.MAIN, *, segment_bytes: int = SEGMENT_BYTES
    ) -> Self:
        """Open a journal to go on with; a torn tail is cut off, damage is named in the metadata log.

        Raises NotAJournal, WrongFormat, JournalBusy, NoSuchTimeline, DamagedJournal, JournalFull.
        """
        folder = Path(folder)
        layout.read_identity(folder)
        try:
            lock_fd = lock(folder)
        except OSError as error:
            raise write_error(folder / layout.LOCK, error) from error
        try:
            return cls(folder, timeline, segment_bytes, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    def _resume(self, reader: JournalReader) -> bytes:
        """Take up the last segment; return the digest that the next one names."""
        scans = reader.scans(self.timeline)
        if not scans:
            return layout.NO_DIGEST
        if scans[-1].footer:
            return scans[-1].footer.digest
        if scans[-1].suspect:
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
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def next_lsn(self) -> int:
        """LSN that the next record must have."""
        return self._state.next_lsn

    @property
    def next_cut(self) -> int:
        """Number that the next cut must have."""
        return self._state.next_cut

    @property
    def epoch(self) -> int:
        """Number of the last epoch, 0 when there is none."""
        return self._state.epoch

    @property
    def epoch_open(self) -> bool:
        """Whether frames of that epoch may follow: no gap, nothing damaged that its points need."""
        return self._state.epoch_open

    @property
    def generation(self) -> int | None:
        """The tap's generation in the last epoch."""
        return self._state.generation

    @property
    def position(self) -> int:
        """The tap's resume position after the last frame."""
        return self._state.position

    @property
    def valid(self) -> bool:
        """Whether the last epoch's sync has ended."""
        return self._state.valid

    @property
    def valid_base(self) -> bool:
        """Whether a bitmap sync may follow: there is a valid epoch, and nothing that it needs is damaged."""
        return self._state.valid_base

    @property
    def known_disks(self) -> dict[int, JournalDisk]:
        """Every disk that the journal ever had, by the number that it must keep."""
        return dict(self._state.known)

    @property
    def sync_cursor(self) -> dict[str, int] | None:
        """{disk, sector} before which everything of the running sync was sent, None at its beginning."""
        return dict(self._state.sync_cursor) if self._state.sync_cursor else None

    @property
    def last_cut(self) -> Cut | None:
        """The newest cut."""
        return self._state.last_cut

    @property
    def fence(self) -> str | None:
        """Token of whom the appliance lets append."""
        return self._fence

    def append(self, header: FrameHeader, head: Buffer, payload: Buffer) -> None:
        """Write a frame whose checksums the caller has compared. Not durable before commit().

        Raises BadSequence or BadContent for a frame that may not follow (nothing is written), JournalFull
        when there is no space, JournalWriteFailed. Nothing of the frame stays then; next_lsn and position say
        where to go on (frames before it may have been taken back, when they could not be made durable).
        """
        self._require_whole()
        if len(head) != header.head_bytes or len(payload) != header.payload_bytes:
            raise BadContent(f"the frame at LSN {header.first_lsn} is not as long as its header says")
        state = self._state.after(header, head)
        try:
            active = self._room_for(header.frame_bytes)
            active.append(head, payload, HEADER_BYTES, header.records)
        except LastwriteError:
            raise
        except OSError as error:
            raise self._break(error) from error
        self._state = state

    def _room_for(self, frame_bytes: int) -> ActiveSegment:
        """Return the segment for the next frame, sealing the last one when it is full."""
        active = self._active
        if active and active.records and active.length + frame_bytes > self.segment_bytes:
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
            }
        )

    def fork(self, lsn: int, name: str) -> int:
        """Begin a timeline that shares everything up to `lsn` with this one; return its number. Durable.

        Raises NotRecoverable when `lsn` is no recovery point.
        """
        checked_name(name)
        self.commit()
        reader = JournalReader(self.folder)
        epoch = reader.point(lsn, self.timeline).number
        number = max(t.number for t in reader.timelines()) + 1
        try:
            make_folder(layout.timeline_folder(self.folder, number))
        except OSError as error:
            raise write_error(self.folder, error) from error
        self._log(
            {
                "meta": "timeline",
                "timeline": number,
                "name": name,
                "parent": self.timeline,
                "fork_lsn": lsn,
                "epoch": epoch,
                "created": time.time_ns(),
            }
        )
        return number

    def _log(self, meta: Meta) -> None:
        """Append a record to the metadata log, durably; on an error the log is as it was."""
        self._require_whole()
        path = self.folder / layout.META_LOG
        record = metalog.encode(meta)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            _write_all(fd, record, self._meta_end)
            os.fdatasync(fd)
        except OSError as error:
            os.ftruncate(fd, self._meta_end)
            raise write_error(path, error) from error
        finally:
            os.close(fd)
        self._meta_end += len(record)


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


def _write_all(fd: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(fd, data, place)
        data, place = data[written:], place + written


def checked_name(name: str) -> str:
    """Return a name that may be shown. Raises BadContent."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise BadContent(
            f"the name {name[:40]!r} is empty, too long or not printable",
            hint=f"Use 1 to {MAX_NAME} printable characters.",
        )
    return name
