"""kill -9 at any moment, readers beside a writer, and a file system that is really full."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.errors import JournalFull
from journal.offline.check import check
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.needs import missing

DISK = 8 * 4096
ROOT = Path(__file__).parents[2]

APPENDING = """
import random, sys
from pathlib import Path
from journal.writer import JournalWriter
from tests.journal.tap import Tap
writer = JournalWriter.open(Path(sys.argv[1]), segment_bytes=200_000)
tap = Tap(writer, {0: 32768})
choices = random.Random(int(sys.argv[2]))
if not writer.epoch:
    tap.protect()
while True:
    for _ in range(choices.randint(1, 4)):
        lsn = writer.next_lsn
        tap.write(0, lsn % 8 * 8, lsn.to_bytes(8, "little") * 512)
    tap.cut()
    print(writer.commit()[0] - 1, flush=True)
"""


def at(lsn: int) -> bytes:
    """The disk after `lsn`: each record wrote its own number over one block in turn; the sync came first."""
    blocks = [b"\1" * 4096] * 8
    for number in range(max(2, lsn - 7), lsn + 1):
        blocks[number % 8] = number.to_bytes(8, "little") * 512
    return b"".join(blocks)


@pytest.mark.parametrize("seed", range(2))
def test_after_kill_9_every_acknowledged_record_is_there(tmp_path: Path, seed: int) -> None:
    folder, choices = tmp_path / "j", random.Random(seed)
    JournalWriter.create(folder, "web01").close()
    for _ in range(4):
        argv = [sys.executable, "-c", APPENDING, str(folder), str(choices.randrange(1000))]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout
            acknowledged = int(process.stdout.readline())
            time.sleep(choices.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines()
            acknowledged = int(rest[-1]) if rest and rest[-1].isdigit() else acknowledged
        reader = JournalReader(folder)
        assert reader.last_lsn() >= acknowledged and not reader.damage()
        for lsn in [*choices.sample(range(1, acknowledged + 1), min(acknowledged, 15)), acknowledged]:
            assert reader.resolve(lsn, 0).read(0, DISK) == at(lsn)
        with JournalWriter.open(folder) as writer:
            assert writer.next_lsn > acknowledged and writer.epoch_open and writer.valid
    assert check(folder).ok


def test_the_lock_of_a_killed_writer_does_not_stay(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    JournalWriter.create(folder, "web01").close()
    argv = [sys.executable, "-c", APPENDING, str(folder), "1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline()
        with pytest.raises(Exception, match=f"process {process.pid} holds"):
            JournalWriter.open(folder)
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    JournalWriter.open(folder).close()


def test_readers_beside_a_writer_see_whole_states_only(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    JournalWriter.create(folder, "web01").close()
    argv = [sys.executable, "-c", APPENDING, str(folder), "1"]
    failures: list[str] = []

    def read(reader: JournalReader, end: float) -> None:
        try:
            while time.monotonic() < end:
                lsn = reader.latest()
                if lsn is not None and reader.resolve(lsn, 0).read(0, DISK) != at(lsn):
                    failures.append(f"LSN {lsn} is wrong")
        except Exception as error:
            failures.append(repr(error))

    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        reader = JournalReader(folder)
        end = time.monotonic() + 2
        threads = [threading.Thread(target=read, args=(reader, end)) for _ in range(2)]
        for thread in threads:
            thread.start()
        last, refreshed = 0, 0
        while time.monotonic() < end:
            reader.refresh()
            assert reader.last_lsn() >= last and not reader.damage()
            last, refreshed = reader.last_lsn(), refreshed + 1
        for thread in threads:
            thread.join()
        process.kill()
        process.stdout.read()
    assert not failures
    assert last > 50 and refreshed > 20
    assert len(reader.scans(1)) > 1


def test_a_frame_that_was_taken_back_is_not_read_as_the_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        writer.commit()
        tap.cut("bookmark", "taken back")
        tap.write(0, 0, b"x" * 4096)
        reader = JournalReader(folder)
        early = reader.resolve(2, 0)
        assert len(reader.cuts()) == 2
        assert early.read(0, 1) == b"x"
        real = os.fdatasync

        def fail(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(JournalFull):
            writer.commit()
        monkeypatch.setattr(os, "fdatasync", real)
        with pytest.raises(Exception, match="took it back"):
            early.read(0, 1)
        tap.write(0, 0, b"y" * 4096)
        with pytest.raises(Exception, match="took it back"):
            early.read(0, 1)
        reader.refresh()
        assert reader.resolve(2, 0).read(0, 1) == b"y"
        assert [cut.label for cut in reader.cuts()] == [None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 file system of 8 MiB."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        missing("root, mkfs.ext4 and loop devices are needed to fill a small file system")
    image, folder = tmp_path / "disk.img", tmp_path / "mounted"
    with open(image, "wb") as file:
        file.truncate(8 << 20)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image], check=True, timeout=30)
    mounted = subprocess.run(
        ["mount", "-o", "loop", image, folder], capture_output=True, timeout=30, check=False
    )
    if mounted.returncode:
        missing(f"mount refuses a loop device: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=30)


@pytest.mark.kernel
@pytest.mark.parametrize("segment_bytes", [1 << 30, 1 << 20])
def test_a_full_file_system_stops_ingest_breaks_nothing_and_lets_it_go_on(
    small_disk: Path, segment_bytes: int
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    folder = small_disk / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=segment_bytes) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        acknowledged = writer.commit()[0] - 1

        def fill() -> None:
            nonlocal acknowledged
            for _ in range(10_000):
                lsn = writer.next_lsn
                tap.write(0, lsn % 8 * 8, lsn.to_bytes(8, "little") * 512)
                acknowledged = writer.commit()[0] - 1

        with pytest.raises(JournalFull):
            fill()
        full = acknowledged
        for _ in range(3):
            with pytest.raises(JournalFull):
                fill()
        reader = JournalReader(folder)
        assert reader.last_lsn() == acknowledged == full > 100
        assert reader.resolve(full, 0).read(0, DISK) == at(full) and check(folder).ok
        ballast.unlink()
        os.sync()
        with pytest.raises(JournalFull):
            fill()
        assert acknowledged > full + 100
    report = check(folder)
    assert report.ok and report.records == acknowledged and not report.torn_bytes
    reader = JournalReader(folder)
    for lsn in (1, full, full + 1, acknowledged):
        assert reader.resolve(lsn, 0).read(0, DISK) == at(lsn)
    with pytest.raises(JournalFull), JournalWriter.open(folder) as writer:
        assert writer.next_lsn == acknowledged + 1 and writer.epoch_open
        tap = Tap(writer, {0: DISK})
        while True:
            tap.write(0, 0, bytes(DISK))
    assert json.loads((folder / "JOURNAL").read_text())["vm"] == "web01"
