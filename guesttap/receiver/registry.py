"""What the receiver's threads share: which VM has a session, each VM's status, and how a journal is opened.

A journal is open (and its lock held) only while its VM has a session, or for the moment of one change: at any
other time other processes may fork it, prune it or name points of it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from guesttap.receiver.decide import FENCE_ENROLLED
from guesttap.receiver.errors import TapNotConnectedError
from guesttap.receiver.session import Session
from guesttap.receiver.status import VmStatus
from journal.errors import NotAJournal
from journal.layout import IDENTITY
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.catalog import Catalog, VmRow
from lastwrite.errors import LastwriteError

TAKEOVER_SECONDS = 20.0

log = structlog.get_logger()


class Registry:
    """The sessions and statuses of all VMs of one receiver. Safe for several threads."""

    def __init__(self, catalog: Catalog, stop_below: Callable[[Path], int] = lambda folder: 0) -> None:
        """`stop_below`: free bytes below which a journal in that folder takes nothing more, by default."""
        self.catalog = catalog
        self._stop_below = stop_below
        self.distrust: dict[str, str | None] = {}
        self._lock = threading.Lock()
        self._admission: dict[str, threading.Lock] = {}
        self._sessions: dict[str, Session] = {}
        self._status: dict[str, VmStatus] = {}

    def admission(self, vm_id: str) -> threading.Lock:
        """Return the lock under which a VM's session, and its journal's owner, may change."""
        with self._lock:
            return self._admission.setdefault(vm_id, threading.Lock())

    def session(self, vm_id: str) -> Session | None:
        """Return a VM's session, if it has one."""
        with self._lock:
            return self._sessions.get(vm_id)

    def live_session(self, row: VmRow) -> Session:
        """Return a VM's session. Raises TapNotConnectedError."""
        session = self.session(row.id)
        if session is None:
            raise TapNotConnectedError(f"the tap of {row.name} is not connected", vm=row.name)
        return session

    def enter(self, session: Session) -> None:
        """Make this the VM's session; the caller holds its admission lock and has ended the one before."""
        with self._lock:
            self._sessions[session.vm_id] = session

    def leave(self, session: Session) -> None:
        """Forget a session that has finished."""
        with self._lock:
            if self._sessions.get(session.vm_id) is session:
                del self._sessions[session.vm_id]
            self.distrust[session.vm_id] = session.distrust

    def end_session(self, vm_id: str, reason: str) -> None:
        """End a VM's session, if any, and wait until its journal is free. Raises TapNotConnectedError."""
        session = self.session(vm_id)
        if session is None:
            return
        session.stop(reason)
        if not session.finished.wait(TAKEOVER_SECONDS):
            raise TapNotConnectedError(
                "the tap's former session does not end: its journal is still being written"
            )
        self.leave(session)

    def end_all(self, seconds: float) -> None:
        """End every session and wait up to `seconds` for each."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.stop("the appliance is stopping")
        for session in sessions:
            session.finished.wait(seconds)

    def status(self, row: VmRow) -> VmStatus:
        """Return a VM's status; the first time, what its journal says."""
        folder = Path(row.journal)
        with self._lock:
            known = self._status.get(row.id)
        if known is None:
            fresh = _remembered(folder)
            with self._lock:
                known = self._status.setdefault(row.id, fresh)
        known.protected = row.protected
        known.no_journal = None if (folder / IDENTITY).is_file() else f"there is no journal in {folder}"
        return known

    def open_journal(self, row: VmRow) -> JournalWriter:
        """Open a VM's journal for writing. Raises NotAJournal, JournalBusy, JournalFull, DamagedJournal.

        Only `protect` makes a journal: one that is missing may be on a file system that is not mounted, and a new
        one in its place would hide the past.
        """
        folder = Path(row.journal)
        reserve = self._stop_below(folder) if folder.is_dir() else 0
        return JournalWriter.open(folder, reserve_bytes=reserve)

    @contextmanager
    def idle_journal(self, row: VmRow) -> Iterator[JournalWriter]:
        """Open the journal of a VM that has no session, for one change. Raises JournalBusy and others."""
        journal = self.open_journal(row)
        try:
            yield journal
        finally:
            journal.close()

    def enrolled(self, row: VmRow) -> None:
        """A new tap of this VM was enrolled: end the former one's session, and let only the new one in."""
        with self.admission(row.id):
            self.end_session(row.id, "another tap was enrolled for this VM")
            self.distrust[row.id] = None
            self.status(row).begin_enrolment()
            with self.idle_journal(row) as journal:
                journal.set_fence(FENCE_ENROLLED, row.instance or "")


def new_fence() -> str:
    """Return a fresh fence token."""
    return secrets.token_hex(16)


def _remembered(folder: Path) -> VmStatus:
    """Return the status of a VM that has had no session since this process began."""
    status = VmStatus()
    try:
        reader = JournalReader(folder)
        latest = reader.latest()
        status.next_lsn = reader.next_lsn
        status.durable_wall = reader.last_time()
        if latest is not None:
            status.recoverable_wall = reader.record_time(latest)
            status.valid = True
    except NotAJournal:
        pass  # Registry.status says so, as long as it is true
    except (LastwriteError, OSError) as error:
        status.alarm = f"the journal cannot be read: {error}"
    return status
