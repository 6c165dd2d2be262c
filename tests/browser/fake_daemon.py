"""Daemons that a page can meet, made of aiortc: as good or as bad as a test wants them.

They speak the shard channel and the signalling as a page sees them, written from the contract and
not from the package, so that a mistake in one is not repeated in the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)

from p2pmodels.core.pieces import piece_length
from p2pmodels.core.signal_texts import parse_request
from p2pmodels.doors.browser import BrowserDoor
from p2pmodels.errors import P2PModelsError

BLOCK = 64 * 1024
BUFFERED = 1 << 20


def fingerprint(sdp: str) -> str:
    found = re.search(r"^a=fingerprint:(sha-256 [0-9A-Fa-f:]+)\s*$", sdp, re.MULTILINE)
    assert found
    return found[1].lower()


def proof(
    secret: str, role: str, prover: tuple[bytes, str, str], other: tuple[bytes, str, str]
) -> bytes:
    """The MAC of a welcome; each side is (nonce, id, fingerprint)."""
    if not secret:
        return b""
    parts = [
        b"p2pmodels-link-1", role.encode(), prover[0], other[0],
        prover[1].encode(), other[1].encode(), prover[2].encode(), other[2].encode(),
    ]  # fmt: skip
    signed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(secret.encode(), signed, hashlib.sha256)


@dataclass(eq=False)
class FakeDaemon:
    """One daemon. `files` by digest in hexadecimal digits."""

    files: dict[str, bytes] = field(default_factory=dict)
    secret: str = ""
    stall_after: int | None = None
    """Bytes after which it gives nothing any more, though it stays."""
    die_after: int | None = None
    """Bytes after which it closes the connection."""
    held: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Pieces it says to have, by digest; all when not named."""
    busy: int = 0
    """Gets that it answers with 503."""
    refusals: int = 0
    """Offers that it refuses for a second."""
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    given: int = 0
    gets: list[tuple[int, int]] = field(default_factory=list)
    cancels: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    wants: int = 0
    _connections: set[RTCPeerConnection] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, sdp: str) -> str:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connections.add(connection)
        connection.on("datachannel", lambda channel: self._opened(connection, channel))
        # Chromium hides its addresses behind names of mDNS; it reaches us, so we need none.
        plain = "".join(line for line in sdp.splitlines(True) if ".local " not in line)
        await connection.setRemoteDescription(RTCSessionDescription(plain, "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return connection.localDescription.sdp

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for connection in self._connections:
            await connection.close()

    def _opened(self, connection: RTCPeerConnection, channel: RTCDataChannel) -> None:
        assert channel.label == "p2pmodels-1"
        nonce = os.urandom(16)
        state: dict[str, Any] = {"is_ready": False, "cancelled": set()}
        own = (nonce, self.id, fingerprint(connection.localDescription.sdp))

        def say(**fields: object) -> None:
            channel.send(msgpack.packb(fields))

        def hear(message: bytes) -> None:
            frame = msgpack.unpackb(message)
            match frame["t"]:
                case "hello":
                    assert frame["port"] == 0
                    state["peer"] = (
                        frame["nonce"], frame["id"].hex(),
                        fingerprint(connection.remoteDescription.sdp),
                    )  # fmt: skip
                    say(
                        t="welcome",
                        proof=proof(self.secret, "acceptor", own, state["peer"]),
                        ticket=bytes(16),
                    )
                case "welcome":
                    if frame["proof"] != proof(self.secret, "dialler", state["peer"], own):
                        say(t="bye", reason="group")
                        return
                    state["is_ready"] = True
                case "want":
                    assert state["is_ready"]
                    self.wants += 1
                    self._have(say, frame["blob"], frame["size"])
                case "get":
                    assert state["is_ready"]
                    self._start(self._give(connection, channel, say, frame, state["cancelled"]))
                case "cancel":
                    self.cancels += 1
                    state["cancelled"].add(frame["number"])
                case "bye":
                    pass
                case other:
                    raise AssertionError(other)

        channel.on("message", hear)
        say(
            t="hello",
            protocol=1,
            id=bytes.fromhex(self.id),
            version="0.1.0",
            port=7879,
            nonce=nonce,
        )

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _have(self, say: Any, blob: bytes, size: int) -> None:
        digest = blob.hex()
        runs = self.held.get(digest)
        if runs is None:
            count = -(-size // piece_length(size))
            runs = [(0, count)] if digest in self.files and count else []
        is_wanting = digest in self.held
        say(
            t="have", blob=blob, size=size, is_wanting=is_wanting,
            runs=[(start, stop, False) for start, stop in runs], roots=b"",
        )  # fmt: skip

    async def _give(
        self,
        connection: RTCPeerConnection,
        channel: RTCDataChannel,
        say: Any,
        frame: Any,
        cancelled: set[int],
    ) -> None:
        number, start, stop = frame["number"], frame["start"], frame["stop"]
        self.gets.append((start, stop))
        self.asked.set()
        data = self.files.get(frame["blob"].hex())
        if self.busy > 0:
            self.busy -= 1
            say(t="end", number=number, status=503, retry_ms=50)
            return
        if data is None or stop > len(data):
            say(t="end", number=number, status=404, retry_ms=0)
            return
        for at in range(start, stop, BLOCK):
            while channel.bufferedAmount > BUFFERED:
                await asyncio.sleep(0.002)
            if number in cancelled:
                return
            if self.stall_after is not None and self.given >= self.stall_after:
                return
            if self.die_after is not None and self.given >= self.die_after:
                await connection.close()
                return
            part = data[at : min(at + BLOCK, stop)]
            if channel.readyState != "open":
                return
            channel.send(struct.pack(">BIQ", 0, number, at) + part)
            self.given += len(part)
        say(t="end", number=number, status=200, retry_ms=0)


@dataclass(eq=False)
class Meeting:
    """A rendezvous with its web server: the module, the page, the room, and an origin of files."""

    daemons: list[FakeDaemon] = field(default_factory=list)
    files: dict[str, dict[str, object]] = field(default_factory=dict)
    """What it knows of files, by `repo revision path`."""
    origin: dict[str, bytes] = field(default_factory=dict)
    """Files of the hub that this server is too, by path of the URL."""
    listed: dict[str, dict[str, object]] = field(default_factory=dict)
    """Answers of the hub's API, by path of the URL."""
    ignores_range: bool = False
    origin_bytes: int = 0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range) of what the origin was asked."""
    scripts: dict[str, str] = field(default_factory=dict)
    url: str = ""
    runners: list[web.AppRunner] = field(default_factory=list)

    async def also(self, give: Handler) -> str:
        """Another web server on this machine that answers everything by `give`; its URL."""
        app = web.Application()
        app.router.add_get("/{rest:.*}", give)
        return await self.listen(app)

    async def listen(
        self,
        app: web.Application,
        sock: socket.socket | None = None,
        context: ssl.SSLContext | None = None,
    ) -> str:
        sock = sock or socket.create_server(("127.0.0.1", 0))
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
        self.runners.append(runner)
        await runner.setup()
        await web.SockSite(runner, sock, ssl_context=context).start()
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    def app(self) -> web.Application:
        app = web.Application()
        BrowserDoor([self.url]).add_routes(app)
        app.router.add_get("/", self._blank)
        app.router.add_get("/peer/v1/signal", self._signal)
        app.router.add_get("/api/{rest:.+}", self._list)
        app.router.add_get("/{rest:.+}", self._file)
        return app

    async def _blank(self, _request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>a page</title>", content_type="text/html")

    async def _list(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path, ""))
        found = self.listed.get(request.path)
        return web.json_response(found) if found else web.json_response({}, status=404)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range", "")
        if request.path == "/favicon.ico":
            return web.Response(status=204)
        if request.path in self.scripts:
            return web.Response(text=self.scripts[request.path], content_type="text/javascript")
        self.requests.append((request.method, request.path, wanted))
        data = self.origin.get(request.path)
        if data is None:
            return web.Response(status=404, text="Entry not found")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        if match and not self.ignores_range:
            start, stop = int(match[1]), int(match[2] or len(data) - 1) + 1
            head = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            self.origin_bytes += stop - start
            return web.Response(status=206, body=data[start:stop], headers=head)
        self.origin_bytes += len(data)
        return web.Response(body=data)

    async def _signal(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        members = {f"m{at}": daemon for at, daemon in enumerate(self.daemons)}
        async with asyncio.TaskGroup() as offers:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                parse_request(message.data)  # as strict as a real rendezvous
                said = json.loads(message.data)
                match said["t"]:
                    case "join":
                        assert said["kind"] == "page"
                        listed = [
                            {"member": name, "kind": "daemon", "id": daemon.id}
                            for name, daemon in members.items()
                        ]
                        await socket.send_json({"t": "joined", "self": "me", "members": listed})
                    case "offer":
                        offers.create_task(self._answer(socket, said, members[said["to"]]))
                    case "file":
                        key = f"{said['repo']} {said['revision']} {said['path']}"
                        known = self.files.get(key, {"code": "not_found"})
                        await socket.send_json({"t": "file", "number": said["number"], **known})
        return socket

    async def _answer(
        self, socket: web.WebSocketResponse, said: dict[str, str], daemon: FakeDaemon
    ) -> None:
        try:
            reply = await self._answered(said, daemon)
        except P2PModelsError as error:
            reply = {
                "t": "refused",
                "from": said["to"],
                "session": said["session"],
                "kind": "daemon",
                "code": error.code,
                "retry_s": 0,
            }
        if not socket.closed:
            await socket.send_json(reply)

    async def _answered(self, said: dict[str, str], daemon: FakeDaemon) -> dict[str, object]:
        reply: dict[str, object] = {
            "from": said["to"],
            "session": said["session"],
            "kind": "daemon",
        }
        signed = ("p2pmodels-sdp-1" + said["sdp"]).encode()
        expected = hmac.new(daemon.secret.encode(), signed, "sha256").hexdigest()
        if daemon.secret and said["proof"] != expected:
            return {**reply, "t": "refused", "code": "group_refused", "retry_s": 0}
        if daemon.refusals > 0:
            daemon.refusals -= 1
            return {**reply, "t": "refused", "code": "overloaded", "retry_s": 1}
        return {**reply, "t": "answer", "sdp": await daemon.answer(said["sdp"]), "proof": ""}


@asynccontextmanager
async def meeting(*daemons: FakeDaemon) -> AsyncIterator[Meeting]:
    """A running rendezvous on a free loopback port."""
    made = Meeting(list(daemons))
    sock = socket.create_server(("127.0.0.1", 0))
    made.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    await made.listen(made.app(), sock)
    try:
        yield made
    finally:
        for daemon in daemons:
            await daemon.close()
        for runner in made.runners:
            await runner.cleanup()
