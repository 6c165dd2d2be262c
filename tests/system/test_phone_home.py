"""Nothing goes to an address that nobody configured (reliability E15, E19, promise P9)."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from p2pmodels.demo.processes import DaemonProcess
from tests.system.netns import Lab, unavailable
from tests.system.sniffer import sniffing
from tests.system.test_two_daemons import BOUND_S
from tests.system.test_webrtc_daemons import daemon_on, rows

# Seconds watched; trackers, DHT and STUN speak up in the first three. 3600 is the promise's hour.
WATCHED_S = float(os.environ.get("TEST_WATCHED_S", "8"))

pytestmark = [
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.timeout(120 + WATCHED_S),
]


@pytest.mark.asyncio
async def test_a_default_daemon_sends_to_multicast_only(tmp_path: Path) -> None:
    with Lab(2) as lab:
        async with sniffing(lab[0], way_out=lab[1]) as sent_to:
            under = lab[0].command()
            async with DaemonProcess(tmp_path / "d", under=under, lan_listen="0.0.0.0:0"):
                await asyncio.sleep(WATCHED_S)  # the watched time is the experiment
    assert sent_to, "the daemon announces itself, so silence means that nothing was watched"
    assert {address for address in sent_to if not address.is_multicast} == set()


@pytest.mark.asyncio
async def test_webrtc_sends_to_the_rendezvous_and_to_the_peer_only(tmp_path: Path) -> None:
    with Lab(4) as lab:
        known = {ipaddress.ip_address(host.address) for host in list(lab)[:3]}
        async with AsyncExitStack() as stack:
            blind = {"P2PMODELS_LAN__IS_MDNS_ENABLED": "false"}  # they meet at the third only
            third = await stack.enter_async_context(daemon_on(lab[0], tmp_path / "third", **blind))
            sent_to = await stack.enter_async_context(sniffing(lab[1], way_out=lab[3]))
            env = {"P2PMODELS_RTC__RENDEZVOUS": third.rendezvous, **blind}
            first, _ = [
                await stack.enter_async_context(daemon_on(lab[n], tmp_path / f"{n}", **env))
                for n in (1, 2)
            ]
            async with asyncio.timeout(BOUND_S):
                while "webrtc" not in [p["found_by"] for p in await rows(lab[1], first, "peers")]:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(WATCHED_S)  # the watched time is the experiment
    assert ipaddress.ip_address(lab[2].address) in sent_to
    assert {address for address in sent_to if not address.is_multicast} <= known
