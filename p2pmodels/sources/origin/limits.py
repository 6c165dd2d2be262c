"""The hub's rate limits: read from its answers, kept before asking again.

`RateLimit: "resolvers";r=2998;t=172` says how many requests are left in which window; a 429 says
it with `Retry-After`. Each group of routes has its own count at the hub.

1. What the hub itself said to us holds until its time has passed.
2. What a peer says it was told is heeded for files only, while peers can give them to us, and for
   DEFER_CAP_S in all; then the hub has to answer us once before a peer is believed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from p2pmodels.clock import Clock
from p2pmodels.errors import RateLimited

WAIT_CAP_S = 600.0  # seconds; a longer pause than two of the hub's windows is a mistake of its own
DEFAULT_PAUSE_S = 5.0  # seconds after a 429 that does not say
DEFER_CAP_S = 300.0  # seconds; one window of the hub: for longer no peer's word is believed

_LIMIT = re.compile(r'"([a-z-]{1,40})"\s*;\s*r=([0-9]{1,9})\s*;\s*t=([0-9]{1,9})')
_SECONDS = re.compile(r"[0-9]{1,9}")


class Group(StrEnum):
    """The hub's groups of routes, with its own names."""

    API = "api"
    FILES = "resolvers"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for; its date form is not used by hubs and is ignored."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), WAIT_CAP_S) if _SECONDS.fullmatch(text) else None


class Limits:
    """What one origin still grants us."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._until: dict[str, float] = {}
        self._deferred_until: float | None = None
        self._deferred_at_most = 0.0

    def check(self, group: Group, *, is_in_company: bool = False) -> None:
        """Raises RateLimited while the origin wants no more requests of this group."""
        rest = self.rest_s(group, is_in_company=is_in_company)
        if rest > 0:
            raise RateLimited(
                f"{self._name} allows no more requests for {rest:.0f} s", retry_after_s=rest
            )

    def rest_s(self, group: Group, *, is_in_company: bool = False) -> float:
        """Seconds until requests of this group may go out again."""
        until = self._until.get(group, 0.0)
        if is_in_company and group is Group.FILES and self._deferred_until is not None:
            until = max(until, self._deferred_until)
        return max(0.0, until - self._clock.monotonic())

    def defer(self, seconds: float) -> None:
        """In company, hold back requests for files: a peer says that it was told to."""
        now = self._clock.monotonic()
        if self._deferred_until is None:
            self._deferred_until, self._deferred_at_most = now, now + DEFER_CAP_S
        self._deferred_until = max(
            self._deferred_until, min(now + max(0.0, seconds), self._deferred_at_most)
        )

    def note(self, group: Group, status: int, headers: Mapping[str, str]) -> None:
        """Learn from an answer of the origin itself."""
        now = self._clock.monotonic()
        pause = retry_after_s(headers) if status == 429 else None
        if group is Group.FILES:
            self._deferred_until = None
        for match in _LIMIT.finditer(headers.get("RateLimit", "")[:400]):
            if match[1] == group and int(match[2]) == 0 and pause is None:
                pause = min(float(match[3]), WAIT_CAP_S)
        if pause is None and status == 429:
            pause = DEFAULT_PAUSE_S
        if pause is not None and (status == 429 or status < 400):
            self._until[group] = now + pause

    @property
    def wait_s(self) -> float:
        """Seconds until everything may be asked again."""
        return max(self.rest_s(group) for group in Group)
