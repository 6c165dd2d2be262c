"""What the daemon says of itself: the JSON of `status`, `models`, `peers`, `transfers`, `flows`.

One shape for the dashboard, the command line and scripts. Nothing here is a secret, and nothing
here changes anything.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from urllib.parse import urlsplit

from p2pmodels import __version__
from p2pmodels.core.manifest import Manifest
from p2pmodels.doors.parts import Parts
from p2pmodels.metrics import BLOB_BYTES, PEERS, RUNNING, SHARED_BYTES
from p2pmodels.sources.lan.link import Linked
from p2pmodels.sources.lan.peers import PeerView
from p2pmodels.store.figures import FROM_STORE, SERVED, SHARED
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.flows import MIRROR, ORIGIN, SELF, SWARM

SOURCES = ("store", "origin", "mirror", "swarm", "lan", "webrtc")

Json = dict[str, object]


async def status(parts: Parts) -> Json:
    """The daemon in figures."""
    identity, store = parts.identity, parts.store
    figures = store.figures
    received = figures.received_in_all()
    by_source = {name: received.get(name, 0) for name in SOURCES}
    by_source["store"] = figures.counter(FROM_STORE)
    pinned = store.snapshots.pinned_blobs()
    transfers = [fetch for fetch in parts.fetcher.transfers() if not fetch.is_over]
    return {
        "version": __version__,
        "id": identity.id,
        "uptime_s": round(parts.clock.monotonic() - identity.started_at, 1),
        "url": identity.url,
        "peer_url": identity.peer_url,
        "bt_port": identity.bt_port,
        "profile": identity.profile,
        "data_dir": str(identity.data_dir),
        "store": {
            "blobs": len(store.blobs.rows()),
            "bytes": store.blobs.bytes,
            "limit_bytes": store.options.room.cache_limit_bytes,
            "free_bytes": await parts.lane.run(store.blobs.free_bytes),
            "pinned_bytes": sum(r.size for r in store.blobs.rows() if r.sha256 in pinned),
        },
        "bytes_by_source": by_source,
        "served_bytes": figures.counter(SERVED),
        "shared_bytes": shared_bytes(parts),
        "origins": [
            {"url": o.url, "state": o.state, "error": o.error.as_json() if o.error else None}
            for o in parts.origins.states()
        ],
        "parts": dict(identity.states),
        "seeding": len(parts.swarm.seeds()),
        "peers": _ready(parts),
        "transfers": len(transfers),
    }


def shared_bytes(parts: Parts) -> int:
    """Bytes uploaded to peers since this data folder was made."""
    return parts.store.figures.counter(SHARED) + shared_now(parts)


def shared_now(parts: Parts) -> int:
    """Bytes uploaded to peers since this daemon started."""
    uploaded: int = parts.swarm.totals()[1]
    return uploaded + parts.uploads.total + parts.channel_uploads.total


def models(parts: Parts) -> Json:
    """The snapshots of which something is here."""
    rows = [_model(parts, manifest) for manifest in parts.store.snapshots.all()]
    return {"models": [row for row in rows if row is not None]}


def _model(parts: Parts, manifest: Manifest) -> Json | None:
    snapshots, blobs = parts.store.snapshots, parts.store.blobs
    holding = snapshots.holding(manifest)
    is_pinned = snapshots.is_pinned(manifest)
    if holding.files_cached == 0 and not is_pinned:
        return None
    sources: Counter[str] = Counter()
    used_at = 0.0
    rows = {row.sha256: row for row in blobs.rows()}
    for entry in manifest.files:
        blob = blobs.find(entry.digest)
        if blob is not None:
            sources.update(parts.store.figures.received(blob.sha256))
            used_at = max(used_at, rows[blob.sha256].used_at)
    torrent = parts.sharing.shared(manifest.commit)
    return {
        "repo": str(manifest.repo),
        "commit": manifest.commit.value,
        "revisions": snapshots.revisions(manifest.repo, manifest.commit),
        "files": holding.files,
        "files_cached": holding.files_cached,
        "bytes": holding.bytes,
        "bytes_cached": holding.bytes_cached,
        "is_complete": holding.is_complete,
        "is_pinned": is_pinned,
        "share": parts.sharing.state(manifest).value,
        "infohash": torrent.infohash if torrent else None,
        "magnet": torrent.magnet if torrent else None,
        "last_used": datetime.fromtimestamp(used_at, UTC).isoformat() if used_at else None,
        "sources": dict(sources),
    }


def peers(parts: Parts) -> Json:
    """The daemons nearby, and who is linked over WebRTC, with what passed between us."""
    down: Counter[str] = Counter()
    up: Counter[str] = Counter()
    for transfer in parts.swarm.transfers():
        for peer in transfer.peers:
            host = peer.address.rpartition(":")[0].strip("[]")
            down[host] += peer.bytes_down
            up[host] += peer.bytes_up
    exchanged = {(flow.source, flow.target): flow.bytes for flow in parts.flows.now()}
    now = parts.clock.monotonic()
    carried = _carried(parts)
    return {
        "peers": [
            {
                "id": view.id,
                "address": view.address,
                "bt_port": view.bt_port,
                "found_by": view.found_by,
                "version": view.version,
                "state": view.state,
                "last_seen_s": round(max(0.0, now - view.last_seen), 1),
                "bytes_from": down[view.host] + exchanged.get((view.id, SELF), 0),
                "bytes_to": up[view.host] + exchanged.get((SELF, view.id), 0),
            }
            for view in _others(parts, carried)
        ]
        + [
            {
                "id": str(link.id),
                "address": link.host,
                "bt_port": 0,
                "found_by": "page" if link.is_guest else "webrtc",
                "version": "",
                "state": "ready",
                "last_seen_s": round(max(0.0, now - link.last_heard), 1),
                "bytes_from": exchanged.get((str(link.id), SELF), 0),
                "bytes_to": exchanged.get((SELF, str(link.id)), 0),
            }
            for link in carried
        ]
    }


def _carried(parts: Parts) -> list[Linked]:
    """Who is linked by a channel and not over TCP as well."""
    ready = {view.id for view in parts.lan.peers() if view.state == "ready"}
    return [link for link in parts.exchange.carried() if str(link.id) not in ready]


def _others(parts: Parts, carried: list[Linked]) -> list[PeerView]:
    """The peers found nearby, without those that only a channel reaches."""
    ids = {str(link.id) for link in carried}
    return [view for view in parts.lan.peers() if view.id not in ids]


def _ready(parts: Parts) -> int:
    """How many daemons can be asked: pages only take."""
    carried = _carried(parts)
    near = sum(1 for view in _others(parts, carried) if view.state == "ready")
    return near + sum(1 for link in carried if not link.is_guest)


def flows(parts: Parts) -> Json:
    """Who gives to whom now: the ends, and what passes between them.

    `from` and `to` are ids of `nodes`. A peer that fetches from the origin for the room shows as a
    flow from "origin" to it, without figures: how much it gets only it knows.
    """
    nodes = [_node(SELF, SELF, "this machine", "ready"), *_origin_nodes(parts)]
    running = [transfer for transfer in parts.swarm.transfers() if transfer.peers]
    nodes.append(_node(SWARM, SWARM, "BitTorrent", "ready" if running else "idle"))
    nodes += _peer_nodes(parts)
    known = {str(node["id"]) for node in nodes}
    return {
        "nodes": nodes,
        "flows": [
            {
                "from": flow.source,
                "to": flow.target,
                "bytes_per_s": round(flow.bytes_per_s, 1),
                "bytes": flow.bytes,
            }
            for flow in parts.flows.now()
            if flow.source in known and flow.target in known
        ],
    }


def _origin_nodes(parts: Parts) -> list[Json]:
    """One node for all hubs and one for all mirrors, each named after the first that works."""
    nodes = []
    for kind, is_hub in ((ORIGIN, True), (MIRROR, False)):
        alike = [origin for origin in parts.origins.states() if origin.is_hub == is_hub]
        if alike:
            best = min(alike, key=lambda origin: origin.state == "down")
            nodes.append(_node(kind, kind, urlsplit(best.url).netloc, best.state))
    return nodes


def _peer_nodes(parts: Parts) -> list[Json]:
    carried = _carried(parts)
    nearby = _others(parts, carried)
    hosts = Counter(view.host for view in nearby)
    nodes = []
    for view in nearby:
        # Where two daemons share an address, their ports tell them apart.
        name = view.host if view.host and hosts[view.host] == 1 else view.address
        # A suggestion has no id yet, and its text may be a stranger's: "origin", for example.
        nodes.append(_node(view.id or f"peer {view.address}", "peer", name, view.state))
    for link in carried:
        name = f"page at {link.host}" if link.is_guest else f"{link.host} (WebRTC)"
        nodes.append(_node(str(link.id), "peer", name, "ready"))
    return nodes


def _node(node_id: str, kind: str, name: str, state: str) -> Json:
    return {"id": node_id, "kind": kind, "name": name, "state": state}


def transfers(parts: Parts) -> Json:
    """What is being fetched and what is being given."""
    return {
        "transfers": [_transfer(fetch) for fetch in parts.fetcher.transfers()],
        "uploads": [
            {
                "name": str(transfer.name),
                "infohash": transfer.infohash,
                "bytes": transfer.bytes_up,
                "rate_bytes_per_s": transfer.rate_up,
                "peers": len(transfer.peers),
            }
            for transfer in parts.swarm.transfers()
            if transfer.bytes_up or transfer.peers
        ],
    }


def _transfer(fetch: Fetch) -> Json:
    want = fetch.want
    return {
        "id": want.entry.digest.key,
        "repo": str(want.repo),
        "commit": want.commit.value,
        "path": want.entry.path.value,
        "size": want.entry.size,
        "landed": fetch.landed,
        "rate_bytes_per_s": 0.0 if fetch.is_over else round(fetch.rate(), 1),
        "source": fetch.source,
        "sources": dict(fetch.sources),
        "state": fetch.state.value,
        "readers": fetch.holders,
        "error": fetch.error.as_json() if fetch.error else None,
    }


def update_gauges(parts: Parts) -> None:
    """Bring the gauges up to date before they are scraped."""
    BLOB_BYTES.set(parts.store.blobs.bytes)
    PEERS.set(_ready(parts))
    RUNNING.set(sum(1 for fetch in parts.fetcher.transfers() if not fetch.is_over))
    SHARED_BYTES.set(shared_bytes(parts))
