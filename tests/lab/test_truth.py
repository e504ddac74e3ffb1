"""The judge of recovered databases: what it lets pass, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from lab.demo.report import timeline
from lab.truth import judge, parse_commits

COMMITS = parse_commits("1 100 110\n2 200 210\n3 300 310\n4 40")


def found(last: int | None, **other: Any) -> dict[str, Any]:
    return {
        "integrity": "ok",
        "rows": last or 0,
        "first": 1,
        "last": last,
        "bad_checksums": 0,
        "holes": 0,
        **other,
    }


def test_a_last_line_that_is_not_whole_is_left_out() -> None:
    assert [commit.n for commit in COMMITS] == [1, 2, 3]


@pytest.mark.parametrize(("instant", "last"), [(99, None), (110, 1), (205, 1), (205, 2), (1000, 3)])
def test_exactly_what_was_committed_passes_and_so_does_what_was_in_flight(
    instant: int, last: int | None
) -> None:
    assert judge(found(last), COMMITS, instant).good


@pytest.mark.parametrize(
    ("instant", "seen", "fault"),
    [
        (210, found(1), "committed up to row 2, recovered only up to 1"),
        (150, found(2), "row 2 was committed after the instant"),
        (310, found(3, holes=1), "1 missing in between"),
        (310, found(3, bad_checksums=2), "2 rows with a wrong checksum"),
        (310, found(3, integrity="no such table: rows"), "no such table"),
    ],
)
def test_every_fault_is_named(instant: int, seen: dict[str, Any], fault: str) -> None:
    verdict = judge(seen, COMMITS, instant)
    assert not verdict.good
    assert fault in "; ".join(verdict.faults)


def test_labels_of_close_events_stand_in_rows_of_their_own() -> None:
    second = 10**9
    marks = timeline(
        [(0, "a long first label", "x"), (second, "close by", "x"), (300 * second, "the end", "x")]
    )
    assert [mark.row for mark in marks] == [0, 1, 0]
    assert marks[-1].anchor == "end"
