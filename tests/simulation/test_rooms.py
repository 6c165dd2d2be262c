"""Rooms of many machines, run on the boards that the daemon runs; every seed is a room of its own.

A failing room names its seed: `pytest 'tests/simulation/test_rooms.py::test_...[seed]'` replays it.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.simulation.machine import Machine
from tests.simulation.world import World

MB = 1_000_000
SEEDS = int(os.environ.get("TEST_ROOMS", "100"))  # rooms; more of them on a quiet night
UPLINK = 16e6  # bytes a second


def some_files(random: Random) -> list[int]:
    """One file of several leases, or a model of many."""
    if random.random() < 0.6:
        return [random.randrange(34 * MB, 60 * MB)]
    return [random.randrange(9 * MB, 30 * MB), *(random.randrange(1, MB) for _ in range(12))]


def room(seed: int, harm: str) -> World:
    random = Random(seed)
    world = World(seed, some_files(random), UPLINK)
    for _ in range(random.choice([2, 3, 4, 6, 8, 12, 16])):
        machine = world.add()
        world.at(random.random() * random.choice([0.1, 1.0, 3.0]), "arrive", machine)
    harmed = random.choice(world.machines)
    moment = random.uniform(0.5, 3.0)
    match harm:
        case "killed" | "frozen":
            world.at(moment, {"killed": "kill", "frozen": "freeze"}[harm], harmed)
        case "slow":
            harmed.up = harmed.down = random.uniform(1e6, 3e6)
        case "liar":
            harmed.is_liar = True
            harmed.lies = random.choice(["gives", "vouches"])
        case "limited":
            world.limit = max(1, len(world.sizes) // 2)
            world.limit_window = 10.0
        case "warm":
            world.warm(harmed)
        case _:
            pass
    return world


HARMS = ("none", "killed", "frozen", "slow", "liar", "limited", "warm")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_everyone_ends_with_the_right_bytes_and_the_uplink_carries_them_once(seed: int) -> None:
    harm = HARMS[seed % len(HARMS)]
    world = room(seed, harm)
    total = sum(world.sizes.values())
    world.run(until_s=60 + 8 * total / UPLINK)
    honest = [machine for machine in world.machines if machine.runs and not machine.is_liar]
    for machine in honest:
        assert has_it_all(machine), f"seed {seed} ({harm}): machine {machine.number}"
    from_origin = sum(m.origin_bytes for m in world.machines if not m.is_liar)
    bound = allowed(world, harm)
    assert from_origin <= bound, f"seed {seed} ({harm}): {from_origin / total:.3f} of the model"


def allowed(world: World, harm: str) -> float:
    """Bytes that the honest may take from the origin."""
    total = sum(world.sizes.values())
    if harm == "warm":
        return 0.0
    is_lost = harm in ("killed", "frozen", "liar")  # and with the machine what it alone had
    return (1.3 if is_lost else 1.1) * total


def has_it_all(machine: Machine) -> bool:
    """Whether it has every byte of every blob, as the origin published them."""
    world = machine.world
    return all(
        machine.whole.get(blob) is not None
        and all(root == world.truth(blob, piece) for piece, root in machine.whole[blob].items())
        for blob in world.sizes
    )


def test_three_hundred_machines_share_one_download() -> None:
    world = World(7, [8 * MB], UPLINK)
    for _ in range(300):
        world.at(world.random.random(), "arrive", world.add())
    world.run(until_s=30)
    assert all(has_it_all(machine) for machine in world.machines)
    assert world.origin_bytes <= 1.1 * 8 * MB


def test_thirty_machines_ask_the_origin_once_for_each_file_of_a_model() -> None:
    """The hub grants an address 3,000 requests in five minutes; 30 x 115 would be 3,450."""
    random = Random(1)
    sizes = [random.randrange(2 * MB, 4 * MB) for _ in range(5)]
    sizes += [random.randrange(1000, 200_000) for _ in range(110)]
    world = World(7, sizes, UPLINK)
    for _ in range(30):
        world.at(world.random.random(), "arrive", world.add())
    world.run(until_s=60)
    assert all(has_it_all(machine) for machine in world.machines)
    assert world.requests <= 130
