"""Telling systemd how we are (sd_notify(3)); without `NOTIFY_SOCKET` nothing happens."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send one state, such as `READY=1`; a supervisor that went away is not our problem."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    target = "\0" + address[1:] if address[0] == "@" else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(target)
            sender.sendall(state.encode())
        except OSError:
            return


def watchdog_interval_s() -> float | None:
    """Half of the time allowed between two signs of life, in seconds; None if unwatched."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed) / 2_000_000 if allowed.isdigit() and int(allowed) > 0 else None
