"""Files on their way out: sendfile in steps, each with a bound.

1. A reader that stops reading is reset; it must not hold a file, a slot or a connection for ever.
2. When the bytes cannot be given to the end the connection is reset, so that a short body never
   looks whole.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO, Protocol

from aiohttp import web

from p2pmodels.core.ranges import ByteRange
from p2pmodels.errors import StoreDamaged

SEND_STEP_FIRST = 256 << 10  # bytes handed to the kernel at once; it must take them in time
SEND_STEP_LIMIT = 8 << 20  # bytes of a step once the client has shown that it is quick
QUICK_S = 0.5  # seconds for a step of a quick client


class Meter(Protocol):
    """Who measures and slows what is sent."""

    @property
    def step_limit(self) -> int: ...

    async def pace(self, amount: int) -> None: ...

    def count(self, amount: int) -> None: ...


async def send_file(
    request: web.Request,
    file: BinaryIO,
    span: ByteRange,
    idle_write_s: float,
    meter: Meter | None = None,
) -> None:
    """Let the kernel copy the bytes; each step must be taken within `idle_write_s` seconds.

    The answer's head must have been sent. Raises ConnectionResetError, StoreDamaged (the file is
    too short), TimeoutError; the connection is reset then.
    """
    try:
        await _send_steps(request, file, span, idle_write_s, meter)
    except BaseException:
        reset(request)
        raise


async def _send_steps(
    request: web.Request, file: BinaryIO, span: ByteRange, idle_write_s: float, meter: Meter | None
) -> None:
    loop = asyncio.get_running_loop()
    at, step = span.start, SEND_STEP_FIRST
    while at < span.stop:
        amount = min(step, span.stop - at)
        if meter is not None:
            amount = min(amount, meter.step_limit)
            await meter.pace(amount)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        began = loop.time()
        try:
            async with asyncio.timeout(idle_write_s):
                sent = await loop.sendfile(transport, file, at, amount)
        except (OSError, RuntimeError) as error:
            # It may be the socket as well as the disk, so nothing is said against the file here.
            raise ConnectionResetError(f"sendfile: {error}") from error
        if not sent:
            raise StoreDamaged(f"{at - span.start} of {span.length} bytes could be sent")
        if meter is not None:
            meter.count(sent)
        at += sent
        is_quick = loop.time() - began < QUICK_S
        step = min(step * 4, SEND_STEP_LIMIT) if is_quick else SEND_STEP_FIRST


def reset(request: web.Request) -> None:
    """Break the connection, so that no client or cache keeps a short body."""
    if request.transport is not None:
        request.transport.abort()
