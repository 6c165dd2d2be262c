"""The demo hub as a process of its own: `python -m p2pmodels.demo.hub`.

1. When it listens it prints one line, `ready URL cdn URL`; it ends on SIGTERM or SIGINT.
2. Lines on its standard input steer it while it runs: `manifests-only on|off`, `down on|off`,
   `rate BYTES|off`, `request-limit REQUESTS|off` (in five minutes, of all addresses together, as
   those of one room behind one NAT are). The end of the input changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import stat
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from p2pmodels.core.names import RepoId
from p2pmodels.demo.hub import Hub
from p2pmodels.demo.hub_repos import Content
from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.errors import P2PModelsError, UsageError
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_run(options))
    except P2PModelsError as error:
        print(f"{error} {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def steer(hub: Hub, line: str) -> str:
    """Do what a line of the input says; what to answer on standard error."""
    match line.split():
        case ["manifests-only", "on" | "off" as word]:
            hub.faults.manifests_only = word == "on"
        case ["down", "on" | "off" as word]:
            hub.faults.down = word == "on"
        case ["rate", word] if word == "off" or (word.isdecimal() and int(word)):
            hub.faults.rate_bytes_per_s = None if word == "off" else int(word)
        case ["request-limit", word] if word == "off" or word.isdecimal():
            hub.faults.request_limit = None if word == "off" else int(word)
        case _:
            return f"not understood: {line.strip()[:80]}"
    return f"done: {line.strip()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m p2pmodels.demo.hub", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port of the hub; 0 takes a free one")
    parser.add_argument("--log", type=Path, help="file for one JSON line per answer")
    parser.add_argument("--minilm", action="store_true", help=f"serve {MINILM_REPO}")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="REPO:PATH=LOCALFILE",
        help="serve a file; may be given often",
    )
    parser.add_argument("--rate", type=int, metavar="BYTES", help="bytes per second of all bodies")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument(
        "--request-limit",
        type=int,
        metavar="REQUESTS",
        help="in five minutes, of all addresses together; what comes after them gets 429",
    )
    return parser


def _repos(options: argparse.Namespace) -> dict[RepoId, dict[str, Content]]:
    """What the options want served."""
    repos: dict[RepoId, dict[str, Content]] = defaultdict(dict)
    if options.minilm:
        repos[RepoId.parse(MINILM_REPO)].update(minilm_files())
    for text in options.file:
        name, colon, rest = str(text).partition(":")
        path, equals, local = rest.partition("=")
        if not (colon and equals and path and Path(local).is_file()):
            raise UsageError(f"--file {text}", advice="Write REPO:PATH=LOCALFILE.")
        repos[RepoId.parse(name)][path] = Path(local)
    return repos


async def _run(options: argparse.Namespace) -> None:
    hub = Hub(options.host, options.port, log_path=options.log)
    hub.faults.rate_bytes_per_s = options.rate
    hub.faults.delay_s = options.delay
    hub.faults.request_limit = options.request_limit
    async with Lane("hub-set-up") as lane:
        for repo, files in (await lane.run(_repos, options)).items():
            await lane.run(hub.add_repo, repo.name, files, kind=repo.kind.value)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with hub, Tasks() as tasks:
        tasks.start(_obey(hub), "hub-input")
        print(f"ready {hub.url} cdn {hub.cdn_url}", flush=True)
        await stop.wait()


async def _obey(hub: Hub) -> None:
    """Follow the lines of standard input."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return  # Standard input is closed: nobody steers.
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):
        return  # A plain file or /dev/null, which the selector cannot wait for.
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while line := await reader.readline():
            print(steer(hub, line.decode(errors="replace")), file=sys.stderr, flush=True)
    finally:
        transport.close()
