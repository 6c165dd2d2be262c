"""The conversation of a link: a pair of them in memory, and peers that break its rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.exchange import (
    FRAMES_BURST_LIMIT,
    FRAMES_PER_S,
    HANDSHAKE_LIMIT_S,
    LINK_PROTOCOL,
    ByeReason,
    Conversation,
    State,
)
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.wire import (
    Busy,
    Bye,
    Frame,
    Greeting,
    Have,
    Run,
    Unwant,
    Want,
    Welcome,
    pack,
    unpack,
)
from p2pmodels.errors import ProtocolError, UsageError

A, B = PeerId("a" * 32), PeerId("b" * 32)
A_HOST, B_HOST = "10.0.0.1", "10.0.0.2"
SECRET, OTHER = Secret("correct-horse-battery"), Secret("wrong-horse-battery!")
BLOB = Sha256("0" * 64)
WANT = Want(BLOB, 5)

_nonces = count(1)


def greeting(id: PeerId, port: int = 7879) -> Greeting:
    return Greeting(LINK_PROTOCOL, id, "0.1.0", port, next(_nonces).to_bytes(16, "big"))


def side(
    id: PeerId,
    binding: tuple[str, str],
    *,
    is_dialler: bool,
    secret: Secret | None = None,
    now: float = 0.0,
) -> Conversation:
    return Conversation(
        greeting(id),
        is_dialler=is_dialler,
        binding=binding,
        ticket=id.value[:16].encode(),
        secret=secret,
        now=now,
    )


class Pair:
    """A dials B; what one says the other hears, and both sides are looked at."""

    def __init__(self, ours: Secret | None = None, theirs: Secret | None = None) -> None:
        self.a = side(A, (A_HOST, B_HOST), is_dialler=True, secret=ours)
        self.b = side(B, (B_HOST, A_HOST), is_dialler=False, secret=theirs)
        self.heard: list[tuple[PeerId, Frame]] = []

    def carry(self, now: float = 0.0, *, b_first: bool = False) -> None:
        """Move frames back and forth until nobody has more to say."""
        order = [(self.a, self.b), (self.b, self.a)]
        moved = True
        while moved:
            moved = False
            for speaker, hearer in reversed(order) if b_first else order:
                for data in speaker.outgoing():
                    moved = True
                    frame = hearer.receive(data, now)
                    if frame is not None:
                        self.heard.append((hearer.own.id, frame))

    @property
    def states(self) -> tuple[State, State]:
        return self.a.state, self.b.state


def shaken(secret: Secret | None = None) -> Pair:
    pair = Pair(secret, secret)
    pair.carry()
    assert pair.states == (State.READY, State.READY)
    return pair


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("b_first", [False, True])
def test_hands_are_shaken_in_either_order(secret: Secret | None, b_first: bool) -> None:
    pair = Pair(secret, secret)
    assert pair.states == (State.GREETING, State.GREETING)
    pair.carry(b_first=b_first)
    assert pair.states == (State.READY, State.READY)
    assert (pair.a.peer, pair.b.peer) == (pair.b.own, pair.a.own)
    assert pair.a.their_ticket == b"b" * 16
    assert pair.b.their_ticket == b"a" * 16
    assert pair.heard == []
    assert pair.a.deadline is None


def test_frames_are_handed_up_in_order_once_the_link_is_ready() -> None:
    pair = shaken()
    said: list[Want | Have | Unwant | Busy] = [
        WANT, Have(BLOB, 5, True, (Run(0, 1, True),)), Busy(1, 8, 0), Unwant(BLOB),
    ]  # fmt: skip
    for frame in said:
        pair.a.send(frame)
    pair.b.send(WANT)
    pair.carry()
    assert [frame for who, frame in pair.heard if who == B] == said
    assert [frame for who, frame in pair.heard if who == A] == [WANT]
    assert pair.a.outgoing() == []


def test_nothing_is_said_before_the_link_is_ready_nor_after_it_is_over() -> None:
    pair = Pair()
    with pytest.raises(UsageError):
        pair.a.send(WANT)
    pair.carry()
    for frame in (Bye("x"), greeting(A), Welcome(b"", bytes(16))):
        with pytest.raises(UsageError):
            pair.a.send(frame)
    pair.a.say_bye(ByeReason.LEAVING)
    with pytest.raises(UsageError):
        pair.a.send(WANT)


def test_bye_ends_both_sides_and_is_said_once() -> None:
    pair = shaken()
    pair.a.send(WANT)
    pair.a.say_bye(ByeReason.LEAVING)
    pair.a.say_bye(ByeReason.DOUBLE)
    pair.b.send(WANT)  # on its way while A leaves
    pair.carry()
    assert pair.states == (State.OVER, State.OVER)
    assert pair.heard == [(B, WANT), (B, Bye("leaving"))]
    assert (pair.a.farewell, pair.b.farewell) == ("leaving", "leaving")


@pytest.mark.parametrize(
    ("ours", "theirs"), [(SECRET, OTHER), (SECRET, None), (None, SECRET), (OTHER, SECRET)]
)
def test_daemons_of_different_groups_part_politely(
    ours: Secret | None, theirs: Secret | None
) -> None:
    pair = Pair(ours, theirs)
    pair.carry()
    assert pair.states == (State.OVER, State.OVER)
    assert pair.a.farewell == pair.b.farewell == ByeReason.GROUP
    assert pair.a.their_ticket == pair.b.their_ticket == b""


def test_another_protocol_parts_politely() -> None:
    ours = side(A, (A_HOST, B_HOST), is_dialler=True)
    ours.outgoing()
    assert ours.receive(pack(replace(greeting(B), protocol=2)), 0) is None
    assert ours.state is State.OVER
    assert [unpack(data) for data in ours.outgoing()] == [Bye("protocol")]


def test_own_id_is_no_peer() -> None:
    ours = side(A, (A_HOST, A_HOST), is_dialler=True)
    ours.receive(pack(greeting(A)), 0)
    assert ours.farewell == ByeReason.OURSELVES


def welcome_of(conversation: Conversation) -> bytes:
    return next(data for data in conversation.outgoing() if isinstance(unpack(data), Welcome))


def test_welcome_of_an_earlier_link_proves_nothing() -> None:
    """Replay: the listener saw an honest handshake and repeats B's part of it."""
    b = side(B, (B_HOST, A_HOST), is_dialler=False, secret=SECRET)
    first = side(A, (A_HOST, B_HOST), is_dialler=True, secret=SECRET)
    [hello] = b.outgoing()
    b.receive(first.outgoing()[0], 0)
    welcome = welcome_of(b)
    first.receive(hello, 0)
    first.receive(welcome, 0)
    assert first.state is State.READY

    again = side(A, (A_HOST, B_HOST), is_dialler=True, secret=SECRET)
    again.receive(hello, 0)
    again.receive(welcome, 0)
    assert again.state is State.OVER
    assert again.farewell == ByeReason.GROUP


def test_own_welcome_sent_back_proves_nothing() -> None:
    """Reflection: a stranger takes another id and our nonce, and returns our own proof."""
    ours = side(A, (A_HOST, B_HOST), is_dialler=True, secret=SECRET)
    ours.receive(pack(replace(greeting(B), nonce=ours.own.nonce)), 0)
    ours.receive(welcome_of(ours), 0)
    assert ours.farewell == ByeReason.GROUP


def test_proof_made_for_another_address_proves_nothing() -> None:
    """Relay: a stranger on 10.0.0.66 passes every frame between A and B on unchanged."""
    a = side(A, (A_HOST, "10.0.0.66"), is_dialler=True, secret=SECRET)
    b = side(B, (B_HOST, "10.0.0.66"), is_dialler=False, secret=SECRET)
    pair = Pair()
    pair.a, pair.b = a, b
    pair.carry()
    assert pair.states == (State.OVER, State.OVER)
    assert a.farewell == ByeReason.GROUP


def test_proof_made_in_the_other_role_proves_nothing() -> None:
    pair = Pair()
    pair.a = side(A, (A_HOST, B_HOST), is_dialler=True, secret=SECRET)
    pair.b = side(B, (B_HOST, A_HOST), is_dialler=True, secret=SECRET)
    pair.carry()
    assert pair.states == (State.OVER, State.OVER)


@pytest.mark.parametrize("ours", [None, SECRET])
def test_ticket_is_not_believed_without_the_proof(ours: Secret | None) -> None:
    a = side(A, (A_HOST, B_HOST), is_dialler=True, secret=ours)
    a.receive(pack(greeting(B)), 0)
    a.receive(pack(Welcome(bytes(32), b"t" * 16)), 0)
    assert a.state is State.OVER
    assert a.their_ticket == b""


HELLO = pack(greeting(B))
PLAIN_WELCOME = pack(Welcome(b"", bytes(16)))
OUT_OF_ORDER = {
    "welcome before hello": [PLAIN_WELCOME],
    "want before hello": [pack(WANT)],
    "want before welcome": [HELLO, pack(WANT)],
    "second hello": [HELLO, HELLO],
    "hello after ready": [HELLO, PLAIN_WELCOME, HELLO],
    "second welcome": [HELLO, PLAIN_WELCOME, PLAIN_WELCOME],
    "garbage": [b"\x90" * 100],
    "garbage after ready": [HELLO, PLAIN_WELCOME, b"GET / HTTP/1.1"],
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_frame_out_of_order_ends_the_conversation(name: str) -> None:
    ours = side(A, (A_HOST, B_HOST), is_dialler=True)
    *before, last = OUT_OF_ORDER[name]
    for data in before:
        assert ours.receive(data, 0) is None
    ours.outgoing()
    with pytest.raises(ProtocolError):
        ours.receive(last, 0)
    assert ours.state is State.OVER
    assert [unpack(data) for data in ours.outgoing()] == [Bye("rules")]
    assert ours.receive(pack(WANT), 0) is None


def test_handshake_that_takes_too_long_is_ended() -> None:
    ours = side(A, (A_HOST, B_HOST), is_dialler=True, now=100.0)
    assert ours.deadline == 100.0 + HANDSHAKE_LIMIT_S
    ours.receive(HELLO, 100.0 + HANDSHAKE_LIMIT_S - 0.1)
    ours.expire(100.0 + HANDSHAKE_LIMIT_S - 0.1)
    assert ours.deadline is not None
    assert ours.receive(PLAIN_WELCOME, 100.0 + HANDSHAKE_LIMIT_S) is None
    assert not ours.their_ticket
    assert ours.farewell == ByeReason.LATE


def test_ready_link_has_no_deadline() -> None:
    pair = shaken()
    pair.a.expire(1e9)
    assert pair.a.state is State.READY


def test_flood_ends_the_conversation_and_a_burst_does_not() -> None:
    pair = shaken()
    data = pack(WANT)
    for _ in range(FRAMES_BURST_LIMIT - 10):  # the handshake took some of it
        assert pair.b.receive(data, 1.0) == WANT
    with pytest.raises(ProtocolError, match="flood"):
        for _ in range(20):
            pair.b.receive(data, 1.0)
    assert pair.b.state is State.OVER


def test_steady_stream_at_the_allowed_rate_goes_on() -> None:
    pair = shaken()
    data, now = pack(WANT), 0.0
    for _ in range(FRAMES_BURST_LIMIT * 2):
        now += 1 / FRAMES_PER_S
        assert pair.b.receive(data, now) == WANT


def test_long_frames_count_more() -> None:
    pair = shaken()
    runs = tuple(Run(2 * n, 2 * n + 1, True) for n in range(400))
    data = pack(Have(BLOB, 1 << 32, True, runs))
    heard = 0
    with pytest.raises(ProtocolError, match="flood"):
        while heard < FRAMES_BURST_LIMIT:
            pair.b.receive(data, 0.0)
            heard += 1
    assert heard == pytest.approx(FRAMES_BURST_LIMIT / (len(data) / 1024), rel=0.01)
