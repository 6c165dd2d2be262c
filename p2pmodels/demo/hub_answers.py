"""The demo hub's routes: what each path answers, as the real hub does.

1. Access is decided before anything about a repo is told.
2. Small files are answered directly, or after a 307 to a relative address; LFS files by a 302 to a
   signed address of the other listener. The metadata of an LFS file stands on that 302 only.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import web

from p2pmodels.core.names import RepoId
from p2pmodels.demo.hub_access import check_gate, find_repo, token_of, whoami
from p2pmodels.demo.hub_bodies import BodySender, Refused
from p2pmodels.demo.hub_cdn import LIFETIME_S, Cdn, failing
from p2pmodels.demo.hub_faults import Faults, Quota
from p2pmodels.demo.hub_log import Exchange
from p2pmodels.demo.hub_repos import HubFile, HubRepo, Json, Snapshot
from p2pmodels.demo.hub_routes import Route, read_api_route, read_file_route

EXPOSED = (
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,"
    "Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash"
)


@dataclass
class HubOptions:
    """Ways in which the real hub's answers differ from repo to repo and over time."""

    announces_xet: bool = True
    """Whether LFS files carry the Xet headers and `xetHash`."""

    uses_resolve_cache: bool = False
    """Whether small files answer 307 to a relative address first."""

    tree_page: int | None = None
    """Items on one page of a tree; the next page stands in `Link`."""

    signature_lifetime_s: float = LIFETIME_S
    """Seconds that a signed address is good for."""


@dataclass
class Answers:
    """The routes over `repos`; the addresses are set when the listeners are up."""

    options: HubOptions
    repos: dict[RepoId, HubRepo]
    cdn: Cdn
    quota: Quota
    sender: BodySender
    faults: Faults
    scheme: str
    url: str = ""
    cdn_url: str = ""

    @property
    def cdn_port(self) -> str:
        """The port of the other listener."""
        return self.cdn_url.rpartition(":")[2]

    async def answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        raw_path = request.raw_path.partition("?")[0]
        is_api = raw_path.startswith("/api/")
        cors = {
            "Access-Control-Allow-Origin": request.headers.get("Origin", "https://huggingface.co"),
            "Access-Control-Expose-Headers": EXPOSED,
            "Vary": "Origin, Accept",
            "X-Request-Id": f"Root=1-{secrets.token_hex(12)}",
        }
        if request.method == "OPTIONS":
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            cors |= {"Access-Control-Allow-Methods": "GET,HEAD,POST,OPTIONS"}
            return web.Response(status=204, headers=cors | {"Access-Control-Allow-Headers": wanted})
        granted, quota = self.quota.take(
            self.faults.request_limit, "api" if is_api else "resolvers"
        )
        headers = cors | quota
        try:
            if not granted:
                raise Refused(429, "", "We had to rate limit your IP")
            if is_api:
                return await self._api(request, exchange, raw_path, headers)
            route = read_file_route(raw_path)
            if route is None or request.method not in ("GET", "HEAD"):
                raise Refused(404, "RepoNotFound", "Sorry, we can't find the page")
            return await self._file(request, exchange, route, headers)
        except Refused as refused:
            raise Refused(
                refused.status, refused.code, refused.message, headers | dict(refused.headers)
            ) from None

    async def _file(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        route: Route,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        """Answer `resolve`, `raw` and `resolve-cache`."""
        faults = self.faults
        status = faults.take_status("hub", request.method)
        if status is not None:
            raise failing(status, faults)
        repo, snapshot = self._find(request, route, exchange)
        check_gate(token_of(request, self.repos), repo)
        headers |= {"X-Repo-Commit": snapshot.commit, "Accept-Ranges": "bytes"}
        file = snapshot.files.get(route.path)
        if file is None:
            raise Refused(404, "EntryNotFound", "Entry not found", headers)
        if route.word == "raw" and file.sha256:
            return web.Response(body=file.pointer, headers=headers, content_type="text/plain")
        location = self._location(request, repo, snapshot, file, route)
        if location:
            return self._redirect(repo, snapshot, file, location, headers)
        exchange.file = file.path
        headers |= {"ETag": faults.etag(file.etag), "Content-Type": "text/plain; charset=utf-8"}
        return await self.sender.answer(request, exchange, file, headers, faults)

    def _location(
        self,
        request: web.BaseRequest,
        repo: HubRepo,
        snapshot: Snapshot,
        file: HubFile,
        route: Route,
    ) -> str:
        """Where the bytes lie, or "" when they are answered here."""
        if self.faults.redirect_to is not None:
            return self.faults.redirect_to.replace("{path}", quote(file.path))
        if file.sha256:
            host = request.host
            host = host[: host.find("]") + 1] if host[:1] == "[" else host.partition(":")[0]
            return f"{self.scheme}://{host}:{self.cdn_port}" + self._signed(repo, file)
        if self.options.uses_resolve_cache and route.word == "resolve":
            path = f"{repo.api_path}/{snapshot.commit}/{quote(file.path)}"
            etag = quote(f'"{file.etag}"', safe="")
            return f"/api/resolve-cache/{path}?download=true&etag={etag}"
        return ""

    def _redirect(
        self,
        repo: HubRepo,
        snapshot: Snapshot,
        file: HubFile,
        location: str,
        headers: dict[str, str],
    ) -> web.Response:
        """302 to another host or 307 to this one, with the file's metadata."""
        headers |= {
            "Location": location,
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": self.faults.etag(file.etag),
        }
        if file.sha256 and self.options.announces_xet:
            token = f"{self.url}/api/{repo.api_path}/xet-read-token/{snapshot.commit}"
            rebuild = f"{self.cdn_url}/v1/reconstructions/{file.xet_hash}"
            headers |= {
                "X-Xet-Hash": file.xet_hash,
                "Link": f'<{token}>; rel="xet-auth", <{rebuild}>; rel="xet-reconstruction-info"',
            }
        status = 307 if location.startswith("/") else 302
        text = "Found. Redirecting to another address"
        return web.Response(status=status, headers=headers, text=text)

    async def _api(
        self, request: web.BaseRequest, exchange: Exchange, raw_path: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Answer `/api/…`."""
        if raw_path == "/api/whoami-v2":
            return _json(whoami(token_of(request, self.repos)), headers)
        route = read_api_route(raw_path)
        if route is None or route.word in ("xet-read-token", "commits"):
            raise Refused(404, message="Sorry, we can't find the page you are looking for.")
        if route.word == "resolve-cache":
            return await self._file(request, exchange, route, headers)
        if self.faults.api_body is not None:
            return web.Response(
                body=self.faults.api_body, headers=headers, content_type="application/json"
            )
        repo, snapshot = self._find(request, route, exchange)
        if route.word == "paths-info":
            return _json(await self._paths_info(request, snapshot), headers)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405)
        query = request.rel_url.query
        if route.word == "refs":
            return _json(repo.refs("include_prs" in query), headers)
        if route.word == "tree":
            return self._tree(request, route, snapshot, headers)
        with_blobs = query.get("blobs", "").lower() in ("true", "1")
        return _json(repo.information(snapshot, with_blobs), headers)

    def _tree(
        self,
        request: web.BaseRequest,
        route: Route,
        snapshot: Snapshot,
        headers: dict[str, str],
    ) -> web.Response:
        query = request.rel_url.query
        recursive = query.get("recursive", "").lower() in ("true", "1")
        items = snapshot.tree(route.path, recursive, self.options.announces_xet)
        if items is None:
            raise Refused(
                404, "EntryNotFound", f"{route.path} does not exist on {route.revision!r}"
            )
        headers["X-Repo-Commit"] = snapshot.commit
        start = int(query.get("cursor", "0")) if query.get("cursor", "0").isdecimal() else 0
        if self.options.tree_page is not None and len(items) > start + self.options.tree_page:
            following = request.rel_url.update_query(cursor=str(start + self.options.tree_page))
            headers["Link"] = f'<{self.url}{following}>; rel="next"'
        end = None if self.options.tree_page is None else start + self.options.tree_page
        return _json(items[start:end], headers)

    async def _paths_info(self, request: web.BaseRequest, snapshot: Snapshot) -> list[Json]:
        """The items of the paths in a form (Python client) or in JSON (JavaScript client)."""
        if request.method != "POST":
            raise Refused(405)
        if request.content_type == "application/json":
            try:
                body: object = await request.json()
            except ValueError:
                raise Refused(400, message="not JSON") from None
            asked: object = body.get("paths") if isinstance(body, dict) else None
            paths = [str(path) for path in asked] if isinstance(asked, list) else [str(asked)]
        else:
            paths = [str(path) for path in (await request.post()).getall("paths", [])]
        items = snapshot.tree("", True, self.options.announces_xet) or []
        return [item for item in items if item["path"] in paths]

    def _find(
        self, request: web.BaseRequest, route: Route, exchange: Exchange
    ) -> tuple[HubRepo, Snapshot]:
        """The snapshot the route names, if the caller may know of it. Raises Refused."""
        repo = find_repo(self.repos, route.repo, token_of(request, self.repos))
        exchange.repo = str(repo.repo)
        snapshot = repo.find(route.revision)
        if snapshot is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {route.revision}")
        return repo, snapshot

    def _signed(self, repo: HubRepo, file: HubFile) -> str:
        path = self.cdn.path(repo.repo, file)
        return self.cdn.signed(path, self.options.signature_lifetime_s)


def _json(value: object, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        text=json.dumps(value), headers=dict(headers), content_type="application/json"
    )


def refusal(refused: Refused) -> web.Response:
    """The hub's shape of an error: JSON, and the same in headers."""
    headers = dict(refused.headers)
    if refused.code:
        headers["X-Error-Code"] = refused.code
    if refused.message:
        # A header line is Latin-1 at most, and a name from a URL may be anything.
        text = refused.message.encode("ascii", "backslashreplace").decode()
        headers["X-Error-Message"] = "".join(c if c.isprintable() else "?" for c in text)
    if refused.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
    body = json.dumps({"error": refused.message or refused.code or "error"})
    return web.Response(
        status=refused.status, headers=headers, text=body, content_type="application/json"
    )
