"""The client of the control API.

1. Every failure is one of our errors: nothing of aiohttp leaves this module.
2. The control token is sent with requests that change something and for files (the daemon then
   gives also what is not public), never with others, never on a redirect (none is followed).
3. An answer is bounded in size and in time.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import aiohttp

from p2pmodels.cli.connection import Connection
from p2pmodels.core.digests import Sha256
from p2pmodels.errors import ControlRefused, DaemonUnreachable, P2PModelsError

API = "/api/p2p/v1"
CONNECT_TIMEOUT_S = 3.0  # seconds; the daemon is on this machine or this LAN
ANSWER_TIMEOUT_S = 60.0  # seconds; making a torrent of a cached model reads all of it
SILENCE_TIMEOUT_S = 600.0  # seconds without an event before a stream counts as dead
ANSWER_LIMIT = 64 << 20  # bytes; a listing of thousands of models, or a torrent
LINE_LIMIT = 16 << 20  # bytes; the plan of a repo with tens of thousands of files
READ_BYTES = 1 << 20  # bytes taken from a file's body at once

JsonObject = dict[str, object]


class Refused(P2PModelsError):
    """The daemon refused."""

    def __init__(self, report: JsonObject) -> None:
        super().__init__(str(report.get("message", "")))
        self.report = report

    @property
    def message(self) -> str:
        return str(self.report.get("message") or "The daemon gave no reason")

    def as_json(self) -> JsonObject:
        """What the daemon said, in its own words."""
        described: JsonObject = {"code": "failed", "advice": P2PModelsError.advice}
        return {**described, **self.report, "message": self.message}


class ControlClient:
    """States: closed, open (inside the block)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"User-Agent": "p2pmodels-cli"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy is never between us and our own daemon
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, name: str) -> JsonObject:
        """The answer to a question that changes nothing."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        async with self._request("GET", f"{API}/{name}", timeout=timeout) as answer:
            return await self._read_json(answer)

    async def post(self, name: str, body: JsonObject) -> JsonObject:
        """The answer to a request that changes something."""
        async with self._request("POST", f"{API}/{name}", body) as answer:
            return await self._read_json(answer)

    async def events(self, name: str, body: JsonObject) -> AsyncIterator[JsonObject]:
        """The events of a long job, as they come. Raises Refused at an `error` event."""
        async with self._request("POST", f"{API}/{name}", body) as answer:
            async for line in _lines(answer):
                event = _as_object(line, self.url)
                if event.get("event") == "error":
                    error = event.get("error")
                    raise Refused(error if isinstance(error, dict) else {})
                yield event
                if event.get("event") == "done":
                    return
        raise DaemonUnreachable(f"{self.url} ended the answer before it was done")

    async def file(self, digest: Sha256) -> AsyncGenerator[bytes, None]:
        """The bytes of a cached blob; the caller verifies them."""
        async with self._request("GET", f"/files/{digest}") as answer:
            async for data in answer.content.iter_chunked(READ_BYTES):
                yield data

    @property
    def url(self) -> str:
        """The daemon's address. Raises DaemonUnreachable when none can be running."""
        if self._connection.url is None:
            raise DaemonUnreachable(f"none runs in {self._connection.data_dir}")
        return self._connection.url

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("used outside its block")
        needs_token = method == "POST" or path.startswith("/files/")
        token = self._connection.read_token() if needs_token else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        silent = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
        )
        try:
            async with self._session.request(
                method,
                self.url + path,
                json=body,
                headers=headers,
                allow_redirects=False,
                timeout=timeout or silent,
            ) as answer:
                if answer.status not in (200, 202):
                    await self._refuse(answer, has_token=token is not None)
                yield answer
        except TimeoutError as error:
            raise DaemonUnreachable(f"{self.url} does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise DaemonUnreachable(f"{self.url}: {_reason(error)}") from error

    async def _refuse(self, answer: aiohttp.ClientResponse, *, has_token: bool) -> None:
        described = (await self._read_json(answer)).get("error")
        report = described if isinstance(described, dict) else {}
        if report.get("code") == ControlRefused.code and not has_token:
            raise ControlRefused(
                f"{self._connection.data_dir / 'control-token'} is not readable for you",
                advice="Run this as the daemon's user on its machine, or name its --data-dir.",
            )
        raise Refused(report or {"message": f"{self.url} answered {answer.status}"})

    async def _read_json(self, answer: aiohttp.ClientResponse) -> JsonObject:
        body = bytearray()
        async for data in answer.content.iter_chunked(READ_BYTES):
            body += data
            if len(body) > ANSWER_LIMIT:
                raise DaemonUnreachable(f"{self.url} answers with more than {ANSWER_LIMIT} bytes")
        return _as_object(bytes(body), self.url)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines without their ends; aiohttp's own reader stops at 64 KiB."""
    rest = bytearray()
    async for data in answer.content.iter_any():
        rest += data
        *lines, tail = rest.split(b"\n")
        rest = bytearray(tail)
        for line in lines:
            if line.strip():
                yield bytes(line)
        if len(rest) > LINE_LIMIT:
            raise DaemonUnreachable(f"an event is longer than {LINE_LIMIT} bytes")
    if rest.strip():
        yield bytes(rest)


def _as_object(data: bytes, url: str) -> JsonObject:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DaemonUnreachable(
            f"what answers at {url} is not a p2pmodels daemon",
            advice="Name the daemon with --url, or the folder with --data-dir.",
        )
    return value


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "cannot be reached"
    return str(error) or type(error).__name__
