"""Gives: answers to the gets of peers whose bytes come by a channel instead of our peer port.

1. The same rules as at the peer port: what is not here, not shared or has not landed looks like
   what does not exist; a slot is held meanwhile; the upload limit holds.
2. Slots are apart from those of the peer port: a page is slow, and three would starve the room.
   Three that fall asleep must not starve the other pages either: see STALLED_S.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Self

from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import PeerId
from p2pmodels.core.shard import Get, Status
from p2pmodels.errors import StoreFailed
from p2pmodels.sources.lan.link import ByteCarrier
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.uploads import HeldBytes, Uploads, UploadsFull

log = logging.getLogger(__name__)

STALLED_S = 1.0  # seconds in which a peer takes nothing; then its gives hold no slots

Hold = Callable[[Digest, int, int], HeldBytes | None]


class Gives:
    """Entered: answers gets; leaving gives up what runs."""

    def __init__(self, hold: Hold, uploads: Uploads) -> None:
        self._hold, self._uploads = hold, uploads
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__()

    def serve(self, channel: ByteCarrier, peer: PeerId) -> None:
        """Answer the gets that come over this channel from now on."""

        def on_get(get: Get) -> None:
            self._tasks.start(self._give(channel, peer, get), "give to a peer")

        channel.on_get = on_get

    async def _give(self, channel: ByteCarrier, peer: PeerId, get: Get) -> None:
        held = self._hold(get.blob, get.start, get.stop)
        if held is None or get.stop > held.size:
            channel.refuse(get.number, Status.NOT_HELD)
            return
        try:
            with self._uploads.take(peer, get.blob, get.start, get.stop, held.size) as upload:
                await channel.give(
                    get.number,
                    held.path,
                    get.start,
                    get.stop,
                    pace=upload.pace,
                    count=upload.count,
                    step_bytes=upload.step_limit,
                )
        except UploadsFull as error:
            channel.refuse(get.number, Status.BUSY, error.retry_after_s)
        except (OSError, StoreFailed) as error:  # the peer went, or the file did
            log.debug("a give to %s broke off: %s", peer, type(error).__name__)
