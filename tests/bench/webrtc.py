"""A page in Chromium that fetches from one and three daemons over WebRTC, against two peers.

One is the same page with the same checks that fetches from the same daemon over HTTP. The other is
what Chromium gives itself: two connections in one page, a channel, no checks, the same two cores.
During every transfer the daemon's local endpoint is asked for a 1 KB file now and then.
Processor seconds are those of the daemons and their children, not of the browser.
Aims: 25 MB/s, 1.5 times as much from three, a p99 of 15 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pmodels.core.shard import DATA_BYTES_LIMIT
from p2pmodels.demo.processes import HubProcess
from tests.bench.rig import compare, cpu_seconds, make_file
from tests.bench.small import latencies
from tests.system.rtc_room import (
    CHROMIUM,
    FILE,
    REPO,
    Daemon,
    chromium,
    daemon_at,
    digest_of,
    fetched,
    givers,
    own_address,
    page_of,
)

if TYPE_CHECKING:
    from playwright.async_api import Page

SIZE = 200_000_000
SMALL = "small.bin"
ROUNDS = 3
DAEMONS = 3
PROBES = 2  # requests on one connection
PAUSE_S = 0.1  # seconds between two series: they must not be what is measured
MEGABYTE = 1e6  # bytes, as in all rates here

# Chromium names this machine's addresses to itself, so that nothing but WebRTC is measured.
OPEN_FLAGS = (
    "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
)  # fmt: skip
TO_ITSELF = """async ([size, block]) => {
  const [giver, taker] = [new RTCPeerConnection(), new RTCPeerConnection()];
  giver.onicecandidate = ({ candidate }) => candidate && taker.addIceCandidate(candidate);
  taker.onicecandidate = ({ candidate }) => candidate && giver.addIceCandidate(candidate);
  const out = giver.createDataChannel("bench");
  const opened = new Promise((done) => (out.onopen = done));
  const accepted = new Promise((done) => (taker.ondatachannel = (event) => done(event.channel)));
  await giver.setLocalDescription();
  await taker.setRemoteDescription(giver.localDescription);
  await taker.setLocalDescription();
  await giver.setRemoteDescription(taker.localDescription);
  const into = await accepted;
  await opened;
  into.binaryType = "arraybuffer";
  const began = performance.now();
  const whole = new Promise((done) => {
    let came = 0;
    into.onmessage = ({ data }) => (came += data.byteLength) >= size && done();
  });
  out.bufferedAmountLowThreshold = 4 * block;
  const message = new Uint8Array(block);
  let sent = 0;
  const push = () => {
    for (; sent < size && out.bufferedAmount < 16 * block; sent += block) out.send(message);
  };
  out.onbufferedamountlow = push;
  push();
  await whole;
  const seconds = (performance.now() - began) / 1000;
  giver.close();
  taker.close();
  return seconds;
}"""


@dataclass(frozen=True, slots=True)
class Round:
    """One download: what the page saw, what the daemons used, how the local endpoint answered."""

    rate: float
    """MB/s."""
    cpu: float
    """Processor seconds of the daemons and their children for a GB."""
    p99: float
    """Milliseconds for 1 KB."""
    givers: int


async def probe(daemon: Daemon, fetching: asyncio.Task[Any]) -> list[float]:
    """Milliseconds that a small file takes meanwhile, asked for now and then."""
    url = f"{daemon.url}/{REPO}/resolve/main/{SMALL}"
    times: list[float] = []
    while not fetching.done():
        times += await latencies(url, PROBES)
        await asyncio.sleep(PAUSE_S)
    return sorted(times)


async def download(page: Page, hub: str, daemons: Sequence[Daemon], **options: Any) -> Round:
    """Fetch the file once."""
    pids = [pid for daemon in daemons for pid in (daemon.pid, *daemon.children)]
    before = sum(map(cpu_seconds, pids))
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(fetched(page, hub, **options))
        probing = group.create_task(probe(daemons[0], fetching))
    seen, times = fetching.result(), probing.result()
    assert (seen["bytes"], seen["sha256"]) == (SIZE, options["sha256"]), seen
    return Round(
        SIZE / MEGABYTE / seen["seconds"],
        (sum(map(cpu_seconds, pids)) - before) / SIZE * 1e9,
        times[len(times) * 99 // 100],
        len(givers(seen)),
    )


async def to_itself() -> list[float]:
    """MB/s from one connection of a page to another one of its own."""
    async with chromium(*OPEN_FLAGS) as browser:
        page = await browser.new_page()
        order = [SIZE, DATA_BYTES_LIMIT]
        return [SIZE / MEGABYTE / await page.evaluate(TO_ITSELF, order) for _ in range(ROUNDS)]


@asynccontextmanager
async def room(folder: Path, source: Path, stack: AsyncExitStack) -> AsyncIterator[list[Daemon]]:
    """Daemons that hold the file and meet at the first; their hub is gone."""
    small = make_file(folder / SMALL, 1024)
    files = [f"--file={REPO}:{name}={path}" for name, path in ((FILE, source), (SMALL, small))]
    daemons: list[Daemon] = []
    (folder / "hub").mkdir()
    async with HubProcess(folder / "hub", *files) as hub:
        for number in range(DAEMONS):
            meets = {"P2PMODELS_RTC__RENDEZVOUS": daemons[0].rendezvous} if daemons else {}
            made = daemon_at(folder / str(number), hub.url, own_address(), meets)
            daemons.append(await stack.enter_async_context(made))
            await daemons[-1].hold()
    yield daemons


async def run(folder: Path) -> None:
    if CHROMIUM is None:
        print("webrtc: no Chromium on this machine")
        return
    source = make_file(folder / "model", SIZE)
    async with AsyncExitStack() as stack:
        daemons = await stack.enter_async_context(room(folder, source, stack))
        browser = await stack.enter_async_context(chromium())
        far, near = await page_of(browser, daemons[0]), await browser.new_page()
        await near.goto(daemons[0].url + "/try")
        known = {"sha256": digest_of(source), "size": SIZE}
        nowhere = "http://127.0.0.1:9"  # what is not held must not come from a hub
        plain: list[Round] = []
        alone: list[Round] = []
        together: list[Round] = []
        alone_page = await page_of(browser, daemons[-1])  # in its own room: it alone is there
        for _ in range(ROUNDS):
            http = {**known, "daemon": daemons[0].url, "rendezvous": None}
            plain.append(await download(near, nowhere, daemons[:1], **http))
            rtc = {**known, "daemon": None}
            alone.append(await download(alone_page, nowhere, daemons[-1:], **rtc))
            together.append(await download(far, nowhere, daemons, **rtc))
        itself = await to_itself()
        for title, rounds in ((f"from 1 of {DAEMONS}", alone), (f"from {DAEMONS}", together)):
            what = f"200 MB into a page, {title}, against HTTP"
            compare(f"{what}", [r.rate for r in rounds], [r.rate for r in plain], "MB/s")
            compare("  the same, against Chromium to itself", [r.rate for r in rounds], itself,
                    "MB/s")  # fmt: skip
            compare("  processor of daemons, s/GB", [r.cpu for r in rounds],
                    [r.cpu for r in plain], "s")  # fmt: skip
            compare("  local endpoint meanwhile, p99 of 1 KB", [r.p99 for r in rounds],
                    [r.p99 for r in plain], "ms")  # fmt: skip
        print(f"  daemons that gave: {[r.givers for r in alone]}, {[r.givers for r in together]}")
