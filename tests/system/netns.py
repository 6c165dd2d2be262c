"""A small network for tests: namespaces of the kernel on one bridge, with multicast.

1. Everything it makes carries a random name and is gone when the block is left, whatever happened.
2. The bridge has a namespace of its own: nothing of the machine's own network is touched, and no
   packet can leave the lab.
3. Host `n` has the address 10.77.x.n+1/24 on its `eth0`; loopback is up; there is no other route
   than to the lab.
4. A cable may be made narrow, in both directions, and its counters read: they are the kernel's, so
   nothing that runs on the host can colour them.

Needs root and iproute2; `unavailable()` says why it cannot work here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND_LIMIT_S = 10.0  # seconds; a configuring command takes milliseconds
END_LIMIT_S = 5.0  # seconds between SIGTERM and SIGKILL for what still runs in a namespace


FRAME_BYTES = 66  # bytes of Ethernet (14), IPv4 (20) and TCP with its timestamps (32) on a packet
SEGMENT_BYTES = 1448  # bytes of a full TCP packet of Ethernet behind those


@dataclass(frozen=True, slots=True)
class Cable:
    """What a cable carries, the same in both directions; see tc-tbf(8)."""

    bits_per_s: int
    """Of frames, Ethernet included."""
    burst_bytes: int
    queue_ms: int
    """How long a packet may wait before it is dropped."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What has passed a host's `eth0`, seen from the host."""

    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int

    @property
    def sent_payload(self) -> int:
        """Bytes that went out in TCP packets, without frames.

        Exact also for the large packets that TCP hands to a virtual cable: they have one header.
        """
        return max(0, self.sent_bytes - self.sent_packets * FRAME_BYTES)


@cache
def unavailable() -> str | None:
    """Why namespaces cannot be made here, or None: the reason to give when a test is skipped."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "network namespaces need the commands `ip` and `tc` (iproute2)"
    name = f"p2pm-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()[:200]}"
    subprocess.run(["ip", "netns", "del", name], check=True, timeout=COMMAND_LIMIT_S)
    return None


@dataclass(frozen=True)
class Host:
    """One machine of the lab: a network namespace with one address."""

    name: str
    address: str
    _processes: list[subprocess.Popen[str]] = field(default_factory=list, repr=False, compare=False)

    def command(self, *words: str | Path) -> list[str]:
        """`words` as a command that runs on this host."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def run(
        self, *words: str | Path, timeout_s: float = COMMAND_LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end on this host; a failing one raises CalledProcessError."""
        return subprocess.run(
            self.command(*words), check=True, capture_output=True, text=True, timeout=timeout_s
        )

    def start(self, *words: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command on this host, with pipes; it is ended with the lab at the latest."""
        process = subprocess.Popen(
            self.command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        self._processes.append(process)
        return process

    def unplug(self) -> None:
        """Pull the cable: packets vanish, as they do when a machine loses its power."""
        self.run("ip", "link", "set", "eth0", "down")

    def plug(self) -> None:
        """Put the cable back."""
        self.run("ip", "link", "set", "eth0", "up")

    def counters(self) -> Counters:
        """The interface's own statistics."""
        answer = self.run("ip", "-s", "-j", "link", "show", "dev", "eth0")
        figures = json.loads(answer.stdout)[0]["stats64"]
        received, sent = figures["rx"], figures["tx"]
        return Counters(received["bytes"], received["packets"], sent["bytes"], sent["packets"])

    def _end(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_LIMIT_S)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class Lab:
    """`with Lab(3) as lab:` makes three hosts on one bridge."""

    def __init__(self, count: int) -> None:
        if not 1 <= count <= 250:
            raise ValueError(f"{count} hosts")
        self._tag = secrets.token_hex(3)
        self._bridge = f"p2pm-{self._tag}-br"
        net = secrets.randbelow(250) + 1  # two labs at once are apart anyway; this helps reading
        self.hosts = [Host(f"p2pm-{self._tag}-{n}", f"10.77.{net}.{n + 1}") for n in range(count)]

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            for host in self.hosts:
                host._end()
        finally:
            self._remove()

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def shape(self, index: int, cable: Cable) -> None:
        """Replace a host's cable. The kernel shapes what leaves, so both ends get their queue."""
        limits = (
            "tbf", "rate", f"{cable.bits_per_s}bit", "burst", str(cable.burst_bytes),
            "latency", f"{cable.queue_ms}ms",
        )  # fmt: skip
        for name, device in ((self[index].name, "eth0"), (self._bridge, f"port{index}")):
            _ip("netns", "exec", name, "tc", "qdisc", "replace", "dev", device, "root", *limits)

    def _build(self) -> None:
        _ip("netns", "add", self._bridge)
        # without a querier on the link, snooping would forget the groups and drop mDNS
        _ip("-n", self._bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._bridge, "link", "set", "br0", "up")
        for number, host in enumerate(self.hosts):
            port = f"port{number}"
            _ip("netns", "add", host.name)
            _ip("link", "add", "eth0", "netns", host.name, "type", "veth",
                "peer", "name", port, "netns", self._bridge)  # fmt: skip
            _ip("-n", self._bridge, "link", "set", port, "master", "br0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "brd", "+", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        """The devices go with their namespaces."""
        for name in (*(host.name for host in self.hosts), self._bridge):
            subprocess.run(
                ["ip", "netns", "del", name], capture_output=True, timeout=COMMAND_LIMIT_S
            )


def _ip(*words: str) -> None:
    done: Sequence[str] = ["ip", *words]
    answer = subprocess.run(done, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
    if answer.returncode != 0:
        raise RuntimeError(f"{' '.join(done)}: {answer.stderr.strip()}")
