"""Memory for frames: laid side by side, used again, bounded for all connections together."""

from __future__ import annotations

import numpy as np

from guesttap.receiver.buffers import SLAB_BYTES, BufferPool, Memory
from journal.frame import BLOCK


def address(part: memoryview) -> int:
    return int(np.frombuffer(part, np.uint8).__array_interface__["data"][0])


def taken(pool: BufferPool, length: int) -> memoryview:
    part = pool.take(length)
    assert part is not None and len(part) == length
    return part


def test_frames_lie_on_page_boundaries_side_by_side() -> None:
    pool = BufferPool(Memory())
    first, second = taken(pool, BLOCK + 1), taken(pool, BLOCK)
    assert address(first) % BLOCK == 0
    assert address(second) == address(first) + 2 * BLOCK
    first[:] = bytes(len(first))
    second[:] = b"2" * BLOCK
    assert not any(first)


def test_memory_is_used_again_when_all_of_a_slab_came_back() -> None:
    pool = BufferPool(Memory())
    first, second = taken(pool, BLOCK), taken(pool, BLOCK)
    slab = first.obj
    pool.give_back(first[10:20])
    assert taken(pool, BLOCK).obj is slab
    third = taken(pool, SLAB_BYTES)
    assert third.obj is not slab
    pool.give_back(third)
    pool.give_back(second)


def test_a_slab_goes_from_one_connection_to_another() -> None:
    memory = Memory()
    one, two = BufferPool(memory), BufferPool(memory)
    part = taken(one, BLOCK)
    one.give_back(part)
    assert taken(two, BLOCK).obj is part.obj


def test_every_connection_has_one_slab_and_the_rest_comes_out_of_the_reserve() -> None:
    memory = Memory(reserve_bytes=2 * SLAB_BYTES)
    one, two = BufferPool(memory), BufferPool(memory)
    held = [taken(one, SLAB_BYTES) for _ in range(3)]
    assert one.take(SLAB_BYTES) is None
    mine = taken(two, SLAB_BYTES)
    assert two.take(BLOCK) is None
    one.give_back(held.pop())
    more = taken(two, BLOCK)
    assert one.take(BLOCK) is None
    for part in held:
        one.give_back(part)
    assert one.take(SLAB_BYTES) is not None, "the first slab is always there"
    two.give_back(mine)
    two.give_back(more)


def test_a_frame_larger_than_a_slab_is_let_in() -> None:
    pool = BufferPool(Memory(reserve_bytes=0))
    large = taken(pool, 4 * SLAB_BYTES + 1)
    assert pool.take(BLOCK) is None
    pool.give_back(large)
    taken(pool, BLOCK)


def test_what_a_connection_left_behind_goes_back_to_the_reserve() -> None:
    memory = Memory(reserve_bytes=SLAB_BYTES)
    gone = BufferPool(memory)
    taken(gone, SLAB_BYTES)
    taken(gone, SLAB_BYTES)
    gone.close()
    other = BufferPool(memory)
    taken(other, SLAB_BYTES)
    taken(other, SLAB_BYTES)
    assert other.take(1) is None
