"""The configuration: what may be set, where each value comes from, and what is refused.

1. Only this folder reads configuration files and `P2PMODELS_*`; nothing in it ever writes one.
2. A `Config` that exists is valid: addresses, URLs and sizes are parsed types.
3. No secret is a value of the configuration: it names the file that holds one.

Imported by the daemon and what stands right of it; every other part gets its own options object.
"""

from p2pmodels.config.load import SITE_FILE, load_config, user_file
from p2pmodels.config.model import (
    Config,
    ConfigValue,
    FetchOptions,
    LanOptions,
    LogOptions,
    OriginOptions,
    Profile,
    ShareOptions,
    StoreOptions,
    SwarmOptions,
    WebOptions,
)
from p2pmodels.config.values import ListenAddress

__all__ = [
    "SITE_FILE",
    "Config",
    "ConfigValue",
    "FetchOptions",
    "LanOptions",
    "ListenAddress",
    "LogOptions",
    "OriginOptions",
    "Profile",
    "ShareOptions",
    "StoreOptions",
    "SwarmOptions",
    "WebOptions",
    "load_config",
    "user_file",
]
