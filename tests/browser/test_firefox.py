"""p2pmodels.js in a real Firefox: WebRTC of another make than Chromium's and ours."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.browser.firefox import firefox
from tests.system.rtc_room import (
    FETCH,
    FILE,
    REPO,
    Daemon,
    daemon_at,
    digest_of,
    file_bytes,
    givers,
    hub_with,
    own_address,
)

SIZE = 32_000_000

HOOKED = """async ([base, url, options]) => {
  const { install } = await import(`${base}/p2pmodels.js`);
  install(options);
  const answer = await fetch(url);
  const bytes = await answer.arrayBuffer();
  return [answer.status, bytes.byteLength, answer.headers.get("X-P2PModels-Source")];
}"""


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 3])
async def test_a_page_without_a_daemon_gets_a_file_from_daemons(tmp_path: Path, count: int) -> None:
    model = tmp_path / "model"
    model.write_bytes(random.Random(4).randbytes(SIZE))
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_with(model))
        daemons: list[Daemon] = []
        for name in "abc"[:count]:
            env = {"P2PMODELS_RTC__RENDEZVOUS": daemons[0].rendezvous} if daemons else {}
            made = daemon_at(tmp_path / name, hub.url, own_address(), env)
            daemons.append(await stack.enter_async_context(made))
            await daemons[-1].hold()
        before = file_bytes(hub)
        tab = await stack.enter_async_context(firefox(tmp_path / "profile"))
        await tab.goto(daemons[0].peer_url + "/try")
        url, options = f"{hub.url}/{REPO}/resolve/main/{FILE}", {"hubs": [hub.url], "daemon": None}
        seen = await tab.evaluate(FETCH, ["", url, options])
        assert (seen["bytes"], seen["sha256"]) == (SIZE, digest_of(model))
        assert set(givers(seen)) <= {str((await d.ask("status"))["id"]) for d in daemons}
        assert len(givers(seen)) >= min(count, 2)  # on a busy machine the third may come too late
        assert await tab.evaluate(HOOKED, ["", url, options]) == [200, SIZE, "webrtc"]
        assert file_bytes(hub) == before
