"""The torture finds what it is there to find: a promise that is broken on purpose is reported as broken."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from guesttap.bpf import DATA, FLUSH, MARK
from guesttap.bpf.abi import FIRST
from guesttap.bpf.layout import FlagMasks
from journal import direct
from journal.retention import netfile
from journal.writer import JournalWriter
from tests.bpf.kit import Captured
from tests.needs import missing
from tests.torture import places, trials, verify
from tests.torture.crash import CrashDisk
from tests.torture.flips import segments_of
from tests.torture.local import LocalTap
from tests.torture.powerloss import PowerLoss

MASKS = FlagMasks(sync=1 << 20, meta=1 << 21, fua=1 << 22, preflush=1 << 23)
SECTOR = 512


def write(number: int, opf: int = 1) -> Captured:
    """A write of 1024 bytes of that value at that KiB."""
    return Captured(DATA, 0, number * 1024, 1024, bytes([number]) * 1024, 0, number, opf, FIRST, 0, 0)


def event(kind: int, token: int = 0) -> Captured:
    """A flush or a mark."""
    return Captured(kind, 0, 0, 0, b"", 0, token, 1, 0, 0, 0)


def outcomes(stream: list[Captured], place: int, number: int) -> set[int]:
    """What a KiB may hold after a failure there: the values of its sectors, as a number for each combination."""
    disk = CrashDisk(bytes(16 * 1024), stream, MASKS, SECTOR)
    disk.advance(place)
    found = set()
    for seed in range(300):
        image = disk.image(random.Random(seed))
        first, second = image[number * 1024], image[number * 1024 + SECTOR]
        found.add((int(first) > 0) + 2 * (int(second) > 0))
    return found


def test_a_write_before_a_completed_flush_is_always_there_and_one_after_it_in_part_or_not() -> None:
    stream = [write(1), event(FLUSH), write(2), write(3)]
    assert outcomes(stream, 4, 1) == {3}
    assert outcomes(stream, 4, 2) == outcomes(stream, 4, 3) == {0, 1, 2, 3}


def test_a_flush_that_was_submitted_last_has_not_completed() -> None:
    stream = [write(1), event(FLUSH), event(MARK, 7)]
    assert outcomes(stream, 2, 1) == {0, 1, 2, 3}
    assert outcomes(stream, 3, 1) == {3}


def test_a_write_with_a_flush_before_it_makes_the_earlier_ones_durable_and_not_itself() -> None:
    stream = [write(1), write(2, 1 | MASKS.preflush), write(3)]
    assert outcomes(stream, 3, 1) == {3}
    assert outcomes(stream, 3, 2) == {0, 1, 2, 3}


def test_a_fua_write_is_there_once_it_has_completed_and_the_earlier_ones_need_not_be() -> None:
    stream = [write(1), write(2, 1 | MASKS.fua), write(3)]
    assert outcomes(stream, 2, 2) == {0, 1, 2, 3}
    assert outcomes(stream, 3, 2) == {3}
    assert outcomes(stream, 3, 1) == {0, 1, 2, 3}


@pytest.fixture
def kernel() -> None:
    """Ends the test where power loss cannot be simulated."""
    lacks = trials.lacks()
    if lacks:
        missing("; ".join(lacks))


@pytest.mark.kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kind", places.file_systems())
def test_an_acknowledgement_without_a_sync_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct.BlockFile, "sync", lambda self: None)
    with (
        places.workplace() as folder,
        pytest.raises(verify.Lost, match=r"was acknowledged|is not served|is wrong"),
    ):
        PowerLoss(folder, kind, random.Random(1)).run(60, 60)


class _NoSync:
    """The module os, but fsync() does nothing."""

    def __getattr__(self, name: str) -> Any:
        return (lambda *args: None) if name in ("fsync", "posix_fadvise") else getattr(os, name)


@pytest.mark.kernel
@pytest.mark.usefixtures("kernel")
def test_a_net_segment_that_replaces_others_before_it_is_durable_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netfile, "os", _NoSync())
    with places.workplace() as folder, pytest.raises(verify.Lost):
        PowerLoss(folder, "ext4", random.Random(5)).run(100, 120)


def test_a_lost_or_doubled_frame_and_a_changed_byte_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=1 << 20) as writer:
        tap = LocalTap(writer, 3)
        tap.connect()
        tap.run_until_valid()
        tap.run(40)
    verify.require_frames(folder, tap.acknowledged)
    verify.whole(folder, tap.truth, tap.acked_lsn, random.Random(1))
    with pytest.raises(verify.Lost, match="is there 0 times"):
        verify.require_frames(folder, [*tap.acknowledged, bytes(tap.acknowledged[-1]) + b"x"])
    lsn = tap.acked_lsn - 1
    disk, place = tap.truth.made[lsn].disk, tap.truth.made[lsn].sector * SECTOR
    tap.truth.made[lsn] = tap.truth.made[lsn]._replace(data=b"other" + tap.truth.made[lsn].data[5:])
    with pytest.raises(verify.Lost, match=f"disk {disk} at LSN {lsn} is wrong from byte {place} on"):
        verify.whole(folder, tap.truth, tap.acked_lsn, random.Random(1))
    last = segments_of(folder)[-1]
    with last.path.open("r+b") as file:
        file.truncate(last.last[0])
    with pytest.raises(verify.Lost, match="the newest is"):
        verify.opened(folder, tap.acked_lsn)
