"""`status`, `models`, `peers`, `transfers`: ask, show, and with `--watch` ask again."""

from __future__ import annotations

import json

from rich.live import Live

from p2pmodels.cli.client import ControlClient
from p2pmodels.cli.connection import Connection
from p2pmodels.cli.tables import VIEWS, console
from p2pmodels.clock import Clock, RealClock

WATCH_EVERY_S = 1.0  # seconds; people see no more, and the daemon barely notices


async def show(
    connection: Connection,
    name: str,
    *,
    is_json: bool,
    is_watching: bool,
    clock: Clock | None = None,
) -> None:
    """Print one answer, or one a second until interrupted; as JSON each is one line."""
    clock = clock or RealClock()
    view = VIEWS[name]
    out = console()
    async with ControlClient(connection) as client:
        answer = await client.get(name)
        if is_watching and not is_json and out.is_terminal:
            with Live(view(answer), console=out, screen=False, auto_refresh=False) as live:
                while True:
                    await clock.sleep(WATCH_EVERY_S)
                    live.update(view(await client.get(name)), refresh=True)
        while True:
            if is_json:
                print(json.dumps(answer), flush=True)
            else:
                out.print(view(answer))
            if not is_watching:
                return
            await clock.sleep(WATCH_EVERY_S)
            answer = await client.get(name)
