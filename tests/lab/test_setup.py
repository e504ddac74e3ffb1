"""The set-up says why it wants each package, and the lab's command line says what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.__main__ import main

ROOT = Path(__file__).parents[2]


def test_every_package_is_listed_once_with_its_reason() -> None:
    lines = [
        line
        for line in (ROOT / "setup" / "packages.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    found = [re.fullmatch(r"([a-z0-9][a-z0-9.+-]+) +# (\S.*)", line) for line in lines]
    assert all(found), lines
    names = [match[1] for match in found if match]
    assert len(set(names)) == len(names) >= 10


def test_status_tells_two_hosts_that_are_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LASTWRITE_LAB", str(tmp_path))
    assert main(["status", "--json"]) == 0
    hosts = json.loads(capsys.readouterr().out)
    assert [(h["name"], h["up"], h["guests"]) for h in hosts] == [
        ("source", False, {}),
        ("target", False, {}),
    ]
    assert main(["down"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_ends_with_status_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab", "sideways"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "sideways" in done.stderr
