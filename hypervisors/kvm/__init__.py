"""The adapter for QEMU/KVM through libvirt. No libvirt object leaves this package."""

from hypervisors.kvm.adapter import KvmHypervisor

__all__ = ["KvmHypervisor"]
