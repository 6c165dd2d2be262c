"""Every setting, its default, its unit and what it does.

1. A section is one frozen options class; unknown keys are refused.
2. The unit of a number stands in the name of its field.
3. Building a `Config` reads no file and no `P2PMODELS_*`; `load.py` does that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from p2pmodels.config.values import (
    Count,
    Folder,
    HostHeaders,
    HttpUrl,
    HttpUrls,
    Listen,
    ListenAddress,
    Networks,
    Port,
    RendezvousUrls,
    Seconds,
    TrackerUrls,
    WebOrigins,
    is_loopback_host,
)
from p2pmodels.core.secret import Secret
from p2pmodels.errors import ConfigError, NameRefused
from p2pmodels.store.room import FREE_FLOOR_BYTES

ENV_PREFIX = "P2PMODELS_"
ENV_SECTION_MARK = "__"  # between section and field: `P2PMODELS_STORE__CACHE_LIMIT_BYTES`
HUB_URL = "https://huggingface.co"
HUB_CREDENTIAL = "hf-token"  # the file's name in systemd's credential folder
TOKEN_FILE_LIMIT = 8192  # bytes; a token has 37 characters, more is another file
GROUP_SECRET_MIN = 16  # bytes; whoever links hears a MAC by which short ones can be guessed


class Profile(StrEnum):
    """What kind of machine this is; it changes defaults only, every setting can still be set.

    - `laptop`: one person's machine, the defaults below. Serves local programs only, finds and
      helps peers on the LAN, uploads nothing to the internet.
    - `lab`: a fixed machine shared by many people. Leaves 20 GiB of the disk free instead of 2,
      and looks up a branch at the origin every 10 minutes instead of every minute, so that a room
      of machines stays far below the hub's request limit and on one commit.
    - `classroom`: a teacher's laptop and its room, perhaps without internet. A branch is looked
      up once in 8 hours: the lesson goes on with what was there in the morning.
    - `seed`: a public server. No mDNS (there is no LAN worth searching), 10 GiB of the disk stay
      free, and uploads to the internet are on as soon as trackers are configured.
    """

    LAPTOP = "laptop"
    LAB = "lab"
    CLASSROOM = "classroom"
    SEED = "seed"


class Section(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


def _read_secret(file: Path, key: str) -> Secret:
    """The one word that a file holds. Raises ConfigError, which never repeats it."""
    try:
        with file.open("rb") as opened:
            return Secret(opened.read(TOKEN_FILE_LIMIT).decode("ascii").strip())
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (UnicodeDecodeError, NameRefused):
        reason = "it does not hold one word of printable ASCII characters"
    raise _bad_secret_file(file, key, reason)


def _bad_secret_file(file: Path, key: str, reason: str) -> ConfigError:
    return ConfigError(f"{key} {file}: {reason}", key=key, file=str(file))


class WebOptions(Section):
    """`[web]`: the local endpoint, for programs and pages of this machine."""

    listen: Listen = ListenAddress("127.0.0.1", 7878)
    """Address and port of the local endpoint."""
    allowed_hosts: HostHeaders = ()
    """Further names by which clients may call it (the Host header)."""
    allowed_origins: WebOrigins = ("https://chat.webllm.ai",)
    """Web origins of pages that may use it, besides its own and loopback pages."""


class LanOptions(Section):
    """`[lan]`: other daemons on the local network."""

    listen: Listen = ListenAddress("0.0.0.0", 7879)  # noqa: S104  peers must be able to connect
    """Address and port for peers."""
    is_mdns_enabled: bool = True
    """Whether to announce this daemon on the LAN and to look for others, by mDNS."""
    peers: HttpUrls = ()
    """Peers by URL, for networks without multicast."""
    networks: Networks = ()
    """Networks that count as the LAN besides the machine's own, such as 10.20.0.0/16."""
    group_secret_file: Folder | None = None
    """File with a random text of 16 or more characters; only daemons with the same one exchange."""

    def read_group_secret(self) -> Secret | None:
        """The group's secret, or None when anybody on the LAN may exchange. Raises ConfigError."""
        if self.group_secret_file is None:
            return None
        secret = _read_secret(self.group_secret_file, "lan.group_secret_file")
        if len(secret.reveal()) < GROUP_SECRET_MIN:
            reason = f"shorter than {GROUP_SECRET_MIN} characters"
            raise _bad_secret_file(self.group_secret_file, "lan.group_secret_file", reason)
        return secret


class RtcOptions(Section):
    """`[rtc]`: WebRTC, for web pages and for machines that nobody can connect to."""

    is_enabled: bool = True
    """Whether to talk WebRTC with pages and daemons at home addresses."""
    rendezvous: RendezvousUrls = ()
    """Daemons to meet others at, when TCP between us is blocked: ws:// or wss:// URLs."""
    room: Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{1,64}$")] = "lan"
    """Name of the room there; only members of one room meet."""
    stun: Annotated[str, Field(pattern=r"^$|^[0-9A-Za-z.:\[\]-]{1,255}:[0-9]{1,5}$")] = ""
    """host:port of a STUN server; empty: none is ever asked."""
    memory_limit_bytes: Annotated[Count, Field(ge=64 << 20)] = 512 << 20
    """Memory of the WebRTC process at which it is started anew."""
    tls_listen: Listen | None = None
    """Address and port for peers over TLS, which pages of https sites need."""
    tls_certificate_file: Folder | None = None
    """PEM file with the certificate chain for it."""
    tls_key_file: Folder | None = None
    """PEM file with the certificate's key."""

    @model_validator(mode="after")
    def _need_certificate(self) -> Self:
        if self.tls_listen and not (self.tls_certificate_file and self.tls_key_file):
            raise ValueError("tls_listen needs tls_certificate_file and tls_key_file")
        return self


class SwarmOptions(Section):
    """`[swarm]`: BitTorrent."""

    is_enabled: bool = True
    """Whether to use BitTorrent at all."""
    port: Port = 7880
    """TCP port for BitTorrent peers; 0 lets the system choose."""
    is_wan_enabled: bool = False
    """Whether to exchange with peers outside the LAN."""
    is_tracker_enabled: bool = True
    """Whether web pages may find our public torrents at the peer port (`/announce`)."""
    trackers: TrackerUrls = ()
    """Announce URLs of trackers, used only when is_wan_enabled."""
    upload_limit_bytes_per_s: Count = 0
    """Most bytes given to peers in a second; 0 means no limit."""
    download_limit_bytes_per_s: Count = 0
    """Most bytes taken from peers in a second; 0 means no limit."""


class OriginKind(StrEnum):
    """`hub` tells digests and gives bytes, `mirror` gives bytes only."""

    HUB = "hub"
    MIRROR = "mirror"


class OriginOptions(Section):
    """`[[origin]]`: a source of models over HTTP; the list is asked in order."""

    url: HttpUrl = HUB_URL
    """Its base URL."""
    kind: OriginKind = OriginKind.HUB
    """Whether it is an authority on digests (`hub`) or only gives bytes (`mirror`)."""
    token_file: Folder | None = None
    """File that holds the access token; by default systemd's credential `hf-token`, if given."""

    @model_validator(mode="after")
    def _token_needs_tls(self) -> Self:
        parts = urlsplit(self.url)
        if (
            self.token_file
            and parts.scheme != "https"
            and not is_loopback_host(parts.hostname or "")
        ):
            raise ValueError("a token is only sent over https")
        return self

    def read_token(self, environ: Mapping[str, str] = os.environ) -> Secret | None:
        """The token for this origin, or None when it has none. Raises ConfigError."""
        file = self.token_file
        if file is None:
            # The credential is the hub's: it never goes to another origin by itself.
            folder = environ.get("CREDENTIALS_DIRECTORY", "")
            if not folder or self.url != HUB_URL or not (Path(folder) / HUB_CREDENTIAL).exists():
                return None
            file = Path(folder) / HUB_CREDENTIAL
        return _read_secret(file, "origin.token_file")


class StoreOptions(Section):
    """`[store]`: the data folder's use of the disk."""

    cache_limit_bytes: Count = 0
    """Most bytes of models to keep; the least recently used go first. 0 means no limit."""
    free_floor_bytes: Count = FREE_FLOOR_BYTES
    """Bytes of the file system that are always left free."""


class FetchOptions(Section):
    """`[fetch]`: how models are obtained."""

    branch_ttl_s: Seconds = 60.0
    """Seconds for which the commit of a branch is believed before the origin is asked again."""


class ShareOptions(Section):
    """`[share]`: what is given to peers."""

    is_enabled: bool = True
    """Whether to give peers what is proven public. Off: this machine only takes."""


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogOptions(Section):
    """`[log]`: the daemon's log, on standard error."""

    level: LogLevel = LogLevel.INFO
    """Least severe level that is logged."""


class ConfigValue(NamedTuple):
    """One effective value and where it comes from."""

    key: str
    value: object
    source: str

    def as_json(self) -> dict[str, object]:
        return {"key": self.key, "value": self.value, "source": self.source}


def default_data_dir() -> Path:
    """systemd's state folder of this service, else the user's data folder."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else platformdirs.user_data_path("p2pmodels", appauthor=False)


class Config(BaseSettings):
    """The whole configuration; frozen."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_SECTION_MARK,
    )
    DEFAULT_SOURCE: ClassVar[str] = "default"

    profile: Profile = Profile.LAPTOP
    """Which defaults suit this machine: laptop, lab, classroom or seed."""
    data_dir: Folder = Field(default_factory=default_data_dir)
    """Folder of the cached models, the index and the control token."""
    web: WebOptions = WebOptions()
    lan: LanOptions = LanOptions()
    rtc: RtcOptions = RtcOptions()
    swarm: SwarmOptions = SwarmOptions()
    origin: Annotated[tuple[OriginOptions, ...], Field(min_length=1, max_length=32)] = (
        OriginOptions(),
    )
    store: StoreOptions = StoreOptions()
    fetch: FetchOptions = FetchOptions()
    share: ShareOptions = ShareOptions()
    log: LogOptions = LogOptions()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: `load_config` merges files, environment and flags itself."""
        return (init_settings,)

    def remember_sources(self, sources: Mapping[str, str]) -> None:
        """Note where the value of each dotted key came from; only `load_config` calls this."""
        self._sources.update(sources)

    def source_of(self, key: str) -> str:
        """Where the value of a dotted key comes from: its own mark or that of what holds it."""
        while key:
            if key in self._sources:
                return self._sources[key]
            key = key.rpartition(".")[0]
        return self.DEFAULT_SOURCE

    def explain(self) -> list[ConfigValue]:
        """Every effective value with where it comes from, in the order of the classes above."""
        values = flatten(self.model_dump(mode="json"))
        return [ConfigValue(key, value, self.source_of(key)) for key, value in values]


def flatten(values: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and plain values: `web.listen`, `origin.0.url`."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        for index, value in enumerate(values):
            yield from flatten(value, f"{prefix}.{index}")
    else:
        yield prefix, values


def known_keys() -> list[str]:
    """Every key that may be set, dotted; of the origin list, the fields of one."""
    sections: dict[str, type[BaseModel]] = {
        "web": WebOptions,
        "lan": LanOptions,
        "rtc": RtcOptions,
        "swarm": SwarmOptions,
        "origin": OriginOptions,
        "store": StoreOptions,
        "fetch": FetchOptions,
        "share": ShareOptions,
        "log": LogOptions,
    }
    keys = ["profile", "data_dir"]
    for name, section in sections.items():
        keys += [name, *(f"{name}.{field}" for field in section.model_fields)]
    return keys
