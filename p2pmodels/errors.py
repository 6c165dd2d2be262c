"""Every error of the project.

1. The class doc-string is the sentence the user reads; `advice` says what they can do.
2. `code` is the same word in JSON, on the command line, in metrics and in the guides.
3. `status` is the HTTP answer a door gives; `retry` says whether another source may work.
4. Details are attributes, never parsed out of text; no attribute ever holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class P2PModelsError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    retry: ClassVar[bool] = False
    advice: ClassVar[str] = "See `p2pmodels doctor` and the daemon's log."

    def __init__(self, detail: str = "", *, advice: str = "", **fields: object) -> None:
        self.detail = detail
        self.fields = fields
        self.hint = advice or self.advice
        super().__init__(detail)

    @property
    def message(self) -> str:
        """The doc-string's first sentence, then what it happened to."""
        sentence = (type(self).__doc__ or "").strip().splitlines()[0]
        return f"{sentence[:-1]}: {self.detail}" if self.detail else sentence

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> dict[str, object]:
        """The body of an error answer: the same shape from every door and from `--json`."""
        return {
            "code": self.code,
            "message": self.message,
            "advice": self.hint,
            "retryable": self.retry,
            **self.fields,
        }


class ConfigError(P2PModelsError):
    """The configuration cannot be used."""

    code, status = "bad_config", 500
    advice = "Correct the setting it names; `p2pmodels config` shows where each value comes from."


class UsageError(P2PModelsError):
    """The request does not make sense."""

    code, status = "bad_usage", 400
    advice = "See `p2pmodels --help`."


class NameRefused(P2PModelsError):
    """A name that cannot be valid."""

    code, status = "bad_name", 400
    advice = "Check the spelling of the repo, revision, path or digest."


class ProtocolError(P2PModelsError):
    """Bytes from outside break the rules of their format."""

    code, status = "bad_format", 400


class NotFound(P2PModelsError):
    """It does not exist."""

    code, status = "not_found", 404
    hub_code: ClassVar[str] = "EntryNotFound"
    advice = "Check the name; a private repo also looks like this without a token."


class RepoNotFound(NotFound):
    """The repo does not exist, or is private."""

    hub_code = "RepoNotFound"


class RevisionNotFound(NotFound):
    """The repo has no such revision."""

    hub_code = "RevisionNotFound"


class EntryNotFound(NotFound):
    """The repo has no such file at this revision."""

    hub_code = "EntryNotFound"


class AccessRefused(P2PModelsError):
    """Access was refused; this is final, no other source is asked."""

    code, status = "unauthorized", 401
    hub_code: ClassVar[str] = "RepoNotFound"
    advice = "Give the program HF_TOKEN, or the daemon `origin.token_file`, of one who may read it."


class Gated(AccessRefused):
    """The repo is gated and this caller has not been granted access."""

    code, status = "gated", 403
    hub_code = "GatedRepo"
    advice = "Accept the conditions on the repo's page; then HF_TOKEN or `origin.token_file`."


class NotShared(AccessRefused):
    """This is not proven public, so it is not shared."""

    code, status = "not_shared", 403
    advice = "Only what an anonymous request to the origin can read is shared."


class ControlRefused(AccessRefused):
    """The control token is missing or wrong."""

    code, status = "control_refused", 401
    advice = "Send the text of the daemon's file `control-token` as a bearer token."


class HostRefused(P2PModelsError):
    """The Host header does not name this daemon."""

    code, status = "host_refused", 421
    advice = "Use http://127.0.0.1 with the daemon's port, or add the name to `web.allowed_hosts`."


class WebOriginRefused(P2PModelsError):
    """This web page may not use the daemon."""

    code, status = "web_origin_refused", 403
    advice = "Add the page's origin to `web.allowed_origins` if you trust it."


class SourceFailed(P2PModelsError):
    """A source could not give the bytes."""

    code, status, retry = "artifact_fetch_failed", 502, True
    advice = "Check the network; the daemon tries the next source by itself."


class ManifestFailed(SourceFailed):
    """The list of files could not be fetched."""

    code = "manifest_fetch_failed"


class NetworkFailed(SourceFailed):
    """The network connection failed."""

    code = "network_error"


class SourceTimedOut(SourceFailed):
    """A source did not answer in time."""

    code, status = "network_error", 504


class OriginDown(SourceFailed):
    """Every origin failed; this model rests for a while."""

    code, status = "origin_down", 503
    advice = "Wait until the time it names, or start a peer that has the model."


class NoSource(SourceFailed):
    """No source has this file now."""

    code, status = "no_source", 503
    advice = "Connect to the origin or to a peer that has it; what is cached is still served."


class SwarmFailed(SourceFailed):
    """The swarm could not give the bytes."""


class LanFailed(SourceFailed):
    """A LAN peer could not be used."""


class HolderBusy(LanFailed):
    """A LAN peer has no free upload slot."""

    def __init__(self, detail: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class NotHeld(LanFailed):
    """A LAN peer does not have these bytes."""


class AddressRefused(SourceFailed):
    """An address that must not be contacted from here."""

    code, retry = "address_refused", False
    advice = "An answer of a public origin never leads to a private address."


class PeerMisbehaved(SourceFailed):
    """A peer broke the protocol."""

    code = "peer_misbehaved"


class IntegrityFailed(SourceFailed):
    """The bytes are not what the origin published."""

    code = "digest_mismatch"
    advice = "The bad copy was set aside and is fetched again; run `p2pmodels check` if it recurs."


class SizeMismatch(IntegrityFailed):
    """The size is not what the origin published."""


class DigestMismatch(IntegrityFailed):
    """The digest is not what the origin published."""


class StoreFailed(P2PModelsError):
    """The data folder cannot be used."""

    code, status = "cache_invalid", 500
    advice = "Check the folder's disk and owner, then run `p2pmodels repair`."


class DiskFull(StoreFailed):
    """There is no room for this file."""

    code, status = "disk_full", 507
    advice = "Free space, evict a model (`p2pmodels evict`) or raise `store.cache_limit_bytes`."


class StoreLocked(StoreFailed):
    """Another daemon uses this data folder."""

    code = "store_locked"
    advice = "Stop the other daemon, or give this one another --data-dir."


class StoreDamaged(StoreFailed):
    """The data folder is damaged."""

    code = "cache_invalid"


class Overloaded(P2PModelsError):
    """Not yet: try again in a moment."""

    code, status, retry = "rate_limited", 429, True
    advice = "Clients that honour Retry-After do this by themselves."

    def __init__(self, detail: str = "", *, retry_after_s: float = 2.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(SourceFailed, Overloaded):
    """An origin asks us to wait."""

    code, status, retry = "rate_limited", 429, True


class DaemonUnreachable(P2PModelsError):
    """No daemon answers."""

    code, status = "daemon_unreachable", 503
    advice = "Start it with `p2pmodels serve`, or name it with --url."


@contextmanager
def mapped(
    table: dict[type[BaseException], type[P2PModelsError]], what: str = ""
) -> Iterator[None]:
    """Turn the exceptions of another library into ours, at the one edge where they appear."""
    try:
        yield
    except P2PModelsError:
        raise
    except tuple(table) as error:
        for theirs, ours in table.items():
            if isinstance(error, theirs):
                reason = str(error) or type(error).__name__
                raise ours(f"{what}: {reason}" if what else reason) from error
        raise
