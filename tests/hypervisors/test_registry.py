"""Adapters are found by kind and by URL, and a broken one does not hide the others."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from hypervisors import registry
from hypervisors.errors import UnknownHypervisorKindError
from hypervisors.kvm import KvmHypervisor
from hypervisors.memory import MemoryHypervisor

BROKEN = {
    "absent": EntryPoint("absent", "no_such_module_anywhere:Thing", registry.GROUP),
    "wrong": EntryPoint("wrong", "collections:OrderedDict", registry.GROUP),
    "memory": EntryPoint("memory", "hypervisors.memory:MemoryHypervisor", registry.GROUP),
}


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("qemu:///system", "kvm"),
        ("qemu+ssh://root@host/system", "kvm"),
        ("qemu+unix:///system?socket=/run/x", "kvm"),
        ("test:///default", "kvm"),
        ("memory://a", "memory"),
    ],
)
def test_kind_follows_from_the_url(url: str, kind: str) -> None:
    assert registry.kind_of(url) == kind


@pytest.mark.parametrize("url", ["", "qemu", "vmware://host", "://"])
def test_url_of_no_adapter_is_refused_with_the_known_schemes(url: str) -> None:
    with pytest.raises(UnknownHypervisorKindError) as caught:
        registry.kind_of(url)
    assert "qemu://" in caught.value.hint


def test_hypervisor_is_opened_by_kind_or_by_url() -> None:
    assert isinstance(registry.open_hypervisor("a", "memory", "memory://"), MemoryHypervisor)
    opened = registry.open_hypervisor("b", None, "qemu:///system")
    assert isinstance(opened, KvmHypervisor) and (opened.name, opened.url) == ("b", "qemu:///system")


def test_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownHypervisorKindError) as caught:
        registry.adapter("kvmm")
    assert "kvm" in caught.value.hint


def test_broken_adapter_is_told_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_adapters", lambda: BROKEN)
    assert registry.kind_of("memory://") == "memory"
    with pytest.raises(UnknownHypervisorKindError, match="no_such_module_anywhere"):
        registry.adapter("absent")
    with pytest.raises(UnknownHypervisorKindError, match="is not a Hypervisor"):
        registry.adapter("wrong")
