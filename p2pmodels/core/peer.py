"""What daemons say to each other on the peer port, as checked values.

1. A peer asks only about commits and digests that it names; no message lists what a daemon has.
2. A message is one JSON object of exactly the known keys, within a fixed size; anything else,
   doubled keys and NaN included, raises ProtocolError.
3. An id is random, made once per data folder, and says nothing about the machine or its user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import Commit
from p2pmodels.core.torrent import TorrentName
from p2pmodels.errors import NameRefused, ProtocolError

PROTOCOL = 1  # version of these messages; a daemon of another one is left alone
PEER_PORT = 7879  # the port of a peer whose URL names none
HELLO_PATH = "/peer/v1/hello"
HAS_PATH = "/peer/v1/has"
TORRENT_PATH = "/peer/v1/torrent/"  # followed by a commit or a sha256

TICKET_HEADER = "X-P2PModels-Ticket"  # what a peer was given over its link, 32 hex digits

HELLO_BYTES_LIMIT = 1024  # bytes of a hello; ours has 120
MESSAGE_BYTES_LIMIT = 64 * 1024  # bytes of any other message; 256 names and their answers are 35 KB
NAMES_LIMIT = 256  # names in one query; a want has two

_ID = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}")

Name = TypeVar("Name", Commit, Sha256)


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """Who a daemon is: 32 lower-case hexadecimal digits."""

    value: str

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.value):
            raise NameRefused(f"peer id {self.value[:60]!r}")

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers, and where it listens; `bt_port` is 0 when it does not speak BitTorrent."""

    id: PeerId
    version: str
    protocol: int
    bt_port: int
    peer_port: int

    def __post_init__(self) -> None:
        if self.protocol != PROTOCOL:
            raise ProtocolError(f"peer protocol {self.protocol}, this daemon speaks {PROTOCOL}")
        if not _VERSION.fullmatch(self.version):
            raise ProtocolError(f"version {self.version[:60]!r}")
        if not (0 <= self.bt_port <= 65535 and 1 <= self.peer_port <= 65535):
            raise ProtocolError(f"ports {self.bt_port}, {self.peer_port}")

    def format(self) -> bytes:
        """The message's JSON."""
        return _dump(
            {
                "id": self.id.value,
                "version": self.version,
                "protocol": self.protocol,
                "bt_port": self.bt_port,
                "peer_port": self.peer_port,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Hello:
        """Read a peer's hello. Raises ProtocolError."""
        fields = _load(data, HELLO_BYTES_LIMIT, cls.__slots__)
        numbers = [fields[key] for key in ("protocol", "bt_port", "peer_port")]
        protocol, bt_port, peer_port = (_integer(number) for number in numbers)
        try:
            return cls(
                PeerId(_text(fields["id"])), _text(fields["version"]), protocol, bt_port, peer_port
            )
        except NameRefused as error:
            raise ProtocolError(str(error)) from error


@dataclass(frozen=True, slots=True)
class HasQuery:
    """The question which of these can be had."""

    commits: tuple[Commit, ...] = ()
    blobs: tuple[Sha256, ...] = ()

    def __post_init__(self) -> None:
        _refuse_crowds(self.commits, self.blobs)

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing."""
        return not (self.commits or self.blobs)

    def format(self) -> bytes:
        """The message's JSON."""
        return _dump({"commits": _values(self.commits), "blobs": _values(self.blobs)})

    @classmethod
    def parse(cls, data: bytes) -> HasQuery:
        """Read a peer's question. Raises ProtocolError."""
        fields = _load(data, MESSAGE_BYTES_LIMIT, cls.__slots__)
        return cls(_names(fields["commits"], Commit), _names(fields["blobs"], Sha256))


@dataclass(frozen=True, slots=True)
class HasAnswer:
    """What a peer has of the names in a query."""

    commits: tuple[Commit, ...] = ()
    """Those whose snapshot torrent can be had."""
    blobs: tuple[Sha256, ...] = ()
    """Those that are complete and shared."""
    torrents: tuple[Sha256, ...] = ()
    """Those whose blob torrent can be had."""

    def __post_init__(self) -> None:
        _refuse_crowds(self.commits, self.blobs)
        _refuse_crowds((), self.torrents)

    @property
    def is_empty(self) -> bool:
        """Whether the peer has none of it."""
        return not (self.commits or self.blobs or self.torrents)

    def format(self) -> bytes:
        """The message's JSON."""
        return _dump(
            {
                "commits": _values(self.commits),
                "blobs": _values(self.blobs),
                "torrents": _values(self.torrents),
            }
        )

    @classmethod
    def parse(cls, data: bytes, query: HasQuery) -> HasAnswer:
        """Read a peer's answer to `query`. Raises ProtocolError, also for names not asked about."""
        fields = _load(data, MESSAGE_BYTES_LIMIT, cls.__slots__)
        answer = cls(
            _names(fields["commits"], Commit),
            _names(fields["blobs"], Sha256),
            _names(fields["torrents"], Sha256),
        )
        asked, named = set(query.blobs), {*answer.blobs, *answer.torrents}
        if not (set(answer.commits) <= set(query.commits) and named <= asked):
            raise ProtocolError("an answer about names that were not asked about")
        return answer


def parse_torrent_name(text: str) -> TorrentName:
    """The commit or the sha256 that names a torrent. Raises NameRefused."""
    return Commit(text) if len(text) == 40 else Sha256(text)


def _refuse_crowds(commits: tuple[Commit, ...], blobs: tuple[Sha256, ...]) -> None:
    count = len(commits) + len(blobs)
    if count > NAMES_LIMIT:
        raise ProtocolError(f"{count} names, {NAMES_LIMIT} at most")
    if len(set(commits)) + len(set(blobs)) != count:
        raise ProtocolError("a name stands twice")


def _values(names: Iterable[Commit | Sha256]) -> list[str]:
    return [name.value for name in names]


def _names(value: object, kind: Callable[[str], Name]) -> tuple[Name, ...]:
    if not isinstance(value, list) or len(value) > NAMES_LIMIT:
        raise ProtocolError(f"not a list of at most {NAMES_LIMIT} names")
    try:
        return tuple(kind(_text(text)) for text in value)
    except NameRefused as error:
        raise ProtocolError(str(error)) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a text")
    return value


def _integer(value: object) -> int:
    # bool is an int in Python, but `true` is no port
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError("not a whole number")
    return value


def _dump(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _load(data: bytes, limit: int, keys: Iterable[str]) -> dict[str, object]:
    """The object of exactly these keys."""
    if len(data) > limit:
        raise ProtocolError(f"{len(data)} bytes, {limit} at most")
    try:
        fields = json.loads(
            data.decode("ascii"), object_pairs_hook=_single, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:  # deep nesting ends json's own stack
        raise ProtocolError(f"not JSON ({type(error).__name__})") from error
    if not isinstance(fields, dict) or set(fields) != set(keys):
        raise ProtocolError("not exactly the known keys")
    return fields


def _single(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ProtocolError("a key stands twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ProtocolError(name)
