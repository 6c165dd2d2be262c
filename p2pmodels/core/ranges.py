"""HTTP ranges and validators (RFC 9110, sections 13 and 14), without any I/O.

We answer one range or the whole file; a request we need not understand is answered whole, which
every client must accept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2pmodels.errors import P2PModelsError

RANGE_HEADER_LIMIT = 4096  # characters; a thousand ranges are nobody's honest question

_SPEC = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*")


class RangeUnsatisfiable(P2PModelsError):
    """No byte of the file lies in the range asked for."""

    code, status = "range_unsatisfiable", 416
    advice = "The file's size stands in Content-Range."


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes start … stop-1 of a file of `size` bytes."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        return self.length == self.size

    @property
    def content_range(self) -> str:
        """The value of Content-Range for a 206 answer."""
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The single range asked for, or None when the whole file is the answer.

    Malformed headers, other units and several ranges are ignored, as RFC 9110 allows. Raises
    RangeUnsatisfiable when the range is well formed but holds no byte of the file.
    """
    if header is None or len(header) > RANGE_HEADER_LIMIT or not header.isascii():
        return None
    unit, _, spec = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    match = _SPEC.fullmatch(spec)
    if not match or match[0].strip() == "-":
        return None
    first, last = match[1], match[2]
    if not first:
        length = min(_bounded(last), size)
        if length == 0:
            raise RangeUnsatisfiable(f"bytes {spec[:60]} of {size}", size=size)
        return ByteRange(size - length, size, size)
    start = _bounded(first)
    stop = min(_bounded(last) + 1, size) if last else size
    if last and _bounded(last) < start:
        return None
    if start >= size:
        raise RangeUnsatisfiable(f"bytes {spec[:60]} of {size}", size=size)
    return ByteRange(start, stop, size)


def _bounded(digits: str) -> int:
    """The number; anything beyond 18 digits is simply past every end (and slow to convert)."""
    stripped = digits.lstrip("0")
    return int(stripped or "0") if len(stripped) <= 18 else 10**18


def if_range_allows(header: str | None, etag: str) -> bool:
    """Whether a Range may be honoured: no If-Range, or exactly our strong validator."""
    return header is None or header.strip() == etag


def none_match(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names what the client already has (weak comparison)."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return any(part.strip().removeprefix("W/") == etag for part in header.split(","))
