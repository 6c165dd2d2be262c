"""A public https page asks the daemon of this machine only where the browser lets it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.async_api import Browser, Page

from tests.browser.conftest import chromium
from tests.browser.fake_daemon import meeting
from tests.browser.test_page_downloads import FETCH, MIB, PATH, from_whom, some_file
from tests.browser.test_page_hook import Local


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "public.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(secret + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


async def grant(browser: Browser, page: Page, name: str = "loopback-network") -> None:
    """Let the page reach this machine; Playwright itself does not know that permission yet."""
    own = await page.context.new_cdp_session(page)
    target = (await own.send("Target.getTargetInfo"))["targetInfo"]
    session = await browser.new_browser_cdp_session()
    await session.send(
        "Browser.setPermission",
        {
            "permission": {"name": name},
            "setting": "granted",
            "origin": target["url"],
            "browserContextId": target["browserContextId"],
        },
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("is_granted", [True, False])
async def test_a_public_page_uses_the_daemon_of_this_machine_if_allowed(
    tmp_path: Path, is_granted: bool
) -> None:
    file = some_file(MIB)
    async with meeting() as made:
        made.origin[PATH] = file.data
        local = Local(file)
        daemon = await made.also(local.give)
        secure = await made.listen(made.app(), context=certificate(tmp_path))
        port = secure.rpartition(":")[2]
        async with chromium(
            "--ignore-certificate-errors",
            "--host-resolver-rules=MAP public.test 127.0.0.1",
            f"--ip-address-space-overrides=127.0.0.1:{port}=public",
        ) as browser:
            context = await browser.new_context(ignore_https_errors=True)
            page = await context.new_page()
            url = f"https://public.test:{port}"
            await page.goto(url + "/")
            if is_granted:
                await grant(browser, page)
            options = {**file.options, "daemon": daemon, "rendezvous": None}
            seen = await page.evaluate(FETCH, [url + PATH, options])
        assert seen["sha256"] == file.digest
        assert from_whom(seen) == {"daemon" if is_granted else "origin": MIB}
        assert (local.asked != []) == is_granted
