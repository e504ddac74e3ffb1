"""What the retention commands say to do where something stands in the way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from journal import layout, pins
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.catalog import Catalog
from lastwrite.config import Settings
from plugins.cli.main import run
from tests.plugins.test_retention_commands import Capture, answer, ask, journal
from tests.plugins.test_retention_refusals import refused

__all__ = ["journal"]
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show",),
    ("run",),
    ("set", "--every-write", "3d"),
    ("release", "2f0c"),
    ("prune", "2"),
)


def on(folder: Path | str, words: tuple[str, ...]) -> tuple[str, ...]:
    return (words[0], str(folder), *words[1:])


def test_a_bare_number_is_no_size_but_nothing_is(journal: Path, capsys: Capture) -> None:
    for number in ("12", " 7 ", "0012"):
        said = refused(capsys, "set", journal, "--reserve", number)
        assert "has no unit" in said and all(
            unit in said for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "5%")
        )
    assert answer(capsys, "retention", "show", journal)["promise"]["own"] is False
    for good, expected in (("0", 0), ("12B", 12), ("12 MiB", 12 << 20), ("1G", 1 << 30)):
        changed = answer(capsys, "retention", "set", journal, "--reserve", good)
        assert changed["promise"]["own_reserve_bytes"] == changed["promise"]["reserve_bytes"] == expected


def test_the_main_timeline_is_not_given_up_and_its_hint_says_what_to_do_instead(
    journal: Path, capsys: Capture
) -> None:
    said = refused(capsys, "prune", journal, 1, status=6)
    assert "is the main one" in said and "unprotect VM --delete-journal" in said
    assert "retention set" in said and JournalReader(journal).latest()


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_journal_without_its_identity_is_led_to_info_and_rescue(
    journal: Path, capsys: Capture, words: tuple[str, ...]
) -> None:
    (journal / layout.IDENTITY).unlink()
    said = refused(capsys, *on(journal, words), status=3)
    assert f"lastwrite journal info {journal}" in said and "lastwrite journal rescue" in said
    state = ("--state", str(journal.parents[1]))
    assert f"lastwrite journal info {journal}" in refused(capsys, *on("web01", words), *state, status=3)
    assert ask(capsys, "journal", "info", journal)[0] == 0
    shutil.rmtree(journal / layout.TIMELINES)
    assert "journal rescue" in refused(capsys, *on(journal, words), status=3)  # the log alone tells, too


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_folder_that_is_not_there_or_is_none_of_a_journal_is_said_to_be_that(
    journal: Path, capsys: Capture, words: tuple[str, ...]
) -> None:
    said = refused(capsys, *on(journal / "none", words), status=3)
    assert f"There is no folder {journal / 'none'}" in said and "lastwrite status" in said
    assert f"In it are {journal}." in refused(capsys, *on(journal.parent, words), status=3)
    moved = journal.with_name("moved")
    journal.rename(moved)
    state = ("--state", str(journal.parents[1]))
    assert "is not where it was" in refused(capsys, *on("web01", words), *state, status=3)


def test_a_journal_that_may_not_be_written_is_said_to_be_that(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = JournalReader(journal).latest()
    assert latest
    pin = pins.pin(journal, 1, latest, reason="x", holder="me").pin
    plain = os.open

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(journal) in str(path):
            raise OSError(30, os.strerror(30), str(path))
        return plain(path, flags, *rest, **more)

    monkeypatch.setattr("os.open", opened)
    for words in (("run",), ("set", "--every-write", "12h"), ("release", pin), ("prune", "2")):
        said = refused(capsys, *on(journal, words), status=4)
        assert "Read-only file system" in said and "Nothing was changed" in said and "only read" in said
    said = refused(capsys, "hold", f"{journal}@latest", "--reason", "y", status=4)
    assert "Nothing was changed" in said
    assert answer(capsys, "retention", "show", journal)["pins"]
    assert answer(capsys, "retention", "run", journal, "--dry-run")["planned"]


def test_a_journal_that_may_not_be_read_is_no_defect(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.open

    def opened(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith(layout.META_LOG) or str(path).endswith(layout.IDENTITY):
            raise PermissionError(13, os.strerror(13), str(path))
        return plain(path, *rest, **more)

    monkeypatch.setattr("os.open", opened)
    said = refused(capsys, "show", journal, status=4)
    assert "may not be read" in said and "the user that owns the journal" in said


def test_a_vm_and_a_folder_of_one_name_are_never_taken_for_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(state_dir=tmp_path / "state")
    theirs, here = settings.journals_dir / "web01", tmp_path / "web01"
    theirs.parent.mkdir(parents=True)
    for folder in (theirs, here):
        JournalWriter.create(folder, "web01").close()
    catalog = Catalog(settings.catalog_url)
    catalog.add_hypervisor("lab", "libvirt", "qemu:///system")
    catalog.add_vm("web01", "lab", "web01", journal=str(theirs))
    catalog.close()
    monkeypatch.chdir(tmp_path)
    words = ["retention", "show", "--state", str(tmp_path / "state"), "--json"]
    assert run([*words, "web01"]) == 2
    assert "Write ./web01 for the folder" in capsys.readouterr().err
    for name, journal_folder in (("./web01", "web01"), (str(theirs), str(theirs))):
        assert run([*words, name]) == 0
        assert json.loads(capsys.readouterr().out)["journal"] == journal_folder
    monkeypatch.chdir(theirs.parent)  # there the folder of that name is the VM's own
    assert run([*words, "web01"]) == 0
