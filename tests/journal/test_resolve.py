"""Every recovery point comes back exactly: against a simulated guest, a plain model, and a second reader."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import NotRecoverable, OutsideDisk
from journal.frame import CAPTURED, DISCARD, SYNC, WRITE, ZERO, FrameBuilder
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.independent import IndependentReader
from tests.journal.tap import Guest, Images, Tap

DISKS = {0: 16 * 4096, 3: 67 * 512}


def check_points(reader: JournalReader, timeline: int, expected: dict[int, Images]) -> None:
    for lsn, images in expected.items():
        for disk, image in images.items():
            blocks = reader.resolve(lsn, disk, timeline)
            assert blocks.read(0, len(image)) == image, (timeline, lsn, disk)


@pytest.mark.parametrize("seed", range(12))
def test_every_point_of_a_simulated_guest_comes_back_and_every_other_is_refused(
    tmp_path: Path, seed: int
) -> None:
    choices = random.Random(seed)
    with JournalWriter.create(
        tmp_path / "j", "web01", segment_bytes=choices.choice([40_000, 1 << 30])
    ) as writer:
        guest = Guest(seed, Tap(writer, DISKS))
        for valid in [choices.random() < 0.7 for _ in range(5)] + [True]:
            guest.epoch(valid=valid)
    reader = JournalReader(tmp_path / "j")
    check_points(reader, 1, guest.expected)
    for lsn in guest.refused - guest.expected.keys():
        with pytest.raises(NotRecoverable) as refusal:
            reader.resolve(lsn, 0)
        nearest = [
            p for p in (refusal.value.details["before"], refusal.value.details["after"]) if p is not None
        ]
        assert nearest and all(reader.resolve(p, 0) for p in nearest)
        assert refusal.value.details["before"] == max((p for p in guest.expected if p < lsn), default=None)
        assert refusal.value.details["after"] == min((p for p in guest.expected if p > lsn), default=None)
    assert reader.latest() == max(guest.expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_reader_written_from_the_document_alone_agrees(tmp_path: Path, seed: int) -> None:
    choices = random.Random(seed)
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        guest = Guest(seed, Tap(writer, DISKS))
        for valid in (True, False, True):
            guest.epoch(valid=valid)
        fork = choices.choice(sorted(guest.expected))
        assert writer.fork(fork, "test") == 2
        guest.epoch(valid=True)
    with JournalWriter.open(folder, 2, segment_bytes=60_000) as writer:
        branch = Guest(seed + 100, Tap(writer, DISKS), guest.expected[fork])
        branch.epoch(valid=True)
    reader, second = JournalReader(folder), IndependentReader(folder)
    shared = {lsn: images for lsn, images in guest.expected.items() if lsn <= fork}
    for timeline, expected in ((1, guest.expected), (2, shared | branch.expected)):
        check_points(reader, timeline, expected)
        records = [item for item in second.items(timeline) if item.kind]
        assert [item.lsn for item in records] == list(range(1, reader.last_lsn(timeline) + 1))
        for lsn in choices.sample(range(reader.last_lsn(timeline) + 1), 20):
            image = second.image(timeline, lsn, 3)
            assert reader.lineage(timeline).history.is_point(lsn) == (image is not None)
            if image is not None:
                assert reader.resolve(lsn, 3, timeline).read(0, len(image)) == image


SECTORS = 45
RECORDS = st.lists(
    st.tuples(
        st.sampled_from([SYNC, CAPTURED]),
        st.sampled_from([WRITE, DISCARD, ZERO]),
        st.integers(0, SECTORS - 1),
        st.integers(1, SECTORS),
        st.integers(1, 255),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, offset=st.integers(0, SECTORS * 512), length=st.integers(0, SECTORS * 512))
def test_any_records_give_what_a_plain_array_gives(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[int, int, int, int, int]],
    offset: int,
    length: int,
) -> None:
    folder = tmp_path_factory.mktemp("model") / "j"
    layers = {SYNC: bytearray(SECTORS * 512), CAPTURED: bytearray(SECTORS * 512)}
    named = bytearray(SECTORS)
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: SECTORS * 512})
        tap.begin()
        for rank, kind, sector, wanted, fill in records:
            sectors = min(wanted, SECTORS - sector)
            data = (bytes([fill]) if kind == WRITE else b"\0") * (sectors * 512)
            builder = FrameBuilder(rank)
            if kind == WRITE:
                builder.add_write(0, sector, data, tap.tick())
            else:
                builder.add_extent(kind, 0, sector, sectors, tap.tick())
            tap.send(builder)
            layers[rank][sector * 512 : (sector + sectors) * 512] = data
            if rank == CAPTURED:
                named[sector : sector + sectors] = b"\1" * sectors
        tap.cut("sync-end")
    model = bytearray()
    for sector in range(SECTORS):
        model += layers[CAPTURED if named[sector] else SYNC][sector * 512 : (sector + 1) * 512]
    blocks = JournalReader(folder).resolve(len(records), 0)
    length = min(length, len(model) - offset)
    assert blocks.read(offset, length) == model[offset : offset + length]
    buffer = bytearray(length)
    blocks.read_into(offset, memoryview(buffer))
    assert buffer == model[offset : offset + length]
    place = 0
    for begin, size, data_there in blocks.extents():
        assert begin == place and size > 0
        assert data_there or not any(model[begin : begin + size])
        place += size
    assert place == len(model)


def test_very_long_extents_and_many_blocks_are_mapped(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 8 << 30})
        tap.begin()
        builder = FrameBuilder(CAPTURED)
        builder.add_write(0, 0, b"a" * 8192, tap.tick())
        builder.add_extent(ZERO, 0, 8, (8 << 30) // 512 - 8, tap.tick())
        builder.add_write(0, (8 << 30) // 512 - 9, b"z" * 4608, tap.tick())
        tap.send(builder)
        tap.cut("sync-end")
    blocks = JournalReader(tmp_path / "j").resolve(3, 0)
    assert blocks.read(4000, 200) == b"a" * 96 + bytes(104)
    assert blocks.read((8 << 30) - 4700, 4700) == bytes(92) + b"z" * 4608
    assert list(blocks.extents()) == [
        (0, 4096, True),
        (4096, (8 << 30) - 4096 - 8192, False),
        ((8 << 30) - 8192, 8192, True),
    ]
    with pytest.raises(OutsideDisk):
        blocks.read((8 << 30) - 1, 2)


def test_a_disk_that_shrank_and_grew_again_shows_no_ghosts(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 8 * 4096})
        tap.protect(b"1")
        tap.disks = {0: 4 * 4096 + 512}
        tap.begin("bitmap")
        tap.cut("sync-end")
        tap.write(0, 1, b"x" * 512)
    reader = JournalReader(tmp_path / "j")
    blocks = reader.resolve(2, 0)
    assert blocks.disk_bytes == 4 * 4096 + 512
    assert blocks.read(0, blocks.disk_bytes) == b"1" * 512 + b"x" * 512 + b"1" * (blocks.disk_bytes - 1024)


def test_an_epoch_that_was_never_valid_leaves_nothing_behind(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 4 * 4096})
        tap.protect(b"1")
        tap.begin("bitmap")
        tap.write(0, 0, b"x" * 4096)
        tap.begin("bitmap")
        tap.cut("sync-end")
        tap.write(0, 8, b"y" * 4096)
    reader = JournalReader(tmp_path / "j")
    for lsn, image in {1: b"1" * 16384, 2: b"1" * 16384, 3: b"1" * 4096 + b"y" * 4096 + b"1" * 8192}.items():
        assert reader.resolve(lsn, 0).read(0, 16384) == image


def test_a_fork_does_not_see_what_began_at_its_place_later(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: 4096})
        tap.protect(b"1")
        assert writer.fork(1, "fork") == 2
        tap.begin("full")
        tap.write(0, 0, b"2" * 4096, SYNC)
        tap.cut("sync-end")
    with JournalWriter.open(folder, 2) as writer:
        assert (writer.epoch, writer.epoch_open, writer.next_lsn, writer.next_cut) == (1, False, 2, 3)
        tap = Tap(writer, {0: 4096})
        tap.begin("bitmap")
        tap.cut("sync-end")
        tap.write(0, 0, b"f" * 512)
        assert writer.fork(2, "of the fork") == 3
    reader = JournalReader(folder)
    assert [e.sync for e in reader.epochs(2)] == ["initial", "bitmap"]
    assert reader.resolve(2, 0, 2).read(0, 4096) == b"f" * 512 + b"1" * 3584
    assert reader.resolve(2, 0, 3).read(0, 4096) == b"f" * 512 + b"1" * 3584
    assert reader.resolve(2, 0, 1).read(0, 4096) == b"2" * 4096
    assert [e.number for e in reader.epochs(1)] == [1, 2]
