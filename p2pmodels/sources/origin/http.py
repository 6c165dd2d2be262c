"""HTTP to one origin: the session, redirects by hand, and what may be sent where.

1. Authorization goes to the configured scheme, host and port only, and not any more once a request
   has been somewhere else; over plain http only to the operator's own private host.
2. No cookies, no netrc, no secret in any other header; a proxy only when the option says so.
3. A body is asked for unencoded; an encoded one is refused unread. Every read has a time-out.
4. No error text holds a path's query: signed addresses are secrets.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from p2pmodels import __version__
from p2pmodels.clock import Clock
from p2pmodels.core.secret import Secret
from p2pmodels.errors import NetworkFailed, SourceFailed, SourceTimedOut
from p2pmodels.sources.origin.addresses import Addresses, IsPublic, is_public
from p2pmodels.sources.origin.limits import Group, Limits
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.retry import BadAnswer

log = logging.getLogger(__name__)

HOPS_LIMIT = 5  # redirects of one request; the hub needs one
HEADER_BYTES_LIMIT = 16 << 10  # bytes of one header line; signed addresses come in headers
HEADERS_LIMIT = 128  # header lines of one answer
READ_BUFFER_BYTES = 256 << 10  # bytes aiohttp holds before it stops reading, times two
BODY_LEFT_LIMIT = 64 << 10  # bytes of an unwanted body that are read to keep the connection
END_OF_BODY_S = 0.25  # seconds for the end of a body whose bytes have all come
KEEPALIVE_S = 30.0  # seconds an idle connection is kept for the next file

_REDIRECTS = (301, 302, 303, 307, 308)


class Follow(Enum):
    """How far redirects may lead."""

    NOT = 0
    OWN = 1  # within the origin: only it says what a snapshot consists of
    ANYWHERE = 2  # wherever `Addresses` allows


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; `is_clean` tells that its URL was not reached through another host.

    `on_first` sees the first answer before a redirect is followed, and may raise: the hub's
    metadata stand there. `is_in_company` when peers can give the same: then their word that the
    origin wants to be left alone is heeded.
    """

    url: URL
    group: Group
    method: str = hdrs.METH_GET
    token: Secret | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    follow: Follow = Follow.NOT
    is_clean: bool = True
    on_first: Callable[[int, Mapping[str, str]], None] | None = None
    is_in_company: bool = False


class Answer:
    """An answer whose body was not read yet; leaving its block gives the connection back."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        ask: Ask,
        hops: int,
        stall_timeout_s: float,
    ) -> None:
        self.url, self.is_clean, self.hops = ask.url, ask.is_clean, hops
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._stall_timeout_s = stall_timeout_s

    @property
    def source(self) -> str:
        """Who answered, for people."""
        return host_and_port(self.url)

    @property
    def length(self) -> int | None:
        """Content-Length."""
        return self._response.content_length

    def refuse_encoded(self) -> None:
        """Raises BadAnswer: we asked for identity, and a compressed body could be a bomb."""
        if self.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
            raise BadAnswer(f"{self.source} sent an encoded body")

    async def read_some(self) -> bytes:
        """What has come, at least one byte; b"" at the end. Raises SourceFailed."""
        with _own_errors(self.url):
            async with asyncio.timeout(self._stall_timeout_s):
                return await self._response.content.readany()

    async def read_all(self, limit: int) -> bytes:
        """The whole body. Raises BadAnswer when it has more than `limit` bytes, SourceFailed."""
        self.refuse_encoded()
        if (self.length or 0) > limit:
            raise BadAnswer(f"{self.source} sent {self.length} bytes, {limit} at most")
        body = bytearray()
        while data := await self.read_some():
            body += data
            if len(body) > limit:
                raise BadAnswer(f"{self.source} sent more than {limit} bytes")
        return bytes(body)

    async def has_more(self) -> bool:
        """Whether bytes come although all that were promised are here."""
        try:
            async with asyncio.timeout(END_OF_BODY_S):
                return bool(await self._response.content.readany())
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A body that was read to its end gives its connection back; any other costs it.
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def discard(self) -> None:
        """Be done with it; a short body is read so that the connection can serve again."""
        async with self:
            if (self.length or 0) <= BODY_LEFT_LIMIT:
                left = BODY_LEFT_LIMIT
                try:
                    while left > 0 and (data := await self.read_some()):
                        left -= len(data)
                except SourceFailed:
                    return


class Http:
    """The session with one origin; enter it to use it."""

    def __init__(
        self,
        options: OriginOptions,
        clock: Clock,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
        is_public: IsPublic = is_public,
    ) -> None:
        self.base = options.base
        self.limits = Limits(options.name, clock)
        self._options = options
        self._resolver, self._tls, self._is_public = resolver, tls, is_public
        self._has_warned = False

    async def __aenter__(self) -> Self:
        options = self._options
        self._addresses = Addresses(
            self.base,
            self._resolver or aiohttp.ThreadedResolver(),
            proxies=_proxy_hosts() if options.use_proxy_env else (),
            is_public=self._is_public,
        )
        connector = aiohttp.TCPConnector(
            resolver=self._addresses,
            socket_factory=self._addresses.open_socket,
            ssl=self._tls or True,
            limit=0,  # each fetch limits itself; a pool would let one starve another
            keepalive_timeout=KEEPALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # it would read passwords out of ~/.netrc
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_BYTES_LIMIT,
            max_field_size=HEADER_BYTES_LIMIT,
            max_headers=HEADERS_LIMIT,
            headers={
                hdrs.ACCEPT_ENCODING: "identity",
                hdrs.ACCEPT: "*/*",
                hdrs.USER_AGENT: f"p2pmodels/{__version__}",
            },
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=options.connect_timeout_s,
                sock_connect=options.connect_timeout_s,
            ),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._addresses.close()

    async def send(self, ask: Ask) -> Answer:
        """Ask, and follow redirects as far as `ask` says. Raises SourceFailed, AddressRefused.

        Whatever the status of the last answer is, it is the caller's to judge.
        """
        for hops in range(HOPS_LIMIT + 1):
            response = await self._send_once(ask)
            answer = Answer(response, ask, hops, self._options.stall_timeout_s)
            if hops == 0 and ask.on_first is not None:
                try:
                    ask.on_first(answer.status, answer.headers)
                except BaseException:
                    await answer.discard()
                    raise
            location = response.headers.get(hdrs.LOCATION)
            is_redirect = response.status in _REDIRECTS and location is not None
            if not is_redirect or location is None or ask.follow is Follow.NOT:
                return answer
            await answer.discard()
            target = self._addresses.follow(ask.url, location)
            is_own = self._is_own(target)
            if ask.follow is Follow.OWN and not is_own:
                raise BadAnswer(f"{answer.source} redirects to {host_and_port(target)}")
            ask = replace(ask, url=target, is_clean=ask.is_clean and is_own)
        raise BadAnswer(f"{host_and_port(ask.url)} redirects without end")

    def redirect_within(self, answer: Answer) -> URL | None:
        """Where an answer of the origin itself sends us, if that is the origin again."""
        location = answer.headers.get(hdrs.LOCATION)
        if location is None or answer.status not in _REDIRECTS:
            return None
        target = self._addresses.follow(answer.url, location)
        return target if self._is_own(target) else None

    def _is_own(self, url: URL) -> bool:
        return url.origin() == self.base.origin()

    async def _send_once(self, ask: Ask) -> aiohttp.ClientResponse:
        is_own = self._is_own(ask.url)
        if is_own:
            self.limits.check(ask.group, is_in_company=ask.is_in_company)
        options = self._options
        with _own_errors(ask.url):
            headers = {**ask.headers, **await self._authorization(ask)}
            async with asyncio.timeout(options.connect_timeout_s + options.first_byte_timeout_s):
                response = await self._session.request(
                    ask.method,
                    ask.url,
                    headers=headers,
                    allow_redirects=False,
                    proxy=_proxy(ask.url) if options.use_proxy_env else None,
                )
        if is_own:
            self.limits.note(ask.group, response.status, response.headers)
        return response

    async def _authorization(self, ask: Ask) -> dict[str, str]:
        if ask.token is None or not ask.is_clean or not self._is_own(ask.url):
            return {}
        is_proxied = self._options.use_proxy_env and _proxy(ask.url) is not None
        if ask.url.scheme != "https" and (
            is_proxied or not await self._addresses.is_private_origin()
        ):
            if not self._has_warned:
                log.warning("%s: no token is sent over plain http", host_and_port(ask.url))
            self._has_warned = True
            return {}
        return {hdrs.AUTHORIZATION: f"Bearer {ask.token.reveal()}"}


def host_and_port(url: URL) -> str:
    """Host and port, without anything secret."""
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"


def _proxy(url: URL) -> URL | None:
    """The proxy that the environment names for this URL."""
    if proxy_bypass(url.raw_host or ""):
        return None
    found = getproxies().get(url.scheme)
    return URL(found) if found else None


def _proxy_hosts() -> frozenset[str]:
    hosts = (urlsplit(proxy).hostname for proxy in getproxies().values())
    return frozenset(host.lower() for host in hosts if host)


@contextmanager
def _own_errors(url: URL) -> Iterator[None]:
    """Turn aiohttp's errors into ours. Their own texts may hold URLs, so none is passed on."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _named(error, host_and_port(url)) from None


def _named(error: BaseException, host: str) -> SourceFailed:
    """What happened, in words that hold no address beyond host and port."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "not valid"
            return NetworkFailed(f"the certificate of {host} is refused: {reason}")
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return NetworkFailed(f"the name {host} cannot be resolved")
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return NetworkFailed(f"no TLS connection to {host}")
        case aiohttp.ClientConnectorError():
            return NetworkFailed(f"no connection to {host}: {error.os_error.strerror or 'refused'}")
        case TimeoutError():
            return SourceTimedOut(f"{host} did not answer in time")
        case aiohttp.ClientPayloadError():
            return NetworkFailed(f"{host} cut the body short")
        case aiohttp.ClientResponseError() | ValueError():
            return BadAnswer(f"{host} did not answer in HTTP")
        case aiohttp.ServerDisconnectedError():
            return NetworkFailed(f"{host} closed the connection without an answer")
        case _:
            return NetworkFailed(f"the connection to {host} broke")
