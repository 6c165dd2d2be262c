"""The hub of the lab: its quota is one for the whole room, and it can be set while it runs."""

from __future__ import annotations

import aiohttp
import pytest

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.hub_command import steer


async def status_from(address: str, url: str) -> int:
    """What the hub answers somebody at that address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(url) as answer:
            return answer.status


@pytest.mark.asyncio
async def test_request_limit_counts_all_addresses_together() -> None:
    hub = Hub()
    hub.add_repo("a/b", {"small.txt": b"text"})
    async with hub:
        url = f"{hub.url}/a/b/resolve/main/small.txt"
        assert steer(hub, "request-limit 3") == "done: request-limit 3"
        found = [await status_from(f"127.0.0.{number}", url) for number in range(1, 6)]
        assert found == [200, 200, 200, 429, 429]
        steer(hub, "request-limit off")
        assert await status_from("127.0.0.9", url) == 200


@pytest.mark.parametrize("line", ["request-limit", "request-limit -1", "request-limit many"])
def test_request_limit_that_is_no_number_is_not_understood(line: str) -> None:
    hub = Hub()
    assert steer(hub, line).startswith("not understood")
    assert hub.faults.request_limit is None
