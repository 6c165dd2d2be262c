"""Other BitTorrent programs download a snapshot from us, and get every byte right.

They are given nothing but a torrent: a daemon's, which names its own tracker, or a copy that names
a tracker that this test runs. Everything stays on loopback.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.demo.processes import DaemonProcess
from p2pmodels.sources.swarm.bencode import Bencoded, decode, encode
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane
from tests.sources.swarm.places import COMMIT, MIB, Bench, random_bytes, shelve, torrent_of

pytestmark = pytest.mark.system

PATIENCE_S = 60.0  # seconds; a client may wait for a timer before its first announce
FILES = {
    "README.md": random_bytes(1234, 1),
    "a/weights.bin": random_bytes(700_000, 2),
    "a.txt": random_bytes(20, 3),
    "config.json": b"",
    "model.safetensors": random_bytes(6 * MIB + 5, 4),
    "tokenizer/vocab.txt": random_bytes(300_000, 5),
    "zero-at-end": b"",
}


@asynccontextmanager
async def tracker(seed: PeerAddress) -> AsyncIterator[str]:
    """A tracker that names one peer to everybody (BEP 3, BEP 23); its URL."""
    compact = socket.inet_aton(seed.host) + seed.port.to_bytes(2, "big")
    body = encode({b"interval": 5, b"complete": 1, b"incomplete": 0, b"peers": compact})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        writer.write(b"Content-Type: text/plain\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/announce"


def with_tracker(torrent: Torrent, url: str, folder: Path) -> Path:
    """A copy of the torrent file that names a tracker."""
    outer: Bencoded = decode(torrent.data)
    assert isinstance(outer, dict)
    copy = folder / "copy.torrent"
    copy.write_bytes(encode({**outer, b"announce": url.encode()}))
    return copy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_right(folder: Path, files: Mapping[str, bytes] = FILES) -> bool:
    """Whether every file of the snapshot is there, byte for byte."""
    return all(
        (folder / name).is_file() and (folder / name).read_bytes() == data
        for name, data in files.items()
    )


@asynccontextmanager
async def running(*command: str, home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A foreign program with a home of its own; killed at the end."""
    home.mkdir()
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def aria2c(torrent: Path, target: Path, home: Path) -> list[str]:
    return [
        "aria2c",
        "--no-conf",
        f"--dir={target}",
        f"--listen-port={free_port()}",
        "--seed-time=0",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--interface=127.0.0.1",
        str(torrent),
    ]


def qbittorrent(torrent: Path, target: Path, home: Path) -> list[str]:
    config = home.with_name("qb") / "qBittorrent" / "config" / "qBittorrent.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        "[LegalNotice]\nAccepted=true\n"
        "[BitTorrent]\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\n"
        "Session\\PeXEnabled=false\nSession\\Interface=lo\nSession\\InterfaceName=lo\n"
        "Session\\SSRFMitigation=false\n"
        f"Session\\Port={free_port()}\nSession\\DefaultSavePath={target}\n"
        "[Network]\nPortForwardingEnabled=false\n"
        f"[Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\Port={free_port()}\nWebUI\\UseUPnP=false\n"
    )
    profile = home.with_name("qb")
    return ["qbittorrent-nox", f"--profile={profile}", f"--save-path={target}", str(torrent)]


Client = Callable[[Path, Path, Path], list[str]]
# The first versions that read hybrid torrents: older ones cannot read the empty key of the v2 file
# tree, whoever made the torrent (aria2 #1903). Transmission is left out: it takes no peer on a
# loopback address from a tracker.
CLIENTS: list[tuple[Client, str, tuple[int, int]]] = [
    (aria2c, r"aria2 version (\d+)\.(\d+)", (1, 37)),
    (qbittorrent, r"qBittorrent v(\d+)\.(\d+)", (4, 4)),
]


async def version(program: str, pattern: str) -> tuple[int, int]:
    """The version that a program tells of itself; skips the test if it is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    found = re.search(pattern, output.decode(errors="replace"))
    assert found, f"{program} tells no version"
    return int(found[1]), int(found[2])


async def skip_if_too_old(program: str, pattern: str, since: tuple[int, int]) -> None:
    found = await version(program, pattern)
    if found < since:
        pytest.skip(f"{program} {found[0]}.{found[1]} cannot read any hybrid torrent")


@pytest.mark.asyncio
@pytest.mark.parametrize(("client", "pattern", "since"), CLIENTS)
async def test_a_foreign_client_downloads_the_model_from_a_daemon(
    client: Client,
    pattern: str,
    since: tuple[int, int],
    daemon: DaemonProcess,
    lane: Lane,
    tmp_path: Path,
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    program = client(tmp_path, target, tmp_path / "probe")[0]
    await skip_if_too_old(program, pattern, since)
    done = await daemon.order("fetch", repo=MINILM_REPO, revision="main")
    assert done[-1]["event"] == "done"
    commit, data = await handed_out(daemon)
    torrent = tmp_path / "model.torrent"
    torrent.write_bytes(data)
    command = client(torrent, target, tmp_path / "home")
    files = {name: path.read_bytes() for name, path in minilm_files().items()}
    async with running(*command, home=tmp_path / "home"), asyncio.timeout(PATIENCE_S):
        while not await lane.run(is_right, target / commit, files):
            await asyncio.sleep(0.2)  # between looks at what another program wrote


async def handed_out(daemon: DaemonProcess) -> tuple[str, bytes]:
    """The commit of the one model there, and its torrent as anybody gets it at the peer port."""
    peer_url = (await daemon.ask("status"))["peer_url"]
    models = (await daemon.ask("models"))["models"]
    assert isinstance(models, list)
    commit = str(models[0]["commit"])
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(f"{peer_url}/torrents/{commit}.torrent") as answer:
                if answer.status == 200:
                    return commit, await answer.read()
            await asyncio.sleep(0.1)  # until it has been made


@pytest.mark.asyncio
@pytest.mark.parametrize(("client", "pattern", "since"), CLIENTS)
async def test_a_foreign_client_downloads_from_our_seed(
    client: Client, pattern: str, since: tuple[int, int], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    shelf = shelve(tmp_path / "store", FILES)
    torrent = torrent_of(shelf)
    async with Lane("bench", 4) as lane, Tasks() as tasks:
        bench = Bench(tmp_path, lane, tasks)
        async with bench.seed(shelf, torrent) as seed, tracker(seed) as url:
            command = client(with_tracker(torrent, url, tmp_path), target, tmp_path / "home")
            await skip_if_too_old(command[0], pattern, since)
            async with running(*command, home=tmp_path / "home"), asyncio.timeout(PATIENCE_S):
                while not await lane.run(is_right, target / COMMIT.value):
                    await asyncio.sleep(0.2)  # between looks at what another program wrote
