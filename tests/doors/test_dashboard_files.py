"""The dashboard's files, read as text: nothing from elsewhere, nothing inline, no markup from data.

The policy of the page door would stop most of this in the browser; these checks say so earlier, and
name the line.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import p2pmodels.doors
from p2pmodels.doors.page import CONTENT_SECURITY_POLICY

STATIC = Path(p2pmodels.doors.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
SVG_NAMESPACE = "http://www.w3.org/2000/svg"  # a name that is never fetched
LINE_LIMIT = 400  # lines; the limit for a module holds here too

MARKUP_SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser"
    r"|setHTML|srcdoc|\beval\(|new Function|setAttribute\(\s*[\"']style|cssText"
)
CHANGING = re.compile(r"\bmethod\s*:|\bPOST\b|\bDELETE\b|sendBeacon|XMLHttpRequest|Authorization")
URL = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//[^\s\"'`<>]+", re.IGNORECASE)
COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)
TEMPLATE_ADDRESS = "http://ADDRESS:"  # in a command to copy, never fetched
IMPORT = re.compile(r"^import [^\"]*\"([^\"]+)\";$", re.MULTILINE)


class Tags(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(data)


def parsed() -> Tags:
    tags = Tags()
    tags.feed((STATIC / "index.html").read_text())
    return tags


def name(path: Path) -> str:
    return path.name


def test_all_files_of_the_page_are_there() -> None:
    assert {"index.html", "dashboard.css", "dashboard.js", "icon.svg"} <= {p.name for p in FILES}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_file_names_no_external_address(path: Path) -> None:
    text = path.read_text().replace(SVG_NAMESPACE, "").replace(TEMPLATE_ADDRESS, "")
    if path.suffix in (".js", ".css"):
        text = COMMENT.sub("", text)
    assert URL.findall(text) == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_file_fits_in_one_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINE_LIMIT


def test_markup_has_nothing_inline() -> None:
    tags = parsed()
    assert tags.inline == []
    for tag, attribute, value in tags.attributes:
        assert not attribute.startswith("on"), f"<{tag} {attribute}>"
        assert attribute not in ("style", "srcdoc", "formaction"), f"<{tag} {attribute}>"
        assert not value.strip().lower().startswith("javascript:"), f"<{tag} {attribute}>"


def test_every_address_in_the_markup_is_a_file_of_the_page() -> None:
    for tag, attribute, value in parsed().attributes:
        if attribute in ("src", "href") and not value.startswith("#"):
            assert value.startswith("/static/"), f"<{tag} {attribute}={value}>"
            assert (STATIC / value.removeprefix("/static/")).is_file(), value


def test_ids_are_unique() -> None:
    ids = parsed().ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_script_never_makes_markup_from_text(path: Path) -> None:
    assert MARKUP_SINKS.findall(path.read_text()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_script_only_reads(path: Path) -> None:
    assert CHANGING.findall(path.read_text()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_script_imports_only_its_neighbours(path: Path) -> None:
    for target in IMPORT.findall(path.read_text()):
        assert target.startswith("./"), target
        assert (STATIC / target).is_file(), target


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_script_finds_every_id_it_asks_for(path: Path) -> None:
    for wanted in re.findall(r"byId\(\"([^\"]+)\"\)", path.read_text()):
        assert wanted in parsed().ids, wanted


def test_svg_carries_no_script() -> None:
    assert not re.search(r"<script|\son\w+=|href|foreignObject", (STATIC / "icon.svg").read_text())


def test_policy_lets_in_nothing_inline_and_nothing_from_elsewhere() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    for kind in ("script-src", "style-src", "connect-src"):
        assert rules[kind] == "'self'"
    for kind in ("base-uri", "form-action", "frame-ancestors"):
        assert rules[kind] == "'none'"
