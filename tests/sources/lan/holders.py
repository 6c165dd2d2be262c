"""Peers to pull from: the real door over a file, scripted ones, a port that answers nobody."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from p2pmodels.core.digests import Sha256
from p2pmodels.core.pieces import MIB
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.sources.lan.ranges import Endpoint
from p2pmodels.transfer.uploads import HeldBytes
from tests.peer_fakes import MemoryCatalogue, MemoryLinks, door

BOUND_S = 20.0  # seconds for anything that waits for the network here
BLOB = Sha256("b1" * 32)
TICKET = "ab" * 16
CONTENT = random.Random(7).randbytes(5 * MIB + 12_345)


class Landing:
    """A sink that keeps what lands, and where the parts ended."""

    def __init__(self) -> None:
        self.data = bytearray(len(CONTENT))
        self.parts: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self.received = 0
        self.told_in: set[int] = set()

    def __call__(self, offset: int, view: memoryview) -> None:
        self.data[offset : offset + len(view)] = view
        self.parts.append((offset, offset + len(view)))
        self.threads.add(threading.get_ident())

    def on_bytes(self, count: int) -> None:
        self.received += count
        self.told_in.add(threading.get_ident())


def nowhere(_offset: int, _view: memoryview) -> None: ...


def ignore(_count: int) -> None: ...


@asynccontextmanager
async def holder(folder: Path) -> AsyncIterator[Endpoint]:
    """The real door over a file with CONTENT, and a ticket for it."""
    path = folder / "blob"
    path.write_bytes(CONTENT)
    links = MemoryLinks()
    catalogue = MemoryCatalogue(blobs={BLOB: HeldBytes(path, len(CONTENT))})
    async with door(catalogue, links=links) as address:
        yield Endpoint(address.host, address.port, links.ticket())


@asynccontextmanager
async def raw_peer(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> AsyncIterator[Endpoint]:
    """A peer that says what `talk` writes, once for each connection, after the request's head."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)  # type: ignore[misc]
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], TICKET)
    finally:
        server.close()
        if running:
            await asyncio.wait(running, timeout=BOUND_S)


def saying(head: str, body: bytes = b"") -> Callable[..., object]:
    """A `talk` that sends this and waits until the other side has closed."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        await reader.read()

    return talk


def head(start: int = 0, stop: int = MIB, size: int = len(CONTENT)) -> str:
    length = stop - start
    return (
        f"HTTP/1.1 206 x\nContent-Length: {length}\nContent-Range: bytes {start}-{stop - 1}/{size}"
    )


class full_listener:
    """A port whose queue is full: connecting to it hangs, as with a machine without power."""

    def __enter__(self) -> PeerAddress:
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(0)
        self._clients = [socket.socket() for _ in range(3)]
        for client in self._clients:
            client.setblocking(False)
            client.connect_ex(self._server.getsockname())
        return PeerAddress(*self._server.getsockname())

    def __exit__(self, *_: object) -> None:
        for sock in (self._server, *self._clients):
            sock.close()
