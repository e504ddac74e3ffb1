"""Damaged and forged journals: no crash, no hang, little memory, and never a wrong block by accident."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journal.machine import Machine

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("LASTWRITE_FUZZ_SECONDS", "5"))
MOST_MB = 100


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with everything in it: epochs, a fork, names, pins, net segments, indexes and net maps."""
    folder = tmp_path_factory.mktemp("fuzz")
    machine, choices = Machine(folder), random.Random(20)
    for number in range(5):
        machine.epoch(choices, whole=number != 2)
        for _ in range(25 if machine.line.valid else 0):
            machine.write(choices)
        if number == 1:
            machine.commit()
            machine.bookmark(machine.points()[-3])
            machine.pin(machine.points()[-9])
            machine.fork(machine.points()[-5])
        if number == 3:
            machine.thin(1, choices)
            machine.fold()
        machine.seal(choices) if machine.line.valid else machine.gap(choices)
    for _ in range(20):
        machine.write(choices)
    machine.check_all()
    kept = machine.kept(machine.line)
    expected = {lsn: images for lsn, images in machine.line.expected.items() if lsn in kept}
    machine.writer.close()
    (machine.folder.parent / "expected").write_bytes(pickle.dumps(expected))
    names = {path.suffix for path in machine.folder.rglob("*") if path.is_file()}
    assert {".seg", ".net", ".idx", ".log"} <= names
    return machine.folder


@pytest.mark.parametrize("kind", ["accident", "forgery"])
def test_a_bad_journal_is_refused_with_an_error_of_ours_quickly_and_never_served_wrong(
    journal: Path, kind: str
) -> None:
    seed = random.SystemRandom().getrandbits(32)
    argv = [sys.executable, "-m", "tests.journal.fuzz_child", str(journal), kind, str(seed), str(SECONDS)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS + 60)
    assert done.returncode == 0, f"{' '.join(argv[1:])}\n{done.stderr}"
    told = json.loads(done.stdout)
    assert told["copies"] > 5 and told["served"] > 20
    assert told["grown_mb"] <= MOST_MB, told
