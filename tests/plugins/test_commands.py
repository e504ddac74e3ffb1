"""The command line itself: help, documents, speed, and what needs no server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lastwrite.errors import LastwriteError
from plugins import checks
from plugins.cli import commanddoc
from plugins.cli.commands import COMMANDS, GROUPS, Command
from plugins.cli.help import exit_statuses, overview
from plugins.cli.leaf import examples_of, function_of, help_of
from plugins.cli.main import find, run
from plugins.errors import UnknownCommandError
from tests.recovery.journals import JournalMaker, block

ROOT = Path(__file__).resolve().parents[2]
HELP_BUDGET_S = 0.2
EVERY = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


@EVERY
def test_the_help_has_an_example_that_the_command_line_understands_and_its_exit_statuses(
    command: Command,
) -> None:
    text = help_of(command)
    ends = {0, 1, 2, 130, *command.ends}
    for status, meaning in exit_statuses():
        assert (f"{status:<4} {meaning}" in text) == (status in ends)
    for example in examples_of(command):
        assert f"    {example}" in text
        words = example.split()
        assert words[0] == "lastwrite" and find(words[1:]) == command


@EVERY
def test_the_overview_says_what_the_help_says(command: Command) -> None:
    assert (function_of(command).__doc__ or "").splitlines()[0] == command.summary
    assert f"{command.name:<18} {command.summary}" in overview()


@EVERY
def test_every_command_but_serve_can_answer_in_json(command: Command) -> None:
    assert ("--json" in help_of(command)) == (command.name != "serve")


def test_the_document_shows_every_help_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert (ROOT / "docs/commands.md").read_text() == commanddoc.text()


def test_every_file_of_a_command_is_in_the_table() -> None:
    machinery = {
        "commanddoc",
        "commands",
        "help",
        "journalview",
        "leaf",
        "main",
        "options",
        "output",
        "progress",
        "__init__",
    }
    files = {path.stem for path in (ROOT / "plugins/cli").glob("*.py")}
    assert files - machinery == {command.module.rpartition(".")[2] for command in COMMANDS}
    assert {command.words[0] for command in COMMANDS if len(command.words) > 1} == set(GROUPS)


def test_the_exit_statuses_are_those_of_the_error_tree() -> None:
    below = {
        kind.exit_code for kind in LastwriteError.__subclasses__() if kind.__module__ == "lastwrite.errors"
    }
    assert [status for status, _ in exit_statuses()] == [0, 1, *sorted(below), 130]


def test_help_answers_at_once_because_nothing_is_imported_for_it() -> None:
    code = (
        "import sys; from plugins.cli.main import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    took = []
    for _ in range(5):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
        took.append(time.monotonic() - began)
    print(f"lastwrite --help: {min(took) * 1000:.0f} ms at best of 5, budget {HELP_BUDGET_S * 1000:.0f} ms")
    heavy = {"typer", "rich", "pydantic", "sqlalchemy", "httpx", "fastapi", "numpy"}
    assert heavy.isdisjoint(done.stderr.split())
    assert min(took) < HELP_BUDGET_S


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["vm"], ["vm", "--help"], ["--version"]])
def test_help_needs_no_configuration(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    assert "lastwrite" in capsys.readouterr().out


def test_unknown_commands_offer_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for words, offered in ((["protct"], "protect"), (["vm", "lst"], "list"), (["journal", "chek"], "check")):
        with pytest.raises(UnknownCommandError) as caught:
            find(words)
        assert offered in caught.value.hint
        assert run(words) == 2
        assert f"hint: Did you mean {offered}" in capsys.readouterr().err
    assert run(["protct", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "unknown-command"


def test_without_a_server_every_command_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["status"],
        ["vm", "list"],
        ["protect", "web01"],
        ["recover", "web01@latest", "--to", "/tmp/x.raw"],
    ):
        assert run([*words, "--state", str(tmp_path)]) == 4
        printed = capsys.readouterr()
        assert printed.out == ""
        assert f"error: no server is running at {tmp_path}/control.sock\n" in printed.err
        assert "hint: Start it with `lastwrite serve`" in printed.err


def test_a_defect_is_told_in_one_line_and_with_its_place_only_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.cli.leaf.app_of", lambda _command: 1 // 0)
    assert run(["status"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ZeroDivisionError") and "LASTWRITE_DEBUG=1" in printed
    monkeypatch.setenv("LASTWRITE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["status"])


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m plugins.cli.main --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_configuration_is_checked_without_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lastwrite.toml"
    file.write_text("[tap]\nring_mib = 128\n")
    assert run(["config", "check", "--config", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file"] == str(file) and report["settings"]["tap"]["ring_mib"] == 128
    file.write_text("[tap]\nring_mib = 5\n")
    assert run(["config", "check", "--config", str(file)]) == 2
    assert "tap: ring_mib must be a power of two" in capsys.readouterr().err


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    maker = JournalMaker(tmp_path / "web01")
    maker.synced()
    maker.write(8, block(7))
    maker.cut("bookmark", "good")
    return maker.folder


def test_a_journal_is_shown_and_checked_with_no_server(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["journal", "info", str(journal), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["name"] == "web01" and report["timelines"][0]["bookmarks"][0]["label"] == "good"
    assert run(["journal", "info", str(journal)]) == 0
    assert "good" in capsys.readouterr().out
    assert run(["journal", "check", str(journal), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_damaged_journal_is_named_with_exit_status_5(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = next(journal.rglob("*.seg"))
    data = bytearray(segment.read_bytes())
    place = data.rindex(bytes([7]) * 4096)
    data[place + 100] ^= 1
    segment.write_bytes(data)
    assert run(["journal", "check", str(journal), "--json"]) == 5
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["damaged"][0]["path"] == str(segment)
    assert run(["journal", "check", str(journal)]) == 5
    assert segment.name in capsys.readouterr().out.replace("\n", "")


def test_a_folder_that_is_no_journal_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["journal", "info"], ["journal", "check"]):
        assert run([*words, str(tmp_path), "--json"]) == 3
        assert json.loads(capsys.readouterr().err)["error"]["code"] == "not-a-journal"


def test_doctor_names_each_thing_that_is_missing_and_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["doctor", "--state", str(tmp_path), "--json"]) == 4
    report = json.loads(capsys.readouterr().out)
    found = {check["name"]: check for check in report["checks"]}
    assert {name for name, check in found.items() if not check["ok"]} >= {
        "qemu-img",
        "nbdinfo",
        "nbdcopy",
        "server",
    }
    assert found["python"]["ok"] and found["packages"]["ok"] and found["state directory"]["ok"]
    assert all(check["remedy"] for check in report["checks"] if not check["ok"])
    assert run(["doctor", "--state", str(tmp_path)]) == 4
    assert "Install qemu-utils" in capsys.readouterr().out


def test_doctor_tells_when_others_can_enter_the_state_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode, ok in ((0o755, False), (0o700, True)):
        tmp_path.chmod(mode)
        run(["doctor", "--state", str(tmp_path), "--json"])
        checks_made = json.loads(capsys.readouterr().out)["checks"]
        [rights] = [check for check in checks_made if check["name"] == "state directory's rights"]
        assert (rights["ok"], rights["found"]) == (ok, f"mode {mode:04o}")
        assert f"chmod 0700 {tmp_path}" in rights["remedy"]


def test_doctor_finds_a_wrong_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text("[tap]\nx = 1\n")
    assert run(["doctor", "--config", str(tmp_path / "x.toml"), "--json"]) == 4
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "tap.x: no such key" in found["configuration"]["found"]


def test_doctor_finds_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["msgpack>=99,<100", "no-such-thing>=1", "rich>=1", 'pytest>=99; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: wanted)
    [check] = checks._packages()
    assert not check.ok
    assert "msgpack is" in check.found and "no-such-thing is missing" in check.found
    assert "rich" not in check.found and "pytest" not in check.found


def test_doctor_finds_another_distribution_with_our_names(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"journal": ["lastwrite", "journal-tools"], "plugins": ["lastwrite"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    assert checks.foreign_owners() == {"journal": ["journal-tools"]}


def test_colours_are_for_terminals_only(journal: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "plugins.cli.main", "journal", "info", str(journal)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, timeout=30, check=True)
    assert b"\x1b" not in done.stdout
