"""The admin client.

Answers are plain dictionaries and lists, as in kafka-python 3. The core does the asking: leaders, controllers and
coordinators are found, and found again when they move.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ottla import _clients, _options, _ottla
from ottla.admin._resources import (
    AlterConfigOp,
    ConfigFilterType,
    ConfigResource,
    ConfigResourceType,
    ConfigSourceType,
    ConfigType,
    GroupState,
    GroupType,
    NewPartitions,
    NewTopic,
)
from ottla.errors import BrokerResponseError, ClosedError, NoError
from ottla.protocol.consumer import IsolationLevel, OffsetSpec, OffsetTimestamp
from ottla.structs import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from types import TracebackType

    from ottla.admin._resources import MemberToRemove

__all__ = ["KafkaAdminClient"]

Fault = BaseException | None
ErrorClass = type[BrokerResponseError]
Offsets = dict[TopicPartition, OffsetAndMetadata]
Target = OffsetSpec | OffsetTimestamp | int

_NO_CODE = -1


class KafkaAdminClient(_ottla.Admin):
    """Administers a cluster: topics, partitions, configurations, groups, committed offsets.

    Args:
        **configs: Options by kafka-python's names: `DEFAULT_CONFIG` has them all with their defaults.
            `bootstrap_servers` also takes `memory:` or `memory:NAME`, and a directory such as `./data`, for a broker
            inside this process.

    Raises:
        KafkaConfigurationError: An option is unknown or has a wrong value.
        NoBrokersAvailable: No broker answered; the message says which were tried.
    """

    DEFAULT_CONFIG: ClassVar[dict[str, Any]] = _options.ADMIN

    config: dict[str, Any]
    """The options in force."""

    def __init__(self, **configs: Any) -> None:
        self.config = _options.admin(configs)
        self._closed = False
        options = _options.for_core(self.config, configs, self.DEFAULT_CONFIG)
        _clients.opening(options["bootstrap_servers"])
        self._open(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close. Closing twice does no harm."""
        self._closed = True
        self._close()

    def _timeout(self, timeout_ms: float | None = None) -> float:
        if self._closed:
            raise ClosedError("the admin client is closed")
        return float(timeout_ms or self.config["request_timeout_ms"])

    # Topics

    def create_topics(
        self,
        new_topics: Sequence[str] | Sequence[NewTopic] | Mapping[str, Mapping[str, Any]],
        timeout_ms: float | None = None,
        validate_only: bool = False,
        raise_errors: bool = True,
        wait_for_metadata: bool = False,
    ) -> dict[str, list[dict[str, Any]]]:
        """Create topics.

        Args:
            new_topics: Names; or `NewTopic`s; or for each name `num_partitions`, `replication_factor`, `assignments`,
                `configs`. What is left out is the broker's choice.
            timeout_ms: How long it may take.
            validate_only: Only say whether it could be done.
            raise_errors: Raise the first error, in place of returning all.
            wait_for_metadata: Return when the topics can be written to.

        Returns:
            Under `topics`, for each topic its `name`, `error_code` and `error_message`.
        """
        if validate_only and wait_for_metadata:
            raise ValueError("with validate_only there is nothing to wait for")
        timeout = self._timeout(timeout_ms)
        topics = [_new_topic(topic) for topic in _named(new_topics)]
        if not topics:
            raise ValueError(f"there are no topics in new_topics: {new_topics!r}")
        rows = self._create_topics(topics, validate_only, timeout)
        result = {"topics": _rows(rows, raise_errors=raise_errors)}
        if wait_for_metadata:
            self.wait_for_topics([topic[0] for topic in topics])
        return result

    def delete_topics(
        self, topics: Sequence[str], timeout_ms: float | None = None, raise_errors: bool = True
    ) -> dict[str, list[dict[str, Any]]]:
        """Delete topics and all that is in them.

        Returns:
            Under `topics`, for each topic its `name`, `error_code` and `error_message`.
        """
        rows = self._delete_topics(list(topics), self._timeout(timeout_ms))
        return {"topics": _rows(rows, raise_errors=raise_errors)}

    def list_topics(self) -> list[str]:
        """Return the names of all topics that this user may see."""
        return [name for name, _, _ in self._describe_topics(None, self._timeout())]

    def describe_topics(self, topics: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return these topics, or all, each with its partitions, their leaders and replicas."""
        rows = self._describe_topics(None if topics is None else list(topics), self._timeout())
        return [_topic_dict(name, fault, row) for name, fault, row in rows]

    def wait_for_topics(self, topic_names: Sequence[str], timeout_ms: float = 10_000) -> None:
        """Wait until the brokers know these topics and all their partitions have leaders.

        Raises:
            KafkaTimeoutError: It took longer.
        """
        self._timeout()
        if topic_names:
            self._wait_for_topics(list(topic_names), float(timeout_ms))

    # Partitions

    def create_partitions(
        self,
        topic_partitions: Mapping[str, int | Mapping[str, Any] | NewPartitions],
        timeout_ms: float | None = None,
        validate_only: bool = False,
        raise_errors: bool = True,
    ) -> dict[str, list[dict[str, Any]]]:
        """Give topics more partitions.

        Args:
            topic_partitions: For each topic how many it shall have; or `count` and `assignments`; or a `NewPartitions`.
            timeout_ms: How long it may take.
            validate_only: Only say whether it could be done.
            raise_errors: Raise the first error, in place of returning all.

        Returns:
            Under `results`, for each topic its `name`, `error_code` and `error_message`.
        """
        wanted = {topic: _new_partitions(count) for topic, count in topic_partitions.items()}
        rows = self._create_partitions(wanted, validate_only, self._timeout(timeout_ms))
        return {"results": _rows(rows, raise_errors=raise_errors)}

    def delete_records(
        self,
        records_to_delete: Mapping[TopicPartition, int],
        timeout_ms: float | None = None,
        partition_leader_id: int | None = None,
    ) -> dict[TopicPartition, dict[str, Any]]:
        """Delete what is below an offset of each partition; -1 is all there is.

        Returns:
            For each partition its `low_watermark`: the first offset that is still there.
        """
        del partition_leader_id  # the core asks the leaders
        rows = self._delete_records(list(records_to_delete.items()), self._timeout(timeout_ms))
        found = {}
        for place, fault, low in rows:
            _raise(fault)
            partition = TopicPartition(*place)
            found[partition] = {"partition_index": partition.partition, "low_watermark": low, "error_code": 0}
        return found

    def list_partition_offsets(
        self,
        topic_partition_specs: Mapping[TopicPartition, Target],
        isolation_level: IsolationLevel | str | int = IsolationLevel.READ_UNCOMMITTED,
        timeout_ms: float | None = None,
    ) -> dict[TopicPartition, OffsetAndTimestamp]:
        """Return an offset of each partition.

        Args:
            topic_partition_specs: An `OffsetSpec`, or a time in milliseconds since 1970.
            isolation_level: With READ_COMMITTED the end is before the first open transaction.
            timeout_ms: How long it may take.
        """
        committed = IsolationLevel.build_from(isolation_level) is IsolationLevel.READ_COMMITTED
        wanted = [(partition, int(spec)) for partition, spec in topic_partition_specs.items()]
        found = {}
        for place, fault, at in self._list_offsets(wanted, committed, self._timeout(timeout_ms)):
            _raise(fault)
            if at is not None:
                found[TopicPartition(*place)] = OffsetAndTimestamp(*at)
        return found

    # Configurations

    def describe_configs(
        self,
        config_resources: Sequence[ConfigResource],
        include_synonyms: bool = False,
        config_filter: ConfigFilterType | str = "modified",
    ) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
        """Return configurations: kind of resource, its name, the option's name, what is known of it.

        Args:
            config_resources: All lines of each, or those named in its `configs`.
            include_synonyms: Has no meaning here; there are none in the answer.
            config_filter: `all`, `dynamic`, `modified`, `default` or `static`.
        """
        del include_synonyms
        wanted = ConfigFilterType.build_from(config_filter)
        found: dict[str, dict[str, dict[str, dict[str, Any]]]] = defaultdict(dict)
        for (kind, name), entries in self._configs(config_resources).items():
            kept = {
                option: entry
                for option, entry in entries.items()
                if wanted.keeps(ConfigSourceType[entry["config_source"]], read_only=entry["read_only"])
            }
            found[ConfigResourceType(kind).name.lower()][name] = kept
        return dict(found)

    def _configs(self, resources: Iterable[ConfigResource]) -> dict[tuple[int, str], dict[str, dict[str, Any]]]:
        wanted = [
            (int(resource.resource_type), str(resource.name), list(resource.configs) if resource.configs else None)
            for resource in resources
        ]
        found = {}
        for kind, name, fault, rows in self._describe_configs(wanted, self._timeout()):
            _raise(fault)
            found[(kind, name)] = {
                option: {
                    "value": value,
                    "read_only": read_only,
                    "is_sensitive": sensitive,
                    "config_source": ConfigSourceType(source).name,
                    "config_type": ConfigType(type_).name,
                    "documentation": documentation,
                }
                for option, value, read_only, sensitive, source, type_, documentation in rows
            }
        return found

    def alter_configs(
        self,
        config_resources: Sequence[ConfigResource],
        validate_only: bool = False,
        raise_on_unknown: bool = True,
        incremental: bool | None = None,
    ) -> dict[str, dict[str, str]]:
        """Change lines of configurations; the others stay.

        Args:
            config_resources: With `configs` as `{name: value}` or `{name: (AlterConfigOp, value)}`.
            validate_only: Only say whether it could be done.
            raise_on_unknown: Raise ValueError for a name that the resource has not.
            incremental: Has no meaning here: it always is, also on brokers that cannot.

        Returns:
            Kind of resource, its name, and `OK` or the error.
        """
        del incremental
        if raise_on_unknown:
            self._check_known(config_resources)
        changes = [
            (int(resource.resource_type), str(resource.name), _changes(resource.configs))
            for resource in config_resources
        ]
        return self._alter(changes, validate_only=validate_only)

    def reset_configs(
        self,
        config_resources: Sequence[ConfigResource],
        validate_only: bool = False,
        raise_on_unknown: bool = True,
        incremental: bool | None = None,
    ) -> dict[str, dict[str, str]]:
        """Set lines of configurations back to their defaults: those named in `configs`, or all that were changed."""
        del incremental
        if raise_on_unknown:
            self._check_known(config_resources)
        changes = []
        for resource in config_resources:
            names = list(resource.configs or ())
            if not names:
                modified = self.describe_configs([ConfigResource(resource.resource_type, resource.name)])
                names = list(modified[resource.resource_type.name.lower()][resource.name])
            deletions = dict.fromkeys(names, (int(AlterConfigOp.DELETE), ""))
            changes.append((int(resource.resource_type), str(resource.name), deletions))
        return self._alter(changes, validate_only=validate_only)

    def _check_known(self, resources: Sequence[ConfigResource]) -> None:
        named = [resource for resource in resources if resource.configs]
        if not named:
            return
        known = self._configs([ConfigResource(resource.resource_type, resource.name) for resource in named])
        for resource in named:
            unknown = set(resource.configs) - set(known[(int(resource.resource_type), str(resource.name))])
            if unknown:
                raise ValueError(f"{resource.name} has no such options: {', '.join(sorted(unknown))}")

    def _alter(
        self, changes: list[tuple[int, str, dict[str, tuple[int, str]]]], *, validate_only: bool
    ) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for kind, name, fault in self._alter_configs(changes, validate_only, self._timeout()):
            found[ConfigResourceType(kind).name.lower()][name] = "OK" if fault is None else str(fault)
        return dict(found)

    # Groups

    def list_groups(
        self,
        broker_ids: Collection[int] | None = None,
        states_filter: Collection[GroupState | str] | None = None,
        types_filter: Collection[GroupType | str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the groups of all brokers.

        Args:
            broker_ids: Has no meaning here: all are asked.
            states_filter: Only groups in one of these states.
            types_filter: Only groups of one of these types.
        """
        del broker_ids
        states = {GroupState.value_for(state) for state in states_filter or ()}
        types = {GroupType.value_for(kind) for kind in types_filter or ()}
        found = []
        for group, protocol_type, state, kind in self._list_groups(self._timeout()):
            if (states and state not in states) or (types and kind not in types):
                continue
            found.append({"group_id": group, "protocol_type": protocol_type, "group_state": state, "group_type": kind})
        return found

    def describe_groups(
        self,
        group_ids: Sequence[str],
        group_coordinator_id: int | None = None,
        include_authorized_operations: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """Return each group's state and members with their partitions; `error` says why it could not be told."""
        del group_coordinator_id, include_authorized_operations
        rows = self._describe_groups(list(group_ids), self._timeout())
        return {group: _group_dict(group, fault, row) for group, fault, row in rows}

    def delete_groups(self, group_ids: Sequence[str], group_coordinator_id: int | None = None) -> dict[str, str]:
        """Delete groups without members, and what they have committed.

        Returns:
            For each group `OK`, or the name of the error.
        """
        del group_coordinator_id
        rows = self._delete_groups(list(group_ids), self._timeout())
        return {group: "OK" if fault is None else type(fault).__name__ for group, fault in rows}

    def list_group_offsets(
        self, group_specs: str | Sequence[str] | Mapping[str, Sequence[TopicPartition] | None]
    ) -> dict[str, Offsets]:
        """Return what groups have committed.

        Args:
            group_specs: A group; or some; or for each group its partitions, None for all.
        """
        if isinstance(group_specs, str):
            group_specs = [group_specs]
        specs = group_specs if not isinstance(group_specs, list | tuple) else dict.fromkeys(group_specs)
        if not specs:
            raise ValueError("there are no groups in group_specs")
        return {group: self._group_offsets(group, partitions) for group, partitions in specs.items()}  # type: ignore[union-attr]

    def _group_offsets(self, group: str, partitions: Sequence[TopicPartition] | None) -> Offsets:
        wanted = None if partitions is None else list(partitions)
        rows = self._list_group_offsets(group, wanted, self._timeout())
        return {TopicPartition(*place): OffsetAndMetadata(*committed) for place, committed in rows}

    def alter_group_offsets(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        group_coordinator_id: int | None = None,
    ) -> dict[TopicPartition, ErrorClass]:
        """Commit offsets for a group that has no members.

        Returns:
            For each partition the error's class, `NoError` if there is none.
        """
        del group_coordinator_id
        if not offsets:
            return {}
        rows = [
            (
                partition,
                given.offset or 0,
                given.metadata or "",
                _NO_CODE if given.leader_epoch is None else given.leader_epoch,
            )
            for partition, given in offsets.items()
        ]
        found = self._alter_group_offsets(group_id, rows, self._timeout())
        return {TopicPartition(*place): _error_class(fault) for place, fault in found}

    def reset_group_offsets(
        self, group_id: str, offset_specs: Mapping[TopicPartition, Target], group_coordinator_id: int | None = None
    ) -> dict[TopicPartition, dict[str, Any]]:
        """Set a group's offsets to an end, a time, or a number, within what the log has.

        Returns:
            For each partition its `offset`, and `error`: the error's class, `NoError` if there is none.
        """
        del group_coordinator_id
        if not offset_specs:
            return {}
        asked: dict[TopicPartition, Target] = {}
        for partition, target in offset_specs.items():
            if isinstance(target, OffsetSpec | OffsetTimestamp):
                asked[partition] = target
            elif not isinstance(target, int):
                raise TypeError(f"an offset is an OffsetSpec, an OffsetTimestamp or a number: {target!r}")
        committed = self._group_offsets(group_id, list(offset_specs))
        first = self.list_partition_offsets(dict.fromkeys(offset_specs, OffsetSpec.EARLIEST))
        last = self.list_partition_offsets(dict.fromkeys(offset_specs, OffsetSpec.LATEST))
        found = self.list_partition_offsets(asked) if asked else {}
        wanted: Offsets = {}
        for partition, target in offset_specs.items():
            offset = found[partition].offset if partition in asked else int(target)
            end = last[partition].offset
            offset = end if offset < 0 else min(max(offset, first[partition].offset), end)
            wanted[partition] = OffsetAndMetadata(offset, committed.get(partition, OffsetAndMetadata()).metadata)
        errors = self.alter_group_offsets(group_id, wanted)
        return {partition: {"error": error, "offset": wanted[partition].offset} for partition, error in errors.items()}

    def delete_group_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition], group_coordinator_id: int | None = None
    ) -> dict[TopicPartition, ErrorClass]:
        """Forget what a group has committed for partitions that it does not read.

        Returns:
            For each partition the error's class, `NoError` if there is none.
        """
        del group_coordinator_id
        if not partitions:
            return {}
        found = self._delete_group_offsets(group_id, list(partitions), self._timeout())
        return {TopicPartition(*place): _error_class(fault) for place, fault in found}

    def remove_group_members(
        self, group_id: str, members: Sequence[MemberToRemove], group_coordinator_id: int | None = None
    ) -> dict[str, ErrorClass]:
        """Put members out of a group: static ones by their own names, others by their ids.

        Returns:
            For each member's name or id the error's class, `NoError` if there is none.
        """
        del group_coordinator_id
        wanted = [(member.member_id or "", member.group_instance_id) for member in members]
        rows = self._remove_members(group_id, wanted, self._timeout())
        return {member: _error_class(fault) for member, fault in rows}

    # The cluster

    def describe_cluster(self) -> dict[str, Any]:
        """Return the cluster's id, its brokers, and which of them is the controller."""
        cluster_id, controller_id, brokers = self._describe_cluster(self._timeout())
        return {
            "cluster_id": cluster_id,
            "controller_id": controller_id,
            "brokers": [
                {"broker_id": node, "host": host, "port": port, "rack": rack} for node, host, port, rack in brokers
            ],
        }

    # Names of kafka-python 2, where the answer could stay what it was

    def list_consumer_groups(self, broker_ids: Collection[int] | None = None) -> list[tuple[str, str]]:
        """Return group and protocol type of each group (kafka-python 2)."""
        return [(group["group_id"], group["protocol_type"]) for group in self.list_groups(broker_ids)]

    def list_consumer_group_offsets(
        self,
        group_id: str,
        group_coordinator_id: int | None = None,
        partitions: Sequence[TopicPartition] | None = None,
    ) -> Offsets:
        """Return what a group has committed (kafka-python 2)."""
        del group_coordinator_id
        return self._group_offsets(group_id, partitions)

    def delete_consumer_groups(
        self, group_ids: Sequence[str], group_coordinator_id: int | None = None
    ) -> list[tuple[str, ErrorClass]]:
        """Delete groups, and return each with its error's class (kafka-python 2)."""
        del group_coordinator_id
        rows = self._delete_groups(list(group_ids), self._timeout())
        return [(group, _error_class(fault)) for group, fault in rows]


def _raise(fault: Fault) -> None:
    if fault is not None:
        raise fault


def _code(fault: Fault) -> int:
    if fault is None:
        return 0
    return getattr(fault, "errno", None) or _NO_CODE


def _error_class(fault: Fault) -> ErrorClass:
    if fault is None:
        return NoError
    if not isinstance(fault, BrokerResponseError):
        raise fault
    return type(fault)


def _text(fault: Fault) -> str | None:
    return None if fault is None else str(fault.args[0] if fault.args else fault)


def _rows(rows: Iterable[tuple[str, Fault]], *, raise_errors: bool) -> list[dict[str, Any]]:
    found = []
    for name, fault in rows:
        if raise_errors:
            _raise(fault)
        found.append({"name": name, "error_code": _code(fault), "error_message": _text(fault)})
    return found


NewTopicRow = tuple[str, int | None, int | None, dict[int, list[int]] | None, dict[str, str]]


def _named(given: Any) -> Iterable[NewTopic]:
    if isinstance(given, dict):
        for name, facts in given.items():
            yield NewTopic(
                name,
                facts.get("num_partitions", -1),
                facts.get("replication_factor", -1),
                facts.get("assignments"),
                facts.get("configs"),
            )
        return
    if isinstance(given, str):
        raise TypeError(f"new_topics is a list of topics: {given!r}")
    for topic in given:
        if isinstance(topic, str):
            yield NewTopic(topic)
        elif isinstance(topic, NewTopic):
            yield topic
        else:
            raise TypeError(f"a topic to create is a name or a NewTopic: {topic!r}")


def _new_topic(topic: NewTopic) -> NewTopicRow:
    assignments = {number: list(brokers) for number, brokers in topic.replica_assignments.items()}
    return (
        topic.name,
        topic.num_partitions if topic.num_partitions >= 0 else None,
        topic.replication_factor if topic.replication_factor >= 0 else None,
        assignments or None,
        {name: _value(value) for name, value in topic.topic_configs.items()},
    )


def _new_partitions(given: Any) -> tuple[int, list[list[int]] | None]:
    if isinstance(given, int):
        return given, None
    if isinstance(given, NewPartitions):
        count, assignments = given.total_count, given.new_assignments
    else:
        count, assignments = given["count"], given.get("assignments")
    return count, None if assignments is None else [list(brokers) for brokers in assignments]


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _changes(configs: Any) -> dict[str, tuple[int, str]]:
    if not configs:
        return {}
    if not isinstance(configs, dict):
        raise TypeError(f"configs is a dict of names and values, or of names and (operation, value): {configs!r}")
    changes = {}
    for name, given in configs.items():
        operation, value = given if isinstance(given, tuple) else (AlterConfigOp.SET, given)
        changes[name] = (int(AlterConfigOp.value_for(operation)), "" if value is None else _value(value))
    return changes


def _topic_dict(name: str, fault: Fault, row: Any) -> dict[str, Any]:
    if fault is not None and not isinstance(fault, BrokerResponseError):
        raise fault
    topic_id, internal, partitions = row or (None, False, [])
    return {
        "error_code": _code(fault),
        "name": name,
        "topic_id": topic_id,
        "is_internal": internal,
        "partitions": [
            {
                "error_code": 0,
                "partition_index": index,
                "leader_id": leader,
                "leader_epoch": epoch,
                "replica_nodes": replicas,
                "isr_nodes": in_sync,
                "offline_replicas": offline,
            }
            for index, leader, epoch, replicas, in_sync, offline in partitions
        ],
    }


def _group_dict(group: str, fault: Fault, row: Any) -> dict[str, Any]:
    state, protocol_type, protocol, members = row or ("", "", "", [])
    return {
        "error": None if fault is None else str(fault),
        "group_id": group,
        "group_state": state,
        "protocol_type": protocol_type,
        "protocol_data": protocol,
        "members": [
            {
                "member_id": member,
                "group_instance_id": instance,
                "client_id": client,
                "client_host": host,
                "member_assignment": {"assigned_partitions": _by_topic(partitions)},
            }
            for member, instance, client, host, partitions in members
        ],
    }


def _by_topic(partitions: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    topics: dict[str, list[int]] = defaultdict(list)
    for topic, number in partitions:
        topics[topic].append(number)
    return [{"topic": topic, "partitions": sorted(numbers)} for topic, numbers in sorted(topics.items())]
