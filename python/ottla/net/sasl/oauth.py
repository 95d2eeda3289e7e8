"""OAUTHBEARER: where the tokens come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["AbstractTokenProvider"]


class AbstractTokenProvider(ABC):
    """Makes the tokens for `sasl_oauth_token_provider=`; asked at each connection, so keep a token while it is good."""

    def __init__(self, **config: Any) -> None:
        del config

    @abstractmethod
    def token(self) -> str:
        """Return a token that is valid now."""

    def extensions(self) -> dict[str, str]:
        """Return the SASL extensions to send with the token (KIP-342)."""
        return {}
