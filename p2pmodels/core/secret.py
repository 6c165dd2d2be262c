"""A token that cannot be printed by accident (promise P4)."""

from __future__ import annotations

import hashlib
import re

from p2pmodels.errors import NameRefused

TOKEN_LIMIT = 4096  # characters; the hub's are 37

_TOKEN = re.compile(r"[\x21-\x7e]+")


class Secret:
    """Holds a bearer token; only `reveal` gives it, and only the origin's client calls that."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if len(value) > TOKEN_LIMIT or not _TOKEN.fullmatch(value):
            raise NameRefused("token (1 to 4096 printable characters)")
        self._value = value

    def reveal(self) -> str:
        """The token itself, for an Authorization header to the configured origin."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """sha256 of the token: what memories of earlier answers are kept under."""
        return hashlib.sha256(self._value.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__
