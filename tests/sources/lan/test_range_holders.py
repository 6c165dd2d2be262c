"""Pulls from peers that refuse, lie, stall or vanish: each fails in its own way and in time."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.pieces import MIB, PIECE_LENGTH_MIN
from p2pmodels.errors import HolderBusy, LanFailed, NotHeld, PeerMisbehaved
from p2pmodels.sources.lan import range_connection, ranges
from p2pmodels.sources.lan.client import PeerSilent
from p2pmodels.sources.lan.range_connection import (
    RETRY_S_LIMIT,
    RETRY_S_MIN,
    TicketRefused,
)
from p2pmodels.sources.lan.ranges import Endpoint, RangeClient
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

REFUSALS = {
    "HTTP/1.1 404 x\nContent-Length: 2": NotHeld,
    "HTTP/1.1 403 x\nContent-Length: 2": TicketRefused,
    "HTTP/1.1 503 x\nContent-Length: 2": HolderBusy,
    "HTTP/1.1 429 x\nContent-Length: 2": HolderBusy,
    "HTTP/1.1 500 x\nContent-Length: 2": LanFailed,
    "HTTP/1.1 200 x\nContent-Length: 2": PeerMisbehaved,
    "HTTP/1.1 301 x\nContent-Length: 2\nLocation: http://127.0.0.1:9/": PeerMisbehaved,
    "HTTP/1.1 416 x\nContent-Length: 2": PeerMisbehaved,
    "SSH-2.0-OpenSSH_9.2": PeerMisbehaved,
    "HTTP/1.1 206 x\nX: " + "a" * 70_000: PeerMisbehaved,
    "HTTP/1.1 206 x" + "\nX: y" * 200: PeerMisbehaved,
    head(1, MIB + 1): PeerMisbehaved,
    head(0, MIB - 1): PeerMisbehaved,
    head(0, MIB, MIB - 1): PeerMisbehaved,
    head() + "\nTransfer-Encoding: chunked": PeerMisbehaved,
    head() + "\nContent-Encoding: gzip": PeerMisbehaved,
    head() + "\nContent-Length: 5": PeerMisbehaved,
    head() + f"\nContent-Range: bytes 0-{MIB - 1}/{MIB}": PeerMisbehaved,
    head().replace("bytes 0-", "bytes 00x-"): PeerMisbehaved,
    head().replace(f"/{len(CONTENT)}", "/*"): PeerMisbehaved,
    f"HTTP/1.1 206 x\nContent-Length: {MIB}": PeerMisbehaved,
    f"HTTP/1.1 206 x\nContent-Range: bytes 0-{MIB - 1}/{MIB}": PeerMisbehaved,
}


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", REFUSALS)
async def test_any_other_answer_is_an_error_and_nothing_lands(answer: str) -> None:
    landing = Landing()
    async with raw_peer(saying(answer, b"{}")) as peer, RangeClient() as client:
        with pytest.raises(REFUSALS[answer]) as caught:
            await client.pull(peer, BLOB, 0, MIB, landing, landing.on_bytes)
    assert caught.type is REFUSALS[answer]
    assert not landing.parts


@pytest.mark.asyncio
async def test_refusal_leaves_the_connection_usable(tmp_path: Path) -> None:
    async with holder(tmp_path) as peer, RangeClient() as client:
        for _ in range(2):
            with pytest.raises(NotHeld):
                await client.pull(peer, Sha256("0" * 64), 0, MIB, nowhere, ignore)
            assert len(client._idle) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("headers", "seconds"), [
    ("X-P2PModels-Retry-After-Ms: 250", 0.25), ("Retry-After: 3", 3.0), ("", 1.0),
    ("X-P2PModels-Retry-After-Ms: 50\nRetry-After: 1", 0.05),
    ("X-P2PModels-Retry-After-Ms: 0", RETRY_S_MIN), ("Retry-After: 86400", RETRY_S_LIMIT),
    ("Retry-After: -1", 1.0), ("Retry-After: 99999999999999999999", 1.0), ("Retry-After: ٣", 1.0),
])  # fmt: skip
async def test_busy_peer_says_when_to_come_again_within_bounds(
    headers: str, seconds: float
) -> None:
    answer = f"HTTP/1.1 503 x\nContent-Length: 0\n{headers}".rstrip()
    async with raw_peer(saying(answer)) as peer, RangeClient() as client:
        with pytest.raises(HolderBusy) as caught:
            await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)
    assert caught.value.retry_after_s == seconds


@pytest.mark.asyncio
async def test_peer_that_closes_early_fails_and_what_is_whole_has_landed() -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head().replace("\n", "\r\n").encode() + b"\r\n\r\n")
        writer.write(CONTENT[: PIECE_LENGTH_MIN + 1000])
        await writer.drain()

    landing = Landing()
    async with raw_peer(talk) as peer, RangeClient() as client:
        with pytest.raises(LanFailed):
            await client.pull(peer, BLOB, 0, MIB, landing, landing.on_bytes)
        assert not client._idle
    assert landing.parts == [(0, PIECE_LENGTH_MIN)]
    assert landing.received == PIECE_LENGTH_MIN + 1000


@pytest.mark.asyncio
async def test_pieces_of_a_slow_peer_land_before_the_buffer_is_full() -> None:
    landed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head().replace("\n", "\r\n").encode() + b"\r\n\r\n")
        writer.write(CONTENT[: PIECE_LENGTH_MIN + 1000])
        await landed.wait()  # the rest is sent when the first piece has landed
        writer.write(CONTENT[PIECE_LENGTH_MIN + 1000 : MIB])
        await reader.read()

    landing = Landing()

    def sink(offset: int, view: memoryview) -> None:
        landing(offset, view)
        loop.call_soon_threadsafe(landed.set)

    async with raw_peer(talk) as peer, RangeClient() as client:
        async with asyncio.timeout(BOUND_S):
            await client.pull(peer, BLOB, 0, MIB, sink, ignore)
    assert landing.parts == [(0, PIECE_LENGTH_MIN), (PIECE_LENGTH_MIN, MIB)]
    assert landing.data[:MIB] == CONTENT[:MIB]


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"", CONTENT[:1000]], ids=["headers only", "some bytes"])
async def test_peer_that_falls_silent_is_given_up(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_connection, "SILENCE_S", 0.3)
    monkeypatch.setattr(range_connection, "SILENT_TICKS", 1)
    async with raw_peer(saying(head(), body)) as peer, RangeClient() as client:
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(PeerSilent):
                await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)


@pytest.mark.asyncio
async def test_peer_that_drips_is_given_up_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SILENCE_S", 0.2)
    monkeypatch.setattr(ranges, "RATE_MIN", 1 << 40)

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:  # a head without an end
            writer.write(b"HTTP/1.1 206 x\r\n"[:1])
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_peer(talk) as peer, RangeClient() as client:
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(PeerSilent):
                await client.pull(peer, BLOB, 0, MIB, nowhere, ignore)


@pytest.mark.asyncio
async def test_nobody_listening_and_nobody_answering_are_failures() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with RangeClient() as client:
        with pytest.raises(LanFailed):
            await client.pull(Endpoint("127.0.0.1", port, TICKET), BLOB, 0, 1, nowhere, ignore)
        with full_listener() as address:
            with pytest.raises(PeerSilent):
                await client.pull(
                    Endpoint(address.host, address.port, TICKET), BLOB, 0, 1, nowhere, ignore
                )
