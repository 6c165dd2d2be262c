"""The demo hub's log: what was asked, and how many bytes went out.

1. `body_bytes` counts what the kernel took, while it is being sent, not what was asked for.
2. No secret is written: only whether a token came, and no query of a signed address.
3. The access log file gets one JSON line when an answer has ended, so another process can read it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

LOG_LIMIT = 200_000  # answers kept in memory; the older half is dropped, the counters stay


@dataclass(frozen=True, slots=True)
class Hit:
    """One answered request; `file` is set when the answer carried that file of `repo`."""

    method: str
    path: str
    status: int
    has_authorization: bool
    range: str
    body_bytes: int
    listener: str
    user_agent: str
    repo: str = ""
    file: str = ""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request that is being answered. `status` 0 means that it was cut without an answer."""

    log: HubLog
    method: str
    path: str
    has_authorization: bool
    range: str
    listener: str
    user_agent: str
    status: int = 0
    body_bytes: int = 0
    repo: str = ""
    file: str = ""

    def sent(self, count: int) -> None:
        """Count bytes of the body."""
        self.body_bytes += count
        if self.file:
            self.log.count(self.repo, count)

    def hit(self) -> Hit:
        """The exchange as it ended."""
        return Hit(
            self.method,
            self.path,
            self.status,
            self.has_authorization,
            self.range,
            self.body_bytes,
            self.listener,
            self.user_agent,
            self.repo,
            self.file,
        )


class HubLog:
    """Hits in order of their end, the exchanges that run, and the bytes of files by repo."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []
        self.open: set[Exchange] = set()
        self.file_bytes: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._file: IO[str] | None = None

    def open_file(self, path: Path) -> None:
        """Start the access log file; it is appended to. Blocks."""
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def close_file(self) -> None:
        """End the access log file. Blocks."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, exchange: Exchange) -> None:
        """A request has come."""
        self.open.add(exchange)
        self._notify()

    def end(self, exchange: Exchange) -> None:
        """Its answer has ended, however."""
        self.open.discard(exchange)
        hit = exchange.hit()
        self.hits.append(hit)
        if len(self.hits) > LOG_LIMIT:
            del self.hits[: LOG_LIMIT // 2]
        if self._file is not None:
            # One short line into the page cache, in the order of the answers, as `logging` does.
            self._file.write(json.dumps(asdict(hit)) + "\n")
        self._notify()

    def count(self, repo: str, size: int) -> None:
        """Bytes of a file of `repo` went out."""
        self.file_bytes[repo] = self.file_bytes.get(repo, 0) + size
        self._notify()

    def clear(self) -> None:
        """Forget what was; running exchanges count from here on."""
        self.hits.clear()
        self.file_bytes.clear()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `condition` holds; it is looked at after each change. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
