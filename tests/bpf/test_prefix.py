"""Every prefix of the stream is a valid crash state: a file system and a database in it recover."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest

from guesttap.bpf import MARK
from tests.bpf.conftest import Attach, MakeDisk
from tests.bpf.kit import Captured, Collector, LoopDisk, Replica, shell

pytestmark = pytest.mark.kernel

_SIZE = 48 << 20
_PREFIXES = 50
_COMMITS = 400


def _work(folder: Path, mark: object) -> None:
    """Commit numbered rows, each followed by a mark of that number; between them create, rename, delete files."""
    assert callable(mark)
    choose = random.Random(11)
    database = sqlite3.connect(folder / "rows.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE rows(n INTEGER PRIMARY KEY, text BLOB)")
    database.execute("CREATE INDEX by_text ON rows(text)")
    for number in range(1, _COMMITS + 1):
        database.execute("INSERT INTO rows VALUES(?, ?)", (number, choose.randbytes(choose.randrange(2000))))
        mark(number)
        if number % 5 == 0:
            database.execute("DELETE FROM rows WHERE n = ?", (number - 4,))
            name = folder / f"file{number % 25}"
            (folder / "new").write_bytes(choose.randbytes(choose.randrange(100_000)))
            (folder / "new").rename(name)
        if number % 60 == 0:
            os.sync()
    database.close()


def _run(disk: LoopDisk, folder: Path, tap_mark: object) -> None:
    shell("mount", "-t", "ext4", disk.path, folder)
    try:
        _work(folder, tap_mark)
    finally:
        shell("umount", folder)


def _check(image: Path, folder: Path, committed: int) -> None:
    """Mount (the journal recovers), ask SQLite, unmount, and fsck without repairing."""
    disk = LoopDisk.of(image)
    try:
        shell("mount", "-t", "ext4", disk.path, folder)
        try:
            _check_database(folder / "rows.db", committed)
        finally:
            shell("umount", folder)
        done = subprocess.run(["e2fsck", "-fn", disk.path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
    finally:
        disk.close()


def _check_database(path: Path, committed: int) -> None:
    if committed == 0 and not path.exists():
        return
    database = sqlite3.connect(path)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
        newest = database.execute("SELECT max(n) FROM rows").fetchone()[0] if tables else 0
    finally:
        database.close()
    assert (newest or 0) >= committed, "a commit before the mark is missing"


def _prefixes(records: list[Captured]) -> list[int]:
    choose = random.Random(5)
    return [*sorted(choose.sample(range(1, len(records) + 1), _PREFIXES - 1)), len(records)]


def test_fifty_prefixes_recover_and_hold_what_was_committed_before_them(
    make_disk: MakeDisk, attach: Attach, fast_folder: Path
) -> None:
    disk = make_disk(_SIZE)
    shell("mkfs.ext4", "-q", "-F", disk.path)
    replica = Replica(disk.content())
    folder = fast_folder / "mounted"
    folder.mkdir()
    tap = attach(disk)
    with Collector(tap) as collected:
        _run(disk, folder, tap.mark)
    records = collected.records
    assert tap.lost() == 0
    assert len(records) > 2000
    done = committed = 0
    for end in _prefixes(records):
        for record in records[done:end]:
            replica.apply_one(record)
            committed = record.bio if record.kind == MARK else committed
        done = end
        image = fast_folder / "prefix"
        image.write_bytes(replica.image)
        _check(image, folder, committed)
    assert committed == _COMMITS
    assert replica.image == disk.content()
    assert tap.accounting().difference == 0
