"""The page door: the dashboard and its files, without any external address.

Everything a page of ours may do stands in its Content-Security-Policy: its own scripts, styles and
answers, nothing inline, nothing from elsewhere, never inside a frame.
"""

from __future__ import annotations

from importlib.resources import files

from aiohttp import hdrs, web

from p2pmodels.errors import NotFound

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-cache",
}


class PageDoor:
    """Serves the files of `static/`, read once."""

    def __init__(self) -> None:
        folder = files("p2pmodels.doors") / "static"
        self._files: dict[str, tuple[bytes, str]] = {}
        for item in folder.iterdir():
            kind = _TYPES.get("." + item.name.rpartition(".")[2])
            if kind is not None:
                self._files[item.name] = (item.read_bytes(), kind)

    async def index(self, _request: web.Request) -> web.Response:
        """`/`: the dashboard."""
        return self._give("index.html")

    async def static(self, request: web.Request) -> web.Response:
        """`/static/{name}`."""
        return self._give(request.match_info["name"])

    def _give(self, name: str) -> web.Response:
        if name not in self._files:
            raise NotFound("no such page")
        body, kind = self._files[name]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_PAGE_HEADERS)
