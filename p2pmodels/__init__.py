"""p2pmodels: gets AI model files from the nearest place that has them, and shares what it has.

Layers, left never imports right (a test walks the imports)::

    core ← store ← sources ← transfer ← doors ← daemon ← demo ← cli

`errors`, `clock`, `supervision`, `workers` and `metrics` may be imported by all; `config` by the
daemon and what stands right of it.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("p2pmodels")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"

__all__ = ["__version__"]
