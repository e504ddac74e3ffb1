"""Names, texts, logs and the error tree."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from lastwrite import errordoc, logs, names, text
from lastwrite.errors import LastwriteError
from lastwrite.ids import is_id, is_name, new_id

ROOT = Path(__file__).resolve().parents[2]


def test_the_error_document_lists_every_error_as_it_is() -> None:
    assert (ROOT / "docs/errors.md").read_text() == errordoc.text()


def test_every_error_has_a_code_a_remedy_and_the_exit_status_of_its_kind() -> None:
    errors = errordoc.our_errors()
    assert len(errors) > 40
    for kind in errors:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code), kind
        assert kind.hint and kind.__doc__, kind
        assert kind is LastwriteError or 2 <= kind.exit_code <= 7, kind


def test_no_two_errors_share_a_code() -> None:
    errordoc.import_all()
    seen: dict[str, type[LastwriteError]] = {}
    queue: list[type[LastwriteError]] = [LastwriteError]
    while queue:
        kind = queue.pop()
        queue += kind.__subclasses__()
        own = "code" in vars(kind) and kind.__module__.partition(".")[0] in errordoc.PACKAGES
        if own:
            assert kind.code not in seen, (kind, seen.get(kind.code))
            seen[kind.code] = kind


def test_nearest_names_are_offered_best_first() -> None:
    assert names.nearest("wbe01", ["web02", "web01", "database"])[0] == "web01"
    assert names.nearest("WEB01", ["web01"]) == ["web01"]
    assert names.nearest("data", ["database", "zzz"]) == ["database"]
    assert names.nearest_hint("qqq", ["a1", "b2"], "none") == "There is: a1, b2."
    assert names.nearest_hint("qqq", [], "none") == "none"
    assert names.nearest_hint("web", ["web01", "web02"], "none") == "Did you mean web01 or web02?"


def test_sizes_durations_and_times_read_well() -> None:
    assert [text.size(n) for n in (None, 0, 1023, 1536, 5 << 40)] == [
        "-",
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 TiB",
    ]
    spoken = {0.35: "350 ms", 4.25: "4.2 s", 185: "3 min 5 s", 7800: "2 h 10 min", 273600: "3 d 4 h"}
    assert {seconds: text.duration(seconds) for seconds in spoken} == spoken
    assert text.utc(1795341605_123999999) == "2026-11-22T10:00:05.123Z"


def test_ids_and_names_have_their_forms() -> None:
    assert is_id(new_id()) and new_id() != new_id()
    assert is_name("web-01.example_x+1") and not is_name("a@b") and not is_name("a\n")


@pytest.fixture
def kept_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("kept_logging")
def test_logs_are_json_lines_with_process_and_utc_and_hide_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("ingest", json=True)
    structlog.get_logger("x").info("enrolled", token="s3cret-1", vm="web01")
    logging.getLogger("library").warning("said %s", "so")
    logging.getLogger("library").debug("not this")
    lines = capfd.readouterr().err.splitlines()
    ours, theirs = [json.loads(line) for line in lines]
    assert ours["process"] == theirs["process"] == "ingest"
    assert ours["vm"] == "web01" and ours["token"] == "[hidden]" and "s3cret" not in lines[0]
    assert ours["timestamp"].endswith("Z") and theirs["event"] == "said so"


@pytest.mark.usefixtures("kept_logging")
@pytest.mark.parametrize("json_lines", [True, False])
def test_no_log_of_an_exception_shows_what_variables_held(
    json_lines: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("ingest", json=json_lines)
    token = "s3cret" + "-2"
    try:
        raise ValueError(len(token))
    except ValueError:
        structlog.get_logger("x").exception("failed")
    said = capfd.readouterr().err
    assert "ValueError: 8" in said and "s3cret-2" not in said
