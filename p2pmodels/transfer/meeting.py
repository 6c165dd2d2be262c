"""Whom we meet by WebRTC, and whose offers we take.

1. Offers of others go through the reception, wherever they come from.
2. We make an offer to a daemon that is in a room with us when there has been no link with it for
   some seconds: TCP had its chance. The smaller id does it at once, the larger later.
3. An answer counts only from the very member that got the offer.
4. Opened channels go to the book of links, which believes nobody before hands are shaken.

A *place* is a rendezvous: one far away, or our own (`lobby.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from p2pmodels.clock import Clock
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.signalling import (
    Answer,
    Heard,
    Member,
    Offer,
    Refused,
    Said,
    Sent,
    SignedSdp,
    signed_sdp,
)
from p2pmodels.errors import AccessRefused, LanFailed, Overloaded, P2PModelsError, ProtocolError
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.reception import HALF_OPEN_S, Accepts, HalfOpen, Reception

log = logging.getLogger(__name__)

OFFERS_OUT_LIMIT = 4  # offers of ours without a channel
ANSWER_LIMIT_S = 6.0  # seconds until our offer is answered; no candidate is waited for
UNLINKED_S = 5.0  # seconds without a link before we offer one; TCP needs two
LARGER_WAITS_S = 10.0  # seconds for which the larger id leaves the offering to the smaller
RETRY_FIRST_S = 5.0  # seconds, doubled at each failure; an offer costs a key and sockets
RETRY_CEILING_S = 120.0  # seconds; walls that let no UDP through are rarely torn down
LOOK_S = 1.0  # seconds between looks for daemons to meet


class Opened(Protocol):
    """A channel that has opened; its ends are named by their fingerprints."""

    @property
    def is_dialler(self) -> bool: ...

    @property
    def local_host(self) -> str: ...

    @property
    def remote_host(self) -> str: ...

    async def close(self) -> None: ...


class Offered(Protocol):
    """An offer of ours."""

    @property
    def session(self) -> int: ...

    @property
    def sdp(self) -> str: ...


class Sessions(Accepts, Protocol):
    """The part that speaks WebRTC."""

    async def offer(self) -> Offered: ...

    async def complete(self, session: int, sdp: str) -> None: ...

    def abandon(self, session: int) -> None: ...


Channel = TypeVar("Channel", bound=Opened)
Taken = TypeVar("Taken", bound=Opened, contravariant=True)


class Book(Protocol[Taken]):
    """The book of links."""

    def is_linked(self, id: PeerId) -> bool: ...

    async def adopt(self, channel: Taken, expected: PeerId | None) -> None:
        """Serve a link over this channel until it ends; `expected` is whom we made the offer."""


class Place(Protocol):
    """A rendezvous at which we have a seat."""

    async def run(self, hear: Callable[[Heard], None]) -> None:
        """Keep the seat until cancelled, and pass on what members say to us."""

    def members(self) -> Iterable[Member]:
        """The daemons there now, ourselves not."""

    def say(self, sent: Sent) -> None:
        """Say something to a member; never waits, and nobody knows whether it arrives."""

    def source_of(self, member: str) -> str:
        """What a member's sessions are counted by."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """The meeting of one daemon."""

    not_before: float
    failures: int = 0
    is_under_way: bool = False


@dataclass(slots=True, eq=False)
class _Dial(Generic[Channel]):
    """An offer of ours; None as a result: nothing will come of it."""

    place: Place
    member: str
    deadline: float
    answer: asyncio.Future[SignedSdp | None]
    channel: asyncio.Future[Channel | None]
    retry_s: float = 0.0

    def give_up(self) -> None:
        for future in (self.answer, self.channel):
            if not future.done():
                future.set_result(None)


class Meeting(Generic[Channel]):
    """Entered: takes offers and channels. `run` keeps our seats and meets who is there."""

    def __init__(
        self,
        own: PeerId,
        secret: Secret | None,
        sessions: Sessions,
        book: Book[Channel],
        places: Iterable[Place],
        clock: Clock,
    ) -> None:
        self._own, self._secret, self._clock = own, secret, clock
        self._sessions, self._book, self._places = sessions, book, tuple(places)
        self._reception = Reception(secret, sessions, clock)
        self._attempts: dict[PeerId, _Attempt] = {}
        self._dials: dict[str, _Dial[Channel]] = {}
        self._opening: dict[tuple[str, str], _Dial[Channel]] = {}
        self._random = random.Random()  # noqa: S311  jitter, not a secret
        self._tasks = Tasks()
        self._is_left = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_left = True
        await self._tasks.__aexit__()

    async def run(self) -> None:
        """Meet the daemons of the rooms until cancelled."""
        async with Tasks() as tasks:
            for place in self._places:
                tasks.start(place.run(self._hearer(place)), "a seat at a rendezvous")
            while True:
                self._look()
                await self._clock.sleep(LOOK_S)

    # offers of others

    async def answer(self, offer: SignedSdp, source: str) -> SignedSdp:
        """Our answer to an offer from that source, an address or a member.

        Raises OfferRefused, Overloaded, ProtocolError, SourceFailed: what `Reception` raises.
        """
        return await self._reception.answer(offer, self._reception.admit(offer, source))

    def opened(self, channel: Channel) -> None:
        """A channel has opened: what the WebRTC part calls. It closes its channels by itself."""
        if self._is_left:
            return
        ends = (channel.local_host, channel.remote_host)
        if not channel.is_dialler:
            self._reception.opened(ends)
            self._tasks.start(self._book.adopt(channel, None), "link over WebRTC")
            return
        dial = self._opening.pop(ends, None)
        if dial is None or dial.channel.done():
            self._tasks.start(channel.close(), "close a late channel")
        else:
            dial.channel.set_result(channel)

    # what members say

    def _hearer(self, place: Place) -> Callable[[Heard], None]:
        return lambda heard: self._hear(place, heard)

    def _hear(self, place: Place, heard: Heard) -> None:
        said = heard.said
        if isinstance(said, Offer):
            try:
                half_open = self._reception.admit(said.signed, place.source_of(heard.sender))
            except P2PModelsError as error:
                place.say(Sent(heard.sender, _refusal(said.session, error)))
            else:
                work = self._answer_member(place, heard.sender, said, half_open)
                self._tasks.start(work, "answer an offer")
            return
        dial = self._dials.get(said.session)
        if dial is None or dial.place is not place or dial.member != heard.sender:
            return  # too late, or forged
        if isinstance(said, Refused):
            dial.retry_s = said.retry_s
            dial.give_up()
        elif not said.signed.is_proven(self._secret):
            dial.give_up()
        elif not dial.answer.done():
            dial.answer.set_result(said.signed)

    async def _answer_member(
        self, place: Place, member: str, offer: Offer, half_open: HalfOpen
    ) -> None:
        said: Said
        try:
            answer = await self._reception.answer(offer.signed, half_open)
            said = Answer(offer.session, answer)
        except P2PModelsError as error:
            said = _refusal(offer.session, error)
        place.say(Sent(member, said))

    # our offers

    def _look(self) -> None:
        """Give up what takes too long, and begin what is due."""
        now = self._clock.monotonic()
        for dial in list(self._dials.values()):
            if dial.deadline <= now:
                dial.give_up()
        ways: dict[PeerId, list[tuple[Place, str]]] = {}
        for place in self._places:
            for member in place.members():
                if member.id != self._own and not self._book.is_linked(member.id):
                    ways.setdefault(member.id, []).append((place, member.member))
        self._attempts = {
            id: attempt
            for id, attempt in self._attempts.items()
            if attempt.is_under_way or id in ways
        }
        for id, attempt in self._attempts.items():
            if self._book.is_linked(id):
                attempt.failures = 0
        for id, attempt in self._due(ways, now):
            attempt.is_under_way = True
            # The latest first: the others may be what is left of connections that broke. But in
            # turn, because anybody may claim an id.
            place, name = ways[id][-1 - attempt.failures % len(ways[id])]
            self._tasks.start(self._meet(id, attempt, place, name), "meet a daemon")

    def _due(self, ways: Iterable[PeerId], now: float) -> list[tuple[PeerId, _Attempt]]:
        """Whom to make an offer now: who failed least comes first."""
        due = []
        for id in ways:
            wait = UNLINKED_S + (0.0 if self._own < id else LARGER_WAITS_S)
            attempt = self._attempts.setdefault(id, _Attempt(now + wait))
            if attempt.not_before <= now and not attempt.is_under_way:
                due.append((id, attempt))
        due.sort(key=lambda pair: pair[1].failures)
        return due[: max(0, OFFERS_OUT_LIMIT - len(self._dials))]

    async def _meet(self, id: PeerId, attempt: _Attempt, place: Place, member: str) -> None:
        attempt.failures += 1
        session = secrets.token_hex(8)
        began, loop = self._clock.monotonic(), asyncio.get_running_loop()
        dial: _Dial[Channel] = _Dial(
            place, member, began + ANSWER_LIMIT_S, loop.create_future(), loop.create_future()
        )
        self._dials[session] = dial
        try:
            channel = await self._dial(session, dial)
            del self._dials[session]
            await self._book.adopt(channel, id)
        except P2PModelsError as error:
            log.debug("no WebRTC session with %s: %s", id, error)
        finally:
            self._dials.pop(session, None)
            doublings = min(max(0, attempt.failures - 1), 10)
            pause = min(RETRY_FIRST_S * 2**doublings, RETRY_CEILING_S)
            pause = max(pause * self._random.uniform(0.5, 1.0), dial.retry_s)
            attempt.not_before = self._clock.monotonic() + pause
            attempt.is_under_way = False

    async def _dial(self, session: str, dial: _Dial[Channel]) -> Channel:
        """The channel that comes of our offer. Raises P2PModelsError."""
        offered = await self._sessions.offer()
        ends: tuple[str, str] | None = None
        is_open = False
        try:
            ours = signed_sdp(offered.sdp, self._secret)
            dial.place.say(Sent(dial.member, Offer(session, ours)))
            answer = await dial.answer
            if answer is None:
                raise LanFailed("no answer to our offer")
            ends = (ours.fingerprint, answer.fingerprint)
            self._opening[ends] = dial
            dial.deadline += HALF_OPEN_S - ANSWER_LIMIT_S
            await self._sessions.complete(offered.session, answer.sdp)
            channel = await dial.channel
            if channel is None:
                raise LanFailed("no channel after an answer")
            is_open = True
            return channel
        finally:
            if ends is not None and self._opening.get(ends) is dial:
                del self._opening[ends]
            if not is_open:
                self._sessions.abandon(offered.session)


def _refusal(session: str, error: P2PModelsError) -> Refused:
    match error:
        case Overloaded():
            return Refused(session, "busy", error.retry_after_s)
        case AccessRefused():
            return Refused(session, "group", 0.0)
        case ProtocolError():
            return Refused(session, "bad_offer", 0.0)
    return Refused(session, "failed", 0.0)
