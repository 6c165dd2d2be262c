"""How answers look on a terminal; pure: an answer in, something that `rich` prints out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from p2pmodels.cli import answers
from p2pmodels.cli.client import JsonObject
from p2pmodels.cli.text import clean, human_bytes, human_seconds, human_sources

PIPE_WIDTH = 400  # columns when nobody looks: nothing is cut short for `grep`
COMMIT_SHOWN = 10  # digits of a commit in a table; git's own short form at this size

_COLOURS = {"ok": "green", "ready": "green", "running": "green", "shared": "green"}
_COLOURS |= {"warn": "yellow", "untried": "yellow", "new": "yellow", "verifying": "yellow"}
_COLOURS |= {"fail": "red", "failed": "red", "failing": "red", "unreachable": "red"}


def console() -> Console:
    """Standard output: as wide as the terminal, or uncut when it is a pipe."""
    plain = Console(highlight=False, soft_wrap=False)
    return plain if plain.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def _table(*names: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _state(word: str) -> Text:
    return Text(clean(word), style=_COLOURS.get(word.split(":")[0], ""))


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in cells))


def _empty(table: Table, otherwise: str) -> RenderableType:
    return table if table.row_count else Text(otherwise)


def pairs(values: Mapping[str, object]) -> Table:
    """Names and what they are, one below the other."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, Text) else Text(clean(value)))
    return table


def status(answer: JsonObject) -> RenderableType:
    """The daemon in figures."""
    now = answers.read(answers.Status, answer)
    store = now.store
    limit = f" of {human_bytes(store.limit_bytes)}" if store.limit_bytes else ""
    values: dict[str, object] = {
        "daemon": f"p2pmodels {now.version}, up {human_seconds(now.uptime_s)}, {now.profile}",
        "address": now.url,
        "peers at": f"{now.peer_url}, BitTorrent port {now.bt_port}",
        "data folder": now.data_dir,
        "store": f"{store.blobs} blobs, {human_bytes(store.bytes)}{limit},"
        f" {human_bytes(store.pinned_bytes)} pinned, {human_bytes(store.free_bytes)} free on disk",
        "received": human_sources(now.bytes_by_source) or "nothing yet",
        "given": f"{human_bytes(now.served_bytes)} to programs here,"
        f" {human_bytes(now.shared_bytes)} to peers",
        "now": f"{now.transfers} transfers, {now.seeding} torrents seeded, {now.peers} peers",
    }
    for origin in now.origins:
        why = f" ({origin.error.code}: {origin.error.message})" if origin.error else ""
        line = _state(origin.state).append(clean(why), style="")
        values[f"origin {origin.url}"] = line
    for name, state in now.parts.items():
        values[f"part {name}"] = _state(state)
    return pairs({clean(name): value for name, value in values.items()})


def models(answer: JsonObject) -> RenderableType:
    """The models in the data folder."""
    table = _table(
        "MODEL", "COMMIT", "FILES", "SIZE", "PINNED", "SHARE", "USED", "FROM", right=("SIZE",)
    )
    for model in answers.read(answers.Models, answer).models:
        revisions = f" ({', '.join(model.revisions)})" if model.revisions else ""
        is_whole = model.bytes_cached == model.bytes
        cached = "" if is_whole else f"{human_bytes(model.bytes_cached)} of "
        _row(
            table,
            model.repo,
            model.commit[:COMMIT_SHOWN] + revisions,
            f"{model.files_cached}/{model.files}",
            cached + human_bytes(model.bytes),
            "yes" if model.is_pinned else "",
            _state(model.share),
            (model.last_used or "")[:16].replace("T", " "),
            human_sources(model.sources),
        )
    return _empty(table, "No models yet; get one with `p2pmodels fetch ORG/NAME`.")


def peers(answer: JsonObject) -> RenderableType:
    """The other daemons."""
    table = _table("PEER", "ADDRESS", "STATE", "FOUND BY", "SEEN", "VERSION", "FROM IT", "TO IT")
    for peer in answers.read(answers.Peers, answer).peers:
        seen = peer.last_seen_s
        _row(
            table,
            peer.id[:12],
            peer.address,
            _state(peer.state),
            peer.found_by,
            "never" if seen is None else f"{human_seconds(seen)} ago",
            peer.version or "",
            human_bytes(peer.bytes_from),
            human_bytes(peer.bytes_to),
        )
    return _empty(table, "No peers; `p2pmodels doctor` says whether the network lets them through.")


def transfers(answer: JsonObject) -> RenderableType:
    """What is fetched and shared now."""
    now = answers.read(answers.Transfers, answer)
    down = _table("FETCHING", "STATE", "DONE", "SIZE", "RATE", "FROM", right=("DONE", "SIZE"))
    for one in now.transfers:
        state = _state(one.state)
        if one.error:
            state.append(f" ({clean(one.error.code)})")
        _row(
            down,
            f"{one.repo} {one.path}",
            state,
            f"{100 * one.landed // one.size}%" if one.size else "",
            human_bytes(one.size),
            f"{human_bytes(one.rate_bytes_per_s)}/s",
            human_sources(one.sources) or one.source or "",
        )
    up = _table("SHARING", "PEERS", "RATE", "GIVEN", right=("PEERS", "GIVEN"))
    for each in now.uploads:
        rate = f"{human_bytes(each.rate_bytes_per_s)}/s"
        _row(up, each.name, each.peers, rate, human_bytes(each.bytes))
    parts = [table for table in (down, up) if table.row_count]
    return Group(*parts) if parts else Text("Nothing is fetched or shared now.")


def checks(found: list[answers.Check]) -> RenderableType:
    """What `doctor` found."""
    table = _table("CHECK", "RESULT", "FOUND")
    for check in found:
        detail = Text(clean(check.detail))
        if check.advice and check.result != "ok":
            detail.append(f"\n→ {clean(check.advice)}", style="bold")
        _row(table, check.name, _state(check.result), detail)
    return table


def settings(values: list[answers.Value]) -> RenderableType:
    """The effective configuration."""
    table = _table("KEY", "VALUE", "FROM")
    for value in values:
        _row(table, value.key, _shown(value.value), value.source)
    return table


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "(none)" if value is None else str(value)


VIEWS: dict[str, Callable[[JsonObject], RenderableType]] = {
    "status": status,
    "models": models,
    "peers": peers,
    "transfers": transfers,
}
