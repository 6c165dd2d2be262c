"""`config`: the values the running daemon uses, or those one started now would use."""

from __future__ import annotations

import json

from p2pmodels.cli import answers
from p2pmodels.cli.client import ControlClient
from p2pmodels.cli.connection import Connection
from p2pmodels.cli.tables import console, settings
from p2pmodels.errors import DaemonUnreachable


async def show_settings(connection: Connection, *, is_json: bool) -> None:
    """Print every effective value with where it comes from."""
    daemon: str | None = None
    own = [value.as_json() for value in connection.config.explain()]
    values: object = own
    try:
        async with ControlClient(connection) as client:
            values = (await client.get("config")).get("values")
            daemon = client.url
    except DaemonUnreachable:
        if connection.is_explicit:
            raise
    if is_json:
        print(json.dumps({"daemon": daemon, "values": values}))
        return
    out = console()
    whose = f"of the daemon at {daemon}" if daemon else "for a daemon started now; none is running"
    out.print(f"Settings {whose}", markup=False)
    shown = answers.read(answers.Values, {"values": values}).values
    out.print(settings(shown))
