"""Where values come from, and the message when one is wrong.

1. Precedence: defaults < the profile's defaults < `/etc/p2pmodels/config.toml` < the user's file
   < `P2PMODELS_*` < flags. `--config F` stands in the place of both files.
2. A key is taken from the highest layer that sets it; a list is taken whole.
3. Every refusal is a `ConfigError` that names the file (or variable, or flag), the key and the
   reason. The value itself is not repeated: it could be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from p2pmodels.config.model import (
    ENV_PREFIX,
    ENV_SECTION_MARK,
    Config,
    Profile,
    known_keys,
)
from p2pmodels.errors import ConfigError

SITE_FILE = Path("/etc/p2pmodels/config.toml")
FILE_LIMIT = 1 << 20  # bytes; a configuration is a page, anything this long is another file
REASONS_LIMIT = 5  # mistakes named in one message

Tree = dict[str, object]

PROFILE_DEFAULTS: dict[Profile, Tree] = {
    Profile.LAPTOP: {},
    Profile.LAB: {"store": {"free_floor_bytes": 20 << 30}, "fetch": {"branch_ttl_s": 600.0}},
    Profile.CLASSROOM: {"fetch": {"branch_ttl_s": 8 * 3600.0}},
    Profile.SEED: {"lan": {"is_mdns_enabled": False}, "store": {"free_floor_bytes": 10 << 30}},
}


@dataclass(frozen=True)
class Layer:
    """Values from one place."""

    source: str
    values: Tree


def user_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's own configuration file, whether or not it exists."""
    given = environ.get("XDG_CONFIG_HOME", "")
    base = Path(given) if given else platformdirs.user_config_path()
    return base / "p2pmodels" / "config.toml"


def load_config(
    file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    site_file: Path = SITE_FILE,
) -> Config:
    """The effective configuration. `flags` is nested like the file. Raises ConfigError."""
    if file is not None:
        layers = [_read_file(file)]
    else:
        layers = [_read_file(path) for path in (site_file, user_file(environ)) if path.exists()]
    layers += [_read_environment(environ), Layer("flag", dict(flags or {}))]
    merged: Tree = {}
    sources: dict[str, str] = {}
    for layer in layers:
        _merge(merged, layer.values, layer.source, sources)
    profile = _profile_layer(merged)
    below: Tree = {}
    below_sources: dict[str, str] = {}
    if "data_dir" not in merged and environ.get("STATE_DIRECTORY"):
        below["data_dir"] = environ["STATE_DIRECTORY"].split(":")[0]
        below_sources["data_dir"] = "environment"
    _merge(below, profile.values, profile.source, below_sources)
    _merge(below, merged, "", {})
    sources = below_sources | sources
    try:
        config = Config.model_validate(below)
    except ValidationError as error:
        raise _refusal(error, sources) from None
    config.remember_sources(sources)
    return config


def _read_file(path: Path) -> Layer:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise ConfigError(f"{path}: longer than {FILE_LIMIT} bytes", file=str(path))
        return Layer(str(path), tomllib.loads(data.decode()))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = f"not valid TOML: {error}"
    except RecursionError:
        reason = "not valid TOML: nested too deeply"
    raise ConfigError(f"{path}: {reason}", file=str(path), reason=reason)


def _read_environment(environ: Mapping[str, str]) -> Layer:
    """`P2PMODELS_*`; the library's own source only finds what exists, so unknown ones are ours."""
    ours = {name: value for name, value in environ.items() if name.upper().startswith(ENV_PREFIX)}
    known = known_keys()
    for name in ours:
        key = name[len(ENV_PREFIX) :].lower().replace(ENV_SECTION_MARK, ".")
        if key not in known:
            hint = _nearest(key)
            reason = "unknown setting" + (f"; did you mean {_variable(hint)}?" if hint else "")
            raise ConfigError(f"{name}: {reason}", file="environment", key=name, reason=reason)
    source = EnvSettingsSource(Config)
    source.env_vars = {name.lower(): value for name, value in ours.items() if value}
    try:
        return Layer("environment", source())
    except (SettingsError, ValueError) as error:
        reason = f"not valid JSON where a list or table is needed ({error})"
        raise ConfigError(f"environment: {reason}", file="environment", reason=reason) from None


def _variable(key: str) -> str:
    return ENV_PREFIX + key.upper().replace(".", ENV_SECTION_MARK)


def _merge(into: Tree, values: Mapping[str, object], source: str, sources: dict[str, str]) -> None:
    """Lay `values` over `into` and note their source; tables merge, all else is replaced."""
    _merge_at(into, values, source, sources, "")


def _merge_at(
    into: Tree, values: Mapping[str, object], source: str, sources: dict[str, str], prefix: str
) -> None:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            held = into.get(key)
            table: Tree = dict(held) if isinstance(held, Mapping) else {}
            into[key] = table
            _merge_at(table, value, source, sources, f"{dotted}.")
        else:
            into[key] = value
            sources[dotted] = source


def _profile_layer(merged: Tree) -> Layer:
    """The defaults of the chosen profile; a wrong name is left for the model to refuse."""
    name = merged.get("profile", Profile.LAPTOP)
    if not isinstance(name, str) or name not in set(Profile):
        return Layer("default", {})
    values = dict(PROFILE_DEFAULTS[Profile(name)])
    swarm = merged.get("swarm")
    if name == Profile.SEED and isinstance(swarm, Mapping) and swarm.get("trackers"):
        values["swarm"] = {"is_wan_enabled": True}
    return Layer(f"profile {name}", values)


def _refusal(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """One message for everything that is wrong, nearest known names included."""
    reasons = []
    first: dict[str, str] = {}
    for mistake in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(str(part) for part in mistake["loc"])
        reason = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            hint = _nearest(key)
            reason = "unknown key" + (f"; did you mean {hint}?" if hint else "")
        place = _place(key, sources)
        first = first or {"file": place, "key": key, "reason": reason}
        name = _variable(key) if place == "environment" else key
        reasons.append(f"{name} ({place}): {reason}")
    left = len(reasons) - REASONS_LIMIT
    more = f"; and {left} more" if left > 0 else ""
    return ConfigError("; ".join(reasons[:REASONS_LIMIT]) + more, **first)


def _place(key: str, sources: Mapping[str, str]) -> str:
    """The file, `environment` or `flag` that set `key`, a part of it or what holds it."""
    candidate = key
    while candidate:
        if candidate in sources:
            return sources[candidate]
        candidate = candidate.rpartition(".")[0]
    inside = (place for known, place in sources.items() if known.startswith(f"{key}."))
    return next(inside, "default")


def _nearest(key: str) -> str | None:
    """The known key that looks most like `key`, looked for in the same section first."""
    parts = [part for part in key.lower().split(".") if not part.isdigit()]
    section, _, name = ".".join(parts).rpartition(".")
    known = known_keys()
    same = [each for each in known if each.rpartition(".")[0] == section]
    near = difflib.get_close_matches(".".join(parts), same, 1, 0.6)
    if not near and section:
        near = difflib.get_close_matches(".".join(parts), known, 1, 0.6)
    if not near:
        # The right name in the wrong section, or without one.
        by_name = {each.rpartition(".")[2]: each for each in reversed(known)}
        near = [by_name[each] for each in difflib.get_close_matches(name, by_name, 1, 0.75)]
    return near[0] if near else None
