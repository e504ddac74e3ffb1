"""What has the name of meta.log, of a segment or of a cache and is no file: named at once, never waited for."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from journal import layout, metalog
from journal.errors import DamagedJournal
from journal.offline.check import check
from journal.offline.checkstate import StateNotAFile
from journal.offline.info import info
from journal.offline.reindex import reindex
from journal.offline.rescue import rescue
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests import needs
from tests.journal.test_check import files, make

BOUND_S = 30


def bind(path: Path) -> None:
    """A socket; its name may be longer than an address can be."""
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def device(path: Path) -> None:
    """What /dev/zero is: it never ends."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        needs.missing("devices can be made by root only")


WAYS: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a socket": bind,
    "a device": device,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
}
way = pytest.mark.parametrize("place", WAYS.values(), ids=WAYS.keys())
real = pytest.mark.parametrize("place", list(WAYS.values())[:4], ids=list(WAYS)[:4])

_COMMANDS = """
import sys
from plugins.cli.main import run
folder, out = sys.argv[1:]
print(*[run(["journal", *words]) for words in (["info", folder], ["check", folder], ["reindex", folder],
    ["rescue", folder, "latest", out], ["diff", folder, "1", "latest"])], file=sys.stderr)
"""


def commands(folder: Path) -> tuple[list[int], str]:
    """The statuses of all commands and what they said; one that waits fails the test, not the run."""
    line = [sys.executable, "-c", _COMMANDS, str(folder), str(folder.parent / "out.raw")]
    environment = os.environ | {"XDG_STATE_HOME": str(folder.parent / "state")}
    done = subprocess.run(line, capture_output=True, text=True, timeout=BOUND_S, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(word) for word in done.stderr.splitlines()[-1].split()], done.stderr


@real
def test_a_metadata_log_that_is_no_file_is_refused_by_every_command(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    make(tmp_path / "j")
    (tmp_path / "j/meta.log").unlink()
    place(tmp_path / "j/meta.log")
    statuses, said = commands(tmp_path / "j")
    assert statuses == [5] * 5 and said.count("meta.log is damaged: it is no regular file") == 5
    assert "Move it away" in said and not (tmp_path / "out.raw").exists()


@real
def test_a_writer_refuses_a_metadata_log_that_is_no_file(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    make(tmp_path / "j")
    (tmp_path / "j/meta.log").unlink()
    place(tmp_path / "j/meta.log")
    before = os.lstat(tmp_path / "j/meta.log")
    with pytest.raises(Exception, match=r"meta\.log") as refused:
        JournalWriter.open(tmp_path / "j")
    assert getattr(refused.value, "code", "") in ("damaged-journal", "journal-write-failed")
    assert os.lstat(tmp_path / "j/meta.log").st_mode == before.st_mode
    with pytest.raises(DamagedJournal):
        metalog.read(tmp_path / "j/meta.log")


def test_after_moving_it_away_the_rescue_works(tmp_path: Path) -> None:
    last = make(tmp_path / "j")
    (tmp_path / "j/meta.log").unlink()
    assert rescue(tmp_path / "j", "latest", tmp_path / "out.raw").lsn == last


@way
def test_a_segment_and_an_identity_that_are_no_files_are_damage(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    last = make(tmp_path / "j")
    (tmp_path / "j/JOURNAL").unlink()
    place(tmp_path / "j/JOURNAL")
    strange = tmp_path / "j/timelines/0001/00000000000000009000.seg"
    place(strange)
    assert any(bad["path"] == str(strange) for bad in info(tmp_path / "j")["damage"])
    found = {bad.path for bad in check(tmp_path / "j").damaged}
    assert {strange, tmp_path / "j" / layout.IDENTITY} <= found
    assert rescue(tmp_path / "j", "latest", tmp_path / "out.raw").lsn == last


@real
@pytest.mark.parametrize("linked", [False, True])
def test_a_check_does_not_put_its_state_in_the_place_of_what_is_no_file(
    tmp_path: Path, place: Callable[[Path], None], linked: bool
) -> None:
    make(tmp_path / "j")
    place(tmp_path / "strange")
    state = tmp_path / "strange"
    if linked:
        state = tmp_path / "link"
        state.symlink_to("strange")
    before = os.lstat(state)
    for restart in (False, True):
        with pytest.raises(StateNotAFile, match="no regular file"):
            check(tmp_path / "j", state=state, restart=restart)
    assert os.lstat(state) == before


def test_reindex_leaves_a_folder_with_the_name_of_an_index_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "j")
    first, second = files(tmp_path / "j")[:2]
    in_the_way, other = first.with_suffix(".idx"), first.with_name("x.idx")
    for folder in (in_the_way, other):
        folder.mkdir()
        (folder / "mine").write_text("kept")
    report = reindex(tmp_path / "j")
    assert sorted(report.folders) == sorted([in_the_way, other]) and report.left == [first]
    assert (in_the_way / "mine").read_text() == (other / "mine").read_text() == "kept"
    assert second.with_suffix(".idx").is_file() and report.indexes == len(files(tmp_path / "j")) - 2
    assert check(tmp_path / "j").ok


def test_reindex_leaves_a_folder_with_the_name_of_a_map_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "j", segments=20)
    assert reindex(tmp_path / "j").maps > 0
    written = sorted((tmp_path / "j/timelines/0001").glob("*.map"))
    written[0].unlink()
    written[0].mkdir()
    report = reindex(tmp_path / "j")
    assert report.folders == [written[0]] and report.maps == 0 and report.indexes > 0
    assert written[0].is_dir() and JournalReader(tmp_path / "j").latest() is not None
