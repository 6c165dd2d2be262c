"""The picture of who gives to whom: its layout as a function, and what a browser makes of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.system.test_dashboard import (
    WITHIN_MS,
    FakeControl,
    Json,
    Watched,
    browser,
    control,
    flow,
    flows,
    model,
    node,
    pytestmark,
    watched,
)

__all__ = ["browser", "control", "pytestmark", "watched"]

LAYOUT = """async ([answer, width]) => {
  const {picture} = await import("/static/layout.js");
  return picture(answer.nodes, answer.flows, width);
}"""
PEERS_LIMIT = 24
WIDTHS = (280, 330, 360, 639, 640, 1056)
MB = 1e6


async def laid_out(page: Page, answer: Json, width: int = 1056) -> dict[str, Any]:
    found: dict[str, Any] = await page.evaluate(LAYOUT, [answer, width])
    return found


def named(picture: dict[str, Any], name: str) -> dict[str, Any]:
    (box,) = [box for box in picture["boxes"] if box["id"] == name]
    return dict(box)


def keys(picture: dict[str, Any], kind: str) -> set[str]:
    return {line["key"] for line in picture["lines"] if line["kind"] == kind}


@pytest.fixture
def busy() -> Json:
    """We get from two, give to one of them, and a third fetches for the room."""
    return flows(
        4,
        flow("origin", "self", 4 * MB),
        flow("10.0.0.0", "self", 12 * MB),
        flow("10.0.0.1", "self", 0.2 * MB),
        flow("self", "10.0.0.0", 3 * MB),
        flow("self", "10.0.0.3", 0),
        flow("origin", "10.0.0.2"),
    )


@pytest.mark.asyncio
async def test_nothing_overlaps_and_nothing_is_cut_off(
    control: FakeControl, watched: Watched
) -> None:
    await watched.page.goto(control.url)
    for machines, width in itertools.product((*range(8), 13, 22, 23, 24, 25), WIDTHS):
        answer = flows(machines)
        answer["nodes"] = [*list(answer["nodes"]), node("mirror", "mirror")]  # type: ignore[call-overload]
        picture = await laid_out(watched.page, answer, width)
        assert len(picture["boxes"]) == 4 + (machines if machines <= PEERS_LIMIT else 1)
        for box in picture["boxes"]:
            assert box["x"] - box["width"] / 2 >= 0
            assert box["x"] + box["width"] / 2 <= width
            assert box["y"] - box["height"] / 2 >= 0
            assert box["y"] + box["height"] / 2 <= picture["height"]
        for one, other in itertools.combinations(picture["boxes"], 2):
            apart_x = abs(one["x"] - other["x"]) - (one["width"] + other["width"]) / 2
            apart_y = abs(one["y"] - other["y"]) - (one["height"] + other["height"]) / 2
            assert max(apart_x, apart_y) > 0, (machines, width, one["id"], other["id"])


@pytest.mark.asyncio
async def test_lines_tell_direction_rate_and_who_fetches_for_the_room(
    control: FakeControl, watched: Watched, busy: Json
) -> None:
    await watched.page.goto(control.url)
    picture = await laid_out(watched.page, busy)
    assert keys(picture, "flow") == {
        "origin>self",
        "10.0.0.0>self",
        "10.0.0.1>self",
        "self>10.0.0.0",
    }
    assert keys(picture, "lease") == {"origin>10.0.0.2"}
    assert keys(picture, "idle") == {"idle swarm", "idle 10.0.0.2", "idle 10.0.0.3"}
    widths = {line["key"]: line["width"] for line in picture["lines"]}
    assert widths["10.0.0.0>self"] > widths["self>10.0.0.0"] > widths["10.0.0.1>self"]
    assert all(bool(line["head"]) == (line["kind"] != "idle") for line in picture["lines"])
    assert [box["id"] for box in picture["boxes"] if box["isQuiet"]] == ["swarm", "10.0.0.3"]


@pytest.mark.asyncio
async def test_every_figure_is_also_a_text(
    control: FakeControl, watched: Watched, busy: Json
) -> None:
    await watched.page.goto(control.url)
    picture = await laid_out(watched.page, busy)
    details = {box["id"]: box["detail"].replace("\u00a0", " ") for box in picture["boxes"]}
    assert details == {
        "self": "↓ 16 ↑ 3.0 MB/s",
        "origin": "↓ 4.0 MB/s",
        "swarm": "the swarm",
        "10.0.0.0": "↓ 12 ↑ 3.0 MB/s",
        "10.0.0.1": "↓ 200 kB/s",
        "10.0.0.2": "fetches for the room",
        "10.0.0.3": "ready",
    }
    assert picture["summary"].replace("\u00a0", " ") == (
        "This machine gets 12 MB/s from 2 machines nearby, 4.0 MB/s from the origin. "
        "It gives 3.0 MB/s to 1 machine. "
        "1 other machine fetches from the origin for the room."
    )


@pytest.mark.asyncio
async def test_nobody_moves_when_somebody_gets_busy(
    control: FakeControl, watched: Watched, busy: Json
) -> None:
    await watched.page.goto(control.url)
    before = await laid_out(watched.page, flows(4))
    after = await laid_out(watched.page, busy)
    for box in before["boxes"]:
        same = named(after, box["id"])
        assert (same["x"], same["y"]) == (box["x"], box["y"])


@pytest.mark.asyncio
async def test_idle_machines_of_a_crowd_are_summed_up(
    control: FakeControl, watched: Watched
) -> None:
    await watched.page.goto(control.url)
    answer = flows(60, flow("10.0.0.50", "self", MB), flow("origin", "10.0.0.9"))
    picture = await laid_out(watched.page, answer)
    peers = [box for box in picture["boxes"] if box["kind"] == "peer"]
    assert [box["id"] for box in peers] == ["10.0.0.50", "10.0.0.9", "others"]
    assert (peers[-1]["title"], peers[-1]["detail"]) == ("58 more machines", "nothing to do now")
    rush = flows(60, *(flow(f"10.0.0.{n}", "self", n * MB + 1) for n in range(60)))
    picture = await laid_out(watched.page, rush)
    peers = [box for box in picture["boxes"] if box["kind"] == "peer"]
    assert len(peers) == PEERS_LIMIT
    assert {"10.0.0.59", "10.0.0.37"} <= {box["id"] for box in peers}
    assert peers[-1]["detail"] == "37 of them busy"


@pytest.mark.asyncio
@pytest.mark.parametrize("width", [360, 390, 1280])
async def test_picture_fits_and_its_texts_fit_their_boxes(
    control: FakeControl, watched: Watched, width: int
) -> None:
    rush = (flow(f"192.168.178.{n}", "self", 999.4 * 1000) for n in range(5))
    back = (flow("self", f"192.168.178.{n}", 110 * MB) for n in range(5))
    answer = flows(0, *rush, *back)
    names = [*(f"192.168.178.{n}" for n in range(24)), "[2001:db8:0:1:aaaa:bbbb:cccc:dddd]:17879"]
    answer["nodes"] = [*list(answer["nodes"]), *(node(name, "peer") for name in names)]  # type: ignore[call-overload]
    control.answers["flows"] = answer
    await watched.page.set_viewport_size({"width": width, "height": 900})
    await watched.page.goto(control.url)
    await watched.shows("#picture-summary", "It gives 550 MB/s to 5 machines.")
    too_wide = await watched.page.eval_on_selector_all(
        "#picture .box",
        """boxes => boxes.flatMap(box => {
          const most = box.querySelector("rect").getBBox().width;
          return [...box.querySelectorAll("text")].filter(t => t.getBBox().width > most)
            .map(t => t.textContent);
        })""",
    )
    assert too_wide == []
    assert await watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_picture_follows_the_daemon_and_keeps_what_goes_on(
    control: FakeControl, watched: Watched, busy: Json
) -> None:
    control.answers["flows"] = busy
    await watched.page.goto(control.url)
    lasting = watched.page.locator("#picture .line[data-key='10.0.0.0>self']")
    await expect(lasting).to_have_count(1, timeout=WITHIN_MS)
    await lasting.evaluate("shape => { shape.isTheSame = true; }")
    control.answers["flows"] = flows(4, flow("10.0.0.0", "self", 2 * MB))
    await watched.shows("#picture-summary", "This machine gets 2.0 MB/s from 1 machine nearby.")
    await expect(watched.page.locator("#picture .line.flow")).to_have_count(1)
    assert await lasting.evaluate("shape => shape.isTheSame === true")
    control.answers["flows"] = flows(4)
    await watched.shows("#picture-summary", "Nothing is on the way now.")
    label = await watched.page.locator("#picture").get_attribute("aria-label")
    assert label == "Nothing is on the way now."
    assert watched.complaints == []


@pytest.mark.asyncio
@pytest.mark.parametrize(("wish", "name"), [("no-preference", "flowing"), ("reduce", "none")])
async def test_dashes_move_unless_the_person_wants_no_motion(
    control: FakeControl, watched: Watched, busy: Json, wish: str, name: str
) -> None:
    control.answers["flows"] = busy
    await watched.page.emulate_media(reduced_motion=wish)  # type: ignore[arg-type]
    await watched.page.goto(control.url)
    dashes = watched.page.locator("#picture .line.flow .dashes").first
    await expect(dashes).to_have_css("animation-name", name, timeout=WITHIN_MS)


@pytest.mark.asyncio
async def test_bar_of_a_model_tells_each_source_in_words(
    control: FakeControl, watched: Watched
) -> None:
    given = {"origin": 5 * 10**6, "lan": 80 * 10**6, "swarm": 10 * 10**6, "store": 5 * 10**6}
    control.answers["models"] = {"models": [{**model("org/first"), "sources": given}]}
    await watched.page.goto(control.url)
    row = watched.page.locator("#model-list .model")
    told = ["Already here 5 %", "Local network 80 %", "BitTorrent 10 %", "The origin 5 %"]
    names = row.locator(".source-name")
    await expect(names).to_have_text([text.replace(" %", "\u00a0%") for text in told])
    widths = await row.locator(".came-from .segment").evaluate_all(
        "all => all.map(one => one.style.width)"
    )
    assert widths == ["5%", "80%", "10%", "5%"]
    control.answers["models"] = {"models": [{**model("org/first"), "sources": {}}]}
    await expect(row.locator(".came-from")).to_be_hidden(timeout=WITHIN_MS)
    assert watched.complaints == []
