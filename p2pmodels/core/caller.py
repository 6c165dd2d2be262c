"""Who asks: what a request may see depends on it (promise P3, reliability E4)."""

from __future__ import annotations

from dataclasses import dataclass

from p2pmodels.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Caller:
    """`token` came with the request; the operator (control API) may use the configured one."""

    token: Secret | None = None
    is_operator: bool = False

    @property
    def identity(self) -> str:
        """What memories of access are kept under; never the token itself."""
        if self.is_operator:
            return "operator"
        return self.token.fingerprint if self.token else "anonymous"


ANONYMOUS = Caller()
OPERATOR = Caller(is_operator=True)
