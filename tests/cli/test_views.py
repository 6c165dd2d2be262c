"""`status`, `models`, `peers`, `transfers`: tables, JSON, and again every second."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.cli.conftest import Cli, FakeDaemon, Json

STATUS: Json = {
    "version": "9.9.9",
    "uptime_s": 93784.2,
    "url": "http://127.0.0.1:7878",
    "peer_url": "http://10.0.0.5:7879",
    "bt_port": 7880,
    "profile": "lab",
    "data_dir": "/var/lib/p2pmodels",
    "store": {"blobs": 3, "bytes": 90868376, "limit_bytes": 10**12, "free_bytes": 5 * 10**11},
    "bytes_by_source": {"origin": 1000, "swarm": 90000000, "lan": 0},
    "served_bytes": 12,
    "shared_bytes": 34,
    "origins": [{"url": "https://hub.example.org", "state": "failing", "error": {"code": "x"}}],
    "parts": {"mdns": "running"},
    "seeding": 2,
    "peers": 1,
    "transfers": 4,
    "a_field_of_the_future": [1, 2],
}
MODELS: Json = {
    "models": [
        {
            "repo": "org/name",
            "commit": "c" * 40,
            "revisions": ["main"],
            "files": 10,
            "files_cached": 3,
            "bytes": 2000000,
            "bytes_cached": 1000000,
            "is_pinned": True,
            "share": "incomplete",
            "last_used": "2026-01-02T03:04:05+00:00",
            "sources": {"swarm": 1000000},
        }
    ]
}
PEERS: Json = {
    "peers": [
        {
            "id": "0123456789abcdef",
            "address": "10.0.0.7",
            "bt_port": 7880,
            "found_by": "mdns",
            "version": "evil\x1b]0;title\x07",
            "state": "ready",
            "last_seen_s": 61.0,
            "bytes_from": 5000,
            "bytes_to": 0,
        }
    ]
}
TRANSFERS: Json = {
    "transfers": [
        {
            "id": "1",
            "repo": "org/name",
            "path": "w.bin",
            "size": 200,
            "landed": 50,
            "rate_bytes_per_s": 10.0,
            "source": "origin",
            "sources": {"origin": 50},
            "state": "failed",
            "error": {"code": "network_error", "message": "gone"},
        }
    ],
    "uploads": [{"name": "seeded", "infohash": "ab", "bytes": 7000, "peers": 2}],
}
ANSWERS = {"status": STATUS, "models": MODELS, "peers": PEERS, "transfers": TRANSFERS}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("status", ["9.9.9", "1 d 2 h", "90.9 MB of 1.0 TB", "swarm 90.0 MB", "failing", "mdns"]),
        ("models", ["org/name", "cccccccccc (main)", "3/10", "1.0 MB of 2.0 MB", "2026-01-02"]),
        ("peers", ["0123456789ab", "10.0.0.7", "1 min 1 s ago", "5.0 kB", "evil]0;title"]),
        ("transfers", ["org/name w.bin", "failed (network_error)", "25%", "seeded", "7.0 kB"]),
    ],
)
async def test_view_shows_what_the_daemon_says(
    cli: Cli, daemon: FakeDaemon, name: str, words: list[str]
) -> None:
    daemon.answers[name] = ANSWERS[name]
    result = await cli(name, "--data-dir", daemon.data_dir)
    assert (result.code, result.err) == (0, "")
    assert [word for word in words if word not in result.out] == []
    assert "\x1b" not in result.out and "\x07" not in result.out
    assert daemon.tokens[name] is None


@pytest.mark.asyncio
@pytest.mark.parametrize("name", sorted(ANSWERS))
async def test_json_is_the_daemons_own(cli: Cli, daemon: FakeDaemon, name: str) -> None:
    daemon.answers[name] = ANSWERS[name]
    result = await cli(name, "--json", "--url", daemon.url)
    assert (result.code, result.json()) == (0, ANSWERS[name])


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["models", "peers", "transfers"])
async def test_empty_view_says_so(cli: Cli, daemon: FakeDaemon, name: str) -> None:
    daemon.answers[name] = {name: []}
    result = await cli(name, "--data-dir", daemon.data_dir)
    assert result.code == 0
    assert result.out.strip()


@pytest.mark.asyncio
async def test_watch_asks_again_and_prints_each_answer(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["peers"] = {"peers": []}
    process = await cli.start("peers", "--watch", "--json", "--data-dir", daemon.data_dir)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert json.loads(await process.stdout.readline()) == {"peers": []}
        daemon.answers["peers"] = PEERS
        while json.loads(await process.stdout.readline()) != PEERS:
            pass
    process.kill()
    await process.communicate()
