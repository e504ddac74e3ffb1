"""Doubles of our own for libvirt: errors with a chosen code, and objects of which every call fails.

They show how the adapter answers a failure; they do not show which failures libvirt really has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt


def failure(
    code: int | None, message: str = "it failed", part: int = libvirt.VIR_FROM_QEMU
) -> libvirt.libvirtError:
    """Return the exception that libvirt-python raises for this code."""
    error = libvirt.libvirtError(message)
    error.err = None if code is None else (code, part, message, 2, None, None, None, -1, -1)
    return error


class Failing:
    """An object of which every method raises `error`, except those that are given as `answers`."""

    def __init__(self, error: libvirt.libvirtError, **answers: Any) -> None:
        self._error = error
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_args: Any, **_kwargs: Any) -> Any:
            if name in self._answers:
                return self._answers[name]
            raise self._error

        return call
