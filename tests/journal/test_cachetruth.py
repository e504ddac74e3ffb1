"""What a check of caches finds: those that lie although their checksums are right, and those that nobody believes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import xxhash

from journal.index import indexfile, netmap
from journal.index.cachetruth import wrong_index, wrong_maps
from journal.index.indexfile import index_path
from journal.index.netmap import NetMap, build
from journal.scan import SegmentScan
from tests.journal.test_netmap import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "j", 10, 10)
    build(tmp_path / "j", 1)
    return tmp_path / "j"


def scans_of(folder: Path) -> list[SegmentScan]:
    found = []
    for path in sorted((folder / "timelines" / "0001").glob("*.seg")):
        scan = SegmentScan(path, int(path.stem), cached=False)
        scan.extend()
        found.append(scan)
    return found


def test_right_caches_are_right(folder: Path) -> None:
    scans = scans_of(folder)
    assert [wrong_index(scan) for scan in scans] == [None] * len(scans)
    assert wrong_maps(folder, 1, scans) == [] and len(list(folder.rglob("*.map"))) == 1


def test_caches_with_wrong_checksums_are_found_and_nobody_believes_them(folder: Path) -> None:
    scans = scans_of(folder)
    for path in [index_path(scans[2].path), *folder.rglob("*.map")]:
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    found = wrong_index(scans[2])
    assert found and not found.believed and "checksum" in found.reason
    (wrong,) = wrong_maps(folder, 1, scans)
    assert not wrong.believed
    (path,) = folder.rglob("*.map")
    path.rename(path.with_name(f"{7:020d}-{9:020d}.map"))
    assert not wrong_maps(folder, 1, scans)[0].believed


def test_caches_that_lie_with_right_checksums_are_found(folder: Path) -> None:
    scans = scans_of(folder)
    path = index_path(scans[1].path)
    data = path.read_bytes()
    header = indexfile.unpack_header(data)
    section = header.sections[indexfile.SECTIONS.index("records")]
    lied = bytearray(data)
    lied[section.offset] ^= 8
    total = xxhash.xxh3_64_intdigest(lied[section.offset : section.offset + section.length])
    sections = [*header.sections]
    sections[indexfile.SECTIONS.index("records")] = section._replace(sum=total)
    lied[: indexfile.HEADER.size] = indexfile.pack_header(header._replace(sections=tuple(sections)))
    path.write_bytes(lied)
    found = wrong_index(scans[1])
    assert found and found.believed and "records" in found.reason
    (path,) = folder.rglob("*.map")
    changed = bytearray(path.read_bytes())
    net_map = NetMap(path)
    row = net_map.directory[0]
    first, length = int(row["offset"]), int(row["count"]) * (8 if row["form"] == 1 else 24)
    changed[first + length - 4] ^= 8
    directory = net_map.directory.copy()
    directory["sum"][0] = xxhash.xxh3_64_intdigest(changed[first : first + length])
    tables = net_map.covered.tobytes() + directory.tobytes()
    changed[net_map.header.directory :] = tables
    head = bytes(changed[: netmap.HEADER.size - 8])
    changed[netmap.HEADER.size - 8 : netmap.HEADER.size] = struct.pack(
        "<Q", xxhash.xxh3_64_intdigest(head + tables)
    )
    path.write_bytes(changed)
    (wrong,) = wrong_maps(folder, 1, scans)
    assert wrong.believed
