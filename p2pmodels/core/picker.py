"""What to do next for one blob: a pure choice over who wants, who has, who fetches, who reads.

Leases, so that a room asks the origin once:
1. Rendezvous hashing of (blob, lease, peer) names the machine that takes a lease from the origin;
   every machine computes the same answer, and a machine that comes or goes moves only its own.
2. An owner takes its leases one after the other. Who has none left takes one that nobody began, in
   the order of the hash, a little later for each rank; so does everybody for a lease that makes
   no progress, and in the end for one that is far slower than the room's others.
3. Two that began the same lease see it at once; the one of the higher weight goes on.

Pulls, so that copies spread as a tree:
4. What a reader needs next, then what fewest have, then at random.
5. A piece with few holders is asked for by a few at a time; who waits its turn gets it from them.
   In a crowd, pieces that nobody reads yet are asked for in runs.
6. From the holder that will be quickest: by its measured rate, its load and what we asked already.
7. A pull without a byte for STALL_S, or far slower than another holder, is asked elsewhere as well.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from p2pmodels.core.chance import Chance
from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.situation import (
    Ask,
    Lease,
    Member,
    Pull,
    Situation,
    Take,
    lease_pieces,
    minus,
    ones,
    runs,
    union,
)

ORIGIN_STREAMS = 4  # leases under way that a room of one to four machines keeps up together
BEGIN_AFTER_S = 2.0  # seconds an owner has to begin its lease before others may; it asks them first
LOOK_AT_LEASES = 64  # leases that may be taken of others, looked at in one choice
RANK_STEP_S = 0.15  # seconds between the turns of two ranks; a `lease` frame takes far less
PROGRESS_FIRST_S = 5.0  # seconds for the first piece of a lease; origins are slow to begin
PROGRESS_MIN_S = 2.0  # seconds without a piece before a lease may pass on, at the least
PROGRESS_MAX_S = 30.0  # and at the most, however many share however slow a line
PROGRESS_TURNS = 4.0  # turns that a lease may stand still: TCP does not share evenly
FIRST_TURNS = 8.0  # the same until its first piece: a new connection gets less than old ones
SLOW_FACTOR = 3.0  # a lease that will take so many times as long as it would here passes on
SLOW_TURNS = 8.0  # turns after which a lease is judged: two or three pieces say nothing

PULLS_LIMIT = 8  # pulls of one blob at once
PULLS_PER_PEER = 3  # pulls of one blob from one peer: two flow while the next is asked
PULL_BYTES = 32 * MIB  # bytes of a pull at the most; a quick peer sends them in a tenth of a second
PULL_FIRST_BYTES = 4 * MIB  # bytes of a pull from a peer whose rate is not known
PULL_S = 0.5  # seconds that a pull should last: short enough to choose anew
COLLECT_BYTES = 1 * MIB  # bytes in a row that are waited for in a crowd: a question has its price
COLLECT_S = 2.0  # seconds that a piece waits for its neighbours at the most
CROWD = 4  # members that fetch from which on that is worth it
READ_AHEAD_BYTES = 1 * MIB  # bytes in front of a reader that come before everything else
FAN_OUT = 1  # machines that ask for a piece at once for each one that has it
TURN_BYTES = 2 * MIB  # bytes in a row that it is one machine's turn to ask for: few requests
TURN_S = 1.0  # seconds without a new holder after which a piece is asked for out of turn
STALL_S = 0.75  # seconds without a byte after which a pull is asked elsewhere as well
CRAWL_RATE = 16 * 1024  # bytes a second; below it a peer is no help to anybody (D4)
CRAWL_AFTER_S = 3.0  # seconds over which that is measured
SLOW_PULL_S = 1.0  # seconds that a pull must still take before a quicker holder is asked


@lru_cache(100_000)
def weight(blob: Digest, lease: int, peer: PeerId) -> int:
    """Rendezvous hashing: of all peers the one with the highest weight owns the lease."""
    text = f"{blob} {lease} {peer}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


# leases


def pick_leases(now: Situation) -> list[Take]:
    """Which leases to begin."""
    if not now.can_ask_origin:
        return []
    rivals = _rivals(now)
    capacity = max(1, -(-ORIGIN_STREAMS // (len(rivals) + 1)))
    mine = sum(1 for lease in now.leases if lease.holder == now.own and _missing(now, lease))
    if mine >= capacity:
        return []
    needed, late = _needed(now)
    begin, steal = _free_leases(now, rivals, needed, late)
    if begin or mine:
        return begin[: capacity - mine]
    if steal:
        return [min(steal, key=lambda item: item[0])[1]]
    return _slowest(now, rivals)


def _rivals(now: Situation) -> list[PeerId]:
    """The others that may take leases."""
    return [
        member.id
        for member in now.members.values()
        if member.is_wanting and member.is_usable and member.can_ask_origin
    ]


def _needed(now: Situation) -> tuple[bytearray, dict[int, Lease]]:
    """The pieces that only the origin can give and nobody fetches; and leases that stand still."""
    there = union(now.pieces, (m.has for m in now.members.values() if m.is_usable))
    there = union(now.pieces, (there, now.ours))
    late: dict[int, Lease] = {}
    for lease in now.leases:
        if lease.holder == now.own or is_live(now, lease):
            there[lease.start : lease.stop] = b"\1" * (lease.stop - lease.start)
        else:
            late[lease.start // lease_pieces(now.size)] = lease
    return minus(b"\1" * now.pieces, there), late


def _free_leases(
    now: Situation, rivals: Sequence[PeerId], needed: bytearray, late: Mapping[int, Lease]
) -> tuple[list[Take], list[tuple[int, Take]]]:
    """The leases that are ours to begin, readers' first; and those we may take, with our rank."""
    step = lease_pieces(now.size)
    begin: list[Take] = []
    steal: list[tuple[int, Take]] = []
    for number in _in_reading_order(now, step):
        start = needed.find(1, number * step, (number + 1) * step)
        if start < 0:
            continue
        if len(begin) >= ORIGIN_STREAMS or len(steal) >= LOOK_AT_LEASES:
            break
        stop = needed.find(0, start, (number + 1) * step)
        stop = min(now.pieces, (number + 1) * step) if stop < 0 else stop
        slow = late.get(number)
        others = [peer for peer in rivals if slow is None or peer != slow.holder]
        ours = weight(now.blob, number, now.own)
        rank = sum(1 for peer in others if weight(now.blob, number, peer) > ours)
        take = Take(start, stop, slow is not None)
        since = max(now.began, now.free_since.get(number, now.began)) + BEGIN_AFTER_S
        if slow is not None:
            since = max(since, slow.progressed + patience(now, slow))
        if rank == 0:
            begin.append(take)
        elif now.now >= since + rank * RANK_STEP_S:
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
        return min(PROGRESS_MAX_S, shortest * now.uplink_leases)
    turns = PROGRESS_TURNS if lease.landed else FIRST_TURNS
    return min(PROGRESS_MAX_S, max(shortest, turns * now.turn_s))


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
        later = rank * RANK_STEP_S
        if wait > SLOW_FACTOR * here + BEGIN_AFTER_S + later and now.now >= since + later:
            return [take]
    return []


def _slow_leases(now: Situation) -> Iterator[tuple[float, float, PeerId, Take]]:
    """What each lease of others still needs, all but one piece: for how long, slow since when."""
    there = union(now.pieces, (m.has for m in now.members.values() if m.is_usable))
    lacking = minus(b"\1" * now.pieces, union(now.pieces, (there, now.ours)))
    for lease in now.leases:
        age = now.now - lease.since
        since = lease.since + max(PROGRESS_FIRST_S, SLOW_TURNS * now.turn_s)
        first = now.ours.find(0, lease.start, lease.stop)
        if lease.holder == now.own or first < 0 or now.now < since:
            continue
        for start, stop in runs(lacking, first + 1, lease.stop):
            pace = max(age / (lease.landed + 1), now.now - lease.progressed)
            wait, take = (stop - start) * pace, Take(start, stop, is_takeover=True)
            yield wait, since, lease.holder, take
            break


def _slow_givers(now: Situation) -> Iterator[tuple[float, float, PeerId, Take]]:
    """What only one machine has, how long it would give that for, if nobody fetches it anew."""
    fetched = bytearray(now.pieces)
    for lease in now.leases:
        if lease.is_takeover and (lease.holder == now.own or is_live(now, lease)):
            fetched[lease.start : lease.stop] = b"\1" * (lease.stop - lease.start)
    for member in now.members.values():
        if not (member.is_usable and member.rate):
            continue
        lone = minus(minus(member.has, now.ours), fetched)
        for other in now.members.values():
            if other is not member and other.is_usable:
                lone = minus(lone, other.has)
        wait = lone.count(1) * piece_length(now.size) / member.rate
        for start, stop in runs(lone, 0, now.pieces):
            yield wait, now.began, member.id, Take(start, stop, is_takeover=True)
            break


def wins(blob: Digest, lease: int, one: PeerId, other: PeerId) -> bool:
    """Whether `one` goes on when both began the same lease."""
    return weight(blob, lease, one) > weight(blob, lease, other)


# pulls


def pick_pulls(now: Situation, random: Chance) -> list[Ask]:
    """Which pieces to ask of whom."""
    free = PULLS_LIMIT - sum(1 for pull in now.pulls if not pull.is_sick)
    able = [
        member
        for member in now.members.values()
        if member.is_usable and member.pulls < PULLS_PER_PEER and member.paused_until <= now.now
    ]
    if free <= 0 or not able:
        return []
    open_now = _open_pieces(now, able)
    pulls = {member.id: member.pulls for member in able}
    chosen: list[Ask] = []
    for piece in _by_urgency(now, open_now, random):
        if len(chosen) >= free:
            break
        if not open_now[piece]:
            continue  # an earlier run has reached it
        peer = _quickest(piece, able, pulls, random)
        if peer is None:
            continue
        stop = _run_end(now, peer, piece, open_now)
        open_now[piece:stop] = bytes(stop - piece)
        pulls[peer.id] += 1
        chosen.append(Ask(peer.id, piece, stop))
    return chosen


def _open_pieces(now: Situation, able: Sequence[Member]) -> bytearray:
    """One byte a piece: 1 where we should ask one of `able` for it now."""
    taken = bytearray(now.ours)
    for pull in now.pulls:
        if not pull.is_sick:
            taken[pull.at : pull.stop] = b"\1" * (pull.stop - pull.at)
    for piece in now.closed:
        taken[piece] = 1
    wanted = minus(union(now.pieces, (member.has for member in able)), taken)
    wanting = [member for member in now.members.values() if member.is_wanting]
    ring = max(1, TURN_BYTES // piece_length(now.size))
    turns: dict[tuple[int, int], bool] = {}
    for piece in ones(wanted):
        key = (piece // ring, now.holders[piece])
        is_our_turn = turns.get(key)
        if is_our_turn is None:
            is_our_turn = turns[key] = _has_turn(now, piece, piece // ring, wanting)
        if not is_our_turn:
            wanted[piece] = 0
    if len(wanting) >= CROWD:
        _collect(now, wanted)
    return wanted


def _collect(now: Situation, wanted: bytearray) -> None:
    """Leave out what will soon be asked for together with its neighbours.

    Not what a reader needs, nor anything once all of the blob is in the room.
    """
    there = union(now.pieces, (member.has for member in now.members.values()))
    if 0 not in union(now.pieces, (there, now.ours)):
        return
    enough = COLLECT_BYTES // piece_length(now.size)
    ahead = max(1, READ_AHEAD_BYTES // piece_length(now.size))
    for start, stop in list(runs(wanted, 0, now.pieces)):
        age = now.now - min(now.shown_since.get(piece, now.began) for piece in range(start, stop))
        is_read = any(reader < stop and start < reader + ahead for reader in now.readers)
        if stop - start < enough and age < COLLECT_S and not is_read:
            wanted[start:stop] = bytes(stop - start)


def _by_urgency(now: Situation, open_now: bytearray, random: Chance) -> Iterator[int]:
    """The pieces to ask for now: readers' in order, then the rarest.

    Equal ones come at random where others want them too, and in order where nobody does: what is
    whole from its beginning on can be hashed and given out at once.
    """
    ahead = max(1, READ_AHEAD_BYTES // piece_length(now.size))
    for reader in now.readers:
        yield from range(reader, min(reader + ahead, now.pieces))
    rest = list(ones(open_now))
    if any(member.is_wanting for member in now.members.values()):
        random.shuffle(rest)
    rest.sort(key=now.holders.__getitem__)
    yield from rest


def _has_turn(now: Situation, piece: int, block: int, wanting: Sequence[Member]) -> bool:
    """Whether it is our turn to ask: a few machines at a time for each that has the piece."""
    allowed = FAN_OUT * now.holders[piece]
    if allowed > len(wanting):
        return True
    lacking = [member.id for member in wanting if not member.has[piece]]
    place = sum(1 for id in lacking if id < now.own)
    if (place + block) % (len(lacking) + 1) < allowed:
        return True
    return now.now - now.shown_since.get(piece, now.now) >= TURN_S


def _quickest(
    piece: int, able: Sequence[Member], pulls: Mapping[PeerId, int], random: Chance
) -> Member | None:
    """The member that will give the piece soonest."""
    holders = [m for m in able if m.has[piece] and pulls[m.id] < PULLS_PER_PEER]
    if not holders:
        return None
    known = [member.rate for member in holders if member.rate]
    usual = sum(known) / len(known) if known else 1.0

    def cost(member: Member) -> tuple[float, float]:
        return (1 + pulls[member.id] + member.uploads) / (member.rate or usual), random.random()

    return min(holders, key=cost)


def _run_end(now: Situation, peer: Member, start: int, open_now: bytearray) -> int:
    """Up to where one pull goes: as long as it lasts about PULL_S."""
    length = piece_length(now.size)
    wanted = min(PULL_BYTES, peer.rate * PULL_S) if peer.rate else PULL_FIRST_BYTES
    # The last ones are shorter, so that they end together.
    share = open_now.count(1) * length / PULLS_PER_PEER / 2
    wanted = min(wanted, max(PULL_FIRST_BYTES, share))
    limit = min(now.pieces, start + max(1, math.ceil(wanted / length)))
    stop = start + 1
    while stop < limit and peer.has[stop] and open_now[stop]:
        stop += 1
    return stop


def pick_sick(now: Situation) -> list[Pull]:
    """The pulls whose pieces should be asked of others as well."""
    return [pull for pull in now.pulls if not pull.is_sick and _is_sick(now, pull)]


def pick_crawling(now: Situation) -> list[Pull]:
    """The pulls that give next to nothing: their peers are left, whoever else has the pieces."""
    return [
        pull
        for pull in now.pulls
        if (age := now.now - pull.since) >= CRAWL_AFTER_S and pull.received < CRAWL_RATE * age
    ]


def _is_sick(now: Situation, pull: Pull) -> bool:
    if now.now - pull.progressed >= STALL_S:
        return True
    age = now.now - pull.since
    if age < STALL_S or pull.at >= pull.stop:
        return False
    length = piece_length(now.size)
    left = (pull.stop - pull.start) * length - pull.received
    rate = pull.received / age
    others = [
        member.rate
        for member in now.members.values()
        if member.id != pull.peer
        and member.is_usable
        and member.has[pull.at]
        and member.paused_until <= now.now
    ]
    best = max(others, default=0.0)
    return left > SLOW_PULL_S * rate and best > SLOW_FACTOR * rate
