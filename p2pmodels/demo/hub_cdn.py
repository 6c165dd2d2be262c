"""The demo hub's second listener: signed addresses under which the bytes of LFS files lie.

1. Only a path that was signed by this hub and has not expired is served; all else is 403.
2. Its answers carry none of the hub's metadata, and an ETag that is not the file's digest.
3. It needs no token; one that arrives all the same stands in the log as `has_authorization`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import parse_qs

from aiohttp import web

from p2pmodels.clock import Clock
from p2pmodels.core.names import RepoId
from p2pmodels.demo.hub_bodies import BodySender, Refused
from p2pmodels.demo.hub_faults import Faults
from p2pmodels.demo.hub_log import Exchange
from p2pmodels.demo.hub_repos import HubFile

LIFETIME_S = 3600.0  # seconds that a signed address is good for; the hub's own figure


class Cdn:
    """The files by path, the key that signs, and the handler."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._files: dict[str, tuple[RepoId, HubFile]] = {}

    def add(self, repo: RepoId, file: HubFile) -> None:
        """Make the file reachable."""
        self._files[self.path(repo, file)] = (repo, file)

    def path(self, repo: RepoId, file: HubFile) -> str:
        """Where the file lies."""
        folder = hashlib.sha256(f"{repo}:{file.path}".encode(errors="replace")).hexdigest()[:24]
        return f"/xet-bridge/{folder}/{file.xet_hash}"

    def signed(self, path: str, lifetime_s: float) -> str:
        """`path` with the query that opens it for `lifetime_s`."""
        expires = int(self._clock.wall() + lifetime_s)
        signature = self._signature(path, str(expires))
        return f"{path}?Expires={expires}&Signature={signature}&Key-Pair-Id=HUB"

    async def answer(
        self, request: web.BaseRequest, exchange: Exchange, faults: Faults, sender: BodySender
    ) -> web.StreamResponse:
        """Answer a request of this listener. Raises Refused."""
        if request.method not in ("GET", "HEAD"):
            raise Refused(405)
        path, _, query = request.raw_path.partition("?")
        self._check(path, query)
        found = self._files.get(path)
        if found is None:
            raise Refused(404)
        status = faults.take_status("cdn", request.method)
        if status is not None:
            raise failing(status, faults)
        repo, file = found
        exchange.repo, exchange.file = str(repo), file.path
        headers = {
            "ETag": faults.etag(file.xet_hash),
            "Content-Type": "application/octet-stream",
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "*",
        }
        return await sender.answer(request, exchange, file, headers, faults)

    def _check(self, path: str, query: str) -> None:
        fields = parse_qs(query)
        expires, signature = fields.get("Expires", [""])[0], fields.get("Signature", [""])[0]
        # Compared as bytes: compare_digest refuses text that is not ASCII.
        expected = self._signature(path, expires).encode()
        if not hmac.compare_digest(expected, signature.encode(errors="replace")):
            raise Refused(403, message="SignatureDoesNotMatch")
        if self._clock.wall() >= int(expires):
            raise Refused(403, message="Request has expired")

    def _signature(self, path: str, expires: str) -> str:
        text = f"{path}:{expires}".encode(errors="replace")
        return hmac.new(self._key, text, "sha256").hexdigest()


def failing(status: int, faults: Faults) -> Refused:
    """The answer of a status fault."""
    after = faults.retry_after_s
    headers = {} if after is None else {"Retry-After": str(after)}
    return Refused(status, message="a fault of the demo hub", headers=headers)
