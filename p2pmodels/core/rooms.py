"""Who meets whom at a rendezvous, and who is told what. No I/O.

1. Members of one room see its daemons; nobody is told of pages. We are a daemon in every room.
2. An offer goes to a daemon, an answer or a refusal only to who made the offer, and only once.
   Whatever else is sent is dropped: it may be late, and its sender cannot tell.
3. Every count is bounded, in all and for each address; who comes too often has to wait. A flood of
   pages takes no place of a daemon.
4. What breaks the rules raises `Expulsion`, and the member must go.
5. Time is an argument, in seconds of one monotonic clock; so is chance.

`transfer/lobby.py` moves the messages.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from p2pmodels.core.peer import PeerId
from p2pmodels.core.signalling import (
    Came,
    Heard,
    Join,
    Joined,
    Left,
    Member,
    MemberKind,
    Notice,
    Offer,
    Refused,
    Sent,
)
from p2pmodels.errors import Overloaded, P2PModelsError

MEMBERS_LIMIT = 512  # members of all rooms, those who have not joined yet too; a socket each
MEMBERS_PER_ADDRESS_LIMIT = 64  # members at one address; a class behind one router is one address
DAEMONS_PER_ROOM_LIMIT = 128  # daemons of a room: each is told of every other; a lab has 40
PAGES_PER_ROOM_LIMIT = 256  # pages of a room; they cost a socket each
ROOMS_LIMIT = 32  # rooms; a daemon's own is one
ROOMS_PER_ADDRESS_LIMIT = 4  # rooms opened from one address; nobody can take all of them
ENTRIES_PER_S = 2.0  # new members a second from one address: each is told to a whole room
ADDRESSES_LIMIT = 1024  # addresses whose entries are remembered
MESSAGES_PER_S = 20.0  # messages a second of one member, on average
MESSAGES_BURST_LIMIT = 500  # messages at once; a page asks for each of the 115 files of a model
OFFER_LIMIT_S = 10.0  # seconds for which an offer is outstanding (reliability F11)
OFFERS_LIMIT = 16  # offers of one member in that time
OFFERS_TO_ONE_LIMIT = 32  # offers that one member has not answered; it refuses what it cannot take
OFFERS_FROM_ADDRESS_LIMIT = 8  # offers to one member from one address in that time
FULL_RETRY_S = 5.0  # seconds after which one for whom there was no room may try again


class Expulsion(P2PModelsError):
    """A member of the rendezvous broke its rules."""

    code: ClassVar[str] = "bad_signal"
    status: ClassVar[int] = 400

    def __init__(self, word: str) -> None:
        self.word = word
        """What it is told: the code of its `error`."""
        super().__init__(word)


class Bucket:
    """An allowance that fills again as time passes."""

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at = burst, now

    def take(self, now: float) -> bool:
        """Take one; False when there is none left."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(slots=True, eq=False)
class _Present:
    """Somebody who has entered; in no room until it has joined."""

    name: str
    address: str
    allowance: Bucket
    room: str = ""
    as_member: Member | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """An offer that was passed on."""

    target: str
    address: str
    made_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice for the member of that name."""

    to: str
    notice: Notice


class Rooms:
    """The rooms of one rendezvous. `fresh_name` makes names that nobody can guess."""

    def __init__(self, own: PeerId, fresh_name: Callable[[], str]) -> None:
        self.own = Member(fresh_name(), MemberKind.DAEMON, own)
        """We ourselves: a member of every room."""
        self._fresh_name = fresh_name
        self._present: dict[str, _Present] = {}
        self._rooms: dict[str, dict[str, Member]] = {}
        self._openers: dict[str, str] = {}
        self._entries: OrderedDict[str, Bucket] = OrderedDict()
        self._pending: OrderedDict[tuple[str, str], _Pending] = OrderedDict()
        self._answered: set[tuple[str, str]] = set()
        self._offers: Counter[tuple[str, ...]] = Counter()

    def address_of(self, member: str) -> str:
        """Where a member comes from; empty when it has left."""
        present = self._present.get(member)
        return present.address if present is not None else ""

    def daemons(self) -> tuple[Member, ...]:
        """The daemons of all rooms but ourselves."""
        return tuple(member for room in self._rooms.values() for member in _daemons(room.values()))

    def enter(self, address: str, now: float) -> str:
        """Somebody has come; its name. Raises Overloaded."""
        same = sum(1 for present in self._present.values() if present.address == address)
        if same >= MEMBERS_PER_ADDRESS_LIMIT or len(self._present) >= MEMBERS_LIMIT:
            raise Overloaded("too many members at this rendezvous", retry_after_s=FULL_RETRY_S)
        bucket = self._entries.pop(address, None)
        bucket = bucket or Bucket(ENTRIES_PER_S, MEMBERS_PER_ADDRESS_LIMIT, now)
        self._entries[address] = bucket
        if len(self._entries) > ADDRESSES_LIMIT:
            self._entries.popitem(last=False)
        if not bucket.take(now):
            raise Overloaded("too many members come from this address", retry_after_s=FULL_RETRY_S)
        name = self._fresh_name()
        allowance = Bucket(MESSAGES_PER_S, MESSAGES_BURST_LIMIT, now)
        self._present[name] = _Present(name, address, allowance)
        return name

    def count(self, name: str, now: float) -> None:
        """A message of this member has come. Raises Expulsion when it sends too many."""
        if not self._present[name].allowance.take(now):
            raise Expulsion("flood")

    def join(self, name: str, join: Join) -> list[Delivery]:
        """It joins a room. Raises Expulsion."""
        present = self._present[name]
        if present.as_member is not None:
            raise Expulsion("joined_already")
        room = self._room(join.room, present.address)
        limit = DAEMONS_PER_ROOM_LIMIT
        if join.kind is MemberKind.PAGE:
            limit = PAGES_PER_ROOM_LIMIT
        if sum(1 for member in room.values() if member.kind is join.kind) >= limit:
            raise Expulsion("full")
        there = (self.own, *_daemons(room.values()))
        member = Member(name, join.kind, join.id)
        told = self._told_of(member, join.room)
        present.room, present.as_member = join.room, member
        room[name] = member
        joined = Delivery(name, Joined(name, there))
        return [joined, *(Delivery(to, Came(member)) for to in told)]

    def require_joined(self, name: str) -> None:
        """Raises Expulsion unless it is in a room."""
        if self._member(name) is None:
            raise Expulsion("join_first")

    def leave(self, name: str) -> list[Delivery]:
        """It has gone, whatever it was."""
        present = self._present.pop(name)
        if present.as_member is None:
            return []
        room = self._rooms[present.room]
        del room[name]
        told = self._told_of(present.as_member, present.room)
        if not room:
            del self._rooms[present.room], self._openers[present.room]
        return [Delivery(to, Left(name)) for to in told]

    def send(self, name: str, sent: Sent, now: float) -> list[Delivery]:
        """It says something to another; `name` may be our own. Raises Expulsion."""
        sender = self._member(name)
        if sender is None:
            raise Expulsion("join_first")
        self._expire(now)
        said = sent.said
        if isinstance(said, Offer):
            return self._offer(sender, sent.to, said, now)
        key = (sent.to, said.session)
        pending = self._pending.get(key)
        if pending is None or pending.target != name or key in self._answered:
            return []
        self._answered.add(key)
        self._uncount(("to", name))
        if self._member(sent.to) is None:
            return []
        return [Delivery(sent.to, Heard(name, sender.kind, said))]

    # inside

    def _offer(self, sender: Member, to: str, offer: Offer, now: float) -> list[Delivery]:
        key = (sender.member, offer.session)
        if key in self._pending:
            raise Expulsion("session_twice")
        target = self._member(to)
        is_there = target is not None and self._is_together(sender.member, to)
        if target is None or not is_there or target.kind is not MemberKind.DAEMON:
            refused = Refused(offer.session, "gone", 0.0)
            return [Delivery(sender.member, Heard(to, MemberKind.DAEMON, refused))]
        address = self.address_of(sender.member)
        is_full = (
            self._offers["from", sender.member] >= OFFERS_LIMIT
            or self._offers["to", to] >= OFFERS_TO_ONE_LIMIT
            or self._offers["from", address, to] >= OFFERS_FROM_ADDRESS_LIMIT
        )
        if is_full:
            refused = Refused(offer.session, "busy", FULL_RETRY_S)
            return [Delivery(sender.member, Heard(to, MemberKind.DAEMON, refused))]
        self._pending[key] = _Pending(to, address, now)
        self._offers.update([("from", sender.member), ("to", to), ("from", address, to)])
        return [Delivery(to, Heard(sender.member, sender.kind, offer))]

    def _expire(self, now: float) -> None:
        """Forget the offers of long ago; those of members that left count until then."""
        while self._pending:
            key = next(iter(self._pending))
            pending = self._pending[key]
            if now - pending.made_at < OFFER_LIMIT_S:
                return
            del self._pending[key]
            self._uncount(("from", key[0]))
            self._uncount(("from", pending.address, pending.target))
            if key in self._answered:
                self._answered.discard(key)
            else:
                self._uncount(("to", pending.target))

    def _uncount(self, counted: tuple[str, ...]) -> None:
        self._offers[counted] -= 1
        if not self._offers[counted]:
            del self._offers[counted]

    def _member(self, name: str) -> Member | None:
        if name == self.own.member:
            return self.own
        present = self._present.get(name)
        return present.as_member if present is not None else None

    def _is_together(self, one: str, other: str) -> bool:
        if self.own.member in (one, other):
            return one != other
        return one != other and self._present[one].room == self._present[other].room

    def _room(self, name: str, address: str) -> dict[str, Member]:
        """The room of that name, opened if need be. Raises Expulsion."""
        if name not in self._rooms:
            opened = sum(1 for opener in self._openers.values() if opener == address)
            if len(self._rooms) >= ROOMS_LIMIT or opened >= ROOMS_PER_ADDRESS_LIMIT:
                raise Expulsion("full")
            self._rooms[name], self._openers[name] = {}, address
        return self._rooms[name]

    def _told_of(self, member: Member, room: str) -> list[str]:
        """Who is told that this one comes or goes: everybody else, of a daemon."""
        if member.kind is not MemberKind.DAEMON:
            return []
        return [name for name in self._rooms[room] if name != member.member]


def _daemons(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(member for member in members if member.kind is MemberKind.DAEMON)
