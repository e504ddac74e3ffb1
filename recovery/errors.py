"""The errors of recovery: each names the point, the image or the VM, and what to do."""

from __future__ import annotations

from lastwrite.errors import NotFoundError, RefusedError, UnavailableError, UsageError


class BadPoint(UsageError):
    """The text is no form of a recovery point."""

    code = "bad-point"
    hint = (
        "A point is: latest, an ISO time (UTC unless a zone is given), -10m, cut:N, lsn:N, app:NAME "
        "or the NAME of a bookmark or AppShot."
    )


class PointNotFound(NotFoundError):
    """No such point: an unknown name or number, before the first point or after the newest."""

    code = "point-not-found"
    hint = "`lastwrite points VM` lists the points of a VM."


class AmbiguousPoint(UsageError):
    """Several points carry this name."""

    code = "ambiguous-point"
    hint = "Name the one that is meant by its number."


class PointInGap(RefusedError):
    """The point lies where the state of the disks is not known: `details` has `before` and `after`."""

    code = "point-in-gap"
    hint = "Choose the point before or the point after the gap: nothing is put in its place silently."


class ClockSetBack(RefusedError):
    """The VM's clock was set back, and when it last showed this time there was no recovery point."""

    code = "clock-set-back"
    hint = "Name a cut (cut:N) or a record (lsn:N): their order does not depend on the clock."


class BadImagePath(UsageError):
    """No image can have this path."""

    code = "bad-image-path"
    hint = "Name a file in a directory that exists, by its whole path, of at most 255 bytes."


class DiskNotFound(NotFoundError):
    """The journal holds no such disk at this point."""

    code = "disk-not-found"
    hint = "`lastwrite status VM` lists the protected disks of a VM."


class BadExport(UsageError):
    """The text is no export name."""

    code = "bad-export"
    hint = "An export name is VM/DISK@POINT, for instance web01/vda@latest."


class ImageExists(RefusedError):
    """A file of that name is already there."""

    code = "image-exists"
    hint = "Choose another name or remove the file: nothing is overwritten."


class ImageNotWritten(UnavailableError):
    """The image could not be written; no part of it is left behind."""

    code = "image-not-written"
    hint = "Make room, or write to another file system, and try again: nothing is left behind."


class UnknownImageFormat(UsageError):
    """The file name does not say which format to write."""

    code = "unknown-image-format"
    hint = "Name the file *.qcow2, or *.raw or *.img."


class BootFailed(UnavailableError):
    """A VM that was made from a point does not do what was waited for."""

    code = "boot-failed"
    hint = "Look at its console; delete it, or try an older point."


class ServerFailed(UnavailableError):
    """The NBD server cannot listen."""

    code = "nbd-server-failed"
    hint = "Choose another address with nbd.listen in the configuration, or free this one."
