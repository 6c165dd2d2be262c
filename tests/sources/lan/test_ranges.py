"""Pulls against real sockets: the real door, kept connections, and cancellation."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from p2pmodels.core.digests import GitId
from p2pmodels.core.filling import Filling
from p2pmodels.core.pieces import MIB, PIECE_LENGTH_MIN
from p2pmodels.errors import DiskFull, LanFailed, NameRefused, NotHeld
from p2pmodels.sources.lan import range_connection, ranges
from p2pmodels.sources.lan.ranges import BUFFER_BYTES, Endpoint, RangeClient
from tests.sources.lan.holders import (
    BLOB,
    BOUND_S,
    CONTENT,
    TICKET,
    Landing,
    full_listener,
    head,
    holder,
    ignore,
    nowhere,
    raw_peer,
    saying,
)

# what is fetched


@pytest.mark.asyncio
@pytest.mark.parametrize(("start", "stop"), [
    (0, len(CONTENT)), (0, 1), (len(CONTENT) - 1, len(CONTENT)), (MIB - 100, MIB + 5000),
    (PIECE_LENGTH_MIN, 3 * PIECE_LENGTH_MIN), (MIB - 1, 2 * MIB + 1), (2 * MIB, 4 * MIB),
])  # fmt: skip
async def test_pull_brings_exactly_the_range(tmp_path: Path, start: int, stop: int) -> None:
    landing = Landing()
    async with holder(tmp_path) as peer, RangeClient() as client:
        await client.pull(peer, BLOB, start, stop, landing, landing.on_bytes)
    assert landing.data[start:stop] == CONTENT[start:stop]
    assert landing.received == stop - start
    assert [part[0] for part in landing.parts] == [start, *(p[1] for p in landing.parts[:-1])]
    assert landing.parts[-1][1] == stop
    assert all(end % PIECE_LENGTH_MIN == 0 for _, end in landing.parts[:-1])


@pytest.mark.asyncio
async def test_sink_is_called_in_a_thread_and_on_bytes_on_the_loop(tmp_path: Path) -> None:
    landing = Landing()
    async with holder(tmp_path) as peer, RangeClient() as client:
        await client.pull(peer, BLOB, 0, MIB, landing, landing.on_bytes)
    assert threading.get_ident() not in landing.threads
    assert landing.told_in == {threading.get_ident()}


@pytest.mark.asyncio
async def test_pulls_run_at_once_and_connections_are_kept(tmp_path: Path) -> None:
    landing = Landing()
    async with holder(tmp_path) as peer, RangeClient() as client:
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for start in (0, 2 * MIB, 4 * MIB):
                    stop = min(start + 2 * MIB, len(CONTENT))
                    group.create_task(
                        client.pull(peer, BLOB, start, stop, landing, landing.on_bytes)
                    )
            assert len(client._idle) == 3
        assert landing.data == CONTENT
    assert len(client._buffers) == 3


@pytest.mark.asyncio
async def test_connections_are_closed_when_they_have_been_idle_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "IDLE_S", 0.05)
    async with holder(tmp_path) as peer, RangeClient() as client:
        await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)
        kept = client._idle[0].connection
        async with asyncio.timeout(BOUND_S):
            while client._idle:
                await asyncio.sleep(0.01)
        assert kept.sock is None
        await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)


@pytest.mark.asyncio
async def test_a_bounded_number_of_idle_connections_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "IDLE_LIMIT", 1)
    async with holder(tmp_path) as peer, RangeClient() as client:
        async with asyncio.TaskGroup() as group:
            for start in (0, MIB, 2 * MIB):
                group.create_task(client.pull(peer, BLOB, start, start + MIB, nowhere, ignore))
        assert len(client._idle) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("more", ["", "\nConnection: close"], ids=["closed", "announced"])
async def test_connection_that_the_peer_closed_meanwhile_is_made_anew(more: str) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((head(0, 4) + more).replace("\n", "\r\n").encode() + b"\r\n\r\n")
        await writer.drain()
        writer.write(b"abcd")
        await writer.drain()  # and the connection is closed

    landing = Landing()
    async with raw_peer(talk) as peer, RangeClient() as client:
        for _ in range(3):
            await client.pull(peer, BLOB, 0, 4, landing, landing.on_bytes)
    assert landing.data[:4] == b"abcd" and landing.received == 12


@pytest.mark.asyncio
async def test_more_pulls_than_threads_wait_their_turn(tmp_path: Path) -> None:
    landing = Landing()
    async with holder(tmp_path) as peer, RangeClient(pulls=1) as client:
        async with asyncio.TaskGroup() as group:
            for start in range(0, 4 * MIB, MIB):
                group.create_task(
                    client.pull(peer, BLOB, start, start + MIB, landing, landing.on_bytes)
                )
        assert len(client._buffers) == len(client._idle) == 1
    assert landing.data[: 4 * MIB] == CONTENT[: 4 * MIB]


@pytest.mark.asyncio
async def test_request_carries_ticket_and_range_and_nothing_personal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    seen: list[bytes] = []
    server = await asyncio.start_server(lambda r, w: note(r, w, seen), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with RangeClient() as client:
        with pytest.raises(NotHeld):
            await client.pull(
                Endpoint("127.0.0.1", port, TICKET), GitId("c" * 40), 10, 20, nowhere, ignore
            )
    server.close()
    first, *lines = seen[0].decode().strip().split("\r\n")
    assert first == f"GET /peer/v1/blobs/{'c' * 40} HTTP/1.1"
    fields = dict(line.split(": ", 1) for line in lines)
    assert fields.pop("User-Agent").startswith("p2pmodels/")
    assert fields == {
        "Host": f"127.0.0.1:{port}", "Accept-Encoding": "identity", "Range": "bytes=10-19",
        "X-P2PModels-Ticket": TICKET,
    }  # fmt: skip


async def note(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]
) -> None:
    seen.append(await reader.readuntil(b"\r\n\r\n"))
    writer.write(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.asyncio
async def test_error_of_the_sink_is_its_own(tmp_path: Path) -> None:
    def full(_offset: int, _view: memoryview) -> None:
        raise DiskFull("x")

    async with holder(tmp_path) as peer, RangeClient() as client:
        with pytest.raises(DiskFull):
            await client.pull(peer, BLOB, 0, 2 * MIB, full, ignore)
        assert not client._idle and not client._busy
        await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)


@pytest.mark.parametrize(("host", "port", "ticket"), [
    ("peer.lan", 7879, TICKET), ("10.0.0.1", 80, TICKET), ("10.0.0.1", 7879, "x"),
    ("10.0.0.1", 7879, "AB" * 16), ("10.0.0.1", 7879, TICKET + "\r\nX: y"),
])  # fmt: skip
def test_malformed_endpoints_are_refused(host: str, port: int, ticket: str) -> None:
    with pytest.raises(NameRefused):
        Endpoint(host, port, ticket)
    assert TICKET not in repr(Endpoint("10.0.0.1", 7879, TICKET))


# cancellation


@pytest.mark.asyncio
async def test_cancelled_pull_has_left_the_sink_before_it_returns(tmp_path: Path) -> None:
    entered, loop = asyncio.Event(), asyncio.get_running_loop()
    let_go = threading.Event()
    calls: list[str] = []

    def sink(_offset: int, _view: memoryview) -> None:
        calls.append("in")
        loop.call_soon_threadsafe(entered.set)
        assert let_go.wait(BOUND_S)
        calls.append("out")

    async with holder(tmp_path) as peer, RangeClient() as client:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(client.pull(peer, BLOB, 0, 4 * MIB, sink, ignore))
            await entered.wait()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
                assert not task.done()
            let_go.set()
            await asyncio.wait([task])
            assert task.cancelled()
        assert calls == ["in", "out"]
        assert not client._busy and not client._idle


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"", CONTENT[:1000]], ids=["waits for bytes", "has some bytes"])
async def test_cancelling_ends_a_thread_that_waits_at_once(body: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with raw_peer(saying(head(), body)) as peer, RangeClient() as client:
        began_bytes = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                client.pull(peer, BLOB, 0, MIB, nowhere, lambda _: began_bytes.set())
            )
            if body:
                await began_bytes.wait()
            else:
                while not any(c._line and c._line.fileno() >= 0 for c in client._busy):
                    await asyncio.sleep(0.01)
            began = loop.time()
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled() and loop.time() - began < range_connection.SILENCE_S / 2


@pytest.mark.asyncio
async def test_cancelling_ends_a_thread_that_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_connection, "CONNECT_TIMEOUT_S", BOUND_S)
    loop = asyncio.get_running_loop()
    async with RangeClient() as client:
        with full_listener() as address:
            endpoint = Endpoint(address.host, address.port, TICKET)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(client.pull(endpoint, BLOB, 0, MIB, nowhere, ignore))
                while not any(c._line for c in client._busy):
                    await asyncio.sleep(0.01)
                began = loop.time()
                task.cancel()
                await asyncio.wait([task])
    assert task.cancelled() and loop.time() - began < BOUND_S / 4


@pytest.mark.asyncio
async def test_leaving_the_block_ends_what_runs() -> None:
    async with raw_peer(saying(head())) as peer:
        async with asyncio.TaskGroup() as group:
            async with RangeClient(pulls=1) as client:
                tasks = [group.create_task(expect_failure(client, peer)) for _ in range(3)]
                while not client._busy:
                    await asyncio.sleep(0)
            await asyncio.wait(tasks, timeout=BOUND_S)
    assert all(task.done() for task in tasks)


async def expect_failure(client: RangeClient, peer: Endpoint) -> None:
    with pytest.raises(LanFailed):
        await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)


# the buffer


def test_buffer_is_handed_on_at_multiples_of_its_length() -> None:
    parts: list[tuple[int, int]] = []
    start, stop = 3 * BUFFER_BYTES - 10, 4 * BUFFER_BYTES + 5
    filling = Filling(
        bytearray(BUFFER_BYTES), start, stop, lambda at, view: parts.append((at, at + len(view)))
    )
    while not filling.is_done:
        filling.add(len(filling.room))
    assert parts == [(start, 3 * BUFFER_BYTES), (3 * BUFFER_BYTES, 4 * BUFFER_BYTES),
                     (4 * BUFFER_BYTES, stop)]  # fmt: skip


def test_of_a_slow_peer_only_whole_pieces_are_handed_on() -> None:
    parts: list[tuple[int, int]] = []
    piece = PIECE_LENGTH_MIN
    filling = Filling(
        bytearray(BUFFER_BYTES), 0, BUFFER_BYTES, lambda at, view: parts.append((at, len(view)))
    )
    filling.add(piece - 1)
    filling.hand_whole_pieces()
    assert not parts
    filling.add(2)
    filling.hand_whole_pieces()
    filling.add(10)
    filling.hand_whole_pieces()
    filling.add(2 * piece)
    filling.hand_whole_pieces()
    filling.add(len(filling.room))
    assert parts == [(0, piece), (piece, 2 * piece), (3 * piece, piece)] and filling.is_done
