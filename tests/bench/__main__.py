"""`make bench`: figures as ratios against a peer measured in the same run.

    python -m tests.bench [warm] [small] [cold] [swarm] [exchange] [pair] [webrtc] [webrtc_pair]

Rounds alternate between us and the peer, so that a noisy neighbour hits both; medians are printed.
Nothing here is asserted: machines are shared, ratios are read by people.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.bench import cold, exchange, pair, small, swarm, warm, webrtc, webrtc_pair

BENCHES: dict[str, Callable[[Path], Awaitable[None]]] = {
    "warm": warm.run,
    "small": small.run,
    "cold": cold.run,
    "swarm": swarm.run,
    "exchange": exchange.run,
    "webrtc": webrtc.run,
    "pair": pair.run,
    "webrtc_pair": webrtc_pair.run,
}


async def main(names: list[str]) -> None:
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"p2pmodels-bench-{name}-") as folder:
            await BENCHES[name](Path(folder))


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(BENCHES)
    unknown = set(chosen) - set(BENCHES)
    if unknown:
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    asyncio.run(main(chosen))
