"""Repositories of backups: snapshots of topics, encrypted, in a directory or a bucket.

    repository = ottla.Repository("s3://bucket/backup", passphrase_file="key")
    repository.backup("localhost:9092", progress=True)
    repository.snapshots()  # a table
    repository.restore("restored")

Everything that the command line can do with a repository is a method here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from typing import TYPE_CHECKING, Any

from ottla import _options, _ottla
from ottla.pipe import (
    CheckReport,
    Copied,
    Problem,
    Progress,
    Restored,
    Snapshot,
    Snapshots,
    Verified,
    _count,
    _partition,
    _reporter,
    _size,
    _snapshot,
    _Table,
    _topics,
)
from ottla.structs import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path as FilePath
    from typing import Literal

    from ottla.pipe import Path, Report, Source

__all__ = [
    "Contents",
    "Difference",
    "FoundRecord",
    "Key",
    "Keys",
    "PartitionContents",
    "Pruned",
    "Repository",
    "RestoredSample",
    "SnapshotFate",
    "SnapshotFates",
    "TopicDifference",
    "Transferred",
]


class Repository:
    """A repository, which may not be there yet: the first backup makes it.

    Args:
        url: A directory, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. Credentials of buckets are in
            the environment, as these services' own tools have them.
        passphrase: What opens it, or locks it when it is made.
        passphrase_file: A file whose first line is the passphrase.
        passphrase_command: A command of the shell whose output's first line is the passphrase.
        identity: A file, or several, with age identities that open it.
        encryption: False for a repository that is, or is made, without encryption.

    Where nothing opens it, the environment variable `OTTLA_PASSPHRASE` does, and then the key file that was written when the
    repository was made here. Without any of these a first backup writes such a file and says where it is (a warning of the
    logger `ottla`): who loses it loses the backup. Nothing is opened before a method is called.
    """

    def __init__(
        self,
        url: Path,
        *,
        passphrase: str | None = None,
        passphrase_file: Path | None = None,
        passphrase_command: str | None = None,
        identity: Path | Sequence[Path] | None = None,
        encryption: bool = True,
    ) -> None:
        identities = [] if identity is None else [identity] if isinstance(identity, str | PathLike) else list(identity)
        self.url = url
        self._row = (url, passphrase, passphrase_file, passphrase_command, identities, not encryption)

    def __repr__(self) -> str:
        return f"Repository({str(self.url)!r})"

    def init(self) -> FilePath | None:
        """Make the repository, and return the file that its key was written to if none was given.

        Raises:
            AlreadyExistsError: There is one.
            InvalidError: Something else is there.
        """
        _, _, key_file = _ottla.repository_init(self._row)
        return key_file

    def backup(
        self,
        source: Source,
        topics: str | Sequence[str] | None = None,
        full: bool = False,
        *,
        compression: Literal["none", "zstd"] = "none",
        progress: Report | bool | None = None,
        **options: Any,
    ) -> Snapshot:
        """Back up topics, their configurations, and what groups have committed; see `ottla.backup`.

        Args:
            source: As for `ottla.replicate`.
            topics: As for `ottla.replicate`.
            full: Read and store everything, whatever the repository has.
            compression: `zstd` stores objects compressed as a whole where that makes them smaller.
            progress: True draws a bar on standard error; a callable is called with a `Progress`.
            **options: As for `ottla.replicate`.
        """
        with _Shown(progress) as report:
            row, partitions = _ottla.backup(
                source, self._row, _topics(topics), full, compression, _reporter(report), _options.client(options)
            )
        return _snapshot(row, tuple(_partition(partition) for partition in partitions))

    def restore(
        self,
        target: Path,
        snapshot: str = "latest",
        topics: str | Sequence[str] | None = None,
        *,
        at: datetime | int | None = None,
        partitions: Sequence[str] = (),
        rename: Mapping[str, str] | None = None,
        replication_factor: int | None = None,
        force: bool = False,
        progress: Report | bool | None = None,
        **options: Any,
    ) -> Restored:
        """Restore a snapshot at its offsets, and what groups had committed; see `ottla.restore`."""
        request = {
            "at_ms": int(at.timestamp() * 1000) if isinstance(at, datetime) else at,
            "partitions": list(partitions),
            "rename": dict(rename or {}),
            "replication_factor": replication_factor,
            "force": force,
        }
        client = _options.client(options)
        with _Shown(progress) as report:
            name, rows, groups = _ottla.restore(
                self._row, target, snapshot, _topics(topics), request, _reporter(report), client
            )
        return Restored(name, Copied(tuple(_partition(row) for row in rows)), tuple(groups))

    def verify(
        self,
        cluster: Source,
        snapshot: str = "latest",
        topics: str | Sequence[str] | None = None,
        *,
        rename: Mapping[str, str] | None = None,
        **options: Any,
    ) -> tuple[Verified, ...]:
        """Compare every record of a snapshot with what a cluster or a log has; see `ottla.verify`."""
        client = _options.client(options)
        rows = _ottla.verify(self._row, cluster, snapshot, _topics(topics), dict(rename or {}), client)
        return tuple(Verified(TopicPartition(row[0], row[1]), *row[2:]) for row in rows)

    def snapshots(self) -> Snapshots:
        """Return the snapshots, oldest first."""
        return Snapshots(_snapshot(row, ()) for row in _ottla.snapshots(self._row))

    def check(self, read_data: bool | float = False) -> CheckReport:
        """Look whether the repository holds what its snapshots say. Changes nothing.

        Args:
            read_data: True reads every object and verifies each hash and checksum; a share from 0 to 1 so many of them, others
                each time; False only manifests, and that objects are there with their sizes.
        """
        row = _ottla.check(self._row, float(read_data))
        row["problems"] = tuple(
            Problem(message, tuple(names), None if at is None else TopicPartition(*at), offsets)
            for message, names, at, offsets in row["problems"]
        )
        return CheckReport(**row)

    def restore_sample(self, max_bytes: int = 64 << 20) -> RestoredSample:
        """Restore some topics of the newest snapshot into memory and compare every batch.

        Args:
            max_bytes: How many bytes of record batches, but one topic at least.
        """
        topics, partitions, size, differing = _ottla.repository_restore_sample(self._row, max_bytes)
        return RestoredSample(tuple(topics), partitions, size, tuple(differing))

    def ls(self, snapshot: str = "latest", topics: str | Sequence[str] | None = None) -> Contents:
        """Return what is in a snapshot, partition by partition."""
        rows = _ottla.repository_ls(self._row, snapshot, _topics(topics))
        return Contents(PartitionContents(*row) for row in rows)

    def diff(self, before: str, after: str = "latest") -> Difference:
        """Return what is other in the snapshot `after` than in `before`."""
        topics, offsets = _ottla.repository_diff(self._row, before, after)
        return Difference(
            tuple(TopicDifference(name, change, tuple(config), tuple(parts)) for name, change, config, parts in topics),
            tuple((group, TopicPartition(topic, number), was, now) for group, topic, number, was, now in offsets),
        )

    def find(
        self, key: bytes, snapshot: str = "latest", topics: str | Sequence[str] | None = None
    ) -> list[FoundRecord]:
        """Return the records with a key. Reads every object of the topics."""
        return [FoundRecord(*row) for row in _ottla.repository_find(self._row, key, snapshot, _topics(topics))]

    def forget(
        self,
        *snapshots: str,
        keep_last: int = 0,
        keep_hourly: int = 0,
        keep_daily: int = 0,
        keep_weekly: int = 0,
        keep_monthly: int = 0,
        keep_yearly: int = 0,
        keep_within: timedelta | None = None,
        dry_run: bool = False,
    ) -> SnapshotFates:
        """Remove snapshots: those that are named, or those that no rule keeps.

        The rules are restic's and apply to each source and choice of topics apart: the newest of each of the last so many
        periods (UTC, weeks from Monday) that have any stays.

        Args:
            *snapshots: The first digits of their ids; then no rule may be given.
            keep_last: The newest so many stay.
            keep_hourly: One for each hour.
            keep_daily: One for each day.
            keep_weekly: One for each week.
            keep_monthly: One for each month.
            keep_yearly: One for each year.
            keep_within: All that are no older than the newest by more stay.
            dry_run: Remove nothing.

        Raises:
            InvalidError: Nothing was given, or names and rules.
        """
        within = 0 if keep_within is None else int(keep_within.total_seconds() * 1000)
        rules = (keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, within)
        if snapshots and any(rules):
            raise ValueError("either snapshots are named, or rules are given")
        rows = _ottla.repository_forget(self._row, list(snapshots), rules, dry_run)
        return SnapshotFates(SnapshotFate(_snapshot(row, ()), tuple(kept_by)) for row, kept_by in rows)

    def prune(self, grace: timedelta | None = None, *, dry_run: bool = False) -> Pruned:
        """Remove what no snapshot needs, in two runs: one marks it, one after the grace period removes it.

        Args:
            grace: How long marked objects stay: longer than any backup takes; a day if None. Zero removes at once, which is
                right only while no backup runs.
            dry_run: Change nothing.
        """
        grace_ms = 86_400_000 if grace is None else int(grace.total_seconds() * 1000)
        return Pruned(**_ottla.repository_prune(self._row, grace_ms, dry_run))

    def copy(self, target: Repository, *snapshots: str) -> Transferred:
        """Copy snapshots, all if none is named, to another repository, which is made when missing."""
        pairs, present, objects, size = _ottla.repository_copy(self._row, target._row, list(snapshots))
        return Transferred(tuple(pairs), present, objects, size)

    def keys(self) -> Keys:
        """Return who can open the repository."""
        return Keys(Key(*row) for row in _ottla.repository_keys(self._row))

    def add_key(
        self,
        *,
        recipient: str | None = None,
        passphrase: str | None = None,
        key_file: Path | None = None,
        access: Literal["full", "write"] = "full",
        label: str = "",
    ) -> Key:
        """Let another in; one of the first three is given.

        Args:
            recipient: An age recipient, `age1...`.
            passphrase: A passphrase.
            key_file: A file that is written with a new passphrase.
            access: `write` for who backs up and may not read records.
            label: Whose it is; everybody who has the repository can read this.
        """
        return Key(*_ottla.repository_add_key(self._row, recipient, passphrase, key_file, access, label))

    def remove_key(self, key: str) -> None:
        """Remove a key, by the first digits of its name. `rotate` shuts out who may know the repository's secrets."""
        _ottla.repository_remove_key(self._row, key)

    def rotate(self, *, recipients: Sequence[str] = (), write_recipients: Sequence[str] = ()) -> int:
        """Seal what is written from now on with new secrets, and return how many generations of them there are.

        Args:
            recipients: The age recipients that go on to read and write, but for one's own. Whoever writes to the store can put
                keys there, so those that are not named are refused.
            write_recipients: Those that go on to write.
        """
        return _ottla.repository_rotate(self._row, list(recipients), list(write_recipients))


class _Shown:
    """Progress as a caller wants it: a bar on standard error, a call, or nothing."""

    WIDTH = 30

    def __init__(self, progress: Report | bool | None) -> None:
        self._progress = progress
        self._is_drawn = False

    def __enter__(self) -> Report | None:
        if self._progress is True:
            return self._draw
        return self._progress or None

    def __exit__(self, *_: object) -> None:
        if self._is_drawn:
            sys.stderr.write("\n")

    def _draw(self, progress: Progress) -> None:
        done = int(progress.share * self.WIDTH)
        bar = "#" * done + "." * (self.WIDTH - done)
        records, size = _count(progress.records, "record"), _size(progress.bytes)
        sys.stderr.write(f"\r{bar} {progress.share:4.0%}  {records}, {size} ")
        sys.stderr.flush()
        self._is_drawn = True


@dataclass(frozen=True, slots=True)
class PartitionContents:
    """A partition of a snapshot."""

    topic: str
    """The topic."""
    partition: int
    """Its number."""
    start: int
    """The log start offset."""
    end: int
    """The first offset that is not in the snapshot."""
    records: int
    """Records, by the batches' own count."""
    bytes: int
    """Bytes of record batches."""
    stored_bytes: int
    """Bytes of the objects as stored."""
    objects: int
    """Objects."""


class Contents(tuple[PartitionContents, ...]):
    """What is in a snapshot. Printed, it is a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return _CONTENTS.text(self._rows())

    def _repr_html_(self) -> str:
        records = sum(partition.records for partition in self)
        return _CONTENTS.html(self._rows(), f"{_count(len(self), 'partition')}, {_count(records, 'record')}")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                p.topic,
                str(p.partition),
                f"{p.start:,}",
                f"{p.end:,}",
                f"{p.records:,}",
                _size(p.bytes),
                f"{p.objects:,}",
            )
            for p in self
        ]


@dataclass(frozen=True, slots=True)
class TopicDifference:
    """How a topic differs between two snapshots."""

    topic: str
    """Its name."""
    change: str
    """`added`, `removed`, `recreated` (it has another id) or `changed`."""
    config: tuple[tuple[str, str | None, str | None], ...]
    """Options: the name, the value before, the value after; None for what was not set."""
    partitions: tuple[tuple[int, tuple[int, int] | None, tuple[int, int] | None, int, int], ...]
    """Partitions: the number, the offsets before and after, how many records and bytes there are more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How two snapshots differ. Printed, it is a table."""

    topics: tuple[TopicDifference, ...]
    """Topics that differ."""
    offsets: tuple[tuple[str, TopicPartition, int | None, int | None], ...]
    """Committed offsets that differ: the group, the partition, the offset before and after."""

    def __bool__(self) -> bool:
        return bool(self.topics or self.offsets)

    def __str__(self) -> str:
        return _DIFFERENCE.text(self._rows())

    def _repr_html_(self) -> str:
        return _DIFFERENCE.html(self._rows(), _count(len(self.topics), "topic"))

    def _rows(self) -> list[tuple[str, ...]]:
        def shown(value: object) -> str:
            if isinstance(value, tuple):
                return f"{value[0]:,}..{value[1]:,}"
            return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

        rows: list[tuple[str, ...]] = []
        for topic in self.topics:
            if topic.change != "changed":
                rows.append((topic.topic, topic.change, "", ""))
            rows += [(topic.topic, name, shown(was), shown(now)) for name, was, now in topic.config]
            rows += [
                (f"{topic.topic}-{part[0]}", "offsets", shown(part[1]), shown(part[2])) for part in topic.partitions
            ]
        for group, at, was, now in self.offsets:
            rows.append((f"{at.topic}-{at.partition}", f"group {group}", shown(was), shown(now)))
        return rows


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record that `find` has found."""

    topic: str
    """The topic."""
    partition: int
    """The partition's number."""
    offset: int
    """Its offset."""
    timestamp: int
    """Its timestamp, in milliseconds since 1970."""
    value: bytes | None = field(repr=False)
    """Its value."""


@dataclass(frozen=True, slots=True)
class SnapshotFate:
    """What becomes, or became, of a snapshot."""

    snapshot: Snapshot
    """The snapshot."""
    kept_by: tuple[str, ...]
    """The rules that keep it; it goes if there are none."""

    @property
    def is_kept(self) -> bool:
        """Whether it stays."""
        return bool(self.kept_by)


class SnapshotFates(tuple[SnapshotFate, ...]):
    """What `forget` does with each snapshot, oldest first. Printed, they are a table."""

    __slots__ = ()

    @property
    def removed(self) -> tuple[Snapshot, ...]:
        """The snapshots that go."""
        return tuple(fate.snapshot for fate in self if not fate.is_kept)

    def __str__(self) -> str:
        return _FATES.text(self._rows())

    def _repr_html_(self) -> str:
        kept = len(self) - len(self.removed)
        return _FATES.html(self._rows(), f"{_count(len(self.removed), 'snapshot')} removed, {kept} kept")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                "keep" if fate.is_kept else "remove",
                fate.snapshot.id[:12],
                f"{fate.snapshot.time:%Y-%m-%d %H:%M:%S}",
                f"{fate.snapshot.records:,}",
                ", ".join(fate.kept_by),
            )
            for fate in self
        ]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` has done, or would do."""

    removed: int
    """Objects and manifests that were removed."""
    removed_bytes: int
    """Their bytes as stored."""
    marked: int
    """Those that wait to be removed."""
    marked_bytes: int
    """Their bytes as stored."""
    due_ms: int | None
    """When the last of the marked ones may be removed, in milliseconds since 1970."""
    kept: int
    """Those that are needed."""
    kept_bytes: int
    """Their bytes as stored."""

    @property
    def due(self) -> datetime | None:
        """When the last of the marked ones may be removed, in UTC."""
        return None if self.due_ms is None else datetime.fromtimestamp(self.due_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Transferred:
    """What `copy` has copied."""

    snapshots: tuple[tuple[str, str], ...]
    """The id of each snapshot here, and there."""
    present: int
    """How many were there already."""
    objects: int
    """Objects that were copied."""
    stored_bytes: int
    """Their bytes as stored there."""


@dataclass(frozen=True, slots=True)
class RestoredSample:
    """What `restore_sample` has restored and compared."""

    topics: tuple[str, ...]
    """Topics."""
    partitions: int
    """Their partitions."""
    bytes: int
    """Bytes of record batches."""
    differing: tuple[str, ...]
    """Partitions whose batches came back otherwise."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who can open a repository."""

    name: str
    """The key's name; the first digits are enough."""
    created_ms: int
    """When it was made, in milliseconds since 1970."""
    recipient: str | None
    """The age recipient that it is for; None for a passphrase."""
    access: str
    """`full` or `write`."""
    label: str
    """Whose it is."""
    is_used: bool
    """Whether this key opened the repository now."""

    @property
    def created(self) -> datetime:
        """When it was made, in UTC."""
        return datetime.fromtimestamp(self.created_ms / 1000, UTC)


class Keys(tuple[Key, ...]):
    """The keys of a repository. Printed, they are a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return _KEYS.text(self._rows())

    def _repr_html_(self) -> str:
        return _KEYS.html(self._rows(), _count(len(self), "key"))

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                key.name[:8],
                f"{key.created:%Y-%m-%d %H:%M:%S}",
                key.recipient or "passphrase",
                key.access,
                key.label,
                "used now" if key.is_used else "",
            )
            for key in self
        ]


_CONTENTS = _Table(("topic", "partition>", "start>", "end>", "records>", "size>", "objects>"))
_DIFFERENCE = _Table(("of", "what", "before>", "after>"))
_FATES = _Table(("", "snapshot", "time (UTC)", "records>", "kept by"))
_KEYS = _Table(("key", "made (UTC)", "opened by", "access", "label", ""))
