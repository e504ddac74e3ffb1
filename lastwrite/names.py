"""Offering the names that come nearest to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ALIKE = 0.5


def nearest(wanted: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` of the `known` names that look like `wanted`, best first; case does not matter."""
    ranked = sorted((-_likeness(wanted.lower(), name.lower()), name) for name in known)
    return [name for likeness, name in ranked if -likeness >= ALIKE][:limit]


def nearest_hint(wanted: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint that offers the nearest of the `known` names; `otherwise` when there are none."""
    names = sorted(known)
    close = nearest(wanted, names)
    if close:
        return f"Did you mean {_either(close)}?"
    if names:
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"There is: {shown}."
    return otherwise


def _likeness(wanted: str, name: str) -> float:
    """Return 0 to 1; a name that begins with what was typed is always alike."""
    ratio = difflib.SequenceMatcher(None, wanted, name).ratio()
    return max(ratio, ALIKE) if wanted and name.startswith(wanted) else ratio


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
