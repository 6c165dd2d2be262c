"""The one libtorrent session: its life-cycle, its events and the calls that the swarm makes.

1. Every call that could wait for libtorrent's thread runs in a lane; the others only post.
2. Events come by a socket that libtorrent writes to; `set_alert_notify` can deadlock with the
   interpreter lock (libtorrent #4638).
3. Files are addressed by absolute paths only, so a blob is seeded from where it lies. A complete
   blob is opened for reading only: a seed is added in upload mode, where nothing is requested.
4. Closing happens in a thread and is bounded: the destructor can block (libtorrent #1199, #4510).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import libtorrent as lt

from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.errors import SourceTimedOut, SwarmFailed, mapped
from p2pmodels.sources.swarm.alerts import (
    ALERT_MASK,
    Added,
    Event,
    PeerStatus,
    Removed,
    Renamed,
    converted,
    peer_statuses,
)
from p2pmodels.sources.swarm.settings import SwarmOptions, filter_rules, session_settings
from p2pmodels.sources.swarm.sockets import hang_up, send_at_once
from p2pmodels.workers import Lane

ANSWER_S = 10.0  # seconds for libtorrent to add, remove or rename; it takes milliseconds
CLOSE_S = 5.0  # seconds for the session to end; then it is left to the end of the process
BLOCKED = 1  # libtorrent's flag in an address filter
PAGE_TIER = 255  # our own tracker stands behind the configured ones; all are announced to
_AT_ONCE = lt.reannounce_flags_t.ignore_min_interval
FINGERPRINT = "-PM0100-"  # the first bytes of our peer id (BEP 20)

T = TypeVar("T", bound="Added | Removed | Renamed")


class Session:
    """States: new, open, closed. Torrents are named by their v1 infohash."""

    def __init__(self, options: SwarmOptions, lane: Lane) -> None:
        self._options, self._lane = options, lane
        self._session: Any = None
        self._signal: socket.socket | None = None
        self._signal_end: socket.socket | None = None
        self._handles: dict[str, Any] = {}
        self._indexes: dict[str, dict[FilePath, int]] = {}
        self._waiting: dict[tuple[type, str], asyncio.Future[Any]] = {}
        self._hosts: set[str] = set(options.configured_hosts)
        self._met: set[str] = set()
        self._is_deaf = False
        self.port = 0

    # ---- life-cycle

    async def open(self) -> None:
        """Start listening. Raises SwarmFailed when the port cannot be had."""
        settings = session_settings(self._options)
        settings |= {"alert_mask": ALERT_MASK, "peer_fingerprint": FINGERPRINT}
        rules = filter_rules(self._options, self._hosts)
        with mapped({RuntimeError: SwarmFailed}, "libtorrent"):
            self._session, self.port = await self._lane.run(_start, settings, rules)
        if not self.port:
            await self.close()
            where = f"{self._options.listen_host}:{self._options.port}"
            raise SwarmFailed(f"cannot listen on {where}", advice="Choose another --bt-port.")
        self._signal, self._signal_end = socket.socketpair()
        self._signal.setblocking(False)
        self._signal_end.setblocking(False)
        self._session.set_alert_fd(self._signal_end.fileno())

    async def close(self) -> None:
        """Let everything go, within CLOSE_S."""
        session, self._session = self._session, None
        self.stop_answers()
        handles = [self._handles[infohash] for infohash in self._met if infohash in self._handles]
        self._handles.clear()
        if session is not None:
            if handles:
                await self._lane.run(_leave_pages, handles, self._options)
                handles.clear()
            ended = asyncio.Event()
            tell = functools.partial(_tell, asyncio.get_running_loop(), ended)
            last = [session]
            del session
            # Not in the lane: if it hangs, the lane's own shutdown would hang with it.
            threading.Thread(
                target=_end, args=(last, tell), name="swarm-close", daemon=True
            ).start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await ended.wait()
        for end in (self._signal, self._signal_end):
            if end is not None:
                end.close()
        self._signal = self._signal_end = None
        self.port = 0

    @property
    def is_open(self) -> bool:
        """Whether libtorrent runs and listens."""
        return self._session is not None

    @property
    def is_usable(self) -> bool:
        """Whether requests will be answered."""
        return self.is_open and not self._is_deaf

    # ---- events

    @property
    def signal(self) -> int:
        """The descriptor that becomes readable when there are events."""
        return self._signal.fileno() if self._signal is not None else -1

    def events(self) -> list[Event]:
        """What happened since the last call; wakes those who wait for an answer."""
        with contextlib.suppress(BlockingIOError):
            while self._signal is not None and self._signal.recv(4096):
                pass
        events = [event for alert in self._session.pop_alerts() for event in converted(alert)]
        for event in events:
            if isinstance(event, Added | Removed | Renamed):
                waiting = self._waiting.pop((type(event), event.infohash), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(event)
        return events

    def start_answers(self) -> None:
        """Events are being taken in from now on."""
        self._is_deaf = False

    def stop_answers(self) -> None:
        """Nobody takes in events any more: who waits for an answer gets an error at once."""
        self._is_deaf = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SwarmFailed("the swarm has stopped"))
        self._waiting.clear()

    async def _answer(self, kind: type[T], infohash: str) -> T:
        """Wait for the event that answers a request; one of a kind at a time for a torrent."""
        if self._is_deaf:
            raise SwarmFailed("the swarm has stopped")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[kind, infohash] = future
        with mapped({TimeoutError: SourceTimedOut}, "libtorrent"):
            async with asyncio.timeout(ANSWER_S):
                return await future

    # ---- torrents

    async def add(
        self,
        torrent: Torrent,
        paths: Mapping[FilePath, Path],
        folder: Path,
        have: set[int] | None,
        peers: Iterable[PeerAddress] = (),
    ) -> None:
        """Add a torrent whose files lie at `paths`; the others would go to `folder`.

        `have` are the pieces that are known to be there, None for all of them: a seed, which is
        never written to. Nothing is hashed at the start, and nothing is wanted yet.
        """
        parameters, indexes = await self._lane.run(_parameters, torrent, paths, folder, have)
        parameters.trackers = list(self._options.trackers)
        # Peers told later wait for libtorrent's next tick, up to a second; these do not.
        parameters.peers = [(peer.host, peer.port) for peer in peers]
        if not self._options.is_wan_enabled:
            parameters.flags |= lt.torrent_flags.disable_pex
        if not self._options.dht:
            parameters.flags |= lt.torrent_flags.disable_dht
        self._session.async_add_torrent(parameters)
        added = await self._answer(Added, torrent.infohash)
        if added.error:
            raise SwarmFailed(f"libtorrent: {added.error}")
        handle = await self._lane.run(
            self._session.find_torrent, lt.sha1_hash(bytes.fromhex(torrent.infohash))
        )
        self._handles[torrent.infohash], self._indexes[torrent.infohash] = handle, indexes

    async def remove(self, infohash: str) -> None:
        """Take a torrent out and wait until its files are closed."""
        handle = self._handles.pop(infohash, None)
        self._indexes.pop(infohash, None)
        self._met.discard(infohash)
        if handle is not None and self._session is not None:
            self._session.remove_torrent(handle)
            await self._answer(Removed, infohash)

    async def rename(self, infohash: str, path: FilePath, where: Path) -> None:
        """Say where a file of a torrent lies from now on. Raises SwarmFailed."""
        index = self._indexes[infohash][path]
        self._handles[infohash].rename_file(index, str(where))
        renamed = await self._answer(Renamed, infohash)
        if renamed.error:
            raise SwarmFailed(f"{path}: {renamed.error}")

    def has(self, infohash: str) -> bool:
        """Whether the torrent is in the session."""
        return infohash in self._handles

    def connect(self, infohash: str, peer: PeerAddress) -> None:
        """Try a peer; one that is connected already is left alone."""
        with contextlib.suppress(RuntimeError):
            self._handles[infohash].connect_peer((peer.host, peer.port))

    def meet_pages(self, infohash: str) -> None:
        """Announce to the daemon's own tracker from now on, and now."""
        tracker = {"url": self._options.page_tracker, "tier": PAGE_TIER}
        self._met.add(infohash)
        with contextlib.suppress(RuntimeError):
            self._handles[infohash].add_tracker(tracker)  # at once, unless it is there already
            self._handles[infohash].force_reannounce(0, tracker["url"], _AT_ONCE)

    def set_priorities(self, infohash: str, priorities: Iterable[tuple[int, int]]) -> None:
        """Set pieces to 0 (not wanted) … 7 (at once)."""
        self._handles[infohash].prioritize_pieces(list(priorities))

    def flush(self, infohash: str) -> None:
        """Have the disk queue written; a `Flushed` answers."""
        self._handles[infohash].flush_cache()

    async def hurry_connections(self) -> None:
        """Have new connections send small messages at once."""
        await self._lane.run(send_at_once)

    # ---- figures

    def ask_pieces(self, infohash: str) -> None:
        """Ask for a `Status` with the pieces that are there."""
        self._handles[infohash].post_status(lt.torrent_handle.query_pieces)

    async def peers(self, infohash: str) -> tuple[PeerStatus, ...]:
        """The connections of a torrent; none when it is not there."""
        handle = self._handles.get(infohash)
        return await self._lane.run(_peers, handle) if handle is not None else ()

    def ask_figures(self) -> None:
        """Ask for the `Status` of all torrents that changed, and for `Totals`."""
        self._session.post_torrent_updates(0)
        self._session.post_session_stats()

    async def allow(self, host: str) -> None:
        """Let an address be a peer that the filter would keep out. Raises ConfigError."""
        self._hosts.add(host)
        rules = filter_rules(self._options, self._hosts)
        self._session.set_ip_filter(_address_filter(rules))

    async def settings(self) -> dict[str, object]:
        """The settings in force, as libtorrent has them."""
        found: dict[str, object] = await self._lane.run(self._session.get_settings)
        return found

    async def is_blocked(self, host: str) -> bool:
        """Whether the address filter keeps this address out."""
        rules = await self._lane.run(self._session.get_ip_filter)
        return bool(rules.access(host) & BLOCKED)


def _start(settings: dict[str, Any], rules: list[tuple[str, str, bool]]) -> tuple[Any, int]:
    parameters: Any = lt.session_params()
    parameters.settings = settings
    parameters.ip_filter = _address_filter(rules)
    session = lt.session(parameters)
    # libtorrent puts LAN peers into a class without limits; ours hold for everybody.
    everybody = lt.ip_filter()
    everybody.add_rule("0.0.0.0", "255.255.255.255", 1 << lt.session.global_peer_class_id)  # noqa: S104
    everybody.add_rule("::", "ff" * 2 + ":ffff" * 7, 1 << lt.session.global_peer_class_id)
    session.set_peer_class_filter(everybody)
    send_at_once()
    return session, session.listen_port() if session.is_listening() else 0


def _leave_pages(handles: list[Any], options: SwarmOptions) -> None:
    """Have no WebSocket open to our own tracker: the destructor would wait for this process.

    It holds the interpreter lock while it waits for the other end, which is the announce door.
    """
    for handle in handles:
        with contextlib.suppress(RuntimeError):
            handle.replace_trackers([{"url": url} for url in options.trackers])
            handle.trackers()  # waits until it has been done
    hang_up(options.page_tracker)


def _peers(handle: Any) -> tuple[PeerStatus, ...]:
    try:
        return peer_statuses(handle.get_peer_info())
    except RuntimeError:  # the torrent has just left the session
        return ()


def _address_filter(rules: list[tuple[str, str, bool]]) -> Any:
    found = lt.ip_filter()
    for first, last, is_blocked in rules:
        found.add_rule(first, last, BLOCKED if is_blocked else 0)
    return found


def _parameters(
    torrent: Torrent, paths: Mapping[FilePath, Path], folder: Path, have: set[int] | None
) -> tuple[Any, dict[FilePath, int]]:
    """What libtorrent needs to add a torrent, and its number for each file."""
    with mapped({RuntimeError: SwarmFailed}, "libtorrent"):
        found: Any = lt.load_torrent_buffer(torrent.data)
    layout = found.ti.layout()
    single = len(torrent.files) == 1 and "/" not in layout.file_path(0)
    indexes = {
        FilePath(
            layout.file_path(index) if single else layout.file_path(index).partition("/")[2]
        ): index
        for index in range(layout.num_files())
        if not layout.file_flags(index) & lt.file_flags_t.flag_pad_file
    }
    flag = lt.torrent_flags
    found.flags = flag.disable_lsd | flag.apply_ip_filter | flag.no_verify_files
    found.flags |= flag.override_trackers | flag.override_web_seeds | flag.update_subscribe
    found.save_path = str(folder)
    found.renamed_files = {indexes[path]: str(where) for path, where in paths.items()}
    if have is None:
        found.flags |= flag.seed_mode | flag.upload_mode
        return found, indexes
    pieces = layout.num_pieces()
    found.have_pieces = [piece in have for piece in range(pieces)]
    found.piece_priorities = [0] * pieces
    # Empty files have no piece whose priority could keep libtorrent from creating them.
    sizes = {file.path: file.size for file in torrent.files}
    priorities = [1] * layout.num_files()
    for path, index in indexes.items():
        priorities[index] = 1 if sizes[path] else 0
    found.file_priorities = priorities
    return found, indexes


def _end(last: list[Any], tell: Callable[[], None]) -> None:
    """Drop the last reference; libtorrent stops its threads in there."""
    last.clear()
    tell()


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is gone if we took longer than CLOSE_S
        loop.call_soon_threadsafe(ended.set)
