"""The agent's smaller parts: settings, state files, dirty set, plan, zero detection, log, back-off, unit."""

from __future__ import annotations

import io
import itertools
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guesttap.agent import settings, unit
from guesttap.agent.connection import Backoff
from guesttap.agent.dirty import GRAIN, DirtySet, Extent
from guesttap.agent.disks import DiskReader, runs
from guesttap.agent.errors import AgentConfigError, AgentStateError
from guesttap.agent.files import write_durably
from guesttap.agent.log import Log
from guesttap.agent.store import Remembered, Store
from guesttap.agent.sync import Plan
from guesttap.bpf.disks import Disk

GOOD = {"appliance": "backup.example:7810", "vm": "ab" * 16, "ca": "PEM", "token": "secret-token"}


def test_settings_have_defaults_and_disks_become_paths() -> None:
    found = settings.parse({**GOOD, "disks": ["vda", "/dev/vdb"]})
    assert found.appliance == ("backup.example", 7810) and found.disks == ("/dev/vda", "/dev/vdb")
    assert found.ring_bytes == 64 << 20 and not found.taps_all_disks
    assert settings.parse({**GOOD, "appliance": "[fd00::1]:99"}).appliance == ("fd00::1", 99)
    assert settings.parse({**GOOD, "appliance": "host"}).appliance == ("host", 7810)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("appliance", "host:port"),
        ("vm", ""),
        ("ca", 5),
        ("disks", []),
        ("disks", "vda"),
        ("ring_bytes", True),
        ("token", 7),
    ],
)
def test_a_wrong_setting_is_named_and_no_secret_shown(key: str, value: object) -> None:
    with pytest.raises(AgentConfigError, match=key) as caught:
        settings.parse({**GOOD, key: value})
    assert "secret-token" not in str(caught.value)


def test_a_missing_or_broken_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentConfigError, match="does not exist"):
        settings.load(tmp_path / "agent.json")
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(AgentConfigError, match="not JSON"):
        settings.load(tmp_path / "agent.json")


def test_state_files_are_private_whole_and_survive_a_new_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    store.save_identity("vm1", "token1", "CERT", "KEY")
    store.remember(fence="f1", generation=(1 << 64) - 1, number=3, baseline=9, sync="bitmap")
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert "token1" not in (tmp_path / "state" / "identity.json").read_text()
    again = Store(tmp_path / "state")
    assert again.remembered == Remembered("f1", (1 << 64) - 1, 3, 9, "bitmap", False)
    assert again.is_enrolled("vm1", None) and again.is_enrolled("vm1", "token1")
    assert not again.is_enrolled("vm1", "token2") and not again.is_enrolled("vm2", None)


def test_a_new_identity_forgets_the_fence_of_the_old_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember(fence="old", number=4)
    store.save_identity("vm1", "t", "C", "K")
    assert Store(tmp_path).remembered == Remembered()


def test_a_damaged_state_file_is_named_and_not_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "epoch.json").write_text("[1")
    with pytest.raises(AgentStateError, match=r"epoch\.json"):
        Store(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_durably(tmp_path / "file", b"old")

    def fail(_fd: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


SIZES = {0: 10 * GRAIN + 512, 3: 4 * GRAIN}
RANGES = st.lists(
    st.tuples(st.sampled_from([0, 3]), st.integers(0, 11 * GRAIN), st.integers(0, 3 * GRAIN)), max_size=20
)


@given(RANGES, RANGES)
def test_the_dirty_set_holds_every_place_that_was_added_sorted_and_clipped(one: Any, two: Any) -> None:
    dirty, other = DirtySet(SIZES), DirtySet(SIZES)
    dirty.add_all(one)
    other.add_all(two)
    dirty.update(other)
    found = list(dirty.extents())
    assert found == sorted(found) and bool(found) == bool(dirty)
    for before, after in itertools.pairwise(found):
        assert before.disk != after.disk or before.offset + before.length < after.offset
    assert all(e.offset + e.length <= SIZES[e.disk] for e in found)
    for disk, offset, length in one + two:
        for place in (offset, offset + length - 1):
            if length and place < SIZES[disk]:
                assert any(e.disk == disk and e.offset <= place < e.offset + e.length for e in found)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 7))
def test_zero_runs_cover_a_piece_without_a_hole(zeros: list[bool], tail: int) -> None:
    content = b"".join(bytes(4096) if zero else b"x" + bytes(4095) for zero in zeros) + bytes(512 * tail)
    found = list(runs(memoryview(bytearray(content))))
    assert sum(run.length for run in found) == len(content)
    for run in found:
        data = content[run.offset : run.offset + run.length]
        assert run.zero == (not any(data)) and run.length > 0
    assert all(a.zero != b.zero for a, b in itertools.pairwise(found))


def test_a_plan_goes_on_exactly_at_its_cursor() -> None:
    extents = [Extent(0, 0, 8192), Extent(0, 65536, 4096), Extent(1, 4096, 4096)]
    plan = Plan({0: 1 << 20, 1: 8192}, extents)
    seen = []
    while not plan.finished:
        cursor, done = plan.cursor, plan.done_bytes
        piece = plan.next_range(4096)
        again = Plan({0: 1 << 20, 1: 8192}, extents)
        again.seek({"disk": cursor[0], "sector": cursor[1]})
        assert again.next_range(4096) == piece and again.done_bytes == done
        seen.append(piece)
        plan.advance(piece.length)
    assert seen == [Extent(0, 0, 4096), Extent(0, 4096, 4096), *extents[1:]]
    again.seek({"disk": plan.cursor[0], "sector": plan.cursor[1]})
    assert again.finished and again.done_bytes == plan.total_bytes == 16384


def test_an_unreadable_block_is_zeros_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"d" * 16384)
    reader = DiskReader([Disk(0, "d", str(path), 1, 1, 16384)])
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= 4096 < offset + len(buffers[0]):
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    found = bytes(reader.read(0, 0, 16384))
    reader.close()
    assert found == b"d" * 4096 + bytes(4096) + b"d" * 8192
    assert reader.take_unreadable() == [Extent(0, 4096, 4096)]


def test_lines_wait_while_the_log_is_held() -> None:
    out = io.StringIO()
    log = Log(out)
    log.hold()
    log.say("one")
    assert out.getvalue() == ""
    log.release()
    log.say("two")
    assert out.getvalue() == "one\ntwo\n"


def test_the_pause_before_a_new_connection_doubles_up_to_ten_seconds() -> None:
    backoff = Backoff()
    assert [backoff.next_delay() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    backoff.reset()
    assert backoff.next_delay() == 0.5


def test_the_unit_does_not_restart_a_dormant_agent_and_kills_no_watchdog() -> None:
    text = unit.text(Path("/p/agent.pyz"), Path("/c/agent.json"))
    assert "ExecStart=/usr/bin/python3 /p/agent.pyz run --config /c/agent.json\n" in text
    assert f"RestartPreventExitStatus={unit.EXIT_DORMANT}" in text and "KillMode=process" in text
    assert "{" not in text


def test_the_configuration_that_deployment_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text(json.dumps({**GOOD, "disks": ["auto"], "ring_bytes": 64 << 20}))
    assert settings.load(tmp_path / "agent.json").taps_all_disks
