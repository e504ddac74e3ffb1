"""`lastwrite retention ...` as a person at a shell uses it: with a folder, or with a VM of a state directory."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from journal.errors import NotRecoverable
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.catalog import Catalog
from lastwrite.config import Settings
from plugins.cli.main import run
from plugins.server.upkeep import journals
from tests.journal.tap import Tap

HOUR = 3_600_000_000_000
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of 40 hours up to now, a cut every six minutes; named in the catalog of a state directory."""
    settings = Settings.load(state_dir=tmp_path / "state")
    folder = settings.journals_dir / "web01"
    folder.parent.mkdir(parents=True)
    catalog = Catalog(settings.catalog_url)
    catalog.add_hypervisor("here", "libvirt", "qemu:///system")
    catalog.add_vm("web01", "here", "web01", journal=str(folder))
    catalog.close()
    now = time.time_ns()
    with monkeypatch.context() as patched:
        clock = [now - 40 * HOUR]
        patched.setattr("time.time_ns", lambda: clock[0])
        patched.setattr("tests.journal.tap.WALL", clock[0])
        choices = random.Random(2)
        with JournalWriter.create(folder, "web01", segment_bytes=120_000) as writer:
            tap = Tap(writer, {0: 16 * 4096})
            tap.protect()
            for _ in range(400):
                clock[0] += HOUR // 10
                tap.mono += HOUR // 10
                tap.write(0, choices.randrange(16) * 8, choices.randbytes(4096))
                tap.cut()
            writer.fork(writer.next_lsn - 5, "drill")
    return folder


def ask(capsys: Capture, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def answer(capsys: Capture, *words: object) -> Any:
    status, out, err = ask(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out)


def test_a_promise_is_shown_changed_and_kept(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    state = ("--state", tmp_path / "state")
    first = answer(capsys, "retention", "show", "web01", *state)
    assert first["promise"]["own"] is False and first["forecast"]["write_rate_bytes_per_day"] > 0
    assert first["journal"] == str(journal)
    assert answer(capsys, "retention", "show", journal) | {"forecast": 0} == first | {"forecast": 0}
    words = ("--every-write", "6h", "--tiers", "1h:1d, 6h:30d", "--floor", "1d")
    changed = answer(capsys, "retention", "set", "web01", *words, *state)
    assert changed["promise"]["own"] and changed["promise"]["every_write_ns"] == 6 * HOUR
    status, out, _ = ask(capsys, "retention", "show", "web01", *state)
    assert status == 0 and "one point a hour up to 1d" not in out and "one point an hour up to 1d" in out
    planned = answer(capsys, "retention", "run", "web01", "--dry-run", *state)
    assert planned["planned"] and not planned["done"]
    assert not list((journal / "timelines/0001").glob("*.net"))
    done = answer(capsys, "retention", "run", "web01", *state)
    assert done["done"] and done["freed_bytes"] > 0 and not done["left"]
    assert list((journal / "timelines/0001").glob("*.net"))
    status, out, _ = ask(capsys, "retention", "run", "web01", *state)
    assert status == 0 and "Nothing is due" in out
    assert answer(capsys, "retention", "set", "web01", "--default", *state)["promise"]["own"] is False


def test_what_makes_no_sense_or_breaks_the_floor_is_refused_with_a_hint(
    journal: Path, capsys: Capture
) -> None:
    for words in (
        (),
        ("--tiers", "1h"),
        ("--every-write", "soon"),
        ("--floor", "9y"),
        ("--reserve", "90%"),
        ("--when-full", "x"),
    ):
        status, _, err = ask(capsys, "retention", "set", journal, *words)
        assert status == 2 and "hint: " in err, words
    status, _, err = ask(capsys, "retention", "set", journal, "--floor", "1h")
    assert status == 6 and "the guaranteed floor of 1d would become 1h" in err and "--force" in err
    assert (
        answer(capsys, "retention", "set", journal, "--floor", "1h", "--force")["promise"]["floor_ns"] == HOUR
    )
    for target, expected in (("web99", 3), ("./web99", 3)):
        assert ask(capsys, "retention", "show", target, "--state", journal.parents[1])[0] == expected


def test_a_held_point_stays_until_it_is_released(journal: Path, capsys: Capture) -> None:
    answer(
        capsys, "retention", "set", journal, "--every-write", "2h", "--tiers", "", "--floor", "1h", "--force"
    )
    pin = answer(capsys, "retention", "hold", f"{journal}@-20h", "--reason", "case 4711", "--until", "9d")
    shown = answer(capsys, "retention", "show", journal)
    assert [held["reason"] for held in shown["pins"]] == ["case 4711"]
    status, out, _ = ask(capsys, "retention", "show", journal)
    assert status == 0 and pin["pin"] in out and "kept whatever is promised" in out
    answer(capsys, "retention", "run", journal)
    assert JournalReader(journal).point(pin["lsn"])
    with pytest.raises(NotRecoverable):
        JournalReader(journal).point(pin["lsn"] + 1)
    answer(capsys, "retention", "release", journal, pin["pin"])
    status, _, err = ask(capsys, "retention", "release", journal, pin["pin"])
    assert status == 3 and "has no pin" in err
    status, _, err = ask(capsys, "retention", "hold", f"{journal}@lsn:{pin['lsn'] + 1}", "--reason", "late")
    assert status == 6 and "hint: " in err


def test_a_timeline_is_given_up(journal: Path, capsys: Capture) -> None:
    assert answer(capsys, "retention", "prune", journal, 2) == {"timeline": 2, "pruned": True}
    assert ask(capsys, "retention", "prune", journal, 2)[0] == 3
    assert ask(capsys, "retention", "prune", journal, 1)[0] == 6


def test_the_upkeep_process_finds_the_journals_of_the_catalog_and_those_of_ended_protection(
    journal: Path, tmp_path: Path
) -> None:
    settings = Settings.load(state_dir=tmp_path / "state")
    JournalWriter.create(settings.journals_dir / "kept", "kept").close()
    (settings.journals_dir / "no journal").mkdir()
    catalog = Catalog(settings.catalog_url)
    try:
        assert journals(settings, catalog) == [settings.journals_dir / "kept", journal]
    finally:
        catalog.close()
