"""The browser door: `p2pmodels.js` for any page, and the `/try` page that shows it at work.

1. The module may be imported from everywhere: it is public code and says nothing of this machine.
   Whether a page may then talk to this daemon is decided elsewhere.
2. What may be read is a fixed list, read once; no request names a file.
3. The page has a policy of its own: our scripts, and connections to where model files come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from urllib.parse import urlsplit

from aiohttp import hdrs, web

MODULE_PATH = "/p2pmodels.js"
SIBLINGS_PATH = "/p2pmodels/"
TRY_PATH = "/try"
DEFAULT_HUB = "https://huggingface.co"

# Hubs answer large files with a redirect, and a policy looks at where it leads.
_HUB_STORES = ("https://*.huggingface.co", "https://*.hf.co")
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PAGE = {
    "try.js": "module",
    "try.css": "module",
    "dashboard.css": "static",
    "dom.js": "static",
    "words.js": "static",
    "icon.svg": "static",
}
"""What the page consists of besides its markup, by the folder it lies in."""


class BrowserDoor:
    """The module with its siblings and the page. `paths` are all that it answers.

    `hubs` are the hubs that pages fetch from, the first of them for the `/try` page; `daemon` is
    the local endpoint of the machine that a page runs on.
    """

    def __init__(
        self,
        hubs: Sequence[str] = (DEFAULT_HUB,),
        daemon: str = "http://127.0.0.1:7878",
    ) -> None:
        folder = files("p2pmodels.doors") / "module"
        self._files: dict[str, tuple[bytes, str]] = {}
        self._keep(MODULE_PATH, (folder / "p2pmodels.js").read_bytes())
        for item in (folder / "p2pmodels").iterdir():
            if item.name.endswith(".js"):
                self._keep(SIBLINGS_PATH + item.name, item.read_bytes())
        for name, place in _PAGE.items():
            source = files("p2pmodels.doors") / place / name
            self._keep(SIBLINGS_PATH + name, source.read_bytes())
        page = (folder / "try.html").read_text()
        self._keep(TRY_PATH, page.replace("{{hub}}", hubs[0]).encode(), "text/html")
        self._policy = content_security_policy([*hubs, daemon])

    @property
    def paths(self) -> frozenset[str]:
        """Every path that is answered here: a guard that keeps pages out must let these through."""
        return frozenset(self._files)

    def add_routes(self, app: web.Application) -> None:
        """Add the routes, for GET and HEAD."""
        for path in sorted(self._files):
            app.router.add_get(path, self.give)

    async def give(self, request: web.Request) -> web.Response:
        """A file of the list, or 304 when the client has it."""
        body, kind = self._files[request.path]
        tag = hashlib.sha256(body).hexdigest()
        headers = {
            hdrs.ETAG: f'"{tag}"',
            hdrs.CACHE_CONTROL: "no-cache",  # asked again each time, answered 304
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if request.path == TRY_PATH:
            headers |= {"Content-Security-Policy": self._policy, "X-Frame-Options": "DENY"}
        else:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
            # Without it a page that isolates itself for threaded WebAssembly could not import us.
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if any(found.value in (tag, "*") for found in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    def _keep(self, path: str, body: bytes, kind: str = "") -> None:
        self._files[path] = (body, kind or _TYPES[path.rpartition(".")[2]])


def content_security_policy(origins: Sequence[str]) -> str:
    """The policy of the `/try` page, which may connect to the web origins of `origins`."""
    places = {f"{url.scheme}://{url.netloc}" for url in map(urlsplit, origins) if url.netloc}
    if DEFAULT_HUB in places:
        places.update(_HUB_STORES)
    return (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        f"img-src 'self' data:; connect-src 'self' {' '.join(sorted(places))}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
