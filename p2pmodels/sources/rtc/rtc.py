"""The WebRTC part of the daemon: sessions by offer and answer, and the child that carries them.

1. A session is half-open until its channel is open: at most HALF_OPEN_LIMIT of them, for
   HALF_OPEN_S each. Whom to admit is for the caller to decide, before `accept`.
2. Every SDP is read and written anew by us: nothing of a peer's text reaches the child.
3. A channel is opened only to an address we may contact, whatever the candidates said.
4. The child is started when the first session is wanted: most machines never have one. When it
   ends, so do all its sessions, and another is started after a pause.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from p2pmodels.clock import Clock
from p2pmodels.core.sdp import Description, IpAddress
from p2pmodels.errors import Overloaded, ProtocolError
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.ipc import SLOTS, Kind, Note
from p2pmodels.sources.rtc.process import ChildProcess, RtcFailed, child_process
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane

HALF_OPEN_LIMIT = 16  # sessions without a channel yet (reliability F11)
HALF_OPEN_S = 10.0  # seconds for a session to open; on a LAN it takes less than one
SESSIONS_LIMIT = 64  # sessions; two classrooms of pages, 4 MiB each at worst
STARTING_LIMIT_S = 5.0  # seconds that an offer waits for the child; it starts in one
DESCRIBE_LIMIT_S = 5.0  # seconds for an offer or answer; it takes milliseconds without STUN
PAUSE_FIRST_S = 0.2  # seconds until the child is started again
PAUSE_LIMIT_S = 30.0  # seconds, when it keeps failing
HEALTHY_S = 60.0  # seconds of running after which the pause is short again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RtcOptions:
    """What the part is told."""

    addresses: Callable[[], Sequence[str]]
    """This machine's own addresses to be reached at, asked for each session."""
    may_contact: Callable[[IpAddress], bool] = lambda _address: True
    """Whether a peer at this address is talked to."""
    stun: str = ""
    """host:port of the one STUN server; empty: none, ever."""
    memory_limit_bytes: int = 512 << 20
    """Resident memory of the child at which it is started anew."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An offer of ours, to be answered by `complete`."""

    session: int
    sdp: str


class _Session:
    """HALF-OPEN until there is a channel."""

    def __init__(self, *, is_dialler: bool) -> None:
        self.is_dialler = is_dialler
        self.described: asyncio.Future[Description] = asyncio.get_running_loop().create_future()
        self.own = self.theirs = ""
        self.channel: ShardChannel | None = None


class Rtc:
    """Sessions run while `run` does; leaving the block ends everything."""

    def __init__(
        self, options: RtcOptions, clock: Clock, on_channel: Callable[[ShardChannel], None]
    ) -> None:
        """`on_channel` gets each channel, ours and theirs, when it is open."""
        self._options, self._clock, self._on_channel = options, clock, on_channel
        self._tasks = Tasks()
        self._lane = Lane("p2pmodels-rtc", SLOTS)
        self._sessions: dict[int, _Session] = {}
        self._last = 0
        self._child: ChildProcess | None = None
        self._wanted, self._started = asyncio.Event(), asyncio.Event()
        self.restarts = 0
        """How often the child had to be started again."""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end_all("stopped")
        if self._child is not None:
            self._child.close_slots()  # threads that read them leave
        await self._tasks.__aexit__()
        await self._lane.__aexit__()

    async def run(self) -> None:
        """Keep a child alive, for ever, once one is wanted."""
        await self._wanted.wait()
        pause = PAUSE_FIRST_S
        while True:
            began = self._clock.monotonic()
            try:
                why = await self._run_child()
            except OSError as error:
                why = f"{type(error).__name__}: {error}"
            if self._clock.monotonic() - began > HEALTHY_S:
                pause = PAUSE_FIRST_S
            log.warning("the WebRTC process is started again: %s", why)
            self.restarts += 1
            await self._clock.sleep(pause)
            pause = min(pause * 2, PAUSE_LIMIT_S)

    async def until_running(self) -> None:
        """Have a child, and wait until there is one."""
        self._wanted.set()
        await self._started.wait()

    @property
    def child_pid(self) -> int:
        """The child's process; 0 while there is none."""
        return self._child.pid if self._child else 0

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the child, when it last told; 0 while there is none."""
        return self._child.memory_bytes if self._child else 0

    @property
    def sessions(self) -> tuple[int, int]:
        """How many sessions are open and half-open."""
        half_open = sum(1 for session in self._sessions.values() if session.channel is None)
        return len(self._sessions) - half_open, half_open

    async def offer(self) -> Offered:
        """Begin a session; the other side's answer goes to `complete`.

        Raises RtcFailed, Overloaded.
        """
        await self._have_child()
        number, session = self._begin(is_dialler=True)
        self._tell(Note(Kind.OFFER, number))
        return Offered(number, str(await self._described(number, session)))

    async def accept(self, sdp: str) -> str:
        """Answer an offer; returns the answer's SDP.

        Raises ProtocolError (a bad SDP), RtcFailed, Overloaded.
        """
        theirs = Description.parse(sdp, self._options.may_contact)
        await self._have_child()
        number, session = self._begin(is_dialler=False)
        session.theirs = theirs.fingerprint
        self._tell(Note(Kind.ACCEPT, number, tail=str(theirs).encode()))
        return str(await self._described(number, session))

    async def complete(self, session: int, sdp: str) -> None:
        """Take the answer to an offer of ours. Raises ProtocolError (a bad SDP), RtcFailed."""
        theirs = Description.parse(sdp, self._options.may_contact)
        if theirs.setup == "actpass":
            raise ProtocolError("an answer that leaves the roles open")
        found = self._sessions.get(session)
        if found is None or found.theirs or not found.is_dialler:
            raise RtcFailed("no such offer")
        found.theirs = theirs.fingerprint
        self._tell(Note(Kind.COMPLETE, session, tail=str(theirs).encode()))

    def abandon(self, session: int) -> None:
        """Give up a session that is half-open; does nothing to others."""
        found = self._sessions.get(session)
        if found is not None and found.channel is None:
            self._close(session, "abandoned")

    # sessions

    async def _have_child(self) -> None:
        """Start the child, or wait for the one that is being started. Raises RtcFailed."""
        try:
            async with asyncio.timeout(STARTING_LIMIT_S):
                await self.until_running()
        except TimeoutError as error:
            raise RtcFailed("the WebRTC process does not start") from error

    def _begin(self, *, is_dialler: bool) -> tuple[int, _Session]:
        if self._child is None:
            raise RtcFailed("the WebRTC process is not running")
        is_full = len(self._sessions) >= SESSIONS_LIMIT
        if is_full or self.sessions[1] >= HALF_OPEN_LIMIT:
            raise Overloaded("WebRTC sessions", retry_after_s=HALF_OPEN_S / 2)
        self._child.set_up(self._options.addresses(), self._options.stun)
        self._last += 1
        session = self._sessions[self._last] = _Session(is_dialler=is_dialler)
        self._tasks.start(self._expire(self._last, session), f"webrtc session {self._last}")
        return self._last, session

    async def _described(self, number: int, session: _Session) -> Description:
        try:
            async with asyncio.timeout(DESCRIBE_LIMIT_S):
                own = await session.described
        except BaseException as error:
            self.abandon(number)
            if isinstance(error, TimeoutError):
                raise RtcFailed("no description in time") from error
            raise
        session.own = own.fingerprint
        return own

    async def _expire(self, number: int, session: _Session) -> None:
        await self._clock.sleep(HALF_OPEN_S)
        if session.channel is None and self._sessions.get(number) is session:
            self._close(number, "half-open for too long")

    def _close(self, number: int, why: str) -> None:
        self._tell(Note(Kind.CLOSE, number))
        self._ended(number, why)

    def _ended(self, number: int, why: str) -> None:
        session = self._sessions.pop(number, None)
        if session is None:
            return
        if session.channel is not None:
            session.channel.ended(why)
        if not session.described.done():
            session.described.set_exception(RtcFailed(why))
            session.described.exception()  # whoever asked may be gone
        log.debug("WebRTC session %d: %s", number, why)

    def _end_all(self, why: str) -> None:
        for number in list(self._sessions):
            self._ended(number, why)

    # the child

    async def _run_child(self) -> str:
        """One child until it ends; why."""
        try:
            async with (
                child_process(self._options.memory_limit_bytes, self._clock, self._hear) as child,
                Tasks() as tasks,
            ):
                tasks.start(child.watch(), "webrtc watch")
                tasks.start(self._use(child), "webrtc start")
                return await child.ended()
        finally:
            self._child = None
            self._started.clear()
            self._end_all("the WebRTC process has ended")

    async def _use(self, child: ChildProcess) -> None:
        await child.until_up()
        self._child = child
        self._started.set()

    def _tell(self, note: Note) -> None:
        if self._child is not None:
            self._child.tell(note)

    def _hear(self, note: Note) -> None:
        """What the child says of a session."""
        session = self._sessions.get(note.session)
        if session is None:
            return
        try:
            if note.kind is Kind.DESCRIBED:
                if not session.described.done():
                    session.described.set_result(Description.parse(note.tail.decode()))
            elif note.kind is Kind.OPENED:
                self._opened(note, session)
            elif note.kind is Kind.ENDED:
                self._ended(note.session, note.tail.decode(errors="replace"))
            elif session.channel is not None:
                session.channel.hear(note)
        except ProtocolError as error:
            self._close(note.session, error.detail)

    def _opened(self, note: Note, session: _Session) -> None:
        if self._child is None or session.channel is not None:
            return
        host = note.tail.decode(errors="replace")
        if not self._may_talk_to(host):
            raise ProtocolError(f"opened from {host!r}, which is no home network")
        session.channel = ShardChannel(
            self._child,
            note.session,
            self._lane,
            self._clock,
            is_dialler=session.is_dialler,
            hosts=(session.own, session.theirs),
            remote_address=host,
        )
        self._on_channel(session.channel)

    def _may_talk_to(self, host: str) -> bool:
        """Whether the address that packets came from is one we may contact."""
        try:
            return self._options.may_contact(ipaddress.ip_address(host.partition("%")[0]))
        except ValueError:
            return False
