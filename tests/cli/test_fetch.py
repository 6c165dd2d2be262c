"""`fetch`: what is asked, what is shown, what lands in `--to`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from p2pmodels.workers import Lane
from tests.cli.conftest import TOKEN, Cli, FakeDaemon, Json

COMMIT = "a" * 40
CONTENT = {"config.json": b'{"real": true}', "sub/w.bin": bytes(range(256)) * 5000}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def prepare(daemon: FakeDaemon, *, is_local: bool = True) -> None:
    """A store with two files, and the events of fetching them."""
    files: list[Json] = []
    events: list[Json] = [
        {
            "event": "plan",
            "repo": "org/name",
            "commit": COMMIT,
            "files": [
                {"path": path, "size": len(data), "is_cached": path == "config.json"}
                for path, data in CONTENT.items()
            ],
        },
        {
            "event": "progress",
            "files": [{"path": "sub/w.bin", "landed": 9, "size": 1280000, "rate_bytes_per_s": 6}],
        },
    ]
    (daemon.data_dir / "blobs").mkdir()
    for path, data in CONTENT.items():
        blob = daemon.data_dir / "blobs" / sha256(data)
        blob.write_bytes(data)
        blob.chmod(0o444)
        daemon.files[sha256(data)] = data
        file: Json = {
            "event": "file",
            "path": path,
            "size": len(data),
            "sha256": sha256(data),
            "local_path": str(blob) if is_local else None,
            "sources": {"swarm": len(data)},
        }
        files.append(file)
    size = sum(map(len, CONTENT.values()))
    done: Json = {"event": "done", "files": 2, "bytes": size, "sources": {"swarm": 1280000}}
    daemon.streams["fetch"] = [*events, *files, done]


@pytest.fixture
def other_file_system() -> Iterator[Path]:
    """A folder on another file system than the tests' own."""
    shared = Path("/dev/shm")  # noqa: S108  the usual tmpfs
    here = Path(tempfile.gettempdir())
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == here.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.asyncio
async def test_fetch_asks_for_the_repo_revision_and_patterns(cli: Cli, daemon: FakeDaemon) -> None:
    prepare(daemon)
    result = await cli("fetch", "org/name@v1", "*.json", "sub/*", "--data-dir", daemon.data_dir)
    assert (result.code, result.err) == (0, "")
    asked = {"repo": "org/name", "revision": "v1", "patterns": ["*.json", "sub/*"]}
    assert daemon.asked == [("fetch", asked)]


@pytest.mark.asyncio
async def test_fetch_prints_a_line_for_each_file_when_piped(cli: Cli, daemon: FakeDaemon) -> None:
    prepare(daemon)
    result = await cli("fetch", "org/name", "--data-dir", daemon.data_dir)
    assert result.out.splitlines() == [
        "org/name at aaaaaaaaaa: 2 files, 1.3 MB, 1 cached",
        "config.json  14 B  cached",
        "sub/w.bin  1.3 MB  swarm 1.3 MB",
        "done: 2 files, 1.3 MB: swarm 1.3 MB",
    ]


@pytest.mark.asyncio
async def test_fetch_draws_bars_on_a_terminal(cli: Cli, daemon: FakeDaemon) -> None:
    prepare(daemon)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "p2pmodels", "fetch", "org/name", "--url", daemon.url]
    env = {**cli.env, "TERM": "xterm", "COLUMNS": "120", "P2PMODELS_DATA_DIR": str(daemon.data_dir)}
    shown = bytearray()
    daemon.pauses["file"] = asyncio.Event()
    with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123  a descriptor
        process = await asyncio.create_subprocess_exec(*command, stdout=theirs, env=env)
        os.close(theirs)
        async with asyncio.timeout(30), Lane("p2pmodels-test") as lane:
            with suppress(OSError):  # EIO: the other end of a pseudo-terminal is closed
                while data := await lane.run(screen.read, 65536):
                    shown += data
                    if b"6 B/s" in shown:
                        daemon.pauses["file"].set()
            assert await process.wait() == 0
    text = shown.decode()
    assert "all files" in text
    assert "1.3 MB of 1.3 MB" in text
    assert "sub/w.bin" in text
    assert "done: 2 files, 1.3 MB: swarm 1.3 MB" in text


@pytest.mark.asyncio
async def test_fetch_json_is_the_events_with_done_last(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path
) -> None:
    prepare(daemon)
    result = await cli(
        "fetch", "org/name", "--json", "--to", tmp_path / "out", "--data-dir", daemon.data_dir
    )
    events = [event["event"] for event in result.lines()]
    assert events == ["plan", "progress", "file", "file", "placed", "placed", "done"]
    assert result.lines()[4]["target"] == str(tmp_path / "out" / "config.json")


@pytest.mark.asyncio
async def test_fetch_to_makes_no_second_copy(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    prepare(daemon)
    out = tmp_path / "out"
    result = await cli("fetch", "org/name", "--json", "--to", out, "--data-dir", daemon.data_dir)
    hows = {event["path"]: event["how"] for event in result.lines() if "how" in event}
    for path, data in CONTENT.items():
        blob = daemon.data_dir / "blobs" / sha256(data)
        assert (out / path).read_bytes() == data
        # A file system that can reflink gives a new inode over the same blocks.
        assert hows[path] == "reflink" or (out / path).stat().st_ino == blob.stat().st_ino
    assert not daemon.tokens.keys() & daemon.files.keys()
    again = await cli("fetch", "org/name", "--to", out, "--data-dir", daemon.data_dir)
    assert again.code == 0
    assert sorted(p.name for p in out.rglob("*")) == ["config.json", "sub", "w.bin"]


@pytest.mark.asyncio
async def test_fetch_to_another_file_system_is_a_verified_copy(
    cli: Cli, daemon: FakeDaemon, other_file_system: Path
) -> None:
    prepare(daemon)
    result = await cli(
        "fetch", "org/name", "--to", other_file_system, "--data-dir", daemon.data_dir
    )
    assert (result.code, result.err) == (0, "")
    assert {path: (other_file_system / path).read_bytes() for path in CONTENT} == CONTENT
    assert "(download)" in result.out
    assert daemon.tokens[sha256(CONTENT["config.json"])] == f"Bearer {TOKEN}"


@pytest.mark.asyncio
@pytest.mark.parametrize("wrong", [b"", b"x" * 1280000, b"x" * 2000000])
async def test_fetch_to_leaves_nothing_when_the_bytes_are_wrong(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, wrong: bytes
) -> None:
    prepare(daemon, is_local=False)
    daemon.files[sha256(CONTENT["sub/w.bin"])] = wrong
    out = tmp_path / "out"
    result = await cli("fetch", "org/name", "--to", out, "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert "error [digest_mismatch]" in result.err
    assert sorted(p.name for p in out.rglob("*")) == ["config.json", "sub"]


@pytest.mark.asyncio
async def test_fetch_to_never_follows_a_link_out_of_the_folder(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path
) -> None:
    prepare(daemon)
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(outside)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (out / "config.json").symlink_to(victim)
    result = await cli("fetch", "org/name", "--to", out, "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert "error [not_placed]" in result.err
    assert list(outside.iterdir()) == []
    assert victim.read_text() == "mine"
    assert not (out / "config.json").is_symlink()
    assert (out / "config.json").read_bytes() == CONTENT["config.json"]


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "sub\\evil", "x\x1b"])
async def test_fetch_to_refuses_a_hostile_name(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, path: str
) -> None:
    prepare(daemon)
    daemon.streams["fetch"][2]["path"] = path
    out = tmp_path / "deep" / "out"
    result = await cli("fetch", "org/name", "--to", out, "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert "error [bad_format]" in result.err
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.asyncio
async def test_fetch_places_what_finished_when_another_file_fails(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path
) -> None:
    prepare(daemon)
    error: Json = {"code": "no_source", "message": "No source: w.bin", "advice": "Wait."}
    daemon.streams["fetch"][-2:] = [{"event": "error", "error": error}]
    out = tmp_path / "out"
    result = await cli("fetch", "org/name", "--to", out, "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert result.err == "error [no_source]: No source: w.bin\n→ Wait.\n"
    assert [p.name for p in out.iterdir()] == ["config.json"]


@pytest.mark.asyncio
async def test_fetch_fails_when_the_daemon_stops_in_the_middle(
    cli: Cli, daemon: FakeDaemon
) -> None:
    prepare(daemon)
    del daemon.streams["fetch"][-1]
    result = await cli("fetch", "org/name", "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert "error [daemon_unreachable]" in result.err


@pytest.mark.asyncio
async def test_fetch_takes_a_plan_longer_than_any_line_buffer(cli: Cli, daemon: FakeDaemon) -> None:
    prepare(daemon)
    files: list[Json] = [{"path": f"part-{n:06}.bin", "size": 1} for n in range(20000)]
    daemon.streams["fetch"][0]["files"] = files
    result = await cli("fetch", "org/name", "--data-dir", daemon.data_dir)
    assert result.code == 0
    assert "20000 files" in result.out
