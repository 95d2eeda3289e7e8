"""Options: whose exception, whose default, what goes on to the core."""

import math
import ssl

import pytest
from ottla import KafkaConsumer, KafkaProducer, TopicPartition, _options
from ottla.coordinator.assignors.abstract import AbstractPartitionAssignor
from ottla.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from ottla.errors import (
    IllegalArgumentError,
    InvalidError,
    KafkaConfigurationError,
    NoBrokersAvailable,
    UnsupportedError,
)
from ottla.serializer import DeserializeWrapper, SerializeWrapper

NOWHERE = "127.0.0.1:1"


def core(kind, **given):
    defaults = {"producer": _options.PRODUCER, "consumer": _options.CONSUMER, "admin": _options.ADMIN}[kind]
    return _options.for_core(getattr(_options, kind)(given), given, defaults)


def test_an_unknown_option_is_refused_as_kafka_python_does():
    with pytest.raises(ValueError, match="unrecognized options: colour, size"):
        KafkaProducer(size=1, colour="red")
    with pytest.raises(KafkaConfigurationError, match="unrecognized options: size"):
        KafkaConsumer(size=1)
    with pytest.raises(KafkaConfigurationError):
        _options.admin({"size": 1})


def test_only_what_was_given_goes_to_the_core():
    assert core("producer") == {"bootstrap_servers": "localhost"}
    given = core(
        "producer", linger_ms=5, retries=math.inf, acks="all", key_serializer=None, bootstrap_servers=["a:1", "b"]
    )
    assert given == {"bootstrap_servers": "a:1,b", "linger_ms": 5, "retries": math.inf, "acks": -1}
    given = core(
        "consumer", partition_assignment_strategy=[RoundRobinPartitionAssignor, "range"], consumer_timeout_ms=5
    )
    assert given == {"bootstrap_servers": "localhost", "partition_assignment_strategy": ["roundrobin", "range"]}


def test_options_of_kafka_python_2_are_translated_or_left():
    given = core("consumer", api_version_auto_timeout_ms=7, bootstrap_topics_filter=set(), legacy_iterator=True)
    assert given == {"bootstrap_servers": "localhost", "bootstrap_timeout_ms": 7}
    assert core("producer", buffer_memory=1000)["buffer_memory"] == 1000
    assert _options.consumer({"auto_offset_reset": "smallest"})["auto_offset_reset"] == "earliest"
    assert _options.producer({"api_version": "0.10.2"})["api_version"] == (0, 10, 2)
    assert _options.producer({"api_version": "auto"})["api_version"] is None


def test_functions_as_serializers_are_wrapped_with_a_warning():
    with pytest.warns(DeprecationWarning, match="value_serializer"):
        config = _options.producer({"value_serializer": str.encode})
    assert isinstance(config["value_serializer"], SerializeWrapper)
    with pytest.warns(DeprecationWarning, match="key_deserializer"):
        config = _options.consumer({"key_deserializer": bytes.decode})
    assert isinstance(config["key_deserializer"], DeserializeWrapper)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"compression_type": "brotli"}, ValueError),
        ({"transactional_id": "x", "enable_idempotence": False}, KafkaConfigurationError),
        ({"enable_idempotence": True, "acks": 1}, KafkaConfigurationError),
        ({"enable_idempotence": True, "retries": 0}, KafkaConfigurationError),
        ({"acks": 7}, KafkaConfigurationError),
        ({"batch_size": "large"}, ValueError),
        ({"bootstrap_servers": []}, IllegalArgumentError),
        ({"bootstrap_servers": "host:port"}, KafkaConfigurationError),
        ({"sasl_mechanism": "GSSAPI"}, InvalidError),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, InvalidError),
        ({"ssl_context": ssl.create_default_context()}, UnsupportedError),
        ({"proxy_url": "socks5://x"}, UnsupportedError),
        ({"linger_ms": object()}, TypeError),
    ],
)
def test_a_wrong_producer_option_raises_before_anybody_is_called(options, error):
    with pytest.raises(error):
        KafkaProducer(**{"bootstrap_servers": NOWHERE, "bootstrap_timeout_ms": 1, **options})


class Mine(AbstractPartitionAssignor):
    name = "mine"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"group_instance_id": "a"}, KafkaConfigurationError),
        ({"group_instance_id": "a/b", "group_id": "g"}, KafkaConfigurationError),
        ({"fetch_max_wait_ms": 40_000}, KafkaConfigurationError),
        ({"request_timeout_ms": 600_000}, KafkaConfigurationError),
        ({"isolation_level": "read_nothing"}, KafkaConfigurationError),
        ({"auto_offset_reset": "sometime"}, KafkaConfigurationError),
        ({"partition_assignment_strategy": [Mine]}, KafkaConfigurationError),
        ({"heartbeat_interval_ms": 60_000, "group_id": "g"}, KafkaConfigurationError),
    ],
)
def test_a_wrong_consumer_option_raises_before_anybody_is_called(options, error):
    with pytest.raises(error):
        KafkaConsumer(**{"bootstrap_servers": NOWHERE, "bootstrap_timeout_ms": 1, **options})


@pytest.mark.parametrize("client", [KafkaProducer, KafkaConsumer])
def test_without_a_broker_the_error_says_where_and_what_to_try(client):
    with pytest.raises(NoBrokersAvailable) as raised:
        client(bootstrap_servers=NOWHERE, bootstrap_timeout_ms=200)
    assert NOWHERE in str(raised.value)
    assert "ottla serve" in str(raised.value)


def test_a_topic_is_a_text():
    with pytest.raises(TypeError):
        KafkaConsumer(TopicPartition("t", 0), bootstrap_servers=NOWHERE)
