"""No exception of libvirt gets out of the adapter, and each says the right thing."""

from __future__ import annotations

import inspect
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from hypervisors import errors as ours
from hypervisors.kvm import KvmHypervisor
from hypervisors.kvm.errors import BY_CODE, translate
from hypervisors.model import MIB, NbdDisk, VmSpec
from lastwrite.errors import LastwriteError
from tests.hypervisors.libvirt_doubles import Failing, failure

SPEC = VmSpec("web01", 64 * MIB, 1)
ARGUMENTS: dict[str, Any] = {
    "vm_id": "web01",
    "ref": "web01",
    "spec": SPEC,
    "disks": [NbdDisk("vda", "127.0.0.1", 9, "e", MIB)],
    "argv": ["true"],
    "path": "/x",
    "data": b"x",
    "mode": 0o600,
}
CANNOT_FAIL = {"close", "check"}  # they swallow what libvirt says, or report it: tested below
METHODS = [
    name
    for name, _ in inspect.getmembers(KvmHypervisor, inspect.isfunction)
    if not name.startswith("_") and name not in CANNOT_FAIL
]
NEED_NO_DOMAIN = {
    "connect",
    "capabilities",
    "version",
    "list_vms",
    "create_vm",
    "boot_from_nbd",
    "further_findings",
}
RUNNING = [libvirt.VIR_DOMAIN_RUNNING, 1]
XML = "<domain><devices><channel><target name='org.qemu.guest_agent.0'/></channel></devices></domain>"
ALL_CODES = sorted({getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_ERR_")})


def call(adapter: KvmHypervisor, method: str) -> None:
    function = getattr(adapter, method)
    wanted = inspect.signature(function).parameters.values()
    function(*(ARGUMENTS[each.name] for each in wanted if each.default is inspect.Parameter.empty))


def connected(monkeypatch: pytest.MonkeyPatch, connection: Any) -> KvmHypervisor:
    monkeypatch.setattr(libvirt, "open", lambda _url: connection)
    adapter = KvmHypervisor("k1", "qemu:///system")
    adapter.connect()
    return adapter


@pytest.mark.parametrize("method", METHODS)
def test_failure_of_the_connection_is_ours_in_every_public_method(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = failure(libvirt.VIR_ERR_SYSTEM_ERROR, "Cannot write data: Broken pipe", libvirt.VIR_FROM_RPC)
    adapter = connected(monkeypatch, Failing(broken, isAlive=1, setKeepAlive=0, getType="QEMU"))
    if method in ("connect", "capabilities"):
        adapter = KvmHypervisor("k1", "qemu:///system")
        monkeypatch.setattr(libvirt, "open", Failing(broken).open)
        with pytest.raises(LastwriteError):
            adapter.connect()
    with pytest.raises(ours.HypervisorUnreachableError) as caught:
        call(adapter, method)
    assert "k1" in caught.value.message and caught.value.hint


@pytest.mark.parametrize("method", sorted(set(METHODS) - NEED_NO_DOMAIN))
def test_failure_of_the_domain_is_ours_in_every_public_method(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = failure(libvirt.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock")
    domain = Failing(broken, name="web01", state=RUNNING if method != "delete_vm" else [5, 1], isActive=1)
    if method == "start":
        domain = Failing(broken, name="web01", state=[5, 1], isActive=0)
    if method in ("freeze", "thaw", "screenshot", "guest_exec", "guest_read", "guest_write"):
        domain = Failing(broken, name="web01", state=RUNNING, isActive=1, XMLDesc=XML)
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", Failing(broken).qemuAgentCommand)
    connection = Failing(broken, isAlive=1, setKeepAlive=0, getType="QEMU", lookupByName=domain)
    stream = Failing(broken, abort=0)
    connection._answers["newStream"] = stream
    with pytest.raises(ours.HypervisorTimeoutError, match="state change lock"):
        call(connected(monkeypatch, connection), method)


def test_close_and_check_never_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = failure(libvirt.VIR_ERR_RPC, "gone")
    adapter = connected(monkeypatch, Failing(broken, isAlive=1, setKeepAlive=0))
    (finding,) = adapter.check()
    assert not finding.ok and finding.remedy and "gone" in finding.detail
    adapter.close()


@pytest.mark.parametrize("code", ALL_CODES)
def test_every_code_of_libvirt_becomes_an_error_with_a_remedy(code: int) -> None:
    error = translate(failure(code, "the reason"), "k1: start of web01")
    assert error.message == "k1: start of web01: the reason"
    assert error.hint and error.code not in ("internal", "unavailable", "unsupported")


def test_error_without_a_code_is_still_ours() -> None:
    assert isinstance(translate(failure(None), "k1"), ours.HypervisorFailedError)


@pytest.mark.parametrize(
    ("code", "message", "part", "expected"),
    [
        ("NO_DOMAIN", "Domain not found", "QEMU", ours.VmNotFoundError),
        ("AGENT_UNRESPONSIVE", "not connected", "QEMU", ours.GuestAgentSilentError),
        ("ARGUMENT_UNSUPPORTED", "QEMU guest agent is not configured", "QEMU", ours.NoGuestAgentChannelError),
        ("ARGUMENT_UNSUPPORTED", "no such option", "QEMU", ours.HypervisorUnsupportedError),
        ("NO_CONNECT", "no connection driver", "NONE", ours.HypervisorUnreachableError),
        ("SYSTEM_ERROR", "Connection refused", "RPC", ours.HypervisorUnreachableError),
        ("INTERNAL_ERROR", "client socket is closed", "RPC", ours.HypervisorUnreachableError),
        (
            "OPERATION_INVALID",
            "Requested operation is not valid: domain is not running",
            "QEMU",
            ours.VmNotRunningError,
        ),
        ("OPERATION_INVALID", "domain is already running", "QEMU", ours.VmStateError),
        ("AUTH_FAILED", "authentication failed", "RPC", ours.HypervisorDeniedError),
        ("ACCESS_DENIED", "access denied", "ACCESS", ours.HypervisorDeniedError),
        ("OPERATION_DENIED", "read only access prevents", "NONE", ours.HypervisorDeniedError),
        ("OPERATION_TIMEOUT", "cannot acquire lock", "QEMU", ours.HypervisorTimeoutError),
        ("NO_STORAGE_POOL", "no pool", "STORAGE", ours.HypervisorStorageError),
        ("SYSTEM_ERROR", "cannot open path: Permission denied", "STORAGE", ours.HypervisorStorageError),
        ("SYSTEM_ERROR", "cannot write: No space left on device", "STORAGE", ours.StorageFullError),
        ("BLOCK_COPY_ACTIVE", "disk in use", "QEMU", ours.VmBusyError),
        ("DOM_EXIST", "exists", "QEMU", ours.VmExistsError),
        ("OPERATION_FAILED", "domain 'a' already exists with uuid 1", "QEMU", ours.VmExistsError),
        ("NO_NETWORK", "Network not found", "NETWORK", ours.NetworkNotFoundError),
        ("NO_SUPPORT", "not supported by the driver", "QEMU", ours.HypervisorUnsupportedError),
        ("XML_ERROR", "missing element", "DOMAIN", ours.HypervisorRejectedError),
        ("INTERNAL_ERROR", "something", "QEMU", ours.HypervisorFailedError),
    ],
)
def test_meaning_is_kept(code: str, message: str, part: str, expected: type[LastwriteError]) -> None:
    error = failure(getattr(libvirt, f"VIR_ERR_{code}"), message, getattr(libvirt, f"VIR_FROM_{part}"))
    assert type(translate(error, "k1")) is expected


def test_table_has_only_codes_of_its_own() -> None:
    assert libvirt.VIR_ERR_INTERNAL_ERROR not in BY_CODE
    assert all(issubclass(kind, LastwriteError) for kind in BY_CODE.values())


def test_refused_export_is_told_without_the_command_line_of_qemu() -> None:
    said = (
        "internal error: process exited while connecting to monitor: 2022-01-01T00:00:00Z qemu-system-x86_64: "
        '-blockdev {"driver":"nbd","server":{"type":"inet"},"export":"web01/vda@-1m","node-name":"a"}: '
        "Failed to connect to 'h:1': Connection refused"
    )
    error = translate(failure(libvirt.VIR_ERR_INTERNAL_ERROR, said), "k1: boot from nbd of copy")
    assert isinstance(error, ours.NbdUnreachableError)
    assert error.message == (
        "k1: boot from nbd of copy: NBD export 'web01/vda@-1m': Failed to connect to 'h:1': Connection refused"
    )


def test_libvirt_prints_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ours.HypervisorUnreachableError):
        KvmHypervisor("k1", "qemu+unix:///system?socket=/no/such/socket").connect()
    assert capfd.readouterr() == ("", "")
