"""The command line as a real process, and a stand-in for the daemon's control door."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

RUN_S = 30.0  # seconds for one command; a cold start on a busy machine takes two
TOKEN = "control-token-of-this-test"  # noqa: S105

Json = dict[str, object]


@dataclass
class Result:
    """What a finished command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Json:
        """Standard output as one JSON object."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def lines(self) -> list[Json]:
        """Standard output as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class FakeDaemon:
    """Answers the control API with what a test put in; remembers what it was asked."""

    data_dir: Path
    url: str = ""
    answers: dict[str, Json] = field(default_factory=dict)
    streams: dict[str, list[Json]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, tuple[int, Json]] = field(default_factory=dict)
    asked: list[tuple[str, Json]] = field(default_factory=list)
    tokens: dict[str, str | None] = field(default_factory=dict)
    pauses: dict[str, asyncio.Event] = field(default_factory=dict)
    gets: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        name = request.path.rpartition("/")[2]
        self.tokens[name] = request.headers.get("Authorization")
        if request.path.startswith("/files/"):
            body = self.files.get(name)
            return web.Response(body=body) if body is not None else web.Response(status=404)
        assert request.path == f"/api/p2p/v1/{name}"
        if request.method == "POST":
            self.asked.append((name, await request.json()))
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                refusal: Json = {"code": "control_refused", "message": "no", "advice": "token"}
                return web.json_response({"error": refusal}, status=401)
        else:
            self.gets.put_nowait(name)
        if name in self.refusals:
            status, error = self.refusals[name]
            return web.json_response({"error": error}, status=status)
        if name in self.streams:
            return await self._stream(request, self.streams[name])
        return web.json_response(self.answers[name])

    async def _stream(self, request: web.Request, events: list[Json]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for event in events:
            if event["event"] in self.pauses:
                await self.pauses[str(event["event"])].wait()
            await response.write(json.dumps(event).encode() + b"\n")
        await response.write_eof()
        return response


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    """A control door on a free port, noted in its data folder like a real one."""
    data_dir = tmp_path / "daemon-data"
    data_dir.mkdir()
    fake = FakeDaemon(data_dir)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", fake.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        (data_dir / "daemon.json").write_text(json.dumps({"pid": os.getpid(), "url": fake.url}))
        (data_dir / "control-token").write_text(TOKEN + "\n")
        (data_dir / "control-token").chmod(0o600)
        yield fake
    finally:
        await runner.cleanup()


class Cli:
    """Runs `python -m p2pmodels` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("P2PMODELS_")}
        self.env = inherited | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "data"),
            # A listen address where nothing answers: a daemon on this machine is not our business.
            "P2PMODELS_WEB__LISTEN": "127.0.0.1:0",
        }
        self.env.pop("STATE_DIRECTORY", None)

    async def start(self, *arguments: object, code: str = "") -> asyncio.subprocess.Process:
        """Start a command; `code` is a program that stands in the place of `-m p2pmodels`."""
        program = ["-c", code] if code else ["-m", "p2pmodels"]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *program,
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.env,
        )

    async def __call__(self, *arguments: object, code: str = "") -> Result:
        """Run a command to its end."""
        process = await self.start(*arguments, code=code)
        try:
            async with asyncio.timeout(RUN_S):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise
        status = process.returncode
        assert status is not None
        result = Result(status, out.decode(), err.decode())
        assert "Traceback" not in result.err
        return result


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line of a user whose home is empty."""
    home = tmp_path / "home"
    home.mkdir()
    return Cli(home)
