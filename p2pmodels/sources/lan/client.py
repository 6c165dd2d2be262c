"""The client of other daemons' peer ports.

1. It contacts an address and a port, never a name: the Host header is that literal.
2. No redirect is followed, no cookie kept, no credential sent, no proxy used, no body inflated.
3. Every answer is read up to a limit and within a time; what breaks the protocol raises
   PeerMisbehaved, what fails or is late LanFailed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import aiohttp
from aiohttp import hdrs

from p2pmodels import __version__
from p2pmodels.core.peer import (
    HAS_PATH,
    HELLO_BYTES_LIMIT,
    HELLO_PATH,
    MESSAGE_BYTES_LIMIT,
    TICKET_HEADER,
    TORRENT_PATH,
    HasAnswer,
    HasQuery,
    Hello,
)
from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT, PeerAddress, TorrentName
from p2pmodels.errors import LanFailed, PeerMisbehaved, ProtocolError

CONNECT_TIMEOUT_S = 1.0  # seconds; on a LAN a connection takes milliseconds
HELLO_TIMEOUT_S = 2.0  # seconds for the whole hello
HAS_TIMEOUT_S = 0.15  # seconds; a client waits meanwhile, and the origin is there
TORRENT_TIMEOUT_S = 10.0  # seconds; 8 MiB over a poor Wi-Fi
CONNECTIONS_LIMIT = 512  # sockets to all peers together; two for each of the peers known
IDLE_S = 30.0  # seconds an idle connection is kept: a page's next file asks the same peers


class PeerSilent(LanFailed):
    """A LAN peer did not answer in time."""


class PeerClient:
    """Asks other daemons; leaving the block closes every connection."""

    def __init__(self, ticket: Callable[[PeerAddress], str | None] = lambda _peer: None) -> None:
        """`ticket` finds what a peer gave us over its link; a group's peers want to see it."""
        self._ticket = ticket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS_LIMIT, limit_per_host=4, keepalive_timeout=IDLE_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={
                hdrs.USER_AGENT: f"p2pmodels/{__version__}",
                hdrs.ACCEPT_ENCODING: "identity",
            },
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def hello(self, peer: PeerAddress, timeout_s: float = HELLO_TIMEOUT_S) -> Hello:
        """Who listens there. Raises LanFailed, PeerMisbehaved."""
        data = await self._ask(peer, HELLO_PATH, HELLO_BYTES_LIMIT, timeout_s)
        with _blamed(peer):
            return Hello.parse(data)

    async def has(
        self, peer: PeerAddress, query: HasQuery, timeout_s: float = HAS_TIMEOUT_S
    ) -> HasAnswer:
        """Which of the named things it has. Raises LanFailed, PeerMisbehaved."""
        data = await self._ask(peer, HAS_PATH, MESSAGE_BYTES_LIMIT, timeout_s, query.format())
        with _blamed(peer):
            return HasAnswer.parse(data, query)

    async def torrent(
        self, peer: PeerAddress, name: TorrentName, timeout_s: float = TORRENT_TIMEOUT_S
    ) -> bytes:
        """The bytes of its torrent of that name, unchecked. Raises LanFailed, PeerMisbehaved."""
        return await self._ask(peer, f"{TORRENT_PATH}{name}", TORRENT_BYTES_LIMIT, timeout_s)

    async def _ask(
        self, peer: PeerAddress, path: str, limit: int, timeout_s: float, body: bytes | None = None
    ) -> bytes:
        """The body of the 200 answer, of at most `limit` bytes."""
        if self._session is None:
            raise LanFailed("the LAN part is not running")
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                f"http://{peer}{path}",
                data=body,
                headers=self._headers(peer, has_body=body is not None),
                skip_auto_headers=(hdrs.ACCEPT,),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            ) as answer:
                if answer.status != 200:
                    raise LanFailed(f"{peer} answers {path} with status {answer.status}")
                if answer.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
                    raise PeerMisbehaved(f"{peer} encodes its answer")
                return await _read(answer, peer, limit)
        except TimeoutError as error:
            raise PeerSilent(str(peer)) from error
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise LanFailed(f"{peer}: {type(error).__name__}") from error

    def _headers(self, peer: PeerAddress, *, has_body: bool) -> dict[str, str]:
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: "application/json"} if has_body else {}
        ticket = self._ticket(peer)
        if ticket is not None:
            headers[TICKET_HEADER] = ticket
        return headers


async def _read(answer: aiohttp.ClientResponse, peer: PeerAddress, limit: int) -> bytes:
    data = bytearray()
    async for block in answer.content.iter_any():
        data += block
        if len(data) > limit:
            raise PeerMisbehaved(f"{peer} sends more than {limit} bytes")
    return bytes(data)


@contextmanager
def _blamed(peer: PeerAddress) -> Iterator[None]:
    """The one place where a format error becomes the fault of the peer that sent it."""
    try:
        yield
    except ProtocolError as error:
        raise PeerMisbehaved(f"{peer}: {error.detail}") from error
