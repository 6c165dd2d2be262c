"""Upload slots: who may take how much from us, and when the others may come again."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB
from p2pmodels.transfer.uploads import (
    BURST_S,
    PEER_UPLOADS_LIMIT,
    PEERS_LIMIT,
    RATE_GUESS,
    RETRY_S_MAX,
    RETRY_S_MIN,
    SAME_LIMIT,
    SAME_RETRY_S_MAX,
    STEP_BYTES,
    STEP_BYTES_MIN,
    STEP_S,
    UPLOADS_LIMIT,
    RateLimit,
    Upload,
    Uploads,
    UploadsFull,
)
from tests.fakes import FakeClock

BIG = 1 << 30  # bytes of the blobs here
LEASE = 8 * MIB


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def blob(number: int = 0) -> Digest:
    return Sha256(f"{number:064x}")


def lease(number: int) -> tuple[int, int]:
    return number * LEASE, (number + 1) * LEASE


def test_slots_are_limited_and_free_again_afterwards() -> None:
    uploads = Uploads(FakeClock())
    with ExitStack() as slots:
        for number in range(UPLOADS_LIMIT):
            slots.enter_context(uploads.take(peer(number), blob(), *lease(number), BIG))
        assert uploads.load == (UPLOADS_LIMIT, UPLOADS_LIMIT)
        with pytest.raises(UploadsFull) as caught:
            slots.enter_context(uploads.take(peer(99), blob(), *lease(99), BIG))
        assert caught.value.status == 503 and caught.value.retry
    assert uploads.load == (0, UPLOADS_LIMIT)
    with uploads.take(peer(99), blob(), *lease(99), BIG):
        assert uploads.load == (1, UPLOADS_LIMIT)


def test_an_upload_that_its_peer_lets_lie_stands_in_nobodys_way() -> None:
    clock = FakeClock()
    uploads = Uploads(clock, stalled_s=1.0)
    with ExitStack() as slots:
        lying = [
            slots.enter_context(uploads.take(peer(0), blob(), *lease(0), BIG))
            for _ in range(SAME_LIMIT)
        ]
        for number in range(SAME_LIMIT, UPLOADS_LIMIT):
            slots.enter_context(uploads.take(peer(number), blob(), *lease(number), BIG))
        clock.advance(1.1)
        lying[-1].count(1)
        slots.enter_context(uploads.take(peer(99), blob(), *lease(0), BIG))
        with pytest.raises(UploadsFull):  # one of the two moves again
            slots.enter_context(uploads.take(peer(98), blob(), *lease(0), BIG))
        for number in range(PEER_UPLOADS_LIMIT - len(lying)):
            slots.enter_context(uploads.take(peer(0), blob(), *lease(50 + number), BIG))
        with pytest.raises(UploadsFull):  # its own slots are counted whatever it does
            slots.enter_context(uploads.take(peer(0), blob(), *lease(60), BIG))


def test_slot_is_free_again_when_the_upload_fails() -> None:
    uploads = Uploads(FakeClock())
    with pytest.raises(ConnectionResetError):
        with uploads.take(peer(1), blob(), *lease(0), BIG):
            raise ConnectionResetError
    assert uploads.load[0] == 0


def test_one_peer_leaves_slots_for_the_others() -> None:
    uploads = Uploads(FakeClock())
    with ExitStack() as slots:
        for number in range(PEER_UPLOADS_LIMIT):
            slots.enter_context(uploads.take(peer(1), blob(), *lease(number), BIG))
        with pytest.raises(UploadsFull):
            slots.enter_context(uploads.take(peer(1), blob(), *lease(9), BIG))
        slots.enter_context(uploads.take(peer(2), blob(), *lease(9), BIG))


def test_third_asker_for_the_same_bytes_waits_until_the_first_two_have_them() -> None:
    uploads = Uploads(FakeClock())
    with ExitStack() as slots:
        running = [
            slots.enter_context(uploads.take(peer(number), blob(), *lease(0), BIG))
            for number in range(SAME_LIMIT)
        ]
        with pytest.raises(UploadsFull) as caught:
            slots.enter_context(uploads.take(peer(7), blob(), LEASE - 2 * MIB, 2 * LEASE, BIG))
        assert RETRY_S_MIN <= caught.value.retry_after_s <= SAME_RETRY_S_MAX
        # other bytes, another blob: no reason to wait
        slots.enter_context(uploads.take(peer(7), blob(), *lease(1), BIG))
        slots.enter_context(uploads.take(peer(7), blob(1), *lease(0), BIG))
        # one that is nearly done is not enough, both are
        running[0].count(LEASE - MIB)
        with pytest.raises(UploadsFull):
            slots.enter_context(uploads.take(peer(8), blob(), *lease(0), BIG))
        running[1].count(LEASE - MIB)
        slots.enter_context(uploads.take(peer(8), blob(), *lease(0), BIG))
        # and the third that is now being sent counts like the first two
        with pytest.raises(UploadsFull):
            slots.enter_context(uploads.take(peer(9), blob(), *lease(0), BIG))


@pytest.mark.parametrize(("stop", "size"), [(MIB, MIB), (MIB, BIG), (1, 1)])
def test_small_blobs_and_small_ranges_go_to_all_at_once(stop: int, size: int) -> None:
    uploads = Uploads(FakeClock())
    with ExitStack() as slots:
        for number in range(UPLOADS_LIMIT):
            slots.enter_context(uploads.take(peer(number), blob(), 0, stop, size))
        assert uploads.load[0] == UPLOADS_LIMIT


def full_s(uploads: Uploads) -> float:
    """What an asker is told when all slots are taken by fresh uploads of a lease each."""
    with ExitStack() as slots:
        for number in range(UPLOADS_LIMIT):
            slots.enter_context(uploads.take(peer(number), blob(), *lease(number), BIG))
        with pytest.raises(UploadsFull) as caught:
            slots.enter_context(uploads.take(peer(99), blob(), *lease(99), BIG))
        return caught.value.retry_after_s


def uploaded(uploads: Uploads, clock: FakeClock, amount: int, seconds: float) -> None:
    with uploads.take(peer(1), blob(), 0, amount, BIG) as upload:
        upload.count(amount)
        clock.advance(seconds)


def test_wait_is_what_the_next_slot_needs_at_the_rate_that_was_measured() -> None:
    clock = FakeClock()
    uploads = Uploads(clock)
    assert full_s(uploads) == pytest.approx(LEASE / RATE_GUESS)
    for _ in range(50):
        uploaded(uploads, clock, LEASE, 1.0)
    assert uploads.rate == pytest.approx(LEASE, rel=0.01)
    assert full_s(uploads) == pytest.approx(1.0, rel=0.01)
    for _ in range(50):
        uploaded(uploads, clock, LEASE, 1000.0)
    assert full_s(uploads) == RETRY_S_MAX
    for _ in range(50):
        uploaded(uploads, clock, LEASE, 0.001)
    assert full_s(uploads) == RETRY_S_MIN


def test_tiny_uploads_say_nothing_about_the_rate() -> None:
    clock = FakeClock()
    uploads = Uploads(clock)
    uploaded(uploads, clock, 1000, 10.0)
    uploaded(uploads, clock, LEASE, 0.0)
    assert uploads.rate == RATE_GUESS


def test_bytes_are_counted_for_each_peer_and_a_bounded_number_of_them() -> None:
    uploads = Uploads(FakeClock())
    for number in range(PEERS_LIMIT + 10):
        with uploads.take(peer(number), blob(), *lease(0), BIG) as upload:
            upload.count(3)
            upload.count(4)
    assert uploads.sent_to(peer(PEERS_LIMIT)) == 7
    assert uploads.sent_to(peer(0)) == 0
    assert uploads.total == 7 * (PEERS_LIMIT + 10)
    assert len(uploads._by_peer) == PEERS_LIMIT


# the rate limit


def test_without_a_limit_nobody_waits() -> None:
    uploads = Uploads(FakeClock())
    pace = uploads.pace(1 << 40)
    with pytest.raises(StopIteration):
        pace.send(None)
    assert uploads.step_limit == STEP_BYTES


def test_steps_are_small_under_a_low_limit() -> None:
    assert Uploads(FakeClock(), RateLimit(FakeClock(), 1_000_000)).step_limit == int(
        1_000_000 * STEP_S
    )
    assert Uploads(FakeClock(), RateLimit(FakeClock(), 1)).step_limit == STEP_BYTES_MIN
    assert Uploads(FakeClock(), RateLimit(FakeClock(), 1 << 40)).step_limit == STEP_BYTES


@pytest.mark.asyncio
@pytest.mark.parametrize("streams", [1, 2, 8])
async def test_all_uploads_together_keep_the_limit_over_any_ten_seconds(streams: int) -> None:
    """Reliability E20: at most 1.05 of the limit over any 10 s; and not much less either."""
    clock, limit = FakeClock(), 1_000_000
    uploads = Uploads(clock, RateLimit(clock, limit))
    sent: list[tuple[float, int]] = []

    async def stream(number: int) -> None:
        with uploads.take(peer(number), blob(number), 0, BIG, BIG) as upload:
            while True:
                await upload.pace(upload.step_limit)
                sent.append((clock.monotonic(), upload.step_limit))
                upload.count(upload.step_limit)

    clock.advance(5.0)  # idle time must not be saved up
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream(number)) for number in range(streams)]
        for _ in range(3000):
            for _ in range(3):
                await asyncio.sleep(0)  # let those go on whose time has come
            clock.advance(0.01)
        for task in tasks:
            task.cancel()
    assert most_in(sent, 10.0) <= 1.05 * limit * 10
    assert sum(amount for _, amount in sent) >= 0.97 * limit * 30


def most_in(sent: list[tuple[float, int]], seconds: float) -> int:
    """The most bytes in any window of so many seconds."""
    return max(
        sum(amount for at, amount in sent if began <= at < began + seconds) for began, _ in sent
    )


class JumpingClock(FakeClock):
    """Time passes at once for whoever sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 100_000)), min_size=1, max_size=60))
def test_after_any_pauses_no_more_is_caught_up_than_the_burst(
    steps: list[tuple[int, int]],
) -> None:
    clock, limit = JumpingClock(), 1_000_000
    uploads = Uploads(clock, RateLimit(clock, limit))
    sent: list[tuple[float, int]] = []
    for pause_ms, amount in steps:
        clock.now += pause_ms / 1000
        with pytest.raises(StopIteration):  # it never really waits with this clock
            uploads.pace(amount).send(None)
        sent.append((clock.now, amount))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            total = sum(amount for _, amount in sent[first : last + 1])
            span = sent[last][0] - sent[first][0]
            assert total <= limit * (span + BURST_S) + sent[first][1] + 1


@pytest.mark.parametrize(("sent", "is_nearly_done"), [(0, False), (6, False), (7, True), (8, True)])
def test_upload_knows_what_is_left(sent: int, is_nearly_done: bool) -> None:
    upload = Upload(Uploads(FakeClock()), peer(1), blob(), 8, 16, 0.0)
    upload.count(sent)
    assert upload.left == 8 - sent and upload.is_nearly_done is is_nearly_done


def test_uploads_overlap_when_they_share_a_byte_of_one_blob() -> None:
    upload = Upload(Uploads(FakeClock()), peer(1), blob(), 8, 16, 0.0)
    assert upload.overlaps(blob(), 15, 20) and not upload.overlaps(blob(), 16, 20)
    assert upload.overlaps(blob(), 0, 9) and not upload.overlaps(blob(), 0, 8)
    assert not upload.overlaps(blob(1), 8, 16)
