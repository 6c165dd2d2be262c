"""The /try page, and the module as it is served."""

from __future__ import annotations

import os
import re
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

import p2pmodels.doors
from p2pmodels.doors.browser import MODULE_PATH, TRY_PATH, BrowserDoor, content_security_policy
from tests.browser.conftest import Open
from tests.browser.fake_daemon import meeting
from tests.browser.test_page_downloads import MIB, holder, some_file

FOLDER = Path(p2pmodels.doors.__file__).parent / "module"
SCRIPTS = sorted(FOLDER.rglob("*.js"))
WITHIN_MS = 20_000  # ms; ten megabytes on a loaded machine


@pytest.mark.asyncio
async def test_a_phone_fetches_a_file_and_sees_from_where(open_page: Open, tmp_path: Path) -> None:
    file = some_file(10 * MIB)
    daemons = [holder(file), holder(file)]
    page, made = await open_page(*daemons)
    known = {"digest": file.digest, "size": len(file.data), "commit": "c" * 40}
    made.files["org/name main big.bin"] = known
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(made.url + TRY_PATH)
    await page.get_by_label("Repo").fill("org/name")
    await page.get_by_label("File", exact=True).fill("big.bin")
    await page.get_by_role("button", name="Fetch it").click()
    await expect(page.locator("#verdict")).to_contain_text("Right", timeout=WITHIN_MS)
    for daemon in daemons:
        await expect(page.locator("#givers")).to_contain_text(daemon.id[:8])
    await expect(page.locator("#digest")).to_contain_text(file.digest)
    await expect(page.locator("#rate")).to_contain_text("B/s")
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width == 390  # nothing to scroll sideways
    heights = await page.evaluate(
        """[...document.querySelectorAll("button, input")]
           .map((one) => one.offsetHeight).filter(Boolean)"""
    )
    assert min(heights) >= 44  # a thumb's width
    target = os.environ.get("TEST_TRY_SCREENSHOT", str(tmp_path / "try.png"))
    await page.screenshot(path=target, full_page=True)
    # the list of the repo and the models are not here: the browser itself notes two answers 404
    assert [text for text in complaints if "404" not in text] == []


@pytest.mark.asyncio
async def test_names_are_shown_as_text(open_page: Open) -> None:
    page, made = await open_page()
    name = "<img src=x onerror=document.title='owned'>"
    made.listed["/api/p2p/v1/models"] = {
        "models": [
            {
                "repo": "org/" + name,
                "commit": "c" * 40,
                "revisions": [name],
                "files_cached": 1,
                "bytes_cached": 5,
            }
        ]
    }
    await page.goto(made.url + TRY_PATH)
    await expect(page.locator("#models")).to_contain_text(name)
    await page.locator("#models button").click()
    assert await page.title() == "Try it · p2pmodels"


@pytest.mark.asyncio
async def test_the_module_may_be_imported_from_anywhere() -> None:
    async with meeting() as made, aiohttp.ClientSession() as client:
        for path in sorted(BrowserDoor().paths - {TRY_PATH}):
            async with client.get(made.url + path) as answer:
                assert answer.status == 200, path
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
                if path.endswith(".js"):
                    assert answer.content_type == "text/javascript"
                tag = answer.headers["ETag"]
            async with client.get(made.url + path, headers={"If-None-Match": tag}) as again:
                assert (again.status, await again.read()) == (304, b"")


@pytest.mark.asyncio
async def test_the_page_has_a_policy_and_is_nobody_elses() -> None:
    async with meeting() as made, aiohttp.ClientSession() as client:
        async with client.get(made.url + TRY_PATH) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_policy_names_the_places_of_model_files() -> None:
    policy = content_security_policy(["https://huggingface.co", "http://127.0.0.1:7878/x"])
    assert "http://127.0.0.1:7878 " in policy + " "
    assert "https://*.hf.co" in policy
    assert "unsafe-inline" not in policy
    assert "hf.co" not in content_security_policy(["https://hub.example/models"])


def test_every_import_is_served_where_it_is_looked_for() -> None:
    paths = BrowserDoor().paths
    assert MODULE_PATH in paths
    for script in SCRIPTS:
        served = MODULE_PATH if script.name == "p2pmodels.js" else f"/p2pmodels/{script.name}"
        imports = r'^(?:import .*|\} )from "([^"]+)";$|import\("([^"]+)"\)'
        for target in map("".join, re.findall(imports, script.read_text(), re.MULTILINE)):
            folder = served.rpartition("/")[0]
            found = os.path.normpath(f"{folder}/{target}")
            assert found in paths, f"{script.name}: {target}"


@pytest.mark.parametrize("path", sorted(p for p in FOLDER.rglob("*.*")), ids=lambda p: p.name)
def test_file_fits_in_one_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_script_never_makes_markup_or_code_from_text(path: Path) -> None:
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|\beval\(|new Function"
    assert re.findall(sinks, path.read_text()) == []
