"""Freezing a real ext4: what an AppShot is worth, and that a file system never stays frozen."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guesttap.agent.hooks import Hooks
from guesttap.agent.mounts import FIFREEZE, FITHAW, Mount, mounts_on
from guesttap.agent.quiesce import Outcome, Quiescer
from tests.agent.conftest import MakeRig
from tests.agent.rig import Loop, assert_same, wait_for

pytestmark = pytest.mark.kernel


@pytest.fixture
def loop(kernel: None, tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path, 64 << 20)
    yield made
    thaw(made)
    made.close()


def thaw(loop: Loop) -> bool:
    """Thaw from outside; True when it was frozen."""
    fd = os.open(loop.mountpoint, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def disturb(loop: Loop) -> None:
    assert thaw(loop)


def is_frozen(loop: Loop) -> bool:
    """Freezing again succeeds only when it is not frozen."""
    fd = os.open(loop.mountpoint, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def hook(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + script)
    (folder / name).chmod(0o755)


def finish(quiescer: Quiescer, seconds: float = 15.0) -> Outcome:
    deadline = time.monotonic() + seconds
    while quiescer.outcome is None:
        quiescer.poll()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return quiescer.outcome


def test_the_writable_mounts_of_a_disk_are_found_once(loop: Loop, tmp_path: Path) -> None:
    found = mounts_on([loop.name])
    assert [(mount.point, mount.kind) for mount in found] == [(str(loop.mountpoint), "ext4")]
    assert mounts_on(["nosuchdisk"]) == []


def test_without_applications_a_freeze_is_worth_filesystem_and_is_short(loop: Loop, tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def mark() -> None:
        seen.write_text("frozen" if is_frozen(loop) else "not frozen")

    outcome = finish(Quiescer(mounts_on([loop.name]), tmp_path / "none", mark, 10))
    assert seen.read_text() == "frozen"
    assert outcome.consistency == "filesystem" and outcome.marked and outcome.messages == []
    assert outcome.frozen_ns is not None and 0 < outcome.frozen_ns < 2_000_000_000
    assert not is_frozen(loop)


def test_applications_freeze_before_and_thaw_after_the_file_systems(loop: Loop, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name in ("20-second", "10-first"):
        hook(tmp_path / "hooks", name, f"echo {name} $1 >> {trace}\n")

    def mark() -> None:
        with trace.open("a") as file:
            file.write("mark\n")

    outcome = finish(Quiescer(mounts_on([loop.name]), tmp_path / "hooks", mark, 10))
    assert outcome.consistency == "app"
    assert trace.read_text().splitlines() == [
        "10-first freeze", "20-second freeze", "mark", "20-second thaw", "10-first thaw",
    ]  # fmt: skip


def test_an_application_that_cannot_freeze_makes_it_worth_filesystem(loop: Loop, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hook(tmp_path / "hooks", "10-first", f"echo first $1 >> {trace}\n")
    hook(tmp_path / "hooks", "20-bad", f"echo bad $1 >> {trace}\n[ $1 != freeze ]\n")
    outcome = finish(Quiescer(mounts_on([loop.name]), tmp_path / "hooks", lambda: None, 10))
    assert outcome.consistency == "filesystem"
    assert outcome.messages == ["20-bad freeze failed with status 1"]
    assert trace.read_text().splitlines() == ["first freeze", "bad freeze", "bad abort", "first abort"]


def test_an_application_that_did_not_hold_until_its_thaw_is_not_app(loop: Loop, tmp_path: Path) -> None:
    hook(tmp_path / "hooks", "10-lost", "[ $1 = freeze ]\n")
    outcome = finish(Quiescer(mounts_on([loop.name]), tmp_path / "hooks", lambda: None, 10))
    assert outcome.consistency == "filesystem" and outcome.messages


def test_a_hook_that_hangs_is_ended(tmp_path: Path) -> None:
    hook(tmp_path / "hooks", "10-slow", "sleep 60\n")
    hooks = Hooks(tmp_path / "hooks", 0.3)
    began = time.monotonic()
    assert not hooks._run(hooks.found[0], "freeze", began + 0.3)
    assert time.monotonic() - began < 5 and "took too long" in hooks.messages[0]


def test_what_somebody_else_thawed_before_the_mark_is_worth_crash(loop: Loop, tmp_path: Path) -> None:
    outcome = finish(Quiescer(mounts_on([loop.name]), tmp_path, lambda: disturb(loop), 10))
    assert outcome.consistency == "crash"
    assert "thawed by somebody else" in outcome.messages[0]


def test_a_file_system_that_is_frozen_already_is_worth_crash_and_left_alone(
    loop: Loop, tmp_path: Path
) -> None:
    fd = os.open(loop.mountpoint, os.O_RDONLY)
    fcntl.ioctl(fd, FIFREEZE, 0)
    try:
        outcome = finish(Quiescer(mounts_on([loop.name]), tmp_path / "none", lambda: None, 10))
        assert outcome.consistency == "crash" and "could not be frozen" in outcome.messages[0]
    finally:
        fcntl.ioctl(fd, FITHAW, 0)
        os.close(fd)


def start_and_freeze(loop: Loop, tmp_path: Path, **options: float) -> Quiescer:
    """Start a freeze whose mark never ends; return when the file system is frozen."""

    def mark() -> None:
        (Path("/dev/shm") / f"lastwrite-{os.getpid()}").write_text("")
        time.sleep(60)

    quiescer = Quiescer(mounts_on([loop.name]), tmp_path / "hooks", mark, 10, **options)  # type: ignore[arg-type]
    marker = Path("/dev/shm") / f"lastwrite-{quiescer.pid}"

    def reached() -> bool:
        quiescer.poll()
        return marker.exists()

    wait_for(reached, 10, "the freeze")
    marker.unlink()
    assert is_frozen(loop)
    return quiescer


def test_killed_while_frozen_the_watchdog_thaws_and_aborts_the_applications(
    loop: Loop, tmp_path: Path
) -> None:
    trace = tmp_path.parent / f"trace-{os.getpid()}"
    hook(tmp_path / "hooks", "10-app", f"echo $1 >> {trace}\n")
    quiescer = start_and_freeze(loop, tmp_path)
    os.kill(quiescer.pid, signal.SIGKILL)
    wait_for(lambda: not is_frozen(loop), 5, "the thaw")
    outcome = finish(quiescer)
    assert not outcome.marked and outcome.consistency == "crash"
    wait_for(lambda: trace.read_text().split() == ["freeze", "abort"], 5, "the abort")
    trace.unlink()


def test_hung_while_frozen_the_watchdog_thaws_after_its_limit(loop: Loop, tmp_path: Path) -> None:
    quiescer = start_and_freeze(loop, tmp_path, watchdog_seconds=1.0)
    began = time.monotonic()
    wait_for(lambda: not is_frozen(loop), 5, "the thaw")
    assert time.monotonic() - began < 4
    outcome = finish(quiescer)  # and the agent waits no longer for it than that
    assert outcome.consistency == "crash" and not quiescer.frozen
    assert time.monotonic() - began < 8


def test_a_file_system_that_cannot_be_frozen_counts_if_it_stood_still(tmp_path: Path, loop: Loop) -> None:
    """A double stands in for a file system without freezing: the ioctl is refused."""
    from guesttap.agent import mounts

    real = mounts.OpenMount.freeze
    mounts.OpenMount.freeze = lambda self: False  # type: ignore[method-assign]
    try:
        still = finish(Quiescer(mounts_on([loop.name]), tmp_path / "none", lambda: None, 10))

        def write() -> None:
            (loop.mountpoint / "new").write_bytes(os.urandom(100_000))
            os.sync()

        moving = finish(Quiescer(mounts_on([loop.name]), tmp_path / "none", write, 10))
    finally:
        mounts.OpenMount.freeze = real  # type: ignore[method-assign]
    assert "stood still" in still.messages[0] and still.filesystem
    assert "was written to" in moving.messages[0] and moving.consistency == "crash"


def test_a_mount_that_is_gone_makes_it_worth_crash(loop: Loop, tmp_path: Path) -> None:
    gone = Mount(str(tmp_path / "gone"), "ext4", Path("/sys/dev/block") / "7:0")
    outcome = finish(Quiescer([gone], tmp_path / "none", lambda: None, 10))
    assert outcome.consistency == "crash" and "could not be opened" in outcome.messages[0]


def test_an_appshot_of_a_real_agent_is_mounted_with_no_journal_recovery(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    rig = make_rig()
    rig.start_load()
    rig.start_agent()
    rig.wait_state("Protected")
    time.sleep(1)
    result = rig.appliance.session().request("appshot", "nightly", None, 20.0)
    assert result["consistency"] == "filesystem", result
    assert 0 < result["frozen"] < 5_000_000_000
    reader = rig.appliance.reader()
    (cut,) = [cut for cut in reader.cuts() if cut.kind == "appshot"]
    assert (cut.label, cut.consistency, cut.lsn, cut.number) == (
        "nightly", "filesystem", result["lsn"], result["number"],
    )  # fmt: skip
    disk = reader.disks()[0]
    image = tmp_path / "shot.img"
    image.write_bytes(reader.resolve(cut.lsn, disk.disk).read(0, disk.bytes))
    # A frozen ext4 has its journal empty: the flag that asks for recovery (4 in s_feature_incompat) is not set.
    superblock = image.read_bytes()[1024:2048]
    assert not int.from_bytes(superblock[0x60:0x64], "little") & 4
    content = rig.settle_image()
    assert_same(rig.appliance.latest_image(), content)


def test_the_agent_killed_while_frozen_leaves_nothing_frozen(make_rig: MakeRig) -> None:
    rig = make_rig()
    hook(rig.hooks, "10-slow", f"echo $1 >> {rig.folder}/trace\nsleep 0.3\n")
    rig.start_agent()
    rig.wait_state("Protected")
    session = rig.appliance.session()
    import threading

    from guesttap.receiver.errors import TapNotConnectedError

    failed: list[Exception] = []

    def ask() -> None:
        try:
            session.request("appshot", None, None, 20.0)
        except TapNotConnectedError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for((rig.folder / "trace").exists, 10, "the hook")
    rig.kill_agent()
    thread.join(30)
    assert failed
    wait_for(lambda: (rig.folder / "trace").read_text().split()[-1] in ("abort", "thaw"), 10, "the release")
    assert not is_frozen(rig.loop)
    (rig.loop.mountpoint / "writable").write_text("yes")
