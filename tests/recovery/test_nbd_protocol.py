from __future__ import annotations

import random
import resource
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.nbd import NbdServer
from tests.recovery import nbd_client as nbd
from tests.recovery.disks import BLOCK, MIB, MemoryExports
from tests.recovery.nbd_client import Client, assemble, error_of, go_data, meta_data

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, STATUS = range(8)
DF, REQ_ONE = 4, 8
SCATTERED, ODD = "a/scattered@lsn:1", "a/odd@latest"


def test_go_tells_size_flags_and_limits(server: NbdServer) -> None:
    with Client(server.address) as client:
        client.option(nbd.STRUCTURED)
        replies = client.option(nbd.GO, go_data(SCATTERED, 1, 2))
        facts = {struct.unpack_from(">H", reply.data)[0]: reply.data[2:] for reply in replies[:-1]}
        assert struct.unpack(">QH", facts[0]) == (64 * MIB, 1 | 2 | 1 << 7 | 1 << 8)
        assert facts[1].decode() == SCATTERED
        assert facts[2].decode() == f"disk {SCATTERED}"
        assert struct.unpack(">III", facts[3]) == (1, 4096, 32 * MIB)


def test_an_export_that_floats_does_not_offer_several_connections(server: NbdServer) -> None:
    with Client(server.address) as client:
        assert client.go(ODD) == 1 | 2 | 1 << 7
    with Client(server.address) as client:
        assert client.go(ODD, structured=False) == 1 | 2


@pytest.mark.parametrize(("flags", "zeros"), [(3, 0), (1, 124)])
def test_the_oldest_way_to_choose_an_export_works(
    server: NbdServer, exports: MemoryExports, flags: int, zeros: int
) -> None:
    with Client(server.address, flags) as client:
        client.send_option(nbd.EXPORT_NAME, SCATTERED.encode())
        assert struct.unpack(">QH", client.take(10)) == (64 * MIB, 1 | 2 | 1 << 8)
        assert client.take(zeros) == bytes(zeros)
        client.send_request(READ, 0, BLOCK)
        assert client.simple(BLOCK) == (0, exports.disks[SCATTERED].content()[:BLOCK])


def test_the_oldest_way_closes_on_an_unknown_name(server: NbdServer) -> None:
    with Client(server.address) as client:
        client.send_option(nbd.EXPORT_NAME, b"nothing")
        assert client.closed()


def test_info_and_list_leave_the_handshake_open(server: NbdServer, exports: MemoryExports) -> None:
    with Client(server.address) as client:
        listed = client.option(nbd.LIST)
        names = [
            reply.data[4 : 4 + struct.unpack_from(">I", reply.data)[0]].decode() for reply in listed[:-1]
        ]
        assert names == list(exports.disks)
        assert client.option(nbd.INFO, go_data(ODD))[-1].kind == nbd.ACK
        assert client.option(nbd.INFO, go_data("nothing"))[-1].kind == nbd.UNKNOWN
        client.go(ODD)


def test_an_unknown_export_is_named_with_its_reason(server: NbdServer) -> None:
    with Client(server.address) as client:
        (reply,) = client.option(nbd.GO, go_data("nothing"))
        assert reply.kind == nbd.UNKNOWN
        assert b"there is no export 'nothing'" in reply.data


def test_abort_is_acknowledged_and_ends_it(server: NbdServer) -> None:
    with Client(server.address) as client:
        assert client.option(nbd.ABORT)[-1].kind == nbd.ACK
        assert client.closed()


@pytest.mark.parametrize(
    ("option", "data", "expected"),
    [
        (5, b"", nbd.UNSUP),
        (99, b"whatever", nbd.UNSUP),
        (nbd.LIST, b"x", nbd.INVALID),
        (nbd.STRUCTURED, b"x", nbd.INVALID),
        (nbd.GO, b"", nbd.INVALID),
        (nbd.GO, b"\xff\xff\xff\xff", nbd.INVALID),
        (nbd.GO, b"\0\0\0\1a", nbd.INVALID),
        (nbd.GO, b"\0\0\0\1a\0\2\0\1", nbd.INVALID),
        (nbd.GO, b"\0\0\0\1a\0\0tail", nbd.INVALID),
        (nbd.GO, b"\0\0\0\1\xff\0\0", nbd.INVALID),
        (nbd.SET_META, meta_data(ODD, "base:allocation"), nbd.INVALID),
        (nbd.LIST, b"x" * 20000, nbd.TOO_BIG),
    ],
)
def test_an_option_that_is_wrong_gets_its_error_and_the_next_one_works(
    server: NbdServer, option: int, data: bytes, expected: int
) -> None:
    with Client(server.address) as client:
        assert client.option(option, data)[-1].kind == expected
        client.go(ODD)


def test_contexts_are_listed_and_chosen_for_one_export(server: NbdServer) -> None:
    with Client(server.address) as client:
        client.option(nbd.STRUCTURED)
        for queries in ((), ("base:",), ("base:allocation",)):
            replies = client.option(nbd.LIST_META, meta_data(ODD, *queries))
            assert [reply.data[4:] for reply in replies] == [b"base:allocation", b""]
        assert len(client.option(nbd.LIST_META, meta_data(ODD, "qemu:"))) == 1
        assert len(client.option(nbd.SET_META, meta_data(ODD, "base:"))) == 1
        assert client.option(nbd.SET_META, meta_data("nothing", "base:allocation"))[-1].kind == nbd.UNKNOWN
        assert len(client.option(nbd.SET_META, meta_data(ODD, "x:y", "base:allocation"))) == 2
        client.go(SCATTERED)
        assert error_of(client.request(STATUS, 0, BLOCK))[0] == nbd.EINVAL


def test_structured_reads_are_right_with_holes_and_without(server: NbdServer, exports: MemoryExports) -> None:
    content = exports.disks[SCATTERED].content()
    choice = random.Random(4)
    with Client(server.address) as client:
        client.go(SCATTERED)
        kinds: set[int] = set()
        for _ in range(200):
            length = choice.choice([1, 511, 512, 4096, 5000, 70000, MIB])
            offset = choice.randrange(64 * MIB - length)
            chunks = client.request(READ, offset, length)
            kinds |= {chunk.kind for chunk in chunks}
            assert assemble(chunks, offset, length) == content[offset : offset + length]
            whole = client.request(READ, offset, length, DF)
            assert len(whole) == 1
            assert whole[0].payload[8:] == content[offset : offset + length]
        assert kinds == {1, 2}


def test_the_largest_read_is_served_and_a_larger_one_refused(
    server: NbdServer, exports: MemoryExports
) -> None:
    content = exports.disks[SCATTERED].content()
    with Client(server.address) as client:
        client.go(SCATTERED)
        assert assemble(client.request(READ, 5, 32 * MIB), 5, 32 * MIB) == content[5 : 5 + 32 * MIB]
        assert error_of(client.request(READ, 0, 32 * MIB + 1))[0] == nbd.EOVERFLOW


def test_pipelined_requests_are_answered_in_order(server: NbdServer, exports: MemoryExports) -> None:
    content = exports.disks[SCATTERED].content()
    offsets = [random.Random(5).randrange(16000) * BLOCK for _ in range(3000)]
    with Client(server.address) as client:
        client.go(SCATTERED, structured=False)
        client.sock.sendall(
            b"".join(struct.pack(">IHHQQI", 0x25609513, 0, READ, 7, offset, BLOCK) for offset in offsets)
        )
        for offset in offsets:
            assert client.simple(BLOCK) == (0, content[offset : offset + BLOCK])


@pytest.mark.parametrize("structured", [True, False])
def test_requests_that_cannot_be_get_an_error_and_the_next_one_works(
    server: NbdServer, structured: bool
) -> None:
    end = 5 * MIB + 3 * 512
    cases = [
        (TRIM, 0, 512, 0, nbd.EPERM),
        (WRITE_ZEROES, 0, 512, 0, nbd.EPERM),
        (FLUSH, 0, 0, 0, nbd.EINVAL),
        (CACHE, 0, 512, 0, nbd.EINVAL),
        (STATUS, 0, 512, 0, nbd.EINVAL),
        (77, 0, 512, 0, nbd.EINVAL),
        (READ, 0, 0, 0, nbd.EINVAL),
        (READ, end, 1, 0, nbd.EINVAL),
        (READ, end - 1, 2, 0, nbd.EINVAL),
        (READ, (1 << 64) - 1, 1 << 31, 0, nbd.EINVAL),
        (READ, 0, 512, 1 << 9, nbd.EINVAL),
    ]
    with Client(server.address) as client:
        client.go(ODD, structured=structured)
        for kind, offset, length, flags, expected in cases:
            client.send_request(kind, offset, length, flags)
            got = error_of(client.chunks())[0] if structured else client.simple()[0]
            assert got == expected, (kind, offset, length)
        client.send_request(WRITE, 0, 70000)
        client.sock.sendall(b"w" * 70000)
        assert (error_of(client.chunks())[0] if structured else client.simple()[0]) == nbd.EPERM
        client.send_request(READ, end - 1, 1)
        assert (client.chunks()[0].payload[8:] if structured else client.simple(1)[1]) == b"\0"
        client.send_request(DISC, 0, 0)
        assert client.closed()


def test_block_status_covers_the_range_with_data_and_holes(server: NbdServer, exports: MemoryExports) -> None:
    disk = exports.disks[SCATTERED]
    with Client(server.address) as client:
        client.go(SCATTERED, allocation=True)
        (chunk,) = client.request(STATUS, 0, 64 * MIB)
        context, *rest = struct.unpack(f">{len(chunk.payload) // 4}I", chunk.payload)
        assert (context, chunk.kind) == (1, 5)
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        assert [(size, 0 if data else 3) for _, size, data in disk.extents(0, 64 * MIB)] == pairs
        (one,) = client.request(STATUS, 0, 64 * MIB, REQ_ONE)
        assert len(one.payload) == 12


@pytest.mark.parametrize("structured", [True, False])
def test_a_damaged_block_is_an_error_that_names_the_frame_and_nothing_else_fails(
    server: NbdServer, exports: MemoryExports, structured: bool
) -> None:
    disk = exports.disks[SCATTERED]
    bad, *_, good = disk.blocks
    disk.bad = {bad}
    with Client(server.address) as client:
        client.go(SCATTERED, structured=structured)
        for start, length in ((bad * BLOCK, BLOCK), (max(0, bad * BLOCK - 40000), 80000)):
            client.send_request(READ, start, length)
            if structured:
                number, message = error_of(client.chunks())
                assert f"LSN {bad} does not match" in message
            else:
                number, _ = client.simple(BLOCK)
            assert number == nbd.EIO
        client.send_request(READ, good * BLOCK, BLOCK)
        data = client.chunks()[0].payload[8:] if structured else client.simple(BLOCK)[1]
        assert data == disk.blocks[good]


# -- hostile input ----------------------------------------------------------------------------------


def alive(server: NbdServer) -> bool:
    with Client(server.address) as client:
        client.go(ODD)
        return len(client.request(READ, 0, 512)) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.sampled_from(["option", "data", "request", "raw"]), st.integers(0, 12))
def test_random_bytes_at_any_stage_only_end_their_own_connection(
    server: NbdServer, junk: bytes, stage: str, option: int
) -> None:
    with Client(server.address) as client:
        if stage == "option":
            client.send_option(option, junk)
        elif stage == "data":
            client.option(nbd.STRUCTURED)
            client.send_option(nbd.SET_META, nbd.text(ODD) + junk)
        elif stage == "request":
            client.go(ODD)
            client.sock.sendall(struct.pack(">IHH", 0x25609513, option, option) + junk)
        else:
            client.sock.sendall(junk)
        client.sock.shutdown(1)
        assert client.closed()
    assert alive(server)


@pytest.mark.parametrize(
    "bad",
    [
        b"\0" * 16,
        struct.pack(">QII", nbd.IHAVEOPT, nbd.GO, (1 << 32) - 1),
        struct.pack(">QII", nbd.IHAVEOPT, 99, 2 << 20),
    ],
)
def test_an_option_that_cannot_be_followed_closes_the_connection(server: NbdServer, bad: bytes) -> None:
    with Client(server.address) as client:
        client.sock.sendall(bad)
        assert client.closed()
    assert alive(server)


@pytest.mark.parametrize(
    "bad", [b"\xff" * 28, struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 7, 0, (1 << 32) - 1)]
)
def test_a_request_that_cannot_be_followed_closes_the_connection(server: NbdServer, bad: bytes) -> None:
    with Client(server.address) as client:
        client.go(ODD)
        client.sock.sendall(bad)
        assert client.closed()
    assert alive(server)


def test_unknown_client_flags_close_the_connection(server: NbdServer) -> None:
    with Client(server.address, flags=1 << 7) as client:
        assert client.closed()


def test_a_client_that_asks_for_ever_is_sent_away(server: NbdServer) -> None:
    with Client(server.address) as client:
        try:
            for _ in range(10_000):
                client.option(nbd.LIST)
        except (EOFError, ConnectionError):
            pass
        else:
            pytest.fail("ten thousand options were answered")
    assert alive(server)


def test_a_client_that_says_nothing_is_sent_away(exports: MemoryExports) -> None:
    with NbdServer("127.0.0.1:0", exports, handshake_seconds=0.3) as server:
        with Client(server.address) as client:
            assert client.closed()
        with Client(
            server.address
        ) as client:  # the deadline is one for the whole handshake, and ends with it
            client.go(ODD)
            client.sock.settimeout(1)
            with pytest.raises(TimeoutError):
                client.sock.recv(1)
            assert len(client.request(READ, 0, 512)) == 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_clients_that_leave_in_the_middle_leave_no_thread_and_no_memory_behind(server: NbdServer) -> None:
    def leave(number: int) -> None:
        with Client(server.address) as client:
            if number % 3 == 0:
                client.sock.sendall(struct.pack(">QII", nbd.IHAVEOPT, 99, 1 << 20) + bytes(30000))
                return
            client.go(SCATTERED)
            for _ in range(20):
                client.send_request(READ, 0, 32 * MIB, DF if number % 3 == 1 else 0)

    for number in range(20):
        leave(number)
    before, threads = resident_bytes(), threading.active_count()
    for number in range(200):
        leave(number)
    ends = time.monotonic() + 10
    while server.connections and time.monotonic() < ends:
        time.sleep(0.02)
    assert server.connections == 0
    assert threading.active_count() <= threads
    assert resident_bytes() - before < 32 * MIB
    assert alive(server)


def test_connections_beyond_the_limit_are_refused_and_room_is_made_again(exports: MemoryExports) -> None:
    with NbdServer("127.0.0.1:0", exports, max_connections=2) as server:
        first, second = Client(server.address), Client(server.address)
        with pytest.raises((EOFError, ConnectionError)):
            Client(server.address)
        first.sock.close()
        second.sock.close()
        for _ in range(100):
            if not server.connections:
                break
            time.sleep(0.02)
        assert alive(server)


def test_stop_ends_connections_in_every_state_within_a_second(exports: MemoryExports) -> None:
    server = NbdServer("127.0.0.1:0", exports)
    server.start()
    address = server.address
    with Client(server.address) as waiting, Client(server.address) as chosen, Client(server.address) as stuck:
        chosen.go(ODD)
        stuck.go(SCATTERED)
        for _ in range(20):
            stuck.send_request(READ, 0, 32 * MIB, DF)  # and never reads the answers
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1
        assert waiting.closed() and chosen.closed()
    assert server.connections == 0
    with pytest.raises(ConnectionRefusedError):
        Client(address)
