"""How the messages of signalling are written: one JSON object of exactly its keys each.

1. Reading raises ProtocolError for whatever is not such an object of a permitted length: unknown,
   missing and doubled keys, NaN, numbers where texts belong, nesting.
2. No notice that a request causes is too long for its receiver: what we write is no longer than
   what was read, but for the name of who said it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.names import Commit
from p2pmodels.core.peer import PeerId
from p2pmodels.core.signalling import (
    MEMBERS_LISTED_LIMIT,
    Answer,
    Came,
    Expelled,
    FileAnswer,
    FileKind,
    FileQuestion,
    FileUnknown,
    Heard,
    Join,
    Joined,
    Left,
    Member,
    MemberKind,
    Notice,
    Offer,
    Refused,
    Request,
    Said,
    Sent,
    SignedSdp,
)
from p2pmodels.errors import NameRefused, ProtocolError

REQUEST_BYTES_LIMIT = 20 * 1024  # bytes of a request and of a POSTed SDP
NOTICE_BYTES_LIMIT = 22 * 1024  # bytes of a notice: the longest request and who said it

Fields = dict[str, Any]
Readers = Mapping[str, Callable[[Any], object]]


def format_signed(signed: SignedSdp) -> bytes:
    """The body of a POST, and of its answer."""
    return _dump(_signed_fields(signed)).encode()


def parse_signed(data: bytes) -> SignedSdp:
    """Read such a body. Raises ProtocolError."""
    with _refusing():
        fields = _load(data, REQUEST_BYTES_LIMIT)
        return SignedSdp(**_read(fields, _SIGNED))


def format_request(request: Request) -> str:
    """The JSON of a request."""
    match request:
        case Join():
            names = {"kind": request.kind, "id": request.id.value}
            return _dump({"t": "join", "room": request.room} | names)
        case Sent():
            return _dump(_said(request.said) | {"to": request.to})
        case FileQuestion():
            keys = request.__slots__
            return _dump({"t": "file"} | {key: getattr(request, key) for key in keys})


def parse_request(text: str) -> Request:
    """Read what a member asks of the rendezvous. Raises ProtocolError."""
    with _refusing():
        fields = _load(text.encode(), REQUEST_BYTES_LIMIT)
        match fields.pop("t", None):
            case "join":
                return Join(**_read(fields, {"room": _text, "kind": MemberKind, "id": _id}))
            case "file":
                return FileQuestion(**_read(fields, _QUESTION))
            case kind:
                to = _text(fields.pop("to", None))
                return Sent(to, _read_said(kind, fields))


def format_notice(notice: Notice) -> str:
    """The JSON of a notice."""
    match notice:
        case Joined():
            members = [_member(member) for member in notice.members]
            return _dump({"t": "joined", "self": notice.own, "members": members})
        case Came():
            return _dump({"t": "came"} | _member(notice.member))
        case Left():
            return _dump({"t": "left", "member": notice.member})
        case Heard():
            return _dump(_said(notice.said) | {"from": notice.sender, "kind": notice.kind})
        case FileAnswer():
            names = {"digest": notice.digest.value, "commit": notice.commit.value}
            return _dump({"t": "file", "number": notice.number, "size": notice.size} | names)
        case FileUnknown():
            return _dump({"t": "file", "number": notice.number, "code": notice.code})
        case Expelled():
            return _dump({"t": "error", "code": notice.code})


def parse_notice(text: str) -> Notice:
    """Read what a rendezvous tells. Raises ProtocolError."""
    with _refusing():
        fields = _load(text.encode(), NOTICE_BYTES_LIMIT)
        match fields.pop("t", None):
            case "joined":
                found = _read(fields, {"self": _text, "members": _members})
                return Joined(found["self"], found["members"])
            case "came":
                return Came(_read_member(fields))
            case "left":
                return Left(**_read(fields, {"member": _text}))
            case "file" if "code" in fields:
                return FileUnknown(**_read(fields, {"number": _integer, "code": _text}))
            case "file":
                return FileAnswer(**_read(fields, _ANSWER))
            case "error":
                return Expelled(**_read(fields, {"code": _text}))
            case kind:
                sender = _text(fields.pop("from", None))
                of = MemberKind(fields.pop("kind", None))
                return Heard(sender, of, _read_said(kind, fields))


# writing


def _said(said: Said) -> Fields:
    match said:
        case Offer():
            return {"t": "offer", "session": said.session} | _signed_fields(said.signed)
        case Answer():
            return {"t": "answer", "session": said.session} | _signed_fields(said.signed)
        case Refused():
            wait = {"code": said.code, "retry_s": said.retry_s}
            return {"t": "refused", "session": said.session} | wait


def _signed_fields(signed: SignedSdp) -> Fields:
    return {"sdp": signed.sdp, "proof": signed.proof}


def _member(member: Member) -> Fields:
    return {"member": member.member, "kind": member.kind, "id": member.id.value}


def _dump(fields: Fields) -> str:
    return json.dumps(fields, separators=(",", ":"))


# reading


def _read_said(kind: object, fields: Fields) -> Said:
    match kind:
        case "offer" | "answer":
            found = _read(fields, {"session": _text, **_SIGNED})
            signed = SignedSdp(found["sdp"], found["proof"])
            return (Offer if kind == "offer" else Answer)(found["session"], signed)
        case "refused":
            readers = {"session": _text, "code": _text, "retry_s": _number}
            return Refused(**_read(fields, readers))
    raise ProtocolError("not a known message")


def _read_member(fields: Fields) -> Member:
    return Member(**_read(fields, {"member": _text, "kind": MemberKind, "id": _id}))


def _members(value: object) -> tuple[Member, ...]:
    if not isinstance(value, list) or len(value) > MEMBERS_LISTED_LIMIT:
        raise ProtocolError("not a list of members")
    if not all(isinstance(fields, dict) for fields in value):
        raise ProtocolError("a member that is no object")
    return tuple(_read_member(fields) for fields in value)


def _read(fields: Fields, readers: Readers) -> Fields:
    """Each value as its reader returns it; there must be exactly the keys of the readers."""
    if fields.keys() != readers.keys():
        raise ProtocolError("not exactly the keys of its kind")
    return {key: read(fields[key]) for key, read in readers.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a text")
    return value


def _integer(value: object) -> int:
    if type(value) is not int:  # bool is an int in Python, but `true` is no number
        raise ProtocolError("not a whole number")
    return value


def _number(value: object) -> float:
    if type(value) is float:
        return value
    return float(_integer(value))


def _id(value: object) -> PeerId:
    return PeerId(_text(value))


def _digest(value: object) -> Digest:
    text = _text(value)
    return GitId(text) if len(text) == 40 else Sha256(text)


def _commit(value: object) -> Commit:
    return Commit(_text(value))


_SIGNED: Readers = {"sdp": _text, "proof": _text}
_QUESTION: Readers = {
    "number": _integer,
    "repo": _text,
    "revision": _text,
    "path": _text,
    "kind": FileKind,
}
_ANSWER: Readers = {"number": _integer, "digest": _digest, "size": _integer, "commit": _commit}


def _load(data: bytes, limit: int) -> Fields:
    """The object of a message, its values unread."""
    if len(data) > limit:
        raise ProtocolError(f"{len(data)} bytes, {limit} at most")
    fields = json.loads(data.decode(), object_pairs_hook=_single, parse_constant=_no_constant)
    if not isinstance(fields, dict):
        raise ProtocolError("not an object")
    return fields


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever cannot be read is a ProtocolError."""
    try:
        yield
    except NameRefused as error:
        raise ProtocolError(str(error)) from error
    except (ValueError, OverflowError, RecursionError) as error:
        # No JSON, no known word, lone surrogates, a number beyond a float, nesting without end.
        raise ProtocolError(f"not a message ({type(error).__name__})") from error


def _single(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ProtocolError("a key stands twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ProtocolError(name)
