"""Daemons in namespaces of their own find each other by real multicast, and notice who leaves."""

from __future__ import annotations

import getpass
import json
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from zeroconf._dns import DNSText
from zeroconf._protocol.incoming import DNSIncoming

from tests.system.netns import Host, Lab, unavailable

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.system,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]

ROOT = Path(__file__).parents[2]
LIMIT_S = 15.0  # seconds; bound of every wait here
SERVICE = "_p2pmodels._tcp.local."

Event = dict[str, object]


class Daemon:
    """A `lan_host.py` on a host, and what it said."""

    def __init__(self, host: Host, *options: str, id: str = "") -> None:
        self.id = id or secrets.token_hex(16)
        self.host = host
        script = ROOT / "tests" / "system" / "lan_host.py"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        words: tuple[str | Path, ...] = (
            sys.executable,
            "-W",
            "error",
            script,
            "--id",
            self.id,
            *options,
        )
        self.process = host.start(*words, env=env)
        self._events: queue.Queue[Event] = queue.Queue()
        self._passed_over: list[Event] = []
        self.others: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.up = self.wait("up")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                self.others.append(line)

    def wait(self, name: str, /, limit_s: float = LIMIT_S, **fields: object) -> Event:
        """The next event of that name with these fields; the others wait for who asks for them."""

        def is_it(event: Event) -> bool:
            return event["event"] == name and fields.items() <= event.items()

        for event in filter(is_it, self._passed_over):
            self._passed_over.remove(event)
            return event
        deadline = time.monotonic() + limit_s
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"{self.host.name}: no {name} {fields}: {''.join(self.others)}")
            if is_it(event):
                return event
            self._passed_over.append(event)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def memory(self) -> int:
        """Bytes of memory it takes now."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def leave(self) -> float:
        """End in order; returns when it was told to."""
        told = time.time()
        self.say("end")
        self.wait("down")
        assert self.process.wait(LIMIT_S) == 0, "".join(self.others)
        return told

    def kill(self) -> float:
        """End at once, the real process and not only `ip netns exec`, which it has replaced."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT_S)
        return time.time()


def seconds(event: Event, since: float) -> float:
    at = event["at"]
    assert isinstance(at, float)
    return at - since


def test_newcomer_is_found_within_a_second_both_ways_and_its_goodbye_within_two() -> None:
    with Lab(2) as lab:
        first = Daemon(lab[0])
        first.wait("state", name="mdns", state="running")
        second = Daemon(lab[1])
        up = second.up["at"]
        assert isinstance(up, float)
        there = second.wait("ready", id=first.id)
        here = first.wait("ready", id=second.id)
        assert here["address"] == f"{lab[1].address}:7879"
        assert here["found_by"] == "mdns" and here["bt_port"] == 7880
        told = second.leave()
        gone = seconds(first.wait("gone", id=second.id), told)
        times = seconds(here, up), seconds(there, up)
        print(f"found after {times[0]:.3f} s and {times[1]:.3f} s, goodbye after {gone:.3f} s")
        assert max(times) <= 1.0
        assert gone <= 2.0


@pytest.mark.parametrize("how", ["killed", "unplugged"])
def test_crash_is_noticed_within_ten_seconds_and_the_return_too(how: str) -> None:
    with Lab(2) as lab:
        first, second = Daemon(lab[0]), Daemon(lab[1])
        first.wait("ready", id=second.id)
        if how == "killed":
            since = second.kill()
        else:
            lab[1].unplug()
            since = time.time()
        gone = seconds(first.wait("gone", id=second.id), since)
        since = time.time()
        if how == "killed":
            second = Daemon(lab[1], id=second.id)
        else:
            lab[1].plug()
        back = seconds(first.wait("ready", id=second.id), since)
        print(f"{how}: noticed after {gone:.1f} s, back after {back:.1f} s")
        assert gone <= 10.0 and back <= 12.0


def test_silent_peer_does_not_delay_locate_beyond_its_bound() -> None:
    with Lab(3) as lab:
        asker, helper, mute = Daemon(lab[0]), Daemon(lab[1]), Daemon(lab[2], "--silent")
        waiting = {helper.id, mute.id}
        while waiting:
            waiting.discard(str(asker.wait("ready")["id"]))
        times = []
        for _ in range(3):
            asker.say("locate")
            located = asker.wait("located")
            assert located["ids"] == [helper.id]
            assert isinstance(located["seconds"], float)
            times.append(located["seconds"])
        print("locate with a silent peer:", ", ".join(f"{1000 * t:.0f} ms" for t in times))
        assert max(times) < 0.25
        assert times[2] < 0.12


def test_peer_named_by_hand_is_found_without_multicast() -> None:
    with Lab(2) as lab:
        for host in lab:
            host.run("ip", "link", "set", "eth0", "multicast", "off")
        first = Daemon(lab[0])
        second = Daemon(lab[1], "--peer", f"http://{lab[0].address}:7879")
        ready = second.wait("ready", id=first.id)
        assert ready["found_by"] == "configured"


def test_two_daemons_of_one_machine_find_each_other_and_one_on_the_lan() -> None:
    with Lab(2) as lab:
        first, second = Daemon(lab[0]), Daemon(lab[0], "--port", "7889")
        third = Daemon(lab[1])
        first.wait("ready", id=second.id)
        second.wait("ready", id=first.id)
        for daemon in (first, second):
            daemon.wait("ready", id=third.id)


def test_daemons_bound_to_ipv6_find_each_other() -> None:
    with Lab(2) as lab:
        for number, host in enumerate(lab, 1):
            host.run("ip", "addr", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
        first, second = Daemon(lab[0], "--host", "::"), Daemon(lab[1], "--host", "::")
        assert first.wait("ready", id=second.id)["address"] == "[fd77::2]:7879"
        second.wait("ready", id=first.id)


def test_daemons_meet_on_loopback_when_the_machine_has_no_network() -> None:
    with Lab(1) as lab:
        lab[0].unplug()
        first, second = Daemon(lab[0]), Daemon(lab[0], "--port", "7889")
        assert first.wait("ready", id=second.id)["address"] == "127.0.0.1:7889"


def test_laptop_that_gets_its_network_later_is_found_then() -> None:
    with Lab(2) as lab:
        lab[1].unplug()
        first, second = Daemon(lab[0]), Daemon(lab[1])
        second.wait("state", state="running")
        lab[1].plug()
        assert first.wait("ready", id=second.id)["address"] == f"{lab[1].address}:7879"


# Takes mDNS's port for itself, as a responder that shares it with nobody does.
OCCUPY = """
import socket
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind(("", 5353))
print("taken", flush=True)
taken.recv(1 << 30)
"""


def test_taken_mdns_port_is_told_and_configured_peers_work_on() -> None:
    with Lab(2) as lab:
        other = lab[1].start(sys.executable, "-c", OCCUPY)
        assert other.stdout is not None and other.stdout.readline() == "taken\n"
        first = Daemon(lab[0])
        second = Daemon(lab[1], "--peer", f"http://{lab[0].address}:7879")
        state = second.wait("state", name="mdns")
        while state["state"] == "running":
            state = second.wait("state", name="mdns")
        assert str(state["state"]).startswith("off: mDNS cannot use UDP port 5353")
        second.wait("ready", id=first.id)


# Multicasts announcements of daemons that do not exist, a thousand a second, then says so.
FLOOD = """
import ipaddress, socket, sys, time
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService, DNSText
service = "_p2pmodels._tcp.local."
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
out.bind((sys.argv[1], 5353))
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
for number in range(10_000):
    id = f"{number:032x}"
    name, host = f"{id}.{service}", f"{id}.local."
    text = b"\\x03v=1\\x23id=" + id.encode() + b"\\x07bt=7880"
    address = (ipaddress.ip_address("10.77.0.0") + number).packed
    message = DNSOutgoing(0x8400)
    for record in (
        DNSPointer(service, 12, 1, 4500, name),
        DNSService(name, 33, 1, 120, 0, 0, 7879, host),
        DNSText(name, 16, 1, 4500, text),
        DNSAddress(host, 1, 1, 120, address),
    ):
        message.add_answer_at_time(record, 0)
    for packet in message.packets():
        out.sendto(packet, ("224.0.0.251", 5353))
    time.sleep(0.001)
print("done", flush=True)
"""


def test_flood_of_announcements_keeps_the_real_peer_and_bounds_memory() -> None:
    with Lab(3) as lab:
        first, second = Daemon(lab[0]), Daemon(lab[1])
        first.wait("ready", id=second.id)
        before = first.memory()
        flood = lab[2].start(sys.executable, "-c", FLOOD, lab[2].address)
        assert flood.stdout is not None and flood.stdout.readline() == "done\n"
        first.say("locate")
        located = first.wait("located")
        grown = first.memory() - before
        first.say("peers")
        known = first.wait("peers")["count"]
        print(f"after 10,000 instances: {known} known, {grown / 1e6:.1f} MB more")
        assert located["ids"] == [second.id]
        assert isinstance(known, int) and 100 < known <= 256
        assert grown < 50e6
        assert isinstance(located["seconds"], float) and located["seconds"] < 0.25


# Joins mDNS's group and prints each packet of the given address, in hexadecimal.
LISTEN = """
import socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", 5353))
own = socket.inet_aton(sys.argv[2])
group = socket.inet_aton("224.0.0.251") + own
listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
print("listening", flush=True)
while True:
    packet, source = listener.recvfrom(9000)
    if source[0] == sys.argv[1]:
        print(packet.hex(), flush=True)
"""


def test_announcement_holds_an_opaque_id_ports_and_a_version_and_nothing_else() -> None:
    with Lab(2) as lab:
        watched, watcher = lab
        listener = watcher.start(sys.executable, "-c", LISTEN, watched.address, watcher.address)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        daemon = Daemon(watched)
        txt = b"\x03v=1\x23id=" + daemon.id.encode() + b"\x07bt=7880"
        packets: list[bytes] = []

        def listen_until_told(is_goodbye: bool) -> None:
            """Keep what is sent up to the first packet with the TXT record, or its withdrawal."""
            assert listener.stdout is not None
            for line in listener.stdout:
                packets.append(bytes.fromhex(line))
                if any(
                    isinstance(record, DNSText) and (record.ttl == 0) == is_goodbye
                    for record in DNSIncoming(packets[-1]).answers()
                ):
                    return

        listen_until_told(is_goodbye=False)
        daemon.leave()
        listen_until_told(is_goodbye=True)
        names = {f"{daemon.id}.{SERVICE}", f"{daemon.id}.local.", SERVICE}
        texts, kinds = set(), set()
        for packet in packets:
            message = DNSIncoming(packet)
            for record in message.answers():
                assert record.name in names
                kinds.add(type(record).__name__)
                if isinstance(record, DNSText):
                    texts.add(record.text)
            assert {question.name for question in message.questions} <= names
            for word in (socket.gethostname(), getpass.getuser(), watched.name, str(ROOT)):
                assert word.encode() not in packet
        assert texts == {txt}
        assert kinds >= {"DNSText", "DNSService", "DNSPointer", "DNSAddress"}
