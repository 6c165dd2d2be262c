"""`check` and `repair`: through the daemon when one runs, else straight on the data folder.

Without a daemon the store's own lock keeps one from starting meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping

from rich.progress import BarColumn, Progress, TextColumn

from p2pmodels.cli import answers
from p2pmodels.cli.client import ControlClient, JsonObject
from p2pmodels.cli.connection import Connection
from p2pmodels.cli.tables import console
from p2pmodels.cli.text import clean, human_bytes
from p2pmodels.core.names import RepoId
from p2pmodels.errors import DaemonUnreachable, StoreDamaged


async def examine(
    connection: Connection, repo: RepoId | None, *, is_repairing: bool, is_json: bool
) -> None:
    """Read everything again. Raises StoreDamaged when something is left damaged."""
    done: answers.CheckDone | None = None
    out = console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[figures]}"),
    )
    is_quiet = is_json or not out.is_terminal
    with Progress(*columns, console=out, expand=True, disable=is_quiet) as bars:
        bar = bars.add_task("reading", total=None, figures="")
        async for event in _events(connection, repo, is_repairing):
            if is_json:
                print(json.dumps(event), flush=True)
            kind = event.get("event")
            if kind == "progress":
                now = answers.read(answers.CheckProgress, dict(event))
                figures = f"{now.checked}/{now.total}  {human_bytes(now.bytes)}"
                bars.update(bar, completed=now.checked, total=now.total, figures=figures)
            elif kind == "damaged" and not is_json:
                found = answers.read(answers.Damaged, dict(event))
                out.print(f"damaged: {clean(found.name)} ({clean(found.reason)})", markup=False)
            elif kind == "done":
                done = answers.read(answers.CheckDone, dict(event))
    if done is None:
        raise DaemonUnreachable("the check ended before it was done")
    if not is_json:
        repaired = f", {done.repaired} repaired" if is_repairing else ""
        figures = f"{done.checked} blobs, {human_bytes(done.bytes)}"
        print(f"checked {figures}: {done.damaged} damaged{repaired}")
    left = done.damaged - (done.repaired if is_repairing else 0)
    if left > 0:
        advice = "Fetch the model again." if is_repairing else "Run `p2pmodels repair`."
        raise StoreDamaged(f"{left} of {done.checked} blobs", advice=advice)


async def _events(
    connection: Connection, repo: RepoId | None, is_repairing: bool
) -> AsyncIterator[Mapping[str, object]]:
    """The events of the daemon, or of our own look when none runs."""
    body: JsonObject = {"repo": str(repo) if repo else None}
    has_begun = False
    try:
        async with ControlClient(connection) as client:
            async for event in client.events("repair" if is_repairing else "check", body):
                has_begun = True
                yield event
        return
    except DaemonUnreachable:
        # Half an answer, or a daemon that was asked for by name: that is an error.
        if has_begun or connection.is_explicit:
            raise
    from p2pmodels.daemon import offline_check

    async for event in offline_check(connection.config, repo, is_repairing):
        yield event
