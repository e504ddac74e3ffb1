"""The errors of the journal, each with what to do about it."""

from __future__ import annotations

from lastwrite.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)


class NotAJournal(NotFoundError):
    """A folder that was named holds no journal."""

    code = "not-a-journal"
    hint = "Name the folder that holds the file JOURNAL."


class WrongFormat(UnsupportedError):
    """The journal was written in a format that this version does not know."""

    code = "journal-format"
    hint = "Use the version of Lastwrite that wrote this journal, or a newer one."


class JournalExists(RefusedError):
    """A journal is to be made where there is one."""

    code = "journal-exists"
    hint = "Choose another folder; a journal is never overwritten."


class JournalBusy(UnavailableError):
    """Another process holds the journal for writing."""

    code = "journal-busy"
    hint = "One writer at a time: stop the process that holds it, then try again. Readers are not affected."


class JournalFull(UnavailableError):
    """The file system of the journal has no space left."""

    code = "journal-full"
    hint = "Make space on the journal's file system: ingest goes on by itself, nothing was lost or changed."


class JournalWriteFailed(UnavailableError):
    """Writing to the journal failed for another reason than space."""

    code = "journal-write-failed"
    hint = "Look at the file system and the disk of the journal, then open it again."


class BadSequence(RefusedError):
    """A frame does not follow what the journal holds."""

    code = "bad-sequence"
    hint = "The tap connects again and is told where to go on; nothing was stored."


class BadContent(RefusedError):
    """A frame's records or notes say something impossible."""

    code = "bad-content"
    hint = "The frame was not stored. Upgrade the tap; if it is the newest, report this as a defect."


class NotRecoverable(RefusedError):
    """No exact state is known for an LSN; `details` has `before` and `after`, the nearest that have one."""

    code = "not-recoverable"
    hint = "Choose one of the nearest points that are named."


class DamagedJournal(IntegrityError):
    """What is needed to use the journal at all is damaged."""

    code = "damaged-journal"
    hint = "Run `lastwrite journal check DIR`; restore the named file from a copy of the journal."


class TooManyOpenFiles(UnavailableError):
    """A journal has more files than this process may have open."""

    code = "too-many-open-files"
    hint = "Allow more with `ulimit -n 65536` (of a service: LimitNOFILE=65536): nothing is damaged."


class NoSuchTimeline(NotFoundError):
    """The journal has no timeline of that number."""

    code = "no-such-timeline"
    hint = "`lastwrite journal info DIR` lists the timelines."


class NoSuchPin(NotFoundError):
    """The journal has no pin of that id."""

    code = "no-such-pin"
    hint = "`lastwrite retention show VM` lists the pins."


class NoSuchDisk(NotFoundError):
    """The VM had no disk of that name or number at the point."""

    code = "no-such-disk"
    hint = "Name one of the disks that are listed."


class DiskTooLarge(UnsupportedError):
    """The map of a disk does not fit into this machine's memory."""

    code = "disk-too-large"
    hint = "Read this disk on a machine with more memory: its map takes 8 to 12 bytes per 4 KiB."


class OutsideDisk(UsageError):
    """A range reaches beyond the end of a disk."""

    code = "outside-disk"
    hint = "Ask for bytes inside the disk."
