"""The answers to hello, as a table: one fact changes, the answer follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from guesttap.protocol import ProtocolError
from guesttap.receiver.decide import (
    FENCE_ENROLLED,
    Standing,
    decide,
    fence_accepted,
    fence_offered,
    fence_settled,
    welcome,
)
from guesttap.receiver.hello import Hello, parse_hello

HELLO = Hello(
    instance="machine-1",
    boot="boot-1",
    fence="fence-1",
    generation=7,
    resume=100,
    head=300,
    whole=True,
    dirty_known=True,
    epoch=3,
    wall=10**18,
    mono=5000,
)
STANDING = Standing(
    protected=True,
    instance="machine-1",
    fence="fence-1",
    epoch=3,
    epoch_open=True,
    generation=7,
    position=200,
    next_lsn=1000,
    next_cut=50,
    valid=True,
    valid_base=True,
    last_mono=4000,
)
SYNCING: dict[str, Any] = {"valid": False, "cursor": {"disk": 0, "sector": 64}}

# what the tap says otherwise, what the appliance knows otherwise -> action, base
TABLE: list[tuple[str, dict[str, Any], dict[str, Any], str, bool]] = [
    ("all fits", {}, {}, "resume", True),
    ("in the middle of a sync", {}, SYNCING, "resume", True),
    ("the epoch is not known to the tap", {"epoch": None}, {}, "resume", True),
    ("position is the ring's beginning", {"resume": 200}, {}, "resume", True),
    ("position is the ring's end", {"head": 200}, {}, "resume", True),
    ("the ring begins later", {"resume": 201}, {}, "begin", False),
    ("the ring ends earlier", {"head": 199}, {}, "begin", False),
    ("writes were lost", {"whole": False}, {}, "begin", True),
    ("the epoch has ended", {}, {"epoch_open": False}, "begin", True),
    ("the tap is one epoch ahead", {"epoch": 4}, {}, "begin", True),
    ("the tap is an epoch behind", {"epoch": 2}, {}, "begin", False),
    ("no tap attached", {"generation": None}, {}, "begin", False),
    ("attached anew", {"generation": 8}, {}, "begin", False),
    ("rebooted", {"generation": None, "boot": "boot-2", "epoch": None}, {}, "begin", False),
    ("set back in time", {"mono": 3999}, {}, "begin", False),
    ("refused content before", {}, {"distrust": "a record outside its disk"}, "begin", False),
    ("no valid epoch yet", {"whole": False}, {"valid": False, "valid_base": False}, "begin", False),
    ("empty journal", {}, {"epoch": 0, "fence": None, "valid_base": False}, "begin", False),
    ("just enrolled", {"fence": None, "generation": None}, {"fence": FENCE_ENROLLED}, "begin", False),
    ("fence on its way, old one shown", {}, {"fence": "fence-2 fence-1"}, "resume", True),
    ("fence on its way, new one shown", {"fence": "fence-2"}, {"fence": "fence-2 fence-1"}, "resume", True),
    ("protection ended", {}, {"protected": False}, "dormant", False),
    ("never enrolled", {}, {"instance": None}, "dormant", False),
    ("another machine", {"instance": "machine-2"}, {}, "dormant", False),
    ("older fence", {"fence": "fence-0"}, {}, "dormant", False),
    ("no fence, long enrolled", {"fence": None}, {}, "dormant", False),
    ("old fence after a new enrolment", {}, {"fence": FENCE_ENROLLED}, "dormant", False),
    (
        "older fence while one is on its way",
        {"fence": "fence-0"},
        {"fence": "fence-2 fence-1"},
        "dormant",
        False,
    ),
    ("a rival is alive", {}, {"rival": True}, "dormant", False),
]


@pytest.mark.parametrize(("name", "said", "known", "action", "base"), TABLE, ids=[row[0] for row in TABLE])
def test_decision(name: str, said: dict[str, Any], known: dict[str, Any], action: str, base: bool) -> None:
    decision = decide(replace(HELLO, **said), replace(STANDING, **known))
    assert (decision.action, decision.base) == (action, base), decision.reason
    assert decision.reason
    assert decision.epoch == replace(STANDING, **known).epoch + (action == "begin")


def test_welcome_to_resume_says_where_to_go_on() -> None:
    standing = replace(STANDING, **SYNCING)
    said = welcome(decide(HELLO, standing), standing, "fence-1")
    assert (said["epoch"], said["next_lsn"], said["next_cut"], said["position"]) == (3, 1000, 50, 200)
    assert (said["syncing"], said["cursor"], said["fence"]) == (True, {"disk": 0, "sector": 64}, "fence-1")


def test_welcome_to_begin_hides_the_old_sync() -> None:
    standing = replace(STANDING, epoch_open=False, **SYNCING)
    said = welcome(decide(HELLO, standing), standing, "fence-2")
    assert (said["epoch"], said["syncing"], said["cursor"], said["base"]) == (4, True, None, True)


def test_welcome_to_be_dormant_tells_nothing_of_the_journal() -> None:
    standing = replace(STANDING, protected=False)
    assert set(welcome(decide(HELLO, standing), standing, None)) == {"type", "action", "reason", "base"}


def test_a_fence_lives_from_offer_to_settlement() -> None:
    stored = fence_offered("new", None)
    assert fence_accepted(stored, None)
    assert fence_accepted(stored, "new")
    assert not fence_accepted(stored, "other")
    settled = fence_settled(stored)
    assert settled == "new"
    assert not fence_accepted(settled, None)
    assert fence_settled(settled) is None


GOOD: dict[str, Any] = {
    "type": "hello", "protocol": 1, "instance": "a", "boot": "b", "fence": None, "generation": 1,
    "resume": 0, "head": 0, "whole": True, "dirty_known": False, "epoch": None, "wall": 1, "mono": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocol": 2},
        {"instance": "two words"},
        {"instance": None},
        {"instance": "x" * 129},
        {"boot": 5},
        {"fence": "a b"},
        {"fence": ""},
        {"generation": -1},
        {"generation": 1 << 64},
        {"resume": 1.5},
        {"head": True},
        {"epoch": 1 << 32},
        {"wall": -1},
        {"mono": None},
    ],
)
def test_a_hello_with_a_wrong_field_is_refused(wrong: dict[str, Any]) -> None:
    parse_hello(GOOD)
    with pytest.raises(ProtocolError):
        parse_hello(GOOD | wrong)
