"""The order of the stream is the order of submission: within a block, across disks, and at marks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from guesttap.bpf import DATA, FLUSH, MARK
from tests.bpf.conftest import LEAST_WRITES, Attach, MakeDisk
from tests.bpf.kit import Captured, Collector, Replica, drain, finish, start_script
from tests.bpf.writers import BLOCK, HEAD, WAYS

pytestmark = pytest.mark.kernel

_MIB = 1 << 20
_BLOCKS = 64
_SECONDS = 6


def _blocks(record: Captured) -> list[tuple[int, int]]:
    """Return block and count of each numbered block that begins in a record.

    A mapped page is dirty a moment before its first store, so that it can be written back empty: count 0.
    """
    found = []
    for at in range(-record.offset % BLOCK, record.length - HEAD.size + 1, BLOCK):
        block = (record.offset + at) // BLOCK
        written, count = HEAD.unpack_from(record.data, at)
        assert written == block or count == 0
        found.append((block, count))
    return found


def _inversions(records: list[Captured]) -> tuple[list[str], int]:
    """Return the numbered blocks that came after a later version of themselves, and how many blocks came."""
    newest: dict[int, int] = {}
    wrong, total = [], 0
    for record in records:
        if record.kind == DATA:
            for block, count in _blocks(record):
                total += 1
                if count < newest.get(block, 0):
                    wrong.append(f"{WAYS[block // _BLOCKS]} block {block}: {newest[block]}, then {count}")
                newest[block] = count
    return wrong, total


def test_rewrites_of_a_block_are_captured_in_order_whatever_the_way_of_writing(
    make_disk: MakeDisk, attach: Attach
) -> None:
    disk = make_disk(64 * _MIB)
    tap = attach(disk)
    with Collector(tap) as collected:
        jobs = [
            start_script(
                "writers.py", "sequence", disk.path, way, number * _BLOCKS, _BLOCKS, _SECONDS, 1800, number
            )
            for number, way in enumerate(WAYS)
        ]
        written = sum(int(finish(job)) for job in jobs)
        image = disk.content()
    wrong, total = _inversions(collected.records)
    assert tap.lost() == 0
    assert tap.counters()["missed"] == 0
    assert wrong == []
    assert written >= LEAST_WRITES, "too few writes to prove anything"
    assert total >= LEAST_WRITES
    replica = Replica(bytes(64 * _MIB))
    replica.apply(collected.records)
    assert replica.image == image
    account = tap.accounting()
    assert account.quiet
    assert account.balanced


def test_the_inversion_count_sees_an_inversion() -> None:
    def record(count: int) -> Captured:
        return Captured(DATA, 0, 4096, 4096, HEAD.pack(1, count).ljust(4096, b"\0"), 0, 0, 1, 3, 0, 0)

    assert _inversions([record(1), record(3), record(2)]) == (["fdatasync block 1: 3, then 2"], 3)


def test_a_write_that_waited_for_another_disk_follows_it_at_every_point(
    make_disk: MakeDisk, attach: Attach
) -> None:
    one, two = make_disk(16 * _MIB), make_disk(16 * _MIB)
    tap = attach(one, two)
    writers = 3
    with Collector(tap) as collected:
        jobs = [
            start_script("writers.py", "pair", one.path, two.path, block, 5000) for block in range(writers)
        ]
        pairs = sum(int(finish(job)) for job in jobs)
    assert tap.lost() == 0
    newest = [[0, 0] for _ in range(writers)]
    for record in collected.records:
        if record.kind == DATA:
            for block, count in _blocks(record):
                newest[block][record.disk] = count
                first, second = newest[block]
                assert second <= first <= second + 1
    assert pairs > LEAST_WRITES // 7
    assert sum(second for _, second in newest) == pairs


def test_a_mark_stands_between_the_writes_before_and_after_it(make_disk: MakeDisk, attach: Attach) -> None:
    disk = make_disk(16 * _MIB)
    tap = attach(disk)
    fd = os.open(disk.path, os.O_RDWR | os.O_DSYNC)
    tokens = [random.getrandbits(64) for _ in range(200)]
    for number, token in enumerate(tokens):
        os.pwrite(fd, bytes([number]) * BLOCK, 0)
        tap.mark(token)
    os.close(fd)
    records = [record for record in drain(tap) if record.kind in (DATA, MARK)]
    assert [record.kind for record in records] == [DATA, MARK] * 200
    assert [record.bio for record in records[1::2]] == tokens
    assert [record.data[0] for record in records[::2]] == list(range(200))
    times = [record.time for record in records]
    assert times == sorted(times)


def test_flushes_and_flags_can_be_told_from_a_record(make_disk: MakeDisk, attach: Attach) -> None:
    disk = make_disk(16 * _MIB)
    tap = attach(disk)
    fd = os.open(disk.path, os.O_RDWR)
    os.pwrite(fd, b"x" * BLOCK, 0)
    os.fsync(fd)
    os.close(fd)
    data, flush = drain(tap)
    masks = tap.opf_masks
    assert (data.kind, flush.kind) == (DATA, FLUSH)
    assert flush.opf & masks.preflush
    assert data.opf & masks.sync
    assert not data.opf & masks.preflush
    assert tap.counters()["flushes"] == 1


def test_bytes_below_a_page_and_above_a_megabyte_are_exact(
    make_disk: MakeDisk, attach: Attach, tmp_path: Path
) -> None:
    """Odd sizes on a disk whose file lies on the machine's own file system."""
    disk = make_disk(32 * _MIB, folder=tmp_path)
    tap = attach(disk)
    with Collector(tap) as collected:
        finish(start_script("writers.py", "flood", disk.path, 32 * _MIB, 250, 7))
        image = disk.content()
    replica = Replica(bytes(32 * _MIB))
    replica.apply(collected.records)
    assert tap.lost() == 0
    assert replica.image == image
    assert {record.length for record in collected.records} >= {512, 1024, 4096}
    assert tap.accounting().balanced
