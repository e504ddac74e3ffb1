"""What is pinned beside the programs, so that a new process can go on with a tap."""

from __future__ import annotations

import json
from typing import Any, Dict, NamedTuple

from guesttap.bpf import abi
from guesttap.bpf.accounting import Point
from guesttap.bpf.disks import Disk
from guesttap.bpf.errors import BrokenTapError
from guesttap.bpf.layout import FlagMasks

_VERSION = 1


class Meta(NamedTuple):
    """What a new process needs to know of a pinned tap; kept as JSON in a map."""

    generation: int
    granularity: int
    disks: list[Disk]
    masks: FlagMasks
    baseline: Dict[int, Point]  # by disk  # noqa: UP006

    def pack(self) -> bytes:
        """Return the bytes for the map."""
        text = json.dumps({"version": _VERSION, **self._asdict()}).encode()
        if len(text) > abi.META_BYTES:
            raise ValueError(f"{len(text)} bytes of meta data do not fit")
        return text.ljust(abi.META_BYTES, b"\0")

    @classmethod
    def unpack(cls, content: bytes) -> Meta:
        """Read the map's bytes; raises BrokenTapError for a tap that another version attached."""
        try:
            fields: Dict[str, Any] = json.loads(content.rstrip(b"\0"))  # noqa: UP006
            if fields.pop("version") != _VERSION:
                raise ValueError("another version")
            fields["disks"] = [Disk(*disk) for disk in fields["disks"]]
            fields["masks"] = FlagMasks(*fields["masks"])
            fields["baseline"] = {int(k): Point(*v) for k, v in fields["baseline"].items()}
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenTapError(f"the pinned tap is of another version: {error}") from None
