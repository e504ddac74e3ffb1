"""What a tap sends is stored as it is meant, or refused with an error of ours: never half, never elsewhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from journal import frame
from journal.frame import CAPTURED, SYNC, FrameBuilder
from journal.offline.check import check
from journal.reader import JournalReader
from journal.sequence import sequence_of
from journal.writer import JournalWriter
from lastwrite.errors import LastwriteError
from tests.journal.mutate import forge_frame
from tests.journal.tap import Tap

DISKS = {0: 16 * 4096, 2: 40 * 512}
SEEDS = st.integers(0, 1 << 48).map(random.Random)
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tap]:
    """A tap in a valid epoch."""
    with JournalWriter.create(
        tmp_path_factory.mktemp("frames") / "j", "web01", segment_bytes=1 << 20
    ) as writer:
        made = Tap(writer, DISKS)
        made.protect()
        writer.commit()
        yield made


def a_frame(tap: Tap, choices: random.Random) -> bytearray:
    """A frame that may follow."""
    writer, builder = tap.writer, FrameBuilder(CAPTURED)
    for _ in range(choices.randrange(4)):
        builder.add_write(
            0, choices.randrange(100), choices.randbytes(512 * choices.randint(1, 20)), tap.tick()
        )
    builder.notes += [tap.cut_note(label="x" * choices.randrange(300))] * choices.randrange(2)
    where = {
        "first_lsn": writer.next_lsn,
        "epoch": writer.epoch,
        "position": (writer.position + 1) % (1 << 60),
    }
    return builder.finish(**where, base_time=tap.mono)


def receive(tap: Tap, data: bytes | bytearray) -> None:
    """Take a frame as a receiver does."""
    header = frame.parse_header(data)
    head, payload = data[: header.head_bytes], data[header.head_bytes : header.frame_bytes]
    frame.verify(header, bytes(head), bytes(payload))
    list(frame.records(header, bytes(head)))
    tap.writer.append(header, bytes(head), bytes(payload))


@QUICK
@given(seed=SEEDS)
def test_a_forged_frame_is_refused_whole_or_taken_whole(tap: Tap, seed: random.Random) -> None:
    writer, data = tap.writer, a_frame(tap, seed)
    for _ in range(seed.randint(1, 3)):
        forge_frame(data, 0, seed)
    before = (writer.next_lsn, writer.next_cut, writer.epoch, writer.position)
    try:
        receive(tap, data)
    except LastwriteError:
        assert (writer.next_lsn, writer.next_cut, writer.epoch, writer.position) == before
    else:
        assert writer.next_lsn >= before[0] and writer.next_cut >= before[1]
    writer.commit()
    reader = JournalReader(writer.folder)
    assert reader.last_lsn() + 1 == writer.next_lsn and not reader.damage()
    known = sequence_of(reader)
    for name in (
        "next_lsn",
        "next_cut",
        "epoch",
        "epoch_open",
        "valid",
        "generation",
        "position",
        "sync_cursor",
    ):
        assert getattr(known, name) == getattr(writer, name), f"{name} after opening again"
    latest = reader.latest()
    assert latest is not None
    for disk, size in DISKS.items():
        assert len(reader.resolve(latest, disk).read(0, size)) == size
    if not writer.epoch_open or not writer.valid or set(DISKS) != {d.disk for d in reader.disks()}:
        tap.protect()


def test_after_all_of_it_a_check_finds_nothing(tap: Tap) -> None:
    tap.writer.commit()
    assert check(tap.writer.folder).ok


@QUICK
@given(data=st.binary(max_size=9000), kind=st.sampled_from((CAPTURED, SYNC, 3, 4, 0, 255)))
def test_any_bytes_are_refused_as_a_frame_with_an_error_of_ours(data: bytes, kind: int) -> None:
    made = bytearray(frame.MAGIC + bytes([kind]) + data)
    with pytest.raises(LastwriteError):
        header = frame.parse_header(made)
        frame.verify(header, made[: header.head_bytes], made[header.head_bytes :])


@QUICK
@given(st.data())
def test_what_was_built_is_read_back(draw: st.DataObject) -> None:
    builder = FrameBuilder(CAPTURED)
    wanted = []
    time = draw.draw(st.integers(0, 1 << 40))
    for _ in range(draw.draw(st.integers(0, 20))):
        disk, sector = draw.draw(st.integers(0, 65535)), draw.draw(st.integers(0, (1 << 47)))
        time += draw.draw(st.integers(0, 10**6))
        data = draw.draw(st.binary(min_size=1, max_size=4)) * 512
        builder.add_write(disk, sector, data, time)
        wanted.append((disk, sector, data))
    made = bytes(builder.finish(first_lsn=7, epoch=1, position=9))
    header = frame.parse_header(made)
    payload = made[header.head_bytes :]
    frame.verify(header, made[: header.head_bytes], payload)
    found = [
        (record.disk, record.sector, payload[place : place + record.sectors * 512])
        for record, place in frame.records(header, made)
    ]
    assert found == wanted


def test_a_journal_folder_of_nothing_but_noise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "JOURNAL").write_bytes(random.Random(1).randbytes(200))
    with pytest.raises(LastwriteError):
        JournalReader(tmp_path)
