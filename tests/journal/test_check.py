"""`check` names every kind of damage, goes on where it was interrupted, and writes nothing into the journal."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journal import layout, metalog
from journal.errors import NotAJournal
from journal.history import Damage
from journal.offline.check import CheckReport, check, default_state
from journal.offline.info import info
from journal.offline.rescue import rescue
from journal.scan import SegmentScan
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_damage import DISK, flip

Break = Callable[[Path], object]


def make(folder: Path, segments: int = 4) -> int:
    """A journal of several segments, with a bookmark and a fork; returns the last LSN."""
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        while len(files(folder)) < segments:
            tap.write(0, 0, os.urandom(4096))
        tap.write(0, 0, b"l" * 4096)
        tap.cut()
        writer.commit()
        writer.bookmark(writer.next_lsn - 1, "newest")
        writer.fork(2, "drill")
        return writer.next_lsn - 1


def files(folder: Path) -> list[Path]:
    return sorted((folder / "timelines/0001").glob("*.seg"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    make(tmp_path / "j")
    assert check(tmp_path / "j").ok and not check(tmp_path / "j").remarks
    return tmp_path / "j"


def cut_off(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def grow(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def frames(path: Path) -> list[tuple[int, int]]:
    """(offset, end) of the frames with data of a segment."""
    scan = SegmentScan(path, int(path.stem))
    scan.extend()
    rows = scan.frames.array()
    return [(int(r["offset"]), int(r["data"] + r["data_bytes"])) for r in rows if r["data_bytes"]]


def some_head(path: Path) -> int:
    return frames(path)[0][0]


def some_data(path: Path) -> int:
    return frames(path)[0][1] - 1


DAMAGE: dict[str, tuple[Break, str, str]] = {
    "a bit of the data": (
        lambda j: flip(files(j)[1], some_data(files(j)[1])),
        "the data does not match",
        ".seg",
    ),
    "a bit of a head": (
        lambda j: flip(files(j)[1], some_head(files(j)[1]) + 20),
        "does not match its checksum",
        ".seg",
    ),
    "a frame's magic": (lambda j: flip(files(j)[1], some_head(files(j)[1])), "no frame begins here", ".seg"),
    "a segment's header": (lambda j: flip(files(j)[1], 20), "the segment's header is damaged", ".seg"),
    "after a header": (lambda j: flip(files(j)[1], 3000), "after the header were altered", ".seg"),
    "a footer": (
        lambda j: flip(files(j)[1], files(j)[1].stat().st_size - 4090),
        "no frame begins here",
        ".seg",
    ),
    "after a footer": (
        lambda j: flip(files(j)[1], files(j)[1].stat().st_size - 5),
        "after the footer were",
        ".seg",
    ),
    "a record of the log": (lambda j: flip(j / "meta.log", 30), "the metadata log is damaged", "meta.log"),
    "the log's last record": (
        lambda j: flip(j / "meta.log", (j / "meta.log").stat().st_size - 12),
        "the last record of the metadata log does not match",
        "meta.log",
    ),
    "a lost segment": (lambda j: files(j)[1].unlink(), "the segment before this one is missing", ".seg"),
    "the newest segment lost": (lambda j: files(j)[-1].unlink(), "the newest files are gone", "meta.log"),
    "the first segment lost": (
        lambda j: files(j)[0].unlink(),
        "the segment before this one is missing",
        ".seg",
    ),
    "a segment cut off": (lambda j: cut_off(files(j)[1], 9000), "is torn", ".seg"),
    "a footer cut off": (lambda j: cut_off(files(j)[1], 4096), "the segment has no footer", ".seg"),
    "a segment of another journal": (
        lambda j: shutil.copy(files(j.parent / "other")[0], files(j)[1]),
        "names another journal",
        ".seg",
    ),
    "no JOURNAL": (lambda j: (j / "JOURNAL").unlink(), "the file JOURNAL is missing", "JOURNAL"),
    "JOURNAL is no JSON": (lambda j: (j / "JOURNAL").write_text("{"), "is damaged", "JOURNAL"),
    "no meta.log": (lambda j: (j / "meta.log").unlink(), "the metadata log is missing", "meta.log"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_every_kind_of_damage_is_named(tmp_path: Path, journal: Path, what: str) -> None:
    if "another" in what:
        make(tmp_path / "other")
    hurt, reason, place = DAMAGE[what]
    hurt(journal)
    report = check(journal)
    found = [bad for bad in report.damaged if reason in bad.reason]
    assert found and all(str(bad.path).endswith(place) for bad in found), report.damaged
    assert not report.ok
    shown = info(journal)  # which reads no data, but never fails on damage either
    assert shown["timelines"]


def test_padding_of_the_log_is_looked_at(journal: Path) -> None:
    data = (journal / "meta.log").read_bytes()
    records = metalog.read(journal / "meta.log").records
    place = 0
    for meta in records:
        raw = metalog.encode(meta)
        place += len(raw)
        if data[place - 1] == 0 and raw[-1] == 0 and (16 + int.from_bytes(raw[4:8], "little")) % 8:
            flip(journal / "meta.log", place - 1)
            break
    else:
        pytest.fail("no record of this log has padding")
    assert any("were altered" in bad.reason for bad in check(journal).damaged)


def test_a_record_of_the_log_that_makes_no_sense_is_damage_of_it(journal: Path) -> None:
    for meta in ({"meta": "thinned"}, {"meta": "bookmark", "timeline": 1, "lsn": "many", "name": "x"}):
        grow(journal / "meta.log", metalog.encode(meta))
    report = check(journal)
    assert ["metadata log is damaged" in bad.reason for bad in report.damaged] == [True, True]
    assert rescue(journal, "latest", journal.parent / "x.raw").exact


def test_a_segment_that_was_put_back_from_an_older_copy_breaks_the_chain(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        tap.write(0, 0, b"1" * 4096)
        writer.commit()
        older = shutil.copytree(folder, tmp_path / "older")
        tap.write(0, 0, b"2" * DISK)
        tap.write(0, 0, b"3" * DISK)
    with JournalWriter.open(older, segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.mono = 10**9
        tap.write(0, 0, b"x" * DISK)  # same LSN, other data: whole and correct in itself
        tap.write(0, 0, b"y" * DISK)
    assert check(older).ok and check(folder).ok
    shutil.copy(files(older)[1], files(folder)[1])
    report = check(folder)
    assert any("does not follow the one before" in bad.reason for bad in report.damaged)


def test_a_torn_tail_is_no_damage_and_said(journal: Path) -> None:
    cut_off(files(journal)[-1], 3000)
    grow(journal / "meta.log", b"LWM1\x99")
    report = check(journal)
    assert report.torn_bytes > 0
    assert any("never acknowledged" in remark for remark in report.remarks)
    assert any("meta.log are no whole record" in remark for remark in report.remarks)


def test_left_overs_of_a_crash_are_told_and_no_damage(journal: Path) -> None:
    (journal / "timelines/0007").mkdir()  # a fork that crashed before it was logged
    (journal / "timelines/0001/00000000000000000099.seg.new").write_bytes(b"half")
    assert check(journal).ok


def test_a_folder_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotAJournal):
            check(folder)


# -- resuming ---------------------------------------------------------------------------------------------


class Interrupt:
    """A progress that presses Ctrl-C after so many finished bytes."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        if done >= self.after:
            raise KeyboardInterrupt


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_an_interrupted_check_goes_on_where_it_stopped(tmp_path: Path, journal: Path) -> None:
    state = tmp_path / "state" / "here.json"
    first = files(journal)[0].stat().st_size
    flip(files(journal)[0], some_data(files(journal)[0]))
    with pytest.raises(KeyboardInterrupt):
        check(journal, Interrupt(first + 8192), state=state)
    assert state.exists()
    seen: list[tuple[int, int]] = []
    report = check(journal, lambda *at: seen.append(at), state=state)
    # Sealed files have a footer that is no data; of the second one some frames were read.
    assert report.resumed_bytes == seen[0][0]
    assert first - 4096 < report.resumed_bytes < first - 4096 + files(journal)[1].stat().st_size - 4096
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == report.bytes
    assert [bad.reason for bad in report.damaged] == ["the data does not match its checksum"]
    assert not state.exists()
    assert check(journal, state=state).resumed_bytes == 0


def test_a_file_that_changed_since_is_read_again_and_restart_reads_all(tmp_path: Path, journal: Path) -> None:
    state = tmp_path / "here.json"
    size = [path.stat().st_size - 4096 for path in files(journal)]
    with pytest.raises(KeyboardInterrupt):
        check(journal, Interrupt(size[0] + size[1] + 1), state=state)
    kept = state.read_bytes()
    flip(files(journal)[1], some_data(files(journal)[1]))
    report = check(journal, state=state)
    assert size[0] <= report.resumed_bytes < size[0] + size[1] and len(report.damaged) == 1
    state.write_bytes(kept)
    assert check(journal, state=state, restart=True).resumed_bytes == 0
    for garbage in (b"{", b"[]", b'{"version": 1}', kept.replace(b'"bad": []', b'"bad": [{"x": 1}]')):
        state.write_bytes(garbage)
        report = check(journal, state=state)
        assert report.resumed_bytes == 0 and len(report.damaged) == 1


def test_the_state_of_one_journal_is_not_another_s(tmp_path: Path, journal: Path) -> None:
    state = tmp_path / "here.json"
    with pytest.raises(KeyboardInterrupt):
        check(journal, Interrupt(bytes_of(journal) // 2), state=state)
    make(tmp_path / "other")
    assert check(tmp_path / "other", state=state).resumed_bytes == 0


def test_the_state_lies_in_the_user_s_state_directory(
    tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    with pytest.raises(KeyboardInterrupt):
        check(journal, Interrupt(bytes_of(journal) // 2), keep_state=True)
    report = check(journal, keep_state=True)
    assert report.resumed_bytes > 0
    assert default_state(report.journal).parent == tmp_path / "xdg/lastwrite"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state("x") == tmp_path / ".local/state/lastwrite/check-x.json"


def test_a_state_that_cannot_be_kept_is_said_and_the_check_is_made(tmp_path: Path, journal: Path) -> None:
    (tmp_path / "file").write_text("")
    report = check(journal, state=tmp_path / "file" / "state.json")
    assert report.ok and any("cannot be resumed" in remark for remark in report.remarks)


# -- read only --------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path, journal: Path) -> Iterator[Path]:
    """The journal on a read-only mount: root is not stopped by modes."""
    if os.geteuid():
        for path in [*journal.rglob("*"), journal]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield journal
        for path in [journal, *journal.rglob("*")]:
            path.chmod(0o755)
        return
    mount = tmp_path / "mounted"
    mount.mkdir()
    subprocess.run(["mount", "--bind", journal, mount], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def test_check_info_and_rescue_work_on_a_read_only_mount(tmp_path: Path, read_only: Path) -> None:
    with pytest.raises(OSError):
        (read_only / "x").write_text("x")
    assert check(read_only, state=tmp_path / "state.json").ok
    shown = info(read_only)
    assert (shown["name"], shown["damage"]) == ("web01", [])
    report = rescue(read_only, "latest", tmp_path / "x.raw")
    assert report.exact and report.disks[0].path.stat().st_size == DISK


def test_retention_that_replaces_files_meanwhile_is_no_damage(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is gone when its turn comes, and another in its place: the check looks again."""
    gone = files(journal)[2]
    kept = gone.read_bytes()
    turns = iter(range(100))

    def progress(done: int, total: int) -> None:
        turn = next(turns, 100)
        if turn == 0:
            gone.unlink()
        elif turn == 12 and not gone.exists():
            gone.write_bytes(kept)

    real = layout.files

    def put_back(folder: Path, timeline: int) -> list[layout.StoredFile]:
        gone.write_bytes(kept)
        return real(folder, timeline)

    monkeypatch.setattr(layout, "files", put_back)
    assert check(journal, progress).ok


def test_what_is_found_is_in_order(journal: Path) -> None:
    for path in files(journal)[:3]:
        flip(path, some_data(path))
    report: CheckReport = check(journal)
    found: list[Damage] = report.damaged
    assert [bad.first_lsn for bad in found] == sorted(bad.first_lsn for bad in found) and len(found) == 3
