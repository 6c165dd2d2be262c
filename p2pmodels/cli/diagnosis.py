"""`doctor`: every check, its result, what to do; the daemon's own checks follow ours.

1. Works without a daemon: what this machine can tell by itself comes first.
2. Sends nothing to any address but the daemon's; the daemon asks its own origins and peers.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from p2pmodels.cli import answers
from p2pmodels.cli.answers import Check
from p2pmodels.cli.client import ControlClient
from p2pmodels.cli.connection import TOKEN_FILE, Connection
from p2pmodels.cli.tables import checks, console
from p2pmodels.cli.text import clean, human_bytes
from p2pmodels.clock import RealClock
from p2pmodels.config import Config, ListenAddress
from p2pmodels.errors import DaemonUnreachable, P2PModelsError

MDNS_GROUP = "224.0.0.251"  # RFC 6762
EARLIEST_WALL_S = 1_735_689_600  # 2025-01-01: before this program existed
PRIVATE_MODE = 0o077  # bits that let others read the control token


class ChecksFailed(P2PModelsError):
    """Some checks failed."""

    code = "checks_failed"
    advice = "Do what stands under each; `p2pmodels doctor --markdown` makes a report of it."


async def diagnose(connection: Connection, *, is_json: bool, is_markdown: bool) -> None:
    """Print all checks. Raises ChecksFailed when one failed."""
    config = connection.config
    found = [*_folder(config.data_dir, config.store.free_floor_bytes), _clock()]
    theirs: list[Check] = []
    try:
        async with ControlClient(connection) as client:
            theirs = answers.read(answers.Checks, await client.get("doctor")).checks
            found.append(_ok("daemon", f"answers at {client.url}"))
    except DaemonUnreachable as error:
        found.append(_check("daemon", "fail", error.message, error.hint))
        found += _ports(config)
    except P2PModelsError as error:
        found.append(_check("daemon", "warn", error.message, str(error.as_json()["advice"])))
    if config.lan.is_mdns_enabled:
        found.append(_multicast())
    told = {check.name for check in theirs}
    found = [check for check in found if check.name not in told] + theirs
    if is_json:
        print(json.dumps({"checks": [check.model_dump() for check in found]}))
    elif is_markdown:
        print("\n".join(_markdown(found)))
    else:
        console().print(checks(found))
    failed = [check.name for check in found if check.result == "fail"]
    if failed:
        raise ChecksFailed(", ".join(map(clean, failed)))


def _check(name: str, result: str, detail: str, advice: str = "") -> Check:
    return Check(name=name, result=result, detail=detail, advice=advice)


def _ok(name: str, detail: str) -> Check:
    return _check(name, "ok", detail)


def _folder(folder: Path, floor_bytes: int) -> Iterator[Check]:
    """The data folder, its disk and its token."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there != folder:
        detail = f"{folder} does not exist yet"
        if os.access(there, os.W_OK | os.X_OK):
            yield _ok("data folder", f"{detail}; `p2pmodels serve` makes it")
        else:
            advice = f"Make it as root, or choose another with --data-dir ({there} is not yours)."
            yield _check("data folder", "fail", detail, advice)
    elif not folder.is_dir():
        yield _check("data folder", "fail", f"{folder} is not a folder", "Move it away.")
    elif not os.access(folder, os.W_OK | os.X_OK):
        owner = folder.stat().st_uid
        detail = f"{folder} belongs to user {owner}, you are {os.getuid()}"
        yield _check("data folder", "warn", detail, "Run commands that change it as that user.")
    else:
        yield _ok("data folder", f"{folder} can be written")
    free = shutil.disk_usage(there).free
    detail = f"{human_bytes(free)} free, {human_bytes(floor_bytes)} of it kept for the machine"
    if free <= floor_bytes:
        yield _check("disk", "fail", detail, "Free space or `p2pmodels evict` a model.")
    else:
        yield _ok("disk", detail)
    yield from _token(folder / TOKEN_FILE)


def _token(path: Path) -> Iterator[Check]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # no daemon ran here yet, or it is another user's: the folder's check says so
    if mode & PRIVATE_MODE:
        detail = f"{path} can be read by other users"
        yield _check("control token", "fail", detail, f"chmod 600 {path}")
    else:
        yield _ok("control token", "readable for its owner only")


def _clock() -> Check:
    wall = RealClock().wall()
    if wall < EARLIEST_WALL_S:
        advice = "Set the date (`timedatectl set-ntp true`): TLS refuses a wrong one."
        return _check("clock", "fail", "the machine's date lies before 2025", advice)
    return _ok("clock", "the machine's date is plausible")


def _ports(config: Config) -> Iterator[Check]:
    """Whether a daemon started now could listen."""
    wanted = [("port of the local endpoint", config.web.listen), ("peer port", config.lan.listen)]
    if config.swarm.is_enabled:
        bt_port = ListenAddress(config.lan.listen.host, config.swarm.port)
        wanted.append(("BitTorrent port", bt_port))
    for name, address in wanted:
        reason = _cannot_bind(address)
        if reason:
            advice = f"Stop what uses it (`ss -ltnp sport = :{address.port}`) or choose another."
            yield _check(name, "fail", f"{address}: {reason}", advice)
        else:
            yield _ok(name, f"{address} is free")


def _cannot_bind(address: ListenAddress) -> str | None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _multicast() -> Check:
    """Whether an interface takes part in multicast; a filter further on cannot be seen here."""
    membership = struct.pack("4s4s", socket.inet_aton(MDNS_GROUP), b"\0\0\0\0")
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        detail = f"no interface for multicast ({error.strerror or type(error).__name__})"
        advice = "Peers are not found by themselves; name them with --peer URL."
        return _check("multicast", "warn", detail, advice)
    return _ok("multicast", "an interface takes part")


def _markdown(found: list[Check]) -> Iterator[str]:
    def cell(text: str) -> str:
        return clean(text).replace("\\", "\\\\").replace("|", "\\|")

    yield "| check | result | found | what to do |"
    yield "|---|---|---|---|"
    for check in found:
        advice = check.advice if check.result != "ok" else ""
        yield f"| {cell(check.name)} | {check.result} | {cell(check.detail)} | {cell(advice)} |"
