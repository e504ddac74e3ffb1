"""Sectors that a drive cannot read: counted, named, and never taken for what a failed write left."""

from __future__ import annotations

import os

import pytest

from guesttap.agent.dirty import Extent
from guesttap.agent.disks import PIECE_BYTES, DiskReader, Unreadable
from tests.agent.doubles import Desk, block, resume

pytestmark = pytest.mark.usefixtures("short_waits")


class Drive:
    """Makes ranges of every disk unreadable."""

    def __init__(self) -> None:
        self.bad: list[range] = []
        self._real = os.preadv

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        end = offset + len(buffers[0])
        if any(bad.start < end and offset < bad.stop for bad in self.bad):
            raise OSError(5, "Input/output error")
        return self._real(fd, buffers, offset)


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Drive:
    drive = Drive()
    monkeypatch.setattr(os, "preadv", drive.preadv)
    return drive


def pong(desk: Desk) -> dict[str, object]:
    desk.messages.clear()
    desk.say(type="ping", sent=1, offset=None)
    desk.until(lambda: desk.messages)
    status: dict[str, object] = desk.messages[-1]["status"]
    return status


def test_neighbouring_blocks_are_named_as_one_range_and_only_once(desk: Desk, drive: Drive) -> None:
    desk.tap.put_on_disk(0, block("d", 65536))
    drive.bad = [range(4096, 12288), range(32768, 32769)]
    reader = DiskReader(desk.tap.disks)
    found = bytes(reader.read(0, 0, 65536))
    assert found[:16384] == block("d") + bytes(8192) + block("d")
    assert reader.take_unreadable() == [Extent(0, 4096, 8192), Extent(0, 32768, 4096)]
    assert reader.take_unreadable() == []
    reader.close()


def test_a_read_of_the_whole_gives_no_zeros(desk: Desk, drive: Drive) -> None:
    drive.bad = [range(PIECE_BYTES - 1, PIECE_BYTES)]
    reader = DiskReader(desk.tap.disks)
    with pytest.raises(Unreadable):
        reader.read_whole(0, 0, PIECE_BYTES)
    assert bytes(reader.read_whole(0, 0, 4096)) == bytes(4096) and reader.take_unreadable() == []
    reader.close()


def test_a_disk_that_is_gone_is_no_unreadable_range(desk: Desk, drive: Drive) -> None:
    reader = DiskReader(desk.tap.disks)
    desk.tap.path.unlink()
    with pytest.raises(OSError, match="No such file"):
        reader.read_whole(0, 0, 4096)
    reader.close()


def test_what_a_sync_cannot_read_is_in_the_pong_and_the_log_names_disk_and_place(
    desk: Desk, drive: Drive
) -> None:
    desk.tap.put_on_disk(0, block("d", 65536))
    drive.bad = [range(8192, 16384)]
    desk.protect()
    assert pong(desk)["unreadable_bytes"] == 8192
    assert "8192 bytes at sector 16 of disk vda" in desk.log.getvalue()


def test_the_count_outlives_the_agent_and_ends_with_a_full_sync_that_could_read(
    desk: Desk, drive: Drive
) -> None:
    drive.bad = [range(8192, 12288)]
    desk.protect()
    desk.turn(3)
    header, cuts = desk.frames[-1].header, len(desk.notes("cut"))
    desk.restart_agent()
    resume(desk, position=header.position, next_lsn=header.next_lsn, next_cut=cuts + 1)
    assert pong(desk)["unreadable_bytes"] == 4096
    desk.tap.lose(1 << 19, block("x"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    assert desk.notes("epoch")[1]["sync"] == "bitmap"
    assert pong(desk)["unreadable_bytes"] == 4096  # this sync did not come there
    drive.bad = []
    header, cuts = desk.frames[-1].header, len(desk.notes("cut"))
    desk.connect(epoch=3, next_lsn=header.next_lsn, next_cut=cuts + 1, base=False)
    desk.until(lambda: desk.capture.valid and desk.capture.number == 3)
    assert pong(desk)["unreadable_bytes"] == 0


def test_a_failed_write_whose_place_cannot_be_read_ends_the_epoch(desk: Desk, drive: Drive) -> None:
    desk.tap.put_on_disk(4096, block("old"))
    desk.protect()
    drive.bad = [range(4096, 8192)]
    bio = desk.tap.write(4096, block("failed"), disk=False)
    desk.tap.fail(4096, 4096, bio)
    desk.tap.write(0, block("later"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    gap = desk.place_of("gap")
    assert [data for _, data in desk.captured()] == [block("failed")]
    assert "4096 bytes at sector 8 of disk vda" in desk.frames[gap].notes[-1]["reason"]
    assert "cannot be read: 4096 bytes at sector 8 of disk vda" in desk.log.getvalue()
    assert desk.notes("epoch")[1]["sync"] == "bitmap"
    assert pong(desk)["unreadable_bytes"] == 4096  # of the sync after it, which says so
