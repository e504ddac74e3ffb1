"""Where a rescue writes: names that do not collide, and hints that say what really stands in the way."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from journal.offline.rescue import RescueNotWritten, rescue
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_check import make
from tests.journal.test_damage import DISK


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pool/a/root", "pool/b/root", "data"], ["data.raw", "root.0.raw", "root.1.raw"]),
        (["a/x", "b/x", "x.1"], ["x.0.raw", "x.1.1.raw", "x.1.2.raw"]),
    ],
)
def test_disks_whose_names_end_alike_get_images_of_their_own(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, dict.fromkeys(range(len(names)), DISK))
        disks = [
            {"disk": number, "name": name, "bytes": DISK, "serial": None} for number, name in enumerate(names)
        ]
        tap.notes(tap.epoch_note(1, "full", disks=disks), epoch=1)
        for number in range(len(names)):
            tap.write(number, 0, bytes([number + 65]) * DISK, 2)
        tap.cut("sync-end")
    report = rescue(tmp_path / "j", "latest", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert [disk.path.read_bytes()[:1] for disk in report.disks] == [b"A", b"B", b"C"][: len(names)]


def test_a_missing_folder_is_told_as_that_and_not_as_no_room(tmp_path: Path) -> None:
    make(tmp_path / "j")
    with pytest.raises(RescueNotWritten) as refusal:
        rescue(tmp_path / "j", "latest", tmp_path / "missing/out.raw")
    assert "Make the folder" in refusal.value.hint and "room" not in refusal.value.hint


def test_a_limit_of_file_sizes_is_told_as_that_and_not_as_no_room(tmp_path: Path) -> None:
    make(tmp_path / "j")
    code = """
import resource, signal, sys
from pathlib import Path
from journal.offline.rescue import RescueNotWritten, rescue
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    rescue(sys.argv[1], "latest", Path(sys.argv[2]))
except RescueNotWritten as error:
    print(error.hint)
"""
    line = [sys.executable, "-c", code, str(tmp_path / "j"), str(tmp_path / "out.raw")]
    told = subprocess.run(line, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "cannot be as large as the disk" in told and not (tmp_path / "out.raw").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
