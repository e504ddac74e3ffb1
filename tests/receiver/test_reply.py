"""Replies of a tap that are not what the protocol allows."""

from __future__ import annotations

from typing import Any

import pytest

from guesttap.protocol import ProtocolError
from guesttap.receiver.reply import parse_reply
from tests.receiver.conftest import Appliance
from tests.receiver.double import TapDouble
from tests.receiver.test_sessions import refused_code, streaming

GOOD: dict[str, Any] = {
    "type": "reply",
    "id": 1,
    "ok": True,
    "result": {"lsn": 1, "number": 2},
    "error": None,
}


@pytest.mark.parametrize("wild", [[1], {"a": 1}, None, "1", True, 1.5, -1, b"x"])
def test_a_wild_id_or_number_is_refused(wild: Any) -> None:
    assert parse_reply(GOOD).result == {"lsn": 1, "number": 2}
    with pytest.raises(ProtocolError, match="id"):
        parse_reply(GOOD | {"id": wild})
    if wild is not None:
        for key in ("lsn", "number", "wall", "mono", "frozen"):
            with pytest.raises(ProtocolError, match=key):
                parse_reply(GOOD | {"result": {key: wild}})


@pytest.mark.parametrize("wild", [[1], "x", 5])
def test_a_result_that_is_no_map_is_refused(wild: Any) -> None:
    with pytest.raises(ProtocolError, match="result"):
        parse_reply(GOOD | {"result": wild})


def test_only_what_is_known_is_kept_of_a_result() -> None:
    wild = {"messages": ["a" * 500, 5], "consistency": [1], b"x": b"y", "other": {"a": b"b"}, "frozen": None}
    assert parse_reply(GOOD | {"result": wild}).result == {"messages": ["a" * 300, "5"], "frozen": None}


@pytest.mark.usefixtures("vm")
@pytest.mark.parametrize("wild", [{"id": [1]}, {"id": {"a": 1}}, {"id": 1, "result": [1]}])
def test_a_tap_that_answers_wildly_is_told_so(
    appliance: Appliance, tap: TapDouble, wild: dict[str, Any]
) -> None:
    streaming(tap)
    tap.live().send_message(GOOD | wild)
    assert refused_code(tap) == "protocol"
    assert "defect" not in appliance.log.read_text()
    assert streaming(tap).welcome["action"] == "resume"
