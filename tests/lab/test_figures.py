"""The lab's own arithmetic: models, counts, factors, the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.catalogue import catalogue
from tests.lab.copies import wrong_files
from tests.lab.hub_side import Requests, count_requests
from tests.lab.models import FILES, make_model, plan_file, plan_many
from tests.lab.settings import Settings, parse_settings
from tests.lab.table import TITLES, Row, cost, write_json
from tests.system.netns import Counters

ROW = Row(
    scenario="cold-file-4",
    machines=4,
    size=100_000_000,
    origin_bytes=110_000_000,
    requests=Requests(1, 2, 3, 4, 0),
    optimum_s=10.0,
    counted=4,
    times_s=(10.0, 11.0, 13.0, 20.0),
    wall_s=20.0,
    cpu_s=8.0,
    client_cpu_s=1.0,
    busy_s=10.0,
)


@pytest.mark.parametrize("size", [2_000_000, 24_000_000, 256_000_000, 255_999_999])
def test_model_of_many_files_has_exactly_the_size_asked_for(size: int) -> None:
    plan = plan_many(size)
    assert len(plan) == FILES == 115
    assert sum(plan.values()) == size
    assert min(plan.values()) == 1000
    assert plan == plan_many(size)


def test_model_of_256_mb_is_like_those_for_browsers() -> None:
    sizes = sorted(plan_many(256_000_000).values())
    assert sizes[-1] < 30_000_000
    assert sum(size > 10_000_000 for size in sizes) == 8
    assert sum(900_000 < size < 1_200_000 for size in sizes) == 100


def test_model_too_small_for_its_files_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        plan_many(100_000)


def test_made_files_have_the_digests_that_the_model_tells(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "model", 3_000_000)
    assert sum(path.stat().st_size for path in model.files.values()) == 3_000_000
    assert model.only_file is None
    assert wrong_files(tmp_path / "model", model.digests) == []
    damaged = model.files["config-1.json"]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0\0")
    model.files["config-2.json"].unlink()
    found = wrong_files(tmp_path / "model", model.digests)
    assert found == ["config-1.json", "config-2.json"]


def test_one_file_is_the_whole_model() -> None:
    assert plan_file(5) == {"model.safetensors": 5}


def test_requests_are_sorted_as_the_quota_sees_them() -> None:
    def line(method: str, path: str, status: int = 200, listener: str = "hub") -> dict[str, object]:
        return {"method": method, "path": path, "status": status, "listener": listener}

    found = count_requests(
        [
            line("GET", "/api/models/a/b/revision/main"),
            line("POST", "/api/models/a/b/paths-info/main", 429),
            line("HEAD", "/a/b/resolve/main/x"),
            line("GET", "/a/b/resolve/main/x", 302),
            line("GET", "/xet-bridge/1/2", 206, "cdn"),
            line("GET", "/xet-bridge/1/2", 429, "cdn"),
        ]
    )
    assert found == Requests(api=2, head=1, get=1, cdn=2, refused=1)
    assert str(found) == "2/1/1/2"


def test_factors_are_first_median_and_last_in_optima() -> None:
    assert ROW.factors == (1.0, 1.2, 2.0)
    assert ROW.origin_ratio == pytest.approx(1.1)
    assert replace(ROW, times_s=()).factors is None


def test_row_tells_a_failure_before_its_remarks() -> None:
    row = replace(ROW, times_s=(10.0,), failure="not done in 70 s", remarks="SIGKILL at 3.0 s")
    text = row.text()
    assert text.endswith("FAILED, 1 of 4 done: not done in 70 s; SIGKILL at 3.0 s")
    assert "1.100" in text and "1/2/3/4" in text
    assert text.index("FAILED") == TITLES.index("remarks")
    assert "-" in replace(ROW, times_s=()).text()


def test_cost_is_the_difference_to_the_calm_room() -> None:
    harmed = replace(ROW, origin_bytes=125_000_000, times_s=(10.0, 23.0))
    assert cost(harmed, ROW) == "+0.30 optima and +0.150 sizes against cold-file-4"
    assert "no comparison" in cost(replace(ROW, times_s=()), ROW)


def test_json_holds_the_figures_and_what_follows_from_them(tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", [ROW])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["requests"]["head"] == 2
    assert row["origin_ratio"] == 1.1
    assert row["factors"] == [1.0, 1.2, 2.0]


def test_payload_is_what_is_left_of_the_frames() -> None:
    # 1000 full packets, and 500 that only acknowledge.
    counters = Counters(0, 0, 1000 * (1448 + 66) + 500 * 66, 1500)
    assert counters.sent_payload == 1_448_000


def test_shaper_leaves_room_for_frames_so_that_the_optimum_is_of_payload() -> None:
    settings = parse_settings(["--uplink-mbit", "48"])
    assert settings.over_uplink_s(6_000_000) == 1.0
    assert settings.uplink.bits_per_s == round(48e6 * 1514 / 1448)


def test_large_room_gets_a_line_that_the_cores_can_carry_unless_it_is_given() -> None:
    settings = parse_settings([])
    assert settings.for_room(2).uplink_mbit == settings.uplink_mbit
    rates = [settings.for_room(count).uplink_mbit for count in (2, 100, 200)]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1] > 0
    fixed = parse_settings(["--uplink-mbit", "24"])
    assert fixed.for_room(200) == fixed


def test_quick_is_four_machines_and_24_mb_unless_told_otherwise() -> None:
    quick = parse_settings(["--quick"])
    assert (quick.rooms, quick.size) == ((4,), 24_000_000)
    assert parse_settings(["--quick", "--size-mb", "2.5"]).size == 2_500_000
    assert parse_settings(["--machines", "9", "3"]).rooms == (3, 9)


@pytest.mark.parametrize("words", [["--machines", "2"], ["--size-mb", "0"], ["--patience", "nan"]])
def test_senseless_settings_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(words)


def test_catalogue_has_the_stampedes_for_each_room() -> None:
    settings: Settings = parse_settings([])
    names = list(catalogue(settings))
    assert names[:4] == ["cold-file-8", "cold-model-8", "cold-file-16", "cold-model-16"]
    assert {"warm-7", "warm-15", "quota", "discovery", "rival-torrent"} <= set(names)
