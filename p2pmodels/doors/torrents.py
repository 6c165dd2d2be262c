"""Torrents for web pages and for people: `/torrents/{commit or sha256}.torrent`.

1. Only what is shared as public is given, by a name that the request contains; there is no list.
2. The torrent names the tracker at the address that it was asked at, which the guard has checked
   to be ours, for programs (HTTP) and for pages (WebSocket); and where the files are here too,
   those as a web seed (BEP 19).
3. The info dictionary is never touched: it is the same torrent, by the same infohash, everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import hdrs, web

from p2pmodels.core.peer import parse_torrent_name
from p2pmodels.core.pieces import KIB, PIECE_LENGTH_MAX
from p2pmodels.core.ranges import parse_range
from p2pmodels.core.torrent import Torrent, TorrentName
from p2pmodels.doors.announce import ANNOUNCE_PATH
from p2pmodels.doors.signal import WebOrigin
from p2pmodels.errors import NotFound, Overloaded
from p2pmodels.sources.swarm.torrents import PAD_FOLDER, handed_out

TORRENTS_PATH = "/torrents/"
HANDED_LIMIT = 16  # torrents on their way at once; 8 MiB each at the very most
HANDED_LIMIT_S = 30.0  # seconds to take one; a reader that stalls frees its memory
BLOCK = 64 * KIB  # bytes handed to the socket at once


@dataclass(eq=False)
class TorrentsDoor:
    """The routes of torrents, and of the pad files that a web seed must give as well.

    `shared` gives the torrent if its data is here and may be shared now; `web_origin` is as at the
    `AnnounceDoor`. `tracker` is the tracker's WebSocket URL, "" when it is on the port that is
    asked; `has_files` says whether `/webseed/` and `/files/` are.
    """

    shared: Callable[[TorrentName], Torrent | None]
    web_origin: WebOrigin
    tracker: str = ""
    has_files: bool = False
    _handed: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """What pages may ask of it."""
        return (TORRENTS_PATH,)

    def add_routes(self, app: web.Application) -> None:
        """Register them; before the other routes of web seeds."""
        app.router.add_get(TORRENTS_PATH + "{name}.torrent", self.torrent, allow_head=False)
        if self.has_files:
            app.router.add_get(f"/webseed/{{commit}}/{PAD_FOLDER}/{{size:[0-9]{{1,8}}}}", pad)

    async def torrent(self, request: web.Request) -> web.StreamResponse:
        """A torrent that a page can use."""
        origin = self.web_origin(request)
        torrent = self.shared(parse_torrent_name(request.match_info["name"]))
        if torrent is None:
            raise NotFound("no such torrent")
        if self._handed >= HANDED_LIMIT:
            raise Overloaded("too many torrents are being sent")
        self._handed += 1
        try:
            async with asyncio.timeout(HANDED_LIMIT_S):
                return await _send(request, self._text(torrent, request), origin)
        except TimeoutError as error:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("a reader of a torrent stalls") from error
        finally:
            self._handed -= 1

    def _text(self, torrent: Torrent, request: web.Request) -> bytes:
        scheme, host = ("wss", "https") if request.secure else ("ws", "http")
        pages = self.tracker or f"{scheme}://{request.host}{ANNOUNCE_PATH}"
        # Pages use all of them; a program takes the first, few can speak to a page.
        trackers = ("http" + pages.removeprefix("ws"), pages)
        folder = "webseed" if len(torrent.name.value) == 40 else "files"
        # webtorrent asks for ranges of empty files too, and gives the piece up when told no.
        is_seed = self.has_files and all(file.size for file in torrent.files)
        seed = f"{host}://{request.host}/{folder}/" if is_seed else ""
        return handed_out(torrent, trackers, seed)


async def pad(request: web.Request) -> web.Response:
    """The zeros between two files (BEP 47): clients ask web seeds for them too."""
    size = int(request.match_info["size"])
    if not 0 < size < PIECE_LENGTH_MAX:
        raise NotFound("no such pad file")
    span = parse_range(request.headers.get(hdrs.RANGE), size)
    if span is None:
        return web.Response(body=bytes(size))
    headers = {hdrs.CONTENT_RANGE: span.content_range}
    return web.Response(status=206, body=bytes(span.length), headers=headers)


async def _send(request: web.Request, data: bytes, origin: str | None) -> web.StreamResponse:
    answer = web.StreamResponse(
        headers={
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "cross-origin" if origin else "same-origin",
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.VARY: hdrs.ORIGIN,
        }
    )
    if origin is not None:
        answer.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    answer.content_type = "application/x-bittorrent"
    answer.content_length = len(data)
    await answer.prepare(request)
    for start in range(0, len(data), BLOCK):
        await answer.write(data[start : start + BLOCK])
    await answer.write_eof()
    return answer
