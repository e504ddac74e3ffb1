"""Restoring from a journal that has lost something: the exact image, or a refusal, or every doubtful byte listed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from journal import layout
from journal.errors import NoSuchDisk, NotAJournal, NotRecoverable
from journal.offline.choose import BadPointText, NamedTwice, NoSuchPoint
from journal.offline.doubt import effort
from journal.offline.rescue import LIST_SUFFIX, RescueExists, RescueNotWritten, RescueReport, rescue
from journal.offline.rescued import OLD, ZEROS, RescuedDisk
from journal.ranges import KINDS
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.instant import format_time
from tests.journal.tap import WALL, Guest, Images, Tap
from tests.journal.test_damage import DISK, flip, frames_of, make, segment

DISKS = {0: DISK, 1: DISK}


def several(folder: Path, seed: int = 1, *, validity: tuple[bool, ...] = (True, False, True)) -> Guest:
    """A journal of several segments and epochs, and the truth about every point."""
    with JournalWriter.create(folder, "web01", segment_bytes=40_000) as writer:
        guest = Guest(seed, Tap(writer, DISKS))
        for valid in validity:
            guest.epoch(valid=valid)
    return guest


def images(report: RescueReport) -> Images:
    return {index: disk.path.read_bytes() for index, disk in enumerate(report.disks)}


def files(folder: Path) -> list[Path]:
    return sorted((folder / "timelines/0001").glob("*.seg"))


def test_every_point_comes_back_with_nothing_but_the_segments(tmp_path: Path) -> None:
    guest = several(tmp_path / "j")
    (tmp_path / "j/JOURNAL").unlink()
    (tmp_path / "j/meta.log").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file()}
    for lsn in sorted(guest.expected)[::7]:
        report = rescue(tmp_path / "j", f"lsn:{lsn}", tmp_path / f"out{lsn}")
        assert images(report) == guest.expected[lsn] and report.exact
        assert [disk.path.name for disk in report.disks] == ["vda.raw", "vdb.raw"]
        assert len(report.lost) == 2 and report.journal in report.assumed[0]
    assert {path: path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file()} == before


def test_latest_is_the_newest_good_point_and_with_best_effort_the_newest_record(tmp_path: Path) -> None:
    make(tmp_path / "j")
    path = segment(tmp_path / "j")
    offset, _, lsn, _ = next(f for f in frames_of(path) if f[2] == 7 and f[3])
    flip(path, offset + 30)
    assert rescue(tmp_path / "j", "latest", tmp_path / "good").lsn == lsn - 1
    report = rescue(tmp_path / "j", "latest", tmp_path / "all", best_effort=True)
    assert report.lsn == JournalReader(tmp_path / "j").last_lsn() and not report.exact


def test_a_point_is_written_as_lsn_cut_name_or_time(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        for number in range(3):
            tap.write(0, 0, bytes([number + 65]) * 512)
            tap.cut("bookmark", f"name {number}")
        tap.cut("bookmark", "twice")
        tap.write(0, 0, b"x" * 512)
        tap.cut("bookmark", "twice")
        writer.commit()
        writer.bookmark(3, "after the fact")
        mono = tap.mono
    cuts = [cut for cut in JournalReader(folder).cuts() if cut.label == "name 1"]
    spelled = ("3", "lsn:3", f"cut:{cuts[0].number}", "name 1", "app:name 1", "after the fact")
    for text in (*spelled, format_time(WALL + mono - 2000)):
        report = rescue(folder, text, tmp_path / f"{abs(hash(text))}.raw")
        assert (report.lsn, report.disks[0].path.read_bytes()[:512]) == (3, b"B" * 512), text
        assert report.wall == WALL + mono - 2000
    for text, error in (
        ("cut:x", BadPointText),
        ("2026-11-22", BadPointText),
        ("9" * 30, BadPointText),
        ("cut:99", NoSuchPoint),
        ("name 7", NoSuchPoint),
        ("twice", NamedTwice),
        ("77", NotRecoverable),
        (format_time(WALL - 10), NotRecoverable),
        (format_time(WALL + mono + 10**9), NotRecoverable),
    ):
        with pytest.raises(error) as refused:
            rescue(folder, text, tmp_path / "none.raw")
        assert refused.value.hint
    assert not (tmp_path / "none.raw").exists()


def test_a_time_before_the_end_of_a_sync_is_no_point_of_the_epoch_before(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        tap.write(0, 0, b"1" * 512)
        tap.gap()
        tap.mono += 10**9
        tap.begin("bitmap")
        inside = WALL + tap.mono + 5
        tap.mono += 10**9
        tap.cut("sync-end")
    with pytest.raises(NotRecoverable, match="sync of epoch 2 had not ended"):
        rescue(folder, format_time(inside), tmp_path / "x.raw")


def test_bad_data_is_refused_with_verified_points_and_zeroed_with_best_effort(tmp_path: Path) -> None:
    folder, expected = tmp_path / "j", make(tmp_path / "j", 20)
    path = segment(folder)
    bad = [f for f in frames_of(path) if f[3] and f[2] in (6, 14)]  # both write block 4: lsn - 2 = 4, 12
    for _, end, _, _ in bad:
        flip(path, end - 1)
    with pytest.raises(NotRecoverable, match="checksum") as refused:
        rescue(folder, "8", tmp_path / "x.raw")
    # 14 to 21 need the second bad frame: the nearest after that is 22, where the block is written again - not here.
    assert (refused.value.details["before"], refused.value.details["after"]) == (5, None)
    assert "lsn:5" in refused.value.message and "--best-effort" in refused.value.hint
    assert list(tmp_path.iterdir()) == [folder]
    report = rescue(folder, "8", tmp_path / "x.raw", best_effort=True)
    (hit,) = report.disks[0].damaged
    assert (hit.offset, hit.length, hit.content) == (4 * 4096, 4096, ZEROS) and "LSNs 6 to 6" in hit.reason
    found, good = report.disks[0].path.read_bytes(), expected[8][0]
    assert found == good[: 4 * 4096] + bytes(4096) + good[5 * 4096 :]
    listed = json.loads((tmp_path / "x.raw.damage.json").read_text())
    assert listed["damaged"] == [{"offset": 16384, "length": 4096, "content": ZEROS, "reason": hit.reason}]
    assert (listed["lsn"], listed["image"]) == (8, "x.raw")


def test_the_nearest_good_point_after_is_found_where_the_bad_block_is_written_again(tmp_path: Path) -> None:
    folder, _ = tmp_path / "j", make(tmp_path / "j", 20)
    path = segment(folder)
    flip(path, next(f for f in frames_of(path) if f[2] == 6 and f[3])[1] - 1)
    for named in (False, True):  # found while reading, and known from the log before
        with pytest.raises(NotRecoverable) as refused:
            rescue(folder, "9", tmp_path / "x.raw")
        assert (refused.value.details["before"], refused.value.details["after"]) == (5, 14)
        if not named:
            JournalWriter.open(folder).close()


@pytest.mark.parametrize("seed", range(4))
def test_with_best_effort_every_byte_that_is_not_listed_is_right(tmp_path: Path, seed: int) -> None:
    """Flipped bits, lost segments and cut off ones: each byte is that of the point or listed, or nothing is written."""
    folder = tmp_path / "j"
    guest = several(folder, seed, validity=(True, True, False, True))
    choices = random.Random(seed)
    wrong = written = 0
    for turn in range(12):
        broken = tmp_path / f"b{turn}"
        shutil.copytree(folder, broken)
        for _ in range(choices.randint(1, 3)):
            _break(choices, broken)
        for lsn in choices.sample(sorted(guest.expected), 4):
            out = tmp_path / f"out{turn}-{lsn}"
            try:
                report = rescue(broken, str(lsn), out, best_effort=True)
            except NotRecoverable:
                continue
            written += 1
            wrong += _unlisted(report, guest.expected[lsn])
            assert report.exact == (images(report) == guest.expected[lsn]) or not report.exact
    assert written > 20 and not wrong


def _break(choices: random.Random, folder: Path) -> None:
    path = choices.choice(files(folder))
    data = path.read_bytes()
    what = choices.randrange(4)
    if what == 0:
        path.unlink()
    elif what == 1:
        path.write_bytes(data[: choices.randrange(4096, len(data))])
    else:
        heads = [o for o in range(4096, len(data), 4096) if data[o : o + 4] == b"LWF1"]
        flip(
            path,
            choices.choice(heads) + choices.randrange(100)
            if what == 2 and heads
            else choices.randrange(len(data)),
        )


def _unlisted(report: RescueReport, expected: Images) -> int:
    """Count the bytes that are neither right nor listed."""
    count = 0
    for index, disk in enumerate(report.disks):
        found, good = disk.path.read_bytes(), expected[index]
        doubtful = bytearray(len(found))
        for bad in disk.damaged:
            doubtful[bad.offset : bad.offset + bad.length] = b"\1" * bad.length
            if bad.content == ZEROS:
                assert not any(found[bad.offset : bad.offset + bad.length])
        count += sum(a != b and not d for a, b, d in zip(found, good, doubtful, strict=True))
        _in_order(disk)
    return count


def _in_order(disk: RescuedDisk) -> None:
    ends = 0
    for bad in disk.damaged:
        assert bad.offset >= ends and bad.length > 0 and bad.reason and bad.content in (ZEROS, OLD)
        ends = bad.offset + bad.length
    assert ends <= disk.bytes


def test_a_lost_segment_leaves_what_was_written_after_it_certain(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=45_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        for number in range(12):
            tap.write(0, number % 4 * 8, bytes([number + 65]) * 4096)
    gone, following = files(folder)[2:4]
    lost = (int(gone.stem), int(following.stem) - 1)
    gone.unlink()
    (folder / "meta.log").unlink()
    with pytest.raises(NotRecoverable) as refused:
        rescue(folder, "13", tmp_path / "x.raw")
    assert refused.value.details["before"] == lost[0] - 1 and refused.value.details["after"] is None
    report = rescue(folder, "13", tmp_path / "x.raw", best_effort=True)
    (old,) = report.disks[0].damaged  # blocks 0 to 3 are written again after it; 4 to 7 were not
    assert (old.offset, old.length, old.content) == (4 * 4096, 4 * 4096, OLD)
    assert f"LSN {lost[0]} to {lost[1]} are lost" in old.reason


def test_a_sync_whose_end_is_lost_is_told_as_an_assumption(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    make(folder, 3)
    path = segment(folder)
    flip(path, frames_of(path)[2][0] + 20)  # the frame with the sync-end cut
    with pytest.raises(NotRecoverable):
        rescue(folder, "3", tmp_path / "x.raw")
    with pytest.raises(NoSuchPoint, match="no point of this journal is whole"):
        rescue(folder, "latest", tmp_path / "x.raw")
    report = rescue(folder, "3", tmp_path / "x.raw", best_effort=True)
    assert any("sync of epoch 1 had ended" in line for line in report.assumed)
    found = effort(JournalReader(folder), 3, 1)
    assert found.layers == [1] and report.exact == (not report.disks[0].damaged)


def test_a_gap_or_an_open_sync_is_refused_with_best_effort_too(tmp_path: Path) -> None:
    guest = several(tmp_path / "j", validity=(True, False))
    for lsn in sorted(guest.refused)[-3:]:
        with pytest.raises(NotRecoverable):
            rescue(tmp_path / "j", str(lsn), tmp_path / "x", best_effort=True)
    assert not (tmp_path / "x").exists()


def test_a_fork_whose_record_is_lost_is_read_off_its_segments(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    expected = make(folder, 4)
    with JournalWriter.open(folder) as writer:
        assert writer.fork(3, "drill") == 2
        assert writer.fork(4, "other") == 3
    for number in (2, 3):
        with JournalWriter.open(folder, number) as writer:
            tap = Tap(writer, {0: DISK})
            tap.begin("bitmap")
            tap.cut("sync-end")
            tap.write(0, 0, b"f" * 512)
    (folder / "meta.log").unlink()
    report = rescue(folder, "latest", tmp_path / "x.raw", timeline=2)
    assert report.disks[0].path.read_bytes() == b"f" * 512 + expected[3][0][512:]
    assert "timeline 2 forked from timeline 1 at LSN 3" in report.assumed
    assert any("timeline 3 forked from is unknown" in line for line in report.lost)


def test_a_journal_file_of_another_journal_does_not_hide_the_segments(tmp_path: Path) -> None:
    expected = make(tmp_path / "j", 4)
    make(tmp_path / "other", 1)
    shutil.copy(tmp_path / "other/JOURNAL", tmp_path / "j/JOURNAL")
    report = rescue(tmp_path / "j", "3", tmp_path / "x.raw")
    assert report.disks[0].path.read_bytes() == expected[3][0] and "no segment does" in report.lost[0]
    (tmp_path / "j/JOURNAL").write_text("{")
    assert rescue(tmp_path / "j", "3", tmp_path / "y.raw").exact


def test_a_folder_with_no_segment_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(NotAJournal):
        rescue(tmp_path, "latest", tmp_path / "x.raw")
    (tmp_path / layout.TIMELINES / "0001").mkdir(parents=True)
    with pytest.raises(NotAJournal):
        rescue(tmp_path, "latest", tmp_path / "x.raw")


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = several(tmp_path / "j")
    out = tmp_path / "out"
    out.mkdir()
    (out / "vdb.raw").write_text("mine")
    with pytest.raises(RescueExists, match=r"vdb\.raw"):
        rescue(tmp_path / "j", "latest", out)
    assert [path.name for path in out.iterdir()] == ["vdb.raw"] and (out / "vdb.raw").read_text() == "mine"
    with pytest.raises(NoSuchDisk, match="vda, vdb"):
        rescue(tmp_path / "j", "latest", tmp_path / "x.raw", disk="sda")
    report = rescue(tmp_path / "j", "latest", tmp_path / "b.raw", disk="vdb")
    assert (tmp_path / "b.raw").read_bytes() == guest.expected[report.lsn][1]

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rescue(tmp_path / "j", "latest", tmp_path / "new", progress=interrupted)
    assert not (tmp_path / "new").exists()
    with pytest.raises(RescueNotWritten):
        rescue(tmp_path / "j", "latest", tmp_path / "missing/x.raw", disk="vda")


def test_progress_goes_from_nothing_to_all_of_all_disks(tmp_path: Path) -> None:
    several(tmp_path / "j")
    seen: list[tuple[int, int]] = []
    rescue(tmp_path / "j", "latest", tmp_path / "out", progress=lambda *at: seen.append(at))
    assert seen == sorted(seen) and seen[-1] == (2 * DISK, 2 * DISK)


@pytest.mark.parametrize("where", ["header", "footer"])
@pytest.mark.parametrize("fill", ["zeros", "cut off"])
def test_a_segment_without_its_header_or_footer_loses_nothing(tmp_path: Path, where: str, fill: str) -> None:
    folder = tmp_path / "j"
    guest = several(folder)
    path = files(folder)[1]
    data = path.read_bytes()
    if where == "header":
        path.write_bytes(bytes(4096) + data[4096:])
    else:
        path.write_bytes(data[:-4096] + (bytes(4096) if fill == "zeros" else b""))
    for lsn in guest.expected:
        assert images(rescue(folder, str(lsn), tmp_path / f"out{lsn}")) == guest.expected[lsn]


def test_the_page_for_the_worst_day_says_what_the_commands_say() -> None:
    page = (Path(__file__).parents[2] / "docs/rescue.md").read_text()
    for kind in KINDS:
        assert f"`{kind}`" in page
    for content in (ZEROS, OLD):
        assert f"| `{content}` |" in page
    assert f"web01.raw{LIST_SUFFIX}" in page
