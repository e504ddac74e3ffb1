"""The conformance suite: what every adapter must do, as pytest tests to be inherited.

    class TestMyHypervisor(HypervisorConformance):
        @pytest.fixture
        def hypervisor(self): ...          # connected; the suite deletes what it makes

Needs pytest, which Lastwrite itself does not install. A capability that is announced is tested; one that is
not must raise NotCapableError, so no test is left out because an adapter says little.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator

import pytest

from hypervisors.base import OPTIONAL_METHODS, Hypervisor
from hypervisors.errors import (
    BadVmSpecError,
    HypervisorUnreachableError,
    NetworkNotFoundError,
    NotCapableError,
    VmExistsError,
    VmNotFoundError,
    VmNotRunningError,
    VmRunningError,
)
from hypervisors.model import MIB, Capabilities, DiskSpec, NbdDisk, NicSpec, Power, Vm, VmSpec

ARGUMENTS: dict[str, tuple[object, ...]] = {
    "guest_exec": (["true"],),
    "guest_write": ("/tmp/x", b"", 0o600),
    "guest_read": ("/tmp/x",),
}
"""What each optional method is called with after the VM's id."""

NEEDS_POWER = ("guest_exec", "guest_write", "guest_read", "freeze", "thaw", "screenshot")
OPTIONAL = [(capability, name) for capability, names in OPTIONAL_METHODS.items() for name in names]


class HypervisorConformance:
    """Inherit from it, give the fixture `hypervisor`, override `spec` and `export` where they do not fit."""

    @pytest.fixture
    def hypervisor(self) -> Iterator[Hypervisor]:
        """The adapter under test, connected."""
        raise NotImplementedError("give the suite its `hypervisor` fixture")

    @pytest.fixture
    def spec(self) -> VmSpec:
        """A small VM that the hypervisor can make."""
        return VmSpec(
            name=f"conformance-{uuid.uuid4().hex[:8]}",
            memory_bytes=64 * MIB,
            vcpus=1,
            disks=(DiskSpec("vda", MIB, serial="CONFORM0"),),
            nics=(NicSpec("user", mac="52:54:00:12:34:56"),),
        )

    @pytest.fixture
    def export(self) -> NbdDisk:
        """An NBD export of at least 1 MiB that the hypervisor can reach; for those that announce `nbd_boot`."""
        raise NotImplementedError("give the suite its `export` fixture")

    @pytest.fixture
    def vm(self, hypervisor: Hypervisor, spec: VmSpec) -> Iterator[Vm]:
        """A VM of the suite, off, deleted afterwards."""
        made = hypervisor.create_vm(spec)
        yield made
        remove(hypervisor, made.id)

    @pytest.fixture
    def copy(
        self, hypervisor: Hypervisor, spec: VmSpec, request: pytest.FixtureRequest
    ) -> Iterator[Vm | None]:
        """A running VM made from `export`; None where `nbd_boot` is not announced."""
        if not hypervisor.capabilities().nbd_boot:
            yield None
            return
        export: NbdDisk = request.getfixturevalue("export")
        made = hypervisor.boot_from_nbd(spec, [dataclasses.replace(export, target="vda")])
        yield made
        remove(hypervisor, made.id)

    # ---- connection and capabilities ----

    def test_kind_and_schemes_are_told(self, hypervisor: Hypervisor) -> None:
        """The registry finds an adapter by them."""
        assert hypervisor.kind and hypervisor.schemes
        assert hypervisor.url.partition("://")[0].partition("+")[0] in hypervisor.schemes

    def test_capabilities_are_the_same_at_every_call(self, hypervisor: Hypervisor) -> None:
        """They are asked for again and again."""
        assert isinstance(hypervisor.capabilities(), Capabilities)
        assert hypervisor.capabilities() == hypervisor.capabilities()

    @pytest.mark.parametrize(("capability", "method"), OPTIONAL)
    def test_capabilities_tell_the_truth(
        self, hypervisor: Hypervisor, spec: VmSpec, vm: Vm, capability: str, method: str
    ) -> None:
        """An announced method is not the contract's refusal; one that is not announced is refused."""
        if getattr(hypervisor.capabilities(), capability):
            assert getattr(type(hypervisor), method) is not getattr(Hypervisor, method)
            return
        arguments = (spec, []) if method == "boot_from_nbd" else (vm.id, *ARGUMENTS.get(method, ()))
        with pytest.raises(NotCapableError, match=capability):
            getattr(hypervisor, method)(*arguments)

    def test_capability_without_a_method_is_not_announced(self, hypervisor: Hypervisor) -> None:
        """The contract has no method for it yet, so nobody can have it."""
        assert set(hypervisor.capabilities().names()) <= set(OPTIONAL_METHODS)

    def test_closed_connection_is_refused_and_can_be_opened_again(self, hypervisor: Hypervisor) -> None:
        """`close` and `connect` may come twice."""
        hypervisor.close()
        hypervisor.close()
        with pytest.raises(HypervisorUnreachableError):
            hypervisor.list_vms()
        hypervisor.connect()
        hypervisor.connect()
        assert isinstance(hypervisor.list_vms(), list)

    def test_check_finds_connection_and_version(self, hypervisor: Hypervisor) -> None:
        """Whatever is not in order comes with a remedy."""
        findings = hypervisor.check()
        assert [finding.capability for finding in findings[:2]] == ["connection", "version"]
        assert all(finding.ok for finding in findings[:2])
        assert all(finding.ok or finding.remedy for finding in findings)

    # ---- finding VMs ----

    def test_vm_is_found_by_id_and_by_name(self, hypervisor: Hypervisor, vm: Vm) -> None:
        """And it is in the list, once."""
        assert hypervisor.get_vm(vm.id) == hypervisor.get_vm(vm.name) == vm
        assert [each.id for each in hypervisor.list_vms()].count(vm.id) == 1

    def test_list_is_sorted_by_name(self, hypervisor: Hypervisor, vm: Vm) -> None:
        """People and programs read it in the same order."""
        names = [each.name for each in hypervisor.list_vms()]
        assert names == sorted(names) and vm.name in names

    def test_unknown_vm_is_refused_with_the_nearest_name(self, hypervisor: Hypervisor, vm: Vm) -> None:
        """A typing error is answered with what was meant."""
        with pytest.raises(VmNotFoundError) as caught:
            hypervisor.get_vm(vm.name + "x")
        assert vm.name in caught.value.hint
        with pytest.raises(VmNotFoundError):
            hypervisor.get_vm(str(uuid.uuid4()))

    # ---- power ----

    def test_start_and_stop_change_the_power_and_may_be_repeated(
        self, hypervisor: Hypervisor, vm: Vm
    ) -> None:
        """Doing it twice is doing it once."""
        assert vm.power is Power.OFF
        for _ in range(2):
            hypervisor.start(vm.id)
            assert hypervisor.get_vm(vm.id).power is Power.ON
        for _ in range(2):
            hypervisor.stop(vm.id, force=True)
            assert hypervisor.get_vm(vm.id).power is Power.OFF

    @pytest.mark.parametrize("method", NEEDS_POWER)
    def test_what_needs_a_running_vm_says_so(self, hypervisor: Hypervisor, vm: Vm, method: str) -> None:
        """Asking a VM that is off names the reason (or the method is not there at all)."""
        with pytest.raises((VmNotRunningError, NotCapableError)):
            getattr(hypervisor, method)(vm.id, *ARGUMENTS.get(method, ()))

    # ---- making and deleting ----

    def test_vm_is_made_as_it_was_described(self, hypervisor: Hypervisor, vm: Vm, spec: VmSpec) -> None:
        """Sizes, disks and cards are those that were asked for."""
        told = hypervisor.describe(vm.id)
        assert (vm.name, vm.memory_bytes, vm.vcpus) == (spec.name, spec.memory_bytes, spec.vcpus)
        assert [(disk.target, disk.bytes) for disk in vm.disks] == [(d.target, d.bytes) for d in spec.disks]
        assert (told.name, told.memory_bytes, told.vcpus) == (spec.name, spec.memory_bytes, spec.vcpus)
        assert (told.firmware, told.arch, told.disks, told.nics) == (
            spec.firmware,
            spec.arch,
            spec.disks,
            spec.nics,
        )

    def test_description_makes_an_equal_vm(self, hypervisor: Hypervisor, vm: Vm) -> None:
        """What `describe` gives, `create_vm` takes."""
        told = hypervisor.describe(vm.id)
        nics = tuple(dataclasses.replace(nic, mac=None) for nic in told.nics)
        copy = hypervisor.create_vm(dataclasses.replace(told, name=told.name + "-copy", nics=nics))
        try:
            again = hypervisor.describe(copy.id)
            assert copy.id != vm.id
            assert again.disks == told.disks
            assert (again.memory_bytes, again.cpu, again.accel) == (told.memory_bytes, told.cpu, told.accel)
        finally:
            remove(hypervisor, copy.id)

    def test_second_vm_of_a_name_is_refused(self, hypervisor: Hypervisor, vm: Vm, spec: VmSpec) -> None:
        """And the first stays as it was."""
        with pytest.raises(VmExistsError, match=spec.name):
            hypervisor.create_vm(spec)
        assert [each for each in hypervisor.list_vms() if each.name == spec.name] == [vm]

    def test_missing_network_leaves_nothing_behind(self, hypervisor: Hypervisor, spec: VmSpec) -> None:
        """It is named, and no VM was made."""
        before = hypervisor.list_vms()
        lost = dataclasses.replace(spec, nics=(NicSpec("network", "no-such-network"),))
        with pytest.raises(NetworkNotFoundError, match="no-such-network"):
            hypervisor.create_vm(lost)
        assert hypervisor.list_vms() == before

    def test_disk_of_unknown_size_leaves_nothing_behind(self, hypervisor: Hypervisor, spec: VmSpec) -> None:
        """A new disk has to have a size, and the refusal says which."""
        before = hypervisor.list_vms()
        disks = (*spec.disks, DiskSpec("vdb", None))
        with pytest.raises(BadVmSpecError, match="vdb"):
            hypervisor.create_vm(dataclasses.replace(spec, disks=disks))
        assert hypervisor.list_vms() == before

    def test_running_vm_is_not_deleted(self, hypervisor: Hypervisor, vm: Vm) -> None:
        """It goes on running."""
        hypervisor.start(vm.id)
        with pytest.raises(VmRunningError):
            hypervisor.delete_vm(vm.id, storage=True)
        assert hypervisor.get_vm(vm.id).power is Power.ON

    def test_deleted_vm_is_gone(self, hypervisor: Hypervisor, spec: VmSpec) -> None:
        """And its name is free again."""
        for _ in range(2):
            made = hypervisor.create_vm(spec)
            hypervisor.delete_vm(made.id, storage=True)
            with pytest.raises(VmNotFoundError):
                hypervisor.get_vm(made.id)

    # ---- booting from exports ----

    def test_copy_runs_with_an_identity_of_its_own(
        self, hypervisor: Hypervisor, spec: VmSpec, copy: Vm | None
    ) -> None:
        """New MAC addresses, the disk of the export's size, the serial number that the guest knows."""
        if copy is None:
            return  # test_capabilities_tell_the_truth has seen the refusal
        told = hypervisor.describe(copy.id)
        assert hypervisor.get_vm(copy.id).power is Power.ON
        assert told.disks[0].serial == spec.disks[0].serial
        assert spec.nics[0].mac not in [nic.mac for nic in told.nics]
        assert len(told.nics) == len(spec.nics)

    def test_pull_reports_progress_to_the_end_and_may_be_repeated(
        self, hypervisor: Hypervisor, copy: Vm | None
    ) -> None:
        """The second time there is nothing to do."""
        if copy is None:
            return
        steps: list[tuple[int, int]] = []
        hypervisor.pull_disks(copy.id, lambda done, total: steps.append((done, total)))
        assert steps and steps[-1][0] == steps[-1][1] > 0
        assert steps == sorted(steps)
        hypervisor.pull_disks(copy.id)

    def test_export_for_another_disk_is_refused(self, hypervisor: Hypervisor, spec: VmSpec) -> None:
        """A guest that misses a disk must not be started."""
        before = hypervisor.list_vms()
        with pytest.raises((BadVmSpecError, NotCapableError)):
            hypervisor.boot_from_nbd(spec, [NbdDisk("vdz", "127.0.0.1", 9, "x", MIB)])
        assert hypervisor.list_vms() == before


def remove(hypervisor: Hypervisor, vm_id: str) -> None:
    """Stop a VM by force and delete it with the disks that were made for it, if it is still there."""
    try:
        hypervisor.stop(vm_id, force=True)
        hypervisor.delete_vm(vm_id, storage=True)
    except VmNotFoundError:
        return
