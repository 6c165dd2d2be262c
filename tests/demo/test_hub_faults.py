"""Each fault of the demo hub does what it says, and nothing when it is off."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from multidict import CIMultiDict
from yarl import URL

from p2pmodels.demo.hub import Faults, Hub
from p2pmodels.demo.hub_faults import Quota

SMALL, BIG = b"small file\n", random.Random(3).randbytes(2 << 20)
BROKEN = (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)


@pytest_asyncio.fixture(params=["memory", "disk"])
async def hub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub with one LFS file, held in memory or on disk: faults must not depend on which."""
    (tmp_path / "big.bin").write_bytes(BIG)
    content: bytes | Path = BIG if request.param == "memory" else tmp_path / "big.bin"
    async with Hub() as hub:
        hub.add_repo("acme/tiny", {"small.txt": SMALL, "big.bin": content})
        yield hub


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
        yield session


def url(hub: Hub, name: str = "big.bin") -> URL:
    return URL(f"{hub.url}/acme/tiny/resolve/main/{name}", encoded=True)


async def fetch(
    session: aiohttp.ClientSession, target: URL, **headers: str
) -> tuple[int, CIMultiDict[str], bytes]:
    async with session.get(target, headers=headers) as response:
        return response.status, CIMultiDict(response.headers), await response.read()


@pytest.mark.asyncio
async def test_no_fault_is_on_at_first(hub: Hub, session: aiohttp.ClientSession) -> None:
    assert (await fetch(session, url(hub)))[2] == BIG
    assert (await fetch(session, url(hub, "small.txt")))[2] == SMALL


@pytest.mark.asyncio
async def test_manifests_only_leaves_the_api_and_closes_every_file(
    hub: Hub, session: aiohttp.ClientSession
) -> None:
    async with session.head(url(hub), allow_redirects=False) as response:
        location = URL(response.headers["Location"], encoded=True)
    hub.faults.manifests_only = True
    api = URL(f"{hub.url}/api/models/acme/tiny?blobs=true")
    assert (await fetch(session, api))[0] == 200
    for target in (url(hub), url(hub, "small.txt"), location):
        assert (await fetch(session, target))[0] == 503
    async with session.head(url(hub), allow_redirects=False) as response:
        assert response.status == 302  # metadata, not a byte of the file
    hub.faults = Faults()
    assert (await fetch(session, location))[2] == BIG


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["hub", "cdn"])
async def test_status_is_given_a_number_of_times(
    hub: Hub, session: aiohttp.ClientSession, where: str
) -> None:
    hub.faults.status_for_files, hub.faults.status_times, hub.faults.retry_after_s = 429, 2, 7
    hub.faults.status_at = "hub" if where == "hub" else "cdn"
    for _ in range(2):
        status, headers, _body = await fetch(session, url(hub))
        assert (status, headers["Retry-After"]) == (429, "7")
    assert (await fetch(session, url(hub)))[2] == BIG
    assert {hit.listener for hit in hub.requests(status=429)} == {where}


@pytest.mark.asyncio
async def test_cut_breaks_the_first_bodies_only(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 100_000, 1
    with pytest.raises(BROKEN):
        await fetch(session, url(hub))
    await hub.quiet()
    assert hub.file_bytes() == 100_000
    assert (await fetch(session, url(hub)))[2] == BIG
    status, _, body = await fetch(session, url(hub), Range="bytes=100000-")
    assert (status, body) == (206, BIG[100_000:])


@pytest.mark.asyncio
async def test_cut_is_a_reset_not_an_end(hub: Hub) -> None:
    hub.faults.cut_after = 0
    reader, writer = await asyncio.open_connection(hub.host, hub.port)
    writer.write(b"GET /acme/tiny/resolve/main/small.txt HTTP/1.1\r\nHost: hub\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
            await reader.read()
    writer.close()


@pytest.mark.asyncio
async def test_stall_holds_the_body_until_it_is_released(
    hub: Hub, session: aiohttp.ClientSession
) -> None:
    hub.faults.stall_after = 70_000
    async with session.get(url(hub)) as response:
        start = await response.content.readexactly(70_000)
        await hub.until(lambda: hub.file_bytes() == 70_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await response.content.readany()
        hub.faults.stall_until.set()
        rest = await response.content.read()
    assert start + rest == BIG


@pytest.mark.asyncio
async def test_hub_stops_although_a_body_stalls(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with Hub() as hub:
            hub.add_repo("acme/tiny", {"big.bin": BIG})
            hub.faults.stall_after = 10
            response = await session.get(url(hub))
            await hub.until(lambda: hub.file_bytes() == 10)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        response.close()


@pytest.mark.asyncio
async def test_corrupt_flips_one_byte_in_whole_and_in_parts(
    hub: Hub, session: aiohttp.ClientSession
) -> None:
    hub.faults.corrupt = {"big.bin"}
    middle = len(BIG) // 2
    body = (await fetch(session, url(hub)))[2]
    assert [place for place in range(len(BIG)) if body[place] != BIG[place]] == [middle]
    part = (await fetch(session, url(hub), Range=f"bytes={middle}-{middle}"))[2]
    assert part == bytes([BIG[middle] ^ 0xFF])
    assert (await fetch(session, url(hub), Range="bytes=0-99"))[2] == BIG[:100]
    assert (await fetch(session, url(hub, "small.txt")))[2] == SMALL


@pytest.mark.asyncio
async def test_ignored_range_gets_everything(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.ignore_range = True
    status, _, body = await fetch(session, url(hub), Range="bytes=5-9")
    assert (status, body) == (200, BIG)


@pytest.mark.asyncio
async def test_wrong_content_range_names_other_bytes(
    hub: Hub, session: aiohttp.ClientSession
) -> None:
    hub.faults.wrong_content_range = True
    status, headers, body = await fetch(session, url(hub), Range="bytes=5-9")
    assert (status, body) == (206, BIG[5:10])
    assert headers["Content-Range"] == f"bytes 6-10/{len(BIG)}"


@pytest.mark.asyncio
async def test_gzip_encodes_whatever_is_accepted(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.gzip = True
    _, headers, body = await fetch(session, url(hub), **{"Accept-Encoding": "identity"})
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == BIG


@pytest.mark.asyncio
async def test_redirect_leads_where_it_is_told(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.redirect_to = "http://other.test/{path}"
    for name in ("big.bin", "small.txt"):
        async with session.get(url(hub, name), allow_redirects=False) as response:
            assert response.status == 302
            assert response.headers["Location"] == f"http://other.test/{name}"
            assert "X-Repo-Commit" in response.headers


@pytest.mark.asyncio
async def test_delay_comes_before_the_first_byte(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.delay_s = 0.3
    began = time.monotonic()
    assert (await fetch(session, url(hub, "small.txt")))[2] == SMALL
    assert time.monotonic() - began >= 0.3


@pytest.mark.asyncio
async def test_rate_is_shared_by_all_bodies(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.rate_bytes_per_s = 8 << 20
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(session, url(hub))) for _ in range(2)]
    spent = time.monotonic() - began
    assert all(task.result()[2] == BIG for task in tasks)
    # 4 MiB at 8 MiB/s; the upper bound is wide, for a busy machine.
    assert 0.45 <= spent <= 3


@pytest.mark.asyncio
async def test_request_limit_answers_429_with_the_quota(
    hub: Hub, session: aiohttp.ClientSession
) -> None:
    hub.faults.request_limit = 3
    target = url(hub, "small.txt")
    assert [(await fetch(session, target))[0] for _ in range(3)] == [200, 200, 200]
    status, headers, _ = await fetch(session, target)
    assert status == 429
    assert headers["RateLimit"].startswith('"resolvers";r=0;t=')
    assert headers["RateLimit-Policy"] == '"fixed window";"resolvers";q=3;w=300'


def test_quota_window_ends() -> None:
    class Hand:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

        def wall(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Hand()
    quota = Quota(clock)
    assert [quota.take(1, "api")[0] for _ in range(2)] == [True, False]
    clock.now += 299.0
    assert quota.take(1, "api") == (False, quota.take(1, "api")[1])
    clock.now += 1.0
    assert quota.take(1, "api")[0]


@pytest.mark.asyncio
async def test_down_resets_every_connection(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.down = True
    for target in (url(hub, "small.txt"), URL(hub.cdn_url)):
        with pytest.raises(BROKEN):
            await fetch(session, target)
    await hub.quiet()
    assert {hit.status for hit in hub.log} == {0}
    hub.faults.down = False
    assert (await fetch(session, url(hub, "small.txt")))[2] == SMALL


@pytest.mark.asyncio
async def test_etag_changes_with_every_answer(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.etag_change = True
    async with session.get(url(hub), allow_redirects=False) as response:
        location = URL(response.headers["Location"], encoded=True)
    tags = [(await fetch(session, location))[1]["ETag"] for _ in range(3)]
    assert len(set(tags)) == 3
    status, _, body = await fetch(session, location, **{"Range": "bytes=5-", "If-Range": tags[0]})
    assert (status, body) == (200, BIG)


@pytest.mark.asyncio
async def test_api_body_replaces_the_json(hub: Hub, session: aiohttp.ClientSession) -> None:
    hub.faults.api_body = b"[" * 1000
    api = URL(f"{hub.url}/api/models/acme/tiny")
    assert (await fetch(session, api))[::2] == (200, b"[" * 1000)
