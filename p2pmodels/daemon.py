"""The daemon: composes the parts, supervises them, and ends in order.

1. Parts are entered left to right along the layers and left in reverse, each with its own bound.
2. The store and the doors are fatal if they fail; the swarm and the LAN are optional and restarted.
3. The first SIGTERM or SIGINT ends it in order, the second at once: always safe, because nothing
   is believed that is not on the disk.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import secrets
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from p2pmodels import __version__
from p2pmodels.clock import Clock, RealClock
from p2pmodels.compose import compose
from p2pmodels.config import Config
from p2pmodels.core.names import RepoId
from p2pmodels.core.peer import Hello, PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.doors import views
from p2pmodels.doors.app import local_app
from p2pmodels.doors.browser import BrowserDoor
from p2pmodels.doors.guard import GuardOptions
from p2pmodels.doors.page_doors import meeting_doors, tracker_doors
from p2pmodels.doors.parts import Identity, Parts
from p2pmodels.doors.peer import PageRoutes, peer_app
from p2pmodels.doors.work import check_store
from p2pmodels.notify import notify, watchdog_interval_s
from p2pmodels.options import (
    BACKLOG,
    bind,
    has_tracker,
    lan_options,
    origin_options,
    page_tracker,
    store_options,
    swarm_options,
    tls_context,
)
from p2pmodels.sources.lan.lan import Lan
from p2pmodels.sources.origin.origins import Origins
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.store.figures import SHARED
from p2pmodels.store.store import Store
from p2pmodels.supervision import supervise
from p2pmodels.transfer.catalogue import Catalogue
from p2pmodels.workers import workers

log = logging.getLogger(__name__)

RESPONSES_END_S = 3.0  # seconds that running answers are given at the end
KEEPALIVE_S = 15.0  # seconds; aiohttp's default of an hour is a gift to slowloris
LINGER_S = 2.0  # seconds a connection is kept after its unread body was refused
UMASK = 0o077  # nobody else reads the cache: it may hold what only its owner may see


class _Stopping(Exception):
    """The ordinary end."""


def _kept_text(path: Path, make: Callable[[], str]) -> str:
    """The text of a small private file, made at the first start."""
    if not path.exists():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(make() + "\n")
    return path.read_text().strip()


def _url(sock: socket.socket, *, reached_at: str = "") -> str:
    """The socket's URL; `reached_at` stands in for "every address", which nobody can dial."""
    host, port = sock.getsockname()[:2]
    if reached_at and ipaddress.ip_address(host).is_unspecified:
        host = reached_at
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Daemon:
    """All parts of one running daemon; `run` returns when it was told to stop."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config = config
        self._clock = clock

    async def run(self, ready: Callable[[Parts], None]) -> None:
        """Start everything, call `ready`, and serve until a signal comes."""
        async with AsyncExitStack() as exits:
            told = _listen_for_signals()
            parts = await self._enter(exits)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_stop_when(told), name="signals")
                tasks.create_task(parts.store.run(), name="store")
                tasks.create_task(self._watchdog(parts), name="watchdog")
                optional: dict[str, Callable[[], Awaitable[None]]] = {
                    "lan": parts.lan.run,
                    "sharing": parts.sharing.run,
                    "origins": parts.origins.run,
                    "nearby": parts.nearby.run,
                    "exchange": parts.exchange.run,
                    "links": partial(parts.exchange.links.run, parts.lan.peers, parts.lan.changed),
                }
                if self.config.swarm.is_enabled:
                    optional["swarm"] = parts.swarm.run
                if self.config.rtc.is_enabled:
                    optional |= {"webrtc": parts.rtc.run, "meeting": parts.meeting.run}
                set_state = parts.identity.states.__setitem__
                for name, run in optional.items():
                    tasks.create_task(supervise(name, run, self._clock, set_state), name=name)
                ready(parts)

    async def _enter(self, exits: AsyncExitStack) -> Parts:
        """Enter every part; what is entered last ends first."""
        config, clock = self.config, self._clock
        lane = await exits.enter_async_context(workers())
        store = Store(store_options(config), lane, clock)
        await exits.enter_async_context(store)
        peer_id = PeerId(_kept_text(config.data_dir / "id", lambda: secrets.token_hex(16)))
        token = Secret(_kept_text(config.data_dir / "control-token", secrets.token_urlsafe))
        local, peer = bind(config.web.listen, "web.listen"), bind(config.lan.listen, "lan.listen")
        exits.callback(local.close)
        exits.callback(peer.close)
        swarm = Swarm(
            swarm_options(config, peer),
            lane,
            clock,
            on_broken_seed=lambda torrent, why: parts.sharing.on_broken_seed(torrent, why),
        )
        if config.swarm.is_enabled:
            await exits.enter_async_context(swarm)
        origins = await exits.enter_async_context(Origins(origin_options(config), clock))
        identity = self._identity(peer_id, local, peer, swarm)
        set_state = identity.states.__setitem__
        lan = Lan(lan_options(config, identity, peer), clock, on_state=set_state)
        parts = await compose(config, identity, store, swarm, origins, lan, lane, clock)
        exits.callback(lambda: store.figures.count(SHARED, views.shared_now(parts)))
        guarded = GuardOptions(tuple(config.web.allowed_hosts), tuple(config.web.allowed_origins))
        peer_port = peer.getsockname()[1]
        tracker = page_tracker(config, peer)
        browser = BrowserDoor([origin.url for origin in config.origin], identity.url)
        catalogue = Catalogue(parts.sharing, parts.exchange, lambda: _hello(identity, peer_port))
        peers = peer_app(
            catalogue,
            parts.exchange.links,
            parts.uploads,
            lan.is_home,
            guarded,
            clock,
            lane,
            needs_ticket=parts.exchange.needs_secret,
            page_doors=self._page_doors(parts, guarded, browser),
        )
        # Entered in this order, so that the end is: stop to accept, withdraw mDNS, cancel fetches,
        # let running answers finish, close the swarm, write the store.
        peer_runner = await self._runner(exits, peers)
        doors: list[tuple[web.AppRunner, socket.socket, ssl.SSLContext | None]] = [
            (
                await self._runner(exits, local_app(parts, guarded, token, browser, tracker)),
                local,
                None,
            ),
            (peer_runner, peer, None),
        ]
        if config.rtc.tls_listen is not None:
            secure = bind(config.rtc.tls_listen, "rtc.tls_listen")
            exits.callback(secure.close)
            doors.append((peer_runner, secure, tls_context(config)))
        await exits.enter_async_context(parts.rtc)
        await exits.enter_async_context(parts.exchange)
        await exits.enter_async_context(parts.meeting)
        await exits.enter_async_context(parts.fetcher)
        await exits.enter_async_context(parts.resolver)
        await exits.enter_async_context(lan)
        for runner, sock, tls in doors:
            site = web.SockSite(runner, sock, backlog=BACKLOG, ssl_context=tls)
            await site.start()
            exits.push_async_callback(site.stop)
        self._write_runtime_file(exits, identity)
        return parts

    def _page_doors(
        self, parts: Parts, guarded: GuardOptions, browser: BrowserDoor
    ) -> list[PageRoutes]:
        """What web pages may ask of the peer port."""
        config, doors = self.config, list[PageRoutes]()
        if config.rtc.is_enabled:
            doors += meeting_doors(parts, guarded, browser)
        if has_tracker(config):
            doors += tracker_doors(parts, guarded, is_wan=config.swarm.is_wan_enabled)
        return doors

    def _identity(
        self, peer_id: PeerId, local: socket.socket, peer: socket.socket, swarm: Swarm
    ) -> Identity:
        config = self.config
        return Identity(
            id=str(peer_id),
            profile=config.profile.value,
            data_dir=config.data_dir,
            url=_url(local, reached_at="127.0.0.1"),
            peer_url=_url(peer),
            bt_port=swarm.port,
            started_at=self._clock.monotonic(),
            settings=[value.as_json() for value in config.explain()],
        )

    async def _runner(self, exits: AsyncExitStack, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=RESPONSES_END_S,
            handler_cancellation=True,
            lingering_time=LINGER_S,
        )
        await runner.setup()
        exits.push_async_callback(runner.cleanup)
        return runner

    def _write_runtime_file(self, exits: AsyncExitStack, identity: Identity) -> None:
        """Tell the command line where we are; gone again when we are."""
        path = self.config.data_dir / "daemon.json"
        body = {
            "pid": os.getpid(),
            "url": identity.url,
            "peer_url": identity.peer_url,
            "bt_port": identity.bt_port,
            "version": __version__,
        }
        path.write_text(json.dumps(body) + "\n")
        exits.callback(path.unlink, missing_ok=True)

    async def _watchdog(self, parts: Parts) -> None:
        """Signs of life for the supervisor: the loop turns, and the disk answers."""
        interval = watchdog_interval_s()
        while interval is not None:
            await parts.lane.run(parts.store.blobs.free_bytes)
            notify("WATCHDOG=1")
            await self._clock.sleep(interval)


def _listen_for_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            os._exit(1)
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` is obeyed
            loop.add_signal_handler(number, on_signal)
    return told


async def _stop_when(told: asyncio.Event) -> NoReturn:
    await told.wait()
    notify("STOPPING=1")
    raise _Stopping


def _hello(identity: Identity, peer_port: int) -> Hello:
    return Hello(PeerId(identity.id), __version__, 1, identity.bt_port, peer_port)


def _ready_line(parts: Parts) -> None:
    identity = parts.identity
    print(
        f"p2pmodels {__version__} ready: {identity.url} (peers {identity.peer_url},"
        f" BitTorrent port {identity.bt_port}, data {identity.data_dir})",
        flush=True,
    )
    notify("READY=1")


async def serve(
    config: Config,
    *,
    clock: Clock | None = None,
    ready: Callable[[Parts], None] = _ready_line,
) -> int:
    """Run a daemon until it is told to stop; returns the exit status.

    Raises what made it fail: ConfigError, StoreLocked, StoreFailed.
    """
    os.umask(UMASK)
    logging.basicConfig(
        level=config.log.level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        await Daemon(config, clock or RealClock()).run(ready)
    except BaseExceptionGroup as group:
        _, rest = group.split(_Stopping)
        if rest is not None:
            raise first_of(rest) from group
    return 0


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception in a group: what to tell the user."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def offline_check(
    config: Config, repo: RepoId | None, repair: bool
) -> AsyncIterator[dict[str, object]]:
    """The events of `check` or `repair` on a data folder that no daemon uses."""
    os.umask(UMASK)
    clock = RealClock()
    async with workers() as lane, Store(store_options(config), lane, clock) as store:
        async for event in check_store(store, repo, repair=repair):
            yield event
