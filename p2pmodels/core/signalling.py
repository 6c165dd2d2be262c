"""The messages by which two peers arrange a WebRTC session through a third, as checked values.

1. Making a message that breaks a rule raises ProtocolError, received or own.
2. A *request* goes to the rendezvous, a *notice* comes from it. What a member says to another is
   `Sent` on the first leg and `Heard` on the second, where the rendezvous puts in who speaks.
3. With a group secret every SDP carries a proof that its writer knows it. An SDP pins the writer's
   key by its fingerprint, so a copy of it is of no use to anybody else.

`core/signal_texts.py` reads and writes them, `core/rooms.py` says who is told what.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import StrEnum

from p2pmodels.core.digests import Digest
from p2pmodels.core.manifest import FILE_SIZE_LIMIT
from p2pmodels.core.names import Commit
from p2pmodels.core.peer import PeerId
from p2pmodels.core.sdp import CANDIDATES_LIMIT, SDP_BYTES_LIMIT, fingerprint
from p2pmodels.core.secret import Secret
from p2pmodels.errors import ProtocolError

SIGNAL_PATH = "/peer/v1/signal"
RTC_PATH = "/peer/v1/rtc"

MEMBERS_LISTED_LIMIT = 160  # members that one `joined` lists; 100 bytes each
RETRY_LIMIT_S = 3600.0  # seconds; who is asked to wait longer asks again after an hour
NUMBER_LIMIT = 2**32 - 1  # the largest number of a question

_MEMBER = re.compile(r"[0-9A-Za-z]{1,32}")
_ROOM = re.compile(r"[0-9A-Za-z._-]{1,64}")
_SESSION = re.compile(r"[!-~]{1,32}")
_CODE = re.compile(r"[a-z_]{1,32}")
_PROOF = re.compile(r"(?:[0-9a-f]{64})?")
_SDP = re.compile(r"v=0\r?\n[\t\r\n -~]*")  # printable: what is not travels in no SDP of a browser
_PROOF_CONTEXT = b"p2pmodels-sdp-1"


class MemberKind(StrEnum):
    """What a member of a room is."""

    DAEMON = "daemon"
    PAGE = "page"
    """A web page: it is a guest, and nobody is told of it."""


class FileKind(StrEnum):
    """The kinds of repo that a page asks about."""

    MODEL = "model"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class SignedSdp:
    """An SDP with every candidate in it, and the proof of its writer (empty: no group secret)."""

    sdp: str
    proof: str

    def __post_init__(self) -> None:
        # Only so far that it may be passed on; who uses it has it read by `core/sdp.py`.
        if len(self.sdp) > SDP_BYTES_LIMIT or not _SDP.fullmatch(self.sdp):
            raise ProtocolError("not an SDP of the permitted length")
        if self.sdp.count("\na=candidate:") > CANDIDATES_LIMIT:
            raise ProtocolError(f"more than {CANDIDATES_LIMIT} candidates")
        _matching("proof", self.proof, _PROOF)

    @property
    def fingerprint(self) -> str:
        """The writer's key as `sha-256 aa:bb:…`. Raises ProtocolError unless the SDP is sound."""
        return fingerprint(self.sdp)

    def is_proven(self, secret: Secret | None) -> bool:
        """Whether its writer knows the secret; always when there is none."""
        if secret is None:
            return True
        return hmac.compare_digest(self.proof, _proof(self.sdp, secret))


def signed_sdp(sdp: str, secret: Secret | None) -> SignedSdp:
    """Our own SDP with the proof that others of the group ask for. Raises ProtocolError."""
    return SignedSdp(sdp, "" if secret is None else _proof(sdp, secret))


# what members say to each other


@dataclass(frozen=True, slots=True)
class Offer:
    """`offer`: the sender would like a session; it chose the session's name."""

    session: str
    signed: SignedSdp

    def __post_init__(self) -> None:
        _matching("session", self.session, _SESSION)


@dataclass(frozen=True, slots=True)
class Answer:
    """`answer`: the session may begin."""

    session: str
    signed: SignedSdp

    def __post_init__(self) -> None:
        _matching("session", self.session, _SESSION)


@dataclass(frozen=True, slots=True)
class Refused:
    """`refused`: no session now; perhaps in `retry_s` seconds (0: as the asker likes)."""

    session: str
    code: str
    retry_s: float

    def __post_init__(self) -> None:
        _matching("session", self.session, _SESSION)
        _matching("code", self.code, _CODE)
        if not 0 <= self.retry_s <= RETRY_LIMIT_S:  # NaN is not within either
            raise ProtocolError("a wait out of bounds")


Said = Offer | Answer | Refused


# requests


@dataclass(frozen=True, slots=True)
class Join:
    """`join`: the first request, and the only one of its kind."""

    room: str
    kind: MemberKind
    id: PeerId

    def __post_init__(self) -> None:
        _matching("room", self.room, _ROOM)


@dataclass(frozen=True, slots=True)
class Sent:
    """Something for another member."""

    to: str
    said: Said

    def __post_init__(self) -> None:
        _matching("member", self.to, _MEMBER)


@dataclass(frozen=True, slots=True)
class FileQuestion:
    """`file`: what content has this file? The names are as they came, to be checked by use."""

    number: int
    repo: str
    revision: str
    path: str
    kind: FileKind

    def __post_init__(self) -> None:
        _numbered(self.number)


Request = Join | Sent | FileQuestion


# notices


@dataclass(frozen=True, slots=True)
class Member:
    """A member as others are told of it."""

    member: str
    kind: MemberKind
    id: PeerId

    def __post_init__(self) -> None:
        _matching("member", self.member, _MEMBER)


@dataclass(frozen=True, slots=True)
class Joined:
    """`joined`: we are in, under this name, and these daemons are there."""

    own: str
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        _matching("member", self.own, _MEMBER)
        if len(self.members) > MEMBERS_LISTED_LIMIT:
            raise ProtocolError(f"{len(self.members)} members")


@dataclass(frozen=True, slots=True)
class Came:
    """`came`: one more member."""

    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """`left`: a member is no longer there."""

    member: str

    def __post_init__(self) -> None:
        _matching("member", self.member, _MEMBER)


@dataclass(frozen=True, slots=True)
class Heard:
    """What another member says to us."""

    sender: str
    kind: MemberKind
    said: Said

    def __post_init__(self) -> None:
        _matching("member", self.sender, _MEMBER)


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """`file`: the content of the file asked about, of a snapshot that is proven public."""

    number: int
    digest: Digest
    size: int
    commit: Commit

    def __post_init__(self) -> None:
        _numbered(self.number)
        if not 0 <= self.size <= FILE_SIZE_LIMIT:
            raise ProtocolError("size")


@dataclass(frozen=True, slots=True)
class FileUnknown:
    """`file` with a code: the rendezvous cannot say."""

    number: int
    code: str

    def __post_init__(self) -> None:
        _numbered(self.number)
        _matching("code", self.code, _CODE)


@dataclass(frozen=True, slots=True)
class Expelled:
    """`error`: the last word of the rendezvous to one who broke the rules or is too many."""

    code: str

    def __post_init__(self) -> None:
        _matching("code", self.code, _CODE)


Notice = Joined | Came | Left | Heard | FileAnswer | FileUnknown | Expelled


def _matching(what: str, text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(text):
        raise ProtocolError(f"{what} {text[:40]!r}")


def _numbered(number: int) -> None:
    if not 0 <= number <= NUMBER_LIMIT:
        raise ProtocolError("number")


def _proof(sdp: str, secret: Secret) -> str:
    key = secret.reveal().encode()
    return hmac.digest(key, _PROOF_CONTEXT + sdp.encode(), hashlib.sha256).hex()
