"""Programs, waits and locks of the lab are bounded, and say what failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.errors import LabBusyError, LabCommandError, LabTimeoutError, LabUnsupportedError
from lab.run import locked, run, wait_until
from tests.lab_fixtures import require_lab


def test_a_failing_program_is_named_with_its_status_and_its_last_words() -> None:
    with pytest.raises(LabCommandError, match=r"sh: exit status 7: the reason"):
        run(["sh", "-c", "echo the reason >&2; exit 7"], timeout_s=5)


def test_a_program_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(LabCommandError, match="sleep: not done after 0 s"):
        run(["sleep", "30"], timeout_s=0.2)
    assert time.monotonic() - began < 5


def test_a_missing_program_is_named() -> None:
    with pytest.raises(LabUnsupportedError, match="no-such-program-here"):
        run(["no-such-program-here"], timeout_s=5)


def test_a_wait_ends_at_its_limit_and_says_for_what() -> None:
    with pytest.raises(LabTimeoutError, match="the moon is full: not after 0 s"):
        wait_until("the moon is full", lambda: False, timeout_s=0.1)


def test_a_lock_is_refused_while_another_holds_it_and_free_afterwards(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        locked(tmp_path / "lock", timeout_s=1),
        pytest.raises(LabBusyError, match="lock: still locked"),
        locked(tmp_path / "lock", timeout_s=0.3, report=said.append),
    ):
        pass
    assert len(said) == 1
    with locked(tmp_path / "lock", timeout_s=1):
        pass


@pytest.mark.kernel
def test_what_an_isolated_program_started_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    require_lab()
    script = f"touch {tmp_path}/begun; while :; do date +%s%N > {tmp_path}/beat; sleep 0.05; done"
    code = f"from lab.run import isolated, run; run(isolated(['sh', '-c', {script!r}]), timeout_s=60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) as parent:
        wait_until("the program has begun", (tmp_path / "begun").exists, timeout_s=20)
        os.kill(parent.pid, signal.SIGKILL)
    time.sleep(0.5)
    last = (tmp_path / "beat").read_text()
    time.sleep(0.5)
    assert (tmp_path / "beat").read_text() == last
