"""docs/journal-index.md and the code name the same bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from journal import notes, placed, table
from journal.index import chunks, indexfile, netmap
from tests.journal.test_format_doc import CODES, HEAD, Row

DOC = (Path(__file__).parents[2] / "docs" / "journal-index.md").read_text()


def tables() -> list[list[Row]]:
    """The byte tables in their order: directory, index, tick, frame, map, covered file."""
    found: list[list[Row]] = []
    for part in DOC.split(HEAD)[1:]:
        lines = part.splitlines()[2:]
        end = next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]
        found.append([(int(row[0]), int(row[1]), row[2], row[3]) for row in cells])
    return found


def check(rows: list[Row], size: int) -> None:
    place = 0
    for offset, length, _, field in rows:
        assert offset == place, field
        place += length
    assert place == size


def check_dtype(rows: list[Row], dtype: np.dtype[np.void]) -> None:
    check(rows, dtype.itemsize)
    assert [row[3] for row in rows] == list(dtype.names or ())
    kinds = {"u4": "u32", "u8": "u64", "i8": "i64", "V16": "bytes"}
    assert [row[2] for row in rows] == [kinds[dtype[name].str.lstrip("<|")] for name in dtype.names or ()]


def check_struct(rows: list[Row], code: struct.Struct, fields: tuple[str, ...]) -> None:
    check(rows, code.size)
    said = [
        f"{size}s" if kind == "bytes" else CODES[kind] for _, size, kind, field in rows if field != "sections"
    ]
    assert "".join(said) == code.format.lstrip("<").replace("18Q", "")
    assert [row[3] for row in rows][1:-1] == list(fields)


def test_every_byte_table_is_that_of_the_code() -> None:
    directory, index, tick, frame, net_map, covered = tables()
    check_dtype(directory, chunks.CHUNK)
    check_dtype(tick, placed.TICK)
    check_dtype(frame, table.FRAME)
    check_dtype(covered, netmap.COVERED)
    check_struct(index, indexfile.HEADER, indexfile.IndexHeader._fields)
    check_struct(net_map, netmap.HEADER, netmap.MapHeader._fields)


def test_words_and_limits_are_those_of_the_code() -> None:
    assert f"at most {chunks.ENTRIES} entries" in DOC
    for magic in (indexfile.MAGIC, netmap.MAGIC):
        assert f"`{magic.decode()}`" in DOC
    assert ", ".join(f"{n} `{word}`" for n, word in enumerate(notes.CONSISTENCIES)) in DOC
    rows = [line.split("|")[1].strip() for line in DOC.split("| section | rows |")[1].splitlines()[2:8]]
    assert tuple(rows) == indexfile.SECTIONS
    assert indexfile.EPOCH.names == ("epoch", "last_time") and netmap.FAN_OUT == 8
