"""Which pieces of one blob to ask of whom: a pure choice over who has, who wants and who reads.

Copies spread as a tree:
1. What a reader needs next, then what fewest have, then at random.
2. A piece with few holders is asked for by a few at a time; who waits its turn gets it from them.
   In a crowd, pieces are asked for in runs: those that are read after a shorter wait, the first
   ones of a file at once.
3. From the holder that will be quickest: by its measured rate, its load and what we asked already.
4. A pull without a byte for STALL_S, or far slower than another holder, is asked elsewhere as well;
   not when our own line is the narrow one, which twice the pulls would only clog.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from p2pmodels.core.chance import Chance
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import KIB, MIB, piece_length
from p2pmodels.core.situation import Ask, Member, Pull, Situation, minus, ones, runs, union

PULLS_LIMIT = 8  # pulls of one blob at once
PULLS_MIN = 3  # pulls at once, however narrow our own line is; and one of each blob
PULL_RATE_MIN = 256 * KIB  # bytes a second that more pulls should bring each: TCP chokes on crumbs
PULLS_PER_PEER = 3  # pulls of one blob from one peer: two flow while the next is asked
PULL_BYTES = 32 * MIB  # bytes of a pull at the most; a quick peer sends them in a tenth of a second
PULL_FIRST_BYTES = 4 * MIB  # bytes of a pull from a peer whose rate is not known
PULL_S = 0.5  # seconds that a pull should last: short enough to choose anew
COLLECT_BYTES = 1 * MIB  # bytes in a row that are waited for in a crowd: a question has its price
COLLECT_S = 2.0  # seconds that a piece waits for its neighbours at the most
COLLECT_READ_S = 1.0  # the same for a piece that is read next: a stream may come in gusts
CROWD = 4  # members that fetch from which on that is worth it
READ_AHEAD_BYTES = 1 * MIB  # bytes in front of a reader that come before everything else
FAN_OUT = 1  # machines that ask for a piece at once for each one that has it
TURN_BYTES = 2 * MIB  # bytes in a row that it is one machine's turn to ask for: few requests
TURN_S = 1.0  # seconds without a new holder after which a piece is asked for out of turn
STALL_S = 0.75  # seconds without a byte after which a pull is asked elsewhere as well
STALL_BYTES = 512 * KIB  # or longer, on a narrow line: until its even share would be so much
STALL_MAX_S = 5.0  # seconds at the most
CRAWL_RATE = 16.0 * KIB  # bytes a second; below it a peer is no help to anybody (D4)
CRAWL_AFTER_S = 3.0  # seconds over which that is measured
CRAWL_PART = 0.25  # and below this part of its even share, where our own line is narrow
CRAWL_LINE_RATE = 4 * CRAWL_RATE  # bytes a second that must come in all before that counts
SLOW_PULL_FACTOR = 3.0  # times as quick as a pull is another holder that is asked as well
SLOW_PULL_S = 1.0  # seconds that a pull must still take before a quicker holder is asked


def pick_pulls(now: Situation, random: Chance) -> list[Ask]:
    """Which pieces to ask of whom."""
    sound = sum(1 for pull in now.pulls if not pull.is_sick)
    free = PULLS_LIMIT - sound
    if intake := now.traffic.intake.rate:
        room = max(PULLS_MIN, int(intake / PULL_RATE_MIN)) - now.traffic.sound_pulls
        free = min(free, max(room, 0 if sound else 1))  # pulls of other blobs leave us one
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
        _collect(now, wanted, taken)
    return wanted


def _collect(now: Situation, wanted: bytearray, taken: bytearray) -> None:
    """Leave out what will soon be asked for together with its neighbours.

    Not what has none to wait for, nor the head of a file that is read, nor anything once all of
    the blob is in the room.
    """
    there = union(now.pieces, (member.has for member in now.members.values()))
    if 0 not in union(now.pieces, (there, now.ours)):
        return
    enough = COLLECT_BYTES // piece_length(now.size)
    ahead = max(1, READ_AHEAD_BYTES // piece_length(now.size))
    for start, stop in list(runs(wanted, 0, now.pieces)):
        age = now.now - min(now.shown_since.get(piece, now.began) for piece in range(start, stop))
        is_read = any(reader < stop and start < reader + ahead for reader in now.readers)
        can_grow = 0 in taken[max(0, start - 1) : start] + taken[stop : stop + 1]
        if not can_grow or (is_read and start < ahead):
            continue
        if stop - start < enough and age < (COLLECT_READ_S if is_read else COLLECT_S):
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
    limit, traffic = CRAWL_RATE, now.traffic
    if traffic.intake.rate >= CRAWL_LINE_RATE:  # else these may be all that comes
        limit = min(limit, CRAWL_PART * traffic.pull_rate)
    return [
        pull
        for pull in now.pulls
        if (age := now.now - pull.since) >= CRAWL_AFTER_S and pull.received < limit * age
    ]


def _is_sick(now: Situation, pull: Pull) -> bool:
    stall_s = STALL_S
    others = (other for other in now.pulls if other is not pull)
    if any(now.now - other.progressed < STALL_S for other in others):  # our own line is busy
        stall_s = min(STALL_MAX_S, max(STALL_S, STALL_BYTES / max(1.0, now.traffic.pull_rate)))
    if now.now - pull.progressed >= stall_s:
        return True
    age = now.now - pull.since
    if age < stall_s or pull.at >= pull.stop:
        return False
    length = piece_length(now.size)
    left = (pull.stop - pull.start) * length - pull.received
    rate = pull.received / age
    rates = [
        member.rate
        for member in now.members.values()
        if member.id != pull.peer
        and member.is_usable
        and member.has[pull.at]
        and member.paused_until <= now.now
    ]
    best = min(max(rates, default=0.0), now.traffic.pull_rate)
    return left > SLOW_PULL_S * rate and best > SLOW_PULL_FACTOR * rate
