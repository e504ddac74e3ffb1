"""What is printed: names out of a journal are other people's words, and a terminal obeys none of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.text import Text

from journal import layout
from journal.writer import JournalWriter
from plugins.cli import journal as commands
from plugins.cli.main import run
from plugins.cli.output import console, fields, printable, say, table
from tests.journal.tap import Tap
from tests.journal.test_damage import DISK

EVIL = "web\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\u202egnp\x0001"
Capture = pytest.CaptureFixture[str]


def harmful(text: str) -> list[str]:
    return [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e")]


def test_nothing_that_a_terminal_obeys_is_printed(capsys: Capture) -> None:
    out = console()
    say(EVIL, out)
    out.print(table(("NAME",), [(EVIL,), (Text(EVIL),)]))
    out.print(fields([("Name", EVIL)]))
    out.print(Text.assemble(("Lost: ", "red"), EVIL))
    printed = capsys.readouterr().out
    assert "owned" in printed and harmful(printed) == []


def test_colours_of_our_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    out = console()
    out.file = io.StringIO()
    monkeypatch.setattr(out, "_color_system", 1)
    monkeypatch.setattr(out, "_force_terminal", True)
    say(EVIL, out, "red")
    text = out.file.getvalue()
    assert text.startswith("\x1b[31m") and text.count("\x1b") == 2


def test_what_people_write_stays_as_it_is() -> None:
    assert printable("Grüße, 世界\n\ttab") == "Grüße, 世界\n\ttab"


def test_a_journal_whose_names_hold_escapes_is_shown_harmless(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        Tap(writer, {0: DISK}).protect()
    identity = layout.read_identity(tmp_path / "j")._replace(vm=EVIL)  # no writer of ours takes such a name
    (tmp_path / "j" / layout.IDENTITY).write_bytes(layout.identity_text(identity))
    for words in (["info"], ["check"], ["rescue", "no\x1b[2Jpoint", str(tmp_path / "o.raw")]):
        run(["journal", words[0], str(tmp_path / "j"), *words[1:]])
        printed = capsys.readouterr()
        assert printed.out + printed.err
        assert harmful(printed.out + printed.err) == [], words


def test_a_check_that_is_stopped_before_it_read_anything_says_so(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("journal.offline.check.check", stop)
    assert run(["journal", "check", str(tmp_path)]) == commands.INTERRUPTED
    told = capsys.readouterr().err
    assert "before anything was read" in told and "0 B" not in told
