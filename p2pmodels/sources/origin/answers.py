"""What the origin's answers mean: status and error codes, and whether it is the file we want.

The hub says who is refused and why in `X-Error-Code`; the metadata of a file stand on its first
answer only, a CDN's own ETag is another value and proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiohttp import hdrs

from p2pmodels.core.manifest import Want
from p2pmodels.errors import (
    AccessRefused,
    DigestMismatch,
    EntryNotFound,
    Gated,
    NotFound,
    P2PModelsError,
    RateLimited,
    RepoNotFound,
    RevisionNotFound,
    SizeMismatch,
    SourceFailed,
)
from p2pmodels.sources.origin.limits import DEFAULT_PAUSE_S, retry_after_s
from p2pmodels.sources.origin.retry import BadAnswer

_NOT_FOUND: dict[str, type[NotFound]] = {
    "RepoNotFound": RepoNotFound,
    "RevisionNotFound": RevisionNotFound,
    "EntryNotFound": EntryNotFound,
}
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def refusal(
    status: int,
    headers: Mapping[str, str],
    what: str,
    *,
    missing: type[NotFound] = NotFound,
    failed: type[SourceFailed] = SourceFailed,
) -> P2PModelsError:
    """What a status of the origin itself means; `missing` is a 404 that does not say of what."""
    code = headers.get("X-Error-Code", "")
    if status in (401, 403):
        # An unknown repo looks the same to an anonymous caller (clients.md, 1.9): a token decides.
        return Gated(what) if code == "GatedRepo" else AccessRefused(what)
    if status in (404, 410):
        return _NOT_FOUND.get(code, missing)(what)
    if status == 416:
        return SizeMismatch(f"{what}: the origin has fewer bytes")
    return failure(status, headers, what, failed=failed)


def failure(
    status: int,
    headers: Mapping[str, str],
    what: str,
    *,
    failed: type[SourceFailed] = SourceFailed,
) -> SourceFailed:
    """What a status means that says nothing about access."""
    if status == 429 or (status == 503 and "Retry-After" in headers):
        pause = retry_after_s(headers)
        return RateLimited(
            f"{what}: status {status}", retry_after_s=DEFAULT_PAUSE_S if pause is None else pause
        )
    return failed(f"{what}: status {status}")


def check_metadata(want: Want, status: int, headers: Mapping[str, str], *, is_hub: bool) -> bool:
    """Whether the first answer says that this is the wanted file; False when it says nothing.

    Raises DigestMismatch, SizeMismatch, BadAnswer when it says otherwise.
    """
    entry = want.entry
    commit = headers.get("X-Repo-Commit")
    if commit is not None and commit != want.commit.value:
        raise DigestMismatch(f"{want}: the origin answers for commit {commit[:40]!r}")
    size = headers.get("X-Linked-Size")
    if size is None and status == 200:
        size = headers.get(hdrs.CONTENT_LENGTH)
    if size is not None and _number(size, want) != entry.size:
        raise SizeMismatch(f"{want}: the origin has {size[:20]} bytes, not {entry.size}")
    etag = headers.get("X-Linked-Etag")
    if etag is None and status in (200, 206) and is_hub:
        etag = headers.get(hdrs.ETAG)
    value = _etag_value(etag)
    if value is not None and value != entry.digest.value:
        raise DigestMismatch(f"{want}: the origin has {value}")
    return value is not None or (is_hub and commit is not None)


def _number(text: str, want: Want) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        raise BadAnswer(f"{want}: size {text[:40]!r}")
    return int(text)


def _etag_value(header: str | None) -> str | None:
    """The digest in an ETag; None when it is of another kind, such as a file server's."""
    value = (header or "").strip().removeprefix("W/").strip('"')
    return value if _DIGEST.fullmatch(value) else None


def check_content_range(header: str | None, start: int, stop: int, size: int) -> None:
    """Raises BadAnswer unless the header names exactly the bytes start … stop-1 of `size`."""
    match = _CONTENT_RANGE.fullmatch((header or "").strip())
    if match is None or tuple(map(int, match.groups())) != (start, stop - 1, size):
        asked = f"bytes {start}-{stop - 1}/{size}"
        raise BadAnswer(f"Content-Range {(header or '')[:80]!r} for {asked}")
