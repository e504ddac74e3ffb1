"""Several pieces of a file are read with two looks at it: whatever changed in between is compared anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from journal.frame import FrameError
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_damage import DISK, flip, make, segment


def test_a_file_that_changes_between_two_pieces_of_one_read_is_compared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    expected = make(folder)
    path, lsn = segment(folder), max(expected)
    with JournalWriter.open(folder, segment_bytes=4096) as writer:
        Tap(writer, {}).write(0, 0, b"s" * 512)  # seals the segment before
    blocks = JournalReader(folder).resolve(lsn, 0)
    data = blocks.space.sources[0]
    for _ in range(2):  # the second time every frame has been compared
        assert blocks.read(0, DISK) == expected[lsn][0]
    whole, read = data._bytes, []

    def changed_after_the_third(index: int, offset: int, length: int) -> bytes:
        found = whole(index, offset, length)
        read.append(offset)
        if len(read) == 3:
            flip(path, read[0])
            os.utime(path, ns=(0, 0))
        return found

    monkeypatch.setattr(data, "_bytes", changed_after_the_third)
    with pytest.raises(FrameError, match="checksum"):
        blocks.read(0, DISK)
    assert len(set(read[:8])) == 8, "all were read before the change was seen"
