"""Where tokens go, and where no secret ever stands (reliability E7 to E12)."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from p2pmodels.core.manifest import Want
from p2pmodels.core.secret import Secret
from p2pmodels.demo.hub import Faults, Hub
from p2pmodels.errors import AccessRefused, AddressRefused, P2PModelsError, SourceFailed
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origin import Origin
from p2pmodels.sources.origin.origins import Origins
from tests.sources.origin.world import (
    DATA,
    FILES,
    MAIN,
    REPO,
    Names,
    Shelf,
    SkippingClock,
    is_public_here,
    options_for,
    origin_at,
    spy,
    want_of,
)

TOKEN = Secret("hf_CANARYcanaryCANARY")
BODY = DATA[:1000]
WANT = want_of(BODY)


async def give(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=BODY)


def lead_to(location: str) -> Callable[[web.BaseRequest], object]:
    async def lead(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": location})

    return lead


async def fill(origin: Origin, shelf: Shelf, want: Want = WANT) -> None:
    partial = await shelf.partial(want)
    async with asyncio.timeout(10):
        await origin.fill(want, partial, lambda: [0], TOKEN)
    await partial.seal()


@pytest.mark.asyncio
async def test_token_goes_to_the_configured_origin(shelf: Shelf) -> None:
    async with spy(give) as server, origin_at(server.url) as origin:
        await fill(origin, shelf)
        assert server.tokens() == [f"Bearer {TOKEN.reveal()}"]


@pytest.mark.asyncio
async def test_web_seed_redirect_same_origin_keeps_the_token(shelf: Shelf) -> None:
    async def lead(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith("/api/resolve-cache"):
            return await give(request)
        return web.Response(status=307, headers={"Location": "/api/resolve-cache/x"})

    async with spy(lead) as server, origin_at(server.url) as origin:
        await fill(origin, shelf)
        assert server.tokens() == [f"Bearer {TOKEN.reveal()}"] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.0.1"])
async def test_web_seed_redirect_cross_origin_loses_the_token(shelf: Shelf, host: str) -> None:
    """Another port of the same host is another origin, and so is another host."""
    async with spy(give, host) as cdn:

        async def lead(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{cdn.url}/x"})

        async with spy(lead) as server, origin_at(server.url) as origin:
            await fill(origin, shelf)
        assert len(server.requests) == len(cdn.requests) == 1
        assert cdn.tokens() == [""]
        assert "Cookie" not in cdn.requests[0].headers


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["cdn.hub.example", "hub.example.evil.com", "evilhub.example"])
async def test_name_that_looks_like_the_origin_s_gets_no_token(shelf: Shelf, name: str) -> None:
    names = Names({"hub.example": ["127.9.0.1"], name: ["127.9.0.2"]})
    async with spy(give, "127.9.0.2") as other:

        async def lead(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"http://{name}:{other.port}/x"})

        async with spy(lead, "127.9.0.1") as server:
            options = options_for(f"http://hub.example:{server.port}")
            clock = SkippingClock()
            async with Origin(options, clock, resolver=names, is_public=is_public_here) as origin:
                await fill(origin, shelf)
        assert other.tokens() == [""]


@pytest.mark.asyncio
async def test_localhost_is_not_the_host_that_was_configured_by_number(shelf: Shelf) -> None:
    async with spy(give) as cdn:

        async def lead(_request: web.BaseRequest) -> web.StreamResponse:
            location = f"http://localhost:{cdn.port}/x"
            return web.Response(status=302, headers={"Location": location})

        async with spy(lead) as server, origin_at(server.url) as origin:
            with pytest.raises(AddressRefused):
                await fill(origin, shelf)
        assert cdn.requests == []


@pytest.mark.asyncio
async def test_redirect_with_a_user_name_is_not_followed(shelf: Shelf) -> None:
    async with spy(give, "127.9.0.1") as evil:

        async def lead(request: web.BaseRequest) -> web.StreamResponse:
            location = f"http://{request.host}@127.9.0.1:{evil.port}/x"
            return web.Response(status=302, headers={"Location": location})

        async with spy(lead) as server, origin_at(server.url) as origin:
            with pytest.raises(AddressRefused):
                await fill(origin, shelf)
        assert evil.requests == []


@pytest.mark.asyncio
async def test_token_is_not_added_again_after_another_host(shelf: Shelf) -> None:
    """302 away, 302 back (E8)."""
    home = ""

    async def back(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"{home}/back"})

    async with spy(back, "127.9.0.1") as other:

        async def lead(request: web.BaseRequest) -> web.StreamResponse:
            if request.raw_path == "/back":
                return await give(request)
            return web.Response(status=302, headers={"Location": f"{other.url}/x"})

        async with spy(lead) as server, origin_at(server.url) as origin:
            home = server.url
            await fill(origin, shelf)
            assert server.tokens() == [f"Bearer {TOKEN.reveal()}", ""]
        assert other.tokens() == [""]


@pytest.mark.asyncio
async def test_no_connection_to_the_cdn_carries_the_token(hub: Hub, shelf: Shelf) -> None:
    hub.add_repo("acme/gated", FILES, gated="auto", tokens=[TOKEN.reveal()])
    hub.faults.rate_bytes_per_s = 30e6
    async with origin_at(hub.url) as origin:
        manifest = await origin.manifest(REPO, MAIN, TOKEN)
        hub.faults.cut_after, hub.faults.cut_times = 300_000, 3
        await fill(origin, shelf, next(w for w in manifest.wants if w.entry.size > 1000))
    await hub.quiet()
    assert len(hub.requests(listener="cdn")) >= 4
    assert not any(hit.has_authorization for hit in hub.requests(listener="cdn"))
    assert all(hit.has_authorization for hit in hub.requests(listener="hub"))


@pytest.mark.asyncio
async def test_no_token_over_plain_http_to_a_public_host(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    async with spy(give, "127.9.0.1") as server, origin_at(server.url) as origin:
        await fill(origin, shelf)
        assert server.tokens() == [""]
    assert "no token is sent over plain http" in caplog.text


@pytest.mark.asyncio
async def test_no_cookie_is_kept_and_no_header_of_ours_names_the_caller(shelf: Shelf) -> None:
    async def bake(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=BODY, headers={"Set-Cookie": "id=1; Path=/"})

    async with spy(bake) as server, origin_at(server.url) as origin:
        await fill(origin, shelf)
        await fill(origin, shelf)
        for request in server.requests:
            assert set(request.headers) == {
                "Host", "Accept-Encoding", "Accept", "User-Agent", "Authorization",
            }  # fmt: skip


@pytest.mark.asyncio
async def test_netrc_and_proxy_of_the_environment_are_not_used(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with spy(give) as server, origin_at(server.url) as origin:
        await origin.fill(WANT, await shelf.partial(WANT), lambda: [0])
        assert server.tokens() == [""]


@pytest.mark.asyncio
async def test_proxy_of_the_environment_is_used_when_the_option_says_so(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spy(give) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with origin_at("http://mirror.example", use_proxy_env=True) as origin:
            partial = await shelf.partial(WANT)
            await origin.fill(WANT, partial, lambda: [0], TOKEN)
            await partial.seal()
        assert proxy.tokens() == [""], "over plain http the proxy would read it"
        assert proxy.requests[0].raw_path.startswith("http://mirror.example/acme/tiny/resolve/")


# over TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for 127.0.0.1, with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@asynccontextmanager
async def tls_hub(certificate: Path) -> AsyncIterator[tuple[Hub, ssl.SSLContext]]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    async with Hub(tls=server) as hub:
        hub.add_repo("acme/tiny", FILES, tokens=[TOKEN.reveal()])
        yield hub, client


@pytest.mark.asyncio
async def test_everything_works_over_tls(certificate: Path, shelf: Shelf) -> None:
    async with (
        tls_hub(certificate) as (hub, context),
        Origin(options_for(hub.url), SkippingClock(), tls=context) as origin,
    ):
        manifest = await origin.manifest(REPO, MAIN, TOKEN)
        for want in manifest.wants:
            await origin.prove(want, TOKEN)
            await fill(origin, shelf, want)


@pytest.mark.asyncio
async def test_certificate_that_nobody_vouches_for_is_refused_and_named(certificate: Path) -> None:
    async with tls_hub(certificate) as (hub, _):
        async with Origin(options_for(hub.url), SkippingClock()) as origin:
            with pytest.raises(SourceFailed, match="certificate of 127"):
                await origin.manifest(REPO, MAIN, TOKEN)
        assert hub.log == []


@pytest.mark.asyncio
async def test_https_never_leads_down_to_http(certificate: Path, shelf: Shelf) -> None:
    async with spy(give) as plain, tls_hub(certificate) as (hub, context):
        hub.faults.redirect_to = f"{plain.url}/x"
        async with Origin(options_for(hub.url), SkippingClock(), tls=context) as origin:
            want = (await origin.manifest(REPO, MAIN)).wants[0]
            with pytest.raises(AddressRefused, match="plain http"):
                await origin.fill(want, await shelf.partial(want), lambda: [0], TOKEN)
        assert plain.requests == []


# the canary


def faults() -> list[Faults]:
    never = asyncio.Event()
    return [
        Faults(), Faults(down=True), Faults(status_for_files=500), Faults(status_for_files=403),
        Faults(status_for_files=403, status_at="cdn"), Faults(cut_after=900_000),
        Faults(status_for_files=429, status_at="cdn"), Faults(gzip=True),
        Faults(stall_after=900_000, stall_until=never),
        Faults(wrong_content_range=True), Faults(etag_change=True), Faults(ignore_range=True),
        Faults(redirect_to="https://127.0.0.1:1/x?Signature=SIGNED&{path}"),
        Faults(redirect_to="http://10.0.0.1/x?Signature=SIGNED"),
        Faults(redirect_to="http://a@b/x?Signature=SIGNED"),
        Faults(redirect_to="http://127.0.0.1:99999/x?Signature=SIGNED"),
        Faults(redirect_to="http://no-such.invalid/x?Signature=SIGNED"),
        Faults(redirect_to="gopher://x?Signature=SIGNED"),
    ]  # fmt: skip


@pytest.mark.asyncio
async def test_no_secret_stands_in_any_log_or_error(
    hub: Hub, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """E11, E12: token and signed addresses, through every fault, at the lowest log level."""
    caplog.set_level(logging.DEBUG)
    hub.add_repo("acme/tiny", FILES, tokens=[TOKEN.reveal()])
    said: list[str] = []
    options = options_for(hub.url, token=TOKEN, first_byte_timeout_s=0.5, connect_timeout_s=0.5)
    async with Origins([options], SkippingClock()) as origins:
        want = max(
            (await origins.manifest(REPO, MAIN, use_operator_token=True)).wants,
            key=lambda w: w.entry.size,
        )
        for fault in faults():
            hub.faults = fault
            partial = await shelf.partial(want)
            said.append(repr(options) + repr(origins.states()))
            try:
                await origins.fill(want, partial, lambda: [0], use_operator_token=True)
            except P2PModelsError as error:
                said += [str(error), repr(error), repr(error.as_json()), repr(error.__dict__)]
                said += traceback.format_exception(error)
                assert isinstance(error, P2PModelsError)
            fault.stall_until.set()
    # The hub of this test runs in the same process; its server's access log is not ours.
    ours = [record for record in caplog.records if record.name != "aiohttp.access"]
    text = "\n".join([*said, *(f"{r.getMessage()} {r.__dict__!r}" for r in ours)])
    assert len(said) > 60
    for secret in ("CANARY", "Signature=", "Expires=", "SIGNED"):
        assert secret not in text


def test_token_does_not_stand_in_the_repr_of_the_options() -> None:
    assert "CANARY" not in repr(OriginOptions("https://huggingface.co", token=TOKEN))


@pytest.mark.asyncio
async def test_refused_token_is_final_and_not_retried(hub: Hub) -> None:
    clock = SkippingClock()
    async with origin_at(hub.url, clock) as origin:
        with pytest.raises(AccessRefused):
            await origin.manifest(REPO, MAIN, Secret("hf_unknown"))
    assert clock.sleeps == []
