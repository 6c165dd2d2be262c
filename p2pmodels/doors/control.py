"""The control door `/api/p2p/v1/…`: what the command line and the dashboard talk to.

1. Reading needs no token (the guard has kept foreign pages out); whatever changes something needs
   the bearer token of the data folder, compared in constant time.
2. Ten wrong tokens in a minute close the door for the rest of that minute.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from aiohttp import hdrs, web

from p2pmodels.core.caller import OPERATOR
from p2pmodels.core.manifest import Manifest
from p2pmodels.core.names import RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.doors import views
from p2pmodels.doors.doctor import doctor
from p2pmodels.doors.parts import Parts
from p2pmodels.doors.work import Event, check_store, fetch_snapshot
from p2pmodels.errors import (
    ControlRefused,
    Overloaded,
    P2PModelsError,
    RepoNotFound,
    UsageError,
)

BODY_LIMIT = 64 * 1024  # bytes of a control request; patterns of the longest sane fetch
WRONG_TOKENS_LIMIT = 10  # a minute; guessing 256 bits is hopeless, but it should not be free
WRONG_TOKENS_WINDOW_S = 60.0  # seconds

PREFIX = "/api/p2p/v1"

Json = dict[str, object]


class ControlDoor:
    """The routes of the control API."""

    def __init__(self, parts: Parts, token: Secret) -> None:
        self._parts = parts
        self._token = token
        self._wrong: list[float] = []

    def add_routes(self, app: web.Application) -> None:
        """Register every route."""
        for name, view in {
            "status": self._status,
            "models": self._view(views.models),
            "peers": self._view(views.peers),
            "transfers": self._view(views.transfers),
            "flows": self._view(views.flows),
            "doctor": self._doctor,
            "config": self._config,
        }.items():
            app.router.add_get(f"{PREFIX}/{name}", view)
        for name, action in {
            "fetch": self._fetch,
            "pin": self._pin,
            "unpin": self._unpin,
            "evict": self._evict,
            "check": self._check,
            "repair": self._repair,
            "torrent": self._torrent,
        }.items():
            app.router.add_post(f"{PREFIX}/{name}", self._changing(action))

    # reading

    def _view(
        self, view: Callable[[Parts], Json]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(_request: web.Request) -> web.Response:
            return _json(view(self._parts))

        return handler

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(await views.status(self._parts))

    async def _doctor(self, _request: web.Request) -> web.Response:
        return _json({"checks": await doctor(self._parts)})

    async def _config(self, _request: web.Request) -> web.Response:
        return _json({"values": list(self._parts.identity.settings)})

    # changing

    def _changing(
        self, action: Callable[[web.Request, Json], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            self.admit(request)
            return await action(request, await _body(request))

        return handler

    def is_admitted(self, request: web.Request) -> bool:
        """Whether the request carries the control token."""
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        expected = self._token.reveal()
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(errors="surrogateescape"), expected.encode()
        )

    def admit(self, request: web.Request) -> None:
        """Raise ControlRefused without the token, Overloaded after too many wrong ones."""
        now = self._parts.clock.monotonic()
        self._wrong = [at for at in self._wrong if now - at < WRONG_TOKENS_WINDOW_S]
        if len(self._wrong) >= WRONG_TOKENS_LIMIT:
            raise Overloaded("too many wrong control tokens", retry_after_s=WRONG_TOKENS_WINDOW_S)
        if not self.is_admitted(request):
            self._wrong.append(now)
            raise ControlRefused("control API")

    async def _fetch(self, request: web.Request, body: Json) -> web.StreamResponse:
        patterns = body.get("patterns") or []
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise UsageError("patterns must be a list of texts")
        repo, revision = _named(body)
        return await _stream(request, fetch_snapshot(self._parts, repo, revision, patterns))

    async def _pin(self, _request: web.Request, body: Json) -> web.StreamResponse:
        repo, revision = _named(body)
        manifest = (await self._parts.resolver.resolve(repo, revision, OPERATOR)).manifest
        await self._parts.store.snapshots.pin(manifest)
        return self._told(manifest)

    async def _unpin(self, _request: web.Request, body: Json) -> web.StreamResponse:
        manifest = self._held(*_named(body))
        await self._parts.store.snapshots.unpin(manifest)
        return self._told(manifest)

    async def _evict(self, _request: web.Request, body: Json) -> web.StreamResponse:
        """Free a snapshot's blobs, but for those that another snapshot here contains."""
        manifest = self._held(*_named(body))
        snapshots, blobs = self._parts.store.snapshots, self._parts.store.blobs
        if snapshots.is_pinned(manifest):
            advice = f"Run `p2pmodels unpin {manifest.repo}` first."
            raise UsageError(f"{manifest.repo} is pinned", advice=advice)
        # Forgotten first: half evicted, it would look like a snapshot that wants completing.
        await snapshots.forget(manifest)
        files = size = 0
        for entry in manifest.files:
            blob = blobs.find(entry.digest)
            others = snapshots.homes(entry.digest)
            if blob is not None and not any(snapshots.holding(o).files_cached for o in others):
                files += 1
                size += await blobs.evict(blob.sha256)
        self._parts.resolver.forget(manifest.repo)
        told = {"repo": str(manifest.repo), "commit": manifest.commit.value}
        return _json({**told, "files": files, "bytes": size})

    async def _check(self, request: web.Request, body: Json) -> web.StreamResponse:
        return await _stream(request, check_store(self._parts.store, _repo(body), repair=False))

    async def _repair(self, request: web.Request, body: Json) -> web.StreamResponse:
        return await _stream(request, check_store(self._parts.store, _repo(body), repair=True))

    async def _torrent(self, _request: web.Request, body: Json) -> web.StreamResponse:
        repo, revision = _named(body)
        manifest = (await self._parts.resolver.resolve(repo, revision, OPERATOR)).manifest
        torrent = await self._parts.sharing.torrent(manifest)
        if torrent is None:
            raise RepoNotFound(
                f"{repo} is not complete here", advice=f"Run `p2pmodels fetch {repo}` first."
            )
        return _json(
            {
                "name": str(torrent.name),
                "infohash": torrent.infohash,
                "infohash_v2": torrent.infohash_v2,
                "magnet": torrent.magnet,
                "torrent": base64.b64encode(torrent.data).decode(),
            }
        )

    def _held(self, repo: RepoId, revision: Revision) -> Manifest:
        """The manifest from memory, without asking an origin. Raises RepoNotFound."""
        snapshots = self._parts.store.snapshots
        row = snapshots.ref(repo, revision)
        commit = revision.commit or (row.commit if row else None)
        manifest = snapshots.manifest(repo, commit) if commit else None
        if manifest is None:
            raise RepoNotFound(f"{repo}@{revision} is not in this cache")
        return manifest

    def _told(self, manifest: Manifest) -> web.Response:
        holding = self._parts.store.snapshots.holding(manifest)
        return _json(
            {
                "repo": str(manifest.repo),
                "commit": manifest.commit.value,
                "files": holding.files_cached,
                "bytes": holding.bytes_cached,
            }
        )


def _json(body: Json) -> web.Response:
    return web.json_response(body, headers={hdrs.CACHE_CONTROL: "no-store"})


async def _body(request: web.Request) -> Json:
    """The JSON object of a control request. Raises UsageError."""
    if request.content_type != "application/json":
        raise UsageError("the body must be application/json")
    data = await request.content.read(BODY_LIMIT + 1)
    if len(data) > BODY_LIMIT:
        raise UsageError(f"more than {BODY_LIMIT} bytes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError("the body is not JSON") from error
    if not isinstance(body, dict):
        raise UsageError("the body must be a JSON object")
    return body


def _named(body: Json) -> tuple[RepoId, Revision]:
    repo = _repo(body)
    if repo is None:
        raise UsageError("repo is missing")
    revision = body.get("revision") or "main"
    if not isinstance(revision, str):
        raise UsageError("revision must be a text")
    return repo, Revision(revision)


def _repo(body: Json) -> RepoId | None:
    repo = body.get("repo")
    if repo is None:
        return None
    if not isinstance(repo, str):
        raise UsageError("repo must be a text")
    return RepoId.parse(repo)


async def _stream(request: web.Request, events: AsyncGenerator[Event, None]) -> web.StreamResponse:
    """Events as lines of JSON; an error before the first of them is a plain error answer."""
    async with aclosing(events):
        return await _stream_lines(request, events)


async def _stream_lines(
    request: web.Request, events: AsyncGenerator[Event, None]
) -> web.StreamResponse:
    first = await anext(events, None)
    response = web.StreamResponse(
        headers={hdrs.CONTENT_TYPE: "application/x-ndjson", hdrs.CACHE_CONTROL: "no-store"}
    )
    await response.prepare(request)
    try:
        event = first
        while event is not None:
            await response.write(json.dumps(event).encode() + b"\n")
            event = await anext(events, None)
    except P2PModelsError as error:
        await response.write(
            json.dumps({"event": "error", "error": error.as_json()}).encode() + b"\n"
        )
    await response.write_eof()
    return response
