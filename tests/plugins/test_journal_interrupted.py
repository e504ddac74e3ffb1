"""Ctrl-C on the commands on journals: what is left is told, in JSON where that was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.journal.test_damage import DISK
from tests.plugins.test_journal_commands import Capture, ask, journal

__all__ = ["journal"]

_INTERRUPTED = """
import itertools, os, signal, sys
import journal.offline.{module} as module
real, calls = os.{call}, itertools.count(1)
def interrupted(*words):
    if next(calls) == {at}: os.kill(os.getpid(), signal.SIGINT)
    return real(*words)
module.os = type(os)("os")
module.os.__dict__.update(os.__dict__)
module.os.{call} = interrupted
from plugins.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def interrupted(module: str, call: str, at: int, folder: Path, *words: object) -> tuple[int, str, str]:
    """A real process, a real signal: it comes with a call of a number, however slow or quick the machine is."""
    code = _INTERRUPTED.format(module=module, call=call, at=at)
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
    line = [sys.executable, "-c", code, "journal", *map(str, words)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_leaves_a_check_that_goes_on(journal: Path, tmp_path: Path) -> None:
    status, out, err = interrupted("check", "pread", 10, tmp_path, "check", journal)
    assert (status, out) == (130, "") and "Stopped at " in err and "goes on from there" in err
    status, out, err = interrupted("check", "pread", 10, tmp_path, "check", journal, "--restart", "--json")
    error = json.loads(err)["error"]
    assert (status, out, error["code"], error["exit_status"]) == (130, "", "interrupted", 130)
    assert 0 < error["details"]["done_bytes"] < error["details"]["total_bytes"]
    assert "goes on from there" in error["hint"]
    (kept,) = (tmp_path / "state/lastwrite").iterdir()
    words = ("journal", "check", str(journal), "--json")
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run([sys.executable, "-m", "plugins.cli.main", *words], env=environment,
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    found = json.loads(done.stdout)
    assert found["ok"] and found["resumed_bytes"] > 0 and not kept.exists()


def test_ctrl_c_leaves_nothing_of_a_rescue_and_it_says_so(journal: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, err = interrupted("rescued", "pwrite", 2, tmp_path, "rescue", journal, "latest", out)
    assert status == 130 and "Stopped at " in err and "nothing half written is left behind" in err
    assert "begins anew" in err and not out.exists()
    status, said, err = interrupted(
        "rescued", "pwrite", 2, tmp_path, "rescue", journal, "latest", out, "--json"
    )
    error = json.loads(err)["error"]
    assert (status, said, error["code"], error["details"]["left"]) == (130, "", "interrupted", [])
    assert not out.exists()


def test_ctrl_c_between_two_names_tells_which_images_are_there(
    journal: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link
    names: list[str] = []

    def link(source: str, name: str, **where: Any) -> None:
        if names:
            raise KeyboardInterrupt
        names.append(name)
        real(source, name, **where)

    monkeypatch.setattr("lastwrite.wholefile.os.link", link)
    status, _, err = ask(capsys, "journal", "rescue", journal, "latest", tmp_path / "out", "--json")
    error = json.loads(err)["error"]
    assert status == 130 and error["details"]["left"] == [str(tmp_path / "out" / names[0])]
    assert "overwrites nothing" in error["hint"] and (tmp_path / "out" / names[0]).stat().st_size == DISK


def test_every_command_tells_an_interruption_in_json(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name, words in (("info", ()), ("compare", ("1", "2")), ("reindex", ())):
        monkeypatch.setattr(f"journal.offline.{name}.{name}", stop)
        command = "diff" if name == "compare" else name
        status, _, err = ask(capsys, "journal", command, journal, *words, "--json")
        assert (status, json.loads(err)["error"]["code"]) == (130, "interrupted"), name
