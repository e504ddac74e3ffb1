"""What `lastwrite retention ...` refuses, and what it says about it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from journal import layout, metalog
from journal.retention.policy import Policy
from tests.journal.tap import WALL
from tests.plugins.test_retention_commands import Capture, answer, ask, journal

__all__ = ["journal"]
DAY = 86_400_000_000_000
HOUR = DAY // 24


def refused(capsys: Capture, *words: object, status: int = 2) -> str:
    """What a command that is refused says."""
    got, out, err = ask(capsys, "retention", *words)
    assert got == status and "hint: " in err and "Traceback" not in err, (got, out, err)
    return " ".join(err.split())


def test_too_large_numbers_are_refused(journal: Path, capsys: Capture) -> None:
    for words in (("--tiers", "1d:1000y"), ("--every-write", "9999999y"), ("--reserve", "999999999PiB")):
        refused(capsys, "set", journal, *words)
    assert "does not fit" in refused(capsys, "set", journal, "--reserve", "1000PiB")
    assert "at most 100y" in refused(capsys, "hold", f"{journal}@latest", "--reason", "x", "--until", "1000y")


def test_a_hold_needs_a_point_and_an_end_that_is_to_come(journal: Path, capsys: Capture) -> None:
    assert "keeps nothing" in refused(capsys, "hold", f"{journal}@latest", "--reason", "x", "--until", "0")
    said = refused(capsys, "hold", f"{journal}@latest", "--reason", "x", "--until", "2026-12-31")
    assert "90d" in said and "retention set" not in said
    assert "names no point" in refused(capsys, "hold", journal, "--reason", "x")
    assert answer(capsys, "retention", "show", journal)["pins"] == []


def test_default_is_by_itself(journal: Path, capsys: Capture) -> None:
    assert "by itself" in refused(capsys, "set", journal, "--default", "--every-write", "3d")
    assert "the others" in refused(capsys, "prune", journal, 1, status=6)


def test_one_point_is_not_points(journal: Path, capsys: Capture) -> None:
    said = answer(capsys, "retention", "show", journal)["forecast"]["shortens"]
    assert any("1 point is kept" in sentence for sentence in said), said


def test_too_little_room_is_not_nothing_due(
    journal: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from journal.space import Room

    monkeypatch.setattr("journal.retention.run.room", lambda _: Room(1000, 1 << 30))
    status, out, _ = ask(capsys, "retention", "run", journal)
    assert status == 0 and "Nothing is due" not in out and "too little room" in " ".join(out.split())


def test_a_clock_far_ahead_gives_up_nothing_unless_a_person_vouches_for_it(
    journal: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead = time.time_ns() + 730 * DAY
    monkeypatch.setattr("time.time_ns", lambda: ahead)
    for more in ((), ("--dry-run",)):
        assert "--force" in refused(capsys, "run", journal, *more, status=6)
    assert not list((journal / "timelines/0001").glob("*.net"))
    assert answer(capsys, "retention", "run", journal, "--force")["done"]


def test_a_promise_of_another_version_can_be_replaced(journal: Path, capsys: Capture) -> None:
    other = Policy().to_meta() | {"when_full": "archive"}
    metalog.append(journal, {"meta": "retention", "policy": other, "created": WALL})
    refused(capsys, "show", journal)
    refused(capsys, "set", journal, "--every-write", "6h", status=6)
    changed = answer(capsys, "retention", "set", journal, "--every-write", "6h", "--force")
    assert changed["promise"]["every_write_ns"] == 6 * HOUR
    metalog.append(journal, {"meta": "retention", "policy": other, "created": WALL})
    assert answer(capsys, "retention", "set", journal, "--default", "--force")["promise"]["own"] is False


def test_a_strange_folder_is_named_by_a_run(journal: Path, capsys: Capture) -> None:
    (layout.timeline_folder(journal, 1) / "00000000000000000003.idx").mkdir()
    result = answer(capsys, "retention", "run", journal)
    assert result["done"] and any("3.idx" in sentence for sentence in result["left"])
