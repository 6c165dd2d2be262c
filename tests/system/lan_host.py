"""One daemon's LAN part with its peer port, as a process: for tests in network namespaces.

Prints one JSON object a line with the time of the event. On its standard input the line `locate`
asks the peers, `peers` counts the known ones, anything else ends it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time

from p2pmodels.clock import RealClock
from p2pmodels.core.peer import HasAnswer, HasQuery, PeerId
from p2pmodels.sources.lan.lan import Lan, LanOptions
from p2pmodels.sources.lan.peers import PeerView
from p2pmodels.supervision import Tasks
from tests.peer_fakes import COMMIT, QUERY, MemoryCatalogue, door


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "at": time.time(), **fields}), flush=True)


def on_ready(peer: PeerView) -> None:
    tell("ready", id=peer.id, address=peer.address, found_by=peer.found_by, bt_port=peer.bt_port)


def on_gone(peer: PeerView) -> None:
    tell("gone", id=peer.id)


class SilentCatalogue(MemoryCatalogue):
    """Greets, and is too busy to answer anything else."""

    def has(self, query: HasQuery) -> HasAnswer:
        time.sleep(0.6)  # a whole process that hangs, as a machine does that swaps
        return super().has(query)


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


async def main(options: argparse.Namespace) -> None:
    id = PeerId(options.id)
    kind = SilentCatalogue if options.silent else MemoryCatalogue
    catalogue = kind(id, {COMMIT: b"torrent"}, bt_port=options.bt)
    async with door(catalogue, host=options.host, port=options.port) as address:
        lan = Lan(
            LanOptions(id, options.host, address.port, options.bt, peers=tuple(options.peer)),
            RealClock(),
            on_peer_ready=on_ready,
            on_peer_gone=on_gone,
            on_state=lambda name, state: tell("state", name=name, state=state),
        )
        tell("up", port=address.port)
        async with lan, Tasks() as tasks:
            tasks.start(lan.run(), "lan")
            reader = await lines()
            while (line := (await reader.readline()).strip()) in (b"locate", b"peers"):
                if line == b"peers":
                    tell("peers", count=len(lan.peers()))
                    continue
                began = time.perf_counter()
                holders = await lan.locate(QUERY)
                tell(
                    "located",
                    seconds=time.perf_counter() - began,
                    ids=[holder.peer.id for holder in holders],
                )
    tell("down")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  inside a namespace
    parser.add_argument("--port", type=int, default=7879)
    parser.add_argument("--bt", type=int, default=7880)
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--silent", action="store_true")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args()))
