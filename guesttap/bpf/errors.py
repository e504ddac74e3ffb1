"""What can go wrong with the bpf tap, each with what to do about it."""

from __future__ import annotations

from lastwrite.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)


class TapUnsupportedError(UnsupportedError):
    """This machine lacks something that the bpf tap needs (`probe` names it)."""

    code = "bpf-tap-unsupported"
    hint = "Use the qemu or the poll tap for this VM."


class KernelTypesError(UnsupportedError):
    """The kernel's own type information (BTF) is damaged or lacks a type that the tap reads."""

    code = "kernel-types-unusable"
    hint = "Use the qemu or the poll tap for this VM, and report the kernel's version."


class ProgramRejectedError(UnsupportedError):
    """The kernel's verifier refused one of the tap's programs; `details["log"]` has its words."""

    code = "bpf-program-rejected"
    hint = (
        "Use the qemu or the poll tap for this VM, and report the kernel's version with the verifier's log."
    )


class BpfCallError(UnavailableError):
    """A bpf(2) call failed; `details["errno"]` has the number."""

    code = "bpf-call-failed"
    hint = "Run `probe` on this machine: it names what is missing."


class AlreadyAttachedError(RefusedError):
    """A tap runs on this machine already, under the same pins."""

    code = "tap-already-attached"
    hint = "Adopt the running tap, or detach it first."


class BrokenTapError(IntegrityError):
    """The pinned tap cannot be adopted: parts are missing or of another version."""

    code = "tap-not-adoptable"
    hint = "Detach it and attach afresh; a delta sync then finds what was written in between."


class CalibrationError(UnsupportedError):
    """The addresses of the kernel's page array or linear map could not be found."""

    code = "tap-not-calibrated"
    hint = "Use the qemu or the poll tap for this VM, and report the kernel's version."


class SelfTestError(IntegrityError):
    """The tap read something else than what was in memory, so it was taken out again."""

    code = "tap-self-test-failed"
    hint = "Nothing stays attached. Use the qemu or the poll tap, and report the kernel's version."


class DiskMissingError(NotFoundError):
    """A path that should be a disk does not exist or is no block device."""

    code = "tap-disk-not-found"
    hint = "List the disks with `lsblk -d` and choose one of those."


class UntappableDiskError(UsageError):
    """A block device cannot be tapped by itself: a partition, a zoned disk, an empty drive, a duplicate."""

    code = "disk-not-tappable"
    hint = "Name each whole, conventional disk once (for example /dev/vda)."


class RingSizeError(UsageError):
    """The ring's size is not a power of two of at least 1 MiB."""

    code = "bad-ring-size"
    hint = "Give a power of two between 1 MiB and 1 GiB, for example 67108864."


class RingPositionError(UsageError):
    """A position lies outside what the ring holds now."""

    code = "bad-ring-position"
    hint = "Read from a position between the consumer's and the producer's."


class RingFullError(UnavailableError):
    """The ring had no room for a mark."""

    code = "tap-ring-full"
    hint = "Read and release records, then mark again."
