"""The verbs and their flags; each imports what it does when it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer

from p2pmodels import __version__

app = typer.Typer(
    name="p2pmodels",
    help="Gets AI model files from the nearest place that has them, and shares what it has.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[Path | None, typer.Option(help="The daemon's data folder.")]
Url = Annotated[str | None, typer.Option(help="The daemon's address, as http://HOST:PORT.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Watch = Annotated[bool, typer.Option("--watch", help="Print again every second until Ctrl-C.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Read this file instead of the usual two.")
]
Repo = Annotated[str, typer.Argument(metavar="REPO[@REV]", help="Such as org/name or org/name@v1.")]
OptionalRepo = Annotated[str | None, typer.Argument(metavar="[REPO]", help="Only this repo.")]


def _run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(work)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"p2pmodels {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Accept the options that stand before a verb."""


@app.command()
def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of the local endpoint.")] = None,
    lan_listen: Annotated[str | None, typer.Option(help="HOST:PORT for peers.")] = None,
    bt_port: Annotated[int | None, typer.Option(help="Port for BitTorrent.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Origin URL; repeat for more.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Peer URL; repeat for more.")] = None,
    no_mdns: Annotated[bool, typer.Option("--no-mdns", help="Do not look for peers.")] = False,
    profile: Annotated[
        str | None, typer.Option(metavar="laptop|lab|classroom|seed", help="Whose defaults.")
    ] = None,
) -> None:
    """Run the daemon until it is stopped."""
    from p2pmodels.cli.serving import ServeFlags, run_daemon

    flags = ServeFlags(
        data_dir=data_dir,
        listen=listen,
        lan_listen=lan_listen,
        bt_port=bt_port,
        origins=tuple(origin or ()),
        peers=tuple(peer or ()),
        is_mdns_off=no_mdns,
        profile=profile,
    )
    raise typer.Exit(run_daemon(config, flags))


@app.command()
def fetch(
    repo: Repo,
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE-or-GLOB]...", help="All when none given.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Put the files there, without a second copy.")
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Obtain the files of a repo from the nearest place that has them."""
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.fetching import FetchRequest, fetch_files
    from p2pmodels.cli.targets import parse_target

    request = FetchRequest(parse_target(repo), tuple(patterns or ()), to, json)
    _run(fetch_files(find_daemon(data_dir, url), request))


@app.command()
def status(
    json: Json = False, watch: Watch = False, data_dir: DataDir = None, url: Url = None
) -> None:
    """Show what the daemon does and has done."""
    _show("status", json, watch, data_dir, url)


@app.command()
def models(
    json: Json = False, watch: Watch = False, data_dir: DataDir = None, url: Url = None
) -> None:
    """List the models in the data folder."""
    _show("models", json, watch, data_dir, url)


@app.command()
def peers(
    json: Json = False, watch: Watch = False, data_dir: DataDir = None, url: Url = None
) -> None:
    """List the other daemons this one knows."""
    _show("peers", json, watch, data_dir, url)


@app.command()
def transfers(
    json: Json = False, watch: Watch = False, data_dir: DataDir = None, url: Url = None
) -> None:
    """List what is being fetched and shared now."""
    _show("transfers", json, watch, data_dir, url)


def _show(name: str, json: bool, watch: bool, data_dir: Path | None, url: str | None) -> None:
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.watching import show

    _run(show(find_daemon(data_dir, url), name, is_json=json, is_watching=watch))


@app.command()
def pin(repo: Repo, json: Json = False, data_dir: DataDir = None, url: Url = None) -> None:
    """Keep a model, however full the data folder is."""
    _keep("pin", repo, json, data_dir, url)


@app.command()
def unpin(repo: Repo, json: Json = False, data_dir: DataDir = None, url: Url = None) -> None:
    """Let a model go when room is needed."""
    _keep("unpin", repo, json, data_dir, url)


@app.command()
def evict(repo: Repo, json: Json = False, data_dir: DataDir = None, url: Url = None) -> None:
    """Free the room a model takes, now."""
    _keep("evict", repo, json, data_dir, url)


def _keep(verb: str, repo: str, json: bool, data_dir: Path | None, url: str | None) -> None:
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.keeping import keep
    from p2pmodels.cli.targets import parse_target

    _run(keep(find_daemon(data_dir, url), verb, parse_target(repo), is_json=json))


@app.command()
def check(
    repo: OptionalRepo = None,
    json: Json = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Read every cached byte again and name what is damaged; works without a daemon."""
    _examine(repo, json, config, data_dir, url, is_repairing=False)


@app.command()
def repair(
    repo: OptionalRepo = None,
    json: Json = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Check, and set aside or replace what is damaged; works without a daemon."""
    _examine(repo, json, config, data_dir, url, is_repairing=True)


def _examine(
    repo: str | None,
    json: bool,
    config: Path | None,
    data_dir: Path | None,
    url: str | None,
    *,
    is_repairing: bool,
) -> None:
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.examining import examine
    from p2pmodels.cli.targets import parse_repo

    name = parse_repo(repo) if repo is not None else None
    _run(examine(find_daemon(data_dir, url, config), name, is_repairing=is_repairing, is_json=json))


@app.command()
def torrent(
    repo: Repo,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the .torrent file there.")
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Print the magnet link of a cached model, or write its torrent."""
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.keeping import write_torrent
    from p2pmodels.cli.targets import parse_target

    _run(write_torrent(find_daemon(data_dir, url), parse_target(repo), output, is_json=json))


@app.command()
def doctor(
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table to paste into a report.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Check this machine and the daemon, and say what to do; works without a daemon."""
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.diagnosis import diagnose

    _run(diagnose(find_daemon(data_dir, url, config), is_json=json, is_markdown=markdown))


@app.command("config")
def show_config(
    json: Json = False, config: ConfigFile = None, data_dir: DataDir = None, url: Url = None
) -> None:
    """Show the effective values and where each comes from; works without a daemon."""
    from p2pmodels.cli.connection import find_daemon
    from p2pmodels.cli.settings import show_settings

    _run(show_settings(find_daemon(data_dir, url, config), is_json=json))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End when all is shown.")] = False,
) -> None:
    """Run two daemons and a small hub on this machine and show who gave what."""
    from p2pmodels.demo.run import main

    raise typer.Exit(main(once))
