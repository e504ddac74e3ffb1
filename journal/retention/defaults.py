"""The appliance's default promise, as its configuration says it."""

from __future__ import annotations

from pathlib import Path

from journal.retention.policy import Policy, parse_tiers
from journal.space import room
from lastwrite.config import RetentionSettings
from lastwrite.durations import parse_duration, parse_share

MOST_RESERVE = 20 << 30
"""A share of a large file system is cut off here; a size that somebody wrote is not."""


def default_policy(section: RetentionSettings) -> Policy:
    """Return the default promise. Raises BadPolicy."""
    return Policy(
        parse_duration(section.every_write),
        parse_tiers(section.tiers),
        parse_duration(section.floor),
        section.when_full,
    )


def reserve_bytes(section: RetentionSettings, folder: Path) -> int:
    """Return the reserve of the file system that `folder` lies on. Raises OSError."""
    share = parse_share(section.reserve, room(folder).total)
    return min(share, MOST_RESERVE) if section.reserve.strip().endswith("%") else share


def stop_bytes(section: RetentionSettings, folder: Path) -> int:
    """Return the free bytes below which ingest stops where a journal has no promise of its own. Raises OSError."""
    reserve = reserve_bytes(section, folder)
    return reserve if section.when_full == "stop" else reserve // 2
