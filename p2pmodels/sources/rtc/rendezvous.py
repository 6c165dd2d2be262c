"""Our seat at a rendezvous far away: one WebSocket, opened again whenever it ends.

1. `members` and `say` answer at once; while there is no connection nobody is there and nothing is
   said.
2. It goes to the configured URL only: no redirect is followed, no cookie kept, no credential sent,
   no proxy used; over `wss` the certificate is checked.
3. What the rendezvous tells is checked and counted like anybody's word: it can name members that do
   not exist, no more.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs
from yarl import URL

from p2pmodels import __version__
from p2pmodels.clock import Clock
from p2pmodels.core.peer import PeerId
from p2pmodels.core.rooms import Bucket
from p2pmodels.core.signal_texts import NOTICE_BYTES_LIMIT, format_request, parse_notice
from p2pmodels.core.signalling import (
    MEMBERS_LISTED_LIMIT,
    SIGNAL_PATH,
    Came,
    Expelled,
    Heard,
    Join,
    Joined,
    Left,
    Member,
    MemberKind,
    Notice,
    Request,
    Sent,
)
from p2pmodels.errors import NameRefused, NetworkFailed, P2PModelsError, ProtocolError, mapped
from p2pmodels.supervision import Tasks

log = logging.getLogger(__name__)

OPEN_LIMIT_S = 10.0  # seconds until we are in; a rendezvous may be a continent away
HEARTBEAT_S = 20.0  # seconds between pings; the answer has ten
CLOSE_LIMIT_S = 1.0  # seconds for a farewell
RETRY_FIRST_S = 1.0  # seconds, doubled at each failure
RETRY_CEILING_S = 60.0  # seconds; a rendezvous that starts anew is found within a minute
STEADY_S = 60.0  # seconds of connection after which the pauses start anew
NOTICES_PER_S = 50.0  # notices a second from the rendezvous, on average
NOTICES_BURST_LIMIT = 1000  # notices at once; a room of 128 that starts together tells 128
WAITING_REQUESTS_LIMIT = 64  # requests waiting for a rendezvous that does not take them


@dataclass(frozen=True, slots=True)
class RendezvousOptions:
    """Where to meet, and as whom."""

    url: URL
    """From `parse_rendezvous`."""
    room: str
    id: PeerId


def parse_rendezvous(text: str) -> URL:
    """The address of a rendezvous: `ws://` or `wss://`, host, perhaps port and path.

    Raises NameRefused.
    """
    try:
        url = URL(text)
        is_plain = url.scheme in ("ws", "wss") and bool(url.host) and url.port is not None
    except ValueError as error:
        raise NameRefused(f"rendezvous {text[:80]!r}") from error
    if not is_plain or url.user or url.password or url.query_string or url.fragment:
        raise NameRefused(f"rendezvous {text[:80]!r}", advice="Write it as wss://host:port.")
    return url if url.path not in ("", "/") else url.with_path(SIGNAL_PATH)


class Rendezvous:
    """In the room while connected; `run` keeps it so."""

    def __init__(
        self, options: RendezvousOptions, clock: Clock, *, tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` decides which certificates count; None: those that the system trusts."""
        self._options, self._clock, self._tls = options, clock, tls
        self.is_joined = False
        self.problem = ""
        """Why we are not in, for people; empty while we are."""
        self._members: dict[str, Member] = {}
        self._requests: deque[str] = deque()
        self._wake = asyncio.Event()
        self._random = random.Random()  # noqa: S311  jitter, not a secret

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._options.url)

    def members(self) -> tuple[Member, ...]:
        """The daemons that are there now, ourselves not."""
        return tuple(self._members.values())

    def say(self, sent: Sent) -> None:
        """Say something to a member, as far as we are in."""
        if self.is_joined:
            self._put(sent)

    def source_of(self, member: str) -> str:
        """What a member's sessions are counted by: its address is known to the rendezvous only."""
        return f"{self.url} {member}"

    async def run(self, hear: Callable[[Heard], None]) -> None:
        """Be in the room until cancelled."""
        pause = RETRY_FIRST_S
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, ssl=self._tls or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=OPEN_LIMIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers={hdrs.USER_AGENT: f"p2pmodels/{__version__}"},
            middlewares=(_refuse_redirects,),
        ) as session:
            while True:
                began = self._clock.monotonic()
                try:
                    await self._stay(session, hear)
                except P2PModelsError as error:
                    self._note(error.message)
                if self._clock.monotonic() - began > STEADY_S:
                    pause = RETRY_FIRST_S
                # Jitter, so that a room does not come back to its rendezvous all at once.
                await self._clock.sleep(pause * self._random.uniform(0.5, 1.0))
                pause = min(2 * pause, RETRY_CEILING_S)

    # inside

    async def _stay(self, session: aiohttp.ClientSession, hear: Callable[[Heard], None]) -> None:
        """Connect, join and stay until the connection ends. Raises NetworkFailed, ProtocolError."""
        options = self._options
        failures: dict[type[BaseException], type[P2PModelsError]] = {
            aiohttp.ClientError: NetworkFailed,
            OSError: NetworkFailed,  # TimeoutError is one
            ValueError: NetworkFailed,
        }
        with mapped(failures, f"rendezvous {self.url}"):
            async with asyncio.timeout(OPEN_LIMIT_S):
                socket = await session.ws_connect(
                    options.url,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_LIMIT_S),
                    heartbeat=HEARTBEAT_S,
                    compress=0,
                    # aiohttp refuses messages of this length already, we only longer ones
                    max_msg_size=NOTICE_BYTES_LIMIT + 1,
                )
        try:
            self._requests.clear()
            self._put(Join(options.room, MemberKind.DAEMON, options.id))
            await self._converse(socket, hear)
        finally:
            self.is_joined = False
            self._members.clear()
            await socket.close()

    async def _converse(
        self, socket: aiohttp.ClientWebSocketResponse, hear: Callable[[Heard], None]
    ) -> None:
        over = asyncio.Event()
        ends: list[P2PModelsError] = []

        async def read() -> None:
            try:
                with mapped({TimeoutError: NetworkFailed}, f"rendezvous {self.url}"):
                    async with asyncio.timeout(OPEN_LIMIT_S):
                        await self._read(socket, hear, until_joined=True)
                await self._read(socket, hear)
            except P2PModelsError as error:
                ends.append(error)
            finally:
                over.set()

        async def write() -> None:
            try:
                await self._write(socket)
            except (aiohttp.ClientError, ConnectionError) as error:
                log.debug("rendezvous %s: %s", self.url, type(error).__name__)
            finally:
                over.set()

        async with Tasks() as tasks:
            tasks.start(read(), "hear a rendezvous")
            tasks.start(write(), "tell a rendezvous")
            await over.wait()
        raise ends[0] if ends else NetworkFailed(f"rendezvous {self.url}: the connection ended")

    async def _read(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        hear: Callable[[Heard], None],
        *,
        until_joined: bool = False,
    ) -> None:
        allowance = Bucket(NOTICES_PER_S, NOTICES_BURST_LIMIT, self._clock.monotonic())
        while not (until_joined and self.is_joined):
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            if not allowance.take(self._clock.monotonic()):
                raise ProtocolError(f"a flood of notices from {self.url}")
            notice = parse_notice(message.data)
            if isinstance(notice, Heard):
                hear(notice)
            else:
                self._told(notice)

    def _told(self, notice: Notice) -> None:
        match notice:
            case Joined():
                self._members.clear()
                for member in notice.members:
                    self._add(member)
                self.is_joined = True
                self._note("")
            case Came():
                self._add(notice.member)
            case Left():
                self._members.pop(notice.member, None)
            case Expelled():
                raise NetworkFailed(f"rendezvous {self.url} says {notice.code!r}")
            case _:
                pass  # we ask about no files

    def _add(self, member: Member) -> None:
        is_other = member.kind is MemberKind.DAEMON and member.id != self._options.id
        if is_other and len(self._members) < MEMBERS_LISTED_LIMIT:
            self._members[member.member] = member

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            while self._requests:
                await socket.send_str(self._requests.popleft())
            self._wake.clear()
            await self._wake.wait()

    def _put(self, request: Request) -> None:
        if len(self._requests) < WAITING_REQUESTS_LIMIT:
            self._requests.append(format_request(request))
            self._wake.set()

    def _note(self, problem: str) -> None:
        """Say once what is wrong, and once that it is well again."""
        if problem != self.problem:
            log.info("%s", problem or f"in the room {self._options.room} at {self.url}")
        self.problem = problem


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """`ws_connect` follows redirects and has no option against it: nobody may aim us."""
    answer = await handler(request)
    if answer.status != 101:
        answer.close()
        raise aiohttp.ClientResponseError(
            answer.request_info, (), status=answer.status, message="no WebSocket"
        )
    return answer
