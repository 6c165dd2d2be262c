"""The command line: one verb, one small module; it talks to the daemon's control API.

1. Importing this folder, `--version` and `--help` load no libtorrent, zeroconf, aiohttp
   or pydantic-settings: a verb imports what it needs when it runs.
2. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted.
3. A failure is two lines on standard error, `error [code]: message` and `→ advice`; no traceback
   unless the log level is debug.
4. What comes from a daemon or a peer is printed without control characters.
"""

from p2pmodels.cli.entry import main

__all__ = ["main"]
