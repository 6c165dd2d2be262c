"""`doctor` and `config`: with a daemon and without one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, FakeDaemon, Json

THEIRS: Json = {
    "checks": [
        {"name": "origin", "result": "warn", "detail": "slow | odd", "advice": "Look at it."},
        {"name": "disk", "result": "ok", "detail": "as the daemon sees it", "advice": ""},
    ]
}


def by_name(answer: Json) -> dict[str, Json]:
    checks = answer["checks"]
    assert isinstance(checks, list)
    return {str(check["name"]): check for check in checks}


@pytest.mark.asyncio
async def test_doctor_adds_the_daemons_checks_to_its_own(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = THEIRS
    result = await cli("doctor", "--json", "--data-dir", daemon.data_dir)
    checks = by_name(result.json())
    assert result.code == 0
    assert {"data folder", "control token", "clock", "daemon", "origin", "disk"} <= checks.keys()
    assert checks["disk"]["detail"] == "as the daemon sees it"
    assert all(set(check) == {"name", "result", "detail", "advice"} for check in checks.values())


@pytest.mark.asyncio
async def test_doctor_prints_a_table_and_markdown(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = THEIRS
    table = await cli("doctor", "--data-dir", daemon.data_dir)
    assert "→ Look at it." in table.out
    markdown = await cli("doctor", "--markdown", "--data-dir", daemon.data_dir)
    assert "| origin | warn | slow \\| odd | Look at it. |" in markdown.out.splitlines()


@pytest.mark.asyncio
async def test_doctor_fails_on_what_is_wrong(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = THEIRS
    (daemon.data_dir / "control-token").chmod(0o644)
    result = await cli("doctor", "--json", "--data-dir", daemon.data_dir)
    assert result.code == 1
    assert by_name(result.json())["control token"]["result"] == "fail"
    assert "error [checks_failed]: Some checks failed: control token" in result.err


@pytest.mark.asyncio
async def test_doctor_without_a_daemon_says_so_and_looks_at_ports(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cli.env["P2PMODELS_WEB__LISTEN"] = f"127.0.0.1:{port}"
        cli.env["P2PMODELS_LAN__LISTEN"] = "127.0.0.1:0"
        cli.env["P2PMODELS_SWARM__PORT"] = "0"
        result = await cli("doctor", "--json", "--data-dir", tmp_path / "fresh")
    checks = by_name(result.json())
    assert result.code == 1
    assert checks["daemon"]["result"] == "fail"
    assert checks["port of the local endpoint"]["result"] == "fail"
    assert str(port) in str(checks["port of the local endpoint"]["advice"])
    assert checks["peer port"]["result"] == "ok"
    assert checks["data folder"]["result"] == "ok"
    assert not (tmp_path / "fresh").exists()


@pytest.mark.asyncio
async def test_config_without_a_daemon_shows_where_each_value_comes_from(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[swarm]\nport = 1234\n")
    cli.env["P2PMODELS_LOG__LEVEL"] = "error"
    arguments = ["--config", file, "--data-dir", tmp_path / "d"]
    answer = (await cli("config", "--json", *arguments)).json()
    values = answer["values"]
    assert isinstance(values, list)
    sources = {value["key"]: (value["value"], value["source"]) for value in values}
    assert answer["daemon"] is None
    assert sources["swarm.port"] == (1234, str(file))
    assert sources["log.level"] == ("error", "environment")
    assert sources["data_dir"] == (str(tmp_path / "d"), "flag")
    assert sources["lan.listen"] == ("0.0.0.0:7879", "default")
    table = await cli("config", *arguments)
    assert any(line.split() == ["swarm.port", "1234", str(file)] for line in table.out.splitlines())


@pytest.mark.asyncio
async def test_config_of_a_running_daemon_is_its_own(cli: Cli, daemon: FakeDaemon) -> None:
    row: Json = {"key": "swarm.port", "value": 5, "source": "flag"}
    daemon.answers["config"] = {"values": [row]}
    result = await cli("config", "--json", "--data-dir", daemon.data_dir)
    assert result.json() == {"daemon": daemon.url, "values": [row]}


@pytest.mark.asyncio
async def test_wrong_configuration_exits_with_2_and_names_the_nearest_key(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[store]\ncache_limit = 5\n")
    result = await cli("config", "--config", file)
    assert result.code == 2
    assert "error [bad_config]" in result.err
    assert f"store.cache_limit ({file}): unknown key; did you mean store.cache_limit_bytes?" in (
        result.err
    )
