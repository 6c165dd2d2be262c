"""The room's network: an origin behind a slow line, and machines on one switch.

Host 0 of the namespaces is the origin, host n the machine n. The lab can narrow a cable while
things run, and reads the origin's counters.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tests.lab.settings import Settings
from tests.system.netns import Cable, Counters, Host, Lab


class Network:
    """Inside its `with` the cables are there; `machines` is how many computers the room has."""

    def __init__(self, settings: Settings, machines: int) -> None:
        self._settings = settings
        self._lab = Lab(machines + 1)

    def __enter__(self) -> Self:
        self._lab.__enter__()
        try:
            self.open_uplink(False)
            for number in range(1, len(self._lab.hosts)):
                self._lab.shape(number, self._settings.lan)
        except BaseException:
            self._lab.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lab.__exit__(kind, error, trace)

    @property
    def origin(self) -> Host:
        return self._lab[0]

    @property
    def hosts(self) -> list[Host]:
        """The machines."""
        return self._lab.hosts[1:]

    def open_uplink(self, is_open: bool) -> None:
        """Make the origin's line as fast as the LAN, to warm a room up, or slow again."""
        self._lab.shape(0, self._settings.lan if is_open else self._settings.uplink)

    def narrow(self, host: Host, cable: Cable) -> None:
        """Give one machine another cable."""
        self._lab.shape(self._lab.hosts.index(host), cable)

    def origin_counters(self) -> Counters:
        """What the origin has sent and received."""
        return self.origin.counters()
