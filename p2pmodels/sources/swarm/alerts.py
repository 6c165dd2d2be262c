"""libtorrent's events as plain values.

An alert object is only valid until the next `pop_alerts` (libtorrent #6437), so every one is
converted in the call that popped it. Torrents are named by the hexadecimal v1 infohash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import libtorrent as lt

_CATEGORY = lt.alert.category_t
ALERT_MASK = int(
    _CATEGORY.error_notification
    | _CATEGORY.status_notification
    | _CATEGORY.storage_notification
    | _CATEGORY.piece_progress_notification
    | _CATEGORY.connect_notification
)


@dataclass(frozen=True, slots=True)
class Added:
    """A torrent is in the session, or not when `error` says why."""

    infohash: str
    error: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A torrent has left the session: its files are closed."""

    infohash: str


@dataclass(frozen=True, slots=True)
class PieceDone:
    """A piece passed its hash check; it may not be on disk yet."""

    infohash: str
    piece: int


@dataclass(frozen=True, slots=True)
class Finished:
    """All that was wanted is there; libtorrent flushes by itself now and tells so, once."""

    infohash: str


@dataclass(frozen=True, slots=True)
class Flushed:
    """What was in the disk queue is in the files."""

    infohash: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """A file got its new path, or not when `error` says why."""

    infohash: str
    index: int
    error: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A torrent stopped on an error of its files."""

    infohash: str
    error: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A torrent went into another state; `is_whole` for finished and seeding."""

    infohash: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The figures of one torrent: bytes of payload, bytes per second."""

    infohash: str
    bytes_down: int
    bytes_up: int
    rate_down: int
    rate_up: int
    peers: int
    pieces: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """The figures of one connection."""

    host: str
    port: int
    client: str
    is_connected: bool
    is_downloading: bool
    bytes_down: int
    bytes_up: int
    rate_down: int
    rate_up: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Payload bytes of the whole session since it began."""

    bytes_down: int
    bytes_up: int


@dataclass(frozen=True, slots=True)
class Connecting:
    """There is a new connection; an outgoing one may not be established yet."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The queue of alerts overflowed: nothing that was waited for may be relied on."""


Event = (
    Added
    | Removed
    | PieceDone
    | Finished
    | Flushed
    | Renamed
    | Broken
    | StateChanged
    | Status
    | Totals
    | Connecting
    | Dropped
)


def converted(alert: Any) -> list[Event]:
    """The events in one alert; none for those we do not use."""
    convert = _TABLE.get(type(alert))
    return convert(alert) if convert else []


def _hex(alert: Any) -> str:
    return str(alert.handle.info_hashes().v1)


def _added(alert: Any) -> list[Event]:
    infohash = str(alert.params.ti.info_hashes().v1)
    return [Added(infohash, alert.error.message() if alert.error.value() else "")]


def _state_changed(alert: Any) -> list[Event]:
    whole = (lt.torrent_status.finished, lt.torrent_status.seeding)
    return [StateChanged(_hex(alert), alert.state in whole)]


def _statuses(alert: Any) -> list[Event]:
    return [
        Status(
            infohash=str(status.info_hashes.v1),
            bytes_down=status.total_payload_download,
            bytes_up=status.total_payload_upload,
            rate_down=status.download_payload_rate,
            rate_up=status.upload_payload_rate,
            peers=status.num_peers,
            pieces=tuple(status.pieces),
        )
        for status in alert.status
    ]


def peer_statuses(peers: Iterable[Any]) -> tuple[PeerStatus, ...]:
    """What libtorrent says of the connections of a torrent."""
    waiting = lt.peer_info.connecting | lt.peer_info.handshake
    wants_nothing = lt.peer_info.seed | lt.peer_info.upload_only
    return tuple(
        PeerStatus(
            host=peer.ip[0],
            port=peer.ip[1],
            client=bytes(peer.client).decode(errors="replace")[:64],
            is_connected=not peer.flags & waiting,
            is_downloading=not peer.flags & (waiting | wants_nothing),
            bytes_down=peer.total_download,
            bytes_up=peer.total_upload,
            rate_down=peer.payload_down_speed,
            rate_up=peer.payload_up_speed,
        )
        for peer in peers
    )


def _totals(alert: Any) -> list[Event]:
    values = alert.values
    return [Totals(values["net.recv_payload_bytes"], values["net.sent_payload_bytes"])]


_TABLE: dict[type, Any] = {
    lt.add_torrent_alert: _added,
    lt.torrent_removed_alert: lambda alert: [Removed(str(alert.info_hashes.v1))],
    lt.piece_finished_alert: lambda alert: [PieceDone(_hex(alert), alert.piece_index)],
    lt.torrent_finished_alert: lambda alert: [Finished(_hex(alert))],
    lt.cache_flushed_alert: lambda alert: [Flushed(_hex(alert))],
    lt.file_renamed_alert: lambda alert: [Renamed(_hex(alert), alert.index, "")],
    lt.file_rename_failed_alert: lambda alert: [
        Renamed(_hex(alert), alert.index, alert.error.message())
    ],
    lt.file_error_alert: lambda alert: [Broken(_hex(alert), alert.error.message())],
    lt.torrent_error_alert: lambda alert: [Broken(_hex(alert), alert.error.message())],
    lt.state_changed_alert: _state_changed,
    lt.state_update_alert: _statuses,
    lt.session_stats_alert: _totals,
    lt.peer_connect_alert: lambda alert: [Connecting()],
    lt.alerts_dropped_alert: lambda alert: [Dropped()],
}
