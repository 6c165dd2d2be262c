"""The configuration: precedence, sources, refusals."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.config import (
    Config,
    ListenAddress,
    OriginOptions,
    Profile,
    load_config,
    user_file,
)
from p2pmodels.config.load import PROFILE_DEFAULTS
from p2pmodels.config.model import flatten, known_keys
from p2pmodels.errors import ConfigError

KEY = "store.cache_limit_bytes"


class Layers:
    """Writes the same key into any of the layers and loads."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site.toml"
        self.user = folder / "home" / "p2pmodels" / "config.toml"
        self.own = folder / "own.toml"
        self.user.parent.mkdir(parents=True)
        self.environ = {"XDG_CONFIG_HOME": str(folder / "home")}
        self.flags: dict[str, object] = {}
        self.file: Path | None = None

    def put(self, layer: str, value: int) -> None:
        text = f"[store]\ncache_limit_bytes = {value}\n"
        if layer == "site":
            self.site.write_text(text)
        elif layer == "user":
            self.user.write_text(text)
        elif layer == "own":
            self.own.write_text(text)
            self.file = self.own
        elif layer == "environment":
            self.environ["P2PMODELS_STORE__CACHE_LIMIT_BYTES"] = str(value)
        else:
            self.flags = {"store": {"cache_limit_bytes": value}}

    def load(self) -> Config:
        return load_config(self.file, self.flags, environ=self.environ, site_file=self.site)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def refusal(text: str, folder: Path) -> ConfigError:
    """The error that a configuration file causes."""
    file = folder / "wrong.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    return caught.value


@pytest.mark.parametrize(
    ("present", "winner"),
    [
        ([], "default"),
        (["site"], "site"),
        (["site", "user"], "user"),
        (["site", "user", "own"], "own"),
        (["own", "environment"], "environment"),
        (["site", "environment"], "environment"),
        (["site", "user", "own", "environment", "flag"], "flag"),
        (["site", "flag"], "flag"),
    ],
)
def test_highest_layer_wins_and_is_named(layers: Layers, present: list[str], winner: str) -> None:
    places = ["site", "user", "own", "environment", "flag"]
    for layer in present:
        layers.put(layer, 100 + places.index(layer))
    config = layers.load()
    expected = 0 if winner == "default" else 100 + places.index(winner)
    files = {"site": layers.site, "user": layers.user, "own": layers.own}
    assert config.store.cache_limit_bytes == expected
    assert config.source_of(KEY) == str(files.get(winner, winner))


def test_users_file_lies_over_the_machines_key_by_key(layers: Layers) -> None:
    layers.site.write_text("[swarm]\nport = 1\nupload_limit_bytes_per_s = 2\n")
    layers.user.write_text("[swarm]\nport = 3\n")
    config = layers.load()
    assert (config.swarm.port, config.swarm.upload_limit_bytes_per_s) == (3, 2)


def test_file_by_flag_replaces_both_usual_files(layers: Layers) -> None:
    layers.site.write_text("[swarm]\nport = 1\n")
    layers.user.write_text("[log]\nlevel = 'debug'\n")
    layers.put("own", 5)
    config = layers.load()
    assert (config.swarm.port, config.log.level) == (7880, "info")


def test_list_is_taken_whole_from_the_highest_layer(layers: Layers) -> None:
    layers.site.write_text("[[origin]]\nurl = 'https://a.example'\n[[origin]]\nkind = 'mirror'\n")
    layers.flags = {"origin": [{"url": "https://b.example"}]}
    assert [origin.url for origin in layers.load().origin] == ["https://b.example"]


def test_explain_names_every_known_key_once() -> None:
    keys = [re.sub(r"\.\d+\.", ".", key) for key, _, _ in load_config(environ={}).explain()]
    sections = {key.partition(".")[0] for key in keys if "." in key}
    assert sorted(keys) == sorted(set(known_keys()) - sections)


def test_every_setting_is_explained_and_numbers_carry_their_unit() -> None:
    undocumented = []
    for name, field in Config.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {}) or (
            OriginOptions.model_fields if name == "origin" else {}
        )
        undocumented += [f"{name}.{key}" for key, each in inner.items() if not each.description]
        for key, each in inner.items():
            if each.annotation in (int, float) and key != "port":
                assert re.search(r"_(bytes|bytes_per_s|s)$", key), f"{name}.{key} has no unit"
    assert undocumented == []
    documented = Profile.__doc__ or ""
    assert all(f"`{profile.value}`" in documented for profile in Profile)


def test_data_dir_is_the_state_directory_of_the_service() -> None:
    config = load_config(environ={"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"})
    assert config.data_dir == Path("/var/lib/a")
    assert config.source_of("data_dir") == "environment"
    flagged = load_config(flags={"data_dir": "/x"}, environ={"STATE_DIRECTORY": "/var/lib/a"})
    assert flagged.data_dir == Path("/x")


def test_user_file_follows_xdg() -> None:
    assert user_file({"XDG_CONFIG_HOME": "/c"}) == Path("/c/p2pmodels/config.toml")


def test_profile_changes_defaults_only() -> None:
    for profile, changes in PROFILE_DEFAULTS.items():
        config = load_config(flags={"profile": profile.value}, environ={})
        values = {value.key: value for value in config.explain()}
        for key, expected in flatten(changes):
            assert values[key].value == expected
            assert values[key].source == f"profile {profile.value}"
    environ = {"P2PMODELS_STORE__FREE_FLOOR_BYTES": "7", "P2PMODELS_PROFILE": "lab"}
    config = load_config(environ=environ)
    assert (config.store.free_floor_bytes, config.fetch.branch_ttl_s) == (7, 600)


@pytest.mark.parametrize(
    ("environ", "is_wan_enabled"),
    [
        ({"P2PMODELS_PROFILE": "seed"}, False),
        ({"P2PMODELS_SWARM__TRACKERS": "udp://t.example:80"}, False),
        ({"P2PMODELS_PROFILE": "seed", "P2PMODELS_SWARM__TRACKERS": "udp://t.example:80"}, True),
        (
            {
                "P2PMODELS_PROFILE": "seed",
                "P2PMODELS_SWARM__TRACKERS": "udp://t.example:80",
                "P2PMODELS_SWARM__IS_WAN_ENABLED": "false",
            },
            False,
        ),
    ],
)
def test_wan_is_on_only_for_a_seed_with_trackers_or_when_asked(
    environ: dict[str, str], is_wan_enabled: bool
) -> None:
    assert load_config(environ=environ).swarm.is_wan_enabled is is_wan_enabled


def test_environment_reads_lists_tables_and_addresses() -> None:
    config = load_config(
        environ={
            "P2PMODELS_WEB__LISTEN": "[::1]:0",
            "P2PMODELS_WEB__ALLOWED_ORIGINS": "https://a.example, null",
            "P2PMODELS_LAN__NETWORKS": '["10.0.0.0/8", "fd00::/8"]',
            "P2PMODELS_LAN__PEERS": "",
            "P2PMODELS_ORIGIN": '[{"url": "https://m.example/", "kind": "mirror"}]',
            "UNRELATED": "x",
        }
    )
    assert config.web.listen == ListenAddress("::1", 0)
    assert config.web.allowed_origins == ("https://a.example", "null")
    assert config.lan.networks == (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))
    assert config.lan.peers == ()
    assert config.origin[0].url == "https://m.example"


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[web]\nlisten_address = 'x'", "web.listen_address", "web.listen"),
        ("[store]\ncache_limit = 1", "store.cache_limit", "store.cache_limit_bytes"),
        ("[swarn]\nport = 1", "swarn", "swarm"),
        ("cache_limit_bytes = 1", "cache_limit_bytes", "store.cache_limit_bytes"),
        ("[web]\ntrackers = []", "web.trackers", "swarm.trackers"),
        ("[[origin]]\ntoken = 'x'", "origin.0.token", "origin.token_file"),
        ("[web.listen]\nport = 1", "web.listen", None),
        ("[zzz]\nqqq = 1", "zzz", None),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(
    tmp_path: Path, text: str, key: str, hint: str | None
) -> None:
    error = refusal(text, tmp_path)
    assert error.fields["key"] == key
    assert error.fields["file"] == str(tmp_path / "wrong.toml")
    assert hint is None or f"did you mean {hint}?" in error.message


def test_unknown_variable_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environ={"P2PMODELS_STORE__CACHE_LIMIT": "1"})
    assert "P2PMODELS_STORE__CACHE_LIMIT: unknown setting; did you mean" in caught.value.message
    assert "P2PMODELS_STORE__CACHE_LIMIT_BYTES?" in caught.value.message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[web]\nlisten = '127.0.0.1'", "web.listen"),
        ("[web]\nlisten = '127.0.0.1:65536'", "web.listen"),
        ("[web]\nlisten = '::1:80'", "web.listen"),
        ("[web]\nlisten = '[127.0.0.1]:80'", "web.listen"),
        ("[web]\nlisten = '256.0.0.1:80'", "web.listen"),
        ("[web]\nlisten = 'a b:80'", "web.listen"),
        ("[web]\nlisten = 80", "web.listen"),
        ("[web]\nallowed_origins = ['https://a.example/path']", "web.allowed_origins.0"),
        ("[web]\nallowed_hosts = ['me@b.example']", "web.allowed_hosts.0"),
        ("[lan]\npeers = ['10.0.0.5:7879']", "lan.peers.0"),
        ("[lan]\npeers = ['http://10.0.0.5:99999']", "lan.peers.0"),
        ("[lan]\nnetworks = ['10.0.0.5/8']", "lan.networks.0"),
        ("[lan]\nis_mdns_enabled = 'perhaps'", "lan.is_mdns_enabled"),
        ("[swarm]\nport = -1", "swarm.port"),
        ("[swarm]\nport = true", "swarm.port"),
        ("[swarm]\ntrackers = ['magnet:?x']", "swarm.trackers.0"),
        ("[store]\ncache_limit_bytes = -5", "store.cache_limit_bytes"),
        ("[store]\ncache_limit_bytes = '5 GB'", "store.cache_limit_bytes"),
        ("[store]\ncache_limit_bytes = 1.5", "store.cache_limit_bytes"),
        ("[fetch]\nbranch_ttl_s = nan", "fetch.branch_ttl_s"),
        ("[fetch]\nbranch_ttl_s = inf", "fetch.branch_ttl_s"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("profile = 'space-station'", "profile"),
        ("data_dir = ''", "data_dir"),
        ("data_dir = 7", "data_dir"),
        ("origin = []", "origin"),
        ("[[origin]]\nurl = 'ftp://a.example'", "origin.0.url"),
        ("[[origin]]\nurl = 'https://a.example/?q=1'", "origin.0.url"),
        ("[[origin]]\nkind = 'registry'", "origin.0.kind"),
        ("[[origin]]\nurl = 'http://a.example'\ntoken_file = '/t'", "origin.0"),
        ("web = 3", "web"),
    ],
)
def test_bad_value_is_refused_by_key_and_file(tmp_path: Path, text: str, key: str) -> None:
    error = refusal(text, tmp_path)
    assert error.fields["key"] == key
    assert error.fields["file"] == str(tmp_path / "wrong.toml")
    assert str(tmp_path / "wrong.toml") in error.message


@pytest.mark.parametrize(
    "content", [b"[web", b"\xff\xfe", b"a = " + b"[" * 5000, b"#" * (1 << 20) + b"#"]
)
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    assert str(file) in caught.value.message


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        load_config(tmp_path / name, environ={})


@pytest.mark.parametrize("value", ["[", '[{"url": ', "x", "3"])
def test_bad_json_in_the_environment_is_refused(value: str) -> None:
    with pytest.raises(ConfigError):
        load_config(environ={"P2PMODELS_ORIGIN": value})


@pytest.mark.parametrize(
    "text",
    [
        "[[origin]]\nurl = 'https://user:canary-4711@a.example'",
        "[[origin]]\ntoken = 'canary-4711'",
        "[lan]\npeers = ['http://x:canary-4711@10.0.0.1:1']",
        "[store]\ncache_limit_bytes = 'canary-4711'",
    ],
)
def test_refusal_never_repeats_a_value(tmp_path: Path, text: str) -> None:
    error = refusal(text, tmp_path)
    assert "canary" not in str(error.as_json())


@pytest.mark.parametrize("setting", ["group_secret = 'canary-4711'", "secret = 'canary-4711'"])
def test_group_secret_never_stands_in_the_configuration_itself(
    tmp_path: Path, setting: str
) -> None:
    assert "canary" not in str(refusal(f"[lan]\n{setting}", tmp_path).as_json())


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_listen_address_is_read_as_it_is_written(address: object, port: int) -> None:
    written = ListenAddress(str(address), port)
    assert ListenAddress.parse(str(written)) == written


@given(st.text(max_size=40))
def test_listen_address_refuses_or_reads_any_text(text: str) -> None:
    try:
        found = ListenAddress.parse(text)
    except ValueError:
        return
    assert 0 <= found.port <= 65535
    assert ListenAddress.parse(str(found)) == found


def test_building_a_config_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PMODELS_SWARM__PORT", "1")
    assert Config().swarm.port == 7880
