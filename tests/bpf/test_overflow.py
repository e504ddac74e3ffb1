"""A ring too small: nothing blocks, and what was not captured is marked dirty, wholly."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from guesttap.bpf import DATA, BpfTap
from guesttap.bpf.errors import RingFullError, RingPositionError
from tests.bpf.conftest import Attach, MakeDisk
from tests.bpf.kit import LoopDisk, Replica, differing_blocks, drain, finish, shell, start_script, wait_until

pytestmark = pytest.mark.kernel

_MIB = 1 << 20


def _inside(offset: int, extents: list[tuple[int, int, int]]) -> bool:
    return any(start <= offset < start + length for _, start, length in extents)


def test_all_that_differs_after_an_overflow_is_marked_dirty(make_disk: MakeDisk, attach: Attach) -> None:
    disk = make_disk(64 * _MIB)
    tap = attach(disk, ring_bytes=_MIB)
    assert finish(start_script("writers.py", "flood", disk.path, 64 * _MIB, 60, 3)).strip() == "60"
    image = disk.content()
    records = drain(tap)
    assert tap.lost() > 0
    replica = Replica(bytes(64 * _MIB))
    replica.apply(records)
    differing = differing_blocks(replica.image, image)
    assert differing
    wait_until(lambda: tap.lost_in_flight() == 0)
    extents = tap.take_dirty()
    assert [offset for offset in differing if not _inside(offset, extents)] == []
    assert extents == sorted(extents)
    account = tap.accounting()
    assert account.quiet
    assert account.difference == 0
    assert account.disks[0].dirty > 0
    replica.reread(disk.path, extents)
    assert replica.image == image
    assert tap.take_dirty() == []


def test_the_first_record_after_a_loss_breaks_the_stream(make_disk: MakeDisk, attach: Attach) -> None:
    disk = make_disk(64 * _MIB)
    tap = attach(disk, ring_bytes=_MIB)
    fd = os.open(disk.path, os.O_RDWR | os.O_DSYNC)
    os.pwrite(fd, b"a" * 4096, 0)
    assert {record.lost for record in drain(tap)} == {0}
    os.pwrite(fd, b"b" * (8 * _MIB), _MIB)
    with pytest.raises(RingFullError):
        for token in range(20_000):
            tap.mark(token)
    drain(tap)
    os.pwrite(fd, b"c" * 4096, 0)
    os.close(fd)
    after = drain(tap)
    assert after[0].kind == DATA
    assert after[0].lost == tap.lost() > 0


def test_a_loss_longer_than_a_megabyte_goes_through_the_queue(make_disk: MakeDisk, attach: Attach) -> None:
    disk = make_disk(256 * _MIB)
    tap = attach(disk, ring_bytes=_MIB)
    shell("blkdiscard", "--offset", 0, "--length", _MIB, disk.path)
    with pytest.raises(RingFullError):
        for token in range(20_000):
            tap.mark(token)
    shell("blkdiscard", "--offset", 32 * _MIB, "--length", 64 * _MIB, disk.path)
    Path(disk.path).open("r+b").close()
    assert tap.take_dirty() == [(0, 32 * _MIB, 64 * _MIB)]
    assert tap.take_dirty() == []
    assert tap.counters()["dirty_discard_bytes"] == 64 * _MIB
    assert tap.accounting().difference == 0


def _bitmap_sync(tap: BpfTap, disk: LoopDisk, replica: Replica) -> bool:
    """One round as the agent does it; returns whether nothing was left to do."""
    landed = tap.lost_in_flight() == 0
    extents = tap.take_dirty()
    before = tap.producer_position
    fresh = Replica(bytes(len(replica.image)))
    fresh.reread(disk.path, extents)
    while tap.consumer_position < before:  # older than what was just read; newer ones stay in the ring
        replica.apply(drain(tap, before))
    for _, offset, length in extents:
        replica.image[offset : offset + length] = fresh.image[offset : offset + length]
    tap.confirm_dirty()
    return landed and not extents


def test_taking_dirty_extents_under_load_forgets_no_write(make_disk: MakeDisk, attach: Attach) -> None:
    """The records between the read and the drain are the danger: they are drained before, in order."""
    disk = make_disk(64 * _MIB)
    tap = attach(disk, ring_bytes=_MIB)
    replica = Replica(bytes(64 * _MIB))
    job = start_script("writers.py", "flood", disk.path, 64 * _MIB, 1000, 5)
    rounds = 0
    while job.poll() is None:
        _bitmap_sync(tap, disk, replica)
        rounds += 1
    finish(job)
    image = disk.content()
    wait_until(lambda: _bitmap_sync(tap, disk, replica), 20)
    replica.apply(drain(tap))
    counters = tap.counters()
    assert rounds > 1
    assert counters["lost_bios"] > 0
    assert 0 < counters["landed"] <= counters["tracked"] == counters["lost_bios"]
    assert tap.lost_in_flight() == 0
    assert differing_blocks(replica.image, image) == []
    assert tap.accounting().difference == 0


def test_what_was_taken_and_not_confirmed_is_dirty_again_for_the_next_process(
    make_disk: MakeDisk, attach: Attach, pin_dir: str
) -> None:
    disk = make_disk(64 * _MIB)
    tap = attach(disk, ring_bytes=_MIB)
    finish(start_script("writers.py", "flood", disk.path, 64 * _MIB, 20, 3))
    disk.content()
    first = tap.take_dirty()
    assert first
    assert tap.take_dirty() == []
    second = BpfTap.adopt(pin_dir)
    assert second is not None
    assert second.take_dirty() == first
    second.confirm_dirty()
    second.close()
    third = BpfTap.adopt(pin_dir)
    assert third is not None
    assert third.take_dirty() == []
    third.close()


def test_positions_outside_the_ring_are_refused(make_disk: MakeDisk, attach: Attach) -> None:
    tap = attach(make_disk(16 * _MIB))
    for position in (tap.consumer_position - 8, tap.producer_position + 8, tap.producer_position + 1):
        with pytest.raises(RingPositionError):
            tap.records(position, 4096)
        with pytest.raises(RingPositionError):
            tap.release(position)


def test_a_lost_write_that_landed_unseen_becomes_dirty_once_more(make_disk: MakeDisk, attach: Attach) -> None:
    """Both trackers of completions are taken away: user space has to notice by itself."""
    disk = make_disk(64 * _MIB)
    tap = attach(disk, ring_bytes=_MIB)
    for link in ("request", "complete"):
        (Path(tap._pins.directory) / f"link_{link}").unlink()
    time.sleep(0.2)  # an unpinned link goes in the background
    with pytest.raises(RingFullError):
        for token in range(20_000):
            tap.mark(token)
    fd = os.open(disk.path, os.O_RDWR | os.O_DSYNC)
    os.pwrite(fd, b"z" * 4096, 32 * _MIB)
    os.close(fd)
    assert tap.take_dirty() == [(0, 32 * _MIB, 65536)]
    assert tap.lost_in_flight() == 1
    wait_until(lambda: tap.lost_in_flight() == 0)
    assert tap.take_dirty() == [(0, 32 * _MIB, 65536)]
    assert tap.take_dirty() == []
