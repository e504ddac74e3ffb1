"""Looking after journals: what is promised comes about by itself, beside writers and readers, and space is kept."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal import layout, space
from journal.errors import JournalFull, NotRecoverable
from journal.frame import FrameError
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.errors import FloorLowered, UpkeepBusy
from journal.retention.forecast import forecast
from journal.retention.policy import Policy, Tier
from journal.retention.run import Promise, promise_of, retain, set_promise
from journal.upkeep import Upkeep, upkeep, upkeep_all, upkeep_lock
from journal.writer import JournalWriter
from lastwrite.durations import UNITS
from tests.journal.tap import WALL, Images, Tap
from tests.journal.test_thinning import simulated
from tests.journal.thinning import (
    EVERYTHING_AT_ONCE,
    check_what_is_left,
    interval_ends,
    metas,
    names,
)
from tests.needs import missing

SECOND, MINUTE, HOUR, DAY = (UNITS[unit] for unit in "smhd")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The appliance's clock, in ns, as a list of one."""
    now = [WALL]
    monkeypatch.setattr("time.time_ns", lambda: now[0])
    yield now


def history(folder: Path, clock: list[int], hours: int, cuts_an_hour: int = 12) -> dict[int, Images]:
    """A journal with a write and a cut every few minutes; every point's disk."""
    expected: dict[int, Images] = {}
    step = HOUR // cuts_an_hour
    image = bytearray(b"\1" * 16 * 4096)
    with JournalWriter.create(folder, "web01", segment_bytes=120_000) as writer:
        tap = Tap(writer, {0: len(image)})
        tap.protect()
        expected[writer.next_lsn - 1] = {0: bytes(image)}
        choices = random.Random(1)
        for _ in range(hours * cuts_an_hour):
            clock[0] += step
            tap.mono += step
            block, fill = choices.randrange(16), choices.randrange(256)
            tap.write(0, block * 8, bytes([fill]) * 4096)
            image[block * 4096 : block * 4096 + 4096] = bytes([fill]) * 4096
            expected[writer.next_lsn - 1] = {0: bytes(image)}
            tap.cut()
    return expected


POLICY = Policy(every_write=6 * HOUR, tiers=(Tier(HOUR, DAY), Tier(6 * HOUR, 3 * DAY)), floor=6 * HOUR)


def test_each_age_has_the_points_that_are_promised_and_each_is_right(
    tmp_path: Path, clock: list[int]
) -> None:
    folder = tmp_path / "j"
    expected = history(folder, clock, hours=60)
    before = sum(path.stat().st_size for path in layout.timeline_folder(folder, 1).iterdir())
    done = upkeep(folder, clock[0], default=POLICY)
    assert done.retention.done and not done.problems
    check_what_is_left(folder, 1, expected, set(), set())
    reader = JournalReader(folder)
    points = [lsn for lsn in expected if reader.lineage().history.is_point(lsn)]
    ages = [clock[0] - reader.record_time(lsn) for lsn in points]
    assert 72 <= sum(age < 6 * HOUR for age in ages) <= 73
    assert {age // HOUR for age in ages} >= set(range(23))
    assert {age // (6 * HOUR) for age in ages} >= set(range(9))
    assert len(points) < len(expected) / 2
    assert sum(path.stat().st_size for path in layout.timeline_folder(folder, 1).glob("*.*et")) < before
    assert check(folder).ok
    again = upkeep(folder, clock[0], default=POLICY)
    assert not again.retention.done and not again.indexed


def test_everything_older_than_the_promise_is_folded_into_the_base(tmp_path: Path, clock: list[int]) -> None:
    folder = tmp_path / "j"
    expected = history(folder, clock, hours=30)
    upkeep(folder, clock[0] + 100 * DAY, default=POLICY, vouched=True)
    inside, ends = interval_ends(folder, 1)
    assert len(ends) == 1 and len(inside) > 200
    check_what_is_left(folder, 1, expected, set(), set())
    with pytest.raises(NotRecoverable, match="only kept cuts are left of that time"):
        JournalReader(folder).point(20)


def test_a_wall_time_in_a_thinned_range_gives_the_kept_cut_before_it_and_says_so(
    tmp_path: Path, clock: list[int]
) -> None:
    folder = tmp_path / "j"
    history(folder, clock, hours=30)
    upkeep(folder, clock[0], default=POLICY)
    reader = JournalReader(folder)
    wall = clock[0] - 10 * HOUR - 7 * MINUTE
    instant = reader.lsn_at(wall)
    assert not instant.covered and instant.reason == "only kept cuts are left of that time"
    assert reader.point(instant.lsn) and 0 < wall - reader.record_time(instant.lsn) <= HOUR
    assert reader.lsn_at(clock[0] - HOUR).covered


def test_writer_and_readers_go_on_while_history_is_thinned(tmp_path: Path, clock: list[int]) -> None:
    folder = tmp_path / "j"
    expected = history(folder, clock, hours=20)
    reader = JournalReader(folder)
    held = {lsn: reader.resolve(lsn, 0) for lsn in list(expected)[::20]}
    failures: list[Exception] = []
    done = threading.Event()

    def write() -> None:
        try:
            with JournalWriter.open(folder, segment_bytes=120_000) as writer:
                tap = Tap(writer, {0: 16 * 4096})
                tap.mono = 21 * HOUR
                image = bytearray(expected[max(expected)][0])
                for number in itertools.count():
                    if done.is_set() and number > 100:
                        return
                    block = number % 16
                    image[block * 4096 : block * 4096 + 4096] = bytes([number % 256]) * 4096
                    expected[writer.next_lsn] = {0: bytes(image)}
                    tap.write(0, block * 8, bytes([number % 256]) * 4096)
                    writer.commit()
        except Exception as error:
            failures.append(error)

    def read() -> None:
        try:
            mine = JournalReader(folder)
            while not done.is_set():
                latest = mine.latest() or 0
                assert mine.resolve(latest, 0).read(0, 16 * 4096) == expected[latest][0]
                mine.refresh()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write), threading.Thread(target=read), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for days in range(1, 12):
        upkeep(folder, clock[0] + days * DAY // 4, default=POLICY)
    done.set()
    for thread in threads:
        thread.join(60)
    assert not failures
    for lsn, blocks in held.items():  # opened before: readable although their files are gone
        assert blocks.read(0, 16 * 4096) == expected[lsn][0]
    check_what_is_left(folder, 1, expected, set(), set())
    assert check(folder).ok


def test_the_floor_is_lowered_by_a_persons_word_only(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    JournalWriter.create(folder, "web01").close()
    default = Policy()
    longer = Policy(floor=7 * DAY)
    set_promise(folder, longer, default)
    for lower in (Policy(floor=6 * DAY), None):
        with pytest.raises(FloorLowered):
            set_promise(folder, lower, default)
    assert promise_of(JournalReader(folder), default, 5) == Promise(longer, 5, own=True)
    set_promise(folder, None, default, force=True)
    assert promise_of(JournalReader(folder), default, 5) == Promise(default, 5, own=False)
    assert len(metas(folder, "retention")) == 2


def test_one_process_at_a_time_looks_after_a_journal(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    simulated(folder, 5)
    reports: list[Upkeep] = []
    with upkeep_lock(folder):
        with pytest.raises(UpkeepBusy):
            upkeep(folder, 0, default=POLICY)
        upkeep_all(
            [folder, tmp_path / "none"],
            lambda: 0,
            default=POLICY,
            reserve_of=lambda _: 0,
            report=reports.append,
        )
    assert [bool(done.problems) for done in reports] == [True, True]


def room_of(monkeypatch: pytest.MonkeyPatch, capacity: int, folder: Path) -> None:
    """A file system of so many bytes that holds this journal alone."""

    def room(_: Path) -> space.Room:
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return space.Room(capacity - used, capacity)

    for module in (
        "journal.space",
        "journal.retention.run",
        "journal.retention.thin",
        "journal.retention.forecast",
    ):
        monkeypatch.setattr(f"{module}.room", room)


def test_want_of_space_shortens_history_from_its_oldest_end_and_never_below_the_floor(
    tmp_path: Path, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    expected = history(folder, clock, hours=70)
    policy = Policy(every_write=3 * DAY, tiers=(), floor=6 * HOUR)
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    oldest = []
    room_of(monkeypatch, used * 2, folder)
    for percent in (50, 110, 140, 300):
        reserve = used * percent // 100
        reports: list[Upkeep] = []
        upkeep_all(
            [folder],
            lambda: clock[0],
            default=policy,
            reserve_of={folder: reserve}.__getitem__,
            report=reports.append,
        )
        reader = JournalReader(folder)
        first = reader.lineage().history.after(-1)
        assert first is not None
        oldest.append(clock[0] - reader.record_time(first))
        check_what_is_left(folder, 1, expected, set(), set())
        points = [lsn for lsn in expected if reader.lineage().history.is_point(lsn)]
        assert 72 <= sum(clock[0] - reader.record_time(lsn) < 6 * HOUR for lsn in points) <= 73
    assert oldest == sorted(oldest, reverse=True) and oldest[0] > 69 * HOUR
    assert 6 * HOUR <= oldest[-1] < 20 * HOUR
    assert reports[-1].retention.short


def test_a_promise_that_stops_gives_nothing_up_when_space_is_short(
    tmp_path: Path, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    expected = history(folder, clock, hours=30)
    policy = Policy(every_write=3 * DAY, tiers=(), floor=6 * HOUR, when_full="stop")
    room_of(monkeypatch, 1, folder)
    upkeep_all([folder], lambda: clock[0], default=policy, reserve_of=lambda _: 1 << 20)
    check_what_is_left(folder, 1, expected, set(), set(expected))


def test_ingest_stops_before_the_reserve_is_gone_and_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    free = [10 << 20]
    monkeypatch.setattr("journal.space.room", lambda _: space.Room(free[0], 1 << 30))
    monkeypatch.setattr("journal.space._LOOK_SECONDS", 0.0)
    JournalWriter.create(folder, "web01").close()
    with JournalWriter.open(folder, reserve_bytes=1 << 20) as writer:
        tap = Tap(writer, {0: 16 * 4096})
        tap.protect()
        free[0] = (1 << 20) + 4096
        with pytest.raises(JournalFull, match="reserve"):
            tap.write(0, 0, b"x" * 4096)
        lsn = writer.next_lsn
        free[0] = 2 << 20
        tap.write(0, 0, b"y" * 4096)
        assert writer.next_lsn == lsn + 1
        set_promise(folder, Policy(when_full="stop", reserve_bytes=4 << 20), Policy())
        with pytest.raises(JournalFull, match="reserve"):
            tap.write(0, 0, b"z" * 4096)
        set_promise(folder, Policy(when_full="thin", reserve_bytes=3 << 20), Policy())
        tap.write(0, 0, b"z" * 4096)
    assert check(folder).ok


def test_the_forecast_says_how_long_the_space_lasts(
    tmp_path: Path, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    history(folder, clock, hours=24)
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    promise = Promise(Policy(every_write=10 * DAY, tiers=(), floor=DAY), used, own=False)
    room_of(monkeypatch, used * 5, folder)
    told = forecast(JournalReader(folder), promise, clock[0])
    assert told.write_rate == pytest.approx(used, rel=0.1) and told.needs == pytest.approx(10 * used, rel=0.1)
    assert told.days_left == pytest.approx(3, rel=0.1)
    assert any(
        "in 3.0 days history will be shortened" in said or "in 2.9 days" in said for said in told.shortens
    )
    room_of(monkeypatch, used * 50, folder)
    assert forecast(JournalReader(folder), promise, clock[0]).days_left is None


def test_a_dry_run_changes_nothing(tmp_path: Path, clock: list[int]) -> None:
    folder = tmp_path / "j"
    history(folder, clock, hours=30)
    before = names(folder)
    report = retain(folder, Promise(EVERYTHING_AT_ONCE, 0, own=False), clock[0] + DAY, dry_run=True)
    assert report.planned and not report.done and names(folder) == before


def test_damage_that_is_found_while_thinning_is_named_and_left_alone(
    tmp_path: Path, clock: list[int]
) -> None:
    folder = tmp_path / "j"
    expected = history(folder, clock, hours=30)
    segment = layout.files(folder, 1)[2].path
    frames = JournalReader(folder).scans(1)[2].frames.array()
    data = bytearray(segment.read_bytes())
    for place in frames[frames["data_bytes"] > 0]["data"].tolist():
        data[place + 100] ^= 1
    segment.write_bytes(data)
    first = upkeep(folder, clock[0], default=POLICY)
    assert any("checksum" in problem for problem in first.problems)
    assert metas(folder, "damage")
    second = upkeep(folder, clock[0], default=POLICY)
    assert second.retention.done and segment.exists()
    reader = JournalReader(folder)
    bad = layout.stored_file(segment)
    for lsn, images in expected.items():
        if reader.lineage().history.is_point(lsn):
            try:
                assert reader.resolve(lsn, 0).read(0, 16 * 4096) == images[0]
            except (NotRecoverable, FrameError):
                assert bad and lsn >= bad.first_lsn


@pytest.mark.kernel
def test_a_full_file_system_is_thinned_and_ingest_goes_on(tmp_path: Path, clock: list[int]) -> None:
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        missing("root, mkfs.ext4 and loop devices are needed to fill a small file system")
    image, mounted = tmp_path / "disk.img", tmp_path / "mounted"
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image], check=True, timeout=30)
    if subprocess.run(["mount", "-o", "loop", image, mounted], timeout=30, check=False).returncode:
        missing("mount refuses a loop device")
    try:
        folder, reserve = mounted / "j", 8 << 20
        policy = Policy(every_write=DAY, tiers=(), floor=MINUTE)
        JournalWriter.create(folder, "web01").close()
        with JournalWriter.open(folder, segment_bytes=1 << 20, reserve_bytes=reserve // 2) as writer:
            tap = Tap(writer, {0: 1 << 20})
            tap.protect()
            written, times_full = 0, 0
            while written < 80 << 20:
                clock[0] += SECOND
                tap.mono += SECOND
                try:
                    tap.write(0, written // 512 % 2048 // 128 * 128, bytes([written >> 16 & 255]) * 65536)
                    tap.cut()
                    writer.commit()
                    written += 65536
                except JournalFull:
                    times_full += 1
                    assert times_full < 200
                    upkeep_all([folder], lambda: clock[0], default=policy, reserve_of=lambda _: reserve)
            assert times_full
        assert check(folder).ok
        reader = JournalReader(folder)
        latest = reader.latest()
        assert latest is not None and len(reader.resolve(latest, 0).read(0, 1 << 20)) == 1 << 20
        del reader
    finally:
        subprocess.run(["umount", "-l", mounted], check=True, timeout=30)
