"""Whom a host of the lab sends packets to, read from its own interface."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.system.netns import Host

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Prints each new destination of the IP packets that leave eth0, as one line of JSON.
SNIFFER = """
import json, socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
sock.bind(("eth0", 0))
print(json.dumps("watching"), flush=True)
seen = set()
while True:
    frame, (_, protocol, kind, *_rest) = sock.recvfrom(65535)
    if kind != socket.PACKET_OUTGOING:
        continue
    if protocol == 0x0800:
        address = socket.inet_ntop(socket.AF_INET, frame[30:34])
    elif protocol == 0x86DD:
        address = socket.inet_ntop(socket.AF_INET6, frame[38:54])
    else:
        continue
    if address not in seen:
        seen.add(address)
        print(json.dumps(address), flush=True)
"""


@asynccontextmanager
async def sniffing(host: Host, way_out: Host) -> AsyncIterator[set[Address]]:
    """The addresses, complete when the block is left; packets to the internet are really sent."""
    host.run("ip", "route", "add", "default", "via", way_out.address)
    sniffer = await asyncio.create_subprocess_exec(
        *host.command(sys.executable, "-c", SNIFFER), stdout=asyncio.subprocess.PIPE
    )
    assert sniffer.stdout is not None
    assert json.loads(await sniffer.stdout.readline()) == "watching"
    sent_to: set[Address] = set()
    try:
        yield sent_to
    finally:
        sniffer.terminate()
        lines = (await sniffer.stdout.read()).splitlines()
        await sniffer.wait()
        sent_to |= {ipaddress.ip_address(json.loads(line)) for line in lines}
