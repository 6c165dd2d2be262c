"""Clients that stop reading: the file is not held for them for ever (reliability F3)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from p2pmodels.core.digests import Sha256
from p2pmodels.core.manifest import FileEntry
from p2pmodels.core.names import FilePath
from p2pmodels.doors import answers as answers_module
from p2pmodels.doors import opener as opener_module
from p2pmodels.doors.answers import Answers, FileAnswer
from p2pmodels.errors import Overloaded
from p2pmodels.store.blobs import Blob
from p2pmodels.store.figures import Figures
from p2pmodels.store.index import Index
from p2pmodels.workers import Lane

SIZE = 64 << 20  # bytes; more than all socket buffers take
BOUND_S = 10
NAME = Sha256("a" * 64)


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_cut_off_and_the_file_let_go(
    tmp_path: Path, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "IDLE_WRITE_S", 0.2)
    blob = Blob(NAME, SIZE, tmp_path / "blob")
    with blob.path.open("wb") as file:
        file.truncate(SIZE)
    answers = Answers(lane, Figures(Index(tmp_path / "index"), lane))
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> web.StreamResponse:
        entry = FileEntry(FilePath("x"), SIZE, NAME)
        try:
            return await answers.blob(request, FileAnswer(entry), blob)
        except ConnectionError as error:
            ended.set_result(error)
            raise

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        async with asyncio.timeout(BOUND_S):
            assert isinstance(await ended, ConnectionError)
        writer.close()
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
async def test_too_many_open_files_is_not_yet_and_says_nothing_against_the_blob(
    tmp_path: Path, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = Blob(NAME, 5, tmp_path / "blob")
    blob.path.write_bytes(b"12345")

    def no_more(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched, pytest.raises(Overloaded):
        patched.setattr(os, "open", no_more)
        opener_module._open(blob)
