"""The embedded broker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, Self

from ottla import _options, _ottla

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
        follow: The leader to follow, a `Broker` or `HOST:PORT`; None leads, unless the directory followed one before.
            The broker then holds copies of the leader's topics, and sends clients to the leader while that answers.
        mirroring: `"sync"`: the leader's `acks="all"` waits until this broker has the records synced, too; the leader
            has to be an Ottla. `"async"`: it does not wait, any Kafka can be followed, and reads are served here.
        topics: What to follow: names and patterns, as a list or separated by commas; None for all but Kafka's own.
        node_id: The broker's number; None for the one that it had, or else 0, or for a follower one of its own.
        advertise: `HOST:PORT` that clients and other brokers are told to connect to, where it is not where it listens.
        **options: How to reach the leader, in the names of `KafkaAdminClient`: `security_protocol` and so on.

    Raises:
        FencedError: Another process owns the directory.
        AlreadyExistsError: The port is in use.
        InvalidError: `mirroring="async"` in a directory that was promoted and leads.
    """

    def __new__(
        cls,
        data: str | os.PathLike[str] | None = None,
        *,
        listen: str | None = "127.0.0.1:0",
        config: Mapping[str, Any] | None = None,
        follow: str | Broker | None = None,
        mirroring: Literal["sync", "async"] = "sync",
        topics: str | Sequence[str] | None = None,
        node_id: int | None = None,
        advertise: str | None = None,
        **client: Any,
    ) -> Self:
        """Open the broker."""
        directory = None if data is None else os.fspath(data)
        options = [(str(name), _text(value)) for name, value in (config or {}).items()]
        if mirroring not in ("sync", "async"):
            raise ValueError(f'mirroring is "sync" or "async", not {mirroring!r}')
        following = None
        if follow is not None:
            address = follow.bootstrap_servers if isinstance(follow, _ottla.Broker) else follow
            chosen = list(topics) if topics is not None and not isinstance(topics, str) else topics
            following = (address, mirroring == "sync", chosen, _options.client(client))
        elif client or topics is not None:
            given = next(iter(client), "topics")
            raise TypeError(f"{given} says how to follow, and nothing is followed: give follow=")
        return super().__new__(cls, directory, listen, options, advertise, node_id, following)

    @property
    def leads(self) -> bool:
        """Whether it takes records itself, and follows nobody."""
        return self.leader is None

    def wait_until_caught_up(self, timeout: float = 30.0) -> None:
        """Wait until this broker has what its leader had when this was called; return at once if it leads.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            KafkaTimeoutError: It is not there in time; the message says what is missing.
        """
        super().wait_until_caught_up(timeout)

    def promote(self, unclean: bool = False, timeout: float = 30.0) -> bool:
        """Make this broker the leader, in a new term; whoever led follows it, and clients move over by themselves.

        A leader that answers stands back, hands over what is missing, and nothing is lost. Without one, this broker is
        promoted only if it is sure to have all that was acknowledged with `acks="all"`. (Kafka's ElectLeaders,
        KIP-183.)

        Args:
            unclean: Promote it also if acknowledged records may be lost.
            timeout: How long to wait, in seconds.

        Returns:
            Whether it was not the leader before.

        Raises:
            EligibleLeadersNotAvailableError: Acknowledged records may be lost; the message says of which partition.
            PreferredLeaderNotAvailableError: The leader answers and does not hand over.
        """
        return super().promote(unclean, timeout)

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
