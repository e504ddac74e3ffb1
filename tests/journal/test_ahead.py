"""What a new process does before a map is there: files are read ahead, which changes no result, little is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from journal import ahead, layout
from journal.index.make import write_index
from journal.layout import StoredFile
from journal.reader import JournalReader
from tests.journal.test_damage import DISK, make

_NOT_NEEDED = ("numpy.ma", "asyncio", "ssl", "logging", "email", "socket", "sqlite3", "rich", "http")
_CHILD = """
import json, sys
from journal.reader import JournalReader
for _ in JournalReader(sys.argv[1]).resolve(int(sys.argv[2]), 0).windows(): pass
print(json.dumps([name for name in sys.argv[3:] if name in sys.modules]))
"""


def files(folder: Path, count: int) -> list[StoredFile]:
    return [StoredFile(n, None, folder / f"{n:020d}.seg", False) for n in range(count)]


def test_every_file_comes_in_its_order_although_none_of_them_is_there(tmp_path: Path) -> None:
    wanted = files(tmp_path, 100)
    assert list(ahead.files_ahead(wanted, [])) == wanted
    assert list(ahead.files_ahead([], [])) == []


def test_footers_and_indexes_are_asked_for_before_their_file_comes_and_known_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = files(tmp_path, 40)
    for file in wanted:
        file.path.write_bytes(bytes(3 * 4096))
        file.path.with_suffix(".idx").write_bytes(b"i")
    asked: list[tuple[str, int]] = []

    def told(fd: int, offset: int, length: int) -> None:
        asked.append((Path(f"/proc/self/fd/{fd}").readlink().name, offset))

    monkeypatch.setattr(ahead, "expect", told)
    coming = ahead.files_ahead(wanted, [wanted[0].path])
    assert next(coming) == wanted[0]
    assert asked[:2] == [(wanted[1].path.name, 2 * 4096), (wanted[1].path.with_suffix(".idx").name, 0)]
    assert wanted[32].path.name in dict(asked) and wanted[33].path.name not in dict(asked)
    assert list(coming) == wanted[1:] and len(asked) == 2 * 39


@pytest.mark.parametrize("indexed", [True, False])
def test_a_new_process_makes_a_map_without_modules_that_it_does_not_need(
    tmp_path: Path, indexed: bool
) -> None:
    folder = tmp_path / "j"
    expected = make(folder)
    if indexed:
        write_index(layout.segments(folder, 1)[0][1])
    lsn = max(expected) - 1
    argv = [sys.executable, "-c", _CHILD, str(folder), str(lsn), *_NOT_NEEDED]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == []
    assert JournalReader(folder).resolve(max(expected), 0).read(0, DISK) == expected[max(expected)][0]
