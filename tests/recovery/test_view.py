from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.frame import BLOCK, SECTOR, SYNC, FrameError
from journal.reader import JournalReader
from recovery.errors import DiskNotFound
from recovery.images import write_image
from recovery.points import find, parse
from recovery.view import View, disks_at
from tests.recovery.disks import MIB, tool
from tests.recovery.journals import JournalMaker, block

SIZES = {0: 96 * SECTOR, 1: 41 * SECTOR}

places = st.tuples(
    st.integers(0, 1), st.integers(0, 95), st.integers(1, 24), st.integers(1, 255), st.booleans()
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(places, min_size=1, max_size=12), min_size=1, max_size=5))
def test_a_view_equals_the_model_at_every_record(
    tmp_path_factory: pytest.TempPathFactory, frames: list[list[tuple[int, int, int, int, bool]]]
) -> None:
    maker = JournalMaker(tmp_path_factory.mktemp("any") / "j", disks=[("vda", SIZES[0]), ("vdb", SIZES[1])])
    maker.synced()
    for frame in frames:
        writes: list[tuple[int, int, bytes | int]] = []
        for disk, sector, sectors, fill, discard in frame:
            start = sector % (SIZES[disk] // SECTOR)
            length = min(sectors, SIZES[disk] // SECTOR - start)
            writes.append((disk, start, length if discard else bytes([fill]) * length * SECTOR))
        maker.writes(writes)
    reader = JournalReader(maker.folder)
    for lsn, model in maker.history.items():
        point = find(reader, parse(f"lsn:{lsn}"))
        for number, name in enumerate(("vda", "vdb")):
            view = View(reader, point, name)
            assert view.disk_bytes == SIZES[number]
            assert view.read(0, view.disk_bytes) == model[number]
            assert b"".join(view.pieces(513, 5000)) == model[number][513:5513]
            holes = [(start, size) for start, size, data in view.extents(0, view.disk_bytes) if not data]
            assert not any(any(model[number][start : start + size]) for start, size in holes)


def test_an_unknown_disk_is_answered_with_the_nearest(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "j", disks=[("vda", MIB), ("vdb", MIB)])
    maker.synced()
    reader = JournalReader(maker.folder)
    with pytest.raises(DiskNotFound) as caught:
        View(reader, find(reader, parse("latest")), "vdc")
    assert "vda" in caught.value.hint


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 4]))


def test_a_flipped_bit_is_an_error_where_it_matters_and_no_image_is_left(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "j")
    maker.synced()
    maker.write(80, block(2))
    frame = maker.write(160, block(3))
    lsn = maker.next_lsn - 1
    flip(maker.segment, frame + BLOCK + 100)
    reader = JournalReader(maker.folder)
    view = View(reader, find(reader, parse("latest")), "vda")
    assert view.read(80 * SECTOR, BLOCK) == block(2)
    with pytest.raises(FrameError, match=f"LSNs {lsn} to {lsn}"):
        view.read(160 * SECTOR, 1)
    for name in ("a.raw", "a.qcow2"):
        with pytest.raises(FrameError):
            write_image(view, tmp_path / name)
        assert not (tmp_path / name).exists()
    earlier = View(reader, find(reader, parse(f"lsn:{lsn - 1}")), "vda")
    write_image(earlier, tmp_path / "earlier.raw")
    assert (tmp_path / "earlier.raw").read_bytes()[160 * SECTOR :][:BLOCK] == bytes(BLOCK)


def test_a_file_system_that_went_through_a_journal_is_whole(tmp_path: Path) -> None:
    size = 48 * MIB
    tree = tmp_path / "tree"
    for number in range(40):
        path = tree / f"folder{number % 5}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(number * 3000))
    image = tmp_path / "fs.img"
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run([tool("mkfs.ext4"), "-q", "-F", "-d", tree, image], check=True, timeout=30)
    first = image.read_bytes()

    maker = JournalMaker(tmp_path / "j", disks=[("vda", size)], keep_model=False)
    maker.synced([first])
    synced = maker.next_lsn - 1
    subprocess.run(
        [tool("debugfs"), "-w", "-R", f"write {tree}/folder1/file31 second", image],
        check=True,
        timeout=30,
        capture_output=True,
    )
    second = image.read_bytes()
    ranges = [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]
    changed = [number for number, where in enumerate(ranges) if first[where] != second[where]]
    random.Random(1).shuffle(changed)
    assert len(changed) > 20
    for begin in range(0, len(changed), 7):
        numbers = changed[begin : begin + 7]
        maker.writes([(0, n * 8, second[n * BLOCK : (n + 1) * BLOCK]) for n in numbers])

    reader = JournalReader(maker.folder)
    for text, name, expected in ((f"lsn:{synced}", "first", first), ("latest", "second", second)):
        view = View(reader, find(reader, parse(text)), "vda")
        write_image(view, tmp_path / f"{name}.qcow2")
        raw = tmp_path / f"{name}.raw"
        subprocess.run(
            [tool("qemu-img"), "convert", "-O", "raw", tmp_path / f"{name}.qcow2", raw],
            check=True,
            timeout=30,
        )
        assert raw.read_bytes() == expected
        subprocess.run([tool("fsck.ext4"), "-fn", raw], check=True, timeout=30, capture_output=True)
    show = [tool("debugfs"), "-R", "cat second", str(tmp_path / "second.raw")]
    found = subprocess.run(show, check=True, timeout=30, capture_output=True).stdout
    assert found == (tree / "folder1/file31").read_bytes()


def test_the_first_byte_of_a_journal_of_200k_records_comes_soon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = 4 << 18  # 4 GiB
    maker = JournalMaker(tmp_path / "j", disks=[("vda", blocks * BLOCK)], keep_model=False)
    maker.synced([block(1)])
    choice = random.Random(1)
    data = block(7)
    for _ in range(100):  # one record in ten carries data, which the size of the journal is bound by
        places = [choice.randrange(1, blocks) * 8 for _ in range(2000)]
        maker.writes([(0, place, 8 if number % 10 else data) for number, place in enumerate(places)])
    began = time.perf_counter()
    reader = JournalReader(maker.folder)
    view = View(reader, find(reader, parse("latest")), "vda")
    first = view.read(0, 1)
    seconds = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n200k records, no index: first byte after {seconds:.2f} s")
    assert first == b"\x01"
    assert seconds < 20


def test_a_disk_of_an_old_point_is_that_points_own(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "j", disks=[("vda", MIB), ("vdb", MIB)])
    maker.synced([b"a" * MIB, b"b" * MIB])
    old = maker.next_lsn - 1
    maker.note("gap", reason="unprotected")
    maker.disks = [("vdb", MIB)]  # by whatever fault, disk 0 of this epoch is another one
    maker.begin("full")
    maker.writes([(0, 0, b"c" * MIB)], SYNC)
    maker.cut("sync-end")
    reader = JournalReader(maker.folder)
    point = find(reader, parse(f"lsn:{old}"))
    assert [disk.name for disk in disks_at(reader, point)] == ["vda", "vdb"]
    for name in ("vda", "vdb"):
        assert View(reader, point, name).read(0, MIB) == name[-1:].encode() * MIB
    latest = find(reader, parse("latest"))
    assert View(reader, latest, "vdb").read(0, MIB) == b"c" * MIB
    with pytest.raises(DiskNotFound):
        View(reader, latest, "vda")
