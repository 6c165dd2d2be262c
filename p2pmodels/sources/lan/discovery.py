"""mDNS: announcing this daemon and finding others (RFC 6762, 6763).

1. What is announced is an opaque id, two ports, a protocol version and the addresses: no name of
   the machine, the user or a model (reliability E17). The host name is made of the id, too.
2. What others announce is only a suggestion of an address; `lan.py` says hello before it counts.
3. Leaving says goodbye, within GOODBYE_LIMIT_S whatever the network does.
4. It follows the machine's addresses: a laptop that changes its Wi-Fi is found on the new one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import Self

from zeroconf import (
    DNSQuestionType,
    Error,
    IPVersion,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf._dns import DNSQuestion
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2pmodels.clock import Clock
from p2pmodels.core.peer import PROTOCOL, PeerId
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import NameRefused
from p2pmodels.sources.lan.addresses import Interface, parse_addresses
from p2pmodels.sources.lan.interfaces import Scope, read_interfaces, scope_of
from p2pmodels.supervision import GiveUp, Tasks

log = logging.getLogger(__name__)

SERVICE = "_p2pmodels._tcp.local."
GOODBYE_LIMIT_S = 2.0  # seconds; three goodbyes take a quarter of one
FOLLOW_EVERY_S = 5.0  # seconds between looks at our own addresses
ASKED_LIMIT = 8  # announcements without an address that are asked about at once (F12)
ASK_LIMIT_MS = 1500  # milliseconds for such a question
TXT_LIMIT = 256  # bytes; ours has 49

QUERY, PTR, IN = (
    0,
    12,
    1,
)  # a standard query, a pointer record, the Internet (RFC 1035, 3.2 and 4.1)

Found = Callable[[PeerId, list[PeerAddress]], None]
Left = Callable[[PeerId], None]


class Discovery:
    """Announced and listening inside its block; `run` does that until it is cancelled."""

    def __init__(
        self,
        id: PeerId,
        listen_host: str,
        peer_port: int,
        bt_port: int,
        clock: Clock,
        *,
        on_found: Found,
        on_left: Left,
        on_interfaces: Callable[[Sequence[Interface]], None] = lambda _interfaces: None,
        read: Callable[[], Sequence[Interface]] = read_interfaces,
    ) -> None:
        self._id, self._listen_host = id, listen_host
        self._peer_port, self._bt_port = peer_port, bt_port
        self._clock = clock
        self._on_found, self._on_left, self._on_interfaces = on_found, on_left, on_interfaces
        self._read = read
        self._scope: Scope | None = None
        self._mdns: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._tasks = Tasks()
        self._asked = 0

    async def __aenter__(self) -> Self:
        self._scope = self._look()
        self._tasks = Tasks()
        await self._tasks.__aenter__()
        try:
            await self._open(self._scope)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(GOODBYE_LIMIT_S):
                await self._close()
        except (TimeoutError, OSError, Error) as error:
            log.warning("mDNS: no goodbye (%s)", type(error).__name__)
        finally:
            await self._tasks.__aexit__()

    async def run(self) -> None:
        """Announce, listen, follow our own addresses. Raises GiveUp when mDNS cannot work here."""
        async with self:
            while True:
                await self._clock.sleep(FOLLOW_EVERY_S)
                await self._follow()

    async def _open(self, scope: Scope) -> None:
        """Start zeroconf; our instance name is random, so nobody is asked whether it is free."""
        version = IPVersion.V6Only if scope.is_ipv6 else IPVersion.V4Only
        try:
            self._mdns = AsyncZeroconf(interfaces=list(scope.spoken), ip_version=version)
            await self._mdns.zeroconf.async_wait_for_start()
        except (OSError, RuntimeError, Error) as error:
            raise GiveUp(f"mDNS cannot use UDP port 5353 here: {error}") from error
        if not self._mdns.zeroconf.engine.senders:
            raise GiveUp(f"no multicast on {', '.join(scope.spoken) or 'any interface'}")
        await self._mdns.async_register_service(self._info(scope), cooperating_responders=True)
        # multicast questions: a unicast answer to port 5353 reaches only one of several daemons
        self._browser = AsyncServiceBrowser(
            self._mdns.zeroconf,
            SERVICE,
            handlers=[self._changed],
            question_type=DNSQuestionType.QM,
        )
        self._mdns.zeroconf.async_send(_unicast_question())

    async def _close(self) -> None:
        browser, mdns = self._browser, self._mdns
        self._browser = self._mdns = None
        if browser is not None:
            await browser.async_cancel()
        if mdns is not None:
            await mdns.async_close()

    async def _follow(self) -> None:
        """Announce anew when our addresses have changed."""
        scope = self._look()
        if scope == self._scope or self._mdns is None or not scope.spoken:
            return
        log.info("mDNS: our addresses are now %s", ", ".join(scope.announced))
        self._scope = scope
        await self._mdns.async_update_interfaces(list(scope.spoken))
        await self._mdns.async_update_service(self._info(scope))

    def _look(self) -> Scope:
        interfaces = self._read()
        self._on_interfaces(interfaces)
        return scope_of(self._listen_host, interfaces)

    def _info(self, scope: Scope) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE,
            f"{self._id}.{SERVICE}",
            port=self._peer_port,
            server=f"{self._id}.local.",
            addresses=[ipaddress.ip_address(text).packed for text in scope.announced],
            properties={"v": str(PROTOCOL), "id": str(self._id), "bt": str(self._bt_port)},
        )

    # what others announce

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        id = _id_of(name)
        if id is None or id == self._id:
            return
        if state_change is ServiceStateChange.Removed:
            self._on_left(id)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._suggest(id, info)
        elif self._asked < ASKED_LIMIT:
            self._asked += 1
            self._tasks.start(self._ask(zeroconf, id, info), "ask mDNS")

    async def _ask(self, zeroconf: Zeroconf, id: PeerId, info: AsyncServiceInfo) -> None:
        """Its announcement came without its address: ask for that."""
        try:
            if await info.async_request(zeroconf, ASK_LIMIT_MS, DNSQuestionType.QM):
                self._suggest(id, info)
        finally:
            self._asked -= 1

    def _suggest(self, id: PeerId, info: AsyncServiceInfo) -> None:
        if len(info.text) > TXT_LIMIT or info.port is None:
            return
        texts = info.properties
        if texts.get(b"v") == b"%d" % PROTOCOL and texts.get(b"id") == str(id).encode():
            self._on_found(id, parse_addresses(info.parsed_addresses(), info.port))


def _unicast_question() -> DNSOutgoing:
    """Who is there, to be answered to this machine alone (RFC 6762, 5.4).

    A daemon that announced itself less than a second ago, before this one listened, may answer no
    earlier by multicast (RFC 6762, 6).
    """
    question = DNSQuestion(SERVICE, PTR, IN)
    question.unicast = True
    packet = DNSOutgoing(QUERY)
    packet.add_question(question)
    return packet


def _id_of(name: str) -> PeerId | None:
    """The id in an instance name, which anybody on the LAN may have made up."""
    try:
        return PeerId(name.removesuffix(f".{SERVICE}"))
    except NameRefused:
        return None
