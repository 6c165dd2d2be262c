"""The rendezvous over real WebSockets: who gets which message, who gets in, what is bounded."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import Commit, FilePath, RepoId, RepoKind, Revision
from p2pmodels.core.peer import PeerId
from p2pmodels.core.rooms import (
    MEMBERS_PER_ADDRESS_LIMIT,
    MESSAGES_BURST_LIMIT,
    OFFERS_FROM_ADDRESS_LIMIT,
)
from p2pmodels.core.signal_texts import REQUEST_BYTES_LIMIT
from p2pmodels.core.signalling import (
    Answer,
    Came,
    Expelled,
    FileAnswer,
    FileKind,
    FileQuestion,
    FileUnknown,
    Heard,
    Join,
    Left,
    Member,
    MemberKind,
    Offer,
    Refused,
    Sent,
    SignedSdp,
)
from p2pmodels.doors import signal
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.lobby import KnownFile
from tests.fakes import FakeClock
from tests.peer_fakes import fresh_id
from tests.signal_fakes import (
    Callers,
    description,
    eventually,
    rendezvous_door,
    sdp,
)

OWN, A, B = PeerId("0" * 32), PeerId("a" * 32), PeerId("b" * 32)
KNOWN = KnownFile(Sha256("d" * 64), 200, Commit("c" * 40))
QUESTION = FileQuestion(3, "org/m", "main", "w/ö.bin", FileKind.DATASET)


@pytest.mark.asyncio
async def test_members_learn_of_daemons_and_pass_offers_and_answers() -> None:
    async with rendezvous_door(own=OWN) as served, Callers(served) as callers:
        a, joined = await callers.join(id=A)
        [own] = joined.members
        assert own.id == OWN and own.kind is MemberKind.DAEMON
        page, joined = await callers.page()
        assert {member.id for member in joined.members} == {OWN, A}
        b, joined = await callers.join(id=B)
        assert {member.id for member in joined.members} == {OWN, A}, "nobody is told of pages"
        came = Came(Member(b.name, MemberKind.DAEMON, B))
        assert await a.hear() == came
        assert await page.hear() == came
        offer = Offer("s1", description(1))
        await page.say(Sent(a.name, offer))
        assert await a.hear() == Heard(page.name, MemberKind.PAGE, offer)
        answer = Answer("s1", description(2))
        await a.say(Sent(page.name, answer))
        assert await page.hear() == Heard(a.name, MemberKind.DAEMON, answer)
        await b.socket.close()
        assert await a.hear() == Left(b.name)
        assert await page.hear() == Left(b.name)


@pytest.mark.asyncio
async def test_this_daemon_hears_and_answers_in_its_own_rooms() -> None:
    async with rendezvous_door(own=OWN) as served, Callers(served) as callers:
        heard: list[Heard] = []

        def hear(message: Heard) -> None:
            heard.append(message)
            served.lobby.say(Sent(message.sender, Refused(message.said.session, "busy", 2.5)))

        async with Tasks() as tasks:
            tasks.start(served.lobby.run(hear), "our own seat")
            page, joined = await callers.page()
            own = joined.members[0].member
            offer = Offer("s1", description(1))
            await page.say(Sent(own, offer))
            expected = Heard(own, MemberKind.DAEMON, Refused("s1", "busy", 2.5))
            assert await page.hear() == expected
            assert heard == [Heard(page.name, MemberKind.PAGE, offer)]
            assert served.lobby.source_of(page.name) == "127.0.0.1"
            assert served.lobby.members() == ()


@pytest.mark.asyncio
async def test_files_are_answered_from_what_is_known() -> None:
    asked: list[object] = []

    def find(repo: RepoId, revision: Revision, path: FilePath) -> KnownFile | None:
        asked.append((repo, revision, path))
        return KNOWN if path.value == "w/ö.bin" else None

    async with rendezvous_door(find=find) as served, Callers(served) as callers:
        page, _ = await callers.page()
        await page.say(QUESTION)
        answer = FileAnswer(3, KNOWN.digest, KNOWN.size, KNOWN.commit)
        assert await page.hear() == answer
        repo = RepoId("org/m", RepoKind.DATASET)
        assert asked == [(repo, Revision("main"), FilePath("w/ö.bin"))]
        for path in ("other", "../etc/passwd", ""):
            await page.say(FileQuestion(4, "org/m", "main", path, FileKind.MODEL))
            assert await page.hear() == FileUnknown(4, "not_found")
        assert len(asked) == 2, "a name that cannot be valid is not looked up"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"]
)
async def test_strange_web_origin_gets_no_socket(origin: str) -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await callers.open(origin)


@pytest.mark.asyncio
@pytest.mark.parametrize("origin", ["https://chat.webllm.ai", "http://localhost:3000", "own"])
async def test_allowed_page_gets_a_socket_but_never_passes_for_a_daemon(origin: str) -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        origin = f"http://{served.address}" if origin == "own" else origin
        page, _ = await callers.join(MemberKind.PAGE, origin=origin)
        liar = await callers.open(origin)
        await liar.say(Join("lan", MemberKind.DAEMON, A))
        assert await liar.hear_all() == [Expelled("not_a_daemon")]
        await page.say(QUESTION)
        assert await page.hear() == FileUnknown(3, "not_found")


@pytest.mark.asyncio
async def test_machine_that_is_not_at_home_gets_no_socket() -> None:
    async with rendezvous_door(is_home=lambda _host: False) as served, Callers(served) as callers:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await callers.open()


@pytest.mark.asyncio
@pytest.mark.parametrize(("message", "code"), [
    ("{", "bad_message"),
    ("[" * 20_000, "bad_message"),
    (b"\x00", "bad_message"),
    ('{"t":"joined","self":"x","members":[]}', "bad_message"),
    (QUESTION, "join_first"),
    (Sent("abc", Offer("s", description())), "join_first"),
])  # fmt: skip
async def test_broken_rule_before_joining_ends_the_socket(message: str, code: str) -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        caller = await callers.open()
        await caller.say(message)
        assert await caller.hear_all() == [Expelled(code)]
        assert caller.socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION


@pytest.mark.asyncio
async def test_message_that_is_too_long_ends_the_socket() -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        caller, _ = await callers.join()
        await caller.say(" " * (REQUEST_BYTES_LIMIT + 1))
        assert await caller.hear_all() in ([], [Expelled("bad_message")])
        await eventually(lambda: served.lobby.members() == ())


@pytest.mark.asyncio
async def test_second_join_ends_the_socket_and_is_told_to_others_as_leaving() -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        a, _ = await callers.join()
        b, _ = await callers.join()
        await b.say(Join("lan", MemberKind.DAEMON, B))
        assert await b.hear_all() == [Expelled("joined_already")]
        assert isinstance(await a.hear(), Came)
        assert await a.hear() == Left(b.name)


@pytest.mark.asyncio
async def test_member_that_does_not_join_loses_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "JOIN_LIMIT_S", 0.1)
    async with rendezvous_door() as served, Callers(served) as callers:
        caller = await callers.open()
        assert await caller.hear_all() == [Expelled("join_first")]


@pytest.mark.asyncio
async def test_members_are_let_go_when_the_daemon_ends() -> None:
    async with AsyncExitStack() as door:
        served = await door.enter_async_context(rendezvous_door())
        async with Callers(served) as callers:
            caller, _ = await callers.join(id=A)
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(caller.hear_all())
                await door.aclose()
            assert hearing.result() == []
            assert caller.socket.close_code == aiohttp.WSCloseCode.OK


@pytest.mark.asyncio
async def test_member_that_leaves_pings_unanswered_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGNAL_HEARTBEAT_S", 0.1)
    async with rendezvous_door() as served:
        reader, writer = await asyncio.open_connection(served.address.host, served.address.port)
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
        head = f"GET /peer/v1/signal HTTP/1.1\r\nHost: {served.address}\r\nConnection: Upgrade"
        writer.write(f"{head}\r\nUpgrade: websocket\r\n{key}\r\n\r\n".encode())
        async with asyncio.timeout(5):
            await reader.read()  # until the server has enough of its silence
        writer.close()


@pytest.mark.asyncio
async def test_flood_of_messages_ends_the_socket_and_troubles_nobody_else() -> None:
    async with rendezvous_door(clock=FakeClock()) as served, Callers(served) as callers:
        honest, _ = await callers.page()
        flooder, _ = await callers.page()
        for _ in range(MESSAGES_BURST_LIMIT):
            await flooder.say(QUESTION)
        *_, last = await flooder.hear_all()
        assert last == Expelled("flood")
        await honest.say(QUESTION)
        assert await honest.hear() == FileUnknown(3, "not_found")


@pytest.mark.asyncio
async def test_one_address_gets_a_bounded_number_of_sockets_and_they_come_back() -> None:
    clock = FakeClock()
    async with rendezvous_door(clock=clock) as served, Callers(served) as callers:
        for _ in range(MEMBERS_PER_ADDRESS_LIMIT):
            caller = await callers.open()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await callers.open()
        await caller.socket.close()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await callers.open()  # free places, but nobody may come and go that fast
        clock.advance(1.0)
        await callers.open()


@pytest.mark.asyncio
async def test_member_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "WAITING_BYTES_LIMIT", 1000)
    async with rendezvous_door() as served, Callers(served) as callers:
        deaf, _ = await callers.join(id=A)
        others = [await callers.join() for _ in range(3)]
        long = Offer("t", SignedSdp(sdp(1) + " " * 2000, ""))
        await others[0][0].say(Sent(deaf.name, long))
        await eventually(lambda: A not in {member.id for member in served.lobby.members()})
        assert len(served.lobby.members()) == 3


@pytest.mark.asyncio
async def test_thousand_offers_to_one_member_are_refused_but_for_a_few() -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        target, _ = await callers.join(id=A)
        refused = 0
        for _ in range(10):
            page, _ = await callers.page()
            for number in range(10):
                await page.say(Sent(target.name, Offer(f"s{number}", description())))
            await page.say(QUESTION)  # answered after all of them
            while not isinstance(notice := await page.hear(), FileUnknown):
                assert isinstance(notice, Heard) and isinstance(notice.said, Refused)
                assert notice.said.code == "busy" and notice.said.retry_s > 0
                refused += 1
        assert refused == 100 - OFFERS_FROM_ADDRESS_LIMIT


@pytest.mark.asyncio
async def test_forged_answers_reach_nobody() -> None:
    async with rendezvous_door() as served, Callers(served) as callers:
        offerer, _ = await callers.join(id=A)
        target, _ = await callers.join(id=B)
        forger, _ = await callers.join(id=fresh_id())
        assert isinstance(await offerer.hear(), Came) and isinstance(await offerer.hear(), Came)
        offer = Offer("s1", description(1))
        await offerer.say(Sent(target.name, offer))
        assert isinstance(await target.hear(), Came)
        assert await target.hear() == Heard(offerer.name, MemberKind.DAEMON, offer)
        await forger.say(Sent(offerer.name, Answer("s1", description(66))))
        await forger.say(Sent(offerer.name, Refused("s1", "busy", 9.0)))
        await forger.say(QUESTION)
        await forger.hear()  # the rendezvous has heard all of it
        answer = Answer("s1", description(2))
        for _ in range(2):  # once is passed on, twice is not
            await target.say(Sent(offerer.name, answer))
        await target.say(QUESTION)
        await target.hear()
        await offerer.say(QUESTION)
        assert await offerer.hear() == Heard(target.name, MemberKind.DAEMON, answer)
        assert isinstance(await offerer.hear(), FileUnknown)
