"""Bytes from an origin: connections, resume, and every fault of reliability H6, H7, B16, B17."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import FilePath
from p2pmodels.demo.hub import Hub
from p2pmodels.errors import (
    AccessRefused,
    DigestMismatch,
    DiskFull,
    EntryNotFound,
    NetworkFailed,
    RateLimited,
    SourceFailed,
    SourceTimedOut,
)
from p2pmodels.sources.origin.origin import NotMirrored, Origin
from p2pmodels.sources.origin.retry import BadAnswer
from p2pmodels.store.partials import Partial
from tests.sources.contract import assert_truthful
from tests.sources.origin.world import (
    DATA,
    FILES,
    MIB,
    REPO,
    Shelf,
    SkippingClock,
    hub_manifest,
    origin_at,
)

MODEL = FilePath("model.safetensors")


@dataclass
class Fill:
    """A fill of the model that the tests run and look into."""

    origin: Origin
    want: Want
    partial: Partial

    async def run(self, *positions: int, is_patient: bool = True) -> None:
        async with asyncio.timeout(20):
            await self.origin.fill(
                self.want, self.partial, lambda: positions, is_patient=is_patient
            )

    async def run_to_the_end(self, *positions: int) -> None:
        await self.run(*positions)
        await self.partial.seal()


@pytest_asyncio.fixture
async def manifest(hub: Hub) -> Manifest:
    found = await hub_manifest(hub)
    await hub.quiet()
    hub.clear_log()
    return found


@pytest_asyncio.fixture
async def fill(manifest: Manifest, origin: Origin, shelf: Shelf) -> AsyncIterator[Fill]:
    want = manifest.want(MODEL)
    partial = await shelf.partial(want)
    yield Fill(origin, want, partial)
    assert_truthful(partial, DATA)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", [path for path in FILES if FILES[path]])
async def test_file_arrives_right(
    hub: Hub, origin: Origin, manifest: Manifest, shelf: Shelf, path: str
) -> None:
    want = manifest.want(FilePath(path))
    partial = await shelf.partial(want)
    counted: list[int] = []
    await origin.fill(want, partial, lambda: [0], None, counted.append)
    await partial.seal()
    assert sum(counted) == want.entry.size == hub.file_bytes("acme/tiny")
    assert partial.vouched.total == want.entry.size


@pytest.mark.asyncio
async def test_empty_file_needs_no_request(
    hub: Hub, origin: Origin, manifest: Manifest, shelf: Shelf
) -> None:
    want = manifest.want(FilePath("empty.txt"))
    partial = await shelf.partial(want)
    await origin.fill(want, partial, lambda: [0])
    await partial.seal()
    assert hub.log == []


@pytest.mark.asyncio
async def test_small_file_is_one_plain_get(
    hub: Hub, origin: Origin, manifest: Manifest, shelf: Shelf
) -> None:
    hub.options.uses_resolve_cache = True
    want = manifest.want(FilePath("config.json"))
    await origin.fill(want, await shelf.partial(want), lambda: [0])
    await hub.quiet()
    assert [hit.status for hit in hub.log] == [307, 200]
    assert all(hit.range == "" for hit in hub.log)


@pytest.mark.asyncio
async def test_address_is_resolved_once_and_shared_by_several_connections(
    hub: Hub, fill: Fill
) -> None:
    hub.faults.rate_bytes_per_s = 20e6
    await fill.run_to_the_end(0)
    await hub.quiet()
    (resolve,) = hub.requests(listener="hub")
    assert resolve.path == f"/{REPO}/resolve/{fill.want.commit}/model.safetensors"
    ranges = [hit.range for hit in hub.requests(listener="cdn")]
    assert len(ranges) >= 4
    assert len(ranges) == len(set(ranges))
    assert hub.file_bytes() <= 1.1 * len(DATA)


@pytest.mark.asyncio
async def test_reader_s_bytes_are_asked_for_first(hub: Hub, fill: Fill) -> None:
    position = 5 * MIB + 17
    hub.faults.rate_bytes_per_s = 20e6
    await fill.run_to_the_end(position)
    await hub.quiet()
    first = min(hub.log, key=lambda hit: hit.listener != "hub")
    assert first.range.startswith(f"bytes={position}-")


@pytest.mark.asyncio
async def test_first_bytes_are_readable_long_before_the_segment_is_full(
    hub: Hub, fill: Fill
) -> None:
    hub.faults.stall_after = 1000
    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        task = group.create_task(fill.origin.fill(fill.want, fill.partial, lambda: [0]))
        async with fill.partial.changed:
            await fill.partial.changed.wait_for(lambda: fill.partial.landed.holds(0, 1000))
        task.cancel()


@pytest.mark.asyncio
async def test_cut_connection_is_resumed_where_it_stopped(
    hub: Hub, fill: Fill, clock: SkippingClock
) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 200_000, 10
    await fill.run_to_the_end(0)
    assert len(clock.sleeps) >= 1
    # What was in the sockets when they were cut is all that may come twice.
    assert hub.file_bytes() <= len(DATA) + 10 * 200_000


@pytest.mark.asyncio
async def test_progress_resets_the_count_of_failures(
    hub: Hub, manifest: Manifest, shelf: Shelf, clock: SkippingClock
) -> None:
    want = manifest.want(MODEL)
    hub.faults.cut_after = 400_000
    partial = await shelf.partial(want)
    async with origin_at(hub.url, clock, connections=1) as origin:
        await Fill(origin, want, partial).run_to_the_end(0)
    assert len(clock.sleeps) > 4
    assert max(clock.sleeps) < 1.5, "every cut came after progress"


@pytest.mark.asyncio
async def test_origin_that_fails_is_asked_four_times(
    hub: Hub, fill: Fill, clock: SkippingClock
) -> None:
    hub.faults.status_for_files = 500
    with pytest.raises(SourceFailed, match="status 500"):
        await fill.run(0)
    await hub.quiet()
    assert len(hub.log) == 4
    assert [int(delay) for delay in clock.sleeps][:2] == [1, 2]
    assert 4 <= clock.sleeps[2] <= 5


@pytest.mark.asyncio
async def test_reset_connections_end_in_network_failed(hub: Hub, fill: Fill) -> None:
    hub.faults.down = True
    with pytest.raises(NetworkFailed):
        await fill.run(0)


@pytest.mark.asyncio
async def test_stalled_connection_is_left_and_resumed(
    hub: Hub, fill: Fill, clock: SkippingClock
) -> None:
    hub.faults.stall_after = 700_000
    await fill.run_to_the_end(0)
    assert clock.sleeps


@pytest.mark.asyncio
async def test_impatient_fill_leaves_a_stalling_origin_at_once(
    hub: Hub, fill: Fill, clock: SkippingClock
) -> None:
    hub.faults.stall_after = 1000
    with pytest.raises(SourceTimedOut):
        await fill.run(0, is_patient=False)
    assert clock.sleeps == []
    assert fill.partial.landed.holds(0, 1000)


@pytest.mark.asyncio
async def test_impatient_fill_leaves_a_slow_origin(
    hub: Hub, manifest: Manifest, shelf: Shelf, clock: SkippingClock
) -> None:
    """Below 1 KB/s a mirror or a peer has its turn (H7)."""
    want = manifest.want(MODEL)
    partial = await shelf.partial(want)
    hub.faults.rate_bytes_per_s = 300_000

    def positions() -> list[int]:
        clock.skipped += 100  # each look at the readers takes long on this clock
        return [0]

    async with origin_at(hub.url, clock, connections=1) as origin:
        with pytest.raises(SourceTimedOut, match="bytes a second"):
            await origin.fill(want, partial, positions, is_patient=False)


@pytest.mark.asyncio
async def test_ignored_range_is_taken_as_the_whole_file_on_one_connection(
    hub: Hub, fill: Fill
) -> None:
    hub.faults.ignore_range = True
    await fill.run_to_the_end(3 * MIB)
    await hub.quiet()
    assert [hit.status for hit in hub.requests(listener="cdn")] == [200]
    assert hub.file_bytes() == len(DATA)


@pytest.mark.asyncio
async def test_whole_file_for_a_range_does_not_overwrite_what_landed(hub: Hub, fill: Fill) -> None:
    await fill.partial.write(0, DATA[: 2 * MIB], vouched=False)
    hub.faults.ignore_range = True
    await fill.run_to_the_end(0)
    assert not fill.partial.vouched.holds(0, 1)
    assert fill.partial.vouched.holds(2 * MIB, len(DATA))


@pytest.mark.asyncio
async def test_wrong_content_range_is_refused(hub: Hub, fill: Fill) -> None:
    hub.faults.wrong_content_range = True
    with pytest.raises(BadAnswer, match="Content-Range"):
        await fill.run(0)
    assert fill.partial.landed.total == 0


@pytest.mark.asyncio
async def test_encoded_body_is_refused(hub: Hub, fill: Fill) -> None:
    hub.faults.gzip = True
    with pytest.raises(BadAnswer, match="encoded"):
        await fill.run(0)
    assert fill.partial.landed.total == 0


@pytest.mark.asyncio
async def test_other_digest_at_the_origin_is_refused_before_its_bytes(hub: Hub, fill: Fill) -> None:
    hub.faults.etag_change = True
    with pytest.raises(DigestMismatch):
        await fill.run(0)
    assert hub.file_bytes() == 0


@pytest.mark.asyncio
async def test_wrong_bytes_are_found_by_the_digest_alone(hub: Hub, fill: Fill) -> None:
    hub.faults.corrupt = {"model.safetensors"}
    await fill.run(0)
    with pytest.raises(DigestMismatch):
        await fill.partial.seal()
    fill.partial.void()
    await fill.partial.restart()


@pytest.mark.asyncio
async def test_expired_signature_is_asked_for_anew(
    hub: Hub, fill: Fill, clock: SkippingClock
) -> None:
    hub.faults.status_for_files, hub.faults.status_times = 403, 0
    hub.faults.status_at = "cdn"
    hub.faults.rate_bytes_per_s = 20e6
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        task = group.create_task(fill.run(0))
        async with fill.partial.changed:
            await fill.partial.changed.wait_for(lambda: fill.partial.landed.total > 0)
        hub.faults.status_times = 1
        await task
    await fill.partial.seal()
    await hub.quiet()
    assert len(hub.requests(listener="hub")) == 2
    assert len(hub.requests(listener="cdn", status=403)) == 1
    assert clock.sleeps == []


@pytest.mark.asyncio
async def test_address_that_is_refused_from_the_start_is_a_failure_not_a_refusal(
    hub: Hub, fill: Fill
) -> None:
    hub.faults.status_for_files, hub.faults.status_at = 403, "cdn"
    with pytest.raises(SourceFailed, match="status 403"):
        await fill.run(0)
    await hub.quiet()
    assert len(hub.requests(listener="hub")) == 4


@pytest.mark.asyncio
async def test_refusal_of_the_hub_is_final(hub: Hub, fill: Fill) -> None:
    hub.faults.status_for_files = 403
    with pytest.raises(AccessRefused):
        await fill.run(0)
    hub.faults.status_for_files = 404
    with pytest.raises(EntryNotFound):
        await fill.run(0)
    await hub.quiet()
    assert len(hub.log) == 2


@pytest.mark.asyncio
async def test_short_retry_after_is_waited_for_and_a_long_one_is_told(
    hub: Hub, fill: Fill, clock: SkippingClock
) -> None:
    hub.faults.status_for_files, hub.faults.status_times = 429, 1
    hub.faults.retry_after_s = 7
    await fill.run_to_the_end(0)
    assert 6.5 < sum(clock.sleeps) <= 7
    fill.partial.void()
    await fill.partial.restart()
    hub.faults.status_times, hub.faults.retry_after_s = 1, 120
    with pytest.raises(RateLimited) as caught:
        await fill.run(0)
    assert 100 < caught.value.retry_after_s <= 120


@pytest.mark.asyncio
async def test_full_disk_ends_the_fill_as_what_it_is(fill: Fill, shelf: Shelf) -> None:
    shelf.disk.fail_at("write", 2, errno.ENOSPC)
    with pytest.raises(DiskFull):
        await fill.run(0)


@pytest.mark.asyncio
async def test_mirror_s_bytes_are_not_vouched_for(
    hub: Hub, manifest: Manifest, shelf: Shelf
) -> None:
    want = manifest.want(MODEL)
    partial = await shelf.partial(want)
    async with origin_at(hub.url, kind="mirror") as mirror:
        await Fill(mirror, want, partial).run_to_the_end(0)
    assert partial.vouched.total == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_refusal_of_a_mirror_is_not_final(
    hub: Hub, manifest: Manifest, shelf: Shelf, status: int
) -> None:
    hub.faults.status_for_files = status
    want = manifest.want(MODEL)
    async with origin_at(hub.url, kind="mirror") as mirror:
        with pytest.raises(NotMirrored):
            await mirror.fill(want, await shelf.partial(want), lambda: [0])


@pytest.mark.asyncio
async def test_reader_that_seeks_on_a_slow_line_is_served_before_the_segments_end(
    hub: Hub, manifest: Manifest, shelf: Shelf
) -> None:
    want = manifest.want(MODEL)
    partial = await shelf.partial(want)
    hub.faults.rate_bytes_per_s = 1.5e6
    position = [0]
    async with (
        origin_at(hub.url, connections=2, segment_bytes=8 * MIB, stall_timeout_s=5.0) as origin,
        asyncio.timeout(15),
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(origin.fill(want, partial, lambda: position))
        async with partial.changed:
            await partial.changed.wait_for(lambda: partial.landed.total > MIB // 4)
            position[0] = 5 * MIB
            await partial.changed.wait_for(lambda: partial.landed.holds(5 * MIB, 5 * MIB + 1000))
        assert partial.landed.total < 2 * MIB
        task.cancel()
