"""The clients that are open: closed at exit, and known to `ottla run` while it runs a script."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from typing import TYPE_CHECKING, Protocol

from ottla.errors import KafkaError

if TYPE_CHECKING:
    from ottla.consumer import KafkaConsumer

__all__ = ["Client", "Session", "close_all", "opened", "opening", "session"]


class Client(Protocol):
    """What can be closed in a hurry."""

    def _close_at_exit(self) -> None: ...


class Session(Protocol):
    """What `ottla run` wants to know."""

    def before_open(self, bootstrap_servers: str) -> None:
        """Be told where a client is about to connect."""

    def watch(self, consumer: KafkaConsumer) -> None:
        """Be told of a new consumer."""


session: Session | None = None
"""Set while `ottla run` runs a script."""

_open: weakref.WeakSet[Client] = weakref.WeakSet()


def opening(bootstrap_servers: str) -> None:
    """Note that a client is about to connect there."""
    if session is not None:
        session.before_open(bootstrap_servers)


def opened(client: Client) -> None:
    """Note that a client is open, so that it is closed at exit."""
    if not _open:
        # At the first client only, and again after all were closed: registering twice does no harm.
        atexit.unregister(close_all)
        atexit.register(close_all)
    _open.add(client)


def close_all() -> None:
    """Close every client that is open, each within a second; errors do not matter any more."""
    for client in list(_open):
        with contextlib.suppress(KafkaError, OSError, RuntimeError):
            client._close_at_exit()
    _open.clear()
