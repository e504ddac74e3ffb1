"""What is kept stays what it was: numbers of disks, folders of journals, segments of their own journal, modes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from journal import layout
from journal.errors import BadSequence, JournalExists, NotRecoverable
from journal.offline.check import check
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_damage import DISK, make, segment


def disk(number: int, name: str, serial: str | None) -> dict[str, Any]:
    return {"disk": number, "name": name, "bytes": DISK, "serial": serial}


def begin(tap: Tap, *disks: dict[str, Any]) -> None:
    epoch = tap.writer.epoch + 1
    tap.notes(tap.epoch_note(epoch, "full", disks=list(disks)), epoch=epoch)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (disk(0, "vda", None), disk(0, "vdb", None), True),
        (disk(0, "vda", "A"), disk(0, "vda", "B"), True),
        (disk(0, "vda", "A"), disk(0, "vdb", None), True),
        (disk(0, "vda", None), disk(1, "vda", None), True),
        (disk(0, "vda", "A"), disk(0, "vdb", "A"), False),
        (disk(0, "vda", None), disk(0, "vda", "A"), False),
        (disk(0, "vda", "A"), disk(1, "vda", "B"), False),
    ],
)
@pytest.mark.parametrize("opened_again", [False, True])
def test_a_number_never_means_another_disk(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], refused: bool, opened_again: bool
) -> None:
    writer = JournalWriter.create(tmp_path / "j", "web01")
    begin(Tap(writer, {0: DISK}), first)
    begin(Tap(writer, {0: DISK}), disk(7, "vdh", "H"))  # an epoch without that disk between them
    if opened_again:
        writer.close()
        writer = JournalWriter.open(tmp_path / "j")
    with writer:
        assert {number: d.name for number, d in writer.known_disks.items()} == {0: first["name"], 7: "vdh"}
        if refused:
            with pytest.raises(BadSequence, match=r"in this journal|gives"):
                begin(Tap(writer, {0: DISK}), second)
            assert writer.epoch == 2
        else:
            begin(Tap(writer, {0: DISK}), second)
            assert writer.known_disks[second["disk"]].name == second["name"]


def test_a_folder_that_holds_anything_of_a_journal_is_not_made_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    make(folder, 2)
    with JournalWriter.open(folder) as writer:
        writer.set_fence("a token", "an instance")
    (folder / layout.IDENTITY).unlink()

    def held() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != layout.LOCK}

    before = held()
    with pytest.raises(JournalExists, match="JOURNAL is missing"):
        JournalWriter.create(folder, "web01")
    assert held() == before
    (folder / layout.META_LOG).rename(tmp_path / "kept")
    with pytest.raises(JournalExists, match="JOURNAL is missing"):
        JournalWriter.create(folder, "web01")
    shutil.rmtree(folder / layout.TIMELINES)
    (tmp_path / "kept").rename(folder / layout.META_LOG)
    with pytest.raises(JournalExists, match="JOURNAL is missing"):
        JournalWriter.create(folder, "web01")


def test_a_making_that_was_cut_short_can_be_made_again(tmp_path: Path) -> None:
    JournalWriter.create(tmp_path / "j", "web01").close()
    (tmp_path / "j" / layout.IDENTITY).unlink()
    JournalWriter.create(tmp_path / "j", "web01").close()
    assert JournalReader(tmp_path / "j").name == "web01"


def test_only_the_owner_can_look_into_a_journal(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make(tmp_path / "state" / "j", 2)
        with JournalWriter.open(tmp_path / "state" / "j") as writer:
            writer.fork(3, "fork")
    finally:
        os.umask(before)
    found = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert len(found) >= 8
    assert {p.stat().st_mode & 0o777 for p in found if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in found if p.is_file()} == {0o600}


def test_nothing_of_another_journals_segment_is_served_or_changed(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    make(ours, 4)
    make(other, 6)
    copied = segment(other).read_bytes()
    path = segment(ours)
    path.write_bytes(copied)
    reader = JournalReader(ours)
    assert reader.latest() is None and reader.epochs() == []
    for lsn in range(8):
        with pytest.raises(NotRecoverable):
            reader.resolve(lsn, 0)
    assert any("another's" in d.reason and d.lost for d in reader.damage())
    assert not check(ours).ok
    with JournalWriter.open(ours) as writer:
        assert not writer.valid_base and not writer.epoch_open
        tap = Tap(writer, {0: DISK})
        tap.protect(b"\7")
        lsn = writer.next_lsn - 1
        assert lsn > 7  # none of the numbers that may lie in what was overwritten
    assert path.read_bytes() == copied
    reader.refresh()
    assert reader.latest() == lsn
    assert reader.resolve(lsn, 0).read(0, DISK) == b"\7" * DISK


def test_a_segment_in_the_place_of_another_of_the_same_journal_is_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        for number in range(60):
            tap.write(0, number % 8 * 8, bytes([number + 2]) * 4096)
    paths = [path for _, path in layout.segments(folder, 1)]
    assert len(paths) > 4
    paths[2].write_bytes(paths[1].read_bytes())
    reader = JournalReader(folder)
    first, following = int(paths[2].stem), int(paths[3].stem)
    (damage,) = [d for d in reader.damage() if d.lost]
    assert (damage.first_lsn, damage.next_lsn, damage.path) == (first, following, paths[2])
    assert reader.latest() == first - 1
