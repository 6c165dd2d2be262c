"""Torrents for pages: the same torrent, with the tracker and the web seed of where it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from p2pmodels.core.pieces import PIECE_LENGTH_MAX
from p2pmodels.core.torrent import PeerAddress, Torrent, TorrentName
from p2pmodels.doors.guard import GuardOptions, allowed_origin
from p2pmodels.doors.torrents import TorrentsDoor
from p2pmodels.sources.swarm.bencode import decode
from p2pmodels.sources.swarm.torrents import read_torrent
from tests.doors.page_port import peer_port
from tests.sources.swarm.places import COMMIT, random_bytes, shelve, torrent_of

OTHER = "0" * 40


@asynccontextmanager
async def door(
    folder: Path,
    files: dict[str, bytes] | None = None,
    *,
    tracker: str = "",
    has_files: bool = False,
) -> AsyncIterator[tuple[PeerAddress, Torrent, aiohttp.ClientSession]]:
    torrent = torrent_of(shelve(folder, files or {"a.txt": b"abc", "b/c.bin": random_bytes(9)}))

    def shared(name: TorrentName) -> Torrent | None:
        return torrent if name == COMMIT else None

    made = TorrentsDoor(
        shared, lambda request: allowed_origin(request, GuardOptions()), tracker, has_files
    )
    async with peer_port(made) as address, aiohttp.ClientSession() as session:
        yield address, torrent, session


@pytest.mark.asyncio
async def test_the_torrent_names_the_tracker_where_it_was_asked_and_stays_the_same(
    tmp_path: Path,
) -> None:
    async with door(tmp_path) as (address, torrent, session):
        url = f"http://{address}/torrents/{COMMIT}.torrent"
        async with session.get(url, headers={"Origin": "http://localhost:1"}) as answer:
            data = await answer.read()
            assert answer.content_type == "application/x-bittorrent"
            assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:1"
        outer = decode(data)  # strict: keys in their order
        assert isinstance(outer, dict)
        for_programs, for_pages = (f"{way}://{address}/announce".encode() for way in ("http", "ws"))
        assert outer[b"announce"] == for_programs
        assert outer[b"announce-list"] == [[for_programs], [for_pages]]
        assert b"url-list" not in outer
        assert read_torrent(data) == torrent
        assert torrent.infohash == read_torrent(data).infohash


@pytest.mark.asyncio
async def test_where_the_files_are_they_are_a_web_seed(tmp_path: Path) -> None:
    tracker = "ws://127.0.0.1:7879/announce"
    async with door(tmp_path, tracker=tracker, has_files=True) as (address, _, session):
        async with session.get(f"http://{address}/torrents/{COMMIT}.torrent") as answer:
            outer = decode(await answer.read())
        assert isinstance(outer, dict)
        assert outer[b"announce-list"] == [[b"http://127.0.0.1:7879/announce"], [tracker.encode()]]
        assert outer[b"url-list"] == f"http://{address}/webseed/".encode()


@pytest.mark.asyncio
async def test_empty_files_keep_webtorrent_from_web_seeds(tmp_path: Path) -> None:
    files = {"a.txt": b"abc", "empty": b""}
    async with door(tmp_path, files, has_files=True) as (address, _, session):
        async with session.get(f"http://{address}/torrents/{COMMIT}.torrent") as answer:
            outer = decode(await answer.read())
        assert isinstance(outer, dict) and b"url-list" not in outer


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "headers", "status"), [
    (OTHER, {}, 404), ("main", {}, 400), ("..%2f" * 8, {}, 400),
    (COMMIT.value, {"Origin": "https://evil.example"}, 403),
    (COMMIT.value, {"Origin": "null"}, 403),
    (COMMIT.value, {"Sec-Fetch-Site": "cross-site"}, 403),
])  # fmt: skip
async def test_anything_else_is_refused(
    tmp_path: Path, name: str, headers: dict[str, str], status: int
) -> None:
    async with door(tmp_path) as (address, _, session):
        url = f"http://{address}/torrents/{name}.torrent"
        async with session.get(url, headers=headers) as answer:
            assert answer.status == status
            assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.asyncio
async def test_pad_files_are_zeros_in_any_range_and_not_long(tmp_path: Path) -> None:
    async with door(tmp_path, has_files=True) as (address, _, session):
        base = f"http://{address}/webseed/{COMMIT}/.pad/"
        async with session.get(base + "1000", headers={"Range": "bytes=10-19"}) as answer:
            assert (answer.status, await answer.read()) == (206, bytes(10))
            assert answer.headers["Content-Range"] == "bytes 10-19/1000"
        async with session.get(base + "1000") as answer:
            assert (answer.status, await answer.read()) == (200, bytes(1000))
        async with session.get(base + "1000", headers={"Range": "bytes=1000-"}) as answer:
            assert answer.status == 416
        for size in ("0", str(PIECE_LENGTH_MAX), "999999999"):
            async with session.get(base + size) as answer:
                assert answer.status == 404
