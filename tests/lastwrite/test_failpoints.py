"""Fail points: what they do, that they cost nothing when off, and that the documents name each of them."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastwrite import failpoints
from lastwrite.failpoints import BadFailPoint, arm, armed, disarm, is_armed, reach, reached

ROOT = Path(__file__).parents[2]
PACKAGES = ("lastwrite", "journal", "guesttap", "hypervisors", "recovery", "failover", "plugins")
CALL = re.compile(r'(?:\breach|\b_failure_at)\("([^"]+)"\)')


@pytest.fixture(autouse=True)
def _nothing_armed() -> Iterator[None]:
    disarm()
    yield
    disarm()


def run(code: str, points: str) -> subprocess.CompletedProcess[str]:
    """Run a program with fail points armed by the environment."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env={"LASTWRITE_FAIL": points}, capture_output=True, text=True, timeout=30
    )


def test_a_process_is_killed_when_it_reaches_a_point_for_the_third_time() -> None:
    code = "from lastwrite.failpoints import reach\nfor n in range(9): print(n, flush=True); reach('here')"
    done = run(code, "elsewhere:1,here:3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]
    assert "fail point here reached 3 times: kill" in done.stderr


def test_nothing_runs_after_the_kill_neither_handlers_nor_other_lines() -> None:
    code = """
import atexit
from lastwrite.failpoints import reach
atexit.register(print, "at exit")
try:
    reach("here")
finally:
    print("finally")
"""
    done = run(code, "here")
    assert done.returncode == -signal.SIGKILL and done.stdout == ""


def test_an_error_of_the_system_is_raised_once() -> None:
    with armed("here:2=error:ENOSPC"):
        reach("here")
        with pytest.raises(OSError, match="fail point here") as caught:
            reach("here")
        assert caught.value.errno == errno.ENOSPC
        reach("here")
        assert reached("here") == 3
    reach("here")
    assert reached("here") == 0


def test_with_a_plus_it_is_raised_from_then_on() -> None:
    with armed("here:2+=error:EIO"):
        reach("here")
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                reach("here")
            assert caught.value.errno == errno.EIO


def test_a_pause_waits() -> None:
    with armed("here=pause:0.2"):
        begin = time.monotonic()
        reach("here")
        assert time.monotonic() - begin >= 0.2
        reach("here")
    assert time.monotonic() - begin < 5


def test_threads_are_counted_once_each() -> None:
    failed: list[int] = []

    def go() -> None:
        for _ in range(2000):
            try:
                reach("here")
            except OSError:
                failed.append(1)

    with armed("here:4000=error:EIO"):
        threads = [threading.Thread(target=go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert reached("here") == 8000
    assert len(failed) == 1


def test_other_points_than_those_armed_do_nothing() -> None:
    with armed("here"):
        assert is_armed("here") and not is_armed("there")
        reach("there")
    assert not is_armed("here")


@pytest.mark.parametrize(
    "text",
    ["Here", "here:", "here:0", "here:x", "here=explode", "here=error:ENOTHING", "here=error:errorcode",
     "here=pause:", "here=pause:1.2.3", "here=kill:9", "a b", "here:1:2"],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused_and_arms_nothing(text: str) -> None:
    with pytest.raises(BadFailPoint, match="LASTWRITE_FAIL"):
        arm(f"good,{text}")
    assert not is_armed("good")


def test_a_process_with_a_bad_variable_does_not_start() -> None:
    done = run("import lastwrite.failpoints", "here=explode")
    assert done.returncode == 1 and "BadFailPoint" in done.stderr


def test_a_point_that_is_off_costs_less_than_a_microsecond() -> None:
    assert min(timeit.repeat(lambda: reach("here"), number=10_000, repeat=5)) / 10_000 < 1e-6


def names_in_sources() -> dict[str, str]:
    """Every fail point in the sources, with its file."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path != Path(failpoints.__file__):
                found |= {name: str(path.relative_to(ROOT)) for name in CALL.findall(path.read_text())}
    return found


def test_the_document_lists_just_the_points_that_there_are_with_their_files() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| `([^`]+)` \|", (ROOT / "docs/fault-injection.md").read_text(), re.M
    )
    assert len(rows) == len(dict(rows)), "a name stands there twice"
    assert dict(rows) == names_in_sources()
