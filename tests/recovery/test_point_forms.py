from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.errors import AmbiguousPoint, BadExport, BadPoint, ClockSetBack, PointInGap, PointNotFound
from recovery.points import (
    CONSISTENCIES,
    Form,
    Point,
    format_time,
    parse,
    parse_time,
    split_export,
    split_target,
)

DOC = Path(__file__).parents[2] / "docs" / "recovery-points.md"
T = 1795341605  # 2026-11-22T10:00:05Z


@pytest.mark.parametrize(
    ("text", "form", "number", "name"),
    [
        ("latest", Form.LATEST, 0, ""),
        ("2026-11-22T10:00:05Z", Form.TIME, T * 10**9, ""),
        ("2026-11-22T10:00:05", Form.TIME, T * 10**9, ""),
        ("2026-11-22 10:00:05", Form.TIME, T * 10**9, ""),
        ("2026-11-22t10:00:05z", Form.TIME, T * 10**9, ""),
        ("2026-11-22T10:00", Form.TIME, (T - 5) * 10**9, ""),
        ("2026-11-22T11:00:05+01:00", Form.TIME, T * 10**9, ""),
        ("2026-11-22T11:00:05+01", Form.TIME, T * 10**9, ""),
        ("2026-11-22T05:30:05-0430", Form.TIME, T * 10**9, ""),
        ("2026-11-22T10:00:05.25Z", Form.TIME, T * 10**9 + 250_000_000, ""),
        ("2026-11-22T10:00:05,000000001", Form.TIME, T * 10**9 + 1, ""),
        ("-90s", Form.AGO, 90 * 10**9, ""),
        ("-10m", Form.AGO, 600 * 10**9, ""),
        ("-2h", Form.AGO, 7200 * 10**9, ""),
        ("-1d", Form.AGO, 86400 * 10**9, ""),
        ("cut:1234", Form.CUT, 1234, ""),
        ("lsn:987654", Form.LSN, 987654, ""),
        ("app:before upgrade", Form.APP, 0, "before upgrade"),
        ("app:latest", Form.APP, 0, "latest"),
        ("app:app:x@y/z", Form.APP, 0, "app:x@y/z"),
        ("before-upgrade", Form.NAME, 0, "before-upgrade"),
        ("Before: the upgrade", Form.NAME, 0, "Before: the upgrade"),
    ],
)
def test_each_form_is_understood(text: str, form: Form, number: int, name: str) -> None:
    assert parse(text) == Point(text, form, number, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " latest",
        "latest ",
        "a\nb",
        "a\0b",
        "x" * 513,
        "app:",
        "cut:",
        "cut:x",
        "cut:-1",
        "cut:1.5",
        "cut:1 ",
        "lsn:",
        "lsn:0x10",
        "lsn:٣",
        "lsn:" + "9" * 20,
        "-10",
        "-m",
        "-10x",
        "-10 m",
        "--10m",
        "-1.5h",
        "2026-11-22",
        "2026-11",
        "2026-11-22T",
        "2026-11-22T10",
        "2026-11-22T10:00:05+1",
        "2026-13-22T10:00:05",
        "2026-11-31T10:00:05",
        "2026-11-22T25:00:05",
        "2026-11-22T10:00:61",
        "2026-11-22T10:00:05.Z",
        "2026-11-22T10:00:05 CET",
        "2026-11-22T10:00:05.1234567891",
        "1969-12-31T23:59:59Z",
        "pg:0/1A2B3C4",
        "gtid:1",
        "latest-proven",
    ],
)
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(BadPoint):
        parse(text)


@given(st.integers(min_value=0, max_value=4 * 10**18))
def test_a_time_that_was_written_reads_back_the_same(wall: int) -> None:
    assert parse_time(format_time(wall)) == wall


@given(st.text(max_size=60))
def test_any_text_gives_a_point_or_bad_point(text: str) -> None:
    try:
        assert parse(text).text == text
    except BadPoint:
        pass


def test_only_latest_and_ago_may_move() -> None:
    moving = [
        text
        for text in ("latest", "-1s", "cut:1", "lsn:1", "app:x", "x", "2026-11-22T10:00")
        if parse(text).floating
    ]
    assert moving == ["latest", "-1s"]


def test_a_target_is_a_vm_and_a_point() -> None:
    assert split_target("web01@-10m") == ("web01", parse("-10m"))
    assert split_target("web01") == ("web01", parse("latest"))
    assert split_target("web01@app:a@b") == ("web01", parse("app:a@b"))
    for bad in ("@latest", "", "web01@"):
        with pytest.raises(BadPoint):
            split_target(bad)


def test_an_export_name_is_a_vm_a_disk_and_a_point() -> None:
    assert split_export("web01/vda@2026-11-22T10:00:05+01:00")[:2] == ("web01", "vda")
    assert split_export("web01/vda@app:a/b@c")[2] == parse("app:a/b@c")
    for bad in ("", "web01", "web01/vda", "vda@latest", "/vda@latest", "web01/@latest"):
        with pytest.raises(BadExport):
            split_export(bad)
    with pytest.raises(BadPoint):
        split_export("web01/vda@")


def documented(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of the document, without its first two lines."""
    section = DOC.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_document_shows_every_form_and_the_parser_agrees() -> None:
    rows = documented("Forms")
    assert {form for _, form, _ in rows} == {form.value for form in Form}
    assert [parse(text).form.value for text, _, _ in rows] == [form for _, form, _ in rows]


def test_the_document_lists_every_consistency_best_first() -> None:
    assert [name for name, _ in documented("Consistency")] == list(CONSISTENCIES)


def test_the_document_names_the_errors_by_their_codes() -> None:
    codes = {code for _, code, _ in documented("Gaps, and other points that are not there")}
    assert codes == {
        kind.code for kind in (PointInGap, PointNotFound, AmbiguousPoint, BadPoint, ClockSetBack)
    }


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "1970-01-01T00:00+01:00"]
)
def test_a_time_outside_the_years_that_there_are_is_no_point(text: str) -> None:
    with pytest.raises(BadPoint):
        parse(text)
