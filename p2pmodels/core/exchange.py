"""One link as a conversation: which frame may come when, and who may speak at all. No I/O.

1. Both sides send `hello` at once, answer the other's with `welcome`, and are ready when they have
   believed the other's. Until then nothing else may be said but `bye`.
2. With a group secret, a `welcome` proves that its sender knows it: a MAC over both fresh nonces,
   both ids, both addresses and the prover's role, so that none can be replayed, reflected or passed
   on from another address. Either both have the same secret or both none.
3. What breaks the rules raises ProtocolError and ends the conversation; a peer that merely does
   not fit (another group, another protocol) is told so by a `bye`.
4. Time is an argument, in seconds of one monotonic clock.

`sources/lan/links.py` moves the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum

from p2pmodels.core.secret import Secret
from p2pmodels.core.wire import Bye, Frame, Greeting, Welcome, pack, unpack
from p2pmodels.errors import ProtocolError, UsageError

LINK_PROTOCOL = 1  # version of the frames; a peer of another one is left alone
HANDSHAKE_LIMIT_S = 5.0  # seconds until the link is ready; on a LAN it takes milliseconds
FRAMES_PER_S = 500.0  # frames a second from one peer, on average; 64 pieces a second need 200
FRAMES_BURST_LIMIT = 20_000  # frames at once; what a peer has of 4 TiB counts as 11,000
FRAME_WEIGHT = 1024  # bytes; a longer frame counts as one for each of these, as reading it costs

_CONTEXT = b"p2pmodels-link-1"


class State(StrEnum):
    """GREETING until both sides believe each other; then READY until one leaves, then OVER."""

    GREETING = "greeting"
    READY = "ready"
    OVER = "over"


class ByeReason(StrEnum):
    """Why we leave: the words in our own `bye`."""

    GROUP = "group"
    """The other side has another group secret, or one of us has none."""
    PROTOCOL = "protocol"
    """The other side speaks another version."""
    OURSELVES = "ourselves"
    """The other side has our own id."""
    LATE = "late"
    """The handshake took too long."""
    RULES = "rules"
    """The other side broke the rules, now or earlier."""
    DOUBLE = "double"
    """There is another link between us."""
    FULL = "full"
    """There are too many links here, or from that address."""
    SLOW = "slow"
    """The other side does not take what we send."""
    UNEXPECTED = "unexpected"
    """We dialled somebody else."""
    LEAVING = "leaving"
    """We stop."""


class Conversation:
    """One side of a link. `binding` is our address and theirs as the carrier sees them."""

    def __init__(
        self,
        own: Greeting,
        *,
        is_dialler: bool,
        binding: tuple[str, str],
        ticket: bytes,
        secret: Secret | None,
        now: float,
    ) -> None:
        self.own = own
        self.state = State.GREETING
        self.peer: Greeting | None = None
        """Who they say they are; proven as far as the group goes once the state is READY."""
        self.their_ticket = b""
        """What to show with requests to their peer port."""
        self.deadline: float | None = now + HANDSHAKE_LIMIT_S
        """When `expire` ends the handshake; None afterwards."""
        self.farewell = ""
        """Why it is over: the reason of the first `bye`, ours or theirs."""
        self._is_dialler, self._binding = is_dialler, binding
        self._ticket, self._secret = ticket, secret
        self._outgoing = [pack(own)]
        self._allowance, self._counted = float(FRAMES_BURST_LIMIT), now

    def outgoing(self) -> list[bytes]:
        """The frames to send now, each of them once."""
        frames, self._outgoing = self._outgoing, []
        return frames

    def send(self, frame: Frame) -> None:
        """Say it. Raises UsageError unless the link is ready; hello, welcome, bye are our own."""
        if self.state is not State.READY or isinstance(frame, Greeting | Welcome | Bye):
            raise UsageError(f"a {type(frame).__name__} for a link that is {self.state}")
        self._outgoing.append(pack(frame))

    def say_bye(self, reason: str) -> None:
        """Leave; what was not sent yet still goes first. Does nothing when it is over."""
        if self.state is not State.OVER:
            self._outgoing.append(pack(Bye(reason)))
            self._end(reason)

    def receive(self, data: bytes, now: float) -> Frame | None:
        """What the peer says: a message or its `bye`; None while hands are shaken or it is over.

        Raises ProtocolError when it breaks the rules; then the conversation is over.
        """
        self.expire(now)
        if self.state is State.OVER:
            return None  # it was on its way when we left
        try:
            self._count(len(data), now)
            return self._hear(unpack(data))
        except ProtocolError:
            self.say_bye(ByeReason.RULES)
            raise

    def expire(self, now: float) -> None:
        """End a handshake that is not done by its deadline."""
        if self.deadline is not None and now >= self.deadline:
            self.say_bye(ByeReason.LATE)

    # inside

    def _hear(self, frame: Frame) -> Frame | None:
        match frame:
            case Bye():
                self._end(frame.reason)
                return frame
            case Greeting():
                self._greeted(frame)
                return None
            case Welcome():
                self._welcomed(frame)
                return None
            case _:
                if self.state is not State.READY:
                    raise ProtocolError("a message before the handshake is done")
                return frame

    def _greeted(self, theirs: Greeting) -> None:
        if self.peer is not None:
            raise ProtocolError("a second hello")
        self.peer = theirs
        if theirs.protocol != self.own.protocol:
            self.say_bye(ByeReason.PROTOCOL)
        elif theirs.id == self.own.id:
            self.say_bye(ByeReason.OURSELVES)
        else:
            proof = self._proof(self.own, theirs, self._binding, self._is_dialler)
            self._outgoing.append(pack(Welcome(proof, self._ticket)))

    def _welcomed(self, theirs: Welcome) -> None:
        if self.peer is None or self.state is not State.GREETING:
            raise ProtocolError("a welcome out of order")
        expected = self._proof(self.peer, self.own, self._binding[::-1], not self._is_dialler)
        if not hmac.compare_digest(theirs.proof, expected):
            self.say_bye(ByeReason.GROUP)
            return
        self.their_ticket = theirs.ticket
        self.state, self.deadline = State.READY, None

    def _proof(
        self, prover: Greeting, other: Greeting, binding: tuple[str, str], is_dialler: bool
    ) -> bytes:
        """The MAC by which `prover`, whose address stands first, shows that it knows the secret."""
        if self._secret is None:
            return b""
        parts = [
            _CONTEXT,
            b"dialler" if is_dialler else b"acceptor",
            prover.nonce,
            other.nonce,
            prover.id.value.encode(),
            other.id.value.encode(),
            *(address.encode() for address in binding),
        ]
        # Each part with its length first: no two lists of parts give the same bytes.
        signed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._secret.reveal().encode(), signed, hashlib.sha256)

    def _count(self, length: int, now: float) -> None:
        """Take a frame from the peer's allowance. Raises ProtocolError when there is none left."""
        refilled = self._allowance + (now - self._counted) * FRAMES_PER_S
        self._allowance = min(float(FRAMES_BURST_LIMIT), refilled) - max(1.0, length / FRAME_WEIGHT)
        self._counted = now
        if self._allowance < 0:
            raise ProtocolError("a flood of frames")

    def _end(self, reason: str) -> None:
        self.state, self.deadline, self.farewell = State.OVER, None, reason
