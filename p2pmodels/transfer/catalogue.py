"""What peers are told: only about digests and commits they name, only what is shared."""

from __future__ import annotations

from collections.abc import Callable

from p2pmodels.core.peer import HasAnswer, HasQuery, Hello
from p2pmodels.core.torrent import TorrentName
from p2pmodels.transfer.sharing import Sharing


class Catalogue:
    """Answers the peer port."""

    def __init__(self, sharing: Sharing, hello: Callable[[], Hello]) -> None:
        self._sharing = sharing
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

    def torrent(self, name: TorrentName) -> bytes | None:
        """The torrent's bytes, if it is shared."""
        torrent = self._sharing.shared(name)
        return torrent.data if torrent else None
