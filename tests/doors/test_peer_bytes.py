"""The peer port's bytes and links over real sockets: who gets them, and what never leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.wire import FRAME_BYTES_LIMIT
from p2pmodels.doors import peer as peer_door
from p2pmodels.doors import peer_bytes
from p2pmodels.doors.peer_bytes import PULL_BYTES_LIMIT
from p2pmodels.transfer.uploads import UPLOADS_LIMIT, HeldBytes, RateLimit, Uploads
from tests.fakes import FakeClock
from tests.peer_fakes import MemoryCatalogue, MemoryLinks, door, fresh_id

BOUND_S = 20.0  # seconds for anything that waits for the network here
BLOB, SMALL = Sha256("b1" * 32), GitId("a1" * 20)
SIZE = 3_000_000
BODY = os.urandom(SIZE)


@dataclass
class Lab:
    """A peer port with one large and one small blob, and a ticket for it."""

    folder: Path
    uploads: Uploads = field(default_factory=lambda: Uploads(FakeClock()))
    links: MemoryLinks = field(default_factory=MemoryLinks)
    catalogue: MemoryCatalogue = field(default_factory=MemoryCatalogue)
    address: PeerAddress = field(default_factory=lambda: PeerAddress("127.0.0.1", 7879))
    session: aiohttp.ClientSession | None = None

    @property
    def path(self) -> Path:
        return self.folder / "blob"

    @asynccontextmanager
    async def __call__(self, *home: str) -> AsyncIterator[Lab]:
        self.path.write_bytes(BODY)
        (self.folder / "small").write_bytes(b"{}")
        self.catalogue.blobs = {
            BLOB: HeldBytes(self.path, SIZE),
            SMALL: HeldBytes(self.folder / "small", 2),
        }
        is_home = home.__contains__ if home else (lambda _host: True)
        async with door(
            self.catalogue, clock=FakeClock(), links=self.links, uploads=self.uploads,
            is_home=is_home,
        ) as self.address, aiohttp.ClientSession() as self.session:  # fmt: skip
            yield self

    async def ask(
        self, digest: object = BLOB, range: str | None = "bytes=0-9", ticket: str | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers; a fresh ticket unless one is given ("": none)."""
        headers = {"X-P2PModels-Ticket": self.links.ticket() if ticket is None else ticket}
        if range is not None:
            headers["Range"] = range
        if not ticket and ticket is not None:
            del headers["X-P2PModels-Ticket"]
        assert self.session is not None
        url = f"http://{self.address}/peer/v1/blobs/{digest}"
        async with self.session.get(url, headers=headers) as answer:
            return answer.status, await answer.read(), dict(answer.headers)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


# bytes


@pytest.mark.asyncio
@pytest.mark.parametrize(("start", "stop"), [(0, SIZE), (0, 1), (SIZE - 1, SIZE), (77, 2_000_000)])
async def test_range_is_answered_exactly(lab: Lab, start: int, stop: int) -> None:
    async with lab():
        status, body, headers = await lab.ask(range=f"bytes={start}-{stop - 1}")
    assert status == 206 and body == BODY[start:stop]
    assert headers["Content-Length"] == str(stop - start)
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert headers["Cache-Control"] == "no-store"
    assert lab.uploads.total == stop - start and lab.uploads.load[0] == 0


@pytest.mark.asyncio
async def test_small_files_are_named_by_their_git_id_and_counted_for_their_taker(lab: Lab) -> None:
    peer = fresh_id()
    async with lab():
        assert (await lab.ask(SMALL, "bytes=0-1", lab.links.ticket(peer)))[1] == b"{}"
    assert lab.uploads.sent_to(peer) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("ticket", ["", "0" * 32, "x", "0" * 5000])
async def test_without_a_valid_ticket_there_are_no_bytes(lab: Lab, ticket: str) -> None:
    async with lab():
        lab.links.ticket()
        status, body, _ = await lab.ask(ticket=ticket)
    assert status == 403 and BODY[:10] not in body


@pytest.mark.asyncio
async def test_without_a_ticket_what_is_here_looks_like_what_is_not(lab: Lab) -> None:
    async with lab():
        assert (await lab.ask(ticket=""))[:2] == (await lab.ask(Sha256("0" * 64), ticket=""))[:2]


@pytest.mark.asyncio
async def test_addresses_away_from_home_get_neither_bytes_nor_a_link(lab: Lab) -> None:
    async with lab("10.0.0.1"):
        assert (await lab.ask())[0] == 403
        assert lab.session is not None
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await lab.session.ws_connect(f"http://{lab.address}/peer/v1/link")
        assert caught.value.status == 403
        async with lab.session.get(f"http://{lab.address}/peer/v1/hello") as answer:
            assert answer.status == 200
    assert not lab.links.ends and lab.uploads.total == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(("digest", "status"), [
    (Sha256("0" * 64), 404), (GitId("0" * 40), 404), ("x", 400), ("B1" * 32, 400),
    (f"{BLOB}/", 404), ("..%2f..%2fetc", 400), ("0" * 5000, 400),
])  # fmt: skip
async def test_what_is_not_here_does_not_exist(lab: Lab, digest: object, status: int) -> None:
    async with lab():
        assert (await lab.ask(digest))[0] == status


@pytest.mark.asyncio
@pytest.mark.parametrize(("range", "status"), [
    (None, 400), ("bytes=0-", 400), ("bytes=-5", 400), ("bytes=5-4", 400), ("bytes=0-1,3-4", 400),
    ("items=0-1", 400), (f"bytes=0-{PULL_BYTES_LIMIT}", 400), ("bytes=" + "9" * 30 + "-", 400),
    (f"bytes=0-{SIZE}", 416), (f"bytes={SIZE}-{SIZE}", 416),
])  # fmt: skip
async def test_other_ranges_are_refused(lab: Lab, range: str | None, status: int) -> None:
    async with lab():
        assert (await lab.ask(range=range))[0] == status
    assert lab.uploads.total == 0


@pytest.mark.asyncio
async def test_head_is_not_allowed(lab: Lab) -> None:
    async with lab():
        assert lab.session is not None
        async with lab.session.head(f"http://{lab.address}/peer/v1/blobs/{BLOB}") as answer:
            assert answer.status == 405


@pytest.mark.asyncio
async def test_full_slots_say_when_to_come_again(lab: Lab) -> None:
    async with lab():
        with contextlib.ExitStack() as slots:
            for number in range(UPLOADS_LIMIT):
                span = (number << 23, (number + 1) << 23)
                slots.enter_context(lab.uploads.take(fresh_id(), BLOB, *span, 1 << 30))
            status, body, headers = await lab.ask(SMALL, "bytes=0-1")
            assert status == 503 and b"rate_limited" in body
            assert headers["Retry-After"] == "1"
            assert 0 < int(headers["X-P2PModels-Retry-After-Ms"]) < 1000
        assert (await lab.ask(SMALL, "bytes=0-1"))[0] == 206


@pytest.mark.asyncio
async def test_file_that_moved_is_looked_up_again(lab: Lab) -> None:
    class Moving(MemoryCatalogue):
        looks = 0

        def held(self, digest: Digest, start: int, stop: int) -> HeldBytes | None:
            self.looks += 1
            where = lab.path if self.looks == 3 else lab.folder / "gone"
            return HeldBytes(where, SIZE)

    lab.catalogue = Moving()
    async with lab():
        assert (await lab.ask())[1] == BODY[:10]


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["gone", "short", "a link", "a pipe"])
async def test_file_that_is_not_what_it_should_be_does_not_exist(lab: Lab, what: str) -> None:
    async with lab():
        lab.path.unlink()
        if what == "short":
            lab.path.write_bytes(BODY[:9])
        elif what == "a link":
            lab.path.symlink_to(lab.folder / "small")
        elif what == "a pipe":
            os.mkfifo(lab.path)
        status, body, _ = await lab.ask()
    assert status == 404 and str(lab.folder).encode() not in body


@pytest.mark.asyncio
async def test_file_that_becomes_short_resets_the_connection(lab: Lab) -> None:
    class Shrinking(Uploads):
        async def pace(self, amount: int) -> None:
            os.truncate(lab.path, 1000)  # after the head was sent

    lab.uploads = Shrinking(FakeClock())
    async with lab():
        with pytest.raises(aiohttp.ClientError):
            await lab.ask(range=f"bytes=0-{SIZE - 1}")
    assert lab.uploads.load[0] == 0


@pytest.mark.asyncio
async def test_peer_that_stops_reading_is_reset_and_its_slot_is_free(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_bytes, "PEER_IDLE_WRITE_S", 0.2)
    size = 64 << 20  # bytes; more than the sockets' own buffers take
    async with lab():
        with lab.path.open("wb") as file:
            file.truncate(size)
        lab.catalogue.blobs[BLOB] = HeldBytes(lab.path, size)
        reader, writer = await asyncio.open_connection(
            lab.address.host, lab.address.port, limit=1024
        )
        lines = [
            f"GET /peer/v1/blobs/{BLOB} HTTP/1.1", f"Host: {lab.address}",
            f"X-P2PModels-Ticket: {lab.links.ticket()}", f"Range: bytes=0-{size - 1}",
        ]  # fmt: skip
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert b"206" in await reader.readline()
        assert lab.uploads.load[0] == 1
        async with asyncio.timeout(BOUND_S):
            while lab.uploads.load[0]:
                await asyncio.sleep(0.01)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while block := await reader.read(1 << 20):
                    received += len(block)
        assert received < size
        writer.close()


@pytest.mark.asyncio
async def test_bytes_go_out_at_the_rate_that_was_set(lab: Lab) -> None:
    clock = FakeClock()
    lab.uploads = Uploads(clock, RateLimit(clock, 1_000_000))
    async with lab():
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(lab.ask(range="bytes=0-999999"))
            async with asyncio.timeout(BOUND_S):
                for _ in range(10):
                    await clock.until_sleeping()
                    clock.advance(0.1)
        assert asked.result()[1] == BODY[:1_000_000]
    assert clock.monotonic() == pytest.approx(1.0)


@pytest.mark.asyncio
async def test_pulls_with_a_ticket_have_a_bound_of_their_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_door, "PULLS_BURST", 5)
    async with lab():
        ticket = lab.links.ticket()
        for _ in range(5):
            assert (await lab.ask(SMALL, "bytes=0-1", ticket))[0] == 206
        status, _, headers = await lab.ask(SMALL, "bytes=0-1", ticket)
        assert status == 429 and headers["X-P2PModels-Retry-After-Ms"] == "1000"
        # guessed tickets count like any other question
        assert (await lab.ask(SMALL, "bytes=0-1", "0" * 32))[0] == 403


# links


@pytest.mark.asyncio
async def test_link_carries_messages_up_to_a_frame(lab: Lab) -> None:
    async with lab():
        assert lab.session is not None
        async with lab.session.ws_connect(f"http://{lab.address}/peer/v1/link") as link:
            for data in (b"", b"x", os.urandom(FRAME_BYTES_LIMIT)):
                await link.send_bytes(data)
                assert await link.receive_bytes(timeout=BOUND_S) == data
    assert lab.links.ends == [("127.0.0.1", "127.0.0.1")]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["text", "too long"])
async def test_any_other_message_ends_the_link(lab: Lab, kind: str) -> None:
    async with lab():
        assert lab.session is not None
        async with lab.session.ws_connect(f"http://{lab.address}/peer/v1/link") as link:
            if kind == "text":
                await link.send_str("hello")
            else:
                await link.send_bytes(bytes(FRAME_BYTES_LIMIT + 1))
            async with asyncio.timeout(BOUND_S):
                message = await link.receive()
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


@pytest.mark.asyncio
async def test_compression_is_not_offered(lab: Lab) -> None:
    async with lab():
        assert lab.session is not None
        url = f"http://{lab.address}/peer/v1/link"
        async with lab.session.ws_connect(url, compress=15) as link:
            assert link.compress == 0


@pytest.mark.asyncio
async def test_plain_request_for_a_link_is_a_bad_request(lab: Lab) -> None:
    async with lab():
        assert lab.session is not None
        async with lab.session.get(f"http://{lab.address}/peer/v1/link") as answer:
            assert answer.status == 400
    assert not lab.links.ends


@pytest.mark.asyncio
@pytest.mark.parametrize("header", ["Origin", "Sec-Fetch-Site"])
async def test_no_web_page_gets_a_link(lab: Lab, header: str) -> None:
    async with lab():
        assert lab.session is not None
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await lab.session.ws_connect(
                f"http://{lab.address}/peer/v1/link", headers={header: "same-origin"}
            )
        assert caught.value.status == 403
    assert not lab.links.ends
