"""The daemon's own part of `doctor`: each check with its result and what to do."""

from __future__ import annotations

import os

from p2pmodels.core.names import RepoId, Revision
from p2pmodels.doors.parts import Parts
from p2pmodels.errors import NotFound, P2PModelsError
from p2pmodels.store.room import FREE_FLOOR_BYTES

Check = dict[str, object]

# A name that no hub has: "not found" proves that the hub answers, and costs it almost nothing.
_PROBE = (RepoId("p2pmodels/doctor-probe"), Revision("main"))


def _check(name: str, result: str, detail: str, advice: str = "") -> Check:
    return {"name": name, "result": result, "detail": detail, "advice": advice}


async def doctor(parts: Parts) -> list[Check]:
    """Look at the running daemon from inside."""
    return [
        await _room(parts),
        _folder(parts),
        await _origins(parts),
        *_optional_parts(parts),
        _peers(parts),
        _sharing(parts),
    ]


async def _room(parts: Parts) -> Check:
    free = await parts.lane.run(parts.store.blobs.free_bytes)
    floor = parts.store.options.room.free_floor_bytes or FREE_FLOOR_BYTES
    text = f"{free / 1e9:.1f} GB free, {floor / 1e9:.1f} GB of it kept for the machine"
    if free <= floor:
        return _check("disk", "fail", text, "Free space or `p2pmodels evict` a model.")
    return _check("disk", "ok", text)


def _folder(parts: Parts) -> Check:
    folder = parts.store.folder
    if not os.access(folder, os.W_OK):
        return _check("data folder", "fail", f"{folder} cannot be written", "Check its owner.")
    blobs = parts.store.blobs
    return _check("data folder", "ok", f"{folder}: {len(blobs.rows())} blobs, {blobs.bytes} bytes")


async def _origins(parts: Parts) -> Check:
    names = ", ".join(state.url for state in parts.origins.states())
    try:
        await parts.origins.manifest(*_PROBE)
    except NotFound:
        return _check("origin", "ok", f"{names} answers")
    except P2PModelsError as error:
        if error.status in (401, 403):
            return _check("origin", "ok", f"{names} answers")
        return _check("origin", "warn", f"{names}: {error}", "What is cached is still served.")
    return _check("origin", "ok", f"{names} answers")


def _optional_parts(parts: Parts) -> list[Check]:
    checks = []
    for name, state in parts.identity.states.items():
        result = "ok" if state == "running" else "warn"
        advice = "" if result == "ok" else "The daemon works without it; see its log."
        checks.append(_check(name, result, state, advice))
    return checks


def _peers(parts: Parts) -> Check:
    ready = [peer for peer in parts.lan.peers() if peer.state == "ready"]
    if ready:
        return _check("peers", "ok", f"{len(ready)} nearby")
    return _check(
        "peers", "warn", "no other daemon found on this network",
        "Normal for the first machine. If there are others: Wi-Fi with client isolation and"
        " separate VLANs stop multicast; name one with --peer http://ADDRESS:7879.",
    )  # fmt: skip


def _sharing(parts: Parts) -> Check:
    seeds = parts.swarm.seeds()
    return _check("seeding", "ok", f"{len(seeds)} torrents seeded on port {parts.swarm.port}")
