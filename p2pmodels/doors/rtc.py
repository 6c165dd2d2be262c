"""An offer by one request: `POST /peer/v1/rtc`, for whoever can reach the peer port.

1. Only home addresses and allowed web origins are heard; a page may read the answer, refusals too.
2. The body is one SDP with its proof, in bounded size and time; so is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import hdrs, web

from p2pmodels.core.signal_texts import (
    REQUEST_BYTES_LIMIT,
    format_signed,
    parse_signed,
)
from p2pmodels.core.signalling import SignedSdp
from p2pmodels.doors.guard import PREFLIGHT_AGE_S
from p2pmodels.doors.signal import WebOrigin
from p2pmodels.doors.tickets import NotHome
from p2pmodels.errors import Overloaded, P2PModelsError, ProtocolError
from p2pmodels.metrics import REFUSED

OFFER_BODY_LIMIT_S = 5.0  # seconds for the body; aiohttp has none of its own


class Answers(Protocol):
    """Takes offers."""

    async def answer(self, offer: SignedSdp, source: str) -> SignedSdp:
        """Our answer to an offer from that address. Raises P2PModelsError."""


@dataclass(eq=False)
class RtcDoor:
    """The route of offers; `web_origin` and `is_home` as at the `SignalDoor`."""

    meeting: Answers
    web_origin: WebOrigin
    is_home: Callable[[str], bool]

    async def offer(self, request: web.Request) -> web.StreamResponse:
        """Answer an offer."""
        headers = _readable(self.web_origin(request))
        address = request.remote or ""
        try:
            if not self.is_home(address):
                raise NotHome(address)
            offer = parse_signed(await _body(request))
            answer = await self.meeting.answer(offer, address)
        except P2PModelsError as error:
            # Here, not in the app: without these headers a page cannot tell "busy" from "gone".
            REFUSED.labels(error.code).inc()
            return _refusal(error, headers)
        return web.Response(
            body=format_signed(answer), content_type="application/json", headers=headers
        )

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """Tell a browser that an allowed page may ask."""
        headers = _readable(self.web_origin(request)) | {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "POST, OPTIONS",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Content-Type",
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_AGE_S),
            "Access-Control-Allow-Private-Network": "true",
        }
        return web.Response(status=204, headers=headers)


def _readable(origin: str | None) -> dict[str, str]:
    """The headers of an answer that a page of this web origin may read."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        hdrs.CACHE_CONTROL: "no-store",
        hdrs.VARY: hdrs.ORIGIN,
    }
    if origin is not None:
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = hdrs.RETRY_AFTER
    return headers


def _refusal(error: P2PModelsError, headers: dict[str, str]) -> web.Response:
    if isinstance(error, Overloaded):
        headers = headers | {hdrs.RETRY_AFTER: str(max(1, round(error.retry_after_s)))}
    body = {"error": error.as_json()}
    answer = web.json_response(body, status=error.status, headers=headers)
    answer.force_close()  # what is left of the body is not read
    return answer


async def _body(request: web.Request) -> bytes:
    """The whole body. Raises ProtocolError when it is too long or too slow."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
        raise ProtocolError("an encoded body")
    if (request.content_length or 0) > REQUEST_BYTES_LIMIT:
        raise ProtocolError(f"more than {REQUEST_BYTES_LIMIT} bytes")
    try:
        async with asyncio.timeout(OFFER_BODY_LIMIT_S):
            return await request.read()
    except TimeoutError as error:
        raise ProtocolError(f"no body within {OFFER_BODY_LIMIT_S:.0f} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise ProtocolError(f"more than {REQUEST_BYTES_LIMIT} bytes") from error
