"""Torn tails and damage: what was acknowledged and is whole is served, what is not is named, nothing wrong is read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from journal import layout
from journal.errors import NotRecoverable
from journal.frame import CAPTURED, FrameBuilder, FrameError
from journal.offline.check import check
from journal.reader import JournalReader
from journal.scan import SegmentScan
from journal.writer import JournalWriter
from tests.journal.tap import Guest, Images, Tap

DISK = 8 * 4096


def make(folder: Path, frames: int = 12) -> dict[int, Images]:
    """A journal of one segment: an initial sync, then one aligned write per frame."""
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        image, expected = bytearray(b"\1" * DISK), {}
        for number in range(frames):
            data = bytes([number + 2]) * 4096
            place = number % 8 * 4096
            image[place : place + 4096] = data
            tap.write(0, place // 512, data)
            expected[writer.next_lsn - 1] = {0: bytes(image)}
            tap.cut()
    return expected


def segment(folder: Path) -> Path:
    return next((folder / "timelines" / "0001").glob("*.seg"))


def frames_of(path: Path) -> list[tuple[int, int, int, int]]:
    """(offset, end, first LSN, records) of each frame."""
    scan = SegmentScan(path, 1)
    scan.extend()
    rows = scan.frames.array()
    return [
        (int(r["offset"]), int(r["data"] + r["data_bytes"]), int(r["first_lsn"]), int(r["records"]))
        for r in rows
    ]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_cut_off_at_any_byte_everything_whole_before_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    expected = make(folder, 4)
    path = segment(folder)
    whole = path.read_bytes()
    frames = frames_of(path)
    choices = random.Random(1)
    places = [e + d for _, e, _, _ in frames for d in (-1, 0, 1)] + choices.sample(
        range(4096, len(whole)), 25
    )
    for size in sorted({min(place, len(whole)) for place in places}):
        path.write_bytes(whole[:size])
        last = max((first + count - 1 for _, end, first, count in frames if end <= size), default=0)
        assert JournalReader(folder).last_lsn() == last
        with JournalWriter.open(folder) as writer:
            assert writer.next_lsn == last + 1
            kept = max([end for _, end, _, _ in frames if end <= size], default=4096)
            assert path.stat().st_size == kept and writer.recovery.cut_bytes == size - kept
        for lsn in expected.keys() & set(range(last + 1)):
            assert JournalReader(folder).resolve(lsn, 0).read(0, DISK) == expected[lsn][0]
        path.write_bytes(whole)


def test_appending_goes_on_after_a_torn_tail(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    make(folder, 4)
    path = segment(folder)
    path.write_bytes(path.read_bytes()[:-5000])
    with JournalWriter.open(folder) as writer:
        tap = Tap(writer, {0: DISK})
        assert writer.epoch_open and writer.valid
        tap.write(0, 0, b"n" * 512)
        last = writer.commit()[0] - 1
    assert JournalReader(folder).resolve(last, 0).read(0, 513) == b"n" * 512 + JournalReader(folder).resolve(
        last, 0
    ).read(512, 1)
    assert check(folder).ok


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_anywhere_never_gives_a_wrong_block(tmp_path: Path, seed: int) -> None:
    """For every point: the exact image, or a refusal that names points which are exact, or FrameError."""
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=120_000) as writer:
        guest = Guest(seed, Tap(writer, {0: DISK}))
        for valid in (True, False, True, True):
            guest.epoch(valid=valid)
    choices = random.Random(seed)
    files = sorted((folder / "timelines" / "0001").glob("*.seg"))
    served = 0
    for _ in range(25):
        path = choices.choice(files)
        whole = path.read_bytes()
        offset = choices.randrange(4096, len(whole))
        if choices.random() < 0.5:  # most bytes are data: aim at the heads in half of the cases
            begin = choices.choice([o for o in range(4096, len(whole), 4096) if whole[o : o + 4] == b"LWF1"])
            offset = begin + choices.randrange(100)
        flip(path, offset)
        for reopened in (False, True):
            served += _check_all(folder, guest)
            if not reopened:
                copy = path.read_bytes()
                if path == files[-1]:
                    break  # opening may cut off the tail of the last one: that is another test
                JournalWriter.open(folder).close()
                assert path.read_bytes() == copy
        path.write_bytes(whole)
    assert served > 100
    assert _check_all(folder, guest) == len(guest.expected)


def _check_all(folder: Path, guest: Guest) -> int:
    reader, served = JournalReader(folder), 0
    for lsn, images in guest.expected.items():
        try:
            found = reader.resolve(lsn, 0).read(0, DISK)
        except NotRecoverable as refusal:
            for near in (refusal.details["before"], refusal.details["after"]):
                assert near is None or near in guest.expected
            continue
        except FrameError as error:
            assert (
                str(reader.folder) in error.message and "offset" in error.message and "LSNs" in error.message
            )
            continue
        assert found == images[0]
        served += 1
    return served


def test_damage_in_the_middle_is_named_and_kept_and_the_rest_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    expected = make(folder)
    path = segment(folder)
    offset, _, lsn, _ = next(f for f in frames_of(path) if f[2] == 7 and f[3])
    flip(path, offset + 30)
    damaged = path.read_bytes()
    for _ in range(2):
        reader = JournalReader(folder)
        (found,) = reader.damage()
        assert (found.first_lsn, found.next_lsn, found.path, found.offset) == (lsn, lsn + 1, path, offset)
        assert reader.last_lsn() == max(expected) and reader.latest() == lsn - 1
        for point in expected:
            if point < lsn:
                assert reader.resolve(point, 0).read(0, DISK) == expected[point][0]
            else:
                with pytest.raises(NotRecoverable, match="damaged") as refusal:
                    reader.resolve(point, 0)
                assert refusal.value.details["before"] == lsn - 1
        with JournalWriter.open(folder) as writer:
            # The tap must begin again, with a full sync: a bitmap would miss what was lost.
            assert not writer.epoch_open and not writer.valid_base and writer.next_lsn == max(expected) + 1
        assert path.read_bytes() == damaged
    assert [d.first_lsn for d in check(folder).damaged] == [lsn]


def test_a_full_sync_after_damage_makes_points_again(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    expected = make(folder)
    path = segment(folder)
    flip(path, next(f for f in frames_of(path) if f[2] == 7 and f[3])[0] + 30)
    with JournalWriter.open(folder) as writer:
        tap = Tap(writer, {0: DISK})
        tap.begin("full")
        assert not writer.valid_base
        tap.write(0, 0, b"f" * DISK, kind=2)
        tap.cut("sync-end")
        assert writer.valid_base
        tap.write(0, 0, b"g" * 512)
        last = writer.next_lsn - 1
    reader = JournalReader(folder)
    assert reader.latest() == last
    assert reader.resolve(last, 0).read(0, DISK) == b"g" * 512 + b"f" * (DISK - 512)
    with pytest.raises(NotRecoverable) as refusal:
        reader.resolve(max(expected), 0)
    assert refusal.value.details["after"] == last - 1
    with JournalWriter.open(folder) as writer:
        assert writer.valid_base and writer.epoch_open


def test_bad_data_is_refused_on_touch_and_points_that_need_it_once_it_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    expected = make(folder)
    path = segment(folder)
    offset, end, lsn, _ = next(f for f in frames_of(path) if f[2] == 5 and f[3])
    flip(path, end - 1)
    place = (lsn - 2) % 8 * 4096
    reader = JournalReader(folder)
    blocks = reader.resolve(lsn, 0)
    with pytest.raises(FrameError, match=f"LSNs {lsn} to {lsn} .frame at offset {offset} of {path}"):
        blocks.read(place + 4000, 8)
    good = bytearray(expected[lsn][0])
    assert blocks.read(0, place) == good[:place]
    assert blocks.read(place + 4096, DISK - place - 4096) == good[place + 4096 :]
    JournalWriter.open(folder).close()
    reader = JournalReader(folder)
    for point, images in expected.items():
        if lsn <= point < lsn + 8:  # until the block is written again
            with pytest.raises(NotRecoverable, match="checksum"):
                reader.resolve(point, 0)
        else:
            assert reader.resolve(point, 0).read(0, DISK) == images[0]


def nested(tmp_path: Path) -> tuple[Path, int, int]:
    """A journal in whose data lies another one, whose LSNs and epoch would fit. Returns folder, LSN, last LSN."""
    make(tmp_path / "inner", 60)
    inner = segment(tmp_path / "inner").read_bytes()[4096:]
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "appliance") as writer:
        tap = Tap(writer, {0: len(inner)})
        tap.protect()
        for _ in range(20):
            tap.write(0, 0, b"n" * 512)
        builder = FrameBuilder(CAPTURED)
        builder.add_write(0, 0, inner, tap.tick())
        tap.send(builder)
        lsn = writer.next_lsn - 1
        for number in range(5):
            tap.write(0, 0, bytes([number]) * 512)
    return folder, lsn, writer.next_lsn - 1


def test_data_that_holds_frames_of_another_journal_is_not_taken_for_frames(tmp_path: Path) -> None:
    folder, lsn, last = nested(tmp_path)
    path = segment(folder)
    offset = next(f for f in frames_of(path) if f[2] == lsn)[0]
    with JournalWriter.open(folder, segment_bytes=4096) as writer:
        Tap(writer, {}).write(0, 0, b"s" * 512)  # seals the segment before
    flip(path, offset)  # the frame's magic: its length is unknown too
    reader = JournalReader(folder)
    assert [(d.first_lsn, d.next_lsn) for d in reader.damage()] == [(lsn, lsn + 1)]
    assert reader.last_lsn() == last + 1 and reader.latest() == lsn - 1


@pytest.mark.parametrize("where", ["in the middle", "at the end"])
def test_frames_that_cannot_be_told_from_data_are_neither_served_nor_cut_off(
    tmp_path: Path, where: str
) -> None:
    folder, lsn, last = nested(tmp_path)
    path = segment(folder)
    offset, end, *_ = next(f for f in frames_of(path) if f[2] == lsn)
    if where == "at the end":
        path.write_bytes(path.read_bytes()[:end])
    flip(path, offset)
    stored = path.read_bytes()
    for _ in range(2):
        reader = JournalReader(folder)
        (found,) = reader.damage()
        assert found.first_lsn == lsn and found.next_lsn > last and reader.latest() == lsn - 1
        with JournalWriter.open(folder) as writer:
            # No LSN is used twice: a bookmark of what was there must not mean something else.
            assert writer.next_lsn > last and not writer.epoch_open and not writer.valid_base
    with JournalWriter.open(folder) as writer:
        tap = Tap(writer, {0: DISK})
        tap.begin("full")
        tap.write(0, 0, b"f" * DISK, kind=2)
        tap.cut("sync-end")
        after = writer.next_lsn - 1
    assert path.read_bytes() == stored
    reader = JournalReader(folder)
    assert reader.latest() == after and reader.resolve(after, 0).read(0, DISK) == b"f" * DISK
    assert reader.resolve(lsn - 1, 0).read(0, 1) == b"n"
    assert len(reader.scans(1)) == 2 and len(reader.damage()) == 1


def test_a_torn_frame_with_frames_in_its_data_is_cut_off(tmp_path: Path) -> None:
    folder, lsn, _ = nested(tmp_path)
    path = segment(folder)
    offset, end, *_ = next(f for f in frames_of(path) if f[2] == lsn)
    path.write_bytes(path.read_bytes()[: end - 4096])
    assert JournalReader(folder).last_lsn() == lsn - 1 and not JournalReader(folder).damage()
    with JournalWriter.open(folder) as writer:
        assert writer.next_lsn == lsn and writer.epoch_open and path.stat().st_size == offset


@pytest.mark.parametrize("frames", [1, 2])
def test_a_tail_whose_data_never_reached_the_disk_is_cut_off(tmp_path: Path, frames: int) -> None:
    """After a power cut the length and the head can be there, and zeros where the data should be."""
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        for number in range(6):
            tap.write(0, 0, bytes([number + 1]) * 4096)
    path = segment(folder)
    torn = [f for f in frames_of(path) if f[3]][-frames:]
    data = bytearray(path.read_bytes())
    for _, end, _, _ in torn:
        data[end - 4096 : end] = bytes(4096)
    path.write_bytes(data)
    with JournalWriter.open(folder) as writer:
        assert writer.next_lsn == torn[0][2] and path.stat().st_size == torn[0][0]
        assert writer.epoch_open and not JournalReader(folder).damage()
    assert check(folder).ok


def test_a_segment_that_is_missing_or_foreign_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=120_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        for number in range(20):
            tap.write(0, 0, bytes([number]) * DISK)
    assert check(folder).ok
    first, second, third, *_ = sorted((folder / "timelines" / "0001").glob("*.seg"))
    kept = second.read_bytes()
    second.unlink()
    reader = JournalReader(folder)
    (found,) = reader.damage()
    assert (found.first_lsn, found.next_lsn) == (int(second.stem), int(third.stem))
    assert reader.latest() == int(second.stem) - 1
    assert not check(folder).ok
    second.write_bytes(kept)
    # A segment that was replaced as a whole, correct in itself, shows in the chain of digests.
    header, footer = layout.unpack_segment_header(kept), layout.unpack_footer(kept[-4096:])
    assert header and footer
    changed = layout.pack_segment_header(header._replace(created=header.created + 1)) + kept[4096:-4096]
    second.write_bytes(changed + kept[-4096:])
    assert any("footer does not fit" in d.reason for d in check(folder).damaged)
    scan = SegmentScan(second, header.first_lsn)
    scan.extend()
    second.write_bytes(changed + layout.pack_footer(footer._replace(digest=scan.digest)))
    assert [(d.path, "does not follow" in d.reason) for d in check(folder).damaged] == [(third, True)]
    first.unlink()
    assert JournalReader(folder).latest() is None


def test_check_reads_only_and_tells_its_progress(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    make(folder)
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    seen: list[tuple[int, int]] = []
    try:
        report = check(folder, lambda done, total: seen.append((done, total)))
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
    size = segment(folder).stat().st_size
    assert report.ok and report.records == 13 and report.bytes == size and len(report.epochs) == 1
    assert seen[-1] == (size, size) and seen == sorted(seen)
    flip(segment(folder), size - 1)
    assert check(folder).torn_bytes or not check(folder).ok


def test_the_lost_end_of_a_sync_takes_away_the_next_epoch_at_the_same_lsn_too(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        first = writer.next_lsn - 1
        tap.begin("bitmap")
        tap.write(0, 8, b"\2" * 4096)
        tap.cut("sync-end")
        tap.begin("bitmap")  # no record lies between: its points begin at the same LSN
        tap.cut("sync-end")
        lsn = writer.next_lsn - 1
        tap.write(0, 16, b"\3" * 4096)
    ends = [found for found in frames_of(segment(folder)) if found[3] == 0 and found[2] == lsn + 1]
    assert len(ends) == 3
    flip(segment(folder), ends[0][0] + 20)
    reader = JournalReader(folder)
    assert reader.latest() == first
    for point in (lsn, lsn + 1):
        with pytest.raises(NotRecoverable):
            reader.resolve(point, 0)
