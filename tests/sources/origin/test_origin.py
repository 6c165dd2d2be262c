"""Manifests, proofs and API questions against the demo hub."""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import replace

import pytest
from aiohttp import web

from p2pmodels.core.digests import git_id
from p2pmodels.core.manifest import Want
from p2pmodels.core.names import Commit, FilePath, RepoId, RepoKind, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.demo.hub import Hub
from p2pmodels.errors import (
    AccessRefused,
    DigestMismatch,
    EntryNotFound,
    Gated,
    ManifestFailed,
    NetworkFailed,
    P2PModelsError,
    RateLimited,
    RepoNotFound,
    RevisionNotFound,
    SizeMismatch,
    SourceFailed,
    SourceTimedOut,
    UsageError,
)
from p2pmodels.sources.origin.origin import Origin
from p2pmodels.sources.origin.retry import BadAnswer
from tests.sources.origin.world import (
    DIGEST,
    FILES,
    MAIN,
    REPO,
    SMALL,
    SkippingClock,
    origin_at,
    spy,
)

MODEL = FilePath("model.safetensors")
GOOD = Secret("hf_good")


def gate(hub: Hub, **how: object) -> None:
    hub.add_repo("acme/gated", FILES, gated="auto", tokens=["hf_good"])
    hub.add_repo("acme/private", FILES, private=True, tokens=["hf_good"])
    hub.add_repo("acme/other", FILES, tokens=["hf_other"])


@pytest.mark.asyncio
async def test_manifest_is_one_request(hub: Hub, origin: Origin) -> None:
    manifest = await origin.manifest(REPO, MAIN)
    assert {str(e.path): e.size for e in manifest.files} == {n: len(d) for n, d in FILES.items()}
    assert manifest.find(MODEL).digest == DIGEST
    assert manifest.find(FilePath("config.json")).digest == git_id(SMALL)
    assert not manifest.is_restricted
    await hub.quiet()
    (hit,) = hub.log
    assert hit.path == "/api/models/acme/tiny/revision/main?blobs=true"


@pytest.mark.asyncio
async def test_revision_and_kind_stand_in_the_path_as_the_hub_wants_them(
    hub: Hub, origin: Origin
) -> None:
    hub.add_repo("acme/tiny", FILES, kind="datasets", branch="refs/pr/1")
    await origin.manifest(RepoId("acme/tiny", RepoKind.DATASET), Revision("refs/pr/1"))
    await hub.quiet()
    assert hub.log[-1].path == "/api/datasets/acme/tiny/revision/refs%2Fpr%2F1?blobs=true"


@pytest.mark.asyncio
async def test_manifest_by_commit_is_of_that_commit(hub: Hub, origin: Origin) -> None:
    old = (await origin.manifest(REPO, MAIN)).commit
    hub.add_repo("acme/tiny", {"config.json": b"new\n"})
    assert (await origin.manifest(REPO, MAIN)).commit != old
    assert (await origin.manifest(REPO, Revision(old.value))).commit == old


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("repo", "revision", "token", "error"),
    [
        ("acme/none", "main", None, AccessRefused),
        ("acme/none", "main", "hf_good", RepoNotFound),
        ("acme/tiny", "none", None, RevisionNotFound),
        ("acme/private", "main", None, AccessRefused),
        ("acme/private", "main", "hf_other", RepoNotFound),
        ("acme/tiny", "main", "hf_unknown", AccessRefused),
    ],
)
async def test_refusal_of_a_manifest_has_its_own_error(
    hub: Hub, origin: Origin, repo: str, revision: str, token: str | None,
    error: type[P2PModelsError],
) -> None:  # fmt: skip
    gate(hub)
    secret = Secret(token) if token else None
    with pytest.raises(error) as caught:
        await origin.manifest(RepoId(repo), Revision(revision), secret)
    assert type(caught.value) is error
    await hub.quiet()
    assert len(hub.log) == 1, "a refusal is final"


@pytest.mark.asyncio
async def test_gated_and_private_repos_are_restricted(hub: Hub, origin: Origin) -> None:
    gate(hub)
    assert (await origin.manifest(RepoId("acme/gated"), MAIN)).is_restricted
    assert (await origin.manifest(RepoId("acme/private"), MAIN, GOOD)).is_restricted


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"{}", b"[" * 100_000, b"\0" * 100])
async def test_captive_portal_is_no_manifest(hub: Hub, origin: Origin, body: bytes) -> None:
    hub.faults.api_body = body
    with pytest.raises(ManifestFailed):
        await origin.manifest(REPO, MAIN)


@pytest.mark.asyncio
async def test_manifest_larger_than_the_limit_is_not_read() -> None:
    sent = 0

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 100 << 20:
            await response.write(b"[" * (1 << 20))
            sent += 1 << 20
        return response

    async with spy(flood) as server, origin_at(server.url) as origin:
        with pytest.raises(SourceFailed):
            await origin.manifest(REPO, MAIN)
    assert sent < 32 << 20


@pytest.mark.asyncio
async def test_encoded_manifest_is_refused_unread() -> None:
    bomb = zlib.compress(b"[" * (64 << 20), wbits=31)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with spy(answer) as server, origin_at(server.url) as origin:
        with pytest.raises(BadAnswer, match="encoded"):
            await origin.manifest(REPO, MAIN)


@pytest.mark.asyncio
async def test_manifest_never_comes_from_another_host() -> None:
    async def elsewhere(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "https://evil.example/api"})

    async with spy(elsewhere) as server, origin_at(server.url) as origin:
        with pytest.raises(BadAnswer, match=r"evil\.example"):
            await origin.manifest(REPO, MAIN)


@pytest.mark.asyncio
async def test_manifest_follows_a_renamed_repo_within_the_hub(hub: Hub) -> None:
    async def moved(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith("/api/models/acme/old/"):
            return web.Response(
                status=307, headers={"Location": request.raw_path.replace("old", "new")}
            )
        body = {"sha": "c0ffee00" * 5, "siblings": [], "id": "acme/new"}
        return web.json_response(body)

    async with spy(moved) as server, origin_at(server.url) as origin:
        manifest = await origin.manifest(RepoId("acme/old"), MAIN, GOOD)
        assert manifest.repo == RepoId("acme/old")
        assert server.tokens() == ["Bearer hf_good"] * 2


@pytest.mark.asyncio
async def test_question_is_asked_again_after_1_2_and_4_seconds_within_its_budget(
    hub: Hub, origin: Origin, clock: SkippingClock
) -> None:
    hub.faults.down = True
    with pytest.raises(NetworkFailed):
        await origin.manifest(REPO, MAIN)
    await hub.quiet()
    assert [round(delay) for delay in clock.sleeps] == [1, 2]
    assert sum(clock.sleeps) < 7
    hub.faults.down = False
    await origin.manifest(REPO, MAIN)


@pytest.mark.asyncio
async def test_silent_origin_is_left_after_its_time_out(clock: SkippingClock) -> None:
    never = asyncio.Event()

    async def silent(_request: web.BaseRequest) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    async with (
        spy(silent) as server,
        origin_at(server.url, clock, connect_timeout_s=0.1, first_byte_timeout_s=0.1) as origin,
    ):
        with pytest.raises(SourceTimedOut):
            await origin.manifest(REPO, MAIN, is_patient=False)
        assert clock.sleeps == []
        never.set()


@pytest.mark.asyncio
async def test_dead_dns_and_closed_port_say_so() -> None:
    async with origin_at("http://no-such-host.invalid") as origin:
        with pytest.raises(NetworkFailed, match="cannot be resolved"):
            await origin.manifest(REPO, MAIN)
    async with spy(lambda _request: asyncio.sleep(0, web.Response())) as server:
        url = server.url
    async with origin_at(url) as origin:
        with pytest.raises(NetworkFailed, match="no connection to"):
            await origin.manifest(REPO, MAIN)


# proofs


async def want_in(origin: Origin, repo: str, token: Secret | None = None) -> Want:
    return (await origin.manifest(RepoId(repo), MAIN, token)).want(MODEL)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["model.safetensors", "config.json", "sub dir/notes #1.txt"])
async def test_public_file_is_proved_by_one_head(hub: Hub, origin: Origin, path: str) -> None:
    want = (await origin.manifest(REPO, MAIN)).want(FilePath(path))
    hub.clear_log()
    await origin.prove(want)
    await hub.quiet()
    (hit,) = hub.log
    assert (hit.method, hit.has_authorization, hit.listener) == ("HEAD", False, "hub")


@pytest.mark.asyncio
async def test_proof_through_the_resolve_cache(hub: Hub, origin: Origin) -> None:
    hub.options.uses_resolve_cache = True
    await origin.prove((await origin.manifest(REPO, MAIN)).want(FilePath("config.json")))


@pytest.mark.asyncio
async def test_gated_file_is_proved_only_for_a_token_that_was_granted(
    hub: Hub, origin: Origin
) -> None:
    gate(hub)
    want = await want_in(origin, "acme/gated")
    for token in (None, Secret("hf_other")):
        with pytest.raises(Gated):
            await origin.prove(want, token)
    await origin.prove(want, GOOD)


@pytest.mark.asyncio
async def test_proof_fails_when_the_origin_has_another_file_now(hub: Hub, origin: Origin) -> None:
    want = await want_in(origin, "acme/tiny")
    size = replace(want, entry=replace(want.entry, size=want.entry.size + 1))
    with pytest.raises(SizeMismatch):
        await origin.prove(size)
    digest = replace(want, entry=replace(want.entry, digest=git_id(b"other")))
    with pytest.raises(DigestMismatch):
        await origin.prove(digest)
    with pytest.raises(RevisionNotFound):
        await origin.prove(replace(want, commit=Commit("d" * 40)))
    with pytest.raises(EntryNotFound):
        await origin.prove(replace(want, entry=replace(want.entry, path=FilePath("none.bin"))))


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [200, 302])
async def test_captive_portal_proves_nothing(status: int) -> None:
    async def portal(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "http://portal.example/login"})

    async with spy(portal) as server, origin_at(server.url) as origin:
        entry = Want(REPO, Commit("c0ffee00" * 5), (await _entry()).entry)
        with pytest.raises(SourceFailed):
            await origin.prove(entry)


async def _entry() -> Want:
    async with Hub() as hub:
        hub.add_repo("acme/tiny", FILES)
        async with origin_at(hub.url) as origin:
            return await want_in(origin, "acme/tiny")


# API questions


@pytest.mark.asyncio
async def test_api_question_is_passed_on(hub: Hub, origin: Origin) -> None:
    gate(hub)
    status, headers, body = await origin.get("/api/models/acme/tiny/refs?include_prs=1")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/json")
    assert json.loads(body)["branches"][0]["name"] == "main"
    status, _, body = await origin.get("/api/whoami-v2", GOOD)
    assert (status, json.loads(body)["name"]) == (200, "demo")
    assert (await origin.get("/api/whoami-v2"))[0] == 401
    status, headers, _ = await origin.get("/api/models/acme/tiny/revision/none")
    assert (status, headers["X-Error-Code"]) == (404, "RevisionNotFound")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/acme/tiny/resolve/main/x", "//evil.example/api/", "/api/../x", "/api/a b",
             "/api/\r\nX: y", "@evil.example/api/", "/api/" + "a" * 9000, ""],
)  # fmt: skip
async def test_only_api_paths_are_passed_on(hub: Hub, origin: Origin, path: str) -> None:
    with pytest.raises(UsageError):
        await origin.get(path)
    assert hub.log == []


# rate limits


@pytest.mark.asyncio
async def test_rate_limit_of_the_hub_is_obeyed_without_asking_again(
    hub: Hub, origin: Origin
) -> None:
    want = await want_in(origin, "acme/tiny")
    hub.faults.request_limit = 1
    with pytest.raises(RateLimited) as caught:
        await origin.prove(want)
    assert caught.value.retry_after_s > 10
    await hub.quiet()
    asked = len(hub.log)
    with pytest.raises(RateLimited):
        await origin.prove(want)
    await hub.quiet()
    assert len(hub.log) == asked
    assert origin.wait_s > 0


@pytest.mark.asyncio
async def test_last_granted_request_is_known_from_its_header(hub: Hub, origin: Origin) -> None:
    want = await want_in(origin, "acme/tiny")
    hub.faults.request_limit = 2
    await origin.prove(want)
    with pytest.raises(RateLimited):
        await origin.prove(want)
    await hub.quiet()
    assert hub.requests(status=429) == []


@pytest.mark.asyncio
async def test_retry_after_is_waited_for(hub: Hub, origin: Origin, clock: SkippingClock) -> None:
    want = await want_in(origin, "acme/tiny")
    hub.faults.status_for_files, hub.faults.status_times = 429, 1
    hub.faults.retry_after_s = 3
    await origin.prove(want)
    assert [round(delay) for delay in clock.sleeps] == [3]
