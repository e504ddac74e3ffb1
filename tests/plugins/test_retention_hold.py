"""What `lastwrite retention hold` says of the point that it really keeps, and how a pin is named to be released."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from journal import pins
from journal.reader import JournalReader
from lastwrite.instant import format_time
from tests.plugins.test_retention_commands import HOUR, Capture, answer, ask, journal

__all__ = ["journal"]


@pytest.fixture
def thinned(journal: Path, capsys: Capture) -> Path:
    """The same journal with one kept cut in six hours of what is older than ten."""
    words = ("--every-write", "10h", "--tiers", "6h:30d", "--floor", "6h", "--force")
    answer(capsys, "retention", "set", journal, *words)
    assert answer(capsys, "retention", "run", journal)["done"]
    return journal


def gone(folder: Path) -> tuple[int, int, int]:
    """(LSN that was thinned away, the nearest kept one before it, and after it)."""
    history = JournalReader(folder).lineage().history
    lsn = next(lsn for lsn in range(100, 300) if not history.is_point(lsn) and not history.is_point(lsn + 1))
    before, after = history.before(lsn), history.after(lsn)
    assert before and after
    return lsn, before, after


def test_a_time_in_thinned_history_keeps_an_earlier_cut_and_says_which_and_why(
    thinned: Path, capsys: Capture
) -> None:
    _, before, after = gone(thinned)
    reader = JournalReader(thinned)
    asked = reader.record_time(after) - HOUR // 20
    target = f"{thinned}@{format_time(asked)}"
    made = answer(capsys, "retention", "hold", target, "--reason", "case")
    point = made["point"]
    assert made["lsn"] == point["lsn"] == before and point["cut"] and point["consistency"] == "crash"
    assert point["earlier_than_asked"] and not point["exact"] and "thinned" in point["why"]
    assert point["asked_ns"] == asked and point["asked_ns"] - point["time_ns"] == point["earlier_by_ns"] > 0
    assert point["next_lsn"] == after and made["created"].endswith("Z")
    status, out, _ = ask(capsys, "retention", "hold", target, "--reason", "case")
    out = " ".join(out.split())
    assert status == 0 and f"LSN {before} is kept" in out and f"cut:{point['cut']}" in out
    assert "earlier than" in out and "thinned: only kept cuts are left" in out
    assert "not exactly what was asked for" in out
    assert "retention hold" in Path("docs/retention.md").read_text()


def test_a_time_where_every_write_is_kept_is_exact(thinned: Path, capsys: Capture) -> None:
    for target in (f"{thinned}@-2h", f"{thinned}@latest"):
        point = answer(capsys, "retention", "hold", target, "--reason", "case")["point"]
        assert point["exact"] and not point["earlier_than_asked"] and point["why"] is None
    status, out, _ = ask(capsys, "retention", "hold", f"{thinned}@-2h", "--reason", "case")
    assert status == 0 and "exactly what was asked for" in out and "not exactly" not in out


def test_a_point_that_was_thinned_away_is_not_said_to_lie_in_a_gap(thinned: Path, capsys: Capture) -> None:
    lsn, before, after = gone(thinned)
    cuts = {cut.lsn: cut.number for cut in JournalReader(thinned).cuts()}
    number = cuts[before] + 1
    assert number not in cuts.values()
    for point in (f"lsn:{lsn}", f"cut:{number}"):
        status, _, err = ask(capsys, "retention", "hold", f"{thinned}@{point}", "--reason", "late")
        assert status == 6 and "thinned: only kept cuts are left" in err and "gap" not in err
        assert f"cut:{cuts[before]}" in err and f"cut:{cuts[after]}" in err
    for point, expected in (("cut:999999", 3), ("lsn:99999999", 3)):
        status, _, err = ask(capsys, "retention", "hold", f"{thinned}@{point}", "--reason", "late")
        assert status == expected and "thinned:" not in err


def test_a_date_for_a_length_of_time_is_refused_with_the_length_that_it_is(
    journal: Path, capsys: Capture
) -> None:
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10 * 86400))
    for until in (day, f"{day}T00:00:00Z"):
        words = ("retention", "hold", f"{journal}@latest", "--reason", "x", "--until")
        status, _, err = ask(capsys, *words, until)
        assert status == 2 and re.search(r"--until (9|10)d lasts to that day", err), err
        found = re.search(r"--until (\d+d)", err.split("hint:")[1])
        assert found and answer(capsys, *words, found[1])["until"] > day
    status, _, err = ask(capsys, *words, "2020-01-01")
    assert status == 2 and "That day has passed" in err
    status, _, err = ask(capsys, *words, "2020-99-99")
    assert status == 2 and "90d" in err


def test_a_pin_is_released_by_how_its_id_begins(journal: Path, capsys: Capture) -> None:
    made = answer(capsys, "retention", "hold", f"{journal}@latest", "--reason", "x")
    begins = made["pin"][:4].upper()
    assert answer(capsys, "retention", "release", journal, begins) == {"pin": made["pin"], "released": True}
    assert answer(capsys, "retention", "show", journal)["pins"] == []
    for wrong in ("", "zz"):
        assert ask(capsys, "retention", "release", journal, wrong)[0] == 3


def test_a_beginning_that_several_pins_have_lists_them_and_releases_none(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(("2f0c-first", "2f0c-second", "2f0c"))
    monkeypatch.setattr("journal.pins.uuid.uuid4", lambda: next(ids))
    latest = JournalReader(journal).latest()
    assert latest
    for reason in ("case 1", "case 2"):
        pins.pin(journal, 1, latest, reason=reason, holder="me")
    status, _, err = ask(capsys, "retention", "release", journal, "2f0c")
    assert status == 2 and "2f0c-first (case 1)" in err and "2f0c-second (case 2)" in err
    assert len(answer(capsys, "retention", "show", journal)["pins"]) == 2
    pins.pin(journal, 1, latest, reason="case 3", holder="me")
    assert (
        answer(capsys, "retention", "release", journal, "2f0c")["pin"] == "2f0c"
    )  # all of an id is no beginning
