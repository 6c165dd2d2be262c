"""The table of limits in SECURITY.md says what the code says."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "p2pmodels"
# What the demo keeps to itself bounds no outside input; `UNLIMITED` is a word of libtorrent.
NO_LIMITS = {"UNLIMITED"}
DEMO_ONLY = "demo."

_ROW = re.compile(
    r"\| `([A-Z][A-Z0-9_]*)` \| `([a-z0-9_.]+)` \| ([0-9][0-9.,]*)([^|]*)\| ([^|]+)\|"
)
_SCALES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

Limit = tuple[str, str]  # module below the package, name


def stated() -> dict[Limit, float]:
    """The limits of the table and their numbers in plain units."""
    found: dict[Limit, float] = {}
    for line in (ROOT / "SECURITY.md").read_text().splitlines():
        row = _ROW.fullmatch(line.strip())
        if row:
            name, module, number, unit, _ = row.groups()
            words = unit.split()
            scale = _SCALES.get(words[0], 1) if words else 1
            assert (module, name) not in found, f"{module}.{name} stands twice"
            found[module, name] = float(number.replace(",", "")) * scale
    return found


def in_code() -> set[Limit]:
    """Every module-level constant of the package with LIMIT in its name."""
    found: set[Limit] = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else ()
            annotated = [node.target] if isinstance(node, ast.AnnAssign) else []
            for target in (*targets, *annotated):
                if isinstance(target, ast.Name) and re.fullmatch(
                    r"(?!_)[A-Z0-9_]*LIMIT.*", target.id
                ):
                    found.add((module, target.id))
    return {(module, name) for module, name in found if name not in NO_LIMITS}


def test_the_table_is_found() -> None:
    assert len(stated()) > 80


@pytest.mark.parametrize(("module", "name"), sorted(stated()))
def test_a_stated_limit_is_the_one_in_the_code(module: str, name: str) -> None:
    value = getattr(importlib.import_module(f"p2pmodels.{module}"), name)
    assert isinstance(value, int | float)
    assert value == pytest.approx(stated()[module, name])


def test_every_limit_of_the_code_is_stated() -> None:
    missing = {limit for limit in in_code() - set(stated()) if not limit[0].startswith(DEMO_ONLY)}
    assert not missing, f"SECURITY.md lacks {sorted(missing)}"


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]
