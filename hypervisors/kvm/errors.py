"""Every failure of libvirt as one of our errors.

`translated` wraps all public methods of the adapter, so that none can be forgotten. The code that libvirt
gives decides; where one code stands for many things, the part of libvirt that failed and its words do.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from hypervisors import errors as ours
from hypervisors.model import VmSpec
from lastwrite.errors import LastwriteError

Adapter = TypeVar("Adapter", bound=type)

BY_CODE: dict[int, type[LastwriteError]] = {
    code: kind
    for kind, codes in {
        ours.VmNotFoundError: (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_DOMAIN),
        ours.VmExistsError: (libvirt.VIR_ERR_DOM_EXIST,),
        ours.GuestAgentSilentError: (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED),
        ours.HypervisorUnreachableError: (
            libvirt.VIR_ERR_NO_CONNECT,
            libvirt.VIR_ERR_INVALID_CONN,
            libvirt.VIR_ERR_RPC,
            libvirt.VIR_ERR_UNKNOWN_HOST,
            libvirt.VIR_ERR_NO_SERVER,
            libvirt.VIR_ERR_SSH,
            libvirt.VIR_ERR_LIBSSH,
            libvirt.VIR_ERR_GNUTLS_ERROR,
        ),
        ours.HypervisorDeniedError: (
            libvirt.VIR_ERR_AUTH_FAILED,
            libvirt.VIR_ERR_AUTH_CANCELLED,
            libvirt.VIR_ERR_AUTH_UNAVAILABLE,
            libvirt.VIR_ERR_ACCESS_DENIED,
            libvirt.VIR_ERR_OPERATION_DENIED,
        ),
        ours.HypervisorTimeoutError: (libvirt.VIR_ERR_OPERATION_TIMEOUT,),
        ours.VmStateError: (libvirt.VIR_ERR_OPERATION_INVALID,),
        ours.VmBusyError: (libvirt.VIR_ERR_RESOURCE_BUSY, libvirt.VIR_ERR_BLOCK_COPY_ACTIVE),
        ours.NetworkNotFoundError: (libvirt.VIR_ERR_NO_NETWORK,),
        ours.HypervisorStorageError: (
            libvirt.VIR_ERR_NO_STORAGE_POOL,
            libvirt.VIR_ERR_NO_STORAGE_VOL,
            libvirt.VIR_ERR_INVALID_STORAGE_POOL,
            libvirt.VIR_ERR_INVALID_STORAGE_VOL,
            libvirt.VIR_ERR_STORAGE_VOL_EXIST,
            libvirt.VIR_ERR_STORAGE_PROBE_FAILED,
        ),
        ours.HypervisorUnsupportedError: (
            libvirt.VIR_ERR_NO_SUPPORT,
            libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
            libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
            libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
            libvirt.VIR_ERR_CPU_INCOMPATIBLE,
            libvirt.VIR_ERR_OS_TYPE,
        ),
        ours.HypervisorRejectedError: (
            libvirt.VIR_ERR_XML_ERROR,
            libvirt.VIR_ERR_XML_DETAIL,
            libvirt.VIR_ERR_XML_INVALID_SCHEMA,
            libvirt.VIR_ERR_INVALID_ARG,
            libvirt.VIR_ERR_INVALID_MAC,
        ),
    }.items()
    for code in codes
}
"""What a libvirt code means whatever else is said; a code that is not here is a HypervisorFailedError."""

CONNECTION_PARTS = (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_STREAMS)
STORAGE_PARTS = (libvirt.VIR_FROM_STORAGE,)
VAGUE = (
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_OPEN_FAILED,
    libvirt.VIR_ERR_WRITE_FAILED,
    libvirt.VIR_ERR_READ_FAILED,
)

# What QEMU's NBD client says when the server, or the export, is not there.
NBD_EXPORT = re.compile(r'"export":"([^"]*)"')
NBD_WORDS = (
    "failed to connect to",
    "requested export not available",
    "server requires",
    "nbd server",
    "negotiation",
)


def translate(error: libvirt.libvirtError, where: str) -> LastwriteError:
    """Return our error for one of libvirt's; `where` names the hypervisor, the action and the object."""
    reason = " ".join((error.get_error_message() or str(error)).split())
    kind = _kind(error, reason.lower())
    if kind is ours.NbdUnreachableError:
        reason = _nbd_reason(reason)
    return kind(f"{where}: {reason}")


def _nbd_reason(reason: str) -> str:
    """Return which export it was and why, out of the command line that QEMU repeats in its message."""
    export = NBD_EXPORT.search(reason)
    named = f"NBD export {export[1]!r}: " if export else ""
    return named + reason.rpartition("}: ")[2]


def _kind(error: libvirt.libvirtError, words: str) -> type[LastwriteError]:
    code, part = error.get_error_code(), error.get_error_domain()
    if "no space left" in words:
        return ours.StorageFullError
    if code == libvirt.VIR_ERR_OPERATION_INVALID and "not running" in words:
        return ours.VmNotRunningError
    if code == libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED and "guest agent is not configured" in words:
        return ours.NoGuestAgentChannelError
    if code in VAGUE or code is None:
        return _vague_kind(part, words)
    return BY_CODE.get(code, ours.HypervisorFailedError)


def _vague_kind(part: int | None, words: str) -> type[LastwriteError]:
    if '"nbd"' in words and any(saying in words for saying in NBD_WORDS):
        return ours.NbdUnreachableError
    if "already exists with uuid" in words:
        return ours.VmExistsError
    if part in CONNECTION_PARTS:
        return ours.HypervisorUnreachableError
    if part in STORAGE_PARTS:
        return ours.HypervisorStorageError
    return ours.HypervisorFailedError


def translated(adapter: Adapter) -> Adapter:
    """Class decorator: let no libvirtError out of any public method of an adapter."""
    for name, method in list(vars(adapter).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(adapter, name, _guarded(method))
    return adapter


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except libvirt.libvirtError as error:
            raise translate(error, _where(self.name, method.__name__, args)) from error

    return call


def _where(hypervisor: str, method: str, args: tuple[Any, ...]) -> str:
    """Return `host: start of VM`; only the first argument is told, and only where it names a VM."""
    first = args[0].name if args and isinstance(args[0], VmSpec) else args[0] if args else None
    named = f" of {first}" if isinstance(first, str) else ""
    return f"{hypervisor}: {method.replace('_', ' ')}{named}"
