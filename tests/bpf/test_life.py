"""The life of a tap: attaching, refusing, surviving its process, and leaving nothing behind."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest

from guesttap.bpf import DATA, BpfTap, disks_to_tap, syscall
from guesttap.bpf.btf import Btf
from guesttap.bpf.calibrate import Calibration, calibrate
from guesttap.bpf.errors import (
    AlreadyAttachedError,
    BpfCallError,
    BrokenTapError,
    CalibrationError,
    DiskMissingError,
    RingSizeError,
    SelfTestError,
    UntappableDiskError,
)
from guesttap.bpf.layout import KernelLayout, read_layout
from guesttap.bpf.pins import Pins
from tests.bpf import consumer
from tests.bpf.conftest import Attach, MakeDisk
from tests.bpf.kit import Replica, differing_blocks, drain, finish, start_script, wait_until

pytestmark = pytest.mark.kernel

_MIB = 1 << 20
_PROGRAM_BY_ID = 13


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _program_exists(number: int) -> bool:
    try:
        os.close(syscall._call(_PROGRAM_BY_ID, "<I", number)[0])
    except BpfCallError:
        return False
    return True


def test_killing_the_consumer_again_and_again_loses_nothing(
    make_disk: MakeDisk, attach: Attach, pin_dir: str, fast_folder: Path
) -> None:
    disk = make_disk(64 * _MIB)
    generation = attach(disk).generation
    file = fast_folder / "stream"
    job = start_script("writers.py", "sequence", disk.path, "direct", 0, 512, 5, 8000, 1)
    kills = 0
    while job.poll() is None:
        reader = start_script("consumer.py", pin_dir, file)
        time.sleep(random.uniform(0.3, 0.9))
        reader.kill()
        reader.communicate()
        kills += 1
    written = int(finish(job))
    tap = BpfTap.adopt(pin_dir)
    assert tap is not None
    reader = start_script("consumer.py", pin_dir, file)
    wait_until(lambda: tap.consumer_position == tap.producer_position, 30)
    reader.kill()
    reader.communicate()
    replica, counts = Replica(bytes(64 * _MIB)), 0
    content = file.read_bytes()
    size, position = consumer.good_part(content)
    at = 0
    while at < size:
        _, kind, _, offset, length, lost = consumer.HEAD.unpack_from(content, at)
        at += consumer.HEAD.size + length
        if kind == DATA:
            replica.image[offset : offset + length] = content[at - length : at]
            counts += 1
        assert lost == 0
    assert kills >= 3
    assert counts == written > 1000
    assert size == len(content)
    assert position == tap.producer_position
    assert replica.image == disk.content()
    assert tap.generation == generation
    assert tap.accounting().difference == 0
    tap.close()


def test_adopting_finds_the_same_tap_and_none_where_there_is_none(
    make_disk: MakeDisk, attach: Attach, pin_dir: str
) -> None:
    assert BpfTap.adopt(pin_dir) is None
    disk = make_disk(16 * _MIB)
    tap = attach(disk)
    again = BpfTap.adopt(pin_dir)
    assert again is not None
    assert again.generation == tap.generation > 0
    assert again.disks == tap.disks
    assert again.opf_masks == tap.opf_masks
    assert again.disks[0].path == disk.path
    assert again.disks[0].bytes == 16 * _MIB
    again.mark(7)
    assert [record.bio for record in drain(tap)] == [7]
    again.close()
    again.close()
    tap.mark(8)
    assert [record.bio for record in drain(tap)] == [8]


def test_a_second_attach_is_refused_and_the_first_goes_on(
    make_disk: MakeDisk, attach: Attach, pin_dir: str
) -> None:
    disk = make_disk(16 * _MIB)
    tap = attach(disk)
    with pytest.raises(AlreadyAttachedError, match=pin_dir):
        BpfTap.attach([disk.path], pin_dir=pin_dir)
    tap.mark(1)
    assert len(drain(tap)) == 1


def test_detaching_leaves_nothing(make_disk: MakeDisk, pin_dir: str) -> None:
    disk = make_disk(16 * _MIB)
    tap = BpfTap.attach([disk.path], 1 << 20, pin_dir)
    numbers = [struct.unpack_from("<I", syscall.info(fd), 4)[0] for fd in tap._programs.values()]
    assert len(numbers) == 5
    assert all(_program_exists(number) for number in numbers)
    descriptors = _open_descriptors()
    tap.detach()
    assert not Path(pin_dir).exists()
    assert _open_descriptors() < descriptors
    wait_until(lambda: not any(_program_exists(number) for number in numbers))
    assert BpfTap.adopt(pin_dir) is None


def test_what_an_attach_that_was_killed_left_is_cleared(make_disk: MakeDisk, pin_dir: str) -> None:
    disk = make_disk(16 * _MIB)
    tap = BpfTap.attach([disk.path], 1 << 20, pin_dir)
    (Path(pin_dir) / "ready").unlink()
    tap.close()
    assert BpfTap.adopt(pin_dir) is None
    again = BpfTap.attach([disk.path], 1 << 20, pin_dir)
    again.mark(1)
    assert len(drain(again)) == 1
    again.detach()


def test_a_tap_with_a_part_missing_is_not_adopted(make_disk: MakeDisk, pin_dir: str) -> None:
    disk = make_disk(16 * _MIB)
    BpfTap.attach([disk.path], 1 << 20, pin_dir).close()
    (Path(pin_dir) / "link_main").unlink()
    with pytest.raises(BrokenTapError, match="link_main"):
        BpfTap.adopt(pin_dir)


def test_an_attach_that_fails_leaves_nothing(
    make_disk: MakeDisk, pin_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wrong address of the page array, the self-test must see it."""
    from guesttap.bpf import tap as module

    disk = make_disk(16 * _MIB)

    def wrong(layout: KernelLayout, path: str) -> Calibration:
        found = calibrate(layout, path)
        return found._replace(page_array=found.page_array - 64 * 1024)

    monkeypatch.setattr(module, "calibrate", wrong)
    descriptors = _open_descriptors()
    with pytest.raises(SelfTestError, match="of 524288 known bytes"):
        BpfTap.attach([disk.path], 1 << 20, pin_dir)
    assert not Path(pin_dir).exists()
    assert _open_descriptors() == descriptors


def test_a_device_that_cannot_be_read_directly_cannot_calibrate(kernel: None) -> None:
    with pytest.raises(CalibrationError, match="/dev/zero cannot be read with O_DIRECT"):
        calibrate(read_layout(Btf.of_kernel()), "/dev/zero")


def test_what_cannot_be_tapped_is_refused_before_anything_is_done(make_disk: MakeDisk, pin_dir: str) -> None:
    disk = make_disk(16 * _MIB)
    empty = make_disk(0)
    with pytest.raises(DiskMissingError, match="no-such-disk"):
        BpfTap.attach([disk.path, "/dev/no-such-disk"], pin_dir=pin_dir)
    with pytest.raises(DiskMissingError, match="no block device"):
        BpfTap.attach([str(disk.file)], pin_dir=pin_dir)
    with pytest.raises(UntappableDiskError, match="same disk"):
        BpfTap.attach([disk.path, disk.path], pin_dir=pin_dir)
    with pytest.raises(UntappableDiskError, match="0 disks"):
        BpfTap.attach([], pin_dir=pin_dir)
    with pytest.raises(UntappableDiskError, match="no medium"):
        BpfTap.attach([empty.path], pin_dir=pin_dir)
    for size in (0, 3 << 20, 1 << 16, 1 << 31):
        with pytest.raises(RingSizeError):
            BpfTap.attach([disk.path], size, pin_dir)
    assert not Pins(pin_dir).is_ready()
    assert not Path(pin_dir).exists()


def test_the_disks_to_tap_carry_file_systems(kernel: None) -> None:
    found = disks_to_tap()
    assert found == sorted(found)
    for path in found:
        assert Path(path).is_block_device()
        assert not (Path("/sys/class/block") / Path(path).name / "partition").exists()
        assert not Path(path).name.startswith(("loop", "zram", "ram"))


def test_writes_to_other_disks_are_not_captured(make_disk: MakeDisk, attach: Attach) -> None:
    tapped, other = make_disk(16 * _MIB), make_disk(16 * _MIB)
    tap = attach(tapped)
    finish(start_script("writers.py", "flood", other.path, 16 * _MIB, 10, 1))
    assert drain(tap) == []
    assert tap.counters()["bios"] == 0
    assert differing_blocks(other.content(), bytes(16 * _MIB)) != []
