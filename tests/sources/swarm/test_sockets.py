"""The sockets of two swarms that are connected."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pmodels.core.names import FilePath
from p2pmodels.sources.swarm.sockets import OPEN_FILES, hang_up, send_at_once
from tests.sources.swarm.places import LOOPBACK, BenchFactory, random_bytes, shelve, torrent_of

pytestmark = pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="needs Linux's /proc")

BOUND_S = 20.0
SMALL = {"config.json": random_bytes(1000)}


def tcp_sockets(port: int) -> Iterator[socket.socket]:
    """Copies of this process's TCP sockets that have this port at one of their ends."""
    for link in list(Path("/proc/self/fd").iterdir()):
        try:
            found = socket.socket(fileno=os.dup(int(link.name)))
        except OSError:
            continue
        with found:
            if found.family != socket.AF_INET or found.type != socket.SOCK_STREAM:
                continue
            ends = [found.getsockname()[1]]
            if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                ends.append(found.getpeername()[1])
            if port in ends:
                yield found


def sends_at_once(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_every_tcp_socket_of_the_process_sends_at_once_and_no_descriptor_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            with server.accept()[0] as accepted:
                assert not sends_at_once(client)
                before = len(list(OPEN_FILES.iterdir()))
                send_at_once()
                assert len(list(OPEN_FILES.iterdir())) == before
                assert sends_at_once(client) and sends_at_once(accepted) and sends_at_once(server)


def test_connections_to_one_address_are_ended_and_others_are_not() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(server.getsockname()) as ended,
        socket.create_connection(other.getsockname()) as kept,
        other.accept()[0] as far,
    ):
        hang_up(f"ws://127.0.0.1:{server.getsockname()[1]}/announce")
        assert ended.recv(1) == b""
        far.sendall(b"x")
        assert kept.recv(1) == b"x"


@pytest.mark.asyncio
async def test_both_ends_of_a_connection_send_at_once(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", SMALL)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm(LOOPBACK) as swarm:
            partial = await b.partial(SMALL["config.json"])
            await swarm.fill(torrent, FilePath("config.json"), partial, [peer])
            # The listening socket, the seed's end and the downloader's.
            while [sends_at_once(one) for one in tcp_sockets(peer.port)] != [True] * 3:
                await asyncio.sleep(0.01)  # bounded by the time-out above
