"""Exit codes, messages, and what a short command must not load."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from p2pmodels import __version__
from tests.cli.conftest import Cli, FakeDaemon

VERBS = [
    "serve", "fetch", "status", "models", "peers", "transfers", "pin", "unpin", "evict",
    "check", "repair", "torrent", "doctor", "config", "demo",
]  # fmt: skip
HEAVY = ("libtorrent", "zeroconf", "aiohttp", "pydantic_settings")
LOADED = f"""
import sys
from p2pmodels.cli import main
code = main(sys.argv[1:])
print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.asyncio
async def test_version_is_printed(cli: Cli) -> None:
    result = await cli("--version")
    assert (result.code, result.out) == (0, f"p2pmodels {__version__}\n")


@pytest.mark.asyncio
async def test_help_names_every_verb(cli: Cli) -> None:
    result = await cli("--help")
    assert result.code == 0
    assert all(f" {verb} " in result.out for verb in VERBS)


@pytest.mark.asyncio
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["fetch", "--help"]])
async def test_version_and_help_load_nothing_heavy(cli: Cli, arguments: list[str]) -> None:
    result = await cli(*arguments, code=LOADED)
    assert result.out.splitlines()[-1].strip() == "loaded:"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-verb"],
        ["status", "--no-such-flag"],
        ["fetch"],
        ["fetch", "../../etc/passwd"],
        ["fetch", "org/name@bad..ref"],
        ["pin", "org/name@"],
        ["status", "--url", "ftp://127.0.0.1:1"],
        ["serve", "--bt-port", "seven"],
        ["serve", "--bt-port", "70000"],
        ["serve", "--listen", "127.0.0.1"],
        ["serve", "--profile", "space-station"],
        ["serve", "--origin", "https://user:hidden-word@hub.example.org"],
        ["serve", "--config", "/nonexistent/config.toml"],
    ],
)
async def test_bad_usage_exits_with_2(cli: Cli, arguments: list[str]) -> None:
    result = await cli(*arguments)
    assert result.code == 2
    assert result.err
    assert not result.out
    assert "hidden-word" not in result.err


@pytest.mark.asyncio
async def test_no_daemon_is_a_failure_with_advice(cli: Cli, tmp_path: Path) -> None:
    result = await cli("status", "--data-dir", tmp_path / "empty")
    assert result.code == 1
    assert result.err.startswith("error [daemon_unreachable]: No daemon answers")
    assert "→ Start it with `p2pmodels serve`" in result.err


@pytest.mark.asyncio
async def test_note_of_a_dead_daemon_is_a_failure_with_advice(
    cli: Cli, daemon: FakeDaemon, unused_tcp_port: int
) -> None:
    note = {"pid": 1, "url": f"http://127.0.0.1:{unused_tcp_port}"}
    (daemon.data_dir / "daemon.json").write_text(json.dumps(note))
    result = await cli("models", "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert "error [daemon_unreachable]" in result.err
    assert str(unused_tcp_port) in result.err


@pytest.mark.asyncio
async def test_another_server_at_the_address_is_named_as_such(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {}  # no daemon would leave out its version
    result = await cli("status", "--url", daemon.url)
    assert result.code == 1
    assert "its answer is not understood" in result.err


@pytest.mark.asyncio
async def test_refusal_of_the_daemon_is_told_in_its_words(cli: Cli, daemon: FakeDaemon) -> None:
    error = {"code": "gated", "message": "It is \x1b[31mgated", "advice": "Accept it."}
    daemon.refusals["pin"] = (403, dict(error))
    result = await cli("pin", "org/name", "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert result.err == "error [gated]: It is [31mgated\n→ Accept it.\n"


@pytest.mark.asyncio
async def test_missing_control_token_is_explained(cli: Cli, daemon: FakeDaemon) -> None:
    (daemon.data_dir / "control-token").unlink()
    result = await cli("pin", "org/name", "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert "error [control_refused]" in result.err
    assert str(daemon.data_dir / "control-token") in result.err


@pytest.mark.asyncio
async def test_interrupt_exits_with_130(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {"version": "1"}
    process = await cli.start("status", "--watch", "--data-dir", daemon.data_dir)
    async with asyncio.timeout(30):
        await daemon.gets.get()
        await daemon.gets.get()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


@pytest.mark.asyncio
async def test_reader_that_leaves_causes_no_noise(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {"version": "1"}
    process = await cli.start("status", "--watch", "--json", "--data-dir", daemon.data_dir)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        await process.wait()
        assert process.stderr is not None
        assert await process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.asyncio
async def test_unforeseen_failure_is_one_line(cli: Cli) -> None:
    code = """
import sys, types
daemon = types.ModuleType("p2pmodels.daemon")
async def serve(config):
    raise LookupError("surprise")
daemon.serve = serve
sys.modules["p2pmodels.daemon"] = daemon
from p2pmodels.cli import main
sys.exit(main(["serve"]))
"""
    result = await cli(code=code)
    assert result.code == 1
    assert result.err.startswith("error [failed]: Something went wrong: LookupError: surprise\n")
