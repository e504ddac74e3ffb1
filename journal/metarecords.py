"""Which keys a record of the metadata log must have, and of what kind: what makes no sense is no record."""

from __future__ import annotations

from typing import Any

_MAX = (1 << 63) - 1


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX


def _maybe_number(value: Any) -> bool:
    return value is None or _number(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _maybe_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _map(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _digest(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 16


_KEYS: dict[str, dict[str, Any]] = {
    "timeline": {"timeline": _number, "name": _text, "parent": _maybe_number, "fork_lsn": _maybe_number,
                 "epoch": _maybe_number, "created": _maybe_number},
    "bookmark": {"timeline": _number, "lsn": _number, "name": _text},
    "fence": {"token": _maybe_text, "instance": _maybe_text},
    "pin": {"pin": _text, "timeline": _number, "lsn": _number, "reason": _text, "holder": _text,
            "until": _maybe_number, "created": _maybe_number},
    "unpin": {"pin": _text},
    "retention": {"policy": _map},
    "thinned": {"timeline": _number, "first_lsn": _number, "next_lsn": _number, "digest": _digest},
    "pruned": {"timeline": _number},
    "damage": {"timeline": _number, "first_lsn": _number, "next_lsn": _number, "reason": _maybe_text},
}  # fmt: skip


def makes_sense(meta: Any) -> bool:
    """Return whether a decoded body is a record: of an unknown kind, or with the keys that its kind must have."""
    if not isinstance(meta, dict) or not isinstance(meta.get("meta"), str):
        return False
    keys = _KEYS.get(meta["meta"], {})
    return all(is_right(meta.get(key)) for key, is_right in keys.items())
