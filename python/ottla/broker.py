"""The embedded broker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from ottla import _ottla

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["Broker"]


class Broker(_ottla.Broker):
    """A Kafka broker inside this process, for programs, notebooks and tests.

    It starts in milliseconds, keeps its data in memory or in a directory, and speaks Kafka's protocol on a port, so
    that any client can use it; Ottla's own clients can also reach it without a port.

        with ottla.Broker() as broker:
            producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)

    Args:
        data: The directory to keep the data in, which is created; None keeps it in memory.
        listen: `HOST:PORT` to listen on; port 0 is a free one. None for no port at all.
        config: A broker's options under Kafka's names, such as `{"num.partitions": 3}`.

    Raises:
        FencedError: Another process owns the directory.
        AlreadyExistsError: The port is in use.
    """

    def __new__(
        cls,
        data: str | os.PathLike[str] | None = None,
        *,
        listen: str | None = "127.0.0.1:0",
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Open the broker."""
        directory = None if data is None else os.fspath(data)
        options = [(str(name), _text(value)) for name, value in (config or {}).items()]
        return super().__new__(cls, directory, listen, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


def _text(value: Any) -> str:
    """Return an option's value as Kafka writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
