"""`check` names damage of net segments, and caches that are wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import xxhash

from journal import metalog
from journal.index import indexfile
from journal.offline.check import check
from journal.offline.reindex import reindex
from journal.offline.rescue import rescue
from journal.reader import JournalReader
from journal.retention.facts import facts_of
from journal.retention.thin import Thinner
from journal.scan import SegmentScan
from tests.journal.test_check import Break, files, make
from tests.journal.test_damage import flip
from tests.journal.test_thinning import simulated
from tests.journal.thinning import NOW, job_over


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    make(tmp_path / "j")
    return tmp_path / "j"


def lose_record(folder: Path, what: str) -> None:
    """Take a record out of the metadata log, as an editor would: the rest stays whole."""
    records = metalog.read(folder / "meta.log").records
    (folder / "meta.log").write_bytes(b"".join(metalog.encode(m) for m in records if m["meta"] != what))


# -- net segments -----------------------------------------------------------------------------------------


@pytest.fixture
def thinned(tmp_path: Path) -> Path:
    """A journal of several net segments, each with several intervals, and segments after them."""
    folder = tmp_path / "j"
    guest = simulated(folder, 3)
    reader = JournalReader(folder)
    facts = facts_of(reader, 1, NOW)
    thinner = Thinner(folder, 1, reader.lineage(1).history)
    count = len(facts.files) - 2
    for first in range(0, count - 3, 3):
        thinner.do(job_over(facts, first, first + 3, set(sorted(guest.expected)[::2]) | facts.required))
    report = check(folder)
    assert report.ok and report.net_segments > 3 and report.segments > 2
    return folder


def nets(folder: Path) -> list[Path]:
    return sorted((folder / "timelines/0001").glob("*.net"))


def net_frames(path: Path) -> list[tuple[int, int]]:
    first, following = map(int, path.stem.split("-"))
    scan = SegmentScan(path, first, None, following)
    scan.extend()
    return [(int(r["offset"]), int(r["data"] + r["data_bytes"])) for r in scan.frames.array()]


NET_DAMAGE: dict[str, tuple[Break, str]] = {
    "data": (lambda j: flip(nets(j)[1], nets(j)[1].stat().st_size - 4097), "the data does not match"),
    "a head": (lambda j: flip(nets(j)[1], net_frames(nets(j)[1])[0][0] + 20), "does not match its checksum"),
    "the header": (lambda j: flip(nets(j)[1], 40), "the segment's header is damaged"),
    "after the header": (lambda j: flip(nets(j)[1], 100), "after the header were altered"),
    "the footer": (lambda j: flip(nets(j)[1], nets(j)[1].stat().st_size - 4090), ""),
    "lost": (lambda j: nets(j)[1].unlink(), "the segment before this one is missing"),
    "the log's record": (
        lambda j: lose_record(j, "thinned"),
        "the metadata log does not name the net segment",
    ),
}


@pytest.mark.parametrize("what", NET_DAMAGE)
def test_damage_of_net_segments_is_named(thinned: Path, what: str) -> None:
    hurt, reason = NET_DAMAGE[what]
    hurt(thinned)
    report = check(thinned)
    assert not report.ok and any(reason in bad.reason for bad in report.damaged), report.damaged


def test_an_older_net_segment_in_the_place_of_a_newer_one_is_found(thinned: Path, tmp_path: Path) -> None:
    older = shutil.copytree(thinned, tmp_path / "older")
    reader = JournalReader(thinned)
    facts = facts_of(reader, 1, NOW)
    at = next(n for n, f in enumerate(facts.files) if f.ends is not None and len(f.ends) > 1 and not f.fixed)
    Thinner(thinned, 1, reader.lineage(1).history).do(job_over(facts, at, at + 1, facts.required))
    name = next(
        path.name
        for path in nets(thinned)
        if path.read_bytes() != (older / path.relative_to(thinned)).read_bytes()
    )
    records = metalog.read(thinned / "meta.log").records
    said = [meta for meta in records if meta["meta"] == "thinned"]
    assert check(thinned).ok
    # Both stand in the log: a crash may have kept the newer from its name. Only when it names neither, it shows.
    kept = [meta for meta in records if meta not in said or meta is said[-1]]
    (thinned / "meta.log").write_bytes(b"".join(metalog.encode(meta) for meta in kept))
    shutil.copy(older / "timelines/0001" / name, thinned / "timelines/0001" / name)
    report = check(thinned)
    assert any("is not the one that the metadata log names" in bad.reason for bad in report.damaged)


# -- caches -----------------------------------------------------------------------------------------------


def test_a_wrong_cache_is_named_and_is_no_damage(journal: Path) -> None:
    assert reindex(journal).indexes > 2
    assert check(journal).ok and not check(journal).caches
    index = files(journal)[1].with_suffix(".idx")
    kept = index.read_bytes()
    flip(index, 10)  # readers see that, and do without
    report = check(journal)
    assert report.ok and not report.damaged
    ((path, reason, believed),) = report.caches
    assert path == index and reason and not believed
    index.write_bytes(kept)
    shutil.copy(files(journal)[2].with_suffix(".idx"), index)  # another file's
    assert [cache.path for cache in check(journal).caches] == [index]
    index.unlink()
    assert check(journal).ok and not check(journal).caches


def test_a_cache_that_readers_would_believe_is_not_ok(journal: Path) -> None:
    """The index of a segment that says of itself that it is another's, with right checksums everywhere."""
    reindex(journal)
    index = files(journal)[1].with_suffix(".idx")
    assert _poison(index)
    report = check(journal)
    assert not report.ok and not report.damaged
    assert [(cache.path, cache.believed) for cache in report.caches] == [(index, True)]
    reindex(journal)
    assert check(journal).ok


def test_a_rescue_believes_no_cache(tmp_path: Path) -> None:
    """Caches that are right in themselves and of these very files, but tell what was never written."""
    folder = tmp_path / "j"
    guest = simulated(folder, 1)
    report = reindex(folder)
    assert report.indexes and report.maps
    lsn = max(guest.expected)
    believed = sum(_poison(index) for index in sorted((folder / "timelines/0001").glob("*.idx")))
    assert believed and not check(folder).ok
    found = rescue(folder, str(lsn), tmp_path / "out")
    assert {
        n: disk.path.read_bytes() for n, disk in zip(guest.images, found.disks, strict=True)
    } == guest.expected[lsn]


def _poison(index: Path) -> int:
    """Make an index say that its first record lies elsewhere, its checksums right; return 1 when it has one."""
    data = bytearray(index.read_bytes())
    size = indexfile.HEADER.size
    head = indexfile.unpack_header(bytes(data[:size]))
    records = head.sections[indexfile.SECTIONS.index("records")]
    if not records.length:
        return 0
    data[records.offset] ^= 1
    total = xxhash.xxh3_64_intdigest(bytes(data[records.offset : records.offset + records.length]))
    sections = tuple(s._replace(sum=total) if s is records else s for s in head.sections)
    data[:size] = indexfile.pack_header(head._replace(sections=sections))
    index.write_bytes(data)
    return 1
