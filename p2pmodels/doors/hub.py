"""The hub door: the routes of the Hugging Face hub, for clients that are given `HF_ENDPOINT`.

1. Everything is answered from the manifest, in one page, and never with a redirect.
2. No Xet header and no `xetHash` ever appears: one of them sends clients to another host.
3. The caller's token goes to the resolver only; it decides what this caller may see.
"""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, quote

from aiohttp import hdrs, web

from p2pmodels.core.caller import ANONYMOUS, Caller
from p2pmodels.core.digests import Sha256, lfs_pointer
from p2pmodels.core.manifest import Manifest
from p2pmodels.core.names import FilePath
from p2pmodels.core.secret import Secret
from p2pmodels.doors.answers import Answers, FileAnswer, error_answer
from p2pmodels.doors.hub_json import info, paths_info, refs, tree
from p2pmodels.doors.routes import HubRoute, Verb, parse_hub_path
from p2pmodels.errors import (
    EntryNotFound,
    NameRefused,
    NotFound,
    StoreDamaged,
    UsageError,
)
from p2pmodels.store.blobs import Blob
from p2pmodels.store.store import Store
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.transfer.resolve import Resolved, Resolver

DAMAGED_LIMIT = 3  # times one request meets a blob that was changed behind our back
BODY_LIMIT = 1 << 20  # bytes of a paths-info question; 10 000 paths of 100 characters


def caller_of(request: web.Request) -> Caller:
    """The caller, by the bearer token of the request. Raises NameRefused for a broken one."""
    value = request.headers.get(hdrs.AUTHORIZATION, "")
    scheme, _, token = value.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return Caller(Secret(token.strip()))
    return Caller()


class HubDoor:
    """Answers every path that no other door claims."""

    def __init__(
        self, resolver: Resolver, fetcher: Fetcher, store: Store, answers: Answers
    ) -> None:
        self._resolver, self._fetcher, self._store = resolver, fetcher, store
        self._answers = answers

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request to the hub door."""
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_POST):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        raw = request.rel_url.raw_path
        if raw == "/api/agent-harnesses" or "/xet-read-token/" in raw:
            raise NotFound("not offered here")
        route = parse_hub_path(raw)
        caller = caller_of(request)
        if route.verb is Verb.PATHS_INFO:
            if request.method != hdrs.METH_POST:
                raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        elif request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        resolved = await self._resolver.resolve(route.repo, route.revision, caller)
        try:
            return await self._answer(request, route, resolved, caller)
        except EntryNotFound as error:
            return error_answer(error, resolved.manifest.commit)

    async def _answer(
        self, request: web.Request, route: HubRoute, resolved: Resolved, caller: Caller
    ) -> web.StreamResponse:
        manifest = resolved.manifest
        if route.verb is Verb.RESOLVE and route.path is not None:
            return await self._file(request, route, resolved, caller)
        if route.verb is Verb.RAW and route.path is not None:
            return await self._raw(request, route, resolved, caller)
        body: object
        if route.verb is Verb.TREE:
            is_recursive = request.query.get("recursive", "").lower() in ("true", "1")
            body = tree(manifest, route.path, is_recursive=is_recursive)
        elif route.verb is Verb.PATHS_INFO:
            body = paths_info(manifest, await _asked_paths(request))
        elif route.verb is Verb.REFS:
            body = refs(manifest)
        elif route.verb is Verb.COMMITS:
            body = [{"id": manifest.commit.value, "title": "", "authors": []}]
        else:
            with_blobs = request.query.get("blobs", "").lower() in ("true", "1")
            body = info(manifest, with_blobs=with_blobs)
        return web.json_response(body, headers=_headers(route, resolved))

    async def _file(
        self, request: web.Request, route: HubRoute, resolved: Resolved, caller: Caller
    ) -> web.StreamResponse:
        manifest = resolved.manifest
        want = manifest.want(route.path or FilePath("-"))
        answer = FileAnswer(
            want.entry,
            manifest.commit,
            is_immutable=route.revision.commit is not None,
            is_private=manifest.is_restricted,
            headers=_stale(resolved),
        )
        if request.method == hdrs.METH_HEAD and not answer.is_immutable:
            answer.headers[hdrs.LOCATION] = _fixed_url(request, route, manifest)
        if request.method == hdrs.METH_HEAD or self._answers.is_known(request, answer):
            return self._answers.head(request, answer)
        for _ in range(DAMAGED_LIMIT):
            found = await self._fetcher.open(want, self._bearer(manifest, caller))
            if not isinstance(found, Blob):
                is_poisoned = self._fetcher.is_poisoned(want)
                return await self._answers.fetch(request, answer, found, ignore_range=is_poisoned)
            self._store.blobs.touch(found.sha256)
            with self._store.blobs.use(found):
                try:
                    return await self._answers.blob(
                        request, answer, found, ignore_range=self._fetcher.is_poisoned(want)
                    )
                except StoreDamaged:
                    # The file was changed behind our back: set it aside and fetch it again.
                    await self._store.blobs.doubt(found)
                    if request.get("has_begun"):
                        raise
        raise StoreDamaged(str(want))

    @staticmethod
    def _bearer(manifest: Manifest, caller: Caller) -> Caller:
        """Whose token goes to the origin: nobody's for what the public may read."""
        return caller if manifest.is_restricted else ANONYMOUS

    async def _raw(
        self, request: web.Request, route: HubRoute, resolved: Resolved, caller: Caller
    ) -> web.StreamResponse:
        """Git's view of a file: an LFS file is its pointer."""
        entry = resolved.manifest.find(route.path or FilePath("-"))
        if isinstance(entry.digest, Sha256):
            body = lfs_pointer(entry.digest, entry.size)
            return web.Response(
                body=body, content_type="text/plain", headers=_headers(route, resolved)
            )
        return await self._file(request, route, resolved, caller)


def _fixed_url(request: web.Request, route: HubRoute, manifest: Manifest) -> str:
    """The file's address at its commit.

    huggingface_hub takes it for the GET that follows: a branch that moves in between would have
    it keep the new bytes under the old commit's name.
    """
    path = quote(str(route.path))
    host = request.headers[hdrs.HOST]
    return f"http://{host}/{manifest.repo.url_path}/resolve/{manifest.commit}/{path}"


def _stale(resolved: Resolved) -> dict[str, str]:
    return {"X-P2PModels-Stale": "1"} if resolved.is_stale else {}


def _headers(route: HubRoute, resolved: Resolved) -> dict[str, str]:
    is_fixed = route.revision.commit is not None and not resolved.manifest.is_restricted
    cache = "public, max-age=31536000, immutable" if is_fixed else "no-cache"
    commit = {"X-Repo-Commit": resolved.manifest.commit.value}
    return {hdrs.CACHE_CONTROL: cache, **commit, **_stale(resolved)}


async def _asked_paths(request: web.Request) -> list[FilePath]:
    """The paths of a paths-info question: a form from Python, JSON from JavaScript."""
    body = await request.content.read(BODY_LIMIT + 1)
    if len(body) > BODY_LIMIT:
        raise UsageError(f"more than {BODY_LIMIT} bytes")
    if request.content_type == "application/json":
        try:
            asked = json.loads(body)["paths"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError("paths-info wants {'paths': […]}") from error
    else:
        asked = [value for name, value in _form(body) if name == "paths"]
    if not isinstance(asked, list) or not all(isinstance(path, str) for path in asked):
        raise UsageError("paths-info wants a list of paths")
    return [path for path in map(_path_or_none, asked) if path is not None]


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), max_num_fields=20_000)
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError("paths-info wants a form or JSON") from error


def _path_or_none(text: str) -> FilePath | None:
    try:
        return FilePath(text.rstrip("/"))
    except NameRefused:
        return None  # unknown paths are left out of the answer, and so are impossible ones
