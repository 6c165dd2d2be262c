"""The view behind the picture: every end is a node, and no stranger can pose as one of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pmodels.core.peer import PeerId
from p2pmodels.doors import views
from p2pmodels.doors.parts import Parts
from p2pmodels.sources.lan.link import Linked
from p2pmodels.sources.lan.peers import FoundBy, PeerState, PeerView
from p2pmodels.sources.origin.origins import OriginState
from p2pmodels.transfer.flows import Flows
from tests.fakes import FakeClock

ANNE, BERT, PAGE = "a" * 32, "b" * 32, "c" * 32


def seen(peer_id: str, host: str, port: int = 7879, address: str = "") -> PeerView:
    return PeerView(
        id=peer_id,
        address=address or f"{host}:{port}",
        host=host,
        port=port,
        bt_port=0,
        found_by=FoundBy.MDNS,
        version="0.1.0",
        state=PeerState.READY if peer_id else PeerState.NEW,
        last_seen=0.0,
        bytes_received=0,
    )


@dataclass
class World:
    """The parts that the view looks at."""

    clock: FakeClock = field(default_factory=FakeClock)
    peers: list[PeerView] = field(default_factory=list)
    origins: list[OriginState] = field(default_factory=list)
    swarm: list[SimpleNamespace] = field(default_factory=list)
    carried: list[Linked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flows = Flows(self.clock)

    @property
    def parts(self) -> Parts:
        return cast(
            "Parts",
            SimpleNamespace(
                clock=self.clock,
                exchange=SimpleNamespace(carried=lambda: self.carried),
                flows=self.flows,
                lan=SimpleNamespace(peers=lambda: self.peers),
                origins=SimpleNamespace(states=lambda: self.origins),
                swarm=SimpleNamespace(transfers=lambda: self.swarm),
            ),
        )

    def nodes(self) -> list[views.Json]:
        return cast(list[views.Json], views.flows(self.parts)["nodes"])

    def told(self) -> list[views.Json]:
        return cast(list[views.Json], views.flows(self.parts)["flows"])


@pytest.fixture
def world() -> World:
    return World(origins=[OriginState("https://hub.example", "ok", True)])


def test_machine_alone_is_shown_with_its_origin_and_the_swarm(world: World) -> None:
    assert views.flows(world.parts) == {
        "nodes": [
            {"id": "self", "kind": "self", "name": "this machine", "state": "ready"},
            {"id": "origin", "kind": "origin", "name": "hub.example", "state": "ok"},
            {"id": "swarm", "kind": "swarm", "name": "BitTorrent", "state": "idle"},
        ],
        "flows": [],
    }


def test_hubs_are_one_node_and_mirrors_another_each_named_after_one_that_works(
    world: World,
) -> None:
    world.origins = [
        OriginState("https://hub.example", "down", True),
        OriginState("https://mirror.example:8443", "ok", False),
        OriginState("https://other.example", "limited", True),
    ]
    shown = {node["id"]: (node["name"], node["state"]) for node in world.nodes()}
    assert shown["origin"] == ("other.example", "limited")
    assert shown["mirror"] == ("mirror.example:8443", "ok")


def test_peer_is_named_after_its_address_and_its_port_only_where_needed(world: World) -> None:
    world.peers = [seen(ANNE, "10.0.0.1"), seen(BERT, "10.0.0.2"), seen("c" * 32, "10.0.0.2", 7999)]
    names = [node["name"] for node in world.nodes() if node["kind"] == "peer"]
    assert names == ["10.0.0.1", "10.0.0.2:7879", "10.0.0.2:7999"]


@pytest.mark.parametrize("name", ["self", "origin", "mirror", "swarm"])
def test_suggestion_of_a_stranger_is_never_taken_for_an_end_of_ours(
    world: World, name: str
) -> None:
    world.peers = [seen("", "", 0, address=name)]
    world.flows.count("origin", "self", 10)
    ids = [node["id"] for node in world.nodes()]
    assert len(ids) == len(set(ids))
    assert ids[-1] == f"peer {name}"


def test_flows_tell_rate_and_bytes_between_known_ends(world: World) -> None:
    world.peers = [seen(ANNE, "10.0.0.1")]
    world.flows.count(ANNE, "self", 3_000_000)
    world.flows.count("self", BERT, 1)
    world.flows.note_peer_origin(ANNE, is_fetching=True)
    world.flows.note_peer_origin(BERT, is_fetching=True)
    assert world.told() == [
        {"from": ANNE, "to": "self", "bytes_per_s": 3_000_000.0, "bytes": 3_000_000},
        {"from": "origin", "to": ANNE, "bytes_per_s": 0.0, "bytes": 0},
    ]
    world.clock.advance(60)
    assert world.told()[0]["bytes_per_s"] == 0.0


def test_machines_nearby_show_what_passed_over_the_swarm_and_directly(world: World) -> None:
    world.peers = [seen(ANNE, "10.0.0.1")]
    peer = SimpleNamespace(address="10.0.0.1:7880", bytes_down=5, bytes_up=7)
    world.swarm = [SimpleNamespace(peers=[peer])]
    world.flows.count(ANNE, "self", 100)
    world.flows.count("self", ANNE, 200)
    (shown,) = cast(list[views.Json], views.peers(world.parts)["peers"])
    assert (shown["bytes_from"], shown["bytes_to"]) == (105, 207)
    assert world.nodes()[2]["state"] == "ready"


def linked(peer_id: str, host: str, port: int) -> Linked:
    carrier = cast(Any, object())  # that there is one is all that matters here
    return Linked(PeerId(peer_id), host, port, b"", True, -3.0, carrier)


def test_who_is_linked_over_webrtc_is_shown_once_with_what_passed(world: World) -> None:
    world.peers = [seen(ANNE, "192.168.1.5"), seen("", "192.168.1.6")]
    world.carried = [linked(BERT, "192.168.1.6", 7879), linked(PAGE, "192.168.1.9", 0)]
    world.flows.count(BERT, "self", 1000)
    world.flows.count("self", PAGE, 400)
    rows = cast(list[views.Json], views.peers(world.parts)["peers"])
    found = {row["id"]: row for row in rows}
    assert [found[id]["found_by"] for id in (ANNE, BERT, PAGE)] == ["mdns", "webrtc", "page"]
    assert (found[BERT]["bytes_from"], found[PAGE]["bytes_to"]) == (1000, 400)
    assert found[BERT]["last_seen_s"] == 3.0
    named = {node["id"]: node["name"] for node in world.nodes()}
    assert (named[BERT], named[PAGE]) == ("192.168.1.6 (WebRTC)", "page at 192.168.1.9")
    assert {(flow["from"], flow["to"]) for flow in world.told()} == {(BERT, "self"), ("self", PAGE)}


def test_daemon_that_is_found_again_over_tcp_is_one_row(world: World) -> None:
    world.peers = [seen(BERT, "192.168.1.6")]
    world.carried = [linked(BERT, "192.168.1.6", 7879)]
    rows = cast(list[views.Json], views.peers(world.parts)["peers"])
    assert [(row["id"], row["found_by"]) for row in rows] == [(BERT, "mdns")]
