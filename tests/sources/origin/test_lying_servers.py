"""Servers that lie about what they send (reliability B16, H6)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from p2pmodels.errors import NetworkFailed, SizeMismatch, SourceFailed
from p2pmodels.store.partials import Partial
from tests.sources.origin.world import DATA, MIB, Shelf, origin_at, spy, want_of

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
BODY = DATA[: 3 * MIB]
SHORT = DATA[:1000]


async def fill_from(answer: Answer, shelf: Shelf, **options: object) -> Partial:
    """Fill BODY from a server of the test's own, which ranges may be asked of."""
    want = want_of(BODY)
    partial = await shelf.partial(want)
    async with spy(answer) as server, origin_at(server.url, None, **options) as origin:
        async with asyncio.timeout(20):
            await origin.fill(want, partial, lambda: [0])
    return partial


def span_of(request: web.BaseRequest) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return (int(match[1]), int(match[2]) + 1) if match else (0, len(BODY))


def part(request: web.BaseRequest, body: bytes | None = None, **headers: str) -> web.Response:
    start, stop = span_of(request)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if "Range" not in request.headers:
        return web.Response(body=BODY if body is None else body, headers=named)
    named.setdefault("Content-Range", f"bytes {start}-{stop - 1}/{len(BODY)}")
    return web.Response(status=206, body=BODY[start:stop] if body is None else body, headers=named)


@pytest.mark.asyncio
async def test_plain_file_server_with_ranges_works(shelf: Shelf) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return part(request, ETag='"mtime-size"')

    await (await fill_from(answer, shelf)).seal()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "header",
    ["bytes 0-1048575/*", "bytes 1-1048576/3145728", "bytes 0-1048575/3145729", "0-1048575/3145728",
     "bytes 0-1048574/3145728", "bytes 0-1048575/3145728, bytes 0-1/2", "bytes */3145728",
     "bytes \u0660-1048575/3145728", "bytes -1-1048575/3145728"],
)  # fmt: skip
async def test_content_range_must_be_exactly_what_was_asked(shelf: Shelf, header: str) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return part(request, Content_Range=header)

    with pytest.raises(SourceFailed):
        await fill_from(answer, shelf)
    assert shelf.made[0].landed.total == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [0, 10, 2 * MIB])
async def test_part_of_another_length_is_refused(shelf: Shelf, length: int) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return part(request, DATA[:length])

    with pytest.raises(SizeMismatch):
        await fill_from(answer, shelf)


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [10, len(BODY) - 1, len(BODY) + 1])
async def test_file_of_another_length_is_refused(shelf: Shelf, length: int) -> None:
    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=DATA[:length])

    with pytest.raises(SizeMismatch):
        await fill_from(answer, shelf)
    assert shelf.made[0].landed.total == 0


@pytest.mark.asyncio
async def test_body_without_end_is_cut_at_the_declared_size(shelf: Shelf) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(BODY)
        for _ in range(200):
            await response.write(BODY)
        return response

    with pytest.raises(SizeMismatch, match="more bytes"):
        await fill_from(endless, shelf)
    assert shelf.made[0].path.stat().st_size == len(BODY)


@pytest.mark.asyncio
async def test_one_byte_too_many_is_an_error_also_in_the_last_packet(shelf: Shelf) -> None:
    async def generous(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(SHORT + b"x")
        return response

    want = want_of(SHORT)
    async with spy(generous) as server, origin_at(server.url) as origin:
        with pytest.raises(SizeMismatch, match="more bytes"):
            await origin.fill(want, await shelf.partial(want), lambda: [0])


@pytest.mark.asyncio
async def test_server_that_takes_one_connection_only_is_not_pestered(shelf: Shelf) -> None:
    running = refused = 0

    async def lone(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal running, refused
        if running:
            refused += 1
            return web.Response(status=503)
        running += 1
        start, stop = span_of(request)
        response = web.StreamResponse(
            status=206, headers={"Content-Range": f"bytes {start}-{stop - 1}/{len(BODY)}"}
        )
        await response.prepare(request)
        for at in range(start, stop, 32768):
            await asyncio.sleep(0.001)  # time for the helpers to come
            await response.write(BODY[at : min(stop, at + 32768)])
        running -= 1
        return response

    await (await fill_from(lone, shelf, segment_bytes=256 * 1024)).seal()
    assert 0 < refused <= 3


@pytest.mark.asyncio
async def test_body_that_ends_early_is_tried_again_and_then_given_up(shelf: Shelf) -> None:
    asked = 0

    async def short(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(BODY[:10])
        return response

    with pytest.raises(NetworkFailed, match="byte 10"):
        await fill_from(short, shelf)
    assert asked == 4, "one brought ten bytes, three more brought none"
    assert list(shelf.made[0].landed) == [(0, 10)]


@pytest.mark.asyncio
async def test_file_that_changes_between_two_ranges_is_resolved_anew(shelf: Shelf) -> None:
    asked = 0

    async def change(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return part(request, ETag='"one"' if asked == 1 else '"two"')

    await (await fill_from(change, shelf, connections=1)).seal()
    assert asked == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [204, 304, 400, 405, 416, 418, 500, 501, 503])
async def test_odd_status_is_a_source_that_failed(shelf: Shelf, status: int) -> None:
    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status)

    with pytest.raises(SourceFailed):
        await fill_from(answer, shelf)


@pytest.mark.asyncio
async def test_answer_that_is_not_http_is_refused(shelf: Shelf) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with origin_at(f"http://127.0.0.1:{port}") as origin:
            want = want_of(BODY)
            with pytest.raises(SourceFailed):
                await origin.fill(want, await shelf.partial(want), lambda: [0])
