"""The guides say what the program does: settings, codes, routes, commands, links."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import typer
from aiohttp import web

import p2pmodels
from p2pmodels.cli.app import app
from p2pmodels.clock import RealClock
from p2pmodels.config import Config, Profile, load_config
from p2pmodels.config.load import PROFILE_DEFAULTS
from p2pmodels.config.model import flatten, known_keys
from p2pmodels.core.secret import Secret
from p2pmodels.doors.control import ControlDoor
from p2pmodels.doors.guard import GuardOptions
from p2pmodels.doors.parts import Parts
from p2pmodels.doors.peer import Catalogue, Links, peer_app
from p2pmodels.errors import P2PModelsError
from p2pmodels.transfer.uploads import Uploads
from p2pmodels.workers import Lane

ROOT = Path(__file__).parents[1]
GUIDES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README_LINES = 200  # what a newcomer reads
DESIGN_WORDS = 2_000  # four pages of 500 words

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_VERB = re.compile(r"p2pmodels (?!0\.)([a-z]+)\b")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def rows(name: str) -> Iterator[list[str]]:
    """The cells of every table row of a guide."""
    for line in text(name).splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def blocks(language: str) -> list[tuple[str, str]]:
    """Every code block of a language, with the guide it stands in."""
    found = [(guide, match) for guide in GUIDES for match in _BLOCK.finditer(guide.read_text())]
    return [(guide.name, match[2]) for guide, match in found if match[1] == language]


# settings


def described_settings() -> dict[str, object]:
    """The keys and defaults of the guide's table; None where it says `none`."""
    known = set(known_keys())
    found: dict[str, object] = {}
    for cells in rows("docs/guide.md"):
        key = cells[0].strip("`")
        if len(cells) == 3 and key in known:
            value = cells[1].strip("`")
            found[key] = None if value == "none" else tomllib.loads(f"value = {value}")["value"]
    return found


def test_every_setting_is_described_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    real = {each.key.replace("origin.0.", "origin."): each.value for each in Config().explain()}
    described = described_settings()
    described["data_dir"] = str(Path(str(described["data_dir"])).expanduser())
    assert described == real


def test_every_default_of_a_profile_is_described() -> None:
    names = {profile.value for profile in Profile}
    described = {
        (cells[0].strip("`"), cells[1].strip("`"), tomllib.loads(f"v = {cells[2].strip('`')}")["v"])
        for cells in rows("docs/guide.md")
        if len(cells) == 4 and cells[0].strip("`") in names
    }
    real = {
        (profile.value, key, value)
        for profile, tree in PROFILE_DEFAULTS.items()
        for key, value in flatten(tree)
    }
    assert described == real


@pytest.mark.parametrize(("guide", "block"), blocks("toml"))
def test_a_configuration_in_a_guide_can_be_used(guide: str, block: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(block)
    load_config(file, environ={})


# errors


def codes() -> set[str]:
    """The codes of every error class of the package."""
    for module in pkgutil.walk_packages(p2pmodels.__path__, "p2pmodels."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: set[str] = set()
    waiting: list[type[P2PModelsError]] = [P2PModelsError]
    while waiting:
        error = waiting.pop()
        if error.__module__.startswith("p2pmodels."):  # not those that tests made
            found.add(error.code)
        waiting += error.__subclasses__()
    return found


def test_every_error_code_is_explained_and_no_other() -> None:
    explained = re.findall(r"^### `([a-z_]+)`$", text("docs/troubleshooting.md"), re.MULTILINE)
    assert sorted(explained) == sorted(codes())


# routes


def served(application: web.Application, prefix: str) -> set[tuple[str, str]]:
    found = set()
    for route in application.router.routes():
        path = route.resource.canonical if route.resource else ""
        if path.startswith(prefix) and route.method != "HEAD":
            found.add((route.method, path))
    return found


def described_routes(prefix: str) -> set[tuple[str, str]]:
    pattern = re.compile(rf"^\| `(GET|POST) ({re.escape(prefix)}[^`]*)` \|", re.MULTILINE)
    return {(match[1], match[2]) for match in pattern.finditer(text("docs/http.md"))}


def test_every_control_route_is_described() -> None:
    application = web.Application()
    ControlDoor(cast("Parts", None), Secret("a-token")).add_routes(application)
    assert described_routes("/api/p2p/") == served(application, "/api/p2p/")


def test_every_route_of_the_peer_port_is_described() -> None:
    application = peer_app(
        cast("Catalogue", None),
        cast("Links", None),
        Uploads(RealClock()),
        lambda _host: True,
        GuardOptions(),
        RealClock(),
        cast("Lane", None),
    )
    assert described_routes("/peer/") == served(application, "/peer/")


# commands and links


def test_commands_in_the_guides_exist() -> None:
    verbs = set(typer.main.get_group(app).commands)
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    for guide in GUIDES:
        for span in re.findall(r"`([^`\n]+)`", guide.read_text()):
            if span.startswith("p2pmodels ") and (verb := _VERB.match(span)):
                assert verb[1] in verbs, f"{guide.name}: {span}"
    for name, block in blocks("sh"):
        for verb in re.findall(r"(?:^|sudo |bin/)p2pmodels ([a-z]+)", block, re.MULTILINE):
            assert verb in verbs, f"{name}: p2pmodels {verb}"
        for target in re.findall(r"^make ([a-z]+)", block, re.MULTILINE):
            assert target in targets, f"{name}: make {target}"


def anchors(guide: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", guide.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_links_lead_somewhere(guide: Path) -> None:
    for link in _LINK.findall(guide.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (guide.parent / path).resolve() if path else guide
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_first_pages_are_short() -> None:
    assert len(text("README.md").splitlines()) < README_LINES
    assert len(text("DESIGN.md").split()) <= DESIGN_WORDS
