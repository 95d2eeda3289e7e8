"""Structs, serializers, partitioners, enumerations, metrics."""

import pickle
import subprocess
import sys

import pytest
from ottla import structs
from ottla._ottla import murmur2
from ottla.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    MemberToRemove,
    NewTopic,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)
from ottla.cluster import ClusterMetadata
from ottla.consumer.fetcher import ConsumerRecord
from ottla.errors import IllegalArgumentError
from ottla.metrics import AnonMeasurable, DictReporter, MetricConfig, MetricName, Metrics, Quota
from ottla.partitioner import DefaultPartitioner, StickyPartitioner
from ottla.protocol.consumer import IsolationLevel, OffsetSpec
from ottla.serializer import DefaultSerializer, DeserializeWrapper, JsonSerializer, SerializeWrapper

CLUSTER = ClusterMetadata({"t": range(3)}, {"t": [1, 2]})


@pytest.mark.parametrize(
    ("key", "expected"),
    # Kafka's own cases (UtilsTest.testMurmur2), as unsigned numbers.
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key, expected):
    assert murmur2(key) == expected % 2**32


def test_default_partitioner_takes_keys_to_one_partition_and_others_to_available_ones():
    partitioner = DefaultPartitioner()
    chosen = {partitioner.partition("t", None, b"key", None, b"", CLUSTER) for _ in range(10)}
    assert chosen == {(murmur2(b"key") & 0x7FFFFFFF) % 3}
    assert {partitioner.partition("t", None, None, None, b"", CLUSTER) for _ in range(100)} == {1, 2}
    with pytest.raises(ValueError, match="not known"):
        partitioner.partition("other", None, b"key", None, b"", CLUSTER)


def test_sticky_partitioner_stays_until_a_new_batch():
    partitioner = StickyPartitioner()
    first = partitioner.partition("t", None, None, None, b"", CLUSTER)
    assert {partitioner.partition("t", None, None, None, b"", CLUSTER) for _ in range(20)} == {first}
    partitioner.on_new_batch("t", CLUSTER, first)
    assert partitioner.partition("t", None, None, None, b"", CLUSTER) != first


def test_serializers_go_there_and_back():
    text, json = DefaultSerializer(), JsonSerializer()
    assert text.serialize("t", [], "ä") == "ä".encode()
    assert text.serialize("t", [], b"raw") == b"raw"
    assert text.serialize("t", [], None) is None
    assert text.deserialize("t", [], "ä".encode()) == "ä"
    assert text.deserialize("t", [], None) is None
    assert json.deserialize("t", [], json.serialize("t", [], {"a": [1]})) == {"a": [1]}
    assert json.serialize("t", [], None) is None
    assert SerializeWrapper(str.encode).serialize("t", [], "x") == b"x"
    assert DeserializeWrapper(bytes.decode).deserialize("t", [], b"x") == "x"


def test_enumerations_are_found_by_value_member_and_name():
    assert OffsetSpec.build_from("earliest") is OffsetSpec.EARLIEST
    assert OffsetSpec.build_from("max-timestamp") is OffsetSpec.MAX_TIMESTAMP
    assert OffsetSpec.build_from(-1) is OffsetSpec.LATEST
    assert IsolationLevel.value_for("read_committed") == 1
    with pytest.raises(ValueError, match="unknown OffsetSpec"):
        OffsetSpec.build_from("sometime")


@pytest.mark.parametrize(
    "value",
    [
        structs.TopicPartition("t", 1),
        structs.OffsetAndMetadata(5),
        structs.ConsumerGroupMetadata("g"),
        ConsumerRecord("t", 0, 0, 1, 2, 0, b"k", b"v", [("h", b"x")], None, 1, 1, 2),
        OffsetSpec.LATEST,
    ],
)
def test_values_survive_pickling(value):
    again = pickle.loads(pickle.dumps(value))  # noqa: S301
    assert again == value
    assert type(again) is type(value)


def test_admin_values_check_what_they_are_given():
    assert NewTopic("t").num_partitions == -1
    assert ConfigResource("topic", "t").resource_type is ConfigResourceType.TOPIC
    with pytest.raises(ValueError, match="ConfigResourceType"):
        ConfigResource("nonsense", "t")
    with pytest.raises(ValueError, match="member"):
        MemberToRemove()
    with pytest.raises(IllegalArgumentError):
        ACL("User:a", "*", ACLOperation.ANY, ACLPermissionType.ALLOW, ResourcePattern(ResourceType.TOPIC, "t"))
    upsertion = UserScramCredentialUpsertion("u", "scram-sha-256", "pw", salt=b"salt")
    assert len(upsertion.salted_password) == 32
    assert "pw" not in repr(upsertion)


def test_metrics_have_names_and_reporters():
    name = MetricName("n", "g", tags={"a": "b"})
    assert name == MetricName("n", "g", "other words", {"a": "b"})
    assert len({name, MetricName("n", "g", tags={"a": "b"})}) == 1
    reporter = DictReporter("p")
    metrics = Metrics(MetricConfig(tags={"client-id": "c"}), [reporter])
    mine = metrics.metric_name("n", "g")
    metrics.add_metric(mine, AnonMeasurable(lambda _config, _now: 42))
    assert reporter.snapshot() == {"p.g.client-id=c": {"n": 42}}
    with pytest.raises(ValueError, match="already"):
        metrics.add_metric(mine, AnonMeasurable(lambda _config, _now: 1))
    assert metrics.remove_metric(mine).value() == 42
    assert reporter.snapshot() == {}
    assert Quota.upper_bound(3).is_acceptable(3)
    assert not Quota.lower_bound(3).is_acceptable(2)


def test_import_is_light():
    heavy = ("asyncio", "argparse", "pytest", "multiprocessing")
    code = f"import sys, ottla; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
