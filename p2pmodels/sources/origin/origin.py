"""One origin: the manifest of a snapshot, proof of access, and the bytes of a file.

1. Only a hub is asked for manifests and proofs; whatever it answers there stays within its host.
2. A refusal of a hub (401, 403, 404) is final. A mirror's refusal means that it lacks the file.
3. The caller passes the token to use; nothing here takes the operator's by itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Self
from urllib.parse import quote

from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from p2pmodels.clock import Clock
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.errors import (
    AccessRefused,
    EntryNotFound,
    ManifestFailed,
    NotFound,
    SourceFailed,
    UsageError,
)
from p2pmodels.sources.origin.addresses import IsPublic, is_public
from p2pmodels.sources.origin.answers import check_metadata, failure, refusal
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.download import Download, Job
from p2pmodels.sources.origin.http import Ask, Follow, Http
from p2pmodels.sources.origin.hub_json import JSON_BYTES_LIMIT, parse_manifest
from p2pmodels.sources.origin.limits import Group
from p2pmodels.sources.origin.options import OriginKind, OriginOptions
from p2pmodels.sources.origin.retry import QUESTION_BUDGET_S, BadAnswer, Retry, with_retries
from p2pmodels.store.partials import Partial

__all__ = ["Origin", "OriginKind", "OriginOptions"]

PATH_LIMIT = 8192  # characters of a path that is passed on
RENAMES_LIMIT = 2  # redirects within the hub of a proof: a repo that was renamed has one

_PASSED_ON = (
    hdrs.CONTENT_TYPE,
    hdrs.ETAG,
    hdrs.LINK,
    "X-Error-Code",
    "X-Error-Message",
    "X-Repo-Commit",
    "X-Total-Count",
)


class NotMirrored(SourceFailed):
    """A mirror does not have this file."""


class Origin:
    """Enter it to use it. `name` is host and port; it holds no secret."""

    def __init__(
        self,
        options: OriginOptions,
        clock: Clock,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
        is_public: IsPublic = is_public,
    ) -> None:
        self.options = options
        self.name = options.name
        self.url = str(options.base)
        self.kind = OriginKind(options.kind)
        self._clock = clock
        self._http = Http(options, clock, resolver=resolver, tls=tls, is_public=is_public)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._http)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    @property
    def is_hub(self) -> bool:
        return self.kind is OriginKind.HUB

    @property
    def wait_s(self) -> float:
        """Seconds that this origin asked us to leave it alone."""
        return self._http.limits.wait_s

    def files_wait_s(self, *, is_in_company: bool) -> float:
        """Seconds until it may be asked for bytes; in company peers' word counts as well."""
        return self._http.limits.rest_s(Group.FILES, is_in_company=is_in_company)

    def defer(self, seconds: float) -> None:
        """In company, hold back from asking for bytes: it told another machine to wait."""
        self._http.limits.defer(seconds)

    async def manifest(
        self,
        repo: RepoId,
        revision: Revision,
        token: Secret | None = None,
        *,
        is_patient: bool = True,
    ) -> Manifest:
        """The files of repo@revision, in one request.

        Raises ManifestFailed and other SourceFailed, AccessRefused, NotFound.
        """
        name = quote(repo.name, safe="/")
        path = f"/api/{repo.kind.value}/{name}/revision/{quote(revision.value, safe='')}?blobs=true"
        ask = Ask(self._at(path), Group.API, token=token, follow=Follow.OWN)

        async def question() -> Manifest:
            what = f"{repo}@{revision} at {self.name}"
            async with await self._http.send(ask) as answer:
                if answer.status != 200:
                    raise refusal(answer.status, answer.headers, what, failed=ManifestFailed)
                body = await answer.read_all(JSON_BYTES_LIMIT)
            return parse_manifest(repo, revision, body)

        return await with_retries(self._retry(is_patient), question)

    async def prove(
        self, want: Want, token: Secret | None = None, *, is_patient: bool = True
    ) -> None:
        """Return if the hub would give this file to the owner of `token` (None: to everybody).

        Raises AccessRefused, NotFound, SourceFailed; BadAnswer when the answer is not the hub's.
        """
        retry = self._retry(is_patient)
        await with_retries(retry, lambda: self._prove_once(want, token))

    async def _prove_once(self, want: Want, token: Secret | None) -> None:
        what = f"{want} at {self.name}"
        url: URL | None = self._file_url(want)
        for _ in range(RENAMES_LIMIT + 1):
            if url is None:
                break
            ask = Ask(url, Group.FILES, method=hdrs.METH_HEAD, token=token)
            async with await self._http.send(ask) as answer:
                if answer.status not in (200, 206, 301, 302, 307, 308):
                    raise refusal(answer.status, answer.headers, what, missing=EntryNotFound)
                if check_metadata(want, answer.status, answer.headers, is_hub=True):
                    return
                url = self._http.redirect_within(answer)
        # A captive portal redirects everything, too; only the hub knows the file.
        raise BadAnswer(f"{what}: an answer without the file's metadata")

    async def fill(
        self,
        want: Want,
        partial: Partial,
        positions: Callable[[], Sequence[int]],
        token: Secret | None = None,
        on_bytes: Callable[[int], None] = lambda _count: None,
        *,
        is_patient: bool = True,
        claims: Claims | None = None,
    ) -> None:
        """Fetch every byte that is claimed and has not landed, what readers need first.

        Returns when the partial is full, also when others brought the rest.

        Raises SourceFailed, AccessRefused, NotFound, StoreFailed; what has landed stays.
        """
        job = Job(want, partial, positions, token, on_bytes, is_patient, claims or Claims())
        download = Download(self._file_url(want), job, self._http, self.options, self._clock)
        try:
            await download.run()
        except (AccessRefused, NotFound) as error:
            if self.is_hub:
                raise
            raise NotMirrored(f"{want} at {self.name}") from error

    async def get(
        self, path_qs: str, token: Secret | None = None, *, is_patient: bool = True
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Pass an API question on: status, the headers that matter, body. Raises SourceFailed."""
        is_plain = path_qs.isascii() and path_qs.isprintable() and " " not in path_qs
        if not path_qs.startswith("/api/") or not is_plain or len(path_qs) > PATH_LIMIT:
            raise UsageError("a path below /api/")
        if any(part in (".", "..") for part in path_qs.partition("?")[0].split("/")):
            raise UsageError("a path below /api/")
        ask = Ask(self._at(path_qs), Group.API, token=token, follow=Follow.OWN)

        async def question() -> tuple[int, Mapping[str, str], bytes]:
            async with await self._http.send(ask) as answer:
                if answer.status == 429 or answer.status >= 500 or 300 <= answer.status < 400:
                    raise failure(answer.status, answer.headers, self.name)
                body = await answer.read_all(JSON_BYTES_LIMIT)
                kept = {n: answer.headers[n] for n in _PASSED_ON if n in answer.headers}
                return answer.status, kept, body

        return await with_retries(self._retry(is_patient), question)

    async def probe(self) -> None:
        """Return if the origin answers at all. Raises SourceFailed."""
        ask = Ask(self._at("/"), Group.API, method=hdrs.METH_HEAD)
        async with await self._http.send(ask) as answer:
            if answer.status >= 500 or answer.status == 429:
                raise failure(answer.status, answer.headers, self.name)

    def _retry(self, is_patient: bool) -> Retry:
        """A client waits for the answer of a question: asking elsewhere beats asking again."""
        budget_s = QUESTION_BUDGET_S if is_patient else 0.0
        return Retry(self._clock, is_patient=is_patient, budget_s=budget_s)

    def _at(self, path: str) -> URL:
        return URL(self.url.rstrip("/") + path, encoded=True)

    def _file_url(self, want: Want) -> URL:
        path = quote(want.entry.path.value)
        return self._at(f"/{want.repo.url_path}/resolve/{want.commit}/{path}")
