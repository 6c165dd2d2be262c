"""The WebRTC process: `python -m p2pmodels.sources.rtc.child NOTES_FD SLOT_FD…`.

1. It does what the daemon's notes say and nothing else; when their socket ends it exits.
2. It opens no file but those of gives, and no socket but those of sessions.
3. Its memory is bounded: it tells how much it uses, and the kernel refuses much more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop
from aiortc.rtcdatachannel import RTCDataChannel

from p2pmodels.core.sdp import Description
from p2pmodels.core.shard import Status
from p2pmodels.errors import ProtocolError
from p2pmodels.sources.rtc.child_channel import ChildChannel
from p2pmodels.sources.rtc.child_peer import ChildPeer
from p2pmodels.sources.rtc.ipc import Kind, Note, NoteLine
from p2pmodels.sources.rtc.sluices import Sluice
from p2pmodels.supervision import Tasks

ALIVE_S = 0.5  # seconds between signs of life; each tells the memory used
LEAVE_LIMIT_S = 0.5  # seconds for the last packets; less than the daemon waits for us
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NICENESS = 10  # more than the daemon has: its loop answers clients, and needs little for that
AUTOGROUP = Path("/proc/self/autogroup")  # the niceness of a session beside others (sched(7))


class _Session:
    """A peer, and its channel once it is open."""

    def __init__(self, peer: ChildPeer) -> None:
        self.peer = peer
        self.is_offerer = False
        self.theirs: Description | None = None
        self.channel: ChildChannel | None = None


class Child:
    """All sessions of the process."""

    def __init__(self, slots: list[socket.socket], tasks: Tasks) -> None:
        self._sluices = [Sluice(slot) for slot in slots]
        self._tasks = tasks
        self._sessions: dict[int, _Session] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._addresses: tuple[str, ...] = ()
        self._stun = ""
        self.line = NoteLine(self._hear, self._lost)
        self.over = asyncio.Event()

    def _lost(self) -> None:
        self.over.set()

    def _hear(self, note: Note) -> None:
        """Do what a note says; of a session that is over nothing is done."""
        if note.kind is Kind.SETUP:
            options = json.loads(note.tail)
            self._addresses, self._stun = tuple(options["addresses"]), options["stun"]
        elif note.kind in (Kind.OFFER, Kind.ACCEPT):
            self._start(self._begin(note), note)
        elif (session := self._sessions.get(note.session)) is not None:
            if note.kind is Kind.COMPLETE:
                self._start(self._complete(session, note), note)
            elif note.kind is Kind.PROBE:
                session.peer.association.probe()
            elif note.kind is Kind.CLOSE:
                self._end(note.session, "closed")
            elif session.channel is not None:
                self._hear_channel(session.channel, note)
        elif note.kind is Kind.PULL:
            self._sluices[note.tail[0]].end(Status.FAILED)

    def _hear_channel(self, channel: ChildChannel, note: Note) -> None:
        match note.kind:
            case Kind.FRAME:
                channel.send(note.tail)
            case Kind.TAKEN:
                channel.taken(note.first)
            case Kind.PULL:
                channel.pull(note.number, note.first, note.second, self._sluices[note.tail[0]])
            case Kind.DROP:
                channel.drop(note.number)
            case Kind.GIVE:
                channel.give(note.number, note.tail.decode(), note.first, note.second)
            case Kind.FINISH:
                channel.finish(note.number, note.tail)
            case Kind.STOP:
                channel.stop(note.number)

    def _start(self, work: Coroutine[Any, Any, None], note: Note) -> None:
        self._tasks.start(self._guarded(work, note.session), f"session {note.session}")

    async def _guarded(self, work: Coroutine[Any, Any, None], number: int) -> None:
        """Whatever goes wrong with a peer ends its session and nothing else."""
        try:
            await work
        except Exception as error:
            self._end(number, f"{type(error).__name__}: {error}"[:200])

    async def _begin(self, note: Note) -> None:
        """Make an offer, or answer one and connect."""
        number = note.session
        peer = ChildPeer(
            self._addresses,
            self._stun,
            lambda channel, host: self._opened(number, channel, host),
            lambda why: self._end(number, why),
        )
        session = self._sessions[number] = _Session(peer)
        if note.kind is Kind.OFFER:
            session.is_offerer = True
            own = await peer.offer()
        else:
            session.theirs = Description.parse(note.tail.decode())
            own = await peer.answer(session.theirs)
        if not own.candidates:
            raise ProtocolError("no address to be reached at")
        self.line.send(Note(Kind.DESCRIBED, number, tail=str(own).encode()))
        if session.theirs is not None:
            await peer.connect(session.theirs, is_active=own.setup == "active")

    async def _complete(self, session: _Session, note: Note) -> None:
        if session.theirs is not None or not session.is_offerer:
            raise ProtocolError("a second answer")
        session.theirs = Description.parse(note.tail.decode())
        await session.peer.connect(session.theirs, is_active=session.theirs.setup == "passive")

    def _opened(self, number: int, channel: RTCDataChannel, host: str) -> None:
        session = self._sessions.get(number)
        if session is None or session.theirs is None:
            return
        if session.channel is not None:
            self._end(number, "a second channel")
            return
        session.channel = ChildChannel(
            number,
            channel,
            session.theirs.message_size,
            self.line.send,
            lambda why: self._end(number, why),
            session.peer.association.room_was_made,
        )
        session.peer.association.channel = session.channel
        self.line.send(Note(Kind.OPENED, number, tail=host.encode()))

    def _end(self, number: int, why: str) -> None:
        session = self._sessions.pop(number, None)
        if session is None:
            return
        if session.channel is not None:
            session.channel.close()
        self.line.send(Note(Kind.ENDED, number, tail=why.encode()[:200]))
        ending = self._tasks.start(session.peer.close(), f"end of session {number}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def close(self) -> None:
        """Take leave of every peer, for a moment at most."""
        for number in list(self._sessions):
            self._end(number, "the daemon is gone")
        if self._endings:
            await asyncio.wait(self._endings, timeout=LEAVE_LIMIT_S)

    async def live(self) -> None:
        """Tell that we are alive, and how large we are, until the daemon is gone."""
        while not self.over.is_set():
            self.line.send(Note(Kind.ALIVE, first=_resident_bytes()))
            try:
                async with asyncio.timeout(ALIVE_S):
                    await self.over.wait()
            except TimeoutError:
                continue


def _resident_bytes() -> int:
    """What this process occupies of the memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def serve(notes: socket.socket, slots: list[socket.socket]) -> None:
    """Serve one daemon until it is gone."""
    async with Tasks() as tasks:
        child = Child(slots, tasks)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: child.line, notes)
        await child.live()
        await child.close()


def step_back() -> None:
    """Leave the processor to the daemon's loop, and to whatever else this machine is for.

    Linux shares it between sessions first (autogroups), and niceness counts within one: in the
    daemon's own, a busy child uses up what the daemon is given, which then waits 30 ms for a turn.
    """
    os.setsid()
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # there are kernels without
        AUTOGROUP.write_text(str(NICENESS))


def main() -> None:
    """Run with the descriptors that the daemon passed on."""
    logging.basicConfig(level=logging.CRITICAL)  # the daemon logs, by reason and not by packet
    limit, notes, *slots = (int(argument) for argument in sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    step_back()
    uvloop.run(serve(socket.socket(fileno=notes), [socket.socket(fileno=fd) for fd in slots]))


if __name__ == "__main__":
    main()
