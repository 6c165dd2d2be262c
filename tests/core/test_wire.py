"""The frames of a link: what is written is read, and nothing else is (reliability F7)."""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.wire import (
    FRAME_BYTES_LIMIT,
    ORIGIN_WAIT_LIMIT_MS,
    PIECE_NUMBER_LIMIT,
    PIECES_LIMIT,
    RUNS_LIMIT,
    SLOTS_LIMIT,
    Busy,
    Bye,
    Frame,
    Greeting,
    Have,
    Lease,
    LeaseState,
    Run,
    Unwant,
    Want,
    Welcome,
    pack,
    unpack,
)
from p2pmodels.errors import ProtocolError

BLOB = Sha256("ab" * 32)
SIZE = 100 * MIB  # 400 pieces of 256 KiB
HELLO = Greeting(1, PeerId("1f" * 16), "0.1.0", 7879, bytes(16))
FUZZ_INPUTS = 20_000
FUZZ_S = 10.0  # seconds for all of them
ROOT = bytes(range(32))


def fields(frame: Frame, **changes: object) -> dict[object, object]:
    """The map of a frame, with some values changed."""
    found: dict[object, object] = msgpack.unpackb(pack(frame))
    found.update(changes)
    return found


def digests() -> st.SearchStrategy[Digest]:
    return st.one_of(
        st.binary(min_size=32, max_size=32).map(lambda raw: Sha256(raw.hex())),
        st.binary(min_size=20, max_size=20).map(lambda raw: GitId(raw.hex())),
    )


@st.composite
def haves(draw: st.DrawFn) -> Have:
    size = draw(st.integers(0, FILE_SIZE_LIMIT))
    pieces = -(-size // piece_length(size))
    cuts = sorted(draw(st.sets(st.integers(0, min(pieces, 900)), max_size=30)))
    runs = tuple(Run(start, stop, draw(st.booleans())) for start, stop in itertools.pairwise(cuts))
    count = sum(run.stop - run.start for run in runs)
    seed = draw(st.binary(min_size=32, max_size=32))
    roots = (seed,) * count if draw(st.booleans()) else ()
    return Have(draw(digests()), size, draw(st.booleans()), runs, roots)


def leases() -> st.SearchStrategy[Lease]:
    edges = st.sets(st.integers(0, PIECE_NUMBER_LIMIT), min_size=2, max_size=2).map(sorted)
    return st.builds(
        lambda blob, edge, state: Lease(blob, edge[0], edge[1], state),
        digests(), edges, st.sampled_from(LeaseState),
    )  # fmt: skip


def bytes_of(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Greeting,
        st.integers(0, 65535),
        bytes_of(16).map(lambda raw: PeerId(raw.hex())),
        st.from_regex(r"[0-9A-Za-z.+-]{1,32}", fullmatch=True),
        st.integers(1024, 65535),
        bytes_of(16),
    ),
    st.builds(Welcome, st.one_of(st.just(b""), bytes_of(32)), bytes_of(16)),
    st.builds(Want, digests(), st.integers(0, FILE_SIZE_LIMIT)),
    haves(),
    st.builds(Unwant, digests()),
    leases(),
    st.builds(
        Busy,
        st.integers(0, SLOTS_LIMIT),
        st.integers(0, SLOTS_LIMIT),
        st.integers(0, ORIGIN_WAIT_LIMIT_MS),
    ),
    st.builds(Bye, st.text(max_size=100).filter(str.isprintable)),
)


@given(FRAMES)
def test_frame_is_read_as_it_was_written(frame: Frame) -> None:
    assert unpack(pack(frame)) == frame


@given(FRAMES, st.randoms(use_true_random=False))
def test_order_of_keys_does_not_matter(frame: Frame, chance: random.Random) -> None:
    items = list(fields(frame).items())
    chance.shuffle(items)
    assert unpack(msgpack.packb(dict(items))) == frame


def test_largest_haves_fit_into_a_frame() -> None:
    size = FILE_SIZE_LIMIT
    last = PIECE_NUMBER_LIMIT
    single = tuple(Run(last - 2 * n - 1, last - 2 * n, True) for n in reversed(range(PIECES_LIMIT)))
    with_roots = Have(BLOB, size, True, single, (ROOT,) * PIECES_LIMIT)
    without = Have(BLOB, size, True, single[:RUNS_LIMIT])
    for frame in (with_roots, without):
        assert len(pack(frame)) <= FRAME_BYTES_LIMIT
        assert unpack(pack(frame)) == frame


def test_frame_of_exactly_the_wanted_keys_is_what_travels() -> None:
    assert fields(Have(BLOB, SIZE, True, (Run(0, 2, False),), (ROOT, ROOT))) == {
        "t": "have",
        "blob": bytes.fromhex(BLOB.value),
        "size": SIZE,
        "is_wanting": True,
        "runs": [[0, 2, False]],
        "roots": ROOT * 2,
    }
    assert fields(HELLO) == {
        "t": "hello", "protocol": 1, "id": b"\x1f" * 16, "version": "0.1.0", "port": 7879,
        "nonce": bytes(16),
    }  # fmt: skip


WANT = Want(BLOB, SIZE)
HAVE = Have(BLOB, SIZE, False, (Run(0, 2, True),))
WRONG_VALUES: dict[str, dict[object, object]] = {
    "unknown kind": fields(WANT, t="gimme"),
    "kind in another case": fields(WANT, t="Want"),
    "kind that is no text": fields(WANT, t=b"want"),
    "no kind": {"blob": bytes(32), "size": 1},
    "unknown key": fields(WANT, more=1),
    "key of another kind": fields(WANT, state=1),
    "missing key": {"t": "want", "blob": bytes(32)},
    "empty": {},
    "size as a float": fields(WANT, size=5.0),
    "size that is not a number": fields(WANT, size=float("nan")),
    "size as a boolean": fields(WANT, size=True),
    "size as a text": fields(WANT, size="5"),
    "size below zero": fields(WANT, size=-1),
    "size too large": fields(WANT, size=FILE_SIZE_LIMIT + 1),
    "size beyond all": fields(WANT, size=2**64 - 1),
    "nil": fields(WANT, size=None),
    "timestamp": fields(WANT, size=msgpack.Timestamp(0)),
    "ext": fields(WANT, size=msgpack.ExtType(5, b"abc")),
    "empty ext": fields(WANT, size=msgpack.ExtType(5, b"")),
    "blob as a text": fields(WANT, blob="ab" * 16),
    "blob of 31 bytes": fields(WANT, blob=bytes(31)),
    "blob of no bytes": fields(WANT, blob=b""),
    "blob as a list": fields(WANT, blob=[]),
    "blob as a map": fields(WANT, blob={}),
    "wanting as a number": fields(HAVE, is_wanting=1),
    "runs as a map": fields(HAVE, runs={}),
    "runs as a text": fields(HAVE, runs="runs"),
    "run of two": fields(HAVE, runs=[[0, 1]]),
    "run of four": fields(HAVE, runs=[[0, 1, True, True]]),
    "run of no list": fields(HAVE, runs=[5]),
    "nested run": fields(HAVE, runs=[[0, [1], True]]),
    "run with a float": fields(HAVE, runs=[[0, 1.0, True]]),
    "run without a boolean": fields(HAVE, runs=[[0, 1, 1]]),
    "run before the first piece": fields(HAVE, runs=[[-1, 1, True]]),
    "run beyond the last piece": fields(HAVE, runs=[[399, 401, True]]),
    "empty run": fields(HAVE, runs=[[5, 5, True]]),
    "run from behind": fields(HAVE, runs=[[6, 5, True]]),
    "runs that overlap": fields(HAVE, runs=[[0, 5, True], [4, 6, True]]),
    "runs that are not sorted": fields(HAVE, runs=[[4, 6, True], [0, 2, True]]),
    "same run twice": fields(HAVE, runs=[[0, 2, True], [0, 2, True]]),
    "run of an empty blob": fields(HAVE, size=0),
    "more runs than fit": fields(HAVE, size=FILE_SIZE_LIMIT,
                                 runs=[[2 * n, 2 * n + 1, True] for n in range(RUNS_LIMIT + 1)]),
    "roots of half a root": fields(HAVE, roots=bytes(16)),
    "fewer roots than pieces": fields(HAVE, roots=bytes(32)),
    "more roots than pieces": fields(HAVE, roots=bytes(96)),
    "roots without pieces": fields(HAVE, runs=[], roots=bytes(32)),
    "more roots than fit": fields(HAVE, size=FILE_SIZE_LIMIT,
                                  runs=[[0, PIECES_LIMIT + 1, True]],
                                  roots=bytes(32 * (PIECES_LIMIT + 1))),
    "lease of nothing": fields(Lease(BLOB, 0, 1, LeaseState.HELD), stop=0),
    "lease beyond any file": fields(Lease(BLOB, 0, 1, LeaseState.HELD),
                                    stop=PIECE_NUMBER_LIMIT + 1),
    "lease of an unknown state": fields(Lease(BLOB, 0, 1, LeaseState.HELD), state=3),
    "lease of a state below": fields(Lease(BLOB, 0, 1, LeaseState.HELD), state=-1),
    "port of a system service": fields(HELLO, port=22),
    "port beyond all": fields(HELLO, port=65536),
    "version with a line break": fields(HELLO, version="1\n2"),
    "version without end": fields(HELLO, version="1" * 33),
    "id of 15 bytes": fields(HELLO, id=bytes(15)),
    "short nonce": fields(HELLO, nonce=bytes(15)),
    "proof of 31 bytes": fields(Welcome(b"", bytes(16)), proof=bytes(31)),
    "no ticket": fields(Welcome(b"", bytes(16)), ticket=b""),
    "too many slots": fields(Busy(0, 0, 0), slots=SLOTS_LIMIT + 1),
    "wait below zero": fields(Busy(0, 0, 0), origin_wait_ms=-1),
    "reason too long": fields(Bye(""), reason="x" * 101),
    "reason that writes into the log": fields(Bye(""), reason="a\nERROR b"),
    "integer key": {**fields(WANT), 5: 5},
    "bytes as a key": {**fields(WANT), b"t": "want"},
    "nil key": {**fields(WANT), None: 1},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_frame_that_breaks_a_rule_is_refused(name: str) -> None:
    data = msgpack.packb(WRONG_VALUES[name])
    assert len(data) <= FRAME_BYTES_LIMIT
    with pytest.raises(ProtocolError):
        unpack(data)


GOOD = pack(WANT)
RAW: dict[str, bytes] = {
    "nothing": b"",
    "no map": msgpack.packb([1, 2]),
    "a number": b"\x05",
    "never used code": b"\xc1",
    "trailing byte": GOOD + b"\x00",
    "second frame": GOOD + GOOD,
    "cut short": GOOD[:-1],
    "key twice": b"\x84" + GOOD[1:] + msgpack.packb("size") + msgpack.packb(5),
    "kind twice": b"\x84" + GOOD[1:] + msgpack.packb("t") + msgpack.packb("want"),
    "list as a key": b"\x81\x90\x01",
    "map as a key": b"\x81\x80\x01",
    "surrogate": pack(Bye("abc")).replace(b"abc", b"\xed\xa0\x80"),
    "surrogate in a key": b"\x81\xa3\xed\xa0\x80\x01",
    "not UTF-8": pack(Bye("abc")).replace(b"abc", b"\xff\xfe\xfd"),
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "map of 4 G in a value": b"\x81\xa4size\xdf\xff\xff\xff\xff",
    "list of 4 G": b"\x81\xa4runs\xdd\xff\xff\xff\xff",
    "bytes of 4 G": b"\x81\xa4blob\xc6\xff\xff\xff\xff",
    "text of 4 G": b"\x81\xa1t\xdb\xff\xff\xff\xff",
    "ext of 4 G": b"\x81\xa4size\xc9\xff\xff\xff\xff\x05",
    "depth 1,000": b"\x81\xa4size" + b"\x91" * 1_000 + b"\x05",
    "depth 60,000": b"\x81\xa4size" + b"\x91" * 60_000 + b"\x05",
    "depth 1,000 of maps": b"\x81\xa4size" + b"\x81\xa1t" * 1_000 + b"\x05",
    "depth 60,000 of runs": b"\x81\xa4runs" + b"\x91" * 60_000 + b"\x05",
    "depth 100,000": b"\x91" * 100_000,
    "empty lists": b"\x90" * FRAME_BYTES_LIMIT,
    "1 MiB of empty lists": b"\x90" * MIB,
    "1 MiB of empty maps": b"\x80" * MIB,
    "list of empty lists": b"\xdd\x00\x0f\xff\xfb" + b"\x90" * (MIB - 5),
    "runs of empty lists": b"\x81\xa4runs\xdc\xff\x00" + b"\x90" * 0xFF00,
    "runs of empty lists, not too many": b"\x81\xa4runs\xdc\x04\x00" + b"\x90" * 0x400,
    "value of empty lists": b"\x81\xa4size\xdc\xff\x00" + b"\x90" * 0xFF00,
    "value of lists of nil": b"\x81\xa4size\xdc\x7f\x00" + b"\x91\xc0" * 0x7F00,
    "value of short texts": b"\x81\xa4size\xdc\x55\x00" + b"\xa2xy" * 0x5500,
    "value of small maps": b"\x81\xa4size\xdc\x3f\x00" + b"\x81\xa1a\xc0" * 0x3F00,
    "map of small texts": b"\xde\x3f\x00" + b"\xa2xy\xa0" * 0x3F00,
    "many floats": b"\x81\xa4runs\xdc\x04\x00" + b"\x93\xca\x00\x00\x00\x00" * 0x400,
    "1 MiB of text": b"\x81\xa6reason\xdb\x00\x10\x00\x00" + b"x" * MIB,
    "a frame one byte too long": b"\x82\xa1t\xa3bye\xa6reason\xda\xff\xf0" + b"x" * 0xFFF1,
}


@pytest.mark.parametrize("name", RAW)
def test_hostile_bytes_are_refused_and_cost_little_memory(name: str) -> None:
    data = RAW[name]
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            unpack(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB // 2


def test_own_frame_that_breaks_a_rule_cannot_be_made() -> None:
    wrong: list[Callable[[], Frame]] = [
        lambda: Want(BLOB, -1),
        lambda: Have(BLOB, SIZE, True, (Run(0, 401, True),)),
        lambda: Have(BLOB, SIZE, True, (Run(0, 2, True),), (ROOT,)),
        lambda: Have(BLOB, SIZE, True, (Run(0, 1, True),), (b"short",)),
        lambda: Lease(BLOB, 4, 4, LeaseState.FREE),
        lambda: Bye("two\nlines"),
        lambda: Greeting(1, HELLO.id, "", 7879, bytes(16)),
    ]
    for make in wrong:
        with pytest.raises(ProtocolError):
            make()


def mutated(chance: random.Random, samples: list[bytes]) -> bytes:
    """An honest frame with a few bytes changed, cut out or put in; sometimes mere noise."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(chance.choice(samples))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(3):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                del data[at : at + chance.randint(1, 5)]
            case _:
                data[at:at] = chance.choice([b"\x90", b"\x80", b"\xc0", b"\xdf", b"\xa1t", b"\x91"])
    return bytes(data)


def test_fuzzed_frames_are_read_or_refused() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)  # shown when it fails
    chance = random.Random(seed)
    runs = (Run(0, 3, True), Run(7, 300, False))
    samples = [
        pack(frame)
        for frame in (
            HELLO, Welcome(bytes(32), bytes(16)), WANT, Unwant(GitId("0" * 40)), Bye("leaving"),
            Have(BLOB, SIZE, True, runs), Have(BLOB, SIZE, True, runs[:1], (ROOT,) * 3),
            Lease(BLOB, 0, 32, LeaseState.HELD), Busy(3, 8, 500),
        )
    ]  # fmt: skip
    refused, began = 0, time.monotonic()
    for _ in range(FUZZ_INPUTS):
        data = mutated(chance, samples)
        try:
            frame = unpack(data)
        except ProtocolError:
            refused += 1
        else:
            assert unpack(pack(frame)) == frame
    assert time.monotonic() - began < FUZZ_S
    assert FUZZ_INPUTS // 2 < refused < FUZZ_INPUTS
