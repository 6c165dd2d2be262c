"""Faults that the demo hub commits when told to, so that tests can see what a client makes of them.

1. All are off by default, and each one acts as soon as its field is set; no restart is needed.
2. A fault with a number of times counts down when it acts, and is off at nought.
3. `rate_bytes_per_s` paces all bodies of both listeners together, as one shared uplink does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from p2pmodels.clock import Clock

QUOTA_REQUESTS = 3_000  # requests; what the hub grants an anonymous address
QUOTA_WINDOW_S = 300.0  # seconds of that window
PACE_GRAIN_S = 0.002  # seconds; shorter pauses are saved up, the loop's timer is not finer


@dataclass
class Faults:
    """The switches. "Files" are the routes that lead to or carry a file's bytes."""

    down: bool = False
    """Every connection is reset as soon as it asks for something."""

    manifests_only: bool = False
    """Every GET of a file answers 503 on both listeners; the API and HEAD still work."""

    status_for_files: int | None = None
    """The status that file routes of `status_at` answer, the next `status_times` times."""
    status_times: int | None = None
    status_at: Literal["hub", "cdn"] = "hub"
    retry_after_s: int | None = None
    """Retry-After of those answers."""

    cut_after: int | None = None
    """Bytes of a body after which the connection is reset, the next `cut_times` times."""
    cut_times: int | None = None

    stall_after: int | None = None
    """Bytes of a body after which nothing more comes until `stall_until` is set."""
    stall_until: asyncio.Event = field(default_factory=asyncio.Event)

    corrupt: frozenset[str] | set[str] = frozenset()
    """Paths of files whose middle byte goes out flipped."""

    ignore_range: bool = False
    """A Range is answered by 200 and everything."""

    wrong_content_range: bool = False
    """A 206 says another place than its bytes are from."""

    gzip: bool = False
    """Bodies of files go out compressed, whatever the client accepts."""

    redirect_to: str | None = None
    """Location of file routes of the hub; `{path}` in it becomes the file's path."""

    delay_s: float = 0.0
    """Seconds before the first byte of an answer that carries a file."""

    rate_bytes_per_s: float | None = None
    """Rate of all bodies together."""

    request_limit: int | None = None
    """Requests to the hub in one window of its quota, whoever sends them; more get 429."""

    etag_change: bool = False
    """Every answer about a file has another ETag."""

    api_body: bytes | None = None
    """What every API route answers instead of its JSON, with status 200."""

    etags_made: int = 0

    def take_status(self, listener: str, method: str) -> int | None:
        """The status to answer on a file route, or None."""
        if self.manifests_only and method != "HEAD":
            return 503
        if self.status_for_files is None or self.status_at != listener or self.status_times == 0:
            return None
        if self.status_times is not None:
            self.status_times -= 1
        return self.status_for_files

    def take_cut(self) -> bool:
        """Whether the connection that reached `cut_after` is to be cut."""
        if self.cut_after is None or self.cut_times == 0:
            return False
        if self.cut_times is not None:
            self.cut_times -= 1
        return True

    def etag(self, value: str) -> str:
        """The ETag to send for `value`, in quotes."""
        if self.etag_change:
            self.etags_made += 1
            value = f"{self.etags_made:08x}{value[8:]}"
        return f'"{value}"'

    def spare_body(self, path: str) -> bool:
        """Whether the body of `path` goes out untouched, so that sendfile may carry it."""
        return (
            self.cut_after is None
            and self.stall_after is None
            and path not in self.corrupt
            and not self.gzip
            and self.rate_bytes_per_s is None
        )


class Pacer:
    """One queue for all bodies: each block waits until the blocks before it have had their time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at = 0.0

    async def take(self, size: int, rate: float | None) -> None:
        """Wait for the turn of `size` bytes at `rate` bytes per second."""
        if rate is None:
            return
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now) + size / rate
        if self._free_at - now > PACE_GRAIN_S:
            await self._clock.sleep(self._free_at - now)


class Quota:
    """The hub's fixed window of requests, and the headers that tell of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = -QUOTA_WINDOW_S
        self._used = 0

    def take(self, limit: int | None, group: str) -> tuple[bool, dict[str, str]]:
        """Count one request: whether it is granted, and the headers of its answer."""
        now = self._clock.monotonic()
        if now - self._began >= QUOTA_WINDOW_S:
            self._began, self._used = now, 0
        self._used += 1
        allowed = QUOTA_REQUESTS if limit is None else limit
        rest = max(0, allowed - self._used)
        reset_s = max(1, round(self._began + QUOTA_WINDOW_S - now))
        return limit is None or self._used <= limit, {
            "RateLimit": f'"{group}";r={rest};t={reset_s}',
            "RateLimit-Policy": f'"fixed window";"{group}";q={allowed};w={QUOTA_WINDOW_S:.0f}',
        }
