"""What lies in a journal's folder and is no journal: pipes, folders, links to nothing, files changed under a reader."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from journal import layout
from journal.errors import DamagedJournal, TooManyOpenFiles
from journal.frame import FrameError
from journal.index.make import write_index
from journal.offline.check import check
from journal.offline.info import info
from journal.offline.rescue import rescue
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_check import files, make
from tests.journal.test_damage import DISK

BOUND_S = 30
WAYS: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("/nonexistent/segment"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
way = pytest.mark.parametrize("place", WAYS.values(), ids=WAYS.keys())


def bounded(code: str, *words: object) -> str:
    """Run Python on its own: what hangs or is killed by a signal fails the test, not the run."""
    line = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout.strip()


_LOOK = """
import sys
from pathlib import Path
from journal.offline.check import check
from journal.offline.info import info
from journal.offline.rescue import rescue
folder = Path(sys.argv[1])
info(folder)
report = check(folder)
rescue(folder, "latest", Path(sys.argv[2]))
print(report.ok, any(sys.argv[3] in str(bad.path) and "no regular file" in bad.reason for bad in report.damaged))
"""


def test_a_pipe_named_like_a_segment_keeps_nobody_waiting(tmp_path: Path) -> None:
    make(tmp_path / "j")
    pipe = tmp_path / "j/timelines/0001/00000000000000009000.seg"
    os.mkfifo(pipe)
    assert bounded(_LOOK, tmp_path / "j", tmp_path / "out.raw", pipe.name) == "False True"


def test_a_pipe_named_like_an_index_keeps_nobody_waiting(tmp_path: Path) -> None:
    make(tmp_path / "j")
    os.mkfifo(files(tmp_path / "j")[0].with_suffix(".idx"))
    os.mkfifo(tmp_path / f"j/timelines/0001/{1:020d}-{5:020d}.map")
    assert bounded(_LOOK, tmp_path / "j", tmp_path / "out.raw", "-") == "True False"


@way
def test_what_is_no_file_is_named_as_damage_and_the_rest_is_served(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    last = make(tmp_path / "j")
    strange = tmp_path / "j/timelines/0001/00000000000000009000.seg"
    place(strange)
    assert any(bad["path"] == str(strange) for bad in info(tmp_path / "j")["damage"])
    assert any(
        bad.path == strange and "cannot be read" in bad.reason for bad in check(tmp_path / "j").damaged
    )
    assert rescue(tmp_path / "j", "latest", tmp_path / "out.raw").lsn == last
    reader = JournalReader(tmp_path / "j")
    reader.refresh()
    assert reader.latest() == last


@way
def test_a_writer_leaves_what_is_no_file_as_it_is_and_goes_on(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    strange = layout.segment_path(tmp_path / "j", 1, make(tmp_path / "j") + 1)
    place(strange)
    before = os.lstat(strange)
    with JournalWriter.open(tmp_path / "j") as writer:
        assert writer.next_lsn > int(strange.stem)
        tap = Tap(writer, {0: DISK})
        tap.protect()
        newest = writer.next_lsn - 1
    assert (os.lstat(strange).st_ino, os.lstat(strange).st_mode) == (before.st_ino, before.st_mode)
    assert JournalReader(tmp_path / "j").latest() == newest


@way
def test_an_index_that_is_no_file_is_as_if_it_were_not_there(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    make(tmp_path / "j")
    place(files(tmp_path / "j")[0].with_suffix(".idx"))
    expected = JournalReader(tmp_path / "j", cached=False).latest()
    assert JournalReader(tmp_path / "j").latest() == expected
    assert check(tmp_path / "j").ok


def test_an_identity_that_is_no_file_or_nested_without_end_is_damage(tmp_path: Path) -> None:
    make(tmp_path / "j")
    identity = tmp_path / "j" / layout.IDENTITY
    identity.write_text("[" * 100_000)
    with pytest.raises(DamagedJournal, match="JOURNAL is damaged"):
        layout.read_identity(tmp_path / "j")
    assert info(tmp_path / "j")["lost"]
    identity.unlink()
    identity.mkdir()
    with pytest.raises(DamagedJournal, match="no regular file"):
        layout.read_identity(tmp_path / "j")


_CUT_SHORT = """
import os, sys
from journal.errors import DamagedJournal
from journal.frame import FrameError
from journal.reader import JournalReader
reader = JournalReader(sys.argv[1])
blocks = reader.resolve(reader.latest(), 0)
whole = blocks.read(0, blocks.disk_bytes)
kept = [(path, open(path, "rb").read()) for path in sys.argv[2:]]
for path, _ in kept:
    os.truncate(path, 4096)
try:
    blocks.read(0, blocks.disk_bytes)
    print("served")
except (FrameError, DamagedJournal) as error:
    print(type(error).__name__)
for path, data in kept:
    with open(path, "r+b") as file:
        file.write(data)
print(blocks.read(0, blocks.disk_bytes) == whole)
"""


def test_a_segment_that_is_copied_over_in_place_under_a_view_ends_no_process(tmp_path: Path) -> None:
    make(tmp_path / "j")
    assert bounded(_CUT_SHORT, tmp_path / "j", *files(tmp_path / "j")[:-1]).split() == ["FrameError", "True"]


def test_data_that_was_compared_is_compared_again_when_the_file_has_changed(tmp_path: Path) -> None:
    make(tmp_path / "j")
    reader = JournalReader(tmp_path / "j")
    data = next(source.data for source in reader.lineage().sources if source.data.scan.sealed)
    frames = data.scan.frames.array()
    row = frames[frames["data_bytes"] > 0][0]
    place = int(row["data"])
    good = bytes(data.read(place, 512))
    with open(data.scan.path, "r+b") as file:
        file.seek(place)
        file.write(bytes(byte ^ 1 for byte in good))
    with pytest.raises(FrameError, match="checksum"):
        data.read(place, 512)
    with open(data.scan.path, "r+b") as file:
        file.seek(place)
        file.write(good)
    assert data.read(place, 512) == good


def test_too_few_open_files_are_told_as_that_and_not_as_damage(tmp_path: Path) -> None:
    make(tmp_path / "j", segments=40)
    out = bounded(
        """
import resource, sys
from pathlib import Path
from journal.offline.rescue import rescue
from lastwrite.errors import LastwriteError
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
try:
    rescue(sys.argv[1], "latest", Path(sys.argv[2]))
except LastwriteError as error:
    print(error.code, "ulimit -n" in error.hint)
""",
        tmp_path / "j",
        tmp_path / "out.raw",
    )
    assert out == "too-many-open-files True"
    assert TooManyOpenFiles.exit_code == 4 and not (tmp_path / "out.raw").exists()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 24


def test_an_interrupted_check_says_nothing_about_a_copy_of_the_journal(tmp_path: Path) -> None:
    make(tmp_path / "j")
    state = tmp_path / "state.json"

    def stop(done: int, total: int) -> None:
        if done > total * 2 // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(tmp_path / "j", stop, state=state)
    shutil.copytree(tmp_path / "j", tmp_path / "copy")
    path = files(tmp_path / "copy")[0]
    times = path.stat()
    frames = JournalReader(tmp_path / "copy").scans(1)[0].frames.array()
    with open(path, "r+b") as file:
        file.seek(int(frames[frames["data_bytes"] > 0][0]["data"]))
        file.write(b"\0\1" * 256)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    kept = state.read_bytes()
    report = check(tmp_path / "copy", state=state)
    assert not report.ok and report.resumed_bytes == 0
    state.write_bytes(kept)
    report = check(tmp_path / "j", state=state)
    assert report.ok and report.resumed_bytes > 0


def test_an_index_of_a_folder_is_not_made_of_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "00000000000000000001.seg"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no regular file"):
        write_index(pipe)
