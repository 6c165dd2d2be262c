"""What the attack tests share: a public hub in this process, raw requests, patient readers."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess

TOKEN = "hf_" + "c" * 34  # made up
BOUND_S = 30


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that are nowhere else."""
    return random.Random(seed).randbytes(size)


@asynccontextmanager
async def daemon_of(hub: Hub, folder: Path, *options: str) -> AsyncIterator[DaemonProcess]:
    """A daemon of this hub, without multicast."""
    async with DaemonProcess(folder, "--origin", hub.url, "--no-mdns", *options) as running:
        yield running


@dataclass(frozen=True)
class Got:
    """One answer; `body` is None when the connection broke in the middle of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


async def ask(
    url: str,
    method: str = "GET",
    *,
    session: aiohttp.ClientSession | None = None,
    sent: Mapping[str, str] = {},
    **named: str,
) -> Got:
    """One request with the headers `sent`, and with If-None-Match for `If_None_Match="x"`."""
    headers = {**sent, **{name.replace("_", "-"): value for name, value in named.items()}}
    if session is None:
        async with aiohttp.ClientSession() as own:
            return await ask(url, method, session=own, sent=headers)
    async with session.request(method, url, headers=headers) as answer:
        try:
            body = await answer.read()
        except aiohttp.ClientError:
            return Got(answer.status, answer.headers, None)
        return Got(answer.status, answer.headers, body)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def raw(url: str, request: bytes, *, hosted: bool = True) -> bytes:
    """Send these very bytes and read until the daemon closes; `hosted` puts a good Host in."""
    port = int(url.rpartition(":")[2])
    if hosted:
        line, _, rest = request.partition(b"\r\n")
        host = f"Host: 127.0.0.1:{port}\r\nConnection: close\r\n".encode()
        request = line + b"\r\n" + host + rest
    async with asyncio.timeout(BOUND_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def leave_early(url: str, after: int) -> None:
    """Begin to read a file, then reset the connection."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        await answer.content.readexactly(after)
        connection = answer.connection
        assert connection is not None
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: close sends RST
        connection.transport.abort()


def created(folder: Path) -> set[str]:
    """Every file and folder below, but for what a running daemon writes by itself."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.name.startswith("index.sqlite") and path.suffix != ".log"
    }
