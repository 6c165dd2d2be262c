"""Which addresses may be contacted (reliability E13, E14; the names are libtorrent's)."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from aiohttp import web
from yarl import URL

from p2pmodels.errors import AddressRefused, ConfigError, SourceFailed
from p2pmodels.sources.origin.addresses import LOCATION_LIMIT, Addresses, is_public, parse_host
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origin import Origin
from tests.sources.origin.world import (
    DATA,
    Names,
    Shelf,
    SkippingClock,
    is_public_here,
    options_for,
    origin_at,
    spy,
    want_of,
)

PRIVATE = [
    "0.0.0.0",  # noqa: S104
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.251",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:8.8.8.8",
    "::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::fb",
    "2001:db8::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "18.64.0.1"]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_address_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_address_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "2130706433", "0x7f000001", "0x7f.0.0.1", "127.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.5",
        "a.0x", "a.7", "", ".", "a..b", "a b", "host%20", "ⓛocalhost", "①②⑦.0.0.1",
        "ex\u00e4mple.org",
        "[::1", "::1%eth0/", "a" * 64, ("a" * 60 + ".") * 5, "-a.org", "a_.-",
    ],
)  # fmt: skip
def test_odd_spelling_of_a_host_is_refused(text: str) -> None:
    assert parse_host(text) is None


@pytest.mark.parametrize(
    ("text", "same"),
    [("HuggingFace.co", "huggingface.co"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1"),
     ("my_mirror.lan", "my_mirror.lan"), ("0a.example", "0a.example")],
)  # fmt: skip
def test_plain_host_is_read(text: str, same: str) -> None:
    assert str(parse_host(text)) == same


def judge(origin: str, **names: list[str]) -> Addresses:
    dotted = {name.replace("_", "."): found for name, found in names.items()}
    return Addresses(URL(origin), Names(dotted))


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd", "gopher://example.org/", "ftp://example.org/x", "javascript:alert(1)",
        "http://example.org/", "https://127.0.0.1/", "https://10.0.0.8/x", "https://169.254.169.254/",
        "https://[::1]/", "https://[::ffff:7f00:1]/", "https://[fd00:ec2::254]/", "https://0.0.0.0/",
        "https://2130706433/", "https://0x7f000001/", "https://127.1/", "https://0177.0.0.1/",
        "https://hub.example@evil.example/", "https://user:pass@evil.example/",
        "https://evil.example\\@hub.example/", "https://ex\u00e4mple.org/", "https://xn--exmple-cua.org/",
        "https://%31%32%37.0.0.1/", "https://evil.example:99999/", "https:// evil.example/",
        "//127.0.0.1/x", "https://[fe80::1%25eth0]/", "https://a.example/\r\nX: y",
        "https://a.example/" + "a" * LOCATION_LIMIT,
    ],
)  # fmt: skip
def test_ssrf_mitigation_redirect(location: str) -> None:
    with pytest.raises(AddressRefused):
        judge("https://hub.example").follow(URL("https://hub.example/a"), location)


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/api/resolve-cache/x?a=%22b%22", "https://hub.example/api/resolve-cache/x?a=%22b%22"),
        ("https://cdn.example/x%2Fy?Signature=a~b", "https://cdn.example/x%2Fy?Signature=a~b"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://hub.example:8443/x#f", "https://hub.example:8443/x"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
    ],
)
def test_ordinary_redirect_is_followed(location: str, leads_to: str) -> None:
    target = judge("https://hub.example").follow(URL("https://hub.example/a"), location)
    assert str(target) == leads_to


def test_private_origin_may_redirect_to_its_own_other_ports_only() -> None:
    addresses = judge("http://127.0.0.1:8000")
    here = URL("http://127.0.0.1:8000/a")
    assert addresses.follow(here, "http://127.0.0.1:9000/b").port == 9000
    for other in ("http://127.0.0.2/", "http://10.0.0.1/", "http://[::1]/"):
        with pytest.raises(AddressRefused):
            addresses.follow(here, other)


async def resolved(addresses: Addresses, host: str) -> list[str]:
    found = await addresses.resolve(host, 443, socket.AF_UNSPEC)
    return [result["host"] for result in found]


@pytest.mark.asyncio
async def test_ssrf_localhost() -> None:
    with pytest.raises(AddressRefused):
        await resolved(judge("https://hub.example", localhost=["127.0.0.1"]), "localhost")


@pytest.mark.asyncio
@pytest.mark.parametrize("address", [text for text in PRIVATE if ":" not in text])
async def test_ssrf_IPv4(address: str) -> None:
    with pytest.raises(AddressRefused):
        await resolved(judge("https://hub.example", cdn_example=[address]), "cdn.example")


@pytest.mark.asyncio
@pytest.mark.parametrize("address", [text for text in PRIVATE if ":" in text])
async def test_ssrf_IPv6(address: str) -> None:
    with pytest.raises(AddressRefused):
        await resolved(judge("https://hub.example", cdn_example=[address]), "cdn.example")


@pytest.mark.asyncio
async def test_private_ones_among_public_addresses_are_left_out() -> None:
    addresses = judge("https://hub.example", cdn_example=["10.0.0.1", "8.8.8.8", "::1"])
    assert await resolved(addresses, "cdn.example") == ["8.8.8.8"]


@pytest.mark.asyncio
async def test_dns_rebinding_of_the_origin_is_refused() -> None:
    names = Names({"hub.example": ["8.8.8.8"]})
    addresses = Addresses(URL("https://hub.example"), names)
    assert await resolved(addresses, "hub.example") == ["8.8.8.8"]
    names.names["hub.example"] = ["192.168.0.1"]
    with pytest.raises(AddressRefused):
        await resolved(addresses, "hub.example")
    with pytest.raises(AddressRefused):
        addresses.open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.168.0.1", 443)))


@pytest.mark.asyncio
async def test_origin_that_the_operator_put_on_a_private_address_stays_there_over_http() -> None:
    names = Names({"hub.lan": ["192.168.0.7"]})
    addresses = Addresses(URL("http://hub.lan:8000"), names)
    assert await addresses.is_private_origin()
    assert await resolved(addresses, "hub.lan") == ["192.168.0.7"]
    names.names["hub.lan"] = ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        await resolved(addresses, "hub.lan")


@pytest.mark.asyncio
async def test_another_name_for_the_private_address_of_the_origin_is_refused() -> None:
    names = Names({"hub.lan": ["192.168.0.7"], "evil.example": ["192.168.0.7"]})
    addresses = Addresses(URL("https://hub.lan"), names)
    assert await resolved(addresses, "hub.lan") == ["192.168.0.7"]
    with pytest.raises(AddressRefused):
        await resolved(addresses, "evil.example")


def test_socket_for_a_stranger_address_is_refused_at_connect() -> None:
    addresses = judge("https://hub.example")
    for family, endpoint in (
        (socket.AF_INET, ("127.0.0.1", 80)),
        (socket.AF_INET6, ("::1", 80, 0, 0)),
    ):
        with pytest.raises(AddressRefused):
            addresses.open_socket((family, socket.SOCK_STREAM, 0, "", endpoint))


@pytest.mark.asyncio
async def test_redirect_of_a_public_origin_into_the_machine_is_never_connected(
    shelf: Shelf,
) -> None:
    async def secret(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=DATA)

    async with spy(secret) as inside:

        async def lead_inside(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{inside.url}/secret"})

        async with spy(lead_inside, "127.9.0.1") as public, origin_at(public.url) as origin:
            with pytest.raises(AddressRefused):
                want = want_of(DATA)
                await origin.fill(want, await shelf.partial(want), lambda: [])
            assert len(public.requests) == 1
        assert inside.requests == []


@pytest.mark.asyncio
async def test_redirect_to_a_name_that_resolves_into_the_machine_is_never_connected(
    shelf: Shelf,
) -> None:
    """The address is judged after resolution, on the way to the socket (E14)."""

    async def secret(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=DATA)

    async with spy(secret) as inside:

        async def lead_inside(_request: web.BaseRequest) -> web.StreamResponse:
            location = f"http://cdn.example:{inside.port}/x?Signature=s"
            return web.Response(status=302, headers={"Location": location})

        names = Names({"hub.example": ["127.9.0.1"], "cdn.example": ["127.0.0.1"]})
        async with spy(lead_inside, "127.9.0.1") as public:
            options = options_for(f"http://hub.example:{public.port}")
            clock = SkippingClock()
            async with Origin(options, clock, resolver=names, is_public=is_public_here) as origin:
                want = want_of(DATA)
                with pytest.raises(AddressRefused):
                    await origin.fill(want, await shelf.partial(want), lambda: [])
        assert names.asked == ["hub.example", "cdn.example"]
        assert inside.requests == []


@pytest.mark.asyncio
async def test_public_origin_may_redirect_to_a_public_cdn(shelf: Shelf) -> None:
    async def give(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=SMALL_BODY)

    SMALL_BODY = b"0123456789"
    async with spy(give, "127.9.0.2") as cdn:

        async def lead(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{cdn.url}/x"})

        async with spy(lead, "127.9.0.1") as public, origin_at(public.url) as origin:
            want = want_of(SMALL_BODY)
            partial = await shelf.partial(want)
            await origin.fill(want, partial, lambda: [])
            await partial.seal()


@pytest.mark.asyncio
async def test_redirect_without_end_is_refused(shelf: Shelf) -> None:
    async def again(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": request.raw_path + "x"})

    async with spy(again) as server, origin_at(server.url) as origin:
        want = want_of(DATA)
        with pytest.raises(SourceFailed, match="without end"):
            await origin.fill(want, await shelf.partial(want), lambda: [])
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "gopher://a/", "huggingface.co", "https://", "https://user:pw@a.example",
        "https://a.example?x=1", "https://a.example/#f", "https://2130706433", "http://0x7f000001",
        "https://ex\u00e4mple.org", "https://a.example:99999", "https://a b", "https://127.1/",
    ],
)  # fmt: skip
def test_configured_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OriginOptions(url)
    assert "pw" not in str(caught.value)


def test_configured_url_may_have_a_path_and_a_port() -> None:
    assert OriginOptions("https://mirror.example:8443/hf/").name == "mirror.example:8443"
    assert str(OriginOptions("http://[::1]:80/hf/").base) == "http://[::1]/hf"
