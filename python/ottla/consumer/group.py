"""The consumer."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ottla import _clients, _metrics, _options, _ottla
from ottla.consumer.subscription_state import AsyncConsumerRebalanceListener, ConsumerRebalanceListener
from ottla.errors import IllegalStateError
from ottla.structs import ConsumerGroupMetadata, OffsetAndMetadata, OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from types import TracebackType

    from ottla.future import Future

__all__ = ["KafkaConsumer"]

log = logging.getLogger("ottla.consumer")

_UNLIMITED = math.inf


class KafkaConsumer(_ottla.Consumer):
    """Reads records, alone or as a member of a group. For one thread at a time.

        consumer = KafkaConsumer("orders", group_id="billing", bootstrap_servers="localhost:9092")
        for record in consumer:
            print(record.offset, record.value)

    The log ends are noted before the constructor returns: with `auto_offset_reset="latest"` and nothing committed,
    what is produced from then on is read.

    Args:
        *topics: Topics to subscribe to; more with `subscribe`, single partitions with `assign`.
        **configs: Options by kafka-python's names: `DEFAULT_CONFIG` has them all with their defaults.
            `bootstrap_servers` also takes `memory:` or `memory:NAME`, and a directory such as `./data`, for a broker
            inside this process.

    Raises:
        KafkaConfigurationError: An option is unknown, has a wrong value, or contradicts another.
        NoBrokersAvailable: No broker answered; the message says which were tried.
    """

    DEFAULT_CONFIG: ClassVar[dict[str, Any]] = _options.CONSUMER
    DEFAULT_SESSION_TIMEOUT_MS_PRE_KIP_735: ClassVar[int] = 30_000

    config: dict[str, Any]
    """The options in force."""

    def __init__(self, *topics: str, **configs: Any) -> None:
        self.config = _options.consumer(configs)
        options = _options.for_core(self.config, configs, self.DEFAULT_CONFIG)
        names = [_topic(topic) for topic in topics]
        self._by_hand = False
        _clients.opening(options["bootstrap_servers"])
        timeout_ms = self.config["consumer_timeout_ms"]
        self._open(
            options,
            names,
            self.config["api_version"] is None,
            self.config["key_deserializer"],
            self.config["value_deserializer"],
            None if timeout_ms in (None, _UNLIMITED, -1) else float(timeout_ms),
        )
        _clients.opened(self)
        if _clients.session is not None:
            _clients.session.watch(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        # What raised did not finish its record: its offset is not to be committed.
        self.close(autocommit=exc_type is None)

    def close(self, autocommit: bool = True, timeout_ms: float | None = None) -> None:
        """Leave the group and close. Closing twice does no harm.

        Args:
            autocommit: Commit the positions first, if the consumer commits by itself at all.
            timeout_ms: How long that may take; `request_timeout_ms` if left out.
        """
        self._close(autocommit, self.config["request_timeout_ms"] if timeout_ms is None else timeout_ms)
        for name in ("key_deserializer", "value_deserializer"):
            with contextlib.suppress(AttributeError):
                self.config[name].close()

    def _close_at_exit(self) -> None:
        self._close(True, 1_000.0)

    def subscribe(
        self,
        topics: Collection[str] | str = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | AsyncConsumerRebalanceListener | None = None,
    ) -> None:
        """Read these topics, in place of those before.

        Args:
            topics: The names; of all members with the same group, each partition goes to one.
            pattern: A regular expression in their place; topics that come later are found, too.
            listener: Told when partitions come and go.

        Raises:
            IllegalStateError: Neither or both of topics and pattern, or partitions were assigned.
            TypeError: A topic is not a text, or the listener is none.
        """
        if listener is not None and not isinstance(
            listener, ConsumerRebalanceListener | AsyncConsumerRebalanceListener
        ):
            raise TypeError("listener must be a ConsumerRebalanceListener")
        names = [_topic(topics)] if isinstance(topics, str) else [_topic(topic) for topic in topics]
        if bool(names) == bool(pattern):
            raise IllegalStateError("subscribe to topics, or to a pattern")
        if self._by_hand:
            raise IllegalStateError("partitions were assigned by hand: unsubscribe before subscribing to topics")
        self._subscribe(names, pattern, None if listener is None else _Notify(listener))

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Read these partitions, in place of those before, whatever a group does. None at all is `unsubscribe`.

        Raises:
            IllegalStateError: Topics were subscribed to.
        """
        if not partitions:
            self.unsubscribe()
            return
        if self.subscription() is not None:
            raise IllegalStateError("topics were subscribed to: unsubscribe before assigning partitions by hand")
        self._assign(_partitions(partitions))
        self._by_hand = True

    def unsubscribe(self) -> None:
        """Read nothing any more, and leave the group."""
        super().unsubscribe()
        self._by_hand = False

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read the partition from this offset on.

        Raises:
            TypeError: Not a TopicPartition.
            ValueError: A negative offset, or a partition that is not assigned.
        """
        _partition(partition)
        if not isinstance(offset, int) or offset < 0:
            raise ValueError(f"an offset is a whole number of 0 at least: {offset!r}")
        self._check_assigned([partition])
        self._seek(partition, offset)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Read these partitions, or all that are assigned, from their first record on."""
        self._seek_to(_ottla.BEGINNING, self._chosen(partitions))

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Read these partitions, or all that are assigned, from the next record on."""
        self._seek_to(_ottla.END, self._chosen(partitions))

    def _chosen(self, partitions: tuple[TopicPartition, ...]) -> list[TopicPartition]:
        chosen = _partitions(partitions) or list(self.assignment())
        if not chosen:
            raise ValueError("no partitions are assigned")
        self._check_assigned(chosen)
        return chosen

    def _check_assigned(self, partitions: Iterable[TopicPartition]) -> None:
        assigned = self.assignment()
        for partition in partitions:
            if partition not in assigned:
                raise ValueError(f"partition is not assigned: {partition}")

    def pause(self, *partitions: TopicPartition) -> None:
        """Return no records of these partitions until `resume`."""
        self._pause(_partitions(partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        """Return records of these partitions again."""
        self._resume(_partitions(partitions))

    def position(self, partition: TopicPartition, timeout_ms: float | None = None) -> int | None:
        """Return the offset of the next record to be read; None if it is not known in time.

        Raises:
            IllegalStateError: The partition is not assigned.
        """
        _partition(partition)
        if partition not in self.assignment():
            raise IllegalStateError(f"partition is not assigned: {partition}")
        return self._position(partition, timeout_ms)

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the offset up to which records could be read at the last fetch; None before the first.

        Raises:
            IllegalStateError: The partition is not assigned.
        """
        _partition(partition)
        if partition not in self.assignment():
            raise IllegalStateError(f"partition is not assigned: {partition}")
        return self._highwater(partition)

    def _need_group(self) -> None:
        if self.config["group_id"] is None:
            raise IllegalStateError("offsets are committed for a group: give a group_id")

    def commit(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata] | None = None, timeout_ms: float | None = None
    ) -> None:
        """Commit the positions, or these offsets, for the group, and wait until it is done.

        Raises:
            IllegalStateError: There is no group.
            CommitFailedError: The partitions belong to another member by now.
            KafkaTimeoutError: It was not done in time.
        """
        self._need_group()
        self._commit(None if offsets is None else _offsets(offsets), timeout_ms)

    def commit_async(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata] | None = None,
        callback: Callable[[Mapping[TopicPartition, OffsetAndMetadata], Any], Any] | None = None,
    ) -> Future:
        """Commit the positions, or these offsets, without waiting.

        Args:
            offsets: For each partition the offset of the next record; the positions if left out.
            callback: Called with the offsets and an exception or None, inside a later call of this consumer.

        Raises:
            IllegalStateError: There is no group.
        """
        self._need_group()
        if callback is None:
            callback = self.config["default_offset_commit_callback"]
        if offsets is None:
            offsets = self._positions()
        return self._commit_async(_offsets(offsets), dict(offsets), callback)

    def _positions(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return the positions that are known."""
        found = {partition: self._position(partition, 0.0) for partition in self.assignment()}
        return {partition: OffsetAndMetadata(offset) for partition, offset in found.items() if offset is not None}

    def committed(
        self, partition: TopicPartition, metadata: bool = False, timeout_ms: float | None = None
    ) -> int | OffsetAndMetadata | None:
        """Return what the group has committed for a partition; None if nothing.

        Args:
            partition: Assigned or not.
            metadata: Return an OffsetAndMetadata, not only the offset.
            timeout_ms: How long it may take.

        Raises:
            IllegalStateError: There is no group.
        """
        self._need_group()
        _partition(partition)
        found = self._committed(partition, timeout_ms)
        if found is None:
            return None
        return OffsetAndMetadata(*found) if metadata else found[0]

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout_ms: float | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return for each partition the first record at or after a time; None if there is none.

        Args:
            timestamps: Milliseconds since 1970.
            timeout_ms: How long it may take.

        Raises:
            ValueError: A negative time.
            KafkaTimeoutError: It was not known in time.
        """
        for partition, timestamp in timestamps.items():
            _partition(partition)
            if int(timestamp) < 0:
                raise ValueError(f"a time is 0 at least: {partition} {timestamp}")
        wanted = [(partition, int(timestamp)) for partition, timestamp in timestamps.items()]
        found = self._offsets_for_times(wanted, timeout_ms)
        return {partition: None if at is None else OffsetAndTimestamp(*at) for partition, at in found.items()}

    def beginning_offsets(
        self, partitions: Collection[TopicPartition], timeout_ms: float | None = None
    ) -> dict[TopicPartition, int]:
        """Return the offset of each partition's first record."""
        return self._ends(_partitions(partitions), _ottla.BEGINNING, timeout_ms)

    def end_offsets(
        self, partitions: Collection[TopicPartition], timeout_ms: float | None = None
    ) -> dict[TopicPartition, int]:
        """Return the offset that each partition's next record will get."""
        return self._ends(_partitions(partitions), _ottla.END, timeout_ms)

    def group_metadata(self) -> ConsumerGroupMetadata:
        """Return where this consumer stands in its group."""
        return ConsumerGroupMetadata(*self._group_metadata())

    def metrics(self, raw: bool = False) -> dict[Any, Any]:
        """Return the consumer's numbers.

        Args:
            raw: As a mapping of `MetricName` to `KafkaMetric`, instead of group and name to value.
        """
        return _metrics.metrics(self._numbers(), {"client-id": str(self.config["client_id"])}, raw=raw)


class _Notify:
    """Calls a listener; what it raises is logged, so that the group goes on."""

    def __init__(self, listener: ConsumerRebalanceListener | AsyncConsumerRebalanceListener) -> None:
        self._listener = listener

    def __call__(self, what: str, partitions: set[TopicPartition]) -> None:
        try:
            done = getattr(self._listener, what)(partitions)
            if isinstance(self._listener, AsyncConsumerRebalanceListener):
                import asyncio

                asyncio.run(done)
        except Exception:
            log.exception("a rebalance listener raised in %s partitions=%s", what, partitions)


def _topic(topic: Any) -> str:
    if not isinstance(topic, str):
        raise TypeError(f"a topic is a text: {topic!r}")
    return topic


def _partition(partition: Any) -> TopicPartition:
    if not isinstance(partition, TopicPartition):
        raise TypeError(f"a partition is a TopicPartition: {partition!r}")
    return partition


def _partitions(partitions: Iterable[Any]) -> list[TopicPartition]:
    return [_partition(partition) for partition in partitions]


def _offsets(offsets: Mapping[TopicPartition, Any]) -> list[tuple[TopicPartition, int, str, int]]:
    """Return offsets as the core takes them, from OffsetAndMetadata or plain numbers."""
    found = []
    for partition, given in offsets.items():
        _partition(partition)
        entry = OffsetAndMetadata(given) if isinstance(given, int) else given
        if not isinstance(entry, OffsetAndMetadata) or entry.offset is None:
            raise TypeError(f"an offset to commit is an OffsetAndMetadata: {given!r}")
        epoch = -1 if entry.leader_epoch is None else entry.leader_epoch
        found.append((partition, entry.offset, entry.metadata or "", epoch))
    return found
