"""The connection to one libvirt daemon: opened, kept alive, opened anew when the daemon came back."""

from __future__ import annotations

import contextlib
import os
import threading

import libvirt

from hypervisors.errors import HypervisorUnreachableError

KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_COUNT = 6


def _say_nothing(_context: object, _error: object) -> None:
    """Take the place of libvirt's default handler, which prints each error: they are raised to us anyway."""


libvirt.registerErrorHandler(_say_nothing, None)


class Connection:
    """A libvirt connection to `url`, opened by `open` and shared by all threads."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url
        self._lock = threading.Lock()
        self._libvirt: libvirt.virConnect | None = None
        self._wanted = False

    def open(self) -> None:
        """Connect, unless there is a living connection; raises libvirtError."""
        with self._lock:
            self._wanted = True
            self._living()

    def close(self) -> None:
        """Close; nothing happens when it is closed."""
        with self._lock:
            self._wanted = False
            self._drop()

    def get(self) -> libvirt.virConnect:
        """Return the connection, opened anew if the old one died.

        Raises libvirtError, and HypervisorUnreachableError when nobody called `open`.
        """
        with self._lock:
            if not self._wanted:
                raise HypervisorUnreachableError(
                    f"{self._name}: not connected to {self._url}", hint="Connect first."
                )
            return self._living()

    def _living(self) -> libvirt.virConnect:
        if self._libvirt is None or not self._libvirt.isAlive():
            self._drop()
            _run_event_loop()
            self._libvirt = libvirt.open(self._url)
            # A peer that vanished must not hang us for ever. Not every driver has a peer.
            with contextlib.suppress(libvirt.libvirtError):
                self._libvirt.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        return self._libvirt

    def _drop(self) -> None:
        if self._libvirt is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._libvirt.close()
            self._libvirt = None


_loop_lock = threading.Lock()
_loop_process: int | None = None


def _run_event_loop() -> None:
    """Run libvirt's event loop in a thread of this process, once; keepalive needs it."""
    global _loop_process
    with _loop_lock:
        if _loop_process is None:
            libvirt.virEventRegisterDefaultImpl()
        if _loop_process != os.getpid():  # a fork does not take the thread with it
            _loop_process = os.getpid()
            threading.Thread(target=_turn, name="libvirt-events", daemon=True).start()


def _turn() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()
