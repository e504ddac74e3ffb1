"""The bpf tap: assembled against the running kernel's own type information, in the standard library alone."""

from guesttap.bpf.disks import Disk, disks_to_tap
from guesttap.bpf.probe import Lack, probe
from guesttap.bpf.ring import DATA, DISCARD, FAILED, FLUSH, MARK, ZERO, RingRecord
from guesttap.bpf.tap import BpfTap

__all__ = [
    "DATA", "DISCARD", "FAILED", "FLUSH", "MARK", "ZERO",
    "BpfTap", "Disk", "Lack", "RingRecord", "disks_to_tap", "probe",
]  # fmt: skip
