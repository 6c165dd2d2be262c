"""The SDP of a session that carries one data channel: what is believed of it, and our own. No I/O.

1. A text is at most SDP_BYTES_LIMIT long, names at most CANDIDATES_LIMIT candidates, has exactly
   one media line, that of a data channel, and one sha-256 fingerprint.
2. What is believed is a value; only texts made from such values reach the WebRTC library.
3. Candidates that we must not contact are left out: names (`.local` is looked up nowhere: the
   browser reaches us and is learnt from its packets), TCP, system ports, and whatever address
   the caller does not allow.

RFC 8866 is SDP, RFC 8839 its ICE lines, RFC 8841 those of data channels.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from p2pmodels.errors import ProtocolError

SDP_BYTES_LIMIT = 16 * 1024  # bytes; a browser's with sixteen candidates has 3 KB
CANDIDATES_LIMIT = 16  # candidates; a laptop with four networks in two families has eight
MESSAGE_SIZE_DEFAULT = 64 * 1024  # bytes of a message when nothing is said; RFC 8841, 6.1
PORT_MIN = 1024  # a peer must not aim us at a system service (reliability D9)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LINE = re.compile(r"([a-z])=(.*)")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_FINGERPRINT = re.compile(r"sha-256 (?:[0-9a-f]{2}:){31}[0-9a-f]{2}")
_MID = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_FOUNDATION = re.compile(r"[A-Za-z0-9+/]{1,32}")
_SETUPS = frozenset({"actpass", "active", "passive"})
_KINDS = frozenset({"host", "srflx", "relay"})
_ONCE = ("ice-ufrag", "ice-pwd", "fingerprint", "setup", "mid", "sctp-port", "max-message-size")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A UDP address at which a peer may be reached; `kind` is host, srflx or relay."""

    foundation: str
    priority: int
    host: str
    port: int
    kind: str = "host"

    def __str__(self) -> str:
        # RFC 8839, 5.1: all but host candidates say where they come from, or that nobody is told.
        origin = "" if self.kind == "host" else " raddr 0.0.0.0 rport 9"
        return (
            f"candidate:{self.foundation} 1 udp {self.priority} {self.host} {self.port}"
            f" typ {self.kind}{origin}"
        )


@dataclass(frozen=True, slots=True)
class Description:
    """One side of a session. `fingerprint` is the text "sha-256 aa:bb…", in lower case."""

    ufrag: str
    password: str
    fingerprint: str
    setup: str
    """actpass in an offer; active or passive in an answer."""
    candidates: tuple[Candidate, ...] = ()
    mid: str = "0"
    sctp_port: int = 5000
    message_size: int = MESSAGE_SIZE_DEFAULT
    """The longest message it takes, in bytes; 0: any."""

    @classmethod
    def parse(
        cls, text: str, is_allowed: Callable[[IpAddress], bool] = lambda _address: True
    ) -> Self:
        """Read an offer or answer; candidates elsewhere are left out. Raises ProtocolError."""
        values, lines = _read(text)
        candidates = (_candidate(line) for line in lines)
        kept = tuple(
            one for one in candidates if one and is_allowed(ipaddress.ip_address(one.host))
        )
        return cls(
            ufrag=_matching("ice-ufrag", values, _UFRAG),
            password=_matching("ice-pwd", values, _PASSWORD),
            fingerprint=_fingerprint(values),
            setup=_setup(values),
            candidates=kept,
            mid=_matching("mid", values, _MID),
            sctp_port=_number("sctp-port", values, 5000, 1, 65535),
            message_size=_number("max-message-size", values, MESSAGE_SIZE_DEFAULT, 0, 2**32),
        )

    def __str__(self) -> str:
        """The text of it, as browsers read it."""
        lines = [
            "v=0",
            "o=- 1 1 IN IP4 0.0.0.0",
            "s=-",
            "t=0 0",
            f"a=group:BUNDLE {self.mid}",
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "c=IN IP4 0.0.0.0",
            f"a=mid:{self.mid}",
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            f"a=fingerprint:sha-256 {self.fingerprint.removeprefix('sha-256 ').upper()}",
            f"a=setup:{self.setup}",
            f"a=sctp-port:{self.sctp_port}",
            f"a=max-message-size:{self.message_size}",
            *(f"a={candidate}" for candidate in self.candidates),
            "a=end-of-candidates",
        ]
        return "".join(f"{line}\r\n" for line in lines)


def fingerprint(text: str) -> str:
    """The key that an SDP pins, as "sha-256 aa:bb…" in lower case. Raises ProtocolError."""
    values, _candidates = _read(text)
    return _fingerprint(values)


def _read(text: str) -> tuple[dict[str, str], list[str]]:
    """The attributes that may stand once, and the candidates."""
    # Counted in characters first: a text of a gigabyte is not encoded only to be refused.
    if len(text) > SDP_BYTES_LIMIT or len(text.encode(errors="replace")) > SDP_BYTES_LIMIT:
        raise ProtocolError(f"an SDP longer than {SDP_BYTES_LIMIT} bytes")
    values: dict[str, str] = {}
    candidates: list[str] = []
    media = 0
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ProtocolError("a line that is no SDP")
        letter, value = match.groups()
        if letter == "m":
            media += 1
            if not re.fullmatch(r"application [0-9]{1,5} UDP/DTLS/SCTP webrtc-datachannel", value):
                raise ProtocolError("media other than a data channel")
        elif letter == "a":
            name, _, rest = value.partition(":")
            if name == "candidate":
                candidates.append(rest)
            elif name in _ONCE:
                if name in values:
                    raise ProtocolError(f"{name} stands twice")
                values[name] = rest.strip()
    if media != 1:
        raise ProtocolError(f"{media} media lines")
    if len(candidates) > CANDIDATES_LIMIT:
        raise ProtocolError(f"{len(candidates)} candidates, {CANDIDATES_LIMIT} at most")
    return values, candidates


def _candidate(line: str) -> Candidate | None:
    """The candidate of a line; None for one that we would not contact."""
    words = line.split(" ")
    if len(words) < 8 or words[6] != "typ":
        raise ProtocolError("a candidate that cannot be read")
    foundation, component, transport, priority, host, port = words[:6]
    if component != "1" or transport.lower() != "udp" or words[7] not in _KINDS:
        return None
    if not all(_NUMBER.fullmatch(number) for number in (priority, port)):
        raise ProtocolError("a candidate's numbers")
    if not _FOUNDATION.fullmatch(foundation) or int(priority) >= 2**32:
        raise ProtocolError("a candidate that cannot be read")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None  # a name, `.local` or other
    if not PORT_MIN <= int(port) <= 65535 or address.is_multicast or address.is_unspecified:
        return None
    return Candidate(foundation, int(priority), str(address), int(port), words[7])


def _matching(name: str, values: dict[str, str], pattern: re.Pattern[str]) -> str:
    value = values.get(name, "")
    if not pattern.fullmatch(value):
        raise ProtocolError(name)
    return value


def _fingerprint(values: dict[str, str]) -> str:
    value = values.get("fingerprint", "").lower()
    if not _FINGERPRINT.fullmatch(value):
        raise ProtocolError("not exactly one sha-256 fingerprint")
    return value


def _setup(values: dict[str, str]) -> str:
    if values.get("setup") not in _SETUPS:
        raise ProtocolError("setup")
    return values["setup"]


def _number(name: str, values: dict[str, str], default: int, low: int, high: int) -> int:
    value = values.get(name, str(default))
    if not _NUMBER.fullmatch(value) or not low <= int(value) <= high:
        raise ProtocolError(name)
    return int(value)
