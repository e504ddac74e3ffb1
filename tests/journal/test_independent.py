"""Our reader and the one that was written from the format's text alone agree on every point of real journals."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from journal import layout, pins
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.independent import IndependentReader
from tests.journal.tap import Guest, Tap
from tests.journal.test_thinning import DISKS, simulated
from tests.journal.thinning import thin_all, thin_somewhere


def compare(folder: Path) -> tuple[int, int]:
    """Compare every LSN of every timeline; return how many are points, and how many were thinned away."""
    reader, second = JournalReader(folder), IndependentReader(folder)
    assert [t.number for t in reader.timelines()] == sorted(second.timelines)
    points = thinned = 0
    for timeline in second.timelines:
        assert reader.last_lsn(timeline) == second.newest(timeline)
        for lsn in range(second.newest(timeline) + 2):
            point = second.epoch_of(timeline, lsn)
            history = reader.lineage(timeline).history
            assert history.is_point(lsn) == (point is not None), (timeline, lsn)
            thinned += not history.thinned.allows(lsn)
            if point is None:
                continue
            points += 1
            assert reader.point(lsn, timeline).number == point.epoch
            for disk in point.note["disks"]:
                image = second.image(timeline, lsn, disk["disk"])
                assert reader.resolve(lsn, disk["disk"], timeline).read(0, disk["bytes"]) == image, (
                    timeline,
                    lsn,
                )
    return points, thinned


@pytest.mark.parametrize("seed", range(3))
def test_both_readers_agree_before_and_after_thinning(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed)
    points, thinned = compare(folder)
    assert points == len(guest.expected) and not thinned
    choices = random.Random(seed)
    kept = set(guest.expected)
    for share in (0.8, 0.6, 0.5):
        kept = {lsn for lsn in sorted(kept) if choices.random() < share}
        thin_somewhere(folder, 1, kept, choices)
    thin_all(folder, 1, kept)
    fewer, thinned = compare(folder)
    assert kept and len(kept) <= fewer < points and thinned > 20


def test_both_readers_agree_on_forks_of_a_thinned_journal(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, 5)
    choices = random.Random(5)
    forked = choices.sample(sorted(guest.expected), 2)
    with JournalWriter.open(folder) as writer:
        numbers = [writer.fork(lsn, f"fork at {lsn}") for lsn in forked]
    for number, lsn in zip(numbers, forked, strict=True):
        with JournalWriter.open(folder, number, segment_bytes=30_000) as writer:
            branch = Guest(number, Tap(writer, DISKS), guest.expected[lsn])
            branch.epoch(valid=True)
    pins.pin(folder, 1, max(guest.expected), reason="a test", holder="nobody")
    for number in (1, *numbers):
        thin_all(folder, number, set())
    points, thinned = compare(folder)
    assert points >= 4 and thinned > 50


def test_a_left_over_of_a_crash_counts_for_neither(tmp_path: Path) -> None:
    """A crash between putting a net segment in place and deleting what it replaces leaves both."""
    folder = tmp_path / "j"
    simulated(folder, 1)
    older = shutil.copytree(folder, tmp_path / "older")
    thin_all(folder, 1, set())
    before = compare(folder)
    home = layout.timeline_folder(folder, 1)
    back = [
        path for path in layout.timeline_folder(older, 1).glob("*.seg") if not (home / path.name).exists()
    ]
    for path in back:
        shutil.copy(path, home)
    assert back and compare(folder) == before


def test_the_second_reader_shares_no_code_and_lists_a_journal(tmp_path: Path) -> None:
    simulated(tmp_path / "j", 2, epochs=2)
    thin_all(tmp_path / "j", 1, set())
    script = Path(__file__).parent / "independent.py"
    # -I: nothing of the project can be imported.
    argv = [sys.executable, "-I", str(script), str(tmp_path / "j")]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "net of captured, epoch" in listed and "'meta': 'thinned'" in listed
