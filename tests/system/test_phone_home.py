"""Nothing goes to an address that nobody configured (reliability E15, E19, promise P9)."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from pathlib import Path

import pytest

from p2pmodels.demo.processes import DaemonProcess
from tests.system.netns import Lab, unavailable

WATCHED_S = 8.0  # seconds of a default start; trackers, DHT and STUN speak up in the first three

# Prints the destination of every IP packet that leaves eth0, as one line of JSON each.
SNIFFER = """
import json, socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
sock.bind(("eth0", 0))
print(json.dumps("watching"), flush=True)
while True:
    frame, (_, protocol, kind, *_rest) = sock.recvfrom(65535)
    if kind != socket.PACKET_OUTGOING:
        continue
    if protocol == 0x0800:
        print(json.dumps(socket.inet_ntop(socket.AF_INET, frame[30:34])), flush=True)
    elif protocol == 0x86DD:
        print(json.dumps(socket.inet_ntop(socket.AF_INET6, frame[38:54])), flush=True)
"""


@pytest.mark.asyncio
async def test_a_default_daemon_sends_to_multicast_only(tmp_path: Path) -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with Lab(2) as lab:
        # A way out, so that packets to the internet would really be sent.
        lab[0].run("ip", "route", "add", "default", "via", lab[1].address)
        sniffer = await asyncio.create_subprocess_exec(
            *lab[0].command(sys.executable, "-c", SNIFFER), stdout=asyncio.subprocess.PIPE
        )
        assert sniffer.stdout is not None
        assert json.loads(await sniffer.stdout.readline()) == "watching"
        async with DaemonProcess(tmp_path / "d", under=lab[0].command(), lan_listen="0.0.0.0:0"):
            await asyncio.sleep(WATCHED_S)  # the watched time is the experiment
        sniffer.terminate()
        lines = (await sniffer.stdout.read()).splitlines()
        await sniffer.wait()
    sent_to = {ipaddress.ip_address(json.loads(line)) for line in lines}
    assert sent_to, "the daemon announces itself, so silence means that nothing was watched"
    assert {address for address in sent_to if not address.is_multicast} == set()
