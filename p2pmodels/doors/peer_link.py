"""The server's end of a link: one frame of the conversation is one binary WebSocket message.

A message that is not binary, too long or half sent ends the channel; so does a peer that leaves a
ping unanswered. What the frames mean is the business of the links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aiohttp import WSMsgType, web

from p2pmodels.core.wire import FRAME_BYTES_LIMIT
from p2pmodels.sources.lan.carrier import (
    CLOSE_LIMIT_S,
    HEARTBEAT_S,
    Channel,
    give_up_on_the_deaf,
)


class ServedSocket:
    """A WebSocket that a peer opened."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        give_up_on_the_deaf(socket.get_extra_info("socket"))

    async def send(self, data: bytes) -> None:
        """Send one message, waiting while the peer is slow. Raises ConnectionError at its end."""
        await self._socket.send_bytes(data)

    async def receive(self) -> bytes | None:
        """The next message; None once the channel has ended."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        return None

    async def close(self) -> None:
        """End the channel; a second time is nothing."""
        await self._socket.close()


class LinkServer(Protocol):
    """Holds the conversations that peers begin."""

    async def serve(self, channel: Channel, remote_host: str, local_host: str) -> None: ...


@dataclass(eq=False)
class LinkDoor:
    """The route of links."""

    links: LinkServer

    async def link(self, request: web.Request) -> web.StreamResponse:
        """Become a WebSocket and hand it to the conversation."""
        socket = web.WebSocketResponse(
            timeout=CLOSE_LIMIT_S,
            heartbeat=HEARTBEAT_S,
            compress=False,
            # aiohttp refuses messages of this length already, we only longer ones
            max_msg_size=FRAME_BYTES_LIMIT + 1,
        )
        await socket.prepare(request)
        local = socket.get_extra_info("sockname")
        try:
            await self.links.serve(
                ServedSocket(socket), request.remote or "", local[0] if local else ""
            )
        finally:
            await socket.close()
        return socket
