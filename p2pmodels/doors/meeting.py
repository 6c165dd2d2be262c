"""The routes by which pages and walled-in daemons meet: signalling, and offers by request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aiohttp import web

from p2pmodels.core.signalling import RTC_PATH, SIGNAL_PATH
from p2pmodels.doors.rtc import RtcDoor
from p2pmodels.doors.signal import SignalDoor


@dataclass(frozen=True)
class MeetingDoors:
    """Both doors; each judges web origins by itself."""

    signal: SignalDoor
    rtc: RtcDoor
    paths: ClassVar[tuple[str, ...]] = (SIGNAL_PATH, RTC_PATH)

    def add_routes(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get(SIGNAL_PATH, self.signal.signal, allow_head=False)
        app.on_shutdown.append(self.signal.close)
        app.router.add_post(RTC_PATH, self.rtc.offer)
        app.router.add_options(RTC_PATH, self.rtc.preflight)
