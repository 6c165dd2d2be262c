"""Which leases to take next for one blob: a pure choice over who wants, who has and who fetches.

A lease is a part of a blob that one machine gets from the origin, so that a room asks it once:
1. Rendezvous hashing of (blob, lease, peer) names the machine that takes a lease from the origin;
   every machine computes the same answer, and a machine that comes or goes moves only its own.
2. A few leases are under way at once, in the order in which they are read: more would not fill the
   origin's line any better, and clients would get nothing in order before the end.
3. An owner takes its leases one after the other. Who has none left takes one that nobody began, in
   the order of the hash, a little later for each rank; so does everybody for a lease that makes
   no progress, and for one that is far slower than the others, once the origin's line has room.
4. Two that began the same lease see it at once; the one of the higher weight goes on.
5. A long lease is shared by halves while few are under way: one slow holder would stop the room.
6. A lease that was passed on is left alone for longer: a new connection is slower than an old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.situation import (
    LEASE_BYTES,
    Lease,
    Situation,
    Take,
    lease_pieces,
    minus,
    runs,
    union,
)

ORIGIN_STREAMS = 4  # leases of a blob under way at once: what fills a line, in reading order
BEGIN_AFTER_S = 2.0  # seconds an owner has to begin its lease before others may; it asks them first
RANK_STEP_S = 0.15  # seconds between the turns of two ranks; a `lease` frame takes far less
PROGRESS_FIRST_S = 8.0  # seconds for the first piece of a lease; origins are slow to begin
PROGRESS_MIN_S = 4.0  # seconds without a piece before a lease may pass on, at the least
PROGRESS_MAX_S = 30.0  # and at the most, however many share however slow a line
PROGRESS_TURNS = 10.0  # turns that a lease may stand still: TCP shares a line in gusts
FIRST_TURNS = 16.0  # the same until its first piece: a new connection gets less than old ones
SLOW_FACTOR = 3.0  # a lease that will take so many times as long as it would here passes on
SLOW_TURNS = 16.0  # turns after which a lease is judged: the first pieces say nothing
SPLIT_AFTER_S = 2.0  # seconds after which half of a lease may be taken by an idle machine
TAKEN_PATIENCE = 3.0  # times as long until a lease is passed on again: each time costs a connection
TAKE_STEP_S = 0.5  # seconds between the turns of two ranks at passing on; two looks in a crowd


@lru_cache(100_000)
def weight(blob: Digest, lease: int, peer: PeerId) -> int:
    """Rendezvous hashing: of all peers the one with the highest weight owns the lease."""
    text = f"{blob} {lease} {peer}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def pick_leases(now: Situation, open_since: dict[int, float] | None = None) -> list[Take]:
    """Which leases to begin.

    `open_since` keeps from one choice to the next since when each lease has waited for its owner.
    """
    if not now.can_ask_origin:
        return []
    rivals = _rivals(now)
    capacity = max(1, -(-ORIGIN_STREAMS // (len(rivals) + 1)))
    mine = sum(1 for lease in now.leases if lease.holder == now.own and _missing(now, lease))
    if mine >= capacity:
        return []
    needed, late, live = _needed(now)
    slots = ORIGIN_STREAMS - live
    begin, steal = _free_leases(now, rivals, needed, late, slots, open_since)
    if begin or mine:
        return begin[: capacity - mine]
    if steal:
        return [min(steal, key=lambda item: item[0])[1]]
    return _slowest(now, rivals) or _half(now, rivals)


def _rivals(now: Situation) -> list[PeerId]:
    """The others that may take leases."""
    return [
        member.id
        for member in now.members.values()
        if member.is_wanting and member.is_usable and member.can_ask_origin
    ]


def _needed(now: Situation) -> tuple[bytearray, dict[int, Lease], int]:
    """The pieces that only the origin can give and nobody fetches; leases that stand still, by
    number; and how many do not.
    """
    needed, live = _lacking(now), 0
    late: dict[int, Lease] = {}
    for lease in now.leases:
        if lease.holder == now.own or is_live(now, lease):
            needed[lease.start : lease.stop] = bytes(lease.stop - lease.start)
            live += 1
        else:
            late[lease.start // lease_pieces(now.size)] = lease
    return needed, late, live


def _free_leases(
    now: Situation,
    rivals: Sequence[PeerId],
    needed: bytearray,
    late: Mapping[int, Lease],
    slots: int,
    open_since: dict[int, float] | None,
) -> tuple[list[Take], list[tuple[int, Take]]]:
    """The leases that are ours to begin, readers' first; and those we may take, with our rank."""
    step = lease_pieces(now.size)
    begin: list[Take] = []
    steal: list[tuple[int, Take]] = []
    for number in _in_reading_order(now, step):
        start = needed.find(1, number * step, (number + 1) * step)
        if start < 0:
            continue
        if slots <= 0:
            break
        slots -= 1
        stop = needed.find(0, start, (number + 1) * step)
        stop = min(now.pieces, (number + 1) * step) if stop < 0 else stop
        slow = late.get(number)
        others = [peer for peer in rivals if slow is None or peer != slow.holder]
        ours = weight(now.blob, number, now.own)
        rank = sum(1 for peer in others if weight(now.blob, number, peer) > ours)
        take, step_s = Take(start, stop, slow is not None), TAKE_STEP_S if slow else RANK_STEP_S
        opened = now.began if open_since is None else open_since.setdefault(number, now.now)
        since = max(opened, now.free_since.get(number, 0.0)) + BEGIN_AFTER_S
        if slow is not None:
            since = max(since, slow.progressed + patience(now, slow))
        if rank == 0:
            begin.append(take)
        elif now.now >= since + rank * step_s:
            steal.append((rank, take))
    return begin, steal


def _in_reading_order(now: Situation, step: int) -> list[int]:
    """The numbers of all leases, from the first reader's on, then those before."""
    count = -(-now.pieces // step)
    first = min((piece // step for piece in now.readers), default=0)
    return [*range(first, count), *range(min(first, count))]


def _missing(now: Situation, lease: Lease) -> bool:
    return now.ours.find(0, lease.start, lease.stop) >= 0


def is_live(now: Situation, lease: Lease) -> bool:
    """Whether its holder is still counted on."""
    holder = now.members.get(lease.holder)
    return holder is not None and now.now - lease.progressed < patience(now, lease)


def patience(now: Situation, lease: Lease) -> float:
    """Seconds that a lease may make no progress, by what the room has measured."""
    holder = now.members.get(lease.holder)
    if holder is None or not holder.is_usable:
        return 0.0
    shortest = PROGRESS_MIN_S if lease.landed else PROGRESS_FIRST_S
    if not now.turn_s:  # nobody has got anything yet: many that share a line take long to begin
        return min(PROGRESS_MAX_S, _times(lease) * shortest * max(1, now.traffic.leases))
    turns = PROGRESS_TURNS if lease.landed else FIRST_TURNS
    return min(PROGRESS_MAX_S, _times(lease) * max(shortest, turns * now.turn_s))


def _times(lease: Lease) -> float:
    """How much more patience it gets than others."""
    return TAKEN_PATIENCE if lease.is_takeover else 1.0


def _slowest(now: Situation, rivals: Sequence[PeerId]) -> list[Take]:
    """Nothing is left to begin: what a slow machine would still need long to fetch, or to give."""
    if not now.turn_s:
        return []
    found = [*_slow_leases(now), *_slow_givers(now)]
    step = lease_pieces(now.size)
    for wait, since, slow, take in sorted(found, key=lambda item: -item[0]):
        ours = weight(now.blob, take.start // step, now.own)
        others = (peer for peer in rivals if peer != slow)
        rank = sum(1 for peer in others if weight(now.blob, take.start // step, peer) > ours)
        here = (take.stop - take.start) * now.turn_s
        if since is None:  # all see it at the same moment: one after the other, by the clock
            is_turn = int(now.now / TAKE_STEP_S) % (len(rivals) + 1) == rank
        else:
            is_turn = now.now >= since + rank * TAKE_STEP_S
        if is_turn and wait > SLOW_FACTOR * here + BEGIN_AFTER_S:
            return [take]
    return []


def _half(now: Situation, rivals: Sequence[PeerId]) -> list[Take]:
    """The second half of a long lease, when the room hardly uses the origin's line.

    Its holder may have a narrow line itself, and nobody would know: there is nothing to compare.
    """
    traffic = now.traffic
    if traffic.leases >= ORIGIN_STREAMS or 2 * traffic.intake.rate < traffic.uplink.rate:
        return []
    step, lacking = lease_pieces(now.size), _lacking(now)
    for lease in now.leases:
        spans = runs(lacking, lease.start, lease.stop)
        start, stop = max(spans, key=lambda span: span[1] - span[0], default=(0, 0))
        if lease.holder == now.own or (stop - start) * piece_length(now.size) <= LEASE_BYTES:
            continue
        others = (peer for peer in rivals if peer != lease.holder)
        ours = weight(now.blob, lease.start // step, now.own)
        rank = sum(1 for peer in others if weight(now.blob, lease.start // step, peer) > ours)
        if now.now >= lease.since + SPLIT_AFTER_S + rank * TAKE_STEP_S:
            return [Take((start + stop) // 2, stop, is_takeover=True)]
    return []


def _slow_leases(now: Situation) -> Iterator[tuple[float, float | None, PeerId, Take]]:
    """What each lease of others still needs, all but one piece: for how long, slow since when.

    None while others use the line: what one leaves to them comes no sooner from elsewhere.
    """
    if now.traffic.leases >= ORIGIN_STREAMS:
        return
    lacking = _lacking(now)
    for lease in now.leases:
        age = now.now - lease.since
        since = lease.since + _times(lease) * max(PROGRESS_FIRST_S, SLOW_TURNS * now.turn_s)
        first = now.ours.find(0, lease.start, lease.stop)
        if lease.holder == now.own or first < 0 or now.now < since:
            continue
        for start, stop in runs(lacking, first + 1, lease.stop):
            wait = (stop - start) * age / (lease.landed + 1)
            yield wait, since, lease.holder, Take(start, stop, is_takeover=True)
            break


def _lacking(now: Situation) -> bytearray:
    """What nobody has that can be counted on."""
    there = union(now.pieces, (m.has for m in now.members.values() if m.is_usable))
    return minus(b"\1" * now.pieces, union(now.pieces, (there, now.ours)))


def _slow_givers(now: Situation) -> Iterator[tuple[float, float | None, PeerId, Take]]:
    """What only one machine has, how long it would give that for, if nobody fetches it anew."""
    fetched = bytearray(now.pieces)
    for lease in now.leases:
        if lease.is_takeover and (lease.holder == now.own or is_live(now, lease)):
            fetched[lease.start : lease.stop] = b"\1" * (lease.stop - lease.start)
    for member in now.members.values():
        if not (member.is_usable and member.rate):
            continue
        if SLOW_FACTOR * member.rate >= now.traffic.pull_rate:
            continue  # our own line is no quicker
        lone = minus(minus(member.has, now.ours), fetched)
        for other in now.members.values():
            if other is not member and other.is_usable:
                lone = minus(lone, other.has)
        # Others pull from it as well, and what one of them gets all will have.
        wait = lone.count(1) * piece_length(now.size) / (member.rate * max(1, member.uploads))
        for start, stop in runs(lone, 0, now.pieces):
            yield wait, None, member.id, Take(start, stop, is_takeover=True)
            break


def wins(blob: Digest, lease: int, one: PeerId, other: PeerId) -> bool:
    """Whether `one` goes on when both began the same lease."""
    return weight(blob, lease, one) > weight(blob, lease, other)
