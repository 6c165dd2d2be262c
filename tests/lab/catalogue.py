"""Which scenarios a run consists of, by name, in the order in which they run."""

from __future__ import annotations

import signal

from tests.lab import rivals, scenarios
from tests.lab.discovery import discovery
from tests.lab.scenarios import Scenario
from tests.lab.settings import Settings


def catalogue(settings: Settings) -> dict[str, Scenario]:
    """All scenarios for these settings."""
    small, large = settings.rooms[0], settings.rooms[-1]
    found: dict[str, Scenario] = {}
    for count in settings.rooms:
        for kind in ("file", "model"):
            name = f"cold-{kind}-{count}"
            found[name] = scenarios.cold(name, kind, count)
    found["late"] = scenarios.late("late", small)
    for count in settings.rooms:
        name = f"warm-{count - 1}"
        found[name] = scenarios.warm(name, count - 1)
    found["killed"] = scenarios.harmed("killed", small, signal.SIGKILL)
    found["frozen"] = scenarios.harmed("frozen", small, signal.SIGSTOP)
    found["slow-link"] = scenarios.slow_link("slow-link", small)
    found["quota"] = scenarios.quota("quota", large)
    found["origin-dead"] = scenarios.origin_dead("origin-dead", small)
    for kind in ("file", "model"):
        found[f"alone-{kind}"] = rivals.alone(f"alone-{kind}", kind)
    found["rival-direct"] = rivals.direct("rival-direct", small)
    found["rival-torrent"] = rivals.torrent("rival-torrent", small)
    found["discovery"] = discovery("discovery")
    return found
