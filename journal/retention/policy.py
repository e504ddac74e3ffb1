"""The promise: which points of which age are kept, and what happens when space runs short. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from journal.retention.errors import BadPolicy
from lastwrite.durations import UNITS, duration_text, parse_duration

WHEN_FULL = ("thin", "stop")
_SHORTENING = 4  # so many steps take a tier away
LONGEST = 100 * UNITS["y"]
"""No age is longer (ns): it fits into 8 bytes beside the time of today."""
_LARGEST = 1 << 62  # bytes


@dataclass(frozen=True, slots=True)
class Tier:
    """Up to the age `reach` (ns), one cut in every `step` (ns) is kept."""

    step: int
    reach: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A promise. Times in ns of age, `reserve_bytes` of the file system or None for the appliance's default.

    Every write is a point up to the age `every_write`; then the tiers, finer ones first. Within `floor` nothing is
    given up for want of space. Bookmarks stay whatever their age, AppShots up to the end of the last tier.
    """

    every_write: int = UNITS["d"]
    tiers: tuple[Tier, ...] = (
        Tier(UNITS["m"], 3 * UNITS["d"]),
        Tier(UNITS["h"], 30 * UNITS["d"]),
        Tier(UNITS["d"], UNITS["y"]),
    )
    floor: int = UNITS["d"]
    when_full: str = "thin"
    reserve_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raises BadPolicy."""
        if self.every_write < 0 or self.floor < 0 or (self.reserve_bytes or 0) < 0:
            raise BadPolicy("a promise has no negative times or sizes")
        steps = [time for tier in self.tiers for time in (tier.step, tier.reach)]
        if max(self.every_write, self.floor, *steps) > LONGEST:
            raise BadPolicy(f"no age of a promise is longer than {duration_text(LONGEST)}")
        if (self.reserve_bytes or 0) > _LARGEST:
            raise BadPolicy("no file system is as large as this reserve")
        if self.when_full not in WHEN_FULL:
            raise BadPolicy(f"what to do when full is {' or '.join(WHEN_FULL)}, not {self.when_full!r}")
        for tier in self.tiers:
            if tier.step <= 0 or tier.reach <= self.every_write:
                raise BadPolicy(
                    f"the tier {_tier_text(tier)} has no step, or ends before every write is given up"
                )
        for finer, coarser in pairwise(self.tiers):
            if coarser.step <= finer.step or coarser.reach <= finer.reach:
                raise BadPolicy(
                    f"the tier {_tier_text(coarser)} does not follow {_tier_text(finer)}: both must grow"
                )
        if self.floor > self.horizon:
            raise BadPolicy(
                f"the floor is {duration_text(self.floor)}, but the tiers end at {duration_text(self.horizon)}"
            )

    @property
    def horizon(self) -> int:
        """The age up to which anything is promised."""
        return self.tiers[-1].reach if self.tiers else self.every_write

    def step_at(self, age: int) -> int | None:
        """Return the step of the points of an age: 0 every write, None nothing."""
        if age < self.every_write:
            return 0
        return next((tier.step for tier in self.tiers if age < tier.reach), None)

    def shortened(self) -> Iterator[Policy]:
        """Yield what space may shorten this promise to, step by step, the oldest first, never below the floor."""
        policy = self
        while policy.tiers:
            *finer, last = policy.tiers
            inner = max(finer[-1].reach if finer else policy.every_write, self.floor)
            width = last.reach - inner
            for part in range(_SHORTENING - 1, 0, -1):
                reach = inner + width * part // _SHORTENING
                if reach > inner:
                    policy = replace(policy, tiers=(*finer, Tier(last.step, reach)))
                    yield policy
            if inner > (finer[-1].reach if finer else policy.every_write):
                yield replace(policy, tiers=(*finer, Tier(last.step, inner)))
                return
            policy = replace(policy, tiers=tuple(finer))
            yield policy
        width = policy.every_write - self.floor
        for part in range(_SHORTENING - 1, -1, -1):
            if width > 0:
                yield replace(policy, every_write=self.floor + width * part // _SHORTENING)

    def to_meta(self) -> dict[str, Any]:
        """Return the promise as a map for the metadata log."""
        return {
            "every_write": self.every_write,
            "tiers": [[tier.step, tier.reach] for tier in self.tiers],
            "floor": self.floor,
            "when_full": self.when_full,
            "reserve_bytes": self.reserve_bytes,
        }


def from_meta(fields: Any) -> Policy:
    """Return the promise that a map of the metadata log says. Raises BadPolicy."""
    try:
        tiers = tuple(Tier(int(step), int(reach)) for step, reach in fields["tiers"])
        reserve = fields.get("reserve_bytes")
        return Policy(
            int(fields["every_write"]),
            tiers,
            int(fields["floor"]),
            str(fields["when_full"]),
            None if reserve is None else int(reserve),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPolicy(f"the promise in the journal cannot be read: {error!r}") from error


def policy_of(records: list[dict[str, Any]], default: Policy) -> Policy:
    """Return the promise that counts for a journal: its own, or the default. Raises BadPolicy."""
    last = next((meta for meta in reversed(records) if meta["meta"] == "retention"), None)
    fields = last.get("policy") if last else None
    return default if fields is None else from_meta(fields)


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """Return the tiers of a text such as `1m:3d, 1h:30d, 1d:1y`: a step and the age up to which it holds.

    Raises BadPolicy.
    """
    tiers = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        step, colon, reach = part.partition(":")
        try:
            if not colon:
                raise ValueError(f"{part!r} has no colon")
            tiers.append(Tier(parse_duration(step), parse_duration(reach)))
        except ValueError as error:
            raise BadPolicy(f"tiers are written as STEP:AGE, such as 1h:30d: {error}") from error
    return tuple(tiers)


def require_unit(option: str, text: str | None) -> None:
    """Refuse a bare number that a person typed for a size: 12 is hardly meant as 12 bytes. Raises BadPolicy."""
    number = (text or "").strip()
    if number.isdecimal() and int(number):
        raise BadPolicy(
            f"{option} {number} has no unit",
            hint=f"Write it with B, KiB, MiB, GiB, TiB or PiB, such as {number}GiB, or as a share of the file system,"
            " such as 5%. Only 0 needs no unit.",
        )


def tiers_text(tiers: tuple[Tier, ...]) -> str:
    """Return tiers in the form that parse_tiers reads."""
    return ", ".join(_tier_text(tier) for tier in tiers)


def policy_text(policy: Policy) -> str:
    """Return what a promise keeps, in words: `every write up to 1d, then 1m:3d, 1h:30d`."""
    then = f", then {tiers_text(policy.tiers)}" if policy.tiers else ""
    return f"every write up to {duration_text(policy.every_write)}{then}"


def _tier_text(tier: Tier) -> str:
    return f"{duration_text(tier.step)}:{duration_text(tier.reach)}"
