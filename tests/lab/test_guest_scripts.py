"""The workload, its check, its hook and the plain files do what they promise (here, on this machine)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.guest import check, files
from lab.guest.workload import Workload
from lab.paths import GUEST_FILES
from lab.run import wait_until

HOOK = GUEST_FILES / "10-lwdemo"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "rows.db"


def written(database: Path, state: Path, rows: int) -> None:
    workload = Workload(database, state)
    for _ in range(rows):
        workload.commit_row()
    workload._rows.close()


@pytest.fixture
def running(database: Path, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv: list[str | Path] = [
        sys.executable,
        GUEST_FILES / "workload.py",
        "--database",
        database,
        "--state",
        state,
        "--rate",
        "50",
    ]
    with subprocess.Popen(argv) as process:
        wait_until("the workload has committed", (state / "commits").exists, timeout_s=20)
        yield process
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(20) == 0


def hook(action: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LWDEMO_STATE": str(state)}
    return subprocess.run(
        ["sh", HOOK, action], env=environment, capture_output=True, text=True, timeout=20, check=False
    )


def commits(state: Path) -> int:
    return len((state / "commits").read_text().splitlines())


def test_every_commit_is_noted_with_the_times_around_it_and_the_check_agrees(
    database: Path, state: Path
) -> None:
    written(database, state, 5)
    noted = [tuple(map(int, line.split())) for line in (state / "commits").read_text().splitlines()]
    assert [n for n, _before, _after in noted] == [1, 2, 3, 4, 5]
    assert all(before <= after for _n, before, after in noted)
    assert check.check(database) == {
        "integrity": "ok",
        "rows": 5,
        "first": 1,
        "last": 5,
        "bad_checksums": 0,
        "holes": 0,
    }


def test_a_restarted_workload_goes_on_with_the_next_number(database: Path, state: Path) -> None:
    written(database, state, 2)
    written(database, state, 2)
    assert check.check(database)["last"] == 4


def test_the_check_counts_a_changed_payload_and_missing_rows(database: Path, state: Path) -> None:
    written(database, state, 6)
    with sqlite3.connect(database) as changed:
        changed.execute("UPDATE rows SET payload = zeroblob(8) WHERE n = 2")
        changed.execute("DELETE FROM rows WHERE n IN (4, 5)")
    changed.close()
    found = check.check(database)
    assert (found["bad_checksums"], found["holes"], found["rows"], found["integrity"]) == (1, 2, 4, "ok")


def test_the_check_says_why_an_overwritten_database_cannot_be_read(database: Path, state: Path) -> None:
    written(database, state, 3)
    database.write_bytes(os.urandom(database.stat().st_size))
    assert "not a database" in check.check(database)["integrity"]
    assert "no such file" in check.check(database.with_name("none.db"))["integrity"]


def test_the_hook_holds_the_workload_with_everything_in_one_file_and_lets_it_go(
    running: subprocess.Popen[bytes], database: Path, state: Path, tmp_path: Path
) -> None:
    assert hook("freeze", state).returncode == 0
    held = commits(state)
    alone = tmp_path / "alone.db"
    alone.write_bytes(database.read_bytes())  # the file without its log
    time.sleep(0.3)
    assert commits(state) == held
    assert check.check(alone)["last"] == held
    assert hook("thaw", state).returncode == 0
    wait_until("the workload goes on", lambda: commits(state) > held, timeout_s=10)


def test_the_hook_gives_up_within_its_limit_and_asks_no_more(
    running: subprocess.Popen[bytes], state: Path
) -> None:
    running.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    done = hook("freeze", state)
    assert (done.returncode, time.monotonic() - began < 12) == (1, True)
    assert "did not quiesce within 5 s" in done.stderr
    assert not (state / "quiesce").exists()


def test_the_hook_has_nothing_to_do_without_a_workload(state: Path) -> None:
    assert [hook(action, state).returncode for action in ("freeze", "thaw", "abort")] == [0, 0, 0]
    assert hook("melt", state).returncode == 2


def test_overwritten_and_lost_files_are_told_from_whole_ones(tmp_path: Path) -> None:
    files.write(tmp_path)
    assert files.verify(tmp_path) == {"ok": files.COUNT, "changed": [], "missing": []}
    (tmp_path / "letter-03.txt").unlink()
    assert files.verify(tmp_path)["missing"] == ["letter-03.txt"]
    files.write(tmp_path)
    files.overwrite(tmp_path)
    assert len(files.verify(tmp_path)["changed"]) == files.COUNT
