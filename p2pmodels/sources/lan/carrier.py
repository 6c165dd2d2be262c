"""What carries a link: a `Channel` of messages, and the dialler that opens one as a WebSocket.

1. One frame of the conversation is one binary message; anything else ends the channel.
2. It dials an address and a port, never a name; no redirect is followed, no cookie kept, no
   credential sent, no proxy used, nothing compressed.
3. A peer that leaves a ping unanswered is gone: a machine without power is noticed in three
   seconds, a closed connection at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
from asyncio.trsock import TransportSocket
from socket import IPPROTO_TCP, TCP_USER_TIMEOUT
from typing import Protocol, Self

import aiohttp
from aiohttp import hdrs

from p2pmodels import __version__
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.wire import FRAME_BYTES_LIMIT
from p2pmodels.errors import LanFailed

LINK_PATH = "/peer/v1/link"
DIAL_LIMIT_S = 3.0  # seconds until the peer has taken the connection and answered
CONNECT_LIMIT_S = 1.0  # seconds for the connection alone; on a LAN it takes milliseconds
HEARTBEAT_S = 2.0  # seconds between pings; the answer has one second
DEAF_LIMIT_S = 6.0  # seconds in which a peer must take something of what is sent
CLOSE_LIMIT_S = 1.0  # seconds for a farewell; a dead peer holds up nobody


class Channel(Protocol):
    """An ordered stream of messages to one peer, whatever carries it."""

    async def send(self, data: bytes) -> None:
        """Send one message, waiting while the peer is slow. Raises ConnectionError at its end."""

    async def receive(self) -> bytes | None:
        """The next message; None or ConnectionError once the channel has ended."""

    async def close(self) -> None:
        """End the channel; a second time is nothing."""


class OpenedChannel(Channel, Protocol):
    """A channel that we opened, with the addresses of its ends as texts."""

    @property
    def remote_host(self) -> str: ...

    @property
    def local_host(self) -> str: ...


class Carrier(Protocol):
    """Opens channels while its block runs."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def dial(self, address: PeerAddress) -> OpenedChannel:
        """A channel to that peer. Raises LanFailed."""


class DialledSocket:
    """A WebSocket that we opened."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        give_up_on_the_deaf(socket.get_extra_info("socket"))
        self.remote_host = _host_of(socket.get_extra_info("peername"))
        self.local_host = _host_of(socket.get_extra_info("sockname"))

    async def send(self, data: bytes) -> None:
        await self._socket.send_bytes(data)

    async def receive(self) -> bytes | None:
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        return None

    async def close(self) -> None:
        await self._socket.close()


class WebSockets:
    """Opens WebSockets to peer ports; leaving the block closes every one."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # The book of links counts them; here nothing may wait in a queue for another to end.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers={hdrs.USER_AGENT: f"p2pmodels/{__version__}"},
            middlewares=(_refuse_redirects,),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def dial(self, address: PeerAddress) -> DialledSocket:
        """A WebSocket to that peer port. Raises LanFailed."""
        if self._session is None:
            raise LanFailed("the LAN part is not running")
        try:
            async with asyncio.timeout(DIAL_LIMIT_S):
                socket = await self._session.ws_connect(
                    f"http://{address}{LINK_PATH}",
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_LIMIT_S),
                    heartbeat=HEARTBEAT_S,
                    compress=0,
                    # aiohttp refuses messages of this length already, we only longer ones
                    max_msg_size=FRAME_BYTES_LIMIT + 1,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise LanFailed(f"{address}: {type(error).__name__}") from error
        return DialledSocket(socket)


def give_up_on_the_deaf(socket: TransportSocket | None) -> None:
    """Let the system end the connection when its peer takes nothing for some seconds.

    A WebSocket that is closed goes on writing what it still has: to a peer that never reads, for
    ever. `socket` is a transport's; None when the connection is gone already.
    """
    if socket is not None:
        socket.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, round(DEAF_LIMIT_S * 1000))


def plain_host(host: str) -> str:
    """The same text for the same address: no scope, IPv4 out of its IPv6 clothes."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # a carrier without addresses
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """`ws_connect` follows redirects and has no option against it: a peer must not aim us."""
    answer = await handler(request)
    if answer.status != 101:
        answer.close()
        raise aiohttp.ClientResponseError(answer.request_info, (), status=answer.status)
    return answer


def _host_of(name: object) -> str:
    """The host of what `getpeername` gives; empty when the connection is gone already."""
    return str(name[0]) if isinstance(name, tuple) else ""
