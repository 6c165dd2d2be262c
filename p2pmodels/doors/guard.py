"""Who may talk to a door: Host and web-origin rules, on every bind.

1. The Host header must name this daemon exactly: a loopback name, the very address the connection
   came in on, or a configured name, each with our port. That stops DNS rebinding, on LAN binds too.
2. A page whose web origin is not allowed learns nothing and starts nothing: it is refused before
   any door looks at the request. `null` counts as a foreign origin. Only `open_paths` are for all.
3. The control routes are for the daemon's own pages and for programs only.
4. Request targets in absolute form are refused: they overrule the Host header in aiohttp.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from p2pmodels.errors import HostRefused, P2PModelsError, WebOriginRefused
from p2pmodels.metrics import REFUSED

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
DEFAULT_WEB_ORIGINS = ("https://chat.webllm.ai",)

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_LOOPBACK_ORIGIN = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_CONTROL_PREFIX = "/api/p2p/"

LINKED_PAGES = ("/", "/index.html", "/try")  # what a link on a foreign page may open
EXPOSED_HEADERS = (
    "ETag, Link, Content-Length, Content-Range, Accept-Ranges, Location, X-Repo-Commit, "
    "X-Linked-Size, X-Linked-Etag, X-Error-Code, X-Error-Message, X-Request-Id, X-Total-Count, "
    "X-P2PModels-Source, X-P2PModels-Stale"
)
PREFLIGHT_AGE_S = 86_400  # seconds; browsers cap it themselves


class BadTarget(P2PModelsError):
    """The request target is not a path."""

    code, status = "bad_target", 400


@dataclass(frozen=True)
class GuardOptions:
    """What is let in besides loopback."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names under which this daemon is reached, with another port than ours if need be."""
    allowed_origins: tuple[str, ...] = DEFAULT_WEB_ORIGINS
    """Web origins (`https://name[:port]`) whose pages may fetch files; `*` lets all in."""
    open_paths: frozenset[str] = frozenset()
    """Paths that any page may read: public code, which says nothing of this machine."""


def check_host(request: web.Request, options: GuardOptions) -> None:
    """Raise HostRefused unless Host names this daemon; BadTarget for an absolute-form target."""
    if not request.raw_path.startswith("/"):
        raise BadTarget(request.raw_path[:80])
    values = request.headers.getall(hdrs.HOST, [])
    if len(values) != 1:
        raise BadTarget(f"{len(values)} Host headers")
    match = _HOST.fullmatch(values[0])
    local = request.transport.get_extra_info("sockname") if request.transport else None
    if match is None or local is None:
        raise HostRefused(values[0][:80])
    name, port = match[1].lower(), int(match[2] or (443 if request.secure else 80))
    if values[0].lower() in options.allowed_hosts:
        return  # configured exactly so, as behind a proxy
    is_named = name in LOOPBACK_NAMES or name in options.allowed_hosts
    if port != local[1] or not (is_named or _is_address(name, local[0])):
        raise HostRefused(values[0][:80])


def _is_address(name: str, local: str) -> bool:
    """Whether `name` is the literal of the address that this connection came in on."""
    try:
        written = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    ours = ipaddress.ip_address(local.partition("%")[0])
    mapped = ours.ipv4_mapped if isinstance(ours, ipaddress.IPv6Address) else None
    return written in (ours, mapped)


def allowed_origin(request: web.Request, options: GuardOptions) -> str | None:
    """The request's web origin if it is allowed, None without one. Raises WebOriginRefused."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        _refuse_cross_site(request)
        return None
    if _is_own(request, origin):
        return origin
    if request.path.startswith(_CONTROL_PREFIX):
        raise WebOriginRefused(origin[:80])
    is_listed = origin in options.allowed_origins or "*" in options.allowed_origins
    if is_listed or _LOOPBACK_ORIGIN.fullmatch(origin):
        return origin
    raise WebOriginRefused(origin[:80])


def _is_own(request: web.Request, origin: str) -> bool:
    return origin == f"{request.scheme}://{request.headers[hdrs.HOST]}"


def _refuse_cross_site(request: web.Request) -> None:
    """A page's request without Origin: `<img>`, `<script>`, `no-cors`. Only links are let in."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site in ("none", "same-origin"):
        return
    is_link = (
        request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest") == "document"
        and request.method == "GET"
    )
    is_page = request.path in LINKED_PAGES
    if is_link and is_page:
        return
    raise WebOriginRefused(f"a {site} page")


def guard(options: GuardOptions) -> Middleware:
    """The middleware that stands before every door of the local endpoint."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check_host(request, options)
            is_open = request.path in options.open_paths and request.method in ("GET", "HEAD")
            origin = None if is_open else allowed_origin(request, options)
        except P2PModelsError as error:
            REFUSED.labels(error.code).inc()
            raise
        if request.method == hdrs.METH_OPTIONS:
            return _preflight(request, origin)
        return await handler(request)

    return middleware


def cors_headers(request: web.Request, options: GuardOptions) -> dict[str, str]:
    """What an allowed page needs to read the answer; nothing for everybody else."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Vary": "Origin",
    }
    try:
        origin = allowed_origin(request, options)
    except P2PModelsError:
        origin = None
    if origin is None or request.path.startswith(_CONTROL_PREFIX):
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return headers
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
    return headers


def _preflight(request: web.Request, origin: str | None) -> web.Response:
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    headers = {"Allow": "GET, HEAD, POST, OPTIONS"}
    if origin is not None and not request.path.startswith(_CONTROL_PREFIX):
        headers |= {
            "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
            "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
            "Access-Control-Allow-Private-Network": "true",
        }
        if re.fullmatch(r"[A-Za-z0-9,_ -]{1,1000}", wanted):
            headers["Access-Control-Allow-Headers"] = wanted
    return web.Response(status=204, headers=headers)
