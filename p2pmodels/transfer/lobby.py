"""The rendezvous of this daemon: the rooms, and those who visit them.

1. A visit is one connection of a member; what it is told goes to its `tell`, which never waits.
2. This daemon is a member of its own rooms: `Lobby` is a place like any rendezvous far away.
3. A page is asked for nothing but its kind: it can neither pass for a daemon nor learn of pages.
4. Questions about files are answered from what is known; they never start anything.

`doors/signal.py` brings the visitors, `meeting.py` meets the members.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest
from p2pmodels.core.names import Commit, FilePath, RepoId, RepoKind, Revision
from p2pmodels.core.peer import PeerId
from p2pmodels.core.rooms import Delivery, Expulsion, Rooms
from p2pmodels.core.signal_texts import parse_request
from p2pmodels.core.signalling import (
    FileAnswer,
    FileKind,
    FileQuestion,
    FileUnknown,
    Heard,
    Join,
    Member,
    MemberKind,
    Notice,
    Sent,
)
from p2pmodels.errors import NameRefused, ProtocolError

_KINDS = {FileKind.MODEL: RepoKind.MODEL, FileKind.DATASET: RepoKind.DATASET}

Tell = Callable[[Notice], None]


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What a file of a snapshot that is proven public contains."""

    digest: Digest
    size: int
    commit: Commit


FindFile = Callable[[RepoId, Revision, FilePath], KnownFile | None]


class Visit:
    """One member's connection to the lobby."""

    def __init__(self, lobby: Lobby, name: str, *, is_page: bool) -> None:
        self._lobby, self.name, self._is_page = lobby, name, is_page

    def hear(self, text: str) -> None:
        """Its next message. Raises Expulsion when it must go."""
        try:
            self._lobby.heard(self.name, text, is_page=self._is_page)
        except ProtocolError as error:
            raise Expulsion("bad_message") from error


class Lobby:
    """Nobody is in it at first; `run` puts this daemon in."""

    def __init__(self, own: PeerId, find: FindFile, clock: Clock) -> None:
        self._rooms = Rooms(own, lambda: secrets.token_hex(8))
        self._find, self._clock = find, clock
        self._tell: dict[str, Tell] = {}

    # visitors

    @contextmanager
    def visit(self, address: str, tell: Tell, *, is_page: bool) -> Iterator[Visit]:
        """Somebody connects from this address; leaving the block is leaving. Raises Overloaded.

        `is_page`: a web page's browser has told its origin.
        """
        name = self._rooms.enter(address, self._clock.monotonic())
        self._tell[name] = tell
        try:
            yield Visit(self, name, is_page=is_page)
        finally:
            del self._tell[name]
            self._deliver(self._rooms.leave(name))

    def heard(self, name: str, text: str, *, is_page: bool) -> None:
        """A visitor's message. Raises Expulsion, ProtocolError."""
        now = self._clock.monotonic()
        self._rooms.count(name, now)
        request = parse_request(text)
        match request:
            case Join():
                if is_page and request.kind is not MemberKind.PAGE:
                    raise Expulsion("not_a_daemon")
                self._deliver(self._rooms.join(name, request))
            case Sent():
                self._deliver(self._rooms.send(name, request, now))
            case FileQuestion():
                self._rooms.require_joined(name)
                self._deliver([Delivery(name, self._answer(request))])

    # this daemon as a member

    async def run(self, hear: Callable[[Heard], None]) -> None:
        """Hear what members say to us, until cancelled."""

        def tell(notice: Notice) -> None:
            if isinstance(notice, Heard):
                hear(notice)

        own = self._rooms.own.member
        self._tell[own] = tell
        try:
            await asyncio.Event().wait()
        finally:
            del self._tell[own]

    def members(self) -> tuple[Member, ...]:
        """The daemons of all rooms, ourselves not."""
        return self._rooms.daemons()

    def say(self, sent: Sent) -> None:
        """Say something to a member."""
        self._deliver(self._rooms.send(self._rooms.own.member, sent, self._clock.monotonic()))

    def source_of(self, member: str) -> str:
        """What a member's sessions are counted by: its address."""
        return self._rooms.address_of(member) or member

    # inside

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            tell = self._tell.get(delivery.to)
            if tell is not None:
                tell(delivery.notice)

    def _answer(self, question: FileQuestion) -> Notice:
        try:
            repo = RepoId(question.repo, _KINDS[question.kind])
            revision, path = Revision(question.revision), FilePath(question.path)
        except NameRefused:
            return FileUnknown(question.number, "not_found")
        known = self._find(repo, revision, path)
        if known is None:
            return FileUnknown(question.number, "not_found")
        return FileAnswer(question.number, known.digest, known.size, known.commit)
