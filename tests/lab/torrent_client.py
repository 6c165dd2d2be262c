"""A plain libtorrent program on one machine: the rival that knows the torrent in advance.

libtorrent's defaults, TCP only, no discovery: it is told who the others are. The origin is a web
seed (BEP 19) for everybody, because nobody has the file. Started by the lab:
`python -m tests.lab.torrent_client`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

from tests.lab.copies import wrong_files
from tests.lab.orders import Json, obey

PORT = 6881  # on every machine
PLAIN: Any = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    # It refuses queries in addresses of private networks, where the lab's CDN lies; out on the
    # internet it would not.
    "ssrf_mitigation": False,
}


class Client:
    """One session, which goes on seeding after its download until the program is ended."""

    def __init__(self) -> None:
        self._session: Any = None

    def listen(self, order: Json) -> Json:
        """Open the port, before anybody needs it."""
        address = f"{order['address']}:{PORT}"
        self._session = lt.session(PLAIN | {"listen_interfaces": address})
        return {}

    def download(self, order: Json) -> Json:
        """Get the torrent's file: when it was here and where it lies."""
        parameters: Any = lt.load_torrent_file(order["torrent"])
        parameters.save_path = order["into"]
        parameters.url_seeds = [order["web_seed"]]
        handle = self._session.add_torrent(parameters)
        for address in order["peers"]:
            handle.connect_peer((address, PORT))
        while not handle.status().is_seeding:
            self._session.wait_for_alert(50)
            self._session.pop_alerts()
        return {"ended": time.monotonic(), "folder": order["into"]}

    def verify(self, order: Json) -> Json:
        """Compare what was got with its digests, then delete it."""
        wrong = wrong_files(Path(order["folder"]), order["digests"])
        shutil.rmtree(order["folder"])
        return {"wrong": wrong}


def main() -> None:
    client = Client()
    obey({"listen": client.listen, "download": client.download, "verify": client.verify})


if __name__ == "__main__":
    main()
