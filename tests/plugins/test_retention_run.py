"""What `lastwrite retention run` does and says: for want of space, beside damage, before it is done, interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from journal import layout, space
from journal.reader import JournalReader
from journal.retention.plan import plan
from journal.retention.thin import Done, Thinner
from tests.plugins.test_retention_commands import HOUR, Capture, answer, ask, journal

__all__ = ["journal"]
PROMISE = ("--every-write", "2d", "--tiers", "", "--floor", "6h", "--force")
SOON = ("--every-write", "6h", "--tiers", "1h:1d, 6h:30d", "--floor", "6h", "--force")


def short_of_space(monkeypatch: pytest.MonkeyPatch, folder: Path, missing: int) -> None:
    """A file system for this journal alone, with so many bytes less free than the reserve of 1 GiB."""

    def used() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    capacity = used() + (1 << 30) - missing
    for module in ("run", "thin", "forecast"):
        monkeypatch.setattr(
            f"journal.retention.{module}.room", lambda _: space.Room(capacity - used(), capacity)
        )


def oldest(folder: Path) -> int:
    reader = JournalReader(folder)
    first = reader.lineage().history.after(-1)
    assert first is not None
    return reader.record_time(first)


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_run_shortens_history_for_want_of_space_as_show_says_and_says_so(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(capsys, "retention", "set", journal, *PROMISE, "--reserve", "1GiB")
    before = oldest(journal)
    short_of_space(monkeypatch, journal, 2_000_000)
    said = answer(capsys, "retention", "show", journal)["forecast"]["shortens"]
    assert any(f"`lastwrite retention run {journal}`" in sentence for sentence in said), said
    done = answer(capsys, "retention", "run", journal)
    assert done["done"] and done["freed_bytes"] >= 2_000_000 and not done["short"]
    assert done["free_bytes"] >= done["reserve_bytes"] == 1 << 30
    assert 0 < done["shortened"]["steps"] <= done["shortened"]["of_steps"] == 4
    assert 6 * HOUR <= done["shortened"]["counts"]["every_write_ns"] < 48 * HOUR
    assert oldest(journal) - before > 5 * HOUR
    latest = JournalReader(journal).latest()
    assert latest and JournalReader(journal).point(latest - 50)  # five hours old, within the floor
    said = answer(capsys, "retention", "show", journal)["forecast"]["shortens"]
    assert not any("less than the reserve" in sentence for sentence in said), said


def test_a_dry_run_says_how_far_history_would_be_shortened_and_the_run_does_just_that(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(capsys, "retention", "set", journal, *PROMISE, "--reserve", "1GiB")
    short_of_space(monkeypatch, journal, 2_000_000)
    status, out, _ = ask(capsys, "retention", "run", journal, "--dry-run")
    assert status == 0 and "Space is short" in out and "What counts until there is space again" in out
    assert not list((journal / "timelines/0001").glob("*.net"))
    seen = answer(capsys, "retention", "run", journal, "--dry-run")
    done = answer(capsys, "retention", "run", journal)
    assert seen["shortened"]["steps"] == done["shortened"]["steps"] > 0
    assert seen["would_free_bytes"] == pytest.approx(done["freed_bytes"], rel=0.1)


def test_what_stays_short_at_the_floor_is_said_by_run_and_by_show(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(capsys, "retention", "set", journal, *PROMISE, "--reserve", "1GiB")
    short_of_space(monkeypatch, journal, 100_000_000)
    status, out, _ = ask(capsys, "retention", "run", journal)
    assert status == 0 and "history is shortened by 4 of 4 steps" in words(out)
    assert "Space stays short" in out and "Make space" in out
    said = answer(capsys, "retention", "show", journal)["forecast"]["shortens"]
    assert any("nothing to give up that is older than the floor of 6h" in sentence for sentence in said), said
    assert not any("retention run" in sentence for sentence in said), said


def test_a_promise_that_stops_gives_nothing_up_and_says_what_to_do(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(capsys, "retention", "set", journal, *PROMISE, "--reserve", "1GiB", "--when-full", "stop")
    short_of_space(monkeypatch, journal, 2_000_000)
    status, out, _ = ask(capsys, "retention", "run", journal)
    assert status == 0 and "gives nothing up" in words(out) and "--when-full thin" in words(out)
    assert "as promised" not in out and not list((journal / "timelines/0001").glob("*.net"))


def test_ranges_that_cannot_be_thinned_are_named_with_reason_and_remedy(
    journal: Path, capsys: Capture
) -> None:
    answer(capsys, "retention", "set", journal, *SOON)
    files = layout.files(journal, 1)
    bad = files[3]
    data = bytearray(bad.path.read_bytes())
    place = int(JournalReader(journal).scans(1)[3].frames.array()[0]["offset"])
    data[place : place + 64] = bytes(64)
    bad.path.write_bytes(data)
    for _ in range(2):  # what can be done is done by the first; the second has nothing to do, and says why
        status, out, _ = ask(capsys, "retention", "run", journal)
        assert status == 0 and "as promised" not in out
        told = words(out)
        assert f"LSN {bad.first_lsn} to " in told and "cannot be thinned: it " in told
        assert "damaged" in told and f"`lastwrite journal check {journal}`" in told
    told = answer(capsys, "retention", "run", journal, "--dry-run")["cannot_be_thinned"]
    (row,) = [row for row in told if row["first_lsn"] == bad.first_lsn]
    assert row["files"] == 1 and row["bytes"] == bad.path.stat().st_size and row["reason"] == "it is damaged"
    assert row["remedy"] and row["begin"] and row["end_ns"] > row["begin_ns"]
    assert (
        sum(row["files"] for row in told) == len(files) - 2
    )  # all but what is in use needs the lost records
    said = answer(capsys, "retention", "show", journal)["forecast"]["shortens"]
    assert any("cannot be thinned" in sentence for sentence in said), said


def test_a_dry_run_shows_times_points_and_bytes_and_is_right_about_them(
    journal: Path, capsys: Capture
) -> None:
    answer(capsys, "retention", "set", journal, *SOON)
    status, out, _ = ask(capsys, "retention", "run", journal, "--dry-run")
    assert status == 0 and "The run would free about" in out and " -> " in out and "Z  20" in out
    seen = answer(capsys, "retention", "run", journal, "--dry-run")
    history = JournalReader(journal).lineage().history
    for row in seen["planned"]:
        lsns = range(row["first_lsn"], row["last_lsn"] + 1)
        assert row["points"] == sum(map(history.is_point, lsns)) > row["points_after"]
        assert row["begin"].endswith("Z") and row["begin_ns"] < row["end_ns"]
    status, out, _ = ask(capsys, "retention", "run", journal)
    assert status == 0 and "Freed " in out and "became" in out
    history = JournalReader(journal).lineage().history
    for row in seen["planned"]:
        lsns = range(row["first_lsn"], row["last_lsn"] + 1)
        assert row["points_after"] == sum(map(history.is_point, lsns))
        (path,) = (journal / "timelines/0001").glob(f"*{row['first_lsn']:020}*.net")
        assert row["bytes_after"] == pytest.approx(path.stat().st_size, rel=0.05)


def test_an_interrupted_run_says_what_was_done_and_the_next_goes_on(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(capsys, "retention", "set", journal, *SOON)
    monkeypatch.setattr("journal.retention.run.MAX_JOB_BYTES", 1_000_000)
    plain, count = Thinner.do, [0]

    def do(self: Thinner, job: Any) -> Done:
        count[0] += 1
        if count[0] % 2 == 0:
            raise KeyboardInterrupt
        return plain(self, job)

    monkeypatch.setattr(Thinner, "do", do)
    status, out, _ = ask(capsys, "retention", "run", journal)
    assert status == 130 and "Freed " in out and "Interrupted." in out and "run it again" in out
    assert len(list((journal / "timelines/0001").glob("*.net"))) == 1
    status, out, _ = ask(capsys, "retention", "run", journal, "--json")
    assert status == 130 and '"interrupted": true' in out and '"freed_bytes": 0' not in out
    monkeypatch.setattr(Thinner, "do", plain)
    done = answer(capsys, "retention", "run", journal)
    assert done["done"] and not done["interrupted"]
    assert "Nothing is due" in ask(capsys, "retention", "run", journal)[1]


def test_each_timeline_is_planned_once_where_there_is_room(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = [0]

    def counted(*args: Any, **more: Any) -> Any:
        count[0] += 1
        return plan(*args, **more)

    monkeypatch.setattr("journal.retention.run.plan", counted)
    assert answer(capsys, "retention", "run", journal)["done"]
    assert count[0] == len(JournalReader(journal).timelines()) == 2


def test_every_time_and_size_that_programs_are_told_names_its_unit(journal: Path, capsys: Capture) -> None:
    answer(capsys, "retention", "hold", f"{journal}@-20h", "--reason", "x", "--until", "9d")
    told = answer(capsys, "retention", "show", journal)

    def check(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                check(inner, f"{key}.{name}")
                if name.endswith("_ns"):
                    assert name[:-3] in value, f"{key}.{name} has no readable form"
        elif isinstance(value, list):
            for inner in value:
                check(inner, key)
        elif isinstance(value, int) and value > 1 << 40:
            assert key.endswith(("_ns", "_bytes")), key

    check(told, "show")
    check(answer(capsys, "retention", "run", journal, "--dry-run"), "run")
    forecast = told["forecast"]
    parts = forecast["of_journal_bytes"]
    assert sum(parts.values()) == forecast["journal_bytes"] and forecast["files"]["segments"] > 10
    assert "as much goes on coming in as in the last 1 d 16 h" in forecast["assumes"]
    assert 39 * HOUR < forecast["window_end_ns"] - forecast["window_begin_ns"] < 41 * HOUR
    assert "as much goes on coming in" in words(ask(capsys, "retention", "show", journal)[1])
