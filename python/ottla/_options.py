"""The options of the three clients: kafka-python's names, defaults and refusals.

Here are kafka-python's names and defaults, and what is Python's own (serializers, partitioners, names of kafka-python
2). What an option means, its bounds, and which options contradict each other is the core's to know
(`core/src/client/config.rs`): `for_core` hands over those that were given.
"""

from __future__ import annotations

import logging
import math
import os
import re
import selectors
import socket
import warnings
from typing import TYPE_CHECKING, Any

from ottla.coordinator.assignors.abstract import AbstractPartitionAssignor
from ottla.coordinator.assignors.range import RangePartitionAssignor
from ottla.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from ottla.errors import IllegalArgumentError, KafkaConfigurationError, UnsupportedError
from ottla.partitioner import DefaultPartitioner, StickyPartitioner
from ottla.serializer import Deserializer, DeserializeWrapper, Serializer, SerializeWrapper
from ottla.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ADMIN", "CONSUMER", "PRODUCER", "admin", "consumer", "for_core", "producer"]

log = logging.getLogger("ottla")

Options = dict[str, Any]


def _log_commit(offsets: Any, error_or_response: Any) -> None:
    """Log what became of a commit that nobody waits for."""
    log.debug("offsets committed offsets=%s response=%s", offsets, error_or_response)


_SHARED: Options = {
    "bootstrap_servers": "localhost",
    "client_id": f"ottla-{__version__}",
    "api_version": None,
    "bootstrap_timeout_ms": 30_000,
    "request_timeout_ms": 30_000,
    "retry_backoff_ms": 100,
    "reconnect_backoff_ms": 50,
    "reconnect_backoff_max_ms": 30_000,
    "connections_max_idle_ms": 540_000,
    "metadata_max_age_ms": 300_000,
    "max_in_flight_requests_per_connection": 5,
    "client_dns_lookup": "use_all_dns_ips",
    "receive_buffer_bytes": None,
    "send_buffer_bytes": None,
    "receive_message_max_bytes": 100_000_000,
    "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    "security_protocol": "PLAINTEXT",
    "ssl_context": None,
    "ssl_check_hostname": True,
    "ssl_cafile": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "ssl_password": None,
    "ssl_crlfile": None,
    "sasl_mechanism": None,
    "sasl_plain_username": None,
    "sasl_plain_password": None,
    "sasl_kerberos_name": None,
    "sasl_kerberos_service_name": "kafka",
    "sasl_kerberos_domain_name": None,
    "sasl_oauth_token_provider": None,
    "proxy_url": None,
    "socks5_proxy": None,
    "selector": selectors.DefaultSelector,
    "kafka_client": None,
    "metric_reporters": [],
    "metrics_num_samples": 2,
    "metrics_sample_window_ms": 30_000,
}

ADMIN: Options = dict(_SHARED)
"""What `KafkaAdminClient` takes, with its defaults."""

PRODUCER: Options = _SHARED | {
    "client_id": None,
    "ssl_ciphers": None,
    "key_serializer": None,
    "value_serializer": None,
    "enable_idempotence": True,
    "transactional_id": None,
    "transaction_timeout_ms": 60_000,
    "acks": -1,
    "compression_type": None,
    "retries": math.inf,
    "delivery_timeout_ms": 120_000,
    "batch_size": 16_384,
    "linger_ms": 0,
    "partitioner": DefaultPartitioner(),
    "max_block_ms": 60_000,
    "max_request_size": 1_048_576,
    "allow_auto_create_topics": True,
    "metrics_enabled": True,
}
"""What `KafkaProducer` takes, with its defaults."""

CONSUMER: Options = _SHARED | {
    "group_id": None,
    "group_instance_id": None,
    "key_deserializer": None,
    "value_deserializer": None,
    "enable_incremental_fetch_sessions": True,
    "fetch_max_wait_ms": 500,
    "fetch_min_bytes": 1,
    "fetch_max_bytes": 52_428_800,
    "max_partition_fetch_bytes": 1_048_576,
    "auto_offset_reset": "latest",
    "enable_auto_commit": True,
    "auto_commit_interval_ms": 5_000,
    "default_offset_commit_callback": _log_commit,
    "check_crcs": True,
    "isolation_level": "read_uncommitted",
    "allow_auto_create_topics": True,
    "partition_assignment_strategy": [RangePartitionAssignor, RoundRobinPartitionAssignor],
    "max_poll_records": 500,
    "max_poll_interval_ms": 300_000,
    "session_timeout_ms": 45_000,
    "heartbeat_interval_ms": 3_000,
    "consumer_timeout_ms": math.inf,
    "ssl_ciphers": None,
    "metrics_enabled": True,
    "metric_group_prefix": "consumer",
    "exclude_internal_topics": True,
    "client_rack": "",
}
"""What `KafkaConsumer` takes, with its defaults."""

_LATER: Options = {"api_version_auto_timeout_ms": "bootstrap_timeout_ms"}
"""Options of kafka-python 2 that have another name in 3."""

_GONE = frozenset({"bootstrap_topics_filter", "sasl_kerberos_name_type", "legacy_iterator", "wakeup_timeout_ms"})
"""Options of kafka-python 2 that nothing depends on; taken and left."""

_HERE = frozenset(
    {
        "api_version",
        "consumer_timeout_ms",
        "default_offset_commit_callback",
        "enable_incremental_fetch_sessions",
        "kafka_client",
        "key_deserializer",
        "key_serializer",
        "metric_group_prefix",
        "metric_reporters",
        "metrics_enabled",
        "metrics_num_samples",
        "metrics_sample_window_ms",
        "partitioner",
        "selector",
        "socket_options",
        "value_deserializer",
        "value_serializer",
    }
)
"""Options that the core never sees: they are Python's, or have nothing to do here."""


def _merge(defaults: Options, given: Mapping[str, Any], more: frozenset[str], error: type[Exception]) -> Options:
    """Return the defaults overlaid with what was given, or raise `error` for a name that nobody knows."""
    config = dict(defaults)
    unknown: list[str] = []
    for name, value in given.items():
        target = _LATER.get(name, name)
        if target in defaults or target in more:
            if target != name and target in given:
                continue
            config[target] = value
        elif name not in _GONE:
            unknown.append(name)
    if unknown:
        raise error(f"unrecognized options: {', '.join(sorted(unknown))}")
    version = config["api_version"]
    if isinstance(version, str):
        log.warning("api_version is a tuple now; %r as text is deprecated", version)
        config["api_version"] = None if version == "auto" else tuple(int(part) for part in version.split("."))
    return config


def producer(given: Mapping[str, Any]) -> Options:
    """Check a producer's options and return them all.

    Raises:
        ValueError: An option is unknown, or the codec is.
        KafkaConfigurationError: A transaction without idempotence.
    """
    config = _merge(PRODUCER, given, frozenset({"buffer_memory"}), ValueError)
    for name in ("key_serializer", "value_serializer"):
        serializer = config[name]
        if serializer is not None and not isinstance(serializer, Serializer):
            warnings.warn(f"{name} is not an ottla.serializer.Serializer", DeprecationWarning, stacklevel=3)
            config[name] = SerializeWrapper(serializer)
    if config["acks"] == "all":
        config["acks"] = -1
    if config["compression_type"] not in (None, "none", "gzip", "snappy", "lz4", "zstd"):
        raise ValueError(f"not supported codec: {config['compression_type']}")
    if config["transactional_id"] and not config["enable_idempotence"]:
        raise KafkaConfigurationError("transactional_id needs enable_idempotence")
    return config


_INSTANCE_ID = re.compile(r"[A-Za-z0-9._-]{1,249}")


def consumer(given: Mapping[str, Any]) -> Options:
    """Check a consumer's options and return them all.

    Raises:
        KafkaConfigurationError: An option is unknown, has a wrong value, or contradicts another.
    """
    config = _merge(CONSUMER, given, frozenset(), KafkaConfigurationError)
    for name in ("key_deserializer", "value_deserializer"):
        deserializer = config[name]
        if deserializer is not None and not isinstance(deserializer, Deserializer):
            warnings.warn(f"{name} is not an ottla.serializer.Deserializer", DeprecationWarning, stacklevel=3)
            config[name] = DeserializeWrapper(deserializer)
    reset = {"smallest": "earliest", "largest": "latest"}.get(config["auto_offset_reset"])
    if reset is not None:
        log.warning("auto_offset_reset=%s is deprecated; it is %s now", config["auto_offset_reset"], reset)
        config["auto_offset_reset"] = reset
    instance = config["group_instance_id"]
    if instance is not None:
        if config["group_id"] is None:
            raise KafkaConfigurationError("group_instance_id needs group_id")
        if not isinstance(instance, str) or instance in (".", "..") or not _INSTANCE_ID.fullmatch(instance):
            raise KafkaConfigurationError(
                f"group_instance_id is 1 to 249 letters, digits, '.', '_' and '-', and not '.' or '..': {instance!r}"
            )
    return config


def admin(given: Mapping[str, Any]) -> Options:
    """Check an admin client's options and return them all.

    Raises:
        KafkaConfigurationError: An option is unknown.
    """
    return _merge(ADMIN, given, frozenset(), KafkaConfigurationError)


def _assignor(strategy: Any) -> str:
    """Return the name of one of the core's assignors."""
    kind = strategy if isinstance(strategy, type) else type(strategy)
    if isinstance(strategy, str):
        return strategy
    if not issubclass(kind, AbstractPartitionAssignor) or not kind.__module__.startswith("ottla."):
        raise KafkaConfigurationError(
            f"partition_assignment_strategy takes Ottla's own assignors; one written in Python is not supported: {kind}"
        )
    return kind.name


def _servers(servers: Any) -> str:
    """Return the addresses as one text, separated by commas."""
    if isinstance(servers, str):
        return servers
    addresses = [str(server) for server in servers]
    if not addresses:
        raise IllegalArgumentError("bootstrap_servers is empty")
    return ",".join(addresses)


_UNSUPPORTED = {
    "ssl_context": "name files by ssl_cafile, ssl_certfile and ssl_keyfile instead",
    "ssl_ciphers": "the TLS library offers only such as are safe",
    "sasl_kerberos_name": "sasl_mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    "sasl_kerberos_service_name": "sasl_mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    "sasl_kerberos_domain_name": "sasl_mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    "sasl_oauth_token_provider": "sasl_mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    "proxy_url": "connections go to the brokers directly",
    "socks5_proxy": "connections go to the brokers directly",
}
"""Options of kafka-python that this version does not have, and what there is instead."""


def for_core(config: Options, given: Mapping[str, Any], defaults: Options) -> dict[str, Any]:
    """Return the options that the core decides about, as they were given.

    Raises:
        UnsupportedError: An option is set that this version does not have.
    """
    options: dict[str, Any] = {"bootstrap_servers": _servers(config["bootstrap_servers"])}
    for name in given:
        target = _LATER.get(name, name)
        if target in _HERE or target == "bootstrap_servers" or target not in config:
            continue
        value = config[target]
        if target in _UNSUPPORTED:
            if value is not None and value != defaults[target]:
                raise UnsupportedError(f"this version has no {target}: {_UNSUPPORTED[target]}")
            continue
        if target in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile") and value is not None:
            value = os.fspath(value)
        if target == "partition_assignment_strategy":
            value = [_assignor(strategy) for strategy in value]
        options[target] = value
    return options


def core_partitions(partitioner: Any) -> bool:
    """Return whether the core can choose partitions itself, because the partitioner is one it has."""
    return partitioner is None or type(partitioner) in (DefaultPartitioner, StickyPartitioner)


def client(given: dict[str, Any]) -> dict[str, Any]:
    """Return a client's options as the core takes them; where it connects to is the source's to say."""
    if "bootstrap_servers" in given:
        raise TypeError("the source says where to connect to, not bootstrap_servers")
    options = for_core(admin(given), given, ADMIN)
    del options["bootstrap_servers"]
    return options
