"""`serve`: flags become configuration, then the daemon has the word."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.config import load_config


@dataclass(frozen=True)
class ServeFlags:
    """The flags of `serve`; None, empty and False mean not given."""

    data_dir: Path | None = None
    listen: str | None = None
    lan_listen: str | None = None
    bt_port: int | None = None
    origins: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    is_mdns_off: bool = False
    profile: str | None = None

    def as_settings(self) -> dict[str, object]:
        """The same, shaped like the configuration file."""
        lan: dict[str, object] = {
            "listen": self.lan_listen,
            "peers": list(self.peers) or None,
            "is_mdns_enabled": False if self.is_mdns_off else None,
        }
        settings: dict[str, object] = {
            "profile": self.profile,
            "data_dir": self.data_dir,
            "origin": [{"url": url} for url in self.origins] or None,
            "web": _given({"listen": self.listen}),
            "lan": _given(lan),
            "swarm": _given({"port": self.bt_port}),
        }
        return _given(settings)


def _given(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value not in (None, {})}


def run_daemon(file: Path | None, flags: ServeFlags) -> int:
    """Run the daemon until it is stopped and return its exit status.

    Raises ConfigError before anything is started.
    """
    config = load_config(file, flags.as_settings())
    from p2pmodels.daemon import serve

    return asyncio.run(serve(config))
