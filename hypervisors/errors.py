"""What can go wrong with a hypervisor or in a guest reached through one, each with a remedy.

Adapters raise these and never an exception of the vendor's library.
"""

from __future__ import annotations

from lastwrite.errors import NotFoundError, RefusedError, UnavailableError, UnsupportedError, UsageError


class UnknownHypervisorKindError(UsageError):
    """No adapter is installed for a kind or a URL."""

    code = "unknown-hypervisor-kind"


class BadVmSpecError(UsageError):
    """A description of a VM cannot be made into one."""

    code = "bad-vm-spec"
    hint = "Correct the named field of the VM's description."


class HypervisorRejectedError(UsageError):
    """The hypervisor finds what it was given malformed."""

    code = "hypervisor-rejected"
    hint = "The hypervisor's own words are in the message: correct the value that they name."


class VmNotFoundError(NotFoundError):
    """A hypervisor has no VM of that name or id."""

    code = "vm-not-found"
    hint = "`lastwrite vm list` shows the VMs of each hypervisor."


class NetworkNotFoundError(NotFoundError):
    """A network that a VM's description names does not exist on the hypervisor."""

    code = "network-not-found"
    hint = "Make the network on that host, or map the network card to one that exists."


class GuestFileError(NotFoundError):
    """A file in a guest cannot be opened, read or replaced."""

    code = "guest-file"
    hint = "Check the path in the guest, its folder, and that the file system is writable and not full."


class HypervisorUnreachableError(UnavailableError):
    """The hypervisor cannot be reached, or the connection to it was lost."""

    code = "hypervisor-unreachable"
    hint = "Check that its service runs and that the URL is right: `virsh -c URL version` takes the same one."


class HypervisorDeniedError(UnavailableError):
    """The hypervisor does not let this account do it."""

    code = "hypervisor-access-denied"
    hint = "Give the account that Lastwrite connects with the right to manage VMs and storage on that host."


class HypervisorTimeoutError(UnavailableError):
    """The hypervisor did not finish within the time limit."""

    code = "hypervisor-timeout"
    hint = "The host may be overloaded, or another operation holds the VM: look there, then try again."


class HypervisorFailedError(UnavailableError):
    """The hypervisor reported a failure."""

    code = "hypervisor-failed"
    hint = "The hypervisor's own words are in the message; its log on the host tells more."


class HypervisorStorageError(UnavailableError):
    """The hypervisor's storage could not do what was asked."""

    code = "hypervisor-storage"
    hint = "Check the storage pool on the host: that it is active, writable and not full."


class NoStoragePoolError(UnavailableError):
    """The hypervisor has no place for new disks."""

    code = "no-storage-pool"
    hint = (
        "Make one on the host: `virsh pool-define-as lastwrite dir --target /var/lib/libvirt/lastwrite`, "
        "then pool-build, pool-start and pool-autostart."
    )


class StorageFullError(UnavailableError):
    """The hypervisor's storage is full."""

    code = "hypervisor-storage-full"
    hint = "Free space in the storage pool, then try again: nothing half made was left."


class VmNotRunningError(UnavailableError):
    """It needs a running VM, and this one is off."""

    code = "vm-not-running"
    hint = "Start the VM first."


class VmBusyError(UnavailableError):
    """Another operation holds the VM or its disk."""

    code = "vm-busy"
    hint = "Wait until the other operation (a copy, a backup, a snapshot) has ended."


class VmStateError(UnavailableError):
    """The VM is in a state in which this cannot be done."""

    code = "vm-state"
    hint = "Look at the VM's state on the host; the reason is in the message."


class VmDidNotStopError(UnavailableError):
    """A guest was asked to shut down and did not within the time limit."""

    code = "vm-did-not-stop"
    hint = "Give it more time, or stop it by force (like pulling the plug)."


class NbdUnreachableError(UnavailableError):
    """The hypervisor cannot open an NBD export of the appliance."""

    code = "nbd-unreachable"
    hint = (
        "From the hypervisor's host, try `qemu-img info URI`; check nbd.listen, nbd.advertise and firewalls."
    )


class DiskPullError(UnavailableError):
    """Copying a VM's disks away from the NBD server did not succeed."""

    code = "disk-pull"
    hint = "The VM still reads from the appliance: keep `lastwrite serve` running there, then pull again."


class GuestAgentSilentError(UnavailableError):
    """The guest agent does not answer."""

    code = "guest-agent-silent"
    hint = "In the guest: `systemctl status qemu-guest-agent`. A guest that has just booted needs a moment."


class GuestAgentFailedError(UnavailableError):
    """The guest agent answered with a failure."""

    code = "guest-agent-failed"
    hint = "The agent's own words are in the message; its log in the guest tells more."


class GuestExecTimeoutError(UnavailableError):
    """A command in a guest did not end within its time limit."""

    code = "guest-exec-timeout"
    hint = "It may still run in the guest, as the process in the message: end it there, or allow more time."


class VmExistsError(RefusedError):
    """A VM of that name exists already."""

    code = "vm-exists"
    hint = "Choose another name, or delete the VM that has it."


class VmRunningError(RefusedError):
    """It was refused because the VM runs."""

    code = "vm-running"
    hint = "Stop the VM first."


class NotCapableError(UnsupportedError):
    """The adapter, or this hypervisor, cannot do it."""

    code = "not-capable"
    hint = "`lastwrite hypervisor check NAME` shows what each hypervisor can do."


class HypervisorUnsupportedError(UnsupportedError):
    """This version or build of the hypervisor does not support it."""

    code = "hypervisor-unsupported"
    hint = "The hypervisor's own words are in the message: use another host, or a newer version of it."


class NoAccelerationError(UnsupportedError):
    """The host has no hardware virtualisation for a VM that asks for it."""

    code = "no-acceleration"
    hint = 'Enable KVM on the host, or ask for emulation (accel "tcg"), which is many times slower.'


class NoGuestAgentChannelError(UnsupportedError):
    """The VM has no channel for a guest agent."""

    code = "no-guest-agent-channel"
    hint = (
        "Add one, then restart the VM: `virt-xml VM --add-device --channel "
        "unix,target.type=virtio,target.name=org.qemu.guest_agent.0`; install qemu-guest-agent in the guest."
    )


class GuestAgentRefusedError(UnsupportedError):
    """The guest agent is configured not to do it."""

    code = "guest-agent-refused"
    hint = (
        "In the guest, take the command out of the block list (RHEL: BLACKLIST_RPC or FILTER_RPC_ARGS in "
        "/etc/sysconfig/qemu-ga, else block-rpcs in /etc/qemu/qemu-ga.conf) and restart qemu-guest-agent."
    )
