"""The seams of the fetcher: what it works with, as far as it needs to know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from p2pmodels.core.manifest import Want
from p2pmodels.core.secret import Secret
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.store.blobs import Blob
from p2pmodels.store.partials import Partial
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.room import Room


class ByteOrigins(Protocol):
    """The origins, as far as bytes are concerned."""

    async def fill(
        self,
        want: Want,
        partial: Partial,
        positions: Callable[[], Sequence[int]],
        token: Secret | None = None,
        *,
        use_operator_token: bool = False,
        on_bytes: Callable[[str, int], None],
        claims: Claims | None = None,
    ) -> None: ...


class Policy(Protocol):
    """The sharing policy (see `sharing.py`), told of what happens here."""

    async def on_blob(self, want: Want, blob: Blob, was_anonymous: bool) -> None: ...

    async def witnessed(self, want: Want) -> None: ...

    def piece_length(self, want: Want) -> int | None: ...


class Rooms(Protocol):
    """The LAN exchange (see `exchange.py`)."""

    def room(self, fetch: Fetch, partial: Partial) -> AbstractAsyncContextManager[Room]: ...


class Nearby(Protocol):
    """What peers offer for a want, if anything (see `nearby.py`)."""

    async def offer(self, want: Want) -> Offer | None: ...


class Offer(Protocol):
    """A torrent that fits the manifest, with peers that have its data."""

    async def fill(self, partial: Partial, positions: Callable[[], Sequence[int]]) -> None: ...

    async def blame(self) -> None: ...

    async def committed(self, blob: Blob) -> None: ...
