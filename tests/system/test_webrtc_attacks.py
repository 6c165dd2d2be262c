"""Attacks on WebRTC and its signalling, on whole daemons: bounded, and others are served."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiortc.rtcdatachannel import RTCDataChannel
from aiortc.rtcsctptransport import SCTP_DATA_FIRST_FRAG as FIRST

from p2pmodels.core.digests import Sha256
from p2pmodels.core.exchange import LINK_PROTOCOL, Conversation, State
from p2pmodels.core.peer import PeerId
from p2pmodels.core.rooms import DAEMONS_PER_ROOM_LIMIT
from p2pmodels.core.sdp import fingerprint
from p2pmodels.core.secret import Secret
from p2pmodels.core.shard import Get, pack
from p2pmodels.core.signal_texts import (
    REQUEST_BYTES_LIMIT,
    format_request,
    format_signed,
    parse_notice,
    parse_signed,
)
from p2pmodels.core.signalling import (
    RTC_PATH,
    SIGNAL_PATH,
    Answer,
    Expelled,
    Heard,
    Join,
    Joined,
    MemberKind,
    Notice,
    Offer,
    Refused,
    Request,
    Sent,
    SignedSdp,
    signed_sdp,
)
from p2pmodels.core.wire import NONCE_BYTES, TICKET_BYTES, Greeting
from p2pmodels.transfer.reception import HALF_OPEN_LIMIT, HALF_OPEN_S
from p2pmodels.transfer.uploads import PEER_UPLOADS_LIMIT, UPLOADS_LIMIT
from tests.sources.rtc.foreign import Foreign
from tests.sources.rtc.pairs import Part, running
from tests.system.attacks import noise
from tests.system.rtc_room import (
    BOUND_S,
    Daemon,
    chromium,
    daemon_at,
    digest_of,
    fetched,
    givers,
    hub_with,
    offer_of_nobody,
    own_address,
    page_of,
    resident_bytes,
    until_read,
)

SIZE = 24_000_000
PACE = {
    "P2PMODELS_SWARM__IS_ENABLED": "false",
    "P2PMODELS_SWARM__UPLOAD_LIMIT_BYTES_PER_S": str(SIZE // 6),
}
"""So slow that a page's download lasts as long as an attack."""
MIB = 1 << 20
MEMORY_LIMIT = 64 * MIB  # bytes that an attack may cost a process


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(noise(SIZE, 11))
    return path


class Seat:
    """A member of a room that says what it likes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, request: Request) -> None:
        await self.socket.send_str(format_request(request))

    async def hear(self) -> Notice | None:
        """What it is told next; None when it was thrown out."""
        async with asyncio.timeout(BOUND_S):
            message = await self.socket.receive()
        return parse_notice(message.data) if message.type is aiohttp.WSMsgType.TEXT else None

    async def until(self, kind: type[Notice], said: type[object] = object) -> Notice:
        """The next notice of that kind, about that."""
        while (notice := await self.hear()) is not None:
            if isinstance(notice, kind) and isinstance(getattr(notice, "said", notice), said):
                return notice
        raise AssertionError("thrown out")


@asynccontextmanager
async def seat(daemon: Daemon, id: str, *, local: str = "127.0.0.1") -> AsyncIterator[Seat]:
    """A daemon of our making in the room, at that address."""
    connector = aiohttp.TCPConnector(local_addr=(local, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(daemon.peer_url + SIGNAL_PATH, max_msg_size=0) as socket,
    ):
        made = Seat(socket)
        await made.say(Join("lan", MemberKind.DAEMON, PeerId(id)))
        yield made


async def post(daemon: Daemon, body: bytes, local: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of the answer to an offer."""
    connector = aiohttp.TCPConnector(local_addr=(local, 0), force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(daemon.peer_url + RTC_PATH, data=body) as answer,
    ):
        return answer.status, await answer.read()


@pytest.mark.asyncio
async def test_forged_signalling_opens_nothing_and_a_true_answer_still_counts(
    tmp_path: Path, model: Path
) -> None:
    secret = Secret("correct-horse-battery")
    kept = tmp_path / "secret"
    kept.write_text(secret.reveal())
    kept.chmod(0o600)
    env = {"P2PMODELS_LAN__GROUP_SECRET_FILE": str(kept)}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        hub = await enter(hub_with(model))
        daemon = await enter(daemon_at(tmp_path / "a", hub.url, own_address(), env))
        offer = parse_signed(offer_of_nobody()).sdp
        for forged in (SignedSdp(offer, ""), signed_sdp(offer, Secret("x" * 32))):
            assert (await post(daemon, format_signed(forged)))[0] == 403
        assert (await post(daemon, b"x" * (REQUEST_BYTES_LIMIT + 1)))[0] == 400
        bad = signed_sdp(offer.replace("a=mid", "a=maid"), secret)
        assert (await post(daemon, format_signed(bad)))[0] == 400
        # Both have larger ids than the daemon, so it is the daemon that makes the offers.
        liar = await enter(seat(daemon, "f" * 32))
        friend = await enter(seat(daemon, "f" * 31 + "e"))
        await liar.say(Sent("nobody", Answer("1", signed_sdp(offer, secret))))
        joined = await liar.until(Joined)
        assert isinstance(joined, Joined)
        (daemon_member,) = {m.member for m in joined.members if m.id.value == await id_of(daemon)}
        await liar.say(Sent(daemon_member, Offer("2", SignedSdp(offer, "00" * 32))))
        refused = await liar.until(Heard, Refused)
        assert isinstance(refused, Heard) and isinstance(refused.said, Refused)
        assert refused.said.code == "group"
        part = Part()
        async with running(part):
            heard = await friend.until(Heard, Offer)
            assert isinstance(heard, Heard) and isinstance(heard.said, Offer)
            assert heard.said.signed.is_proven(secret)
            session = heard.said.session
            # The liar even knows the session's name; and it has the secret.
            for _ in range(20):
                await liar.say(Sent(daemon_member, Answer(session, signed_sdp(offer, secret))))
            await liar.say(Sent(daemon_member, Refused(session, "busy", 1.0)))
            answer = signed_sdp(await part.rtc.accept(heard.said.signed.sdp), secret)
            await friend.say(Sent(daemon_member, Answer(session, answer)))
            async with asyncio.timeout(BOUND_S):
                assert (await part.channel()).remote_host == fingerprint(heard.said.signed.sdp)
        await liar.socket.send_str("x" * (REQUEST_BYTES_LIMIT + 1))
        with pytest.raises(AssertionError, match="thrown out"):
            await liar.until(Expelled)


async def id_of(daemon: Daemon) -> str:
    return str((await daemon.ask("status"))["id"])


@dataclass
class Cost:
    """What an attack cost the daemon and its child, at the most."""

    daemon: Daemon
    child: int
    memory: int = 0
    sockets: int = 0

    def look(self) -> None:
        for pid in (self.daemon.pid, self.child):
            self.memory = max(self.memory, resident_bytes(pid) - self._before[pid][0])
            self.sockets = max(self.sockets, sockets_of(pid) - self._before[pid][1])

    async def watch(self) -> None:
        """Look until cancelled."""
        pids = (self.daemon.pid, self.child)
        self._before = {pid: (resident_bytes(pid), sockets_of(pid)) for pid in pids}
        while True:
            self.look()
            await asyncio.sleep(0.1)


def sockets_of(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@asynccontextmanager
async def attacked(tmp_path: Path, model: Path) -> AsyncIterator[tuple[Daemon, Cost]]:
    """A daemon that gives to a page from before the block on, rightly, whatever happens to it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        hub = await enter(hub_with(model))
        daemon = await enter(daemon_at(tmp_path / "a", hub.url, own_address(), PACE))
        browser = await enter(chromium())
        await daemon.hold()
        page = await page_of(browser, daemon)
        child = await daemon.child()
        cost = Cost(daemon, child)

        async def download() -> None:
            seen = await fetched(page, hub.url)
            assert (seen["bytes"], seen["sha256"]) == (SIZE, digest_of(model))
            assert givers(seen) == {await id_of(daemon): SIZE}

        async with asyncio.timeout(2 * BOUND_S), asyncio.TaskGroup() as group:
            watching = group.create_task(cost.watch())
            downloading = group.create_task(download())
            await until_read(page, 1)
            yield daemon, cost
            await downloading
            watching.cancel()
        assert daemon.children == [child]  # it was not even started again
        assert cost.memory < MEMORY_LIMIT


@pytest.mark.asyncio
async def test_a_thousand_offers_that_lead_nowhere_leave_a_page_alone(
    tmp_path: Path, model: Path
) -> None:
    seen: Counter[int] = Counter()

    async def offers(local: str, count: int) -> None:
        for _ in range(count):
            seen[(await post(daemon, offer_of_nobody(), local))[0]] += 1

    async with attacked(tmp_path, model) as (daemon, cost):
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for at in range(40):
                group.create_task(offers(f"127.0.2.{at + 1}", 25))
        seconds = time.monotonic() - began
    assert set(seen) == {200, 429} and seen.total() == 1000
    assert seen[200] <= HALF_OPEN_LIMIT * (1 + seconds // HALF_OPEN_S)
    # A session has one socket for each address; the daemon's own are the attackers' connections.
    assert cost.sockets < 100


@pytest.mark.asyncio
async def test_garbage_and_endless_messages_leave_a_page_alone(tmp_path: Path, model: Path) -> None:
    async with (
        attacked(tmp_path, model) as (daemon, _cost),
        foreign_at(daemon) as (endless, _),
        foreign_at(daemon) as (garbage, noisy),
    ):
        noisy.send(secrets.token_bytes(60_000))
        for tsn in range(5000):
            if endless.is_closed.is_set():
                break
            await endless.fragment(tsn, b"x" * 1000, flags=0 if tsn else FIRST)
            await asyncio.sleep(0.001 if tsn % 50 == 49 else 0)
        await endless.closed()
        await garbage.closed()


@pytest.mark.asyncio
async def test_pages_that_stop_reading_leave_the_slots_to_others(
    tmp_path: Path, model: Path
) -> None:
    blob, part = Sha256(digest_of(model)), SIZE // (2 * UPLOADS_LIMIT)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        hub = await enter(hub_with(model))
        daemon = await enter(daemon_at(tmp_path / "a", hub.url, own_address()))
        browser = await enter(chromium())
        await daemon.hold()
        page = await page_of(browser, daemon)
        child = await daemon.child()
        before = resident_bytes(child)
        sleepers = -(-UPLOADS_LIMIT // PEER_UPLOADS_LIMIT)
        for sleeper in range(sleepers):
            deaf, asking = await enter(foreign_at(daemon))
            for number in range(PEER_UPLOADS_LIMIT):
                start = (sleeper * PEER_UPLOADS_LIMIT + number) * part
                asking.send(pack(Get(number, blob, start, start + part)))
            async with asyncio.timeout(BOUND_S):
                await deaf.messages.get()
            # It acknowledges what has come and never has room for more.
            deaf.association._advertised_rwnd = -(1 << 30)
        async with asyncio.timeout(BOUND_S):
            seen = await fetched(page, hub.url)
        assert (seen["sha256"], givers(seen)) == (blob.value, {await id_of(daemon): SIZE})
        assert daemon.children == [child]
        assert resident_bytes(child) - before < MEMORY_LIMIT


@asynccontextmanager
async def foreign_at(daemon: Daemon) -> AsyncIterator[tuple[Foreign, RTCDataChannel]]:
    """A page of our making that has shaken hands with the daemon."""
    foreign = Foreign()
    try:
        channel, is_open = foreign.open(), asyncio.Event()
        channel.on("open", is_open.set)
        offer = await foreign.offer()
        status, body = await post(daemon, format_signed(SignedSdp(offer, "")))
        assert status == 200
        answer = parse_signed(body).sdp
        await foreign.take(answer)
        async with asyncio.timeout(BOUND_S):
            await is_open.wait()
            await shake(foreign, channel, (fingerprint(offer), fingerprint(answer)))
        await foreign.association._data_channel_flush()
        yield foreign, channel
    finally:
        await foreign.close()


async def shake(foreign: Foreign, channel: RTCDataChannel, ends: tuple[str, str]) -> None:
    """Shake hands as a page does."""
    talk = Conversation(
        Greeting(LINK_PROTOCOL, PeerId(secrets.token_hex(16)), "page-1", 0,
                 secrets.token_bytes(NONCE_BYTES)),
        is_dialler=True, binding=ends, ticket=secrets.token_bytes(TICKET_BYTES),
        secret=None, now=time.monotonic(),
    )  # fmt: skip
    while True:
        for frame in talk.outgoing():
            channel.send(frame)
        if talk.state is not State.GREETING:
            return
        talk.receive(await foreign.messages.get(), time.monotonic())


@pytest.mark.asyncio
async def test_a_room_full_of_strangers_leaves_a_page_alone(tmp_path: Path, model: Path) -> None:
    count = 2 * DAEMONS_PER_ROOM_LIMIT
    told: list[Notice | None] = []
    async with AsyncExitStack() as stack, attacked(tmp_path, model) as (daemon, _cost):

        async def come(at: int) -> None:
            place, id = f"127.0.3.{at % 250 + 1}", secrets.token_hex(16)
            made = await stack.enter_async_context(seat(daemon, id, local=place))
            told.append(await made.hear())

        async with asyncio.TaskGroup() as group:
            for at in range(count):
                group.create_task(come(at))
    joined = [notice for notice in told if isinstance(notice, Joined)]
    assert 0 < len(joined) <= DAEMONS_PER_ROOM_LIMIT
