"""Ottla: a Kafka client, an embedded broker, local replicas and backups, in one package.

The client has kafka-python's names, signatures and behaviour:

    from ottla import KafkaConsumer, KafkaProducer

`install_as_kafka()` makes `import kafka` mean this package; `ottla run script.py` does so for a script, and starts an
embedded broker for it when nothing listens on its bootstrap address. `Broker` is that broker for programs and tests.

`replicate`, `backup` and `restore` copy topics, byte for byte, to a directory and back. `Replica` is such a directory that
keeps up with its cluster and is a broker of its own.
"""

from typing import TYPE_CHECKING, Any

from ottla._alias import install_as_kafka
from ottla.admin import KafkaAdminClient
from ottla.broker import Broker
from ottla.consumer import KafkaConsumer
from ottla.consumer.subscription_state import AsyncConsumerRebalanceListener, ConsumerRebalanceListener
from ottla.producer import KafkaProducer
from ottla.protocol.consumer import IsolationLevel, OffsetSpec
from ottla.serializer import DefaultSerializer, Deserializer, JsonSerializer, Serializer
from ottla.structs import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition, TopicPartitionReplica
from ottla.version import __version__

if TYPE_CHECKING:
    from ottla.pipe import (
        CheckReport,
        Copied,
        PartitionCopied,
        Problem,
        Progress,
        Restored,
        Snapshot,
        Snapshots,
        Verified,
        backup,
        check,
        replicate,
        restore,
        snapshots,
        verify,
    )
    from ottla.replica import Replica, ReplicaEvent, ReplicaPartition, ReplicaStatus
    from ottla.repository import Repository

__all__ = [
    "AsyncConsumerRebalanceListener",
    "Broker",
    "CheckReport",
    "ConsumerGroupMetadata",
    "ConsumerRebalanceListener",
    "Copied",
    "DefaultSerializer",
    "Deserializer",
    "IsolationLevel",
    "JsonSerializer",
    "KafkaAdminClient",
    "KafkaConsumer",
    "KafkaProducer",
    "OffsetAndMetadata",
    "OffsetSpec",
    "PartitionCopied",
    "Problem",
    "Progress",
    "Replica",
    "ReplicaEvent",
    "ReplicaPartition",
    "ReplicaStatus",
    "Repository",
    "Restored",
    "Serializer",
    "Snapshot",
    "Snapshots",
    "TopicPartition",
    "TopicPartitionReplica",
    "Verified",
    "__version__",
    "backup",
    "check",
    "install_as_kafka",
    "replicate",
    "restore",
    "snapshots",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what copies when it is asked for: its data classes take a quarter of what importing this package takes."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ottla import pipe, replica, repository

    home = next(module for module in (replica, repository, pipe) if name in module.__all__)
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
