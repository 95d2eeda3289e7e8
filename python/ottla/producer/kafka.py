"""The producer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ottla import _clients, _metrics, _options, _ottla
from ottla.cluster import ClusterMetadata
from ottla.errors import IllegalStateError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from ottla.structs import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition

__all__ = ["KafkaProducer"]


class KafkaProducer(_ottla.Producer):
    """Writes records, from any number of threads.

    `send` puts a record into the batch under construction and returns at once; batches are sent in the background,
    retried, and written once and in order (`enable_idempotence`).

        producer = KafkaProducer(bootstrap_servers="localhost:9092")
        future = producer.send("orders", key=b"42", value=b"...")
        print(future.get(timeout=10).offset)

    Args:
        **configs: Options by kafka-python's names: `DEFAULT_CONFIG` has them all with their defaults.
            `bootstrap_servers` also takes `memory:` or `memory:NAME`, and a directory such as `./data`, for a broker
            inside this process.

    Raises:
        ValueError: An option is unknown.
        KafkaConfigurationError: An option has a wrong value, or contradicts another.
        NoBrokersAvailable: No broker answered; the message says which were tried.
    """

    DEFAULT_CONFIG: ClassVar[dict[str, Any]] = _options.PRODUCER

    config: dict[str, Any]
    """The options in force."""

    def __init__(self, **configs: Any) -> None:
        self.config = _options.producer(configs)
        options = _options.for_core(self.config, configs, self.DEFAULT_CONFIG)
        _clients.opening(options["bootstrap_servers"])
        partitioner = self.config["partitioner"]
        self._open(
            options,
            self.config["api_version"] is None,
            self.config["key_serializer"],
            self.config["value_serializer"],
            None if _options.core_partitions(partitioner) else self._choose,
        )
        _clients.opened(self)

    def _choose(
        self, topic: str, key: Any, serialized_key: bytes | None, value: Any, serialized_value: bytes | None
    ) -> int:
        """Ask the partitioner that was given for a record's partition."""
        partitions, available = self._partitions(topic)
        cluster = ClusterMetadata({topic: partitions}, {topic: available})
        partitioner = self.config["partitioner"]
        ask = getattr(partitioner, "partition", None)
        if ask is not None:
            chosen: int | None = ask(topic, key, serialized_key, value, serialized_value, cluster)
        else:
            # A function of key, all and available partitions, as kafka-python 2 took it.
            chosen = partitioner(serialized_key, sorted(partitions), sorted(available))
        if chosen is None:
            raise ValueError(f"the partitioner chose no partition topic={topic}")
        return chosen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        """Send what is left and close. Closing twice does no harm.

        Args:
            timeout: Seconds to wait for what is left; then it is given up and its futures fail. None waits for all.
            null_logger: Has no meaning here.
        """
        del null_logger
        self._close(timeout)
        for name in ("key_serializer", "value_serializer"):
            with contextlib.suppress(AttributeError):
                self.config[name].close()

    def _close_at_exit(self) -> None:
        self._close(1.0)

    def __del__(self) -> None:
        # As in kafka-python: what was sent by a producer that nobody closed still gets its second.
        with contextlib.suppress(Exception):
            self._close(1.0)

    def metrics(self, raw: bool = False) -> dict[Any, Any]:
        """Return the producer's numbers.

        Args:
            raw: As a mapping of `MetricName` to `KafkaMetric`, instead of group and name to value.
        """
        return _metrics.metrics(self._numbers(), {"client-id": str(self.config["client_id"])}, raw=raw)

    def init_transactions(self) -> None:
        """Take over the transactional id; needed before the first transaction."""
        raise self._no_transactions()

    def begin_transaction(self) -> None:
        """Begin a transaction."""
        raise self._no_transactions()

    def commit_transaction(self) -> None:
        """Commit the transaction, after everything that was sent in it."""
        raise self._no_transactions()

    def abort_transaction(self) -> None:
        """Abort the transaction; what was sent in it will not be seen."""
        raise self._no_transactions()

    def send_offsets_to_transaction(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group_metadata: ConsumerGroupMetadata | str
    ) -> None:
        """Commit a group's offsets as part of the transaction."""
        del offsets, group_metadata
        raise self._no_transactions()

    def _no_transactions(self) -> Exception:
        if self.config["transactional_id"]:
            return UnsupportedError("this version has no transactions")
        return IllegalStateError("transactions need a transactional_id")
