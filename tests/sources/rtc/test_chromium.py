"""A shard channel into a real Chromium: it reaches us without telling its addresses."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from p2pmodels.core.pieces import MIB
from p2pmodels.sources.rtc.rtc import RtcOptions
from p2pmodels.supervision import Tasks
from tests.sources.rtc.pairs import Giver, Part, running

SIZE = 24 * MIB

CONNECT = """async () => {
    window.connection = new RTCPeerConnection()
    window.channel = connection.createDataChannel('p2pmodels-1')
    channel.binaryType = 'arraybuffer'
    await connection.setLocalDescription(await connection.createOffer())
    while (connection.iceGatheringState !== 'complete')
        await new Promise(done => connection.addEventListener(
            'icegatheringstatechange', done, {once: true}))
    return connection.localDescription.sdp
}"""

ANSWERED = """async sdp => {
    const open = new Promise(done => channel.addEventListener('open', done, {once: true}))
    await connection.setRemoteDescription({type: 'answer', sdp})
    await open
}"""

# {"t": "get", "number": 1, "blob": 32 zeros, "start": 0, "stop": size}; the sum of every 4096th
# byte tells whether the bytes are right and in place.
GET = """async size => {
    const text = word => [0xa0 | word.length, ...new TextEncoder().encode(word)]
    const stop = [0xce, size >>> 24, size >>> 16 & 255, size >>> 8 & 255, size & 255]
    let at = 0, sum = 0
    const over = new Promise((done, fail) => {
        channel.onclose = () => fail(new Error('closed'))
        channel.onmessage = ({data}) => {
            const bytes = new Uint8Array(data)
            if (bytes[0] !== 0) return done()
            if (Number(new DataView(data).getBigUint64(5)) !== at) fail(new Error('out of place'))
            for (let i = (4096 - at % 4096) % 4096; i < bytes.length - 13; i += 4096)
                sum += bytes[13 + i]
            at += bytes.length - 13
        }
    })
    const began = performance.now()
    channel.send(new Uint8Array([0x85, ...text('t'), ...text('get'), ...text('number'), 1,
        ...text('blob'), 0xc4, 32, ...new Array(32).fill(0),
        ...text('start'), 0, ...text('stop'), ...stop]))
    await over
    return {at, sum, seconds: (performance.now() - began) / 1000}
}"""


def own_address() -> str:
    """An address of this machine that a browser uses; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network address")
        host: str = probe.getsockname()[0]
        return host


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


@pytest.mark.asyncio
@pytest.mark.system
async def test_a_page_gets_a_file(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    content = bytes(range(251)) * (SIZE // 251 + 1)
    path.write_bytes(content[:SIZE])
    part = Part(RtcOptions(addresses=lambda: [own_address()]))
    async with running(part), Tasks() as tasks, page() as shown:
        await shown.evaluate(ANSWERED, await part.rtc.accept(await shown.evaluate(CONNECT)))
        channel = await part.channel()
        channel.allow(is_guest=True)
        Giver(channel, path, tasks)
        got = await shown.evaluate(GET, SIZE)
        assert got["at"] == SIZE
        assert got["sum"] == sum(content[:SIZE:4096])
