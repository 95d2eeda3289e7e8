"""Local replicas and backups: record batches, copied byte for byte from where they are to where they should be.

    ottla.replicate("localhost:9092", "replica")  # a local log of the topics, which any Kafka client can read
    ottla.backup("localhost:9092", "backup")  # a snapshot in a repository
    ottla.restore("backup", "restored")  # the same offsets, timestamps, keys, headers, groups

Each is *full* where the target has nothing and *incremental* where it has: run again, it brings what is new, or goes on
where it was interrupted.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from ottla import _options, _ottla
from ottla.structs import TopicPartition

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ottla.broker import Broker
    from ottla.repository import Repository

    Path: TypeAlias = str | os.PathLike[str]
    Source: TypeAlias = str | os.PathLike[str] | Broker
    Report: TypeAlias = Callable[["Progress"], object]

__all__ = [
    "CheckReport",
    "Copied",
    "PartitionCopied",
    "Problem",
    "Progress",
    "Restored",
    "Snapshot",
    "Snapshots",
    "Verified",
    "backup",
    "check",
    "replicate",
    "restore",
    "snapshots",
    "verify",
]


def replicate(
    source: Source,
    directory: Path,
    topics: str | Sequence[str] | None = None,
    full: bool = False,
    *,
    progress: Report | None = None,
    **options: Any,
) -> Copied:
    """Bring the log in a directory to where the source is, up to its high watermark.

    Topics keep their ids and configurations, records their offsets, timestamps and bytes. Records that the source never
    had are cut off. The directory is a log like any other: give it to a client as its `bootstrap_servers`, to
    `ottla serve`, or to Kafka.

    Args:
        source: `HOST:PORT[,...]`, `kafka://HOST:PORT[,...]`, `memory:NAME`, the directory of a log, or a `Broker`.
        directory: Where the log is; made when missing.
        topics: Names and patterns, as a list or separated by commas (`"orders,pay.*"`); None for all but Kafka's own.
        full: Drop what the directory has of these topics and copy them anew.
        progress: Called with a `Progress` while records flow, up to ten times a second, on the calling thread. What it
            raises ends the copy, and the next one goes on from there.
        **options: How to reach a cluster, in the names of `KafkaAdminClient`: `security_protocol`, `sasl_mechanism`,
            `request_timeout_ms` and so on. `bootstrap_timeout_ms` is 5 s here.

    Raises:
        NotFoundError: A topic, or the source, is not there.
        FencedError: Another process owns the directory, or the source's.
        AlreadyExistsError: The directory has another topic of that name.
        KafkaTimeoutError: No broker of the source answers.
    """
    rows = _ottla.replicate(source, directory, _topics(topics), full, _reporter(progress), _options.client(options))
    return Copied(tuple(_partition(row) for row in rows))


def backup(
    source: Source,
    repository: Path | Repository,
    topics: str | Sequence[str] | None = None,
    full: bool = False,
    *,
    progress: Report | None = None,
    **options: Any,
) -> Snapshot:
    """Back up topics, their configurations, and what groups have committed, as a snapshot in a repository.

    What an older snapshot has is shared with it, so that only what is new is read and stored. The snapshot is there
    whole or not at all.

    Args:
        source: As for `replicate`.
        repository: A `Repository`, or its directory or URL; made when missing, encrypted: see there what opens it.
        topics: As for `replicate`.
        full: Read and store everything, whatever the repository has.
        progress: As for `replicate`.
        **options: As for `replicate`.

    Returns:
        The snapshot. Its `copied` tells what was read of each partition.

    Raises:
        NotFoundError: A topic, or the source, is not there.
        FencedError: Another process owns the source's directory.
        KafkaTimeoutError: No broker of the source answers.
    """
    return _repository(repository).backup(source, topics, full, progress=progress, **options)


def restore(
    repository: Path | Repository,
    target: Path,
    snapshot: str = "latest",
    topics: str | Sequence[str] | None = None,
    *,
    at: datetime | int | None = None,
    partitions: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    replication_factor: int | None = None,
    force: bool = False,
    progress: Report | None = None,
    **options: Any,
) -> Restored:
    """Restore a snapshot at its offsets, and what groups had committed.

    A target that has a beginning of it gets the rest. Each hash and checksum is verified on the way. To a log, batches
    come byte for byte; to a live cluster, records with their timestamps, each read back and compared, and of
    transactions the outcome (`docs/cli.md` tells what is not as it was).

    Args:
        repository: A `Repository`, or its directory or URL.
        target: The directory of a log, made when missing, or `memory:NAME`; a live cluster as `kafka://HOST:PORT[,...]`; or
            `logdir:DIR[,DIR...]`, all `log.dirs` of a Kafka broker that does not run.
        snapshot: `latest`, or the first digits of a snapshot's id.
        topics: As for `replicate`; None for all that the snapshot has.
        at: The point in time to restore, or milliseconds since 1970; None for the snapshot's. Partitions end before the
            first batch that has a later record, and before transactions that had not ended.
        partitions: Which partitions, such as `orders:0,2`; all of a topic of which none is named.
        rename: What topics are to be called in a live cluster that are called otherwise in the snapshot.
        replication_factor: On how many brokers of a live cluster each partition is to be; None for as many as it was on.
        force: Whether what the target holds and the snapshot has not is given up; topics of a live cluster are deleted and
            made anew. Not for a log.
        progress: As for `replicate`.
        **options: Of the client that reaches a live cluster, as for `KafkaAdminClient`.

    Raises:
        NotFoundError: Repository, snapshot or topic are not there.
        InvalidError: The target has records that the snapshot has not, a broker of this process has it open, or somebody
            else writes to a topic meanwhile.
        AlreadyExistsError: A live cluster has a topic of that name that holds something else.
        FencedError: Another process owns the target.
        CorruptError: Something in the repository is damaged; it says which offsets, and the rest is restored.
    """
    return _repository(repository).restore(
        target,
        snapshot,
        topics,
        at=at,
        partitions=partitions,
        rename=rename,
        replication_factor=replication_factor,
        force=force,
        progress=progress,
        **options,
    )


def verify(
    repository: Path | Repository,
    cluster: Source,
    snapshot: str = "latest",
    topics: str | Sequence[str] | None = None,
    *,
    rename: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[Verified, ...]:
    """Compare every record of a snapshot with what a cluster or a log has: offset, timestamp, key, value, headers.

    What is newer there is not looked at. Returns what was found of each partition; it is as the snapshot if `is_alike`.

    Args:
        repository: A `Repository`, or its directory or URL.
        cluster: As the source of `replicate`.
        snapshot: `latest`, or the first digits of a snapshot's id.
        topics: As for `replicate`; None for all that the snapshot has.
        rename: What topics are called there that are called otherwise in the snapshot.
        **options: Of the client, as for `KafkaAdminClient`.

    Raises:
        NotFoundError: Repository, snapshot or topic are not there.
        CorruptError: Something that was read is damaged.
    """
    return _repository(repository).verify(cluster, snapshot, topics, rename=rename, **options)


def snapshots(repository: Path | Repository) -> Snapshots:
    """Return the snapshots of a repository, oldest first.

    Raises:
        NotFoundError: There is no repository.
        CorruptError: A snapshot's manifest is damaged.
    """
    return _repository(repository).snapshots()


def check(repository: Path | Repository, read_data: bool | float = False) -> CheckReport:
    """Look whether a repository holds what its snapshots say. Changes nothing.

    Args:
        repository: A `Repository`, or its directory or URL.
        read_data: Read every object and verify each hash and checksum, or the share of them that is given, from 0 to 1; else
            only manifests, and that objects are there with their sizes.

    Raises:
        NotFoundError: There is no repository. What is wrong with one is in the report.
    """
    return _repository(repository).check(read_data)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a copy is."""

    partitions: int
    """Partitions that are done."""
    total_partitions: int
    """Partitions in all."""
    offsets: int
    """Offsets that are done."""
    total_offsets: int
    """Offsets that were to be copied when it began."""
    records: int
    """Records written."""
    bytes: int
    """Bytes written."""

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        return self.offsets / self.total_offsets if self.total_offsets else 1.0


@dataclass(frozen=True, slots=True)
class PartitionCopied:
    """What was copied of a partition."""

    topic: str
    """The topic."""
    partition: int
    """The partition's number."""
    extent: str
    """`full` if it was copied from the source's beginning, `incremental` if from where the target ended."""
    start: int
    """The first offset."""
    end: int
    """The offset after the last; equal to `start` where nothing was new."""
    batches: int
    """Record batches."""
    records: int
    """Records, by the batches' own count; transaction markers are among them."""
    bytes: int
    """Bytes of record batches."""
    hole: tuple[int, int] | None = None
    """The offsets, from and up to, that the source no longer had."""
    parted_at: int | None = None
    """The offset from which on the target held another history, which it has given up."""

    def _cells(self) -> tuple[str, ...]:
        return (
            self.topic,
            str(self.partition),
            self.extent,
            f"{self.start:,} → {self.end:,}",
            f"{self.records:,}",
            _size(self.bytes),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Copied:
    """What a copy did, partition by partition. Printed, it is a table."""

    partitions: tuple[PartitionCopied, ...]
    """Every partition, also those of which nothing was new."""

    @property
    def records(self) -> int:
        """Records copied."""
        return sum(partition.records for partition in self.partitions)

    @property
    def bytes(self) -> int:
        """Bytes copied."""
        return sum(partition.bytes for partition in self.partitions)

    @property
    def extent(self) -> str:
        """`incremental` if any partition was copied from where the target ended, else `full`."""
        return "incremental" if any(partition.extent == "incremental" for partition in self.partitions) else "full"

    def __repr__(self) -> str:
        return f"<Copied {self._summary()}>"

    def __str__(self) -> str:
        return f"{_COPIED.text(self._rows())}\n{self._summary()}"

    def _repr_html_(self) -> str:
        return _COPIED.html(self._rows(), self._summary())

    def _summary(self) -> str:
        records, where = _count(self.records, "record"), _count(len(self.partitions), "partition")
        return f"{self.extent}: {records}, {_size(self.bytes)} in {where}"

    def _rows(self) -> list[tuple[str, ...]]:
        return [partition._cells() for partition in self.partitions]


@dataclass(frozen=True, slots=True, repr=False)
class Restored:
    """What was restored. Printed, it is a table."""

    snapshot: str
    """The snapshot's id."""
    copied: Copied
    """What was written of each partition; nothing where the target had it."""
    groups: tuple[str, ...]
    """The groups whose committed offsets were written."""

    def __repr__(self) -> str:
        return f"<Restored {self._summary()}>"

    def __str__(self) -> str:
        return f"{_COPIED.text(self.copied._rows())}\n{self._summary()}"

    def _repr_html_(self) -> str:
        return _COPIED.html(self.copied._rows(), self._summary())

    def _summary(self) -> str:
        return f"snapshot {self.snapshot[:12]}, {self.copied._summary()}, {_count(len(self.groups), 'group')}"


@dataclass(frozen=True, slots=True)
class Verified:
    """How a partition compares with a snapshot."""

    partition: TopicPartition
    """Which, by its name at the cluster."""
    start: int
    """The first offset that both have."""
    end: int
    """The offset after the last that both have."""
    same: int
    """Records that are alike."""
    differing: int
    """Records that differ, or that only one has."""
    first: str | None
    """The first of those."""
    removed: int
    """Offsets that the cluster has removed since: they are below its log start."""
    lacking: int
    """Offsets of the snapshot at or above the cluster's end."""

    @property
    def is_alike(self) -> bool:
        """Whether the cluster has every record that the snapshot has, but for those it has removed itself."""
        return self.differing == 0 and self.lacking == 0


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """A snapshot of a repository. Printed, it is what `backup` read, or a line where it was listed."""

    id: str
    """Its name: the hash of its manifest, in hexadecimal digits. The first few are enough to name it."""
    time_ms: int
    """When the ends of the source's partitions were noted, in milliseconds since 1970."""
    extent: str
    """`full` if everything was read for it, `incremental` if only what was new."""
    parent: str | None
    """The id of the snapshot that it shares most with."""
    source: str
    """How the source was reached."""
    topics: int
    """Topics in it."""
    partitions: int
    """Partitions in it."""
    records: int
    """Records in it, by the batches' own count."""
    bytes: int
    """Bytes of record batches in it."""
    stored_bytes: int
    """Bytes of the objects it is made of."""
    new_records: int
    """Records that it does not share with an older snapshot."""
    new_bytes: int
    """Bytes of record batches that it does not share."""
    new_stored_bytes: int
    """Bytes of objects that it does not share: what it cost to store."""
    shared_bytes: int
    """Bytes of record batches that it shares with older snapshots."""
    duration_ms: int
    """How long it took to make."""
    notes: Sequence[str] = ()
    """What a person should know: a topic that was recreated, offsets the source no longer had."""
    copied: Copied | None = None
    """What `backup` read of each partition; None for a snapshot that was listed."""

    @property
    def time(self) -> datetime:
        """When the ends of the source's partitions were noted, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)

    def __repr__(self) -> str:
        return f"<Snapshot {self._summary()}>"

    def __str__(self) -> str:
        lines = [f"snapshot {self._summary()}", *self.notes]
        return "\n".join(lines if self.copied is None else [_COPIED.text(self.copied._rows()), *lines])

    def _repr_html_(self) -> str:
        if self.copied is None:
            return Snapshots((self,))._repr_html_()
        return _COPIED.html(self.copied._rows(), f"snapshot {self._summary()}", self.notes)

    def _summary(self) -> str:
        new, shared = _size(self.new_stored_bytes), _size(self.shared_bytes)
        return f"{self.id[:12]}, {self.extent}: {_count(self.records, 'record')}, {new} new, {shared} shared"

    def _cells(self) -> tuple[str, ...]:
        return (
            self.id[:12],
            f"{self.time:%Y-%m-%d %H:%M:%S}",
            self.extent,
            f"{self.topics:,}",
            f"{self.partitions:,}",
            f"{self.records:,}",
            f"{self.new_records:,}",
            _size(self.new_stored_bytes),
            _size(self.shared_bytes),
        )


class Snapshots(tuple[Snapshot, ...]):
    """The snapshots of a repository, oldest first. Printed, they are a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return _SNAPSHOTS.text([snapshot._cells() for snapshot in self])

    def _repr_html_(self) -> str:
        return _SNAPSHOTS.html([snapshot._cells() for snapshot in self], _count(len(self), "snapshot"))


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a repository."""

    message: str
    """What is wrong, and where."""
    snapshots: tuple[str, ...]
    """The ids of the snapshots in which it shows."""
    partition: TopicPartition | None
    """The partition, if it is about one."""
    offsets: tuple[int, int] | None
    """The offsets, from and up to, that cannot be restored, if it is about some."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` has found."""

    snapshots: int
    """Snapshots that were looked at."""
    manifests: int
    """Manifests that were read and verified."""
    objects: int
    """Objects that snapshots name."""
    stored_bytes: int
    """Their bytes as stored."""
    read_bytes: int
    """Of those, the bytes that were read and verified."""
    unreferenced: int
    """Objects and manifests that no snapshot names: left by backups that were interrupted."""
    unreferenced_bytes: int
    """Their bytes as stored."""
    problems: tuple[Problem, ...]
    """What is wrong."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def _repository(repository: Path | Repository) -> Repository:
    from ottla.repository import Repository

    return repository if isinstance(repository, Repository) else Repository(repository)


def _topics(topics: str | Sequence[str] | None) -> str | list[str] | None:
    """Return a choice of topics as the extension takes it."""
    return topics if topics is None or isinstance(topics, str) else list(topics)


def _reporter(progress: Report | None) -> Callable[..., object] | None:
    """Return what the extension calls with the fields of a `Progress`."""
    return None if progress is None else lambda *fields: progress(Progress(*fields))


def _partition(
    row: tuple[str, int, str, int, int, int, int, int, tuple[int, int] | None, int | None],
) -> PartitionCopied:
    return PartitionCopied(*row)


def _snapshot(row: dict[str, object], copied: tuple[PartitionCopied, ...]) -> Snapshot:
    return Snapshot(**row, copied=Copied(copied) if copied else None)  # type: ignore[arg-type]


def _count(number: int, what: str) -> str:
    """Return a number of things, one or several."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    """Return a number of bytes as people write it."""
    thousand = 1000
    if size < thousand:
        return f"{size:,} B"
    amount = size / thousand
    for unit in ("kB", "MB", "GB"):
        if round(amount, 1) < thousand:
            return f"{amount:.1f} {unit}"
        amount /= thousand
    return f"{amount:,.1f} TB"


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns by name; those that end with `>` hold numbers."""

    columns: tuple[str, ...]

    MOST = 40
    """How many rows are shown."""

    def text(self, rows: Sequence[Sequence[str]]) -> str:
        """Return rows for a terminal."""
        names = [column.rstrip(">") for column in self.columns]
        shown = [names, *rows[: self.MOST]]
        widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
        lines = ["  ".join(self._padded(cells, widths)).rstrip() for cells in shown]
        return "\n".join([*lines, *self._more(rows)])

    def html(self, rows: Sequence[Sequence[str]], summary: str, notes: Iterable[str] = ()) -> str:
        """Return rows for a notebook."""

        def line(kind: str, cells: Sequence[str]) -> str:
            aligned = ("right" if column.endswith(">") else "left" for column in self.columns)
            return "".join(
                f'<{kind} style="text-align:{side};font-variant-numeric:tabular-nums">{html.escape(cell)}</{kind}>'
                for side, cell in zip(aligned, cells, strict=True)
            )

        head = line("th", [column.rstrip(">") for column in self.columns])
        body = "".join(f"<tr>{line('td', cells)}</tr>" for cells in rows[: self.MOST])
        below = "".join(f"<div>{html.escape(note)}</div>" for note in (*self._more(rows), *notes))
        return (
            f"<div><div><b>{html.escape(summary)}</b></div>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
        )

    def _padded(self, cells: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
        for column, cell, width in zip(self.columns, cells, widths, strict=True):
            yield cell.rjust(width) if column.endswith(">") else cell.ljust(width)

    def _more(self, rows: Sequence[Sequence[str]]) -> list[str]:
        return [f"and {len(rows) - self.MOST:,} more"] if len(rows) > self.MOST else []


_COPIED = _Table(("topic", "partition>", "kind", "offsets>", "records>", "bytes>"))
_SNAPSHOTS = _Table(
    ("snapshot", "time (UTC)", "kind", "topics>", "partitions>", "records>", "new records>", "stored>", "shared>")
)
