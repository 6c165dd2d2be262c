"""The WebSocket of the rendezvous: a member's messages in, its notices out, one text each.

1. Only home addresses and allowed web origins get a socket; who says its web origin is a page.
2. A member joins within seconds, answers pings and takes what it is told, or it loses the socket.
3. Its last notice says why it must go.
4. When the daemon ends, so do the sockets: a member would keep it waiting otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import WSCloseCode, WSMsgType, web

from p2pmodels.core.rooms import Expulsion
from p2pmodels.core.signal_texts import REQUEST_BYTES_LIMIT, format_notice
from p2pmodels.core.signalling import Expelled, Notice
from p2pmodels.doors.tickets import NotHome
from p2pmodels.sources.lan.carrier import CLOSE_LIMIT_S, give_up_on_the_deaf
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.lobby import Lobby, Visit

log = logging.getLogger(__name__)

SIGNAL_HEARTBEAT_S = 20.0  # seconds between pings; the answer has ten
JOIN_LIMIT_S = 5.0  # seconds until a member has joined a room
WAITING_BYTES_LIMIT = 256 * 1024  # bytes waiting for one member; a dozen of the longest notices

WebOrigin = Callable[[web.Request], str | None]


class Outbox:
    """What one member is to be told; a member that does not take it is given up."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        """Set when the socket must end."""
        self._texts: deque[str] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()

    def put(self, notice: Notice) -> None:
        """Queue a notice; never waits."""
        if self.over.is_set():
            return
        text = format_notice(notice)
        self._texts.append(text)
        self._waiting += len(text)
        self._wake.set()
        if self._waiting > WAITING_BYTES_LIMIT:
            self.over.set()

    async def write_to(self, socket: web.WebSocketResponse) -> None:
        """Send what is queued until cancelled."""
        with suppress(ConnectionError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._texts:
                    text = self._texts.popleft()
                    self._waiting -= len(text)
                    await socket.send_str(text)
        self.over.set()


@dataclass(eq=False)
class SignalDoor:
    """The route of signalling.

    `web_origin` gives the request's web origin, None without one, and raises WebOriginRefused;
    `is_home` says whether the machine at an address may come.
    """

    lobby: Lobby
    web_origin: WebOrigin
    is_home: Callable[[str], bool]
    _outboxes: set[Outbox] = field(default_factory=set, init=False, repr=False)

    async def close(self, _app: web.Application) -> None:
        """Let every member go; what aiohttp calls at the end."""
        for outbox in self._outboxes:
            outbox.over.set()

    async def signal(self, request: web.Request) -> web.StreamResponse:
        """Become a WebSocket and a visit of the lobby."""
        address = request.remote or ""
        if not self.is_home(address):
            raise NotHome(address)
        is_page = self.web_origin(request) is not None
        outbox = Outbox()
        with self.lobby.visit(address, outbox.put, is_page=is_page) as visit:
            socket = web.WebSocketResponse(
                timeout=CLOSE_LIMIT_S,
                heartbeat=SIGNAL_HEARTBEAT_S,
                compress=False,
                # aiohttp refuses messages of this length already, we only longer ones
                max_msg_size=REQUEST_BYTES_LIMIT + 1,
            )
            await socket.prepare(request)
            give_up_on_the_deaf(socket.get_extra_info("socket"))
            self._outboxes.add(outbox)
            try:
                last = await _converse(socket, visit, outbox)
            finally:
                # Before the farewell: nobody is told of a member that no longer listens.
                outbox.over.set()
                self._outboxes.discard(outbox)
        await _say_last(socket, last)
        return socket


async def _converse(socket: web.WebSocketResponse, visit: Visit, outbox: Outbox) -> Expelled | None:
    """Pass messages on until one side ends; why the member must go, if it must."""
    words: list[Expelled] = []

    async def read() -> None:
        try:
            async with asyncio.timeout(JOIN_LIMIT_S):
                is_open = await _hear_next(socket, visit)
            while is_open:
                is_open = await _hear_next(socket, visit)
        except TimeoutError:
            words.append(Expelled("join_first"))
        except Expulsion as expulsion:
            words.append(Expelled(expulsion.word))
        finally:
            outbox.over.set()

    async with Tasks() as tasks:
        tasks.start(read(), "hear a member")
        tasks.start(outbox.write_to(socket), "tell a member")
        await outbox.over.wait()
    return words[0] if words else None


async def _hear_next(socket: web.WebSocketResponse, visit: Visit) -> bool:
    """Take in one message; False at the end. Raises Expulsion."""
    message = await socket.receive()
    if message.type is WSMsgType.TEXT:
        visit.hear(message.data)
        return True
    if message.type is WSMsgType.BINARY:
        raise Expulsion("bad_message")
    return False


async def _say_last(socket: web.WebSocketResponse, last: Expelled | None) -> None:
    with suppress(OSError, RuntimeError):  # aiohttp raises either when a socket is gone
        async with asyncio.timeout(CLOSE_LIMIT_S):
            if last is not None:
                await socket.send_str(format_notice(last))
    code = WSCloseCode.OK if last is None else WSCloseCode.POLICY_VIOLATION
    with suppress(OSError, RuntimeError):
        async with asyncio.timeout(2 * CLOSE_LIMIT_S):
            await socket.close(code=code)
