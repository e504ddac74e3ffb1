"""What is no plain write: discards, zeroings, failures; and the account against the kernel's own count."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from guesttap.bpf import DATA, DISCARD, FAILED, ZERO
from guesttap.bpf.abi import UNRESOLVED
from guesttap.bpf.errors import UntappableDiskError
from guesttap.bpf.tap import BpfTap
from tests.bpf.conftest import Attach, MakeDisk
from tests.bpf.kit import Captured, Collector, LoopDisk, Replica, drain, finish, shell, start_script

pytestmark = pytest.mark.kernel

_MIB = 1 << 20


def _sectors(records: list[Captured]) -> int:
    return sum(record.length for record in records if record.kind in (DATA, DISCARD, ZERO)) // 512


def test_discards_and_zeroings_are_records_and_counted_like_the_kernel_does(
    make_disk: MakeDisk, attach: Attach, tmp_path: Path
) -> None:
    disk = make_disk(64 * _MIB, folder=tmp_path)  # a file in memory cannot be zeroed in place
    tap = attach(disk)
    Path(disk.path).write_bytes(os.urandom(16 * _MIB))
    shell("sync", disk.path)
    shell("blkdiscard", "--offset", _MIB, "--length", 2 * _MIB, disk.path)
    shell("blkdiscard", "--zeroout", "--offset", 8 * _MIB, "--length", 3 * _MIB, disk.path)
    records = drain(tap)
    discards = [(r.offset, r.length) for r in records if r.kind == DISCARD]
    zeroes = [(r.offset, r.length) for r in records if r.kind == ZERO]
    assert discards == [(_MIB, 2 * _MIB)]
    assert sum(length for _, length in zeroes) == 3 * _MIB
    assert zeroes[0][0] == 8 * _MIB
    replica = Replica(bytes(64 * _MIB))
    replica.apply(records)
    assert replica.image == disk.content()
    account = tap.accounting()
    assert account.quiet
    assert account.difference == 0
    assert account.disks[0].captured == account.disks[0].kernel == _sectors(records) == (16 + 2 + 3) * 2048


@pytest.fixture
def partitioned(make_disk: MakeDisk) -> Iterator[tuple[LoopDisk, list[Path]]]:
    """A disk with two partitions, and their device nodes (made by hand: no udev is needed)."""
    disk = make_disk(64 * _MIB, "--partscan")
    nodes = []
    for number, start, length in ((1, 2048, 65536), (2, 67584, 32768)):
        shell("addpart", disk.path, number, start, length)
        folder = Path(f"/sys/class/block/{Path(disk.path).name}p{number}")
        major, minor = map(int, (folder / "dev").read_text().split(":"))
        # In /dev: other folders in memory may be mounted so that device nodes in them are closed.
        nodes.append(Path(f"/dev/lastwrite-test-{os.getpid()}-{number}"))
        os.mknod(nodes[-1], stat.S_IFBLK | 0o600, os.makedev(major, minor))
    yield disk, nodes
    for number, node in enumerate(nodes, 1):
        node.unlink()
        shell("delpart", disk.path, number)


def test_a_partitioned_disk_balances_as_a_whole(
    partitioned: tuple[LoopDisk, list[Path]], attach: Attach, pin_dir: str
) -> None:
    disk, (first, second) = partitioned
    with pytest.raises(UntappableDiskError, match="is a partition"):
        BpfTap.attach([str(first)], pin_dir=pin_dir)
    tap = attach(disk)
    shell("mkfs.ext4", "-q", "-F", first)
    second.write_bytes(b"second" * 4096)
    shell("sync", second)
    records = drain(tap)
    replica = Replica(bytes(64 * _MIB))
    replica.apply(records)
    assert replica.image == disk.file.read_bytes()
    assert any(record.offset == 67584 * 512 for record in records), (
        "offsets count from the whole disk's start"
    )
    account = tap.accounting()
    assert account.quiet
    assert account.difference == 0
    assert account.disks[0].captured == _sectors(records) > 0


def test_an_account_taken_under_load_stays_within_its_tolerance(make_disk: MakeDisk, attach: Attach) -> None:
    disk = make_disk(64 * _MIB)
    tap = attach(disk)
    with Collector(tap):
        job = start_script("writers.py", "sequence", disk.path, "direct", 0, 64, 2, 50_000, 1)
        while job.poll() is None:
            account = tap.accounting(patience=0)
            assert account.balanced, account
        assert int(finish(job)) > 100
    final = tap.accounting()
    assert final.quiet
    assert final.difference == 0


def test_a_write_that_the_tap_missed_shows_in_the_account(make_disk: MakeDisk, attach: Attach) -> None:
    """The counter is set back by one sector: what a missed write would leave."""
    disk = make_disk(16 * _MIB)
    tap = attach(disk)
    Path(disk.path).write_bytes(b"x" * 8192)
    shell("sync", disk.path)
    assert tap.accounting().balanced
    tap._disk_counters[1] -= 512
    account = tap.accounting()
    assert account.difference == -1
    assert not account.balanced


@pytest.fixture
def full_disk(fast_folder: Path, make_disk: MakeDisk) -> Iterator[LoopDisk]:
    """A disk whose file lies in a file system of 4 MiB: beyond, writes fail."""
    small = fast_folder / "small"
    small.mkdir()
    shell("mount", "-t", "tmpfs", "-o", "size=4m", "lastwrite-test", small)
    disk = make_disk(32 * _MIB, folder=small)
    yield disk
    disk.close()
    shell("umount", small)


def test_a_write_that_the_disk_failed_is_reported_with_its_extent(
    full_disk: LoopDisk, attach: Attach
) -> None:
    tap = attach(full_disk)
    fd = os.open(full_disk.path, os.O_RDWR | os.O_DSYNC)
    failures = 0
    for number in range(64):
        try:
            os.pwrite(fd, bytes([number + 1]) * 131072, number * 262144)
        except OSError as error:
            assert error.errno in (errno.EIO, errno.ENOSPC)
            failures += 1
    os.close(fd)
    records = drain(tap)
    failed = [record for record in records if record.kind == FAILED]
    assert failures > 8
    assert tap.counters()["failed"] == len(failed) >= failures
    assert all(record.status != 0 for record in failed)
    resolved = [record for record in failed if not record.flags & UNRESOLVED]
    assert resolved
    replica = Replica(bytes(32 * _MIB))
    replica.apply(records)
    disk_now = full_disk.file.read_bytes()
    assert replica.image != disk_now, "the disk never had what it failed"
    replica.reread(full_disk.path, [(0, record.offset, record.length) for record in resolved])
    assert replica.image == disk_now
    account = tap.accounting()
    assert account.quiet
    assert account.difference == 0


def test_a_write_refused_before_it_is_a_request_does_not_unbalance_the_account(
    make_disk: MakeDisk, attach: Attach
) -> None:
    """O_DIRECT from an odd address: some kernels refuse it only after the bio was queued."""
    disk = make_disk(16 * _MIB)
    tap = attach(disk)
    fd = os.open(disk.path, os.O_RDWR | os.O_DIRECT)
    import mmap

    buffer = mmap.mmap(-1, 3 * 4096)
    buffer[:] = b"odd " * 3072
    refused = 0
    for shift in (1, 4, 256, 512, 1024):
        try:
            os.pwritev(fd, [memoryview(buffer)[shift : shift + 4096]], 65536 * shift % (8 * _MIB))
        except OSError as error:
            assert error.errno == errno.EINVAL
            refused += 1
    os.close(fd)
    records = drain(tap)
    replica = Replica(bytes(16 * _MIB))
    replica.apply(records)
    failed = [(0, record.offset, record.length) for record in records if record.kind == FAILED]
    assert all(length == 4096 for _, _, length in failed)
    replica.reread(disk.path, failed)
    assert replica.image == disk.content()
    assert refused >= 1
    assert tap.accounting().difference == 0
