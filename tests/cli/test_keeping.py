"""`pin`, `unpin`, `evict`, `torrent`, `check`, `repair`."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tests.cli.conftest import TOKEN, Cli, FakeDaemon, Json

KEPT: Json = {"repo": "org/name", "commit": "b" * 40, "files": 3, "bytes": 2_000_000}
TORRENT: Json = {
    "name": "b" * 40,
    "infohash": "1" * 40,
    "infohash_v2": "2" * 64,
    "magnet": "magnet:?xt=urn:btih:" + "1" * 40,
    "torrent": base64.b64encode(b"d4:infoe\x00\xff").decode(),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("verb", ["pin", "unpin", "evict"])
async def test_keeping_verb_names_repo_and_revision(
    cli: Cli, daemon: FakeDaemon, verb: str
) -> None:
    daemon.answers[verb] = KEPT
    result = await cli(verb, "org/name@v2", "--data-dir", daemon.data_dir)
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("org/name at bbbbbbbbbb: 3 files, 2.0 MB\n")
    assert daemon.asked == [(verb, {"repo": "org/name", "revision": "v2"})]
    assert daemon.tokens[verb] == f"Bearer {TOKEN}"
    assert (await cli(verb, "org/name", "--json", "--data-dir", daemon.data_dir)).json() == KEPT


@pytest.mark.asyncio
async def test_torrent_prints_the_magnet(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["torrent"] = TORRENT
    result = await cli("torrent", "org/name", "--data-dir", daemon.data_dir)
    assert (result.code, result.out) == (0, f"{TORRENT['magnet']}\n")
    as_json = await cli("torrent", "org/name", "--json", "--data-dir", daemon.data_dir)
    assert as_json.json() == TORRENT


@pytest.mark.asyncio
async def test_torrent_is_written_whole_or_not_at_all(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.answers["torrent"] = TORRENT
    target = tmp_path / "m.torrent"
    result = await cli("torrent", "org/name", "-o", target, "--data-dir", daemon.data_dir)
    assert result.code == 0
    assert target.read_bytes() == b"d4:infoe\x00\xff"
    missing = tmp_path / "no" / "m.torrent"
    failed = await cli("torrent", "org/name", "-o", missing, "--data-dir", daemon.data_dir)
    assert failed.code == 1
    assert "error [not_written]" in failed.err
    daemon.answers["torrent"] = {**TORRENT, "torrent": "!!"}
    target.unlink()
    refused = await cli("torrent", "org/name", "-o", target, "--data-dir", daemon.data_dir)
    assert (refused.code, target.exists()) == (1, False)


def check_events(damaged: int, repaired: int) -> list[Json]:
    found: list[Json] = [{"event": "damaged", "name": "blob-x", "reason": "digest"}] * damaged
    done: Json = {"event": "done", "checked": 9, "damaged": damaged, "repaired": repaired}
    return [{"event": "progress", "checked": 5, "total": 9, "bytes": 50}, *found, done]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("verb", "damaged", "repaired", "code"),
    [
        ("check", 0, 0, 0),
        ("check", 2, 0, 1),
        ("repair", 0, 0, 0),
        ("repair", 2, 2, 0),
        ("repair", 2, 1, 1),
    ],
)
async def test_examining_fails_when_damage_is_left(
    cli: Cli, daemon: FakeDaemon, verb: str, damaged: int, repaired: int, code: int
) -> None:
    daemon.streams[verb] = check_events(damaged, repaired)
    result = await cli(verb, "org/name", "--data-dir", daemon.data_dir)
    assert result.code == code
    assert result.out.count("damaged: blob-x (digest)") == damaged
    assert ("error [cache_invalid]" in result.err) == bool(code)
    assert daemon.asked == [(verb, {"repo": "org/name"})]
    as_json = await cli(verb, "--json", "--data-dir", daemon.data_dir)
    assert as_json.lines() == daemon.streams[verb]
    assert daemon.asked[1] == (verb, {"repo": None})


def stored(data_dir: Path, content: bytes, *, named: bytes | None = None) -> Path:
    """A blob file as the store lays it out."""
    digest = hashlib.sha256(content if named is None else named).hexdigest()
    path = data_dir / "blobs" / digest[:2] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.asyncio
async def test_check_and_repair_work_without_a_daemon(cli: Cli, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    fresh = await cli("check", "--data-dir", data_dir)
    assert (fresh.code, fresh.err) == (0, "")
    good = stored(data_dir, b"good" * 1000)
    bad = stored(data_dir, b"bit rot" * 1000, named=b"what it was")
    repaired = await cli("repair", "--data-dir", data_dir)
    assert repaired.code == 0
    assert good.exists()
    assert not bad.exists()
    after = await cli("check", "--json", "--data-dir", data_dir)
    assert after.code == 0
    assert (after.lines()[-1]["event"], after.lines()[-1]["damaged"]) == ("done", 0)


@pytest.mark.asyncio
async def test_check_of_a_named_daemon_never_falls_back(
    cli: Cli, unused_tcp_port: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    result = await cli("check", "--url", url, "--data-dir", tmp_path / "data")
    assert result.code == 1
    assert "error [daemon_unreachable]" in result.err
    assert not (tmp_path / "data").exists()
