"""Where the daemon is: its address and where its control token lies.

1. `--url` wins; then `daemon.json` in the data folder; then the configured listen address, unless
   `--data-dir` named a folder in which no daemon runs: that must never reach another daemon.
2. The control token goes to this machine only, or to the address `daemon.json` gives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from p2pmodels.config import Config, load_config
from p2pmodels.config.values import is_loopback_host, parse_http_url
from p2pmodels.errors import UsageError

DAEMON_FILE = "daemon.json"
TOKEN_FILE = "control-token"  # noqa: S105  a file's name
FILE_LIMIT = 65536  # bytes; both files are one line
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what to dial for "all"


@dataclass(frozen=True)
class Connection:
    """How to reach the daemon; `url` is None when none can be running."""

    config: Config
    url: str | None
    is_explicit: bool
    """Whether --url named it: then no verb works around its absence."""
    is_local: bool
    """Whether the control token may be sent there."""

    @property
    def data_dir(self) -> Path:
        return self.config.data_dir

    def read_token(self) -> str | None:
        """The control token, if this user may read it and it may be sent."""
        if not self.is_local:
            return None
        try:
            text = (self.data_dir / TOKEN_FILE).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return text if text.isprintable() and 0 < len(text) <= FILE_LIMIT else None


def find_daemon(data_dir: Path | None, url: str | None, file: Path | None = None) -> Connection:
    """The connection these flags and the configuration describe. Raises ConfigError, UsageError."""
    flags = {"data_dir": data_dir} if data_dir is not None else {}
    config = load_config(file, flags)
    noted = _noted_url(config.data_dir)
    if url is not None:
        try:
            given = parse_http_url(url)
        except ValueError as error:
            raise UsageError(f"--url: {error}") from None
        return Connection(config, given, True, _is_loopback(given) or given == noted)
    if noted is not None:
        return Connection(config, noted, False, True)
    listen = config.web.listen
    is_other_folder = config.source_of("data_dir") == "flag"
    if is_other_folder or not listen.port:
        return Connection(config, None, False, False)
    host = _ANY_ADDRESS.get(listen.host, listen.host)
    address = f"http://[{host}]:{listen.port}" if ":" in host else f"http://{host}:{listen.port}"
    return Connection(config, address, False, True)


def _noted_url(data_dir: Path) -> str | None:
    """The address that a running daemon wrote down; a broken note counts as none."""
    try:
        with (data_dir / DAEMON_FILE).open("rb") as file:
            note = json.loads(file.read(FILE_LIMIT))
        return parse_http_url(note["url"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_loopback(url: str) -> bool:
    return is_loopback_host(urlsplit(url).hostname or "")
