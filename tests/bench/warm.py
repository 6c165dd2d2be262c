"""A warm 1 GB file from the local endpoint against nginx with sendfile; aim 0.9 and 0.8."""

from __future__ import annotations

from pathlib import Path

from tests.bench.rig import REPO, compare, curls, make_file, nginx, warm_daemon

SIZE = 1_000_000_000
ROUNDS = 7


async def run(folder: Path) -> None:
    source = make_file(folder / "big.bin", SIZE)
    async with warm_daemon(folder, {"big.bin": source}) as daemon, nginx(folder, folder) as peer:
        our_url = f"{daemon.url}/{REPO}/resolve/main/big.bin"
        for streams in (1, 8):
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(await curls(our_url, streams) / 1e6)
                theirs.append(await curls(f"{peer}/big.bin", streams) / 1e6)
            title = f"warm 1 GB, {streams} stream(s), against nginx sendfile"
            compare(title, ours, theirs, "MB/s")
