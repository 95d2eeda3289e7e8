"""The extension: everything that Rust does for this package. Only the package itself uses what begins with `_`.

The border is laid out for speed. `Producer.send` and `Consumer.__next__` are Rust from end to end: a record goes
straight into the accumulator, and a whole poll crosses as one object whose records are made when they are asked for.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias, final

from typing_extensions import disjoint_base

from ottla.consumer.fetcher import ConsumerRecord
from ottla.producer.future import RecordMetadata
from ottla.structs import TopicPartition

__all__ = [
    "BEGINNING",
    "END",
    "Admin",
    "Broker",
    "Consumer",
    "Events",
    "Future",
    "FutureRecordMetadata",
    "Producer",
    "Replica",
    "__version__",
    "_drain_logs",
    "_stop_logs",
    "backup",
    "check",
    "error_codes",
    "murmur2",
    "replicate",
    "repository_add_key",
    "repository_copy",
    "repository_diff",
    "repository_find",
    "repository_forget",
    "repository_init",
    "repository_keys",
    "repository_ls",
    "repository_prune",
    "repository_remove_key",
    "repository_restore_sample",
    "repository_rotate",
    "restore",
    "snapshots",
    "verify",
]

__version__: str

BEGINNING: int
"""As a time: the first record."""
END: int
"""As a time: after the last record."""

def error_codes() -> list[tuple[int, str, str, bool, bool]]:
    """Every code of a broker: code, name, meaning, whether it is retriable, whether metadata is stale."""

def murmur2(data: bytes) -> int:
    """Return Kafka's hash of a key, from 0 to 2^32 - 1."""

_PartitionRow: TypeAlias = tuple[str, int, str, int, int, int, int, int, tuple[int, int] | None, int | None]

def replicate(
    source: str | PathLike[str] | Broker,
    directory: str | PathLike[str],
    topics: str | list[str] | None,
    full: bool,
    progress: Callable[..., object] | None,
    options: Mapping[str, Any],
) -> list[_PartitionRow]:
    """See `ottla.replicate`. `progress` is called with the fields of a `Progress`."""

#: Name, passphrase, its file, its command, files with identities, whether it is plain.
_Repository: TypeAlias = tuple[
    str | PathLike[str],
    str | None,
    str | PathLike[str] | None,
    str | None,
    list[Any],
    bool,
]
_KeyRow: TypeAlias = tuple[str, int, str | None, str, str, bool]

def backup(
    source: str | PathLike[str] | Broker,
    repository: _Repository,
    topics: str | list[str] | None,
    full: bool,
    compression: str,
    progress: Callable[..., object] | None,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], list[_PartitionRow]]:
    """See `ottla.Repository.backup`. Returns the fields of a `Snapshot`, and the partitions."""

def restore(
    repository: _Repository,
    target: str | PathLike[str],
    snapshot: str,
    topics: str | list[str] | None,
    request: Mapping[str, Any],
    progress: Callable[..., object] | None,
    options: Mapping[str, Any],
) -> tuple[str, list[_PartitionRow], list[str]]:
    """See `ottla.Repository.restore`. Returns the snapshot's id, the partitions, and the groups' names."""

def verify(
    repository: _Repository,
    cluster: str | PathLike[str] | Broker,
    snapshot: str,
    topics: str | list[str] | None,
    rename: dict[str, str],
    options: Mapping[str, Any],
) -> list[tuple[str, int, int, int, int, int, str | None, int, int]]:
    """See `ottla.Repository.verify`. Returns the fields of each `Verified`."""

def snapshots(repository: _Repository) -> list[dict[str, Any]]:
    """See `ottla.Repository.snapshots`. Returns the fields of each `Snapshot`."""

def check(repository: _Repository, read_data: float) -> dict[str, Any]:
    """See `ottla.Repository.check`. Returns the fields of a `CheckReport`, the problems as rows."""

def repository_init(repository: _Repository) -> tuple[str, str, Path | None]:
    """See `ottla.Repository.init`. Returns id, encryption, and the key file."""

def repository_ls(
    repository: _Repository, snapshot: str, topics: str | list[str] | None
) -> list[tuple[str, int, int, int, int, int, int, int]]:
    """See `ottla.Repository.ls`. Returns the fields of each `PartitionContents`."""

def repository_diff(
    repository: _Repository, before: str, after: str
) -> tuple[list[tuple[Any, ...]], list[tuple[str, str, int, int | None, int | None]]]:
    """See `ottla.Repository.diff`. Returns topics and committed offsets."""

def repository_find(
    repository: _Repository, key: bytes, snapshot: str, topics: str | list[str] | None
) -> list[tuple[str, int, int, int, bytes | None]]:
    """See `ottla.Repository.find`. Returns the fields of each `FoundRecord`."""

def repository_forget(
    repository: _Repository,
    names: list[str],
    keep: tuple[int, int, int, int, int, int, int],
    dry_run: bool,
) -> list[tuple[dict[str, Any], list[str]]]:
    """See `ottla.Repository.forget`. Returns the fields of each `Snapshot`, and what keeps it."""

def repository_prune(repository: _Repository, grace_ms: int, dry_run: bool) -> dict[str, Any]:
    """See `ottla.Repository.prune`. Returns the fields of `Pruned`."""

def repository_copy(
    repository: _Repository, target: _Repository, names: list[str]
) -> tuple[list[tuple[str, str]], int, int, int]:
    """See `ottla.Repository.copy`. Returns the fields of `Transferred`."""

def repository_restore_sample(repository: _Repository, max_bytes: int) -> tuple[list[str], int, int, list[str]]:
    """See `ottla.Repository.restore_sample`. Returns the fields of `RestoredSample`."""

def repository_keys(repository: _Repository) -> list[_KeyRow]:
    """See `ottla.Repository.keys`. Returns the fields of each `Key`."""

def repository_add_key(
    repository: _Repository,
    recipient: str | None,
    passphrase: str | None,
    key_file: str | PathLike[str] | None,
    access: str,
    label: str,
) -> _KeyRow:
    """See `ottla.Repository.add_key`. Returns the fields of a `Key`."""

def repository_remove_key(repository: _Repository, key: str) -> None:
    """See `ottla.Repository.remove_key`."""

def repository_rotate(repository: _Repository, recipients: list[str], write_recipients: list[str]) -> int:
    """See `ottla.Repository.rotate`."""

def _drain_logs() -> bool:
    """Wait for the core's log records and hand them to `logging`; False when there will be no more."""

def _stop_logs() -> None:
    """End `_drain_logs`, after what it has."""

@disjoint_base
class Future:
    """A result that is not there yet, with callbacks.

    Callbacks run on the thread that completes the future, or at once if it is complete. What they raise is logged.
    """

    error_on_callbacks: ClassVar[bool]
    """Whether what a callback raises is raised again after it was logged."""

    def __new__(cls) -> Self: ...
    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
    @property
    def value(self) -> Any:
        """The value, or None."""
    @property
    def exception(self) -> BaseException | None:
        """The exception, or None."""
    def succeeded(self) -> bool:
        """Return whether it has ended with a value."""
    def failed(self) -> bool:
        """Return whether it has ended with an exception."""
    def retriable(self) -> bool:
        """Return whether it has failed in a way that may succeed later."""
    def success(self, value: Any) -> Self:
        """End it with a value."""
    def failure(self, e: BaseException | type[BaseException]) -> Self:
        """End it with an exception, or a class of them."""
    def add_callback(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Have `f(*args, value, **kwargs)` called when it ends with a value; at once if it has."""
    def add_errback(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Have `f(*args, exception, **kwargs)` called when it ends with an exception; at once if it has."""
    def add_both(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Have `f` called with the value or the exception, whichever comes."""
    def chain(self, future: Future) -> Self:
        """Have another future end as this one does."""
    def __await__(self) -> Generator[Any, None, Any]: ...

@final
class FutureRecordMetadata(Future):
    """What becomes of a record that was sent. Callbacks run on a thread of the producer's."""

    def get(self, timeout: float | None = None) -> RecordMetadata:
        """Wait for the record to be acknowledged and return where it went.

        Args:
            timeout: Seconds; None waits as long as the producer tries (`delivery_timeout_ms`).

        Raises:
            KafkaTimeoutError: It was not known in time. The record may still arrive.
            KafkaError: The record was given up, for the reason that the class tells.
        """

@disjoint_base
class Producer:
    """What `KafkaProducer` does in Rust."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def _open(
        self,
        options: Mapping[str, Any],
        connect: bool,
        key_serializer: Any,
        value_serializer: Any,
        choose: Callable[[str, Any, bytes | None, Any, bytes | None], int] | None,
    ) -> None: ...
    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: list[tuple[str, bytes]] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> FutureRecordMetadata:
        """Put a record into the batch under construction and return at once.

        Waits only for a topic's metadata at its first record, and for room while the buffer is full; `max_block_ms` at
        most.

        Args:
            topic: Where to.
            value: Bytes, or what the value serializer takes. None is a null, which needs a key: a deletion in a
                compacted topic.
            key: Bytes, or what the key serializer takes. Equal keys go to the same partition.
            headers: Names and values, in order.
            partition: The partition, if it is not to be chosen.
            timestamp_ms: Milliseconds since 1970; now if left out.

        Raises:
            TypeError: A value, key or header is not bytes.
            ValueError: Neither value nor key, a bad topic name, or an unknown partition.
            MessageSizeTooLargeError: The record is larger than `max_request_size`.
            KafkaTimeoutError: `max_block_ms` passed.
            IllegalStateError: The producer is closed.
        """
    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything that was sent before is acknowledged or has failed.

        Args:
            timeout: Seconds; None waits for all.

        Raises:
            KafkaTimeoutError: It took longer.
        """
    def partitions_for(self, topic: str) -> set[int]:
        """Return the topic's partitions.

        Raises:
            KafkaTimeoutError: They were not known within `max_block_ms`.
        """
    def bootstrap_connected(self) -> bool:
        """Return whether a broker has answered."""
    def _partitions(self, topic: str) -> tuple[set[int], set[int]]: ...
    def _close(self, timeout: float | None) -> None: ...
    def _numbers(self) -> dict[str, dict[str, float]]: ...

@disjoint_base
class Consumer:
    """What `KafkaConsumer` does in Rust."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def _open(
        self,
        options: Mapping[str, Any],
        topics: Sequence[str],
        connect: bool,
        key_deserializer: Any,
        value_deserializer: Any,
        consumer_timeout_ms: float | None,
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> ConsumerRecord: ...
    def poll(
        self, timeout_ms: float = 0, max_records: int | None = None, update_offsets: bool = True
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return records that are there, or wait for some.

        Args:
            timeout_ms: How long to wait for the first; the call returns as soon as there are any.
            max_records: How many at most; `max_poll_records` if left out.
            update_offsets: Whether the positions move beyond what is returned.

        Raises:
            ValueError: A negative time, or less than one record.
            IllegalStateError: The consumer is closed.
        """
    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[ConsumerRecord]:
        """Return up to so many records as one list, waiting until there are as many or the time is over.

        Args:
            num_messages: How many at most.
            timeout: Seconds; -1 waits for all of them.
        """
    def subscription(self) -> set[str] | None:
        """Return the topics that were subscribed to, or None."""
    def unsubscribe(self) -> None:
        """Read nothing any more, and leave the group."""
    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that this consumer reads."""
    def paused(self) -> set[TopicPartition]:
        """Return the partitions that are paused."""
    def topics(self) -> set[str]:
        """Return the names of all topics that this user may see."""
    def partitions_for_topic(self, topic: str) -> set[int]:
        """Return the topic's partitions; none if it is not there."""
    def bootstrap(self, timeout_ms: float | None = None, refresh: bool = False) -> None:
        """Find a broker that answers; the constructor did so, `refresh` does it again."""
    def bootstrap_connected(self) -> bool:
        """Return whether a broker has answered."""
    def _subscribe(
        self, topics: Sequence[str], pattern: str | None, notify: Callable[[str, set[TopicPartition]], None] | None
    ) -> None: ...
    def _assign(self, list: Sequence[TopicPartition]) -> None: ...
    def _seek(self, name: TopicPartition, offset: int) -> None: ...
    def _seek_to(self, time: int, list: Sequence[TopicPartition]) -> None: ...
    def _pause(self, list: Sequence[TopicPartition]) -> None: ...
    def _resume(self, list: Sequence[TopicPartition]) -> None: ...
    def _position(self, name: TopicPartition, timeout_ms: float | None) -> int | None: ...
    def _highwater(self, name: TopicPartition) -> int | None: ...
    def _commit(
        self, given: Sequence[tuple[TopicPartition, int, str, int]] | None, timeout_ms: float | None
    ) -> None: ...
    def _commit_async(
        self,
        list: Sequence[tuple[TopicPartition, int, str, int]],
        given: Mapping[TopicPartition, Any],
        callback: Callable[..., Any],
    ) -> Future: ...
    def _committed(self, name: TopicPartition, timeout_ms: float | None) -> tuple[int, str, int] | None: ...
    def _ends(
        self, list: Sequence[TopicPartition], time: int, timeout_ms: float | None
    ) -> dict[TopicPartition, int]: ...
    def _offsets_for_times(
        self, times: Sequence[tuple[TopicPartition, int]], timeout_ms: float | None
    ) -> dict[TopicPartition, tuple[int, int, int] | None]: ...
    def _group_metadata(self) -> tuple[str | None, int, str, str | None, str]: ...
    def _watch_idle(self, notice_after: float, notice: Callable[[], None], exit_after: float | None) -> None: ...
    def _close(self, autocommit: bool, timeout_ms: float) -> None: ...
    def _numbers(self) -> dict[str, dict[str, float]]: ...

_Place: TypeAlias = tuple[str, int]

@disjoint_base
class Admin:
    """What `KafkaAdminClient` does in Rust; what failed of many is an exception in its place."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def _open(self, options: Mapping[str, Any]) -> None: ...
    def _close(self) -> None: ...
    def _create_topics(
        self,
        topics: Sequence[tuple[str, int | None, int | None, dict[int, list[int]] | None, dict[str, str]]],
        validate_only: bool,
        timeout_ms: float,
    ) -> list[tuple[str, BaseException | None]]: ...
    def _delete_topics(self, topics: list[str], timeout_ms: float) -> list[tuple[str, BaseException | None]]: ...
    def _describe_topics(
        self, topics: list[str] | None, timeout_ms: float
    ) -> list[
        tuple[
            str,
            BaseException | None,
            tuple[str, bool, list[tuple[int, int, int, list[int], list[int], list[int]]]] | None,
        ]
    ]: ...
    def _wait_for_topics(self, topics: list[str], timeout_ms: float) -> None: ...
    def _create_partitions(
        self, topics: dict[str, tuple[int, list[list[int]] | None]], validate_only: bool, timeout_ms: float
    ) -> list[tuple[str, BaseException | None]]: ...
    def _delete_records(
        self, wanted: list[tuple[TopicPartition, int]], timeout_ms: float
    ) -> list[tuple[_Place, BaseException | None, int | None]]: ...
    def _list_offsets(
        self, wanted: list[tuple[TopicPartition, int]], committed_only: bool, timeout_ms: float
    ) -> list[tuple[_Place, BaseException | None, tuple[int, int, int] | None]]: ...
    def _describe_configs(
        self, resources: list[tuple[int, str, list[str] | None]], timeout_ms: float
    ) -> list[
        tuple[int, str, BaseException | None, list[tuple[str, str | None, bool, bool, int, int, str | None]]]
    ]: ...
    def _alter_configs(
        self, changes: list[tuple[int, str, dict[str, tuple[int, str]]]], validate_only: bool, timeout_ms: float
    ) -> list[tuple[int, str, BaseException | None]]: ...
    def _list_groups(self, timeout_ms: float) -> list[tuple[str, str, str, str]]: ...
    def _describe_groups(
        self, groups: list[str], timeout_ms: float
    ) -> list[
        tuple[
            str,
            BaseException | None,
            tuple[str, str, str, list[tuple[str, str | None, str, str, list[_Place]]]] | None,
        ]
    ]: ...
    def _delete_groups(self, groups: list[str], timeout_ms: float) -> list[tuple[str, BaseException | None]]: ...
    def _list_group_offsets(
        self, group: str, list: list[TopicPartition] | None, timeout_ms: float
    ) -> list[tuple[_Place, tuple[int, str, int]]]: ...
    def _alter_group_offsets(
        self, group: str, list: list[tuple[TopicPartition, int, str, int]], timeout_ms: float
    ) -> list[tuple[_Place, BaseException | None]]: ...
    def _delete_group_offsets(
        self, group: str, list: list[TopicPartition], timeout_ms: float
    ) -> list[tuple[_Place, BaseException | None]]: ...
    def _remove_members(
        self, group: str, members: list[tuple[str, str | None]], timeout_ms: float
    ) -> list[tuple[str, BaseException | None]]: ...
    def _describe_cluster(
        self, timeout_ms: float
    ) -> tuple[str | None, int, list[tuple[int, str, int, str | None]]]: ...

@disjoint_base
class Broker:
    """What `ottla.Broker` does in Rust."""

    def __new__(
        cls,
        data: str | None,
        listen: str | None,
        options: list[tuple[str, str]],
        advertise: str | None,
        node_id: int | None,
        follow: tuple[str, bool, str | list[str] | None, dict[str, Any]] | None,
    ) -> Self: ...
    @property
    def bootstrap_servers(self) -> str:
        """What to give to a client as its `bootstrap_servers`: `HOST:PORT`, or `memory:NAME` without a port."""
    @property
    def data(self) -> str | None:
        """The directory, or None for a broker in memory."""
    @property
    def node_id(self) -> int:
        """The broker's number."""
    @property
    def leader(self) -> str | None:
        """The address of the leader that it follows, or None if it leads."""
    @property
    def leader_epoch(self) -> int:
        """The leader epoch that it leads or follows in."""
    def wait_until_caught_up(self, timeout: float) -> None:
        """Wait until it has what its leader had when this was called."""
    def promote(self, unclean: bool, timeout: float) -> bool:
        """Make this broker the leader. Whether it was not before."""
    def close(self) -> None:
        """Close the connections, write what is left, and give back the port and the directory. Twice does no harm."""

@disjoint_base
class Replica:
    """What `ottla.Replica` does in Rust."""

    def __new__(
        cls,
        directory: str | PathLike[str],
        source: str | PathLike[str] | Broker,
        topics: str | list[str] | None,
        partitions: list[str],
        since: int | None,
        last: int | None,
        groups: str | list[str] | None,
        restart: bool,
        limit_rate: int | None,
        max_bytes: int | None,
        listen: str | None,
        options: Mapping[str, Any],
    ) -> Self: ...
    @property
    def bootstrap_servers(self) -> str:
        """What to give to a client as its `bootstrap_servers`: `HOST:PORT`, or the directory without a port."""
    @property
    def data(self) -> str:
        """The directory."""
    def _sync(self, full: bool, progress: Callable[..., object] | None) -> list[_PartitionRow]: ...
    def follow(self) -> None:
        """Go on with what is new, in the background; full at first where nothing is here."""
    def stop(self) -> None:
        """Follow no more. What is here stays."""
    def _caught_up(self, timeout: float | None) -> None: ...
    def _status(self) -> dict[str, Any]: ...
    def _events(self) -> Events: ...
    def close(self) -> None:
        """Stop, close the connections, and give back the port and the directory. Twice does no harm."""

@final
class Events:
    """The events of a replica, as one listener gets them."""

    def _next(self, timeout: float | None) -> tuple[str, str | None, list[_Place], int, int] | None:
        """Return the next event: kind, message, partitions, records, bytes; None if none comes in so many seconds.

        Raises StopIteration when the replica is closed.
        """
