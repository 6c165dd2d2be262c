"""Host and web-origin rules on raw sockets (reliability A1 to A9, A11)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from aiohttp import web

from p2pmodels.doors.answers import error_answer
from p2pmodels.doors.guard import GuardOptions, cors_headers, guard
from p2pmodels.errors import P2PModelsError

BOUND_S = 10


@dataclass
class Guarded:
    """A guarded server; `reached` holds the paths that got through."""

    options: GuardOptions
    port: int = 0
    reached: list[str] = field(default_factory=list)

    async def ask(self, *lines: str) -> tuple[int, str]:
        """Send these header lines as they are; returns the status and the whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
            async with asyncio.timeout(BOUND_S):
                answer = (await reader.read()).decode("latin-1")
        finally:
            writer.close()
            await writer.wait_closed()
        return int(answer.split()[1]), answer

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """A GET with a good Host and these headers (`_` for `-`)."""
        named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return await self.ask(f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *named)


async def _serve(options: GuardOptions, host: str) -> AsyncIterator[Guarded]:
    guarded = Guarded(options)

    @web.middleware
    async def errors(request: web.Request, handler):  # type: ignore[no-untyped-def]
        try:
            return await handler(request)
        except P2PModelsError as error:
            return error_answer(error)

    async def handler(request: web.Request) -> web.Response:
        guarded.reached.append(request.path)
        return web.Response(text="secret content", headers=cors_headers(request, options))

    app = web.Application(middlewares=[errors, guard(options)])
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server((host, 0))
    guarded.port = sock.getsockname()[1]
    await web.SockSite(runner, sock).start()
    try:
        yield guarded
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Guarded]:
    async for guarded in _serve(GuardOptions(), "127.0.0.1"):
        yield guarded


@pytest_asyncio.fixture
async def wide_server() -> AsyncIterator[Guarded]:
    """Bound to every address, as the LAN port is."""
    options = GuardOptions(("lab.example", "proxy.example:8443"), ("https://app.example",))
    async for guarded in _serve(options, "0.0.0.0"):  # noqa: S104
        yield guarded


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "localhost@evil:{port}",
    "localhost:{port}@evil",
    "localhost#evil:{port}",
    "localhost.evil.com:{port}",
    "127.0.0.1.nip.io:{port}",
    "127.1:{port}",
    "0x7f000001:{port}",
    "2130706433:{port}",
    "0.0.0.0:{port}",
    "[::]:{port}",
    "[::ffff:127.0.0.2]:{port}",
    "foo.local:{port}",
    "foo.localhost:{port}",
    "localhost.:{port}",
    "localhost:80",
    "localhost:1",
    "localhost",
    "127.0.0.1",
    "a b:{port}",
    "localhost:{port}/x",
    "127.0.0.1:{port}0",
    "127.0.0.1:0{port}x",
    "",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.asyncio
async def test_a_foreign_host_is_refused_on_loopback(server: Guarded, host: str) -> None:
    value = host.format(port=server.port)
    status, answer = await server.ask("GET /x HTTP/1.1", f"Host: {value}")
    assert status in (400, 421)
    assert "secret" not in answer
    assert "Access-Control" not in answer
    assert server.reached == []


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.asyncio
async def test_a_foreign_host_is_refused_on_every_bind(wide_server: Guarded, host: str) -> None:
    value = host.format(port=wide_server.port)
    status, _ = await wide_server.ask("GET /x HTTP/1.1", f"Host: {value}")
    assert status in (400, 421)
    assert wide_server.reached == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"]
)
@pytest.mark.asyncio
async def test_our_own_names_pass(server: Guarded, host: str) -> None:
    status, _ = await server.ask("GET /x HTTP/1.1", f"Host: {host.format(port=server.port)}")
    assert status == 200


@pytest.mark.asyncio
async def test_a_refusal_names_the_setting(server: Guarded) -> None:
    status, answer = await server.ask("GET /x HTTP/1.1", "Host: evil.example")
    assert status == 421
    assert "web.allowed_hosts" in answer


@pytest.mark.asyncio
async def test_a_configured_name_passes_with_our_port_only(wide_server: Guarded) -> None:
    good = f"Host: lab.example:{wide_server.port}"
    assert (await wide_server.ask("GET /x HTTP/1.1", good))[0] == 200
    assert (await wide_server.ask("GET /x HTTP/1.1", "Host: lab.example:1"))[0] == 421
    assert (await wide_server.ask("GET /x HTTP/1.1", "Host: proxy.example:8443"))[0] == 200
    assert (await wide_server.ask("GET /x HTTP/1.1", "Host: proxy.example:8444"))[0] == 421
    assert (await wide_server.ask("GET /x HTTP/1.1", "Host: proxy.example"))[0] == 421


@pytest.mark.asyncio
async def test_absolute_form_and_odd_host_headers_are_bad_requests(server: Guarded) -> None:
    good = f"Host: 127.0.0.1:{server.port}"
    assert (await server.ask("GET http://evil/x HTTP/1.1", good))[0] == 400
    assert (await server.ask("GET /x HTTP/1.1", good, good))[0] == 400
    assert (await server.ask("GET /x HTTP/1.1"))[0] == 400
    assert server.reached == []


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "http://127.0.0.1.evil.example", "https://localhost.evil",
        "file://", "chrome-extension://abc", "https://chat.webllm.ai.evil.example",
        "https://chat.webllm.ai:444", "http://chat.webllm.ai", "https://CHAT.webllm.ai", "*",
    ],
)  # fmt: skip
@pytest.mark.asyncio
async def test_a_page_that_is_not_listed_learns_nothing(server: Guarded, origin: str) -> None:
    for path in ("/org/name/resolve/main/x", "/api/p2p/v1/status", "/"):
        status, answer = await server.get(path, Origin=origin)
        assert status == 403
        assert "secret" not in answer
        assert "Access-Control-Allow-Origin" not in answer
    assert server.reached == []


@pytest.mark.parametrize(
    "origin",
    ["https://chat.webllm.ai", "http://127.0.0.1:3000", "http://localhost", "http://[::1]:8080"],
)
@pytest.mark.asyncio
async def test_a_listed_page_may_read_files_but_not_control(server: Guarded, origin: str) -> None:
    status, answer = await server.get("/org/name/resolve/main/x", Origin=origin)
    assert status == 200
    assert f"Access-Control-Allow-Origin: {origin}\r\n" in answer
    assert "Vary: Origin" in answer
    assert "Access-Control-Allow-Credentials" not in answer
    assert (await server.get("/api/p2p/v1/status", Origin=origin))[0] == 403


@pytest.mark.asyncio
async def test_our_own_page_may_read_control(server: Guarded) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert (await server.get("/api/p2p/v1/status", Origin=own))[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd"])
@pytest.mark.asyncio
async def test_tags_of_other_pages_get_nothing(server: Guarded, site: str) -> None:
    headers = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "script"}
    for path in ("/org/name/resolve/main/x", "/api/p2p/v1/status", "/"):
        assert (await server.get(path, **headers))[0] == 403
    assert server.reached == []


@pytest.mark.asyncio
async def test_a_link_to_the_dashboard_works_from_anywhere(server: Guarded) -> None:
    link = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
    }
    assert (await server.get("/", **link))[0] == 200
    assert (await server.get("/api/p2p/v1/status", **link))[0] == 403
    assert (await server.get("/", **{**link, "Sec_Fetch_Dest": "iframe"}))[0] == 403


@pytest.mark.asyncio
async def test_a_preflight_is_answered_for_listed_pages_only(server: Guarded) -> None:
    host = f"Host: 127.0.0.1:{server.port}"
    ask = ("OPTIONS /org/name/resolve/main/x HTTP/1.1", host)
    wants = "Access-Control-Request-Headers: authorization, cache-control"
    status, answer = await server.ask(*ask, "Origin: https://evil.example", wants)
    assert (status, "Access-Control-Allow" in answer) == (403, False)
    status, answer = await server.ask(*ask, "Origin: https://chat.webllm.ai", wants)
    assert status == 204
    assert "Access-Control-Allow-Headers: authorization, cache-control" in answer
    control = ("OPTIONS /api/p2p/v1/pin HTTP/1.1", host)
    assert (await server.ask(*control, "Origin: https://chat.webllm.ai", wants))[0] == 403
    assert server.reached == []
