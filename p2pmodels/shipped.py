"""The torrents that come with the program: `torrents/` of the repository, packed into the wheel."""

from __future__ import annotations

from pathlib import Path

_PLACES = (
    Path(__file__).parent / "torrents",  # an installed wheel
    Path(__file__).parent.parent / "torrents",  # a source tree
)


def shipped_folder() -> Path | None:
    """Where they are; None when the program was packed without them."""
    return next((place for place in _PLACES if (place / "index.json").is_file()), None)


def shipped_torrents() -> list[bytes]:
    """The bytes of every shipped .torrent; what reads them decides whether they are good."""
    folder = shipped_folder()
    return [path.read_bytes() for path in sorted(folder.glob("*.torrent"))] if folder else []
