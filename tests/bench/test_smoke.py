"""Every benchmark runs, and reaches the floors: a short run of each, measured again up to twice when below."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS
from tests.needs import missing

ROOT = Path(__file__).parents[2]


@pytest.mark.bench
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_floors_hold(name: str, tmp_path: Path) -> None:
    if name == "ingest" and not shutil.which("fio"):
        missing("fio is not installed")
    argv = [sys.executable, "-m", "bench", name, "--smoke", "--json", "--folder", str(tmp_path)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280)
    figures = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, (ran.stderr, figures)
    assert figures and all(figure["name"] == name and len(figure["rounds"]) >= 3 for figure in figures)
