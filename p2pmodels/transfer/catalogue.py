"""What peers are told: only about digests and commits they name, only what is shared."""

from __future__ import annotations

from collections.abc import Callable

from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import HasAnswer, HasQuery, Hello
from p2pmodels.core.torrent import TorrentName
from p2pmodels.transfer.exchange import Exchange
from p2pmodels.transfer.sharing import Sharing
from p2pmodels.transfer.uploads import HeldBytes


class Catalogue:
    """Answers the peer port."""

    def __init__(self, sharing: Sharing, exchange: Exchange, hello: Callable[[], Hello]) -> None:
        self._sharing, self._exchange = sharing, exchange
        self._hello = hello

    def hello(self) -> Hello:
        """Who we are and where our swarm listens."""
        return self._hello()

    def has(self, query: HasQuery) -> HasAnswer:
        """Which of the named things can be had here."""
        return HasAnswer(
            commits=tuple(c for c in query.commits if self._sharing.shared(c) is not None),
            blobs=tuple(b for b in query.blobs if self._sharing.may_share_blob(b)),
            torrents=tuple(b for b in query.blobs if self._sharing.shared(b) is not None),
        )

    def held(self, digest: Digest, start: int, stop: int) -> HeldBytes | None:
        """The file with the bytes start … stop-1, if they are all here and shared."""
        return self._exchange.held(digest, start, stop)

    def torrent(self, name: TorrentName) -> bytes | None:
        """The torrent's bytes, if it is shared."""
        torrent = self._sharing.shared(name)
        return torrent.data if torrent else None
