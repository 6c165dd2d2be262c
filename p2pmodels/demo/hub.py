"""A small hub of our own, with the real Hugging Face protocol: for the demo and for every test.

1. It answers as the real hub does: manifests by the API, small files directly, LFS files by a
   302 to a signed address on another port (`hub_cdn.py`); metadata stands on that 302 only.
2. Access is decided before anything about a repo is told: who may not read a private repo learns
   nothing of it, and a gated file needs a token of that repo.
3. `log` and `file_bytes` say what was asked and what was really sent; `faults` make it fail.

Run alone: `python -m p2pmodels.demo.hub --help`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from aiohttp import web

from p2pmodels.clock import Clock, RealClock
from p2pmodels.core.names import Commit, RepoId
from p2pmodels.demo.hub_answers import Answers, HubOptions, refusal
from p2pmodels.demo.hub_bodies import BodySender, Refused, reset
from p2pmodels.demo.hub_cdn import Cdn
from p2pmodels.demo.hub_faults import Faults, Pacer, Quota
from p2pmodels.demo.hub_log import Exchange, Hit, HubLog
from p2pmodels.demo.hub_repos import (
    LFS_FROM,
    Content,
    HubRepo,
    kind_of,
    make_file,
    make_snapshot,
)
from p2pmodels.workers import Lane

__all__ = ["Faults", "Hit", "Hub", "HubOptions"]

SHUTDOWN_S = 0.5  # seconds for running answers when the hub stops; its clients are ours
Answer = Callable[[web.BaseRequest, Exchange], Awaitable[web.StreamResponse]]


class Hub:
    """The hub; inside its `async with` it listens on `port` and, for LFS files, on `cdn_url`."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        options: HubOptions | None = None,
        log_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or RealClock()
        self.host, self.port, self.cdn_port = host, port, 0
        self._log, self._log_path, self._tls = HubLog(), log_path, tls
        self._lane = Lane("hub", 4)
        self._answers = Answers(
            options=options or HubOptions(),
            repos={},
            cdn=Cdn(clock),
            quota=Quota(clock),
            sender=BodySender(Pacer(clock), self._lane, clock),
            faults=Faults(),
            scheme="https" if tls else "http",
        )
        self._parts = AsyncExitStack()

    @property
    def options(self) -> HubOptions:
        """May be changed at any time."""
        return self._answers.options

    @property
    def faults(self) -> Faults:
        """The switches of its faults; a new `Faults()` takes all of them back."""
        return self._answers.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._answers.faults = faults

    def add_repo(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        kind: str = "models",
        commit: str | None = None,
        gated: bool | str = False,
        private: bool = False,
        tokens: Collection[str] = (),
        branch: str = "main",
        lfs_from: int = LFS_FROM,
    ) -> str:
        """Publish a commit and move `branch` to it; blocks while files on disk are hashed.

        `tokens` are those whose owners may read a gated or private repo.
        """
        found = kind_of(kind)
        if found is None:
            raise ValueError(f"kind {kind!r}")
        repo = RepoId(name, found)
        made = {path: make_file(path, content, lfs_from) for path, content in files.items()}
        snapshot = make_snapshot(repo, made, Commit(commit).value if commit else None)
        entry = self._answers.repos.setdefault(repo, HubRepo(repo))
        entry.gated, entry.private, entry.tokens = gated, private, frozenset(tokens)
        entry.snapshots[snapshot.commit] = snapshot
        entry.branches[branch] = snapshot.commit
        for file in made.values():
            if file.sha256:
                self._answers.cdn.add(repo, file)
        return snapshot.commit

    @property
    def url(self) -> str:
        """What to set as HF_ENDPOINT."""
        return f"{self._answers.scheme}://{self.host}:{self.port}"

    @property
    def cdn_url(self) -> str:
        """Where the signed addresses lie."""
        return f"{self._answers.scheme}://{self.host}:{self.cdn_port}"

    # What was asked -----------------------------------------------------------------------------

    @property
    def log(self) -> list[Hit]:
        """Ended exchanges, oldest first."""
        return self._log.hits

    @property
    def active(self) -> int:
        """Exchanges that run now."""
        return len(self._log.open)

    def file_bytes(self, repo: str | None = None) -> int:
        """Bytes of file bodies sent so far, running answers included."""
        sent = self._log.file_bytes
        return sum(sent.values()) if repo is None else sent.get(repo, 0)

    def requests(
        self,
        *,
        method: str | None = None,
        listener: str | None = None,
        status: int | None = None,
        contains: str = "",
    ) -> list[Hit]:
        """The ended exchanges that match."""
        return [
            hit
            for hit in self.log
            if method in (None, hit.method)
            and listener in (None, hit.listener)
            and status in (None, hit.status)
            and contains in hit.path
        ]

    def clear_log(self) -> None:
        """Forget all hits and counts."""
        self._log.clear()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until `condition` about the log holds. Raises TimeoutError."""
        await self._log.until(condition, timeout_s)

    async def quiet(self, timeout_s: float = 5.0) -> None:
        """Wait until no exchange runs, so that the log is complete. Raises TimeoutError."""
        await self.until(lambda: not self._log.open, timeout_s)

    # Life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as parts:
            await parts.enter_async_context(self._lane)
            if self._log_path is not None:
                await self._lane.run(self._log.open_file, self._log_path)
                parts.callback(self._log.close_file)
            self.cdn_port = await self._listen(parts, self.cdn_port, "cdn", self._answer_cdn)
            self.port = await self._listen(parts, self.port, "hub", self._answers.answer)
            self._answers.url, self._answers.cdn_url = self.url, self.cdn_url
            parts.callback(lambda: self.faults.stall_until.set())
            self._parts = parts.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    async def _listen(self, parts: AsyncExitStack, port: int, name: str, answer: Answer) -> int:
        """Start one listener and give its port."""

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(request, name, answer)

        server = web.Server(handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        parts.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, self.host, port, ssl_context=self._tls, backlog=1024)
        await site.start()
        return int(runner.addresses[0][1])

    async def _handle(
        self, request: web.BaseRequest, listener: str, answer: Answer
    ) -> web.StreamResponse:
        """Answer one request and write it down, however it ends."""
        path = request.raw_path if listener == "hub" else request.raw_path.partition("?")[0]
        exchange = Exchange(
            self._log,
            request.method,
            path,
            "Authorization" in request.headers,
            request.headers.get("Range", ""),
            listener,
            request.headers.get("User-Agent", ""),
        )
        self._log.begin(exchange)
        response: web.StreamResponse = web.Response()
        try:
            if self.faults.down:
                reset(request)
                return response
            try:
                response = await answer(request, exchange)
            except Refused as refused:
                exchange.file = ""  # No byte of the file goes out.
                response = refusal(refused)
            exchange.status = response.status
            await response.prepare(request)
            await response.write_eof()
            if isinstance(response, web.Response) and request.method != "HEAD":
                exchange.sent(len(response.body) if isinstance(response.body, bytes) else 0)
        except ConnectionError:
            pass  # The client has gone or a fault has cut it: the log tells how far it came.
        finally:
            self._log.end(exchange)
        return response

    async def _answer_cdn(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        answers = self._answers
        return await answers.cdn.answer(request, exchange, answers.faults, answers.sender)


if __name__ == "__main__":
    from p2pmodels.demo.hub_command import main

    raise SystemExit(main())
