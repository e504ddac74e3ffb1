"""The KVM adapter against a real libvirtd and QEMU, with machines that have no operating system."""

from __future__ import annotations

import dataclasses
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisors import errors
from hypervisors.base import Hypervisor, NbdDisk, Vm
from hypervisors.kvm import KvmHypervisor, pull
from hypervisors.model import MIB, DiskSpec, NicSpec, Power, VmSpec
from hypervisors.testing import HypervisorConformance, remove
from lab.hosts import Host
from tests.hypervisors.conftest import EXPORT, Served
from tests.lab_fixtures import LabHosts

pytestmark = pytest.mark.kernel


def small(**fields: object) -> VmSpec:
    """Return a machine that is quick to start and stays in its firmware."""
    name = f"hv-test-{uuid.uuid4().hex[:8]}"
    disks = (DiskSpec("vda", 8 * MIB, serial="CONFORM0"),)
    nics = (NicSpec("user", mac="52:54:00:12:34:56"),)
    return dataclasses.replace(VmSpec(name, 64 * MIB, 1, accel="tcg", disks=disks, nics=nics), **fields)  # type: ignore[arg-type]


def export_of(served: Served) -> NbdDisk:
    return NbdDisk("vda", "127.0.0.1", served.port, EXPORT, 8 * MIB)


def files(hosts: LabHosts) -> set[str]:
    return {path.name for path in hosts.target.images.iterdir()}


class TestKvmConformance(HypervisorConformance):
    @pytest.fixture
    def hypervisor(self, kvm: KvmHypervisor) -> Hypervisor:
        return kvm

    @pytest.fixture
    def spec(self) -> VmSpec:
        return small()

    @pytest.fixture
    def export(self, served: Served) -> NbdDisk:
        return export_of(served)


@pytest.fixture
def copy(kvm: KvmHypervisor, served: Served) -> Iterator[Vm]:
    made = kvm.boot_from_nbd(small(), [export_of(served)])
    yield made
    remove(kvm, made.id)


def test_pulled_disk_is_the_export_byte_for_byte_and_needs_no_server(
    kvm: KvmHypervisor, copy: Vm, served: Served
) -> None:
    kvm.pull_disks(copy.id)
    served.process.terminate()
    served.process.wait(10)
    kvm.stop(copy.id, force=True)
    compared = subprocess.run(
        ["qemu-img", "compare", copy.disks[0].source, served.file],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout
    kvm.start(copy.id)  # its stored description has no export either
    assert kvm.get_vm(copy.id).power is Power.ON


def test_copy_that_was_not_pulled_can_be_started_again(kvm: KvmHypervisor, copy: Vm) -> None:
    kvm.stop(copy.id, force=True)
    with pytest.raises(errors.VmNotRunningError):
        kvm.pull_disks(copy.id)
    kvm.start(copy.id)
    kvm.pull_disks(copy.id)


def test_pull_that_loses_its_server_fails_and_says_that_the_disk_still_needs_it(
    kvm: KvmHypervisor, copy: Vm, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SETTLE_S", 3.0)
    served.process.kill()
    served.process.wait(10)
    with pytest.raises((errors.DiskPullError, errors.HypervisorFailedError), match=copy.name):
        kvm.pull_disks(copy.id)
    assert "nbd" in (kvm._connection.get().lookupByUUIDString(copy.id).XMLDesc(0))


def test_deleting_with_storage_removes_exactly_what_was_made(
    kvm: KvmHypervisor, served: Served, lab_hosts: LabHosts
) -> None:
    before = files(lab_hosts)
    made = kvm.boot_from_nbd(small(), [export_of(served)])
    assert len(files(lab_hosts) - before) == 1
    kvm.stop(made.id, force=True)
    kvm.delete_vm(made.id, storage=True)
    assert files(lab_hosts) == before
    kept = kvm.create_vm(small())
    kvm.delete_vm(kept.id)
    (left,) = files(lab_hosts) - before
    (lab_hosts.target.images / left).unlink()


@pytest.mark.parametrize("wrong", ["port", "export"])
def test_export_that_cannot_be_opened_leaves_nothing_behind(
    kvm: KvmHypervisor, served: Served, lab_hosts: LabHosts, wrong: str
) -> None:
    before = files(lab_hosts), kvm.list_vms()
    value = {"port": 1, "export": "no-such-export"}[wrong]
    with pytest.raises(errors.NbdUnreachableError) as caught:
        kvm.boot_from_nbd(small(), [dataclasses.replace(export_of(served), **{wrong: value})])  # type: ignore[arg-type]
    assert "blockdev" not in caught.value.message
    assert (files(lab_hosts), kvm.list_vms()) == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"nics": (NicSpec("direct", "eth0"),)}, errors.BadVmSpecError),
        ({"arch": "s390x"}, errors.NoAccelerationError),
        (
            {"disks": (DiskSpec("vda", MIB), DiskSpec("vdb", MIB, "no-such-bus"))},
            errors.HypervisorRejectedError,
        ),
    ],
)
def test_vm_that_cannot_be_made_leaves_nothing_behind(
    kvm: KvmHypervisor, lab_hosts: LabHosts, change: dict[str, object], expected: type[Exception]
) -> None:
    before = files(lab_hosts), kvm.list_vms()
    with pytest.raises(expected):
        kvm.create_vm(small(**change))
    assert (files(lab_hosts), kvm.list_vms()) == before


def test_host_without_a_pool_for_files_is_told(kvm: KvmHypervisor, lab_hosts: LabHosts) -> None:
    pool = kvm._connection.get().storagePoolLookupByName("lastwrite")
    pool.destroy()
    try:
        with pytest.raises(errors.NoStoragePoolError, match="lastwrite"):
            kvm.create_vm(small())
        (finding,) = [each for each in kvm.check() if each.capability == "storage"]
        assert not finding.ok and "pool-start" in finding.remedy
    finally:
        pool.create()


def test_machine_without_a_guest_is_told_apart_from_one_without_a_channel(
    kvm: KvmHypervisor, copy: Vm
) -> None:
    for attempt in (lambda: kvm.guest_exec(copy.id, ["true"]), lambda: kvm.freeze(copy.id)):
        with pytest.raises(errors.GuestAgentSilentError):
            attempt()
    assert kvm.get_vm(copy.id).has_agent is False
    (finding,) = [each for each in kvm.check() if each.capability == f"guest-agent {copy.name}"]
    assert not finding.ok and finding.remedy


def test_domain_without_an_agent_channel_says_so(kvm: KvmHypervisor) -> None:
    name = small().name
    system = "<os><type arch='x86_64'>hvm</type></os>"
    xml = f"<domain type='qemu'><name>{name}</name><memory>65536</memory>{system}</domain>"
    domain = kvm._connection.get().defineXML(xml)
    try:
        kvm.start(name)
        for attempt in (lambda: kvm.guest_exec(name, ["true"]), lambda: kvm.thaw(name)):
            with pytest.raises(errors.NoGuestAgentChannelError):
                attempt()
        assert kvm.get_vm(name).has_agent is False
    finally:
        remove(kvm, domain.UUIDString())


def test_screen_is_a_png(kvm: KvmHypervisor, copy: Vm) -> None:
    assert kvm.screenshot(copy.id).startswith(b"\x89PNG\r\n\x1a\n")


def test_guest_that_ignores_the_power_button_is_told_and_goes_on(kvm: KvmHypervisor, copy: Vm) -> None:
    with pytest.raises(errors.VmDidNotStopError, match=copy.name):
        kvm.stop(copy.id, timeout=0.5)
    assert kvm.get_vm(copy.id).power is Power.ON


def test_paused_vm_is_told_and_goes_on_by_start(kvm: KvmHypervisor, copy: Vm) -> None:
    kvm._connection.get().lookupByUUIDString(copy.id).suspend()
    assert kvm.get_vm(copy.id).power is Power.PAUSED
    kvm.start(copy.id)
    assert kvm.get_vm(copy.id).power is Power.ON


def test_serial_port_goes_into_the_file_that_was_asked_for(kvm: KvmHypervisor, lab_hosts: LabHosts) -> None:
    log = lab_hosts.target.folder / "serial" / "hv-test.log"
    made = kvm.create_vm(small(serial_log=str(log)))
    try:
        kvm.start(made.id)
        assert log.exists()
    finally:
        remove(kvm, made.id)
        log.unlink(missing_ok=True)


def test_two_disks_on_two_buses_are_booted_and_pulled(kvm: KvmHypervisor, served: Served) -> None:
    disks = (DiskSpec("sda", None, "scsi"), DiskSpec("hda", None, "ide"))
    exports = [dataclasses.replace(export_of(served), target=target) for target in ("sda", "hda")]
    made = kvm.boot_from_nbd(small(disks=disks), exports)
    try:
        steps: list[tuple[int, int]] = []
        kvm.pull_disks(made.id, lambda done, total: steps.append((done, total)))
        assert steps[-1] == (16 * MIB, 16 * MIB)
        assert [disk.bytes for disk in kvm.get_vm(made.id).disks] == [8 * MIB, 8 * MIB]
    finally:
        remove(kvm, made.id)


def test_connection_is_opened_anew_when_the_daemon_came_back(lab_folder: Path) -> None:
    host = Host("again", folder=lab_folder / "again")
    host.up()
    with KvmHypervisor("again", host.uri) as adapter:
        assert adapter.list_vms() == []
        host.down()
        with pytest.raises(errors.HypervisorUnreachableError):
            adapter.list_vms()
        host.up()
        assert adapter.list_vms() == []
