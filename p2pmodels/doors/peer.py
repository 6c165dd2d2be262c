"""The peer port: what other daemons may ask of this one.

1. It answers about names that the question contains; there is no list of what we have, and what is
   not shared looks like what does not exist.
2. No web page gets an answer, but at the doors for pages: Origin or Sec-Fetch-Site ends it.
3. Bodies have a size and a deadline, answers too, and each address has a rate; those who pull with
   a ticket have a larger one.
4. Links and bytes are for home addresses, bytes for those who show a ticket. With a group secret
   only `hello` is answered without one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from p2pmodels.clock import Clock
from p2pmodels.core.peer import (
    HAS_PATH,
    HELLO_PATH,
    MESSAGE_BYTES_LIMIT,
    TORRENT_PATH,
    HasAnswer,
    HasQuery,
    Hello,
    parse_torrent_name,
)
from p2pmodels.core.torrent import TorrentName
from p2pmodels.doors.guard import GuardOptions, check_host
from p2pmodels.doors.peer_bytes import BytesDoor, Held
from p2pmodels.doors.peer_link import LinkDoor, LinkServer
from p2pmodels.doors.tickets import NotHome, Tickets, admitted, ticket_of
from p2pmodels.errors import NotFound, Overloaded, P2PModelsError, UsageError, WebOriginRefused
from p2pmodels.metrics import REFUSED
from p2pmodels.sources.lan.carrier import LINK_PATH
from p2pmodels.sources.lan.range_connection import RETRY_AFTER_MS_HEADER
from p2pmodels.sources.lan.ranges import BLOBS_PATH
from p2pmodels.transfer.uploads import Uploads
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

BODY_DEADLINE_S = 5.0  # seconds for the body of a question; aiohttp has none of its own
TORRENT_DEADLINE_S = 30.0  # seconds to take a torrent; a reader that stalls frees its memory
TORRENTS_LIMIT = 32  # torrents on their way at once; 8 MiB each at the very most
BLOCK = 64 * 1024  # bytes handed to the socket at once
REQUESTS_PER_S = 100.0  # requests a second from one address, on average
BURST = 500  # requests from one address at once; a page of 115 files asks twice for each
PULLS_PER_S = 300.0  # pulls a second from one address, on average; an aiohttp answer takes 1 ms
PULLS_BURST = 3000  # pulls from one address at once; a repo of small files has hundreds
ADDRESSES_LIMIT = 1024  # addresses whose rate is remembered; more than a LAN has


class Catalogue(Held, Protocol):
    """What the peer port asks; answers come from memory."""

    def hello(self) -> Hello: ...

    def has(self, query: HasQuery) -> HasAnswer: ...

    def torrent(self, name: TorrentName) -> bytes | None: ...


class Links(Tickets, LinkServer, Protocol):
    """The conversations with peers, and the tickets they were given."""


class PageRoutes(Protocol):
    """Routes for web pages."""

    @property
    def paths(self) -> Collection[str]:
        """What it answers; one that ends with a slash stands for all below it."""

    def add_routes(self, app: web.Application) -> None: ...


class BodyRefused(UsageError):
    """The body is too large, too slow or not expected."""

    code, status = "bad_body", 400


class Rate:
    """A bucket of requests for each address, filled again as time passes."""

    def __init__(self, clock: Clock, per_s: float = REQUESTS_PER_S, burst: int = BURST) -> None:
        self._clock, self._per_s, self._burst = clock, per_s, float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count one request. Raises Overloaded when the address has asked too often."""
        now = self._clock.monotonic()
        left, then = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_s)
        is_over = left < 1.0
        self._buckets[address] = (left if is_over else left - 1.0, now)
        if len(self._buckets) > ADDRESSES_LIMIT:
            self._buckets.popitem(last=False)
        if is_over:
            raise Overloaded("too many requests from this address", retry_after_s=1.0)


@dataclass(eq=False)
class PeerDoor:
    """The routes that ask about names."""

    catalogue: Catalogue
    tickets: Tickets
    needs_ticket: bool
    _sending: int = 0

    async def hello(self, _request: web.Request) -> web.StreamResponse:
        """Who we are."""
        return _json(self.catalogue.hello().format())

    async def has(self, request: web.Request) -> web.StreamResponse:
        """Which of the named things can be had here."""
        self._check_ticket(request)
        query = HasQuery.parse(await _body(request))
        return _json(self.catalogue.has(query).format())

    async def torrent(self, request: web.Request) -> web.StreamResponse:
        """A torrent by its name."""
        self._check_ticket(request)
        data = self.catalogue.torrent(parse_torrent_name(request.match_info["name"]))
        if data is None:
            raise NotFound("no such torrent")
        if self._sending >= TORRENTS_LIMIT:
            raise Overloaded("too many torrents are being sent")
        self._sending += 1
        try:
            async with asyncio.timeout(TORRENT_DEADLINE_S):
                return await _send(request, data)
        except TimeoutError as error:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("a reader of a torrent stalls") from error
        finally:
            self._sending -= 1

    def _check_ticket(self, request: web.Request) -> None:
        if self.needs_ticket:
            admitted(request, self.tickets)


def peer_app(
    catalogue: Catalogue,
    links: Links,
    uploads: Uploads,
    is_home: Callable[[str], bool],
    options: GuardOptions,
    clock: Clock,
    lane: Lane,
    *,
    needs_ticket: bool = False,
    page_doors: Sequence[PageRoutes] = (),
) -> web.Application:
    """The application of the peer port.

    `is_home` says whether the machine at an address may link and pull. `needs_ticket` closes all
    but `hello` to those without a ticket: a group secret is set. `page_doors` are the ones that
    web pages may knock at; each judges their web origins by itself.
    """
    pulls = Rate(clock, PULLS_PER_S, PULLS_BURST)
    for_pages = frozenset(path for door in page_doors for path in door.paths)
    app = web.Application(
        middlewares=[
            _errors,
            _guard(options, Rate(clock), pulls, links, for_pages),
            _home((BLOBS_PATH, LINK_PATH), is_home),
        ],
        client_max_size=MESSAGE_BYTES_LIMIT,
    )
    door = PeerDoor(catalogue, links, needs_ticket)
    app.router.add_get(HELLO_PATH, door.hello, allow_head=False)
    app.router.add_post(HAS_PATH, door.has)
    app.router.add_get(TORRENT_PATH + "{name}", door.torrent, allow_head=False)
    app.router.add_get(LINK_PATH, LinkDoor(links).link, allow_head=False)
    blobs = BytesDoor(catalogue, links, uploads, lane)
    app.router.add_get(BLOBS_PATH + "{digest}", blobs.blob, allow_head=False)
    for page_door in page_doors:
        page_door.add_routes(app)
    return app


def _guard(
    options: GuardOptions, rate: Rate, pulls: Rate, tickets: Tickets, for_pages: frozenset[str]
) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check_host(request, options)
            is_page = hdrs.ORIGIN in request.headers or "Sec-Fetch-Site" in request.headers
            if is_page and not _is_for_pages(request.path, for_pages):
                raise WebOriginRefused(
                    "the peer port is for daemons", advice="Pages use the local endpoint."
                )
            is_pull = request.path.startswith(BLOBS_PATH) and ticket_of(request, tickets)
            (pulls if is_pull else rate).take(request.remote or "")
            if request.body_exists and request.method != hdrs.METH_POST:
                raise BodyRefused("no body is expected")
        except P2PModelsError as error:
            REFUSED.labels(error.code).inc()
            raise
        return await handler(request)

    return middleware


def _is_for_pages(path: str, for_pages: frozenset[str]) -> bool:
    """Whether pages may ask; a path that ends with a slash stands for all below it."""
    return path in for_pages or f"{path.rpartition('/')[0]}/" in for_pages


def _home(prefixes: tuple[str, ...], is_home: Callable[[str], bool]) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(prefixes) and not is_home(request.remote or ""):
            REFUSED.labels(NotHome.code).inc()
            raise NotHome(request.remote or "")
        return await handler(request)

    return middleware


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors become JSON; what is unexpected tells nothing of the inside."""
    try:
        return await handler(request)
    except P2PModelsError as error:
        answer = _refusal(error)
        if request.body_exists:
            answer.force_close()  # what is left of the body is not read
        return answer
    except web.HTTPNotFound:
        return _refusal(NotFound("no such page"))
    except web.HTTPMethodNotAllowed as error:
        answer = _refusal(UsageError(f"method {request.method[:20]}"), error.status)
        answer.headers[hdrs.ALLOW] = ", ".join(sorted(error.allowed_methods))
        return answer
    except (ConnectionError, web.HTTPException):
        raise
    except Exception:
        log.exception("%s %s", request.method, request.path)
        return _refusal(P2PModelsError("an error inside the daemon"))


async def _body(request: web.Request) -> bytes:
    """The whole body, in bounded time and size."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
        raise BodyRefused("an encoded body")
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await request.read()
    except TimeoutError as error:
        raise BodyRefused(f"not here within {BODY_DEADLINE_S:.0f} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyRefused(f"more than {MESSAGE_BYTES_LIMIT} bytes") from error


async def _send(request: web.Request, data: bytes) -> web.StreamResponse:
    answer = web.StreamResponse(headers=_HEADERS)
    answer.content_type = "application/x-bittorrent"
    answer.content_length = len(data)
    await answer.prepare(request)
    for start in range(0, len(data), BLOCK):
        await answer.write(data[start : start + BLOCK])
    await answer.write_eof()
    return answer


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    hdrs.CACHE_CONTROL: "no-store",
}


def _json(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/json", headers=_HEADERS)


def _refusal(error: P2PModelsError, status: int | None = None) -> web.Response:
    headers = dict(_HEADERS)
    if isinstance(error, Overloaded):
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_s)))
        headers[RETRY_AFTER_MS_HEADER] = str(round(error.retry_after_s * 1000))
    body = {"error": error.as_json()}
    return web.json_response(body, status=status or error.status, headers=headers)
