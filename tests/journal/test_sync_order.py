"""Before an acknowledgement every folder entry that leads to the data was made durable.

ext4 and XFS make a new file's entry durable with the file, so that no crash image of theirs can show this.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.writer import JournalWriter
from tests.journal.tap import Tap

_watched: list[tuple[str, str]] = []
_hooked = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "os.rename":
        _watched.append(("changed", str(Path(os.fsdecode(args[1])).parent)))
    elif event in ("os.mkdir", "os.remove"):
        _watched.append(("changed", str(Path(os.fsdecode(args[0])).parent)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """("changed", folder) and ("synced", folder), in the order of the calls."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            _watched.append(("synced", str(Path(f"/proc/self/fd/{fd}").readlink())))

    monkeypatch.setattr(os, "fsync", fsync)
    _watched.clear()
    yield _watched


def not_durable(calls: list[tuple[str, str]]) -> set[str]:
    """The folders that changed after they were last made durable."""
    changed: set[str] = set()
    for what, folder in calls:
        changed.add(folder) if what == "changed" else changed.discard(folder)
    return changed


def test_no_entry_is_left_to_chance_when_frames_are_acknowledged(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "a" / "b" / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        assert not_durable(calls) == set()
        tap = Tap(writer, {0: 8 * 4096})
        tap.protect()
        writer.commit()
        assert not_durable(calls) == set()
        for number in range(40):
            tap.write(0, number % 8 * 8, bytes([number]) * 4096)
            writer.commit()
            assert not_durable(calls) == set()
        fork = writer.fork(writer.next_lsn - 1, "copy")
        assert not_durable(calls) == set()
    with JournalWriter.open(folder, fork) as writer:
        Tap(writer, {0: 8 * 4096}).protect()
        writer.commit()
        assert not_durable(calls) == set()
    assert len(list(folder.glob("timelines/0001/*.seg"))) > 3
    assert {what for what, _ in calls} == {"changed", "synced"}
