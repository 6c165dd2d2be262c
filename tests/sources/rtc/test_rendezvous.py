"""Our seat at a rendezvous: the real door, and servers that misbehave."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from p2pmodels.clock import Clock
from p2pmodels.core.peer import PeerId
from p2pmodels.core.signal_texts import format_notice
from p2pmodels.core.signalling import (
    MEMBERS_LISTED_LIMIT,
    SIGNAL_PATH,
    Came,
    Expelled,
    Heard,
    Joined,
    Left,
    Member,
    MemberKind,
    Offer,
    Refused,
    Sent,
)
from p2pmodels.errors import NameRefused
from p2pmodels.sources.rtc import rendezvous
from p2pmodels.sources.rtc.rendezvous import (
    RETRY_CEILING_S,
    RETRY_FIRST_S,
    Rendezvous,
    RendezvousOptions,
    parse_rendezvous,
)
from p2pmodels.supervision import Tasks
from tests.fakes import FakeClock
from tests.peer_fakes import listening
from tests.signal_fakes import Callers, description, eventually, rendezvous_door

OWN, A, B = PeerId("0" * 32), PeerId("a" * 32), PeerId("b" * 32)
LIMIT_S = 20.0  # seconds for anything that is awaited here

Serve = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def seat(
    url: str, clock: Clock | None = None, id: PeerId = A, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Rendezvous, list[Heard]]]:
    """A running seat at that URL, and what it hears."""
    heard: list[Heard] = []
    options = RendezvousOptions(parse_rendezvous(url), "lan", id)
    taken = Rendezvous(options, clock or FakeClock(), tls=tls)
    async with asyncio.timeout(LIMIT_S), Tasks() as tasks:
        tasks.start(taken.run(heard.append), "seat")
        yield taken, heard


@asynccontextmanager
async def strange(serve: Serve) -> AsyncIterator[str]:
    """A rendezvous that does what it likes; its URL."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(timeout=0.1)
        await socket.prepare(request)
        await socket.receive()
        await serve(socket)
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get(SIGNAL_PATH, handle)
    async with listening(app) as address:
        yield f"ws://{address}"


def daemon(number: int, kind: MemberKind = MemberKind.DAEMON) -> Member:
    return Member(f"m{number}", kind, PeerId(f"{number:032x}"))


@pytest.mark.asyncio
async def test_seat_knows_the_members_and_passes_messages_both_ways() -> None:
    async with rendezvous_door(own=OWN) as served, Callers(served) as callers:
        b, _ = await callers.join(id=B)
        async with seat(served.url) as (taken, heard):
            await eventually(lambda: taken.is_joined)
            assert {member.id for member in taken.members()} == {OWN, B}
            assert not taken.problem
            came = await b.hear()
            assert isinstance(came, Came) and came.member.id == A
            offer = Offer("s1", description(1))
            taken.say(Sent(b.name, offer))
            assert await b.hear() == Heard(came.member.member, MemberKind.DAEMON, offer)
            await b.say(Sent(came.member.member, Refused("s1", "busy", 3.0)))
            await eventually(lambda: bool(heard))
            assert heard == [Heard(b.name, MemberKind.DAEMON, Refused("s1", "busy", 3.0))]
            await b.socket.close()
            await eventually(lambda: len(taken.members()) == 1)


@pytest.mark.asyncio
async def test_seat_comes_back_when_the_rendezvous_does() -> None:
    clock = FakeClock()
    async with AsyncExitStack() as seats:
        async with rendezvous_door(own=OWN) as served:
            taken, _ = await seats.enter_async_context(seat(served.url, clock))
            await eventually(lambda: taken.is_joined)
        await clock.until_sleeping()
        assert not taken.is_joined and not taken.members() and taken.problem
        taken.say(Sent("abc", Refused("s", "busy", 0.0)))  # into nothing, without complaint
        async with rendezvous_door(own=OWN, port=served.address.port):
            clock.advance(RETRY_FIRST_S)
            await eventually(lambda: taken.is_joined)
            assert not taken.problem and [member.id for member in taken.members()] == [OWN]


@pytest.mark.asyncio
async def test_absent_rendezvous_is_asked_ever_less_often() -> None:
    clock, asked = FakeClock(), 0

    async def handle(_request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get(SIGNAL_PATH, handle)
    async with listening(app) as address, seat(f"ws://{address}", clock) as (taken, _):
        for _ in range(40):
            await clock.until_sleeping()
            clock.advance(RETRY_CEILING_S / 10)
        assert 7 <= asked <= 15
        assert "503" in taken.problem


@pytest.mark.asyncio
async def test_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    clock = FakeClock()
    async with listening(app) as address, seat(f"ws://{address}", clock):
        await clock.until_sleeping()
    assert asked == [SIGNAL_PATH]


@pytest.mark.asyncio
@pytest.mark.parametrize("texts", [
    ["{"],
    ["[" * 20_000],
    [format_notice(Joined("m1", ())), '{"t":"came"}'],
    [" " * 100_000],
    [format_notice(Expelled("full"))],
    [format_notice(Left("m1"))] * 1001,
    [""],
])  # fmt: skip
async def test_rendezvous_that_breaks_the_rules_is_left(texts: list[str]) -> None:
    async def serve(socket: web.WebSocketResponse) -> None:
        for text in texts:
            await socket.send_str(text)

    clock = FakeClock()
    async with strange(serve) as url, seat(url, clock) as (taken, heard):
        await clock.until_sleeping()
        assert taken.problem and not taken.is_joined and not taken.members() and not heard


@pytest.mark.asyncio
async def test_rendezvous_that_never_lets_us_in_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "OPEN_LIMIT_S", 0.1)

    async def serve(_socket: web.WebSocketResponse) -> None: ...

    clock = FakeClock()
    async with strange(serve) as url, seat(url, clock) as (taken, _):
        await clock.until_sleeping()
        assert taken.problem


@pytest.mark.asyncio
async def test_members_are_other_daemons_in_bounded_number() -> None:
    async def serve(socket: web.WebSocketResponse) -> None:
        ourselves = Member("me", MemberKind.DAEMON, A)
        await socket.send_str(format_notice(Joined("me", (ourselves,))))
        await socket.send_str(format_notice(Came(daemon(999, MemberKind.PAGE))))
        for number in range(2 * MEMBERS_LISTED_LIMIT):
            await socket.send_str(format_notice(Came(daemon(number))))
        await socket.send_str(format_notice(Heard("m0", MemberKind.DAEMON, Refused("s", "x", 0))))

    async with strange(serve) as url, seat(url) as (taken, heard):
        await eventually(lambda: bool(heard))
        assert len(taken.members()) == MEMBERS_LISTED_LIMIT
        assert all(member.id != A for member in taken.members())


@pytest.mark.asyncio
@pytest.mark.parametrize("is_trusted", [True, False])
async def test_certificate_of_a_wss_rendezvous_is_checked(tmp_path: Path, is_trusted: bool) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=rendezvous", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True, timeout=20)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, key)
    trusted = ssl.create_default_context(cafile=certificate) if is_trusted else None
    clock = FakeClock()
    async with rendezvous_door(own=OWN, tls=served) as door:
        url = f"wss://{door.address}"
        async with seat(url, clock, tls=trusted) as (taken, _):
            if is_trusted:
                await eventually(lambda: taken.is_joined)
            else:
                await clock.until_sleeping()
                assert not taken.is_joined and "ertificate" in taken.problem


@pytest.mark.parametrize(("text", "url"), [
    ("ws://10.0.0.1:7879", "ws://10.0.0.1:7879/peer/v1/signal"),
    ("wss://vps.example/", "wss://vps.example/peer/v1/signal"),
    ("wss://vps.example/p2p/signal", "wss://vps.example/p2p/signal"),
    ("ws://[fe80::1]:7879", "ws://[fe80::1]:7879/peer/v1/signal"),
])  # fmt: skip
def test_address_of_a_rendezvous_is_read(text: str, url: str) -> None:
    assert parse_rendezvous(text) == URL(url)


@pytest.mark.parametrize("text", [
    "", "vps.example", "http://vps.example", "ws://", "ws://a:b@c", "ws://a:99999", "ws://a?x=1",
    "ws://a#x", "ws://[::1", "wss:///path", "file:///etc/passwd",
])  # fmt: skip
def test_what_is_no_address_of_a_rendezvous_is_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        parse_rendezvous(text)
