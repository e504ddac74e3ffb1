"""Newest wins among extents, exact to the sector, whatever their number and length."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.map.net import PER_BLOCK, Extents, distinct, is_among, joined, merged, net_of

DISK = 200
Listed = list[tuple[int, int, int]]
MIXED = st.tuples(st.integers(0, DISK - 1), st.integers(1, DISK), st.integers(0, 3))
BLOCKS = st.tuples(
    st.integers(0, 24).map(lambda b: b * 8), st.integers(1, 3).map(lambda b: b * 8), st.integers(0, 3)
)


def columns(extents: Listed) -> Extents:
    """Extents whose places are all different, or zeros where the third is 0."""
    rows = [(start, sectors, 1 + i * 1000 if kind else 0) for i, (start, sectors, kind) in enumerate(extents)]
    table = np.array(rows, np.int64).reshape(-1, 3)
    return Extents(*(table[:, i].copy() for i in range(3)))


def by_sector(extents: Extents) -> dict[int, int]:
    """The plain model: sector by sector, the last one wins."""
    found: dict[int, int] = {}
    for start, sectors, place in zip(*(column.tolist() for column in extents), strict=True):
        for step in range(sectors):
            found[start + step] = place + step if place else 0
    return found


def check_net(net: Extents) -> None:
    assert all(column.dtype == np.int64 for column in net)
    assert (net.sectors > 0).all()
    assert (net.start[1:] >= net.start[:-1] + net.sectors[:-1]).all()
    assert len(merged(net)) == len(net)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(MIXED, max_size=40), st.lists(BLOCKS, max_size=40)))
def test_the_net_is_what_a_plain_loop_over_sectors_gives(extents: Listed) -> None:
    given_ = columns(extents)
    net = net_of(*given_)
    check_net(net)
    assert by_sector(net) == by_sector(given_)


@settings(max_examples=200, deadline=None)
@given(st.lists(MIXED, max_size=30), st.integers(0, DISK), st.integers(0, DISK))
def test_a_part_of_a_net_is_cut_to_the_sector(extents: Listed, low: int, length: int) -> None:
    net = net_of(*columns(extents))
    expected = {sector: place for sector, place in by_sector(net).items() if low <= sector < low + length}
    assert by_sector(net.inside(low, low + length)) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(MIXED, max_size=20), st.lists(MIXED, max_size=20))
def test_nets_of_nets_are_the_net_of_all(first: Listed, second: Listed) -> None:
    both = columns(first + second)
    parts = [both.taken(slice(0, len(first))), both.taken(slice(len(first), None))]
    assert by_sector(net_of(*joined([net_of(*part) for part in parts]))) == by_sector(both)


def test_neighbours_whose_data_lies_in_one_piece_become_one() -> None:
    start = np.arange(1000, dtype=np.int64) * PER_BLOCK
    sectors = np.full(1000, PER_BLOCK, np.int64)
    net = net_of(start, sectors, start + 8)
    assert [column.tolist() for column in net] == [[0], [8000], [8]]
    zeros = net_of(start, sectors, np.zeros(1000, np.int64))
    assert [column.tolist() for column in zeros] == [[0], [8000], [0]]


def test_a_discard_of_the_largest_disk_among_many_writes_costs_no_time_by_its_length() -> None:
    choices = np.random.default_rng(1)
    count, disk = 200_000, (64 << 40) // 512
    start = choices.integers(0, disk // 8 - 1, count) * 8
    sectors = np.full(count, 8, np.int64)
    start[::1000], sectors[::1000] = 0, disk
    place = np.arange(1, count + 1, dtype=np.int64) * 8
    place[::1000] = 0
    begun = time.process_time()
    net = net_of(start, sectors, place)
    assert time.process_time() - begun < 5
    assert int(net.sectors.sum()) == disk and int((net.place > 0).sum()) == 999


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([0, 1, 0xFFFF, 0x10000, 0x10001, 0xFFFF_FFFF, 1 << 32, (1 << 45) - 1]), max_size=40
    )
)
def test_the_newest_of_blocks_wins_however_far_apart_they_lie(blocks: list[int]) -> None:
    start = np.array(blocks, np.int64) * PER_BLOCK
    place = np.arange(len(blocks), dtype=np.int64) * 1000 + 1
    net = net_of(start, np.full(len(blocks), PER_BLOCK, np.int64), place)
    newest = {block: 1 + index * 1000 for index, block in enumerate(blocks)}
    found = {s // PER_BLOCK: p for s, p in zip(net.start.tolist(), net.place.tolist(), strict=True)}
    assert found == newest and net.start.tolist() == sorted(net.start.tolist())


@given(st.lists(st.integers(-5, 5)), st.lists(st.integers(-5, 5)))
def test_distinct_and_is_among_are_those_of_sets(values: list[int], wanted: list[int]) -> None:
    ascending = distinct(np.array(wanted, np.int64))
    assert ascending.tolist() == sorted(set(wanted))
    assert is_among(np.array(values, np.int64), ascending).tolist() == [value in wanted for value in values]
