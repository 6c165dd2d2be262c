"""Offers by one request: who is heard, what a page may read, what is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from p2pmodels.core.signal_texts import (
    REQUEST_BYTES_LIMIT,
    format_signed,
    parse_signed,
)
from p2pmodels.core.signalling import RTC_PATH
from p2pmodels.doors import rtc
from p2pmodels.errors import LanFailed, Overloaded, P2PModelsError
from p2pmodels.transfer.reception import OfferRefused
from tests.signal_fakes import PAGE_ORIGIN, NoMeeting, Served, description, rendezvous_door

PAGE = {"Origin": PAGE_ORIGIN}
BODY = format_signed(description(1))


def url(served: Served) -> str:
    return f"http://{served.address}{RTC_PATH}"


@pytest.mark.asyncio
async def test_offer_is_answered() -> None:
    meeting = NoMeeting()
    async with rendezvous_door(meeting=meeting) as served, aiohttp.ClientSession() as session:
        async with session.post(url(served), data=BODY) as answer:
            assert answer.status == 200
            assert parse_signed(await answer.read()) == description(7)
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert meeting.sources == ["127.0.0.1"]


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [None, OfferRefused(), Overloaded(retry_after_s=8.2)])
async def test_allowed_page_may_read_the_answer_and_the_refusal(
    failure: P2PModelsError | None,
) -> None:
    meeting = NoMeeting()
    meeting.failure = failure
    async with rendezvous_door(meeting=meeting) as served, aiohttp.ClientSession() as session:
        async with session.options(url(served), headers=PAGE) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert answer.headers["Access-Control-Allow-Headers"] == "Content-Type"
        async with session.post(url(served), data=BODY, headers=PAGE) as answer:
            assert answer.status == (200 if failure is None else failure.status)
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN
            assert answer.headers["Vary"] == "Origin"
            if isinstance(failure, Overloaded):
                assert answer.headers["Retry-After"] == "8"


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_page_that_is_not_allowed_learns_nothing(method: str, origin: str) -> None:
    meeting = NoMeeting()
    async with rendezvous_door(meeting=meeting) as served, aiohttp.ClientSession() as session:
        headers = {"Origin": origin}
        async with session.request(method, url(served), data=BODY, headers=headers) as answer:
            assert answer.status >= 400
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert not meeting.sources


@pytest.mark.asyncio
async def test_machine_that_is_not_at_home_is_refused() -> None:
    meeting = NoMeeting()
    door = rendezvous_door(meeting=meeting, is_home=lambda _host: False)
    async with door as served, aiohttp.ClientSession() as session:
        async with session.post(url(served), data=BODY) as answer:
            assert answer.status == 403
    assert not meeting.sources


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", BODY[:-1], BODY + b" " * REQUEST_BYTES_LIMIT,
    b'{"sdp":"v=0\\r\\n","proof":"","more":1}', b'{"sdp":7,"proof":""}', b"\xff" * 100,
    b'{"sdp":"x","proof":""}', b'{"sdp":"v=0\\r\\n","proof":"00"}', b"[" * 20_000,
])  # fmt: skip
async def test_body_that_is_no_description_is_a_bad_request(body: bytes) -> None:
    meeting = NoMeeting()
    async with rendezvous_door(meeting=meeting) as served, aiohttp.ClientSession() as session:
        async with session.post(url(served), data=body) as answer:
            assert answer.status == 400
    assert not meeting.sources


@pytest.mark.asyncio
async def test_body_without_a_length_is_bounded_too() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * (1 << 16)

    meeting = NoMeeting()
    async with rendezvous_door(meeting=meeting) as served, aiohttp.ClientSession() as session:
        with contextlib.suppress(aiohttp.ClientError):  # the server may close before all is sent
            async with session.post(url(served), data=endless()) as answer:
                assert answer.status == 400
    assert not meeting.sources


@pytest.mark.asyncio
async def test_encoded_body_is_refused_unread() -> None:
    headers = {"Content-Encoding": "deflate"}
    async with rendezvous_door() as served, aiohttp.ClientSession() as session:
        async with session.post(url(served), data=zlib.compress(BODY), headers=headers) as answer:
            assert answer.status == 400


@pytest.mark.asyncio
async def test_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc, "OFFER_BODY_LIMIT_S", 0.1)
    async with rendezvous_door() as served:
        reader, writer = await asyncio.open_connection(served.address.host, served.address.port)
        head = f"POST {RTC_PATH} HTTP/1.1\r\nHost: {served.address}\r\nContent-Length: 99\r\n\r\n{{"
        writer.write(head.encode())
        async with asyncio.timeout(5):
            assert (await reader.readline()).split()[1] == b"400"
        writer.close()


@pytest.mark.asyncio
async def test_failure_inside_is_told_by_its_status() -> None:
    meeting = NoMeeting()
    meeting.failure = LanFailed("the WebRTC part starts anew")
    async with rendezvous_door(meeting=meeting) as served, aiohttp.ClientSession() as session:
        async with session.post(url(served), data=BODY) as answer:
            assert answer.status == 502
