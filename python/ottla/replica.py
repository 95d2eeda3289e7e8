"""The local replica of a cluster's topics: one object that is a copy, keeps up with it, and is a broker of its own."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from ottla import _options, _ottla
from ottla.pipe import Copied, _count, _partition, _reporter, _size, _Table, _topics
from ottla.structs import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from ottla.pipe import Path, Report, Source

    Listener: TypeAlias = Callable[["ReplicaEvent"], object]

__all__ = ["Replica", "ReplicaEvent", "ReplicaPartition", "ReplicaStatus"]

log = logging.getLogger("ottla")


class Replica(_ottla.Replica):
    """A local copy of a cluster's topics, byte for byte at the same offsets, that is an embedded broker.

    It opens at once, also when the cluster is away, and any Kafka client reads it, also while it is brought up to date.

        with ottla.Replica("replica", "kafka.example:9092", topics=["orders", "pay.*"]) as replica:
            print(replica.sync())  # everything at first, what is new after that
            consumer = KafkaConsumer("orders", bootstrap_servers=replica.bootstrap_servers)

    The directory remembers which cluster it is a replica of, and which part; of another cluster it is refused. Topics in
    it take no records but those of the cluster. What a group commits here stays here.

    Args:
        directory: Where the replica is; made when missing.
        source: `HOST:PORT[,...]`, `kafka://HOST:PORT[,...]`, `memory:NAME`, the directory of a log, or a `Broker`.
        topics: Names and patterns, as a list or separated by commas (`"orders,pay.*"`); None for those that were chosen
            last for this directory, or all but Kafka's own.
        partitions: Of these topics only these partitions: `{"orders": [0, 2]}`.
        since: Copies begin with the records of this time or later: a `datetime`, a `timedelta` before now, or
            milliseconds since 1970. What has begun goes on from its end.
        last: Copies begin with the last so many records of each partition.
        groups: Groups, names and patterns as for `topics`, whose committed offsets are copied, too.
        recreated: What to do about a topic that was deleted and made anew at the source: `"refuse"` leaves the copy and
            says so, `"restart"` removes it and copies the new one.
        limit_rate: Bytes of record batches to read in a second, at most; None for no limit.
        max_bytes: Bytes to hold in memory, about; None for 64 MiB.
        listen: `HOST:PORT` to listen on; port 0 is a free one. None for no port: clients of this process give the
            directory as their `bootstrap_servers`.
        follow: Follow at once; see `follow`.
        on_event: Called with each `ReplicaEvent`, one after the other, on a thread of its own; nothing waits for it and
            no lock is held. What it raises is logged.
        **options: How to reach the cluster, in the names of `KafkaAdminClient`: `security_protocol`, `sasl_mechanism`,
            `request_timeout_ms` and so on. `bootstrap_timeout_ms` is 5 s here.

    Raises:
        FencedError: Another process owns the directory.
        AlreadyExistsError: The port is in use.
    """

    def __new__(
        cls,
        directory: Path,
        source: Source,
        topics: str | Sequence[str] | None = None,
        *,
        partitions: Mapping[str, Iterable[int]] | None = None,
        since: datetime | timedelta | int | None = None,
        last: int | None = None,
        groups: str | Sequence[str] | None = None,
        recreated: str = "refuse",
        limit_rate: int | None = None,
        max_bytes: int | None = None,
        listen: str | None = "127.0.0.1:0",
        follow: bool = False,
        on_event: Listener | None = None,
        **options: Any,
    ) -> Self:
        """Open the replica."""
        if recreated not in {"refuse", "restart"}:
            raise ValueError(f"recreated is 'refuse' or 'restart' given={recreated!r}")
        if since is not None and last is not None:
            raise ValueError("a replica begins at a time (since) or with the last records (last), not both")
        replica = super().__new__(
            cls,
            os.fspath(directory),
            source,
            _topics(topics),
            [f"{topic}:{','.join(map(str, numbers))}" for topic, numbers in (partitions or {}).items()],
            _milliseconds(since),
            last,
            _topics(groups),
            recreated == "restart",
            limit_rate,
            max_bytes,
            listen,
            _options.client(options),
        )
        if on_event is not None:
            arguments = (replica.events(), on_event)
            threading.Thread(target=_listen, args=arguments, name="ottla-replica-events", daemon=True).start()
        if follow:
            replica.follow()
        return replica

    def sync(self, full: bool = False, *, progress: Report | None = None) -> Copied:
        """Bring the replica to where the source is, once, and return what that moved.

        Args:
            full: Drop what is here of the chosen topics and copy them anew.
            progress: Called with a `Progress` while records flow, up to ten times a second, on the calling thread. What
                it raises ends the copy, and the next one goes on from there.

        Raises:
            NotFoundError: A topic or partition is not there.
            TimedOutError: No broker of the source answers. What is here can be read.
            InvalidError: This is a replica of another cluster, or it follows already.
            AlreadyExistsError: The source has made a topic anew. The others were copied.
            FullError: There is no room on the disk. What was copied stays, and the next call goes on from there.
        """
        return Copied(tuple(_partition(row) for row in self._sync(full, _reporter(progress))))

    def caught_up(self, timeout: float | None = None) -> None:
        """Wait until everything is here that the source had when this was called. Only while it follows.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimedOutError: It is not, and what is missing.
            InvalidError: It does not follow, or cannot go on.
        """
        self._caught_up(timeout)

    def status(self) -> ReplicaStatus:
        """Return how each partition stands. Asks nobody: the source's ends are as it told them last."""
        row: dict[str, Any] = self._status()
        partitions = tuple(
            ReplicaPartition(
                *(topic, number, source_end, start, end, records, size, seconds, synced_at),
                holes=tuple((hole_start, hole_end) for hole_start, hole_end, _ in holes),
                error=error,
            )
            for (topic, number), (source_end, start, end), (records, size, seconds), (
                synced_at,
                holes,
                error,
            ) in row.pop("partitions")
        )
        return ReplicaStatus(**row, partitions=partitions)

    def events(self) -> Iterator[ReplicaEvent]:
        """Return an iterator over what happens from now on; it waits for the next, and ends when the replica is closed.

        One that is more than a thousand events behind loses the oldest.
        """
        return _events(self._events())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Replica {self.data} at {self.bootstrap_servers}>"


@dataclass(frozen=True, slots=True)
class ReplicaEvent:
    """Something that happened to a replica."""

    kind: str
    """`change`: records came. `up_to_date`: everything is here that the source was known to have. `paused`: there is no
    room on the disk, it goes on by itself. `error`: something is wrong; what may pass is tried again."""
    message: str | None = None
    """Why it paused, or what is wrong."""
    partitions: tuple[TopicPartition, ...] = ()
    """Where records came."""
    records: int = 0
    """How many, by the batches' own count."""
    bytes: int = 0
    """Bytes of their batches."""


@dataclass(frozen=True, slots=True)
class ReplicaPartition:
    """How a partition of a replica stands."""

    topic: str
    """The topic."""
    partition: int
    """The partition's number."""
    source_end: int | None
    """The source's end when it told last; None if it has not since the replica was opened."""
    local_start: int
    """The first offset here."""
    local_end: int
    """The end here."""
    behind_records: int | None
    """How many offsets are missing."""
    behind_bytes: int | None
    """How many bytes that is, if records are as large as those that are here; an estimate."""
    behind_seconds: float | None
    """For how long something has been missing: 0 if nothing is, None if that is not known."""
    synced_at_ms: int | None
    """When everything that the source had then was here last, in milliseconds since 1970."""
    holes: tuple[tuple[int, int], ...]
    """The offsets, from and up to, that the source removed before they were copied; the latest hundred ranges."""
    error: str | None
    """What is wrong, while it is."""

    def _cells(self) -> tuple[str, ...]:
        missing = sum(end - start for start, end in self.holes)
        return (
            self.topic,
            str(self.partition),
            f"{self.local_start:,} → {self.local_end:,}",
            _known(self.source_end),
            _known(self.behind_records),
            "?" if self.behind_bytes is None else _size(self.behind_bytes),
            "?" if self.behind_seconds is None else f"{self.behind_seconds:,.1f}",
            _moment(self.synced_at_ms),
            f"{missing:,}" if missing else "",
            self.error or "",
        )


@dataclass(frozen=True, slots=True, repr=False)
class ReplicaStatus:
    """How a replica stands. Printed, it is a table."""

    source: str
    """How the source is reached."""
    cluster_id: str | None
    """The id of the cluster that this is a replica of, once that is known."""
    is_following: bool
    """Whether it is following."""
    paused: str | None
    """Why nothing is written now, while there is no room on the disk."""
    error: str | None
    """What is wrong as a whole, while it is."""
    synced_at_ms: int | None
    """When a copy last ended with everything here that the source had when it began, in milliseconds since 1970."""
    partitions: tuple[ReplicaPartition, ...]
    """Each partition, sorted."""

    @property
    def behind_records(self) -> int | None:
        """How many offsets are missing in all; None if that is not known of a partition."""
        behind = [partition.behind_records for partition in self.partitions]
        known = [records for records in behind if records is not None]
        return sum(known) if len(known) == len(behind) else None

    def __repr__(self) -> str:
        return f"<ReplicaStatus {self._summary()}>"

    def __str__(self) -> str:
        return f"{_STATUS.text(self._rows())}\n{self._summary()}"

    def _repr_html_(self) -> str:
        return _STATUS.html(self._rows(), self._summary())

    def _summary(self) -> str:
        behind = self.behind_records
        if problem := self.paused or self.error:
            state = problem
        elif behind is None:
            state = "the source has not told yet how far it is"
        else:
            state = "up to date" if behind == 0 else f"{_count(behind, 'record')} behind"
        manner = "follows" if self.is_following else "replica of"
        return f"{manner} {self.source}, {_count(len(self.partitions), 'partition')}: {state}"

    def _rows(self) -> list[tuple[str, ...]]:
        return [partition._cells() for partition in self.partitions]


def _events(source: _ottla.Events) -> Iterator[ReplicaEvent]:
    while True:
        try:
            found = source._next(None)
        except StopIteration:
            return
        if found is not None:
            kind, message, partitions, records, size = found
            places = tuple(TopicPartition(*place) for place in partitions)
            yield ReplicaEvent(kind, message, places, records, size)


def _listen(events: Iterator[ReplicaEvent], on_event: Listener) -> None:
    """Tell a callback of events until there are no more."""
    for event in events:
        try:
            on_event(event)
        except Exception:
            log.exception("on_event of a replica raised event=%s", event.kind)


def _milliseconds(since: datetime | timedelta | int | None) -> int | None:
    """Return a moment in milliseconds since 1970."""
    if isinstance(since, timedelta):
        since = datetime.now(UTC) - since
    if isinstance(since, datetime):
        return int(since.timestamp() * 1000)
    return since


def _known(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _moment(time_ms: int | None) -> str:
    return "" if time_ms is None else f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


_STATUS = _Table(
    (
        "topic",
        "partition>",
        "offsets>",
        "source>",
        "behind>",
        "bytes>",
        "seconds>",
        "last sync (UTC)",
        "holes>",
        "error",
    )
)
