"""The hub's JSON becomes a Manifest, or a refusal: nothing in between travels.

1. Strict: a missing, negative, fractional, huge, duplicate or ill-typed value refuses the whole.
2. Bounded: depth, digits, containers and values, so that a hostile answer costs little memory.
3. Only what is listed here is kept; no `xetHash` and no card data goes further.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT, FILES_LIMIT, FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId, Revision
from p2pmodels.errors import ManifestFailed, NameRefused, ProtocolError

JSON_BYTES_LIMIT = 8 << 20  # bytes of one answer; 10,000 files take 3 MiB
DIGITS_LIMIT = 19  # digits of a whole number; int() is quadratic in them
CONTAINERS_LIMIT = 65_536  # objects and lists; a file has two, and each takes 232 bytes of memory
VALUES_LIMIT = 262_144  # values; a file has eight
TEXT_LIMIT = 256  # characters of a descriptive field
TAGS_LIMIT = 256  # tags of a repo that are kept

Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
Size = Annotated[int, Field(ge=0, le=FILE_SIZE_LIMIT)]

_CARD: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "author": (str,),
    "lastModified": (str,),
    "createdAt": (str,),
    "private": (bool,),
    "gated": (bool, str),
    "disabled": (bool,),
    "downloads": (int,),
    "likes": (int,),
    "tags": (list,),
    "pipeline_tag": (str, type(None)),
    "library_name": (str, type(None)),
}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class _Lfs(_Strict):
    sha256: str
    size: Size


class _Sibling(_Strict):
    rfilename: str
    size: Size
    blobId: str
    lfs: _Lfs | None = None


class _Info(_Strict):
    sha: str
    siblings: Annotated[list[_Sibling], Field(max_length=FILES_LIMIT)]
    private: bool = False
    gated: bool | Text = False
    disabled: bool = False


def parse_manifest(repo: RepoId, revision: Revision, body: bytes) -> Manifest:
    """Read the answer of `…/revision/{rev}?blobs=true`. Raises ManifestFailed."""
    try:
        fields = parse_object(body)
        info = _Info.model_validate(fields)
        manifest = Manifest(
            repo,
            Commit(info.sha),
            tuple(map(_entry, info.siblings)),
            is_restricted=info.gated is not False or info.private or info.disabled,
            card=_card(fields),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:120]
        raise ManifestFailed(f"{repo}: {where!r}: {first['msg'][:120]}") from None
    except (NameRefused, ProtocolError) as error:
        raise ManifestFailed(f"{repo}: {error.message}") from None
    if revision.commit is not None and manifest.commit != revision.commit:
        raise ManifestFailed(f"{repo}: asked for {revision}, got {manifest.commit}")
    return manifest


def parse_object(body: bytes) -> dict[str, object]:
    """Read one JSON object within the limits. Raises ProtocolError."""
    if len(body) > JSON_BYTES_LIMIT:
        raise ProtocolError(f"JSON of {len(body)} bytes")
    # Counted in the text, where it costs nothing: what is inside strings only makes it stricter.
    if body.count(b"{") + body.count(b"[") > CONTAINERS_LIMIT:
        raise ProtocolError("JSON of too many parts")
    if body.count(b",") > VALUES_LIMIT:
        raise ProtocolError("JSON of too many values")
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_fraction,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):
        raise ProtocolError("not JSON as the hub writes it") from None
    if not isinstance(value, dict):
        raise ProtocolError("JSON that is not an object")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProtocolError("JSON with a key twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > DIGITS_LIMIT:
        raise ProtocolError("a number of too many digits")
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > 400:
        raise ProtocolError("a number of too many digits")
    return float(text)


def _refuse_constant(text: str) -> NoReturn:
    raise ProtocolError(f"{text} is not JSON")


def _entry(sibling: _Sibling) -> FileEntry:
    digest: Digest = GitId(sibling.blobId)
    if sibling.lfs is not None:
        digest = Sha256(sibling.lfs.sha256)
        if sibling.lfs.size != sibling.size:
            raise ProtocolError(f"two sizes, {sibling.size} and {sibling.lfs.size}")
    return FileEntry(FilePath(sibling.rfilename), sibling.size, digest, GitId(sibling.blobId))


def _card(fields: Mapping[str, object]) -> dict[str, object]:
    """The descriptive fields that have the type they should have; they decide nothing."""
    card: dict[str, object] = {}
    for name, types in _CARD.items():
        value = fields.get(name, fields)
        if type(value) not in types:
            continue
        if isinstance(value, list):
            value = [tag for tag in value[:TAGS_LIMIT] if _is_short_text(tag)]
        if isinstance(value, str) and not _is_short_text(value):
            continue
        if type(value) is int and value < 0:
            continue
        card[name] = value
    return card


def _is_short_text(value: object) -> bool:
    """Whether it is text of a bearable length that can be encoded again."""
    return (
        isinstance(value, str)
        and len(value) <= TEXT_LIMIT
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )
