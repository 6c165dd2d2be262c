"""The doors at which web pages may knock on the peer port, made from the parts of the daemon."""

from __future__ import annotations

import random
from functools import partial

from p2pmodels.core.tracker import Tracker
from p2pmodels.doors.announce import AnnounceDoor, AnnounceOptions
from p2pmodels.doors.browser import BrowserDoor
from p2pmodels.doors.guard import GuardOptions, allowed_origin
from p2pmodels.doors.meeting import MeetingDoors
from p2pmodels.doors.parts import Parts
from p2pmodels.doors.peer import PageRoutes
from p2pmodels.doors.rtc import RtcDoor
from p2pmodels.doors.signal import SignalDoor
from p2pmodels.doors.torrents import TorrentsDoor


def meeting_doors(parts: Parts, guarded: GuardOptions, browser: BrowserDoor) -> list[PageRoutes]:
    """The module, `/try`, and the doors by which pages meet daemons."""
    web_origin, is_home = partial(allowed_origin, options=guarded), parts.lan.is_home
    return [
        browser,
        MeetingDoors(
            SignalDoor(parts.lobby, web_origin, is_home),
            RtcDoor(parts.meeting, web_origin, is_home),
        ),
    ]


def tracker_doors(parts: Parts, guarded: GuardOptions, *, is_wan: bool) -> list[PageRoutes]:
    """The tracker and the torrents that name it; `is_wan` lets strangers ask, too."""
    web_origin, lan, swarm = partial(allowed_origin, options=guarded), parts.lan, parts.swarm
    # Which peer is offered first is no secret.
    tracker = Tracker(swarm.is_seeding, random.Random(), call=swarm.meet_pages)  # noqa: S311
    options = AnnounceOptions(
        web_origin,
        may_come=lambda address: is_wan or lan.is_home(address),
        is_home=lan.is_home,
        is_own=lambda address: address in lan.own_addresses(),
        bt_port=lambda: swarm.port,
    )
    return [
        AnnounceDoor(tracker, options, parts.clock),
        TorrentsDoor(parts.sharing.shared, web_origin),
    ]
