"""`serve` and `demo`: flags reach the daemon as configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

# The daemon's place is taken by a module that prints the configuration it was given.
SERVE = """
import json, sys, types
daemon = types.ModuleType("p2pmodels.daemon")
async def serve(config):
    print(json.dumps({value.key: [value.value, value.source] for value in config.explain()}))
    return 7
daemon.serve = serve
sys.modules["p2pmodels.daemon"] = daemon
from p2pmodels.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
DEMO = """
import sys, types
run = types.ModuleType("p2pmodels.demo.run")
def main(once):
    print("once", once)
    return 5
run.main = main
sys.modules["p2pmodels.demo.run"] = run
from p2pmodels.cli import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""


@pytest.mark.asyncio
async def test_serve_gives_every_flag_to_the_daemon(cli: Cli, tmp_path: Path) -> None:
    result = await cli(
        *["--data-dir", tmp_path / "d", "--listen", "127.0.0.1:0", "--lan-listen", "[::1]:5"],
        *["--bt-port", "0", "--origin", "http://127.0.0.1:1", "--origin", "https://b.example"],
        *["--peer", "http://10.0.0.9:7879", "--no-mdns", "--profile", "lab"],
        code=SERVE,
    )
    values = json.loads(result.out)
    assert result.code == 7
    assert values["data_dir"] == [str(tmp_path / "d"), "flag"]
    assert values["web.listen"] == ["127.0.0.1:0", "flag"]
    assert values["lan.listen"] == ["[::1]:5", "flag"]
    assert values["swarm.port"] == [0, "flag"]
    assert values["origin.0.url"] == ["http://127.0.0.1:1", "flag"]
    assert values["origin.1.url"] == ["https://b.example", "flag"]
    assert values["lan.peers"] == [["http://10.0.0.9:7879"], "flag"]
    assert values["lan.is_mdns_enabled"] == [False, "flag"]
    assert values["profile"] == ["lab", "flag"]
    assert values["fetch.branch_ttl_s"] == [600.0, "profile lab"]


@pytest.mark.asyncio
async def test_serve_without_flags_leaves_the_configuration_alone(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[lan]\nis_mdns_enabled = true\npeers = ["http://10.0.0.1:7879"]\n')
    values = json.loads((await cli("--config", file, code=SERVE)).out)
    assert values["lan.peers"] == [["http://10.0.0.1:7879"], str(file)]
    assert not [key for key, (_, source) in values.items() if source == "flag"]


@pytest.mark.asyncio
@pytest.mark.parametrize(("arguments", "once"), [([], "False"), (["--once"], "True")])
async def test_demo_is_run_and_its_status_returned(
    cli: Cli, arguments: list[str], once: str
) -> None:
    result = await cli(*arguments, code=DEMO)
    assert (result.code, result.out) == (5, f"once {once}\n")
