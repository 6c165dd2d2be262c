"""When a failed request is tried again at the same origin, and after how long.

Three more tries after 1, 2 and 4 s with jitter, or when the origin's Retry-After says so; after
that the next source has its turn. Waiting goes through the clock.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from p2pmodels.clock import Clock
from p2pmodels.errors import (
    AddressRefused,
    IntegrityFailed,
    RateLimited,
    SourceFailed,
    SourceTimedOut,
)

T = TypeVar("T")

RETRIES = 3  # tries after the first one
DELAY_FIRST_S = 1.0
DELAY_CEILING_S = 5.0  # seconds; clients give up after 10 without a byte
RETRY_AFTER_CAP_S = 10.0  # seconds we wait ourselves; for longer the client is told to come back
QUESTION_BUDGET_S = 7.0  # seconds within which the last try of a question begins; clients wait 10


class BadAnswer(SourceFailed):
    """An origin's answer breaks the rules."""


class Retry:
    """The tries of one piece of work. An impatient one leaves a silent origin for the next."""

    def __init__(
        self, clock: Clock, *, is_patient: bool = True, budget_s: float = float("inf")
    ) -> None:
        self._clock, self._is_patient = clock, is_patient
        self._ends = clock.monotonic() + budget_s
        self._failures = 0

    def progressed(self) -> None:
        """Something came: the count starts anew."""
        self._failures = 0

    async def after(self, error: SourceFailed) -> None:
        """Wait until the next try. Raises `error` when there is none."""
        self._failures += 1
        is_final = isinstance(error, BadAnswer | AddressRefused | IntegrityFailed)
        is_long = isinstance(error, SourceTimedOut | RateLimited) and not self._is_patient
        if is_final or is_long or self._failures > RETRIES:
            raise error
        if isinstance(error, RateLimited):
            delay = error.retry_after_s
            if delay > RETRY_AFTER_CAP_S:
                raise error
        else:
            delay = min(DELAY_CEILING_S, DELAY_FIRST_S * 2 ** (self._failures - 1))
            delay *= random.uniform(1.0, 1.25)  # noqa: S311  jitter, not a secret
            delay = min(DELAY_CEILING_S, delay)
        if self._clock.monotonic() + delay > self._ends:
            raise error
        await self._clock.sleep(delay)


async def with_retries(retry: Retry, question: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer. Raises what the last try raised."""
    while True:
        try:
            return await question()
        except SourceFailed as error:
            await retry.after(error)
