"""docs/journal-format.md and the code name the same bytes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from journal import frame, layout, metalog, notes, table

DOC = (Path(__file__).parents[2] / "docs" / "journal-format.md").read_text()
HEAD = "| offset | size | type | field | meaning |"
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}

Row = tuple[int, int, str, str]


def tables() -> list[list[Row]]:
    """The byte tables of the document in their order: frame, record, segment, footer, net segment, metadata."""
    found: list[list[Row]] = []
    for part in DOC.split(HEAD)[1:]:
        rows: list[Row] = []
        for line in part.splitlines()[2:]:
            if not line.startswith("|"):
                break
            offset, size, kind, field = [cell.strip() for cell in line.strip("|").split("|")][:4]
            if size.isdigit():
                rows.append((int(offset), int(size), kind, field))
        found.append(rows)
    return found


def layout_of(rows: list[Row]) -> str:
    return "<" + "".join(f"{size}s" if kind == "bytes" else CODES[kind] for _, size, kind, _ in rows)


def check(rows: list[Row], code: struct.Struct) -> None:
    assert layout_of(rows) == code.format
    place = 0
    for offset, size, _, field in rows:
        assert offset == place, field
        place += size
    assert place == code.size


def test_every_byte_table_has_the_layout_of_the_code() -> None:
    header, record, segment, footer, net, meta = tables()
    check(header, frame._HEADER)
    check(record, frame._RECORD)
    check(segment, layout.SEGMENT_HEADER)
    check(footer, layout.FOOTER)
    check(net, layout.NET_HEADER)
    check(meta, metalog.META_HEADER)
    assert struct.calcsize(layout_of(header)) == frame.HEADER_BYTES
    assert struct.calcsize(layout_of(record)) == frame.RECORD_BYTES


def test_fields_have_the_names_and_order_of_the_code() -> None:
    header, record, segment, footer, net, _ = ([row[3] for row in rows] for rows in tables())
    assert [name for name in header if name not in ("magic", "flags", "reserved")] == list(
        frame.FrameHeader._fields
    )
    assert record == list(table.RECORD.names or ())
    assert segment[1:-1] == ["journal", "timeline", "reserved", *layout.SegmentHeader._fields[2:]]
    assert footer[1:-1] == list(layout.Footer._fields)
    assert net[1:-1] == ["journal", "timeline", "reserved", *layout.NetHeader._fields[2:]]


def test_magics_and_limits_are_those_of_the_code() -> None:
    magics = (layout.SEGMENT_MAGIC, layout.NET_MAGIC, layout.FOOTER_MAGIC)
    for magic in (frame.MAGIC, *magics, metalog.MAGIC):
        assert f"`{magic.decode()}`" in DOC
    assert f"number of records, 0 to {frame.MAX_RECORDS} " in DOC
    assert f"length of the notes, 0 to {frame.MAX_NOTES_BYTES} " in DOC
    assert f"at most {frame.MAX_PAYLOAD_BYTES >> 20} MiB" in DOC
    assert f'"format": {layout.FORMAT},' in DOC


def test_kinds_of_frames_and_records_of_the_log_are_those_of_the_code() -> None:
    kind = re.search(r"\| kind \| (\d) captured.*?(\d) sync.*?(\d) net of captured, (\d) net of sync", DOC)
    assert kind is not None
    assert [int(n) for n in kind.groups()] == [frame.CAPTURED, frame.SYNC, frame.NET_CAPTURED, frame.NET_SYNC]
    named = re.search(r"and no (.*?) in the metadata log", DOC, re.DOTALL)
    assert named and words(named[1]) == metalog.SINCE_FORMAT_2


def words(sentence: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([a-z-]+)`", sentence))


def test_words_of_notes_are_those_of_the_code() -> None:
    found = re.search(r"`order`: (.*?)\. `generation`.*?`sync`: (.*?)\. `reason`", DOC)
    assert found and words(found[1]) == notes.ORDERS and words(found[2]) == notes.SYNCS
    cut = re.search(r"`kind`: (`tick`.*?)\. `consistency`: (.*?)\. `offset`", DOC)
    assert cut and words(cut[1]) == notes.CUT_KINDS and words(cut[2]) == notes.CONSISTENCIES
