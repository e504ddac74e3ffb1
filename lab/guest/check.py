#!/usr/bin/python3
"""Check a database of the lab's workload and print what it holds as one JSON object.

    {"integrity": "ok", "rows": 42, "first": 1, "last": 42, "bad_checksums": 0, "holes": 0}

`integrity` is SQLite's own verdict or the reason why the file could not be read. `holes` is how many numbers
between first and last are missing. Exit status: 0 when all is well, 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

EMPTY: dict[str, Any] = {
    "integrity": "ok",
    "rows": 0,
    "first": None,
    "last": None,
    "bad_checksums": 0,
    "holes": 0,
}


def check(path: Path) -> dict[str, Any]:
    """Check the database at `path`; on a read-only file system check a copy of it and of its log."""
    if not path.is_file():
        return {**EMPTY, "integrity": f"{path}: no such file"}
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return _check_in_place(path)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for suffix in ("", "-wal", "-journal"):  # without its log a WAL database lacks its newest rows
            if Path(f"{path}{suffix}").exists():
                shutil.copyfile(f"{path}{suffix}", f"{folder}/{path.name}{suffix}")
        return _check_in_place(Path(folder) / path.name)


def _check_in_place(path: Path) -> dict[str, Any]:
    found = dict(EMPTY)
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5)
        try:
            found["integrity"] = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            _count_rows(database, found)
        finally:
            database.close()
    except sqlite3.Error as error:
        found["integrity"] = str(error)
    return found


def _count_rows(database: sqlite3.Connection, found: dict[str, Any]) -> None:
    for n, wall_ns, payload, digest in database.execute(
        "SELECT n, wall_ns, payload, sha256 FROM rows ORDER BY n"
    ):
        if found["last"] is None:
            found["first"] = n
        else:
            found["holes"] += n - found["last"] - 1
        found["last"] = n
        found["rows"] += 1
        # The same digest as the workload writes, said again here so that a check stands alone.
        found["bad_checksums"] += hashlib.sha256(b"%d %d " % (n, wall_ns) + payload).hexdigest() != digest


def main() -> int:
    """Check the file named on the command line."""
    parser = argparse.ArgumentParser(description="Check a database that the lab's workload wrote.")
    parser.add_argument("database", type=Path, nargs="?", default=Path("/var/lib/lwdemo/rows.db"))
    found = check(parser.parse_args().database)
    print(json.dumps(found))
    return 0 if found["integrity"] == "ok" and not found["bad_checksums"] and not found["holes"] else 1


if __name__ == "__main__":
    sys.exit(main())
