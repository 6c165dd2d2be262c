"""Imports are a tested property: left never imports right (design 13, style 2.3)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import p2pmodels

ROOT = Path(p2pmodels.__file__).parent
TESTS = Path(__file__).parent
LAYERS = [
    "core",
    "store",
    "sources",
    "transfer",
    "doors",
    "options",
    "compose",
    "daemon",
    "demo",
    "cli",
]
CONFIGURED = {
    "config",
    "options",
    "compose",
    "daemon",
    "demo",
    "cli",
    "__main__",
}  # who may know it
FREE = {"errors", "clock", "workers", "supervision", "metrics", "notify", "shipped", "__init__"}
HOMES = {
    "libtorrent": ("sources/swarm/",),
    "zeroconf": ("sources/lan/",),
    "sqlite3": ("store/index.py",),
    "prometheus_client": ("metrics.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "pydantic_settings": ("config",),
    "msgpack": ("core/wire.py", "core/shard.py"),
    "aiortc": ("sources/rtc/",),
    "aioice": ("sources/rtc/",),
    "uvloop": ("sources/rtc/",),
    "OpenSSL": ("sources/rtc/",),
    "aiohttp": (
        "sources/origin/",
        "sources/lan/",
        "sources/rtc/",
        "doors/",
        "daemon.py",
        "demo/",
        "cli/",
    ),
}
NO_IO = {"asyncio", "socket", "os", "time", "random", "pathlib", "subprocess", "threading"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def layer(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_left_never_imports_right(path: Path) -> None:
    own = relative(path).split("/")[0].removesuffix(".py")
    for name in imports(path):
        if not name.startswith("p2pmodels."):
            continue
        other = layer(name)
        if other in FREE or other not in [*LAYERS, "config"]:
            continue
        if own in FREE:
            pytest.fail(f"{relative(path)} may be imported by all, so it may not import {name}")
        if other == "config":
            assert own in CONFIGURED, f"{own} → {name}"
        elif own not in ("config", "__main__"):
            assert LAYERS.index(other) <= LAYERS.index(own), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "sources").rglob("*.py")), ids=relative)
def test_sources_never_import_each_other(path: Path) -> None:
    own = relative(path).split("/")[1]
    for name in imports(path):
        parts = name.split(".")
        if parts[:2] == ["p2pmodels", "sources"] and len(parts) > 2:
            assert parts[2] == own, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=relative)
def test_core_does_no_io(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert not used & NO_IO, f"{relative(path)} imports {used & NO_IO}"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_each_package_has_one_home(path: Path) -> None:
    for name in imports(path):
        for package, homes in HOMES.items():
            if name.split(".")[0] == package:
                assert relative(path).startswith(homes), f"{relative(path)} imports {package}"


def test_modules_of_tests_fit_as_well() -> None:
    found = {path.name: len(path.read_text().splitlines()) for path in TESTS.rglob("*.py")}
    assert len(found) > 100
    assert {name: lines for name, lines in found.items() if lines > 400} == {}


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_modules_fit_in_one_head(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400, f"{relative(path)} is too long"
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{relative(path)} does not say what it owns"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_tasks_are_started_in_groups_only(path: Path) -> None:
    for word in ("asyncio.create_task(", "ensure_future(", "asyncio.gather("):
        assert word not in path.read_text(), f"{relative(path)} uses {word}"


def test_no_test_patches_functions() -> None:
    for path in sorted(TESTS.rglob("*.py")):
        if path != Path(__file__):
            assert "mock.patch" not in path.read_text(), path
