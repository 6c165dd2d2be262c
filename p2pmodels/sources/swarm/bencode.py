"""Bencoding (BEP 3), strict and bounded: a text has one reading and a value has one text.

1. `encode(decode(text)) == text` for everything that `decode` accepts: keys sorted and unique,
   no leading zeros, no minus zero, nothing behind the end.
2. Depth, number of items and length are limited before anything is built.
"""

from __future__ import annotations

from typing import TypeAlias

from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT
from p2pmodels.errors import ProtocolError

DEPTH_LIMIT = 40  # levels; a path has at most 32 folders, and the torrent adds five
ITEMS_LIMIT = 1_000_000  # values; 10,000 files need under 500,000
DIGITS_LIMIT = 19  # digits of an integer; 64 bits hold no more

Bencoded: TypeAlias = "int | bytes | list[Bencoded] | dict[bytes, Bencoded]"


def encode(value: Bencoded) -> bytes:
    """The canonical text of `value`."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Bencoded, parts: list[bytes]) -> None:
    if isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, bytes):
        parts.append(b"%d:" % len(value))
        parts.append(value)
    elif isinstance(value, list):
        parts.append(b"l")
        for item in value:
            _encode(item, parts)
        parts.append(b"e")
    else:
        parts.append(b"d")
        for key in sorted(value):
            _encode(key, parts)
            _encode(value[key], parts)
        parts.append(b"e")


def decode(text: bytes) -> Bencoded:
    """Read one value. Raises ProtocolError on anything that is not canonical or too large."""
    if len(text) > TORRENT_BYTES_LIMIT:
        raise ProtocolError(f"{len(text)} bytes of bencoding, {TORRENT_BYTES_LIMIT} at most")
    reader = _Reader(text)
    value = reader.value(0)
    if reader.at != len(text):
        raise ProtocolError("bytes behind the end of the bencoding")
    return value


class _Reader:
    """A cursor in a text."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at, self._items = text, 0, 0

    def value(self, depth: int) -> Bencoded:
        self._items += 1
        if self._items > ITEMS_LIMIT or depth > DEPTH_LIMIT:
            raise ProtocolError("bencoding with too many or too deep values")
        kind = self.text[self.at : self.at + 1]
        if kind == b"i":
            self.at += 1
            return self._integer(b"e")
        if kind == b"l":
            return self._list(depth)
        if kind == b"d":
            return self._dict(depth)
        return self._string()

    def _ends(self) -> bool:
        """Whether the list or dictionary ends here; steps over its end."""
        if self.text[self.at : self.at + 1] != b"e":
            return False
        self.at += 1
        return True

    def _list(self, depth: int) -> list[Bencoded]:
        self.at += 1
        items: list[Bencoded] = []
        while not self._ends():
            items.append(self.value(depth + 1))
        return items

    def _dict(self, depth: int) -> dict[bytes, Bencoded]:
        self.at += 1
        items: dict[bytes, Bencoded] = {}
        last: bytes | None = None
        while not self._ends():
            key = self._string()
            if last is not None and key <= last:
                raise ProtocolError("bencoding with keys out of order or twice")
            items[key] = self.value(depth + 1)
            last = key
        return items

    def _integer(self, end: bytes) -> int:
        stop = self.text.find(end, self.at, self.at + DIGITS_LIMIT + 2)
        digits = self.text[self.at : stop] if stop >= 0 else b""
        bare = digits.removeprefix(b"-")
        if not bare.isdigit() or len(bare) > DIGITS_LIMIT:
            raise ProtocolError("bencoding with a bad number")
        number = int(digits)
        if digits != b"%d" % number:
            raise ProtocolError("bencoding with a number in an odd spelling")
        self.at = stop + 1
        return number

    def _string(self) -> bytes:
        length = self._integer(b":")
        if length < 0 or length > len(self.text) - self.at:
            raise ProtocolError("bencoding with a string beyond its end")
        start, self.at = self.at, self.at + length
        return self.text[start : self.at]
