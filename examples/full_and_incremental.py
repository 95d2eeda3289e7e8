"""Full and incremental are one thing: a copy asks its target where it ends, and goes on from there.

Run: python examples/full_and_incremental.py
"""

import tempfile
from pathlib import Path

import ottla
from ottla import KafkaConsumer, KafkaProducer
from ottla.admin import KafkaAdminClient


def produce(broker: ottla.Broker, numbers: range) -> None:
    """Orders of fifty customers, each customer's in one partition."""
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers, compression_type="zstd", linger_ms=5) as producer:
        for number in numbers:
            value = b'{"order": %d, "item": "letter paper", "sheets": %d}' % (number, number % 90)
            producer.send("orders", key=b"customer-%d" % (number % 50), value=value)


def segment_bytes(directory: Path) -> dict[str, bytes]:
    """The records as they lie on the disk: what a Kafka broker would read."""
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.glob("orders-*/*.log")}


with tempfile.TemporaryDirectory() as temporary:
    home = Path(temporary)
    with ottla.Broker(home / "leader") as broker:
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
            admin.create_topics({"orders": {"num_partitions": 3}})
        produce(broker, range(20_000))

        print("The replica has nothing, so everything is copied:\n")
        full = ottla.replicate(broker, home / "replica")
        print(full)

        produce(broker, range(20_000, 20_600))
        print("\nThe same call again brings what is new:\n")
        incremental = ottla.replicate(broker, home / "replica")
        print(incremental)

        assert (full.extent, full.records) == ("full", 20_000)
        assert (incremental.extent, incremental.records) == ("incremental", 600)
        assert [part.start for part in incremental.partitions] == [part.end for part in full.partitions]
        # And a third time: nothing. Where a copy stands is asked of the copy, never noted beside it.
        assert ottla.replicate(broker, home / "replica").records == 0

        print("\nA backup goes the same way. A snapshot shares what an older one has:\n")
        ottla.backup(broker, home / "backup")
        produce(broker, range(20_600, 21_000))
        ottla.backup(broker, home / "backup")
        first, second = snapshots = ottla.snapshots(home / "backup")
        print(snapshots)
        assert (first.extent, second.extent, second.parent) == ("full", "incremental", first.id)
        assert (second.records, second.new_records) == (21_000, 400)

        # `full=True` reads everything again: for who does not trust a copy any more.
        assert ottla.replicate(broker, home / "replica", full=True).records == 21_000

    # The copy is the leader's byte for byte: batches are never decoded on their way, and stay compressed as they were.
    leader, replica = segment_bytes(home / "leader"), segment_bytes(home / "replica")
    assert leader == replica
    print(f"\n{sum(map(len, replica.values())):,} bytes of segments are the same in both directories")

    # And it is a log like any other: any Kafka client can read it, here without a broker or a port.
    with KafkaConsumer(
        "orders", bootstrap_servers=str(home / "replica"), auto_offset_reset="earliest", group_id=None
    ) as consumer:
        records = consumer.consume(21_000, timeout=30)
    assert len(records) == 21_000
    print(f"{len(records):,} records read from the replica")
