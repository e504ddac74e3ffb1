#!/usr/bin/python3
"""The lab's database workload: a checksummed row several times a second, and a truth kept off the disk.

Every row of the SQLite table `rows` is (n, wall_ns, payload, sha256). After each commit has returned, a line
`n wall_before_commit_ns wall_after_commit_ns` goes to STATE/commits. STATE is on tmpfs: no damage to the
disk, and no recovery of it, changes that file, so a recovered database can be compared with what was true.

journal_mode is WAL on purpose. With synchronous=FULL a WAL commit returns after the fdatasync of its own
record, so "commit returned" means "durable". In DELETE mode a commit is the unlinking of the journal, and
FULL does not sync the directory: a power cut may undo a commit that had returned, and a comparison with the
truth would blame the recovery for it.

Quiescing: when STATE/quiesce appears, the running transaction ends, the log is checkpointed into the one
database file, STATE/quiesced is created, and nothing is committed until STATE/quiesce has gone.
"""

import argparse
import hashlib
import os
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path

PAYLOAD_BYTES = 2048
SCHEMA = """
CREATE TABLE IF NOT EXISTS rows
    (n INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, payload BLOB NOT NULL, sha256 TEXT NOT NULL)
"""


def row_digest(n: int, wall_ns: int, payload: bytes) -> str:
    """Return the hex SHA-256 that binds a row's number and time (ns since 1970) to its payload."""
    return hashlib.sha256(b"%d %d " % (n, wall_ns) + payload).hexdigest()


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create the database at `path` in the mode that the module's text explains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None, timeout=5)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(SCHEMA)
    return database


class Workload:
    """Writes rows into one database and their truth into one state directory."""

    def __init__(self, database: Path, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._rows = open_database(database)
        self._state = state
        self._next = (self._rows.execute("SELECT max(n) FROM rows").fetchone()[0] or 0) + 1
        self.stopped = False

    def commit_row(self) -> None:
        """Commit the next row durably, then note it in STATE/commits."""
        n, wall_ns, payload = self._next, time.time_ns(), os.urandom(PAYLOAD_BYTES)
        self._rows.execute("BEGIN IMMEDIATE")
        self._rows.execute(
            "INSERT INTO rows VALUES (?,?,?,?)", (n, wall_ns, payload, row_digest(n, wall_ns, payload))
        )
        before = time.time_ns()
        self._rows.execute("COMMIT")
        with open(self._state / "commits", "a", encoding="ascii") as commits:
            commits.write(f"{n} {before} {time.time_ns()}\n")
        self._next += 1

    def hold_if_asked(self) -> None:
        """While STATE/quiesce exists: keep the database in one file and commit nothing."""
        if not (self._state / "quiesce").exists():
            return
        busy = self._rows.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            return  # a reader holds the log: the next round tries again, and the hook's own limit decides
        (self._state / "quiesced").touch()
        while (self._state / "quiesce").exists() and not self.stopped:
            time.sleep(0.02)
        (self._state / "quiesced").unlink(missing_ok=True)

    def run(self, rate: float) -> None:
        """Commit `rate` rows a second until a signal says stop; tell systemd after the first."""
        (self._state / "pid").write_text(f"{os.getpid()}\n")
        ready = False
        while not self.stopped:
            self.hold_if_asked()
            self.commit_row()
            if not ready:
                ready = _tell_ready()
            time.sleep(1 / rate)
        self._rows.close()
        (self._state / "pid").unlink(missing_ok=True)

    def stop(self, *_signal: object) -> None:
        """Ask `run` to end after the row in hand."""
        self.stopped = True


def _tell_ready() -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)
    return True


def main() -> int:
    """Run until SIGTERM or SIGINT; exit status 0 means that every row was committed."""
    parser = argparse.ArgumentParser(description="Write checksummed rows to SQLite and note each commit.")
    parser.add_argument("--database", type=Path, default=Path("/var/lib/lwdemo/rows.db"))
    parser.add_argument("--state", type=Path, default=Path("/run/lwdemo"))
    parser.add_argument("--rate", type=float, default=5.0, help="rows a second (default 5)")
    wanted = parser.parse_args()
    workload = Workload(wanted.database, wanted.state)
    signal.signal(signal.SIGTERM, workload.stop)
    signal.signal(signal.SIGINT, workload.stop)
    workload.run(wanted.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
