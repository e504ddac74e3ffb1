"""The KVM adapter with a real guest, booted on the second host from an NBD export of the lab's image.

One VM serves all tests of this module, in their order: the last ones take its server away and shut it down.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypervisors import errors
from hypervisors.base import DiskSpec, NbdDisk, NicSpec, Power, Vm, VmSpec
from hypervisors.kvm import KvmHypervisor
from hypervisors.model import MIB
from hypervisors.testing import remove
from lab import accel, image
from tests.hypervisors.conftest import EXPORT, Served, serve
from tests.lab_fixtures import LabHosts
from tests.needs import missing

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

BOOT_S = 180.0
# Standard input is the drop-in that blocks commands. A timer takes it away again, since commands are blocked.
BLOCK_FOR_A_WHILE = """
set -e
folder=/run/systemd/system/qemu-guest-agent.service.d
mkdir -p $folder
cat >$folder/block.conf
systemd-run --on-active=2 sh -c "systemctl daemon-reload; systemctl restart qemu-guest-agent; sleep 10;
    rm -r $folder; systemctl daemon-reload; systemctl restart qemu-guest-agent"
"""


@pytest.fixture(scope="module")
def adapter(lab_hosts: LabHosts) -> Iterator[KvmHypervisor]:
    with KvmHypervisor("target", lab_hosts.target.uri) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    built = image.ensure()
    with serve(built.base, tmp_path_factory.mktemp("nbd")) as served:
        yield served


@pytest.fixture(scope="module")
def guest(adapter: KvmHypervisor, server: Served, lab_hosts: LabHosts) -> Iterator[Vm]:
    works = accel.choose(image.ensure())
    spec = VmSpec(
        "hv-guest-copy",
        1024 * MIB,
        2,
        disks=(DiskSpec("vda", None),),
        nics=(NicSpec("user"),),
        accel="kvm" if works.is_hardware else "tcg",
        serial_log=str(lab_hosts.target.folder / "serial" / "hv-guest-copy.log"),
    )
    size = server.file.stat().st_size
    made = adapter.boot_from_nbd(spec, [NbdDisk("vda", "127.0.0.1", server.port, EXPORT, size)])
    try:
        _await_agent(adapter, made, Path(spec.serial_log or ""))
        yield made
    finally:
        remove(adapter, made.id)


def _await_agent(adapter: KvmHypervisor, vm: Vm, console: Path) -> None:
    deadline = time.monotonic() + BOOT_S
    while True:
        try:
            adapter.guest_exec(vm.id, ["true"], timeout=20)
            return
        except errors.GuestAgentSilentError as error:
            if time.monotonic() > deadline:
                tail = console.read_text(errors="replace")[-1500:] if console.exists() else ""
                missing(
                    f"the guest did not boot within {BOOT_S:.0f} s ({error.message}); its console: {tail}"
                )
            time.sleep(0.5)


def test_command_runs_in_the_guest_with_its_input_and_status(adapter: KvmHypervisor, guest: Vm) -> None:
    assert adapter.get_vm(guest.id).has_agent is True
    done = adapter.guest_exec(guest.id, ["/bin/sh", "-c", "cat; echo oops >&2; exit 3"], b"in\0put")
    assert (done.rc, done.out, done.err) == (3, b"in\0put", b"oops\n")
    with pytest.raises(errors.GuestAgentFailedError, match="No such file"):
        adapter.guest_exec(guest.id, ["/no/such/program"])


def test_command_that_does_not_end_is_a_timeout(adapter: KvmHypervisor, guest: Vm) -> None:
    with pytest.raises(errors.GuestExecTimeoutError) as caught:
        adapter.guest_exec(guest.id, ["sleep", "600"], timeout=1.0)
    assert adapter.guest_exec(guest.id, ["kill", str(caught.value.details["pid"])]).rc == 0


def test_file_is_written_into_the_guest_whole_and_read_back(adapter: KvmHypervisor, guest: Vm) -> None:
    data = os.urandom(300_001)
    steps: list[tuple[int, int]] = []
    adapter.guest_write(
        guest.id, "/root/a file", data, 0o640, lambda done, total: steps.append((done, total))
    )
    assert adapter.guest_read(guest.id, "/root/a file") == data
    assert steps[-1] == (len(data), len(data))
    assert adapter.guest_exec(guest.id, ["stat", "-c", "%a", "/root/a file"]).out == b"640\n"
    assert adapter.guest_exec(guest.id, ["ls", "/root"]).out == b"a file\n"


def test_file_errors_name_the_path(adapter: KvmHypervisor, guest: Vm) -> None:
    with pytest.raises(errors.GuestFileError, match="/no/such/folder/f"):
        adapter.guest_write(guest.id, "/no/such/folder/f", b"x", 0o600)
    with pytest.raises(errors.GuestFileError, match="/no/such/file"):
        adapter.guest_read(guest.id, "/no/such/file")


def test_file_systems_freeze_and_thaw(adapter: KvmHypervisor, guest: Vm) -> None:
    frozen = adapter.freeze(guest.id)
    thawed = adapter.thaw(guest.id)
    assert frozen == thawed >= 1
    assert adapter.guest_exec(guest.id, ["sh", "-c", "echo x >/root/after-thaw && sync"]).rc == 0


def test_screen_and_check_show_a_running_guest(adapter: KvmHypervisor, guest: Vm) -> None:
    assert len(adapter.screenshot(guest.id)) > 100
    (finding,) = [each for each in adapter.check() if each.capability == f"guest-agent {guest.name}"]
    assert finding.ok


def test_commands_that_the_agent_must_not_run_are_refusals(adapter: KvmHypervisor, guest: Vm) -> None:
    """With the agent's own block list, as RHEL ships it; afterwards the agent is as it was."""
    block = "[Service]\nExecStart=\nExecStart=/usr/sbin/qemu-ga -b guest-exec,guest-file-open\n"
    adapter.guest_exec(guest.id, ["sh", "-c", BLOCK_FOR_A_WHILE], block.encode(), timeout=60)
    _until(lambda: _refused(lambda: adapter.guest_exec(guest.id, ["true"])))
    assert _refused(lambda: adapter.guest_read(guest.id, "/etc/hostname"))
    _until(lambda: not _refused(lambda: adapter.guest_exec(guest.id, ["true"])))


def _refused(attempt: Callable[[], object]) -> bool:
    """Return whether the agent refuses; one that is being restarted does neither."""
    try:
        attempt()
    except errors.GuestAgentRefusedError:
        return True
    except errors.GuestAgentSilentError:
        time.sleep(0.5)
        return _refused(attempt)
    return False


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not fact():
        assert time.monotonic() < deadline, "not within 90 s"
        time.sleep(0.5)


def test_pulled_guest_does_not_notice_that_its_server_is_gone(
    adapter: KvmHypervisor, guest: Vm, server: Served
) -> None:
    steps: list[tuple[int, int]] = []
    adapter.pull_disks(guest.id, lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] == server.file.stat().st_size
    server.process.kill()
    server.process.wait(10)
    read_all = "echo 3 >/proc/sys/vm/drop_caches; cat /dev/vda >/dev/null && echo y >/root/late && sync"
    assert adapter.guest_exec(guest.id, ["sh", "-c", read_all], timeout=180).rc == 0


def test_guest_shuts_down_in_order(adapter: KvmHypervisor, guest: Vm) -> None:
    adapter.stop(guest.id, timeout=120)
    assert adapter.get_vm(guest.id).power is Power.OFF
