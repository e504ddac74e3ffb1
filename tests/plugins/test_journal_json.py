"""What the commands on journals print for programs: keys that say what they count, strings that no terminal obeys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from journal import layout
from journal.writer import JournalWriter
from lastwrite.instant import parse_time
from plugins.cli.output import escaped, show
from plugins.models import HypervisorInfo, HypervisorList
from tests.journal.tap import Tap
from tests.journal.test_damage import DISK
from tests.plugins.test_journal_commands import Capture, answer, ask, journal, segments

__all__ = ["journal"]


def test_json_names_what_is_counted_and_in_which_unit(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    """A key `x_ns` is an integer; where `x` stands beside it, that is the same instant as ISO 8601."""
    reports = [
        answer(capsys, "journal", "info", journal),
        answer(capsys, "journal", "check", journal),
        answer(capsys, "journal", "rescue", journal, "latest", tmp_path / "out"),
        answer(capsys, "journal", "diff", journal, "before-upgrade", "latest"),
    ]
    pairs = [pair for report in reports for pair in _values(report)]
    instants = 0
    for key, value, beside in pairs:
        if not key.endswith("_ns"):
            assert not (isinstance(value, int) and value > 10**15), key
        elif key.removesuffix("_ns") in beside and value is not None:
            assert parse_time(beside[key.removesuffix("_ns")]) == value
            instants += 1
    assert instants > 15 and {"mono_ns", "offset_ns", "frozen_ns"} <= {key for key, _, _ in pairs}
    line, checked = reports[0]["timelines"][0], reports[1]
    for counts in (line, checked):
        assert counts["files"] == counts["segments"] + counts["net_segments"] == len(segments(journal))


def _values(report: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for item in report if isinstance(report, list) else report.values() if isinstance(report, dict) else ():
        yield from _values(item)
    if isinstance(report, dict):
        yield from ((key, value, report) for key, value in report.items())


def test_json_holds_no_character_that_a_terminal_obeys(tmp_path: Path, capsys: Capture) -> None:
    name = "web\x80\x9b31m\x9f\x7f\u202e01"
    assert json.loads(escaped(json.dumps(name, ensure_ascii=False))) == name
    assert escaped(json.dumps(name, ensure_ascii=False)).isascii()
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        Tap(writer, {0: DISK}).protect()
    identity = layout.read_identity(tmp_path / "j")._replace(vm=name)  # no writer of ours takes such a name
    (tmp_path / "j" / layout.IDENTITY).write_bytes(layout.identity_text(identity))
    for command in ("info", "check", "reindex"):
        _, out, err = ask(capsys, "journal", command, tmp_path / "j", "--json")
        assert (out + err).isascii() and json.loads(out)["name"] == name
    show(
        HypervisorList(hypervisors=[HypervisorInfo(name=name, kind="k", url="u", created="c")]),
        True,
        _nothing,
    )
    printed = capsys.readouterr().out
    assert printed.isascii() and json.loads(printed)["hypervisors"][0]["name"] == name


def _nothing(*_: object) -> None:
    raise AssertionError("nothing is printed for people")
