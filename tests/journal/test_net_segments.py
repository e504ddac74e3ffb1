"""Net segments: names, what a reader ignores, what a tap may not send, and how a journal of format 1 gets them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from journal import frame, layout, writer
from journal.errors import BadContent, NotRecoverable
from journal.frame import NET_CAPTURED, NET_SYNC, FrameBuilder
from journal.layout import StoredFile
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.facts import facts_of
from journal.retention.thin import Thinner
from journal.thinned import NetRange, Thinned
from journal.upkeep import clean
from journal.writer import JournalWriter
from tests.journal.tap import WALL, Tap
from tests.journal.test_thinning import simulated
from tests.journal.test_thinning_crash import killed
from tests.journal.thinning import (
    NOW,
    check_what_is_left,
    interval_ends,
    job_over,
    metas,
    names,
    thin_all,
    thin_somewhere,
)


def test_file_names_say_what_a_file_is_and_everything_else_is_ignored(tmp_path: Path) -> None:
    segment, net = layout.segment_path(tmp_path, 1, 7), layout.net_path(tmp_path, 1, 8, 20)
    assert layout.stored_file(segment) == StoredFile(7, None, segment, False)
    assert layout.stored_file(net) == StoredFile(8, 20, net, True)
    for name in ("7.seg", "0" * 19 + "8-" + "0" * 19 + "7.net", "0" * 20 + ".net", "0" * 20 + ".seg.new",
                 "0" * 19 + "8-" + "0" * 18 + "20.net-new", "0" * 19 + "²" + ".seg", "x"):  # fmt: skip
        assert layout.stored_file(segment.with_name(name)) is None, name


def test_a_file_in_the_range_of_a_larger_net_segment_is_a_left_over(tmp_path: Path) -> None:
    def stored(*spans: int | tuple[int, int]) -> list[StoredFile]:
        return [
            StoredFile(span, None, tmp_path / str(span), False)
            if isinstance(span, int)
            else StoredFile(span[0], span[1], tmp_path / f"{span}", True)
            for span in spans
        ]

    every = stored(1, 5, (5, 9), (5, 20), 9, 12, (12, 20), 20, (30, 31), 30, 31)
    assert [file.path.name for file in layout.without_left_overs(every)] == [
        "1",
        "(5, 20)",
        "20",
        "(30, 31)",
        "31",
    ]
    assert layout.without_left_overs([]) == []


def test_left_overs_are_ignored_by_readers_and_deleted_by_upkeep(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=5)
    shutil.copytree(folder, tmp_path / "before")
    kept = set(sorted(guest.expected)[::3])
    thin_all(folder, 1, kept)
    thinned = names(folder)
    shutil.copytree(tmp_path / "before" / "timelines", folder / "timelines", dirs_exist_ok=True)
    assert set(names(folder)) > set(thinned)
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)
    clean(folder)
    assert names(folder) == thinned
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)


def test_what_a_damaged_net_segment_stands_for_is_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    simulated(folder, seed=5)
    shutil.copytree(folder, tmp_path / "before")
    thin_all(folder, 1, set())
    shutil.copytree(tmp_path / "before" / "timelines", folder / "timelines", dirs_exist_ok=True)
    (net,) = (file.path for file in layout.files(folder, 1) if file.is_net)
    data = bytearray(net.read_bytes())
    data[4096 + 60] ^= 1
    net.write_bytes(data)
    before = names(folder)
    clean(folder)
    assert names(folder) == before


@pytest.mark.parametrize("kind", [NET_CAPTURED, NET_SYNC])
def test_a_tap_cannot_send_a_net_frame(tmp_path: Path, kind: int) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as journal:
        tap = Tap(journal, {0: 16 * 4096})
        tap.protect()
        builder = FrameBuilder(kind)
        builder.add_write(0, 0, b"x" * 4096, tap.tick())
        assert frame.parse_header(builder.finish(first_lsn=1, epoch=1, position=1)).kind == kind
        lsn = journal.next_lsn
        with pytest.raises(BadContent, match="which no tap sends"):
            tap.send(builder)
        assert journal.next_lsn == lsn


def test_a_net_header_reads_back_and_a_bitten_one_does_not() -> None:
    header = layout.NetHeader(b"j" * 16, 3, 5, 99, WALL, b"p" * 16, b"s" * 16)
    data = layout.pack_net_header(header)
    assert len(data) == 4096 and layout.unpack_net_header(data) == header
    for place in range(0, layout.NET_HEADER.size, 7):
        bitten = bytearray(data)
        bitten[place] ^= 1
        assert layout.unpack_net_header(bitten) is None
    assert layout.unpack_segment_header(data) is None and layout.unpack_net_header(b"") is None


@pytest.mark.parametrize("fail", ["", "identity-upgraded", "net-half"])
def test_a_journal_of_format_1_becomes_one_of_format_2_before_it_is_thinned(
    tmp_path: Path, fail: str
) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=5)
    identity = folder / layout.IDENTITY
    fields = json.loads(identity.read_text()) | {"format": 1}
    identity.write_text(json.dumps(fields))
    assert JournalReader(folder).identity.format == 1
    with JournalWriter.open(folder, segment_bytes=40_000) as journal:
        journal.bookmark(min(guest.expected), "a name of format 1")
    assert JournalReader(folder).identity.format == 1
    if fail:
        assert killed(lambda: thin_all(folder, 1, set()), fail) == 9
        assert not list(folder.rglob("*.net"))
    else:
        thin_all(folder, 1, set())
    assert json.loads(identity.read_text()) == fields | {"format": 2}
    check_what_is_left(folder, 1, guest.expected, guest.refused, {min(guest.expected)})


def test_a_writer_seals_by_frames_too_but_only_what_holds_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_FRAMES", 10)
    with JournalWriter.create(tmp_path / "j", "web01") as journal:
        tap = Tap(journal, {0: 16 * 4096})
        tap.begin()
        for _ in range(30):
            tap.notes(tap.cut_note())
        tap.write(0, 0, bytes(16 * 4096), frame.SYNC)
        for _ in range(25):
            tap.write(0, 0, b"x" * 512)
    counts = [scan.frame_count for scan in JournalReader(tmp_path / "j").scans(1)]
    assert counts == [32, 10, 10, 5] and check(tmp_path / "j").ok


def test_only_cuts_that_are_kept_are_points_where_the_tap_is_exact_at_cuts_only(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as journal:
        tap = Tap(journal, {0: 16 * 4096}, order="cycle")
        tap.protect()
        expected = {}
        for number in range(40):
            for part in range(3):
                tap.write(0, part * 8, bytes([number + 1]) * 4096)
            tap.cut()
            expected[journal.next_lsn - 1] = {0: (bytes([number + 1]) * 12288).ljust(16 * 4096, b"\1")}
    kept = set(sorted(expected)[2::5])
    thin_all(folder, 1, kept)
    inside, ends = interval_ends(folder, 1)
    assert len(kept & inside) >= 5 and kept & inside <= ends
    check_what_is_left(folder, 1, expected, set(range(1, max(expected))) - expected.keys(), kept)


def test_cuts_of_an_idle_guest_go_with_their_steps_though_no_lsn_goes(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as journal:
        tap = Tap(journal, {0: 16 * 4096})
        tap.protect()
        tap.write(0, 0, b"a" * 512)
        lsn = journal.next_lsn - 1
        for _ in range(50):
            tap.mono += 10**9
            tap.cut()
        for _ in range(40):
            tap.write(0, 0, b"b" * 4096)
    reader = JournalReader(folder)
    facts = facts_of(reader, 1, NOW)
    job = job_over(facts, 0, 1, {lsn})
    assert sum(cut.lsn == lsn for cut in facts.cuts) == 50 and len(job.cuts) == 50
    thin_all(folder, 1, set())
    cuts = JournalReader(folder).cuts()
    assert [cut.kind for cut in cuts if cut.lsn <= lsn] == ["sync-end"]


def test_thinned_ranges_name_the_nearest_that_is_left() -> None:
    thinned = Thinned(
        [
            NetRange(5, 11, np.array([6, 8, 10])),
            NetRange(11, 20, np.array([19])),
            NetRange(30, 33, np.array([], np.int64)),
        ]
    )
    assert [lsn for lsn in range(1, 36) if thinned.allows(lsn)] == [
        1,
        2,
        3,
        4,
        6,
        8,
        10,
        19,
        *range(20, 30),
        33,
        34,
        35,
    ]
    allowed = [lsn for lsn in range(40) if thinned.allows(lsn)]
    for lsn in range(1, 36):
        assert thinned.at_or_before(lsn) == max(p for p in allowed if p <= lsn)
        assert thinned.at_or_after(lsn) == min(p for p in allowed if p >= lsn)


def test_every_net_segment_is_named_in_the_log_with_its_digest(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=5)
    thin_all(folder, 1, set(guest.expected))
    thin_all(folder, 1, set())
    (scan,) = (scan for scan in JournalReader(folder).scans(1) if scan.is_net)
    digests = [m["digest"] for m in metas(folder, "thinned") if m["first_lsn"] == scan.first_lsn]
    assert len(digests) == 2 and digests[-1] == scan.digest
    with pytest.raises(NotRecoverable):
        JournalReader(folder).resolve(min(guest.expected), 0)


def test_a_note_at_the_border_of_two_files_goes_to_the_interval_before_it_when_they_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_FRAMES", 10)
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as journal:
        tap = Tap(journal, {0: 16 * 4096})
        tap.protect()
        for _ in range(7):
            tap.write(0, 0, b"a" * 4096)
        tap.gap()  # begins the second file, and stands at the last LSN of the first
        tap.begin("bitmap")
        tap.cut("sync-end")
        for _ in range(40):
            tap.write(0, 8, b"b" * 4096)
    assert [file.first_lsn for file in layout.files(folder, 1)][:2] == [1, 9]
    for first, last in ((1, 2), (0, 2)):
        reader = JournalReader(folder)
        job = job_over(facts_of(reader, 1, NOW), first, last, {5, 8, 12})
        Thinner(folder, 1, reader.lineage().history).do(job)
    reader = JournalReader(folder)
    assert check(folder).ok and [epoch.last_lsn for epoch in reader.epochs()] == [8, 48]
    assert reader.resolve(8, 0).read(0, 8192) == b"a" * 4096 + b"\1" * 4096
    assert reader.resolve(12, 0).read(0, 8192) == b"a" * 4096 + b"b" * 4096


@pytest.mark.parametrize("seed", range(300, 312))
def test_files_are_joined_in_any_order(tmp_path: Path, seed: int) -> None:
    folder, choices = tmp_path / "j", random.Random(seed)
    guest = simulated(folder, seed, segment_bytes=30_000)
    kept = {lsn for lsn in guest.expected if choices.random() < 0.5}
    for _ in range(8):
        thin_somewhere(folder, 1, kept, choices)
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)
    assert check(folder).ok
