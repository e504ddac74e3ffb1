"""Readers and checks while retention replaces files at just the wrong moment."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from journal.index.make import write_index
from journal.offline import check as checking
from journal.offline.check import check
from journal.offline.info import info
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_check import files
from tests.journal.thinning import thin_all


def journal(folder: Path) -> set[int]:
    """A journal of several files; the points at its cuts."""
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: 32768})
        tap.protect()
        kept = set()
        for number in range(60):
            tap.mono += 10**9
            tap.write(0, number % 8 * 8, random.Random(number).randbytes(4096))
            tap.cut()
            kept.add(writer.next_lsn - 1)
    return kept


def net_with_index(folder: Path, kept: set[int]) -> None:
    """Make net segments, and indexes of everything, from which heads are read when they are asked for."""
    thin_all(folder, 1, kept)
    for path in (folder / "timelines/0001").iterdir():
        write_index(path)


def test_a_reader_whose_files_are_replaced_before_it_reads_them_looks_again(tmp_path: Path) -> None:
    kept = journal(tmp_path / "j")
    net_with_index(tmp_path / "j", kept)
    readers = [JournalReader(tmp_path / "j") for _ in range(4)]  # nothing but footers and notes is read yet
    left = set(sorted(kept)[::7])
    for index in (tmp_path / "j/timelines/0001").glob("*.idx"):
        index.unlink()
    assert thin_all(tmp_path / "j", 1, left)
    newest = JournalReader(tmp_path / "j").latest()
    assert readers[0].latest() == newest
    assert readers[1].resolve(newest or 0, 0).read(0, 4096)
    assert readers[2].damage() == []
    assert [cut.lsn for cut in readers[3].cuts()] == [cut.lsn for cut in JournalReader(tmp_path / "j").cuts()]


def test_what_is_told_of_a_journal_is_told_anew_when_files_were_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = journal(tmp_path / "j")
    net_with_index(tmp_path / "j", kept)
    expected = info(tmp_path / "j")["timelines"][0]["latest"]
    epochs = JournalReader.epochs
    once: list[bool] = []

    def late(self: JournalReader, timeline: int = 1) -> object:
        if not once:
            once.append(True)
            for index in (tmp_path / "j/timelines/0001").glob("*.idx"):
                index.unlink()
            thin_all(tmp_path / "j", 1, set(sorted(kept)[::7]))
        return epochs(self, timeline)

    monkeypatch.setattr(JournalReader, "epochs", late)
    told = info(tmp_path / "j")
    assert once and told["timelines"][0]["latest"] == expected and told["damage"] == []


def test_a_check_beside_retention_finds_no_damage_and_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = journal(tmp_path / "j")
    heads = checking._check_heads

    def late(reader: JournalReader, report: checking.CheckReport) -> None:
        before = len(files(tmp_path / "j"))
        thin_all(tmp_path / "j", 1, kept)  # every file was read: now they go
        assert len(files(tmp_path / "j")) < before
        heads(reader, report)

    monkeypatch.setattr(checking, "_check_heads", late)
    report = check(tmp_path / "j")
    assert report.ok, report.damaged
    monkeypatch.undo()
    assert check(tmp_path / "j").ok


def test_a_check_reads_a_file_that_took_the_name_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = journal(tmp_path / "j")
    thin_all(tmp_path / "j", 1, kept)
    run = checking._DataCheck.run
    inodes: list[int] = []

    def late(self: checking._DataCheck) -> object:
        nets = list((tmp_path / "j/timelines/0001").glob("*.net"))
        inodes.extend(path.stat().st_ino for path in nets)
        thin_all(tmp_path / "j", 1, set(sorted(kept)[::7]))  # the same range, fewer points: the same name
        assert [path.name for path in nets if path.exists() and path.stat().st_ino not in inodes]
        return run(self)

    monkeypatch.setattr(checking._DataCheck, "run", late)
    report = check(tmp_path / "j")
    assert report.ok, report.damaged
