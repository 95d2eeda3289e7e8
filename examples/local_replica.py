"""A local replica of a cluster's topics: copied, kept up to date, and read when the cluster is away.

Run: python examples/local_replica.py
"""

import tempfile
import threading
from pathlib import Path

import ottla
from ottla import KafkaConsumer, KafkaProducer


def produce(servers: str, numbers: range) -> None:
    with KafkaProducer(bootstrap_servers=servers, compression_type="zstd", linger_ms=5) as producer:
        for number in numbers:
            producer.send("orders", b'{"order": %d}' % number, key=b"customer-%d" % (number % 100))


def count(servers: str, at_most: int) -> int:
    with KafkaConsumer("orders", bootstrap_servers=servers, group_id=None, auto_offset_reset="earliest") as consumer:
        return len(consumer.consume(at_most, timeout=30))


with tempfile.TemporaryDirectory() as temporary:
    home = Path(temporary)
    # In place of a real cluster, whose address this would be: "kafka.example:9092", with security_protocol and so on.
    with ottla.Broker(home / "cluster", config={"num.partitions": 3}) as cluster:
        address = cluster.bootstrap_servers
        produce(address, range(20_000))

        with ottla.Replica(home / "replica", address, topics=["orders", "pay.*"]) as replica:
            print(replica.sync(), "\n")
            produce(address, range(20_000, 21_000))
            second = replica.sync()
            print(f"the second time {second!r}\n")
            assert (second.extent, second.records) == ("incremental", 1_000)

    # The cluster is away. The replica is a broker of its own: any client reads it.
    up_to_date = threading.Event()

    def note(event: ottla.ReplicaEvent) -> None:
        print(f"  event {event.kind} {event.message or event.records or ''}")
        if event.kind == "up_to_date":
            up_to_date.set()

    with ottla.Replica(home / "replica", address, bootstrap_timeout_ms=500, on_event=note) as replica:
        assert count(replica.bootstrap_servers, 21_000) == 21_000
        print(f"21,000 orders are read from {replica!r} while nothing listens on {address}")

        # Live: it waits for the cluster, and goes on from where it ends.
        replica.follow()
        with ottla.Broker(home / "cluster", listen=address):
            produce(address, range(21_000, 25_000))
            replica.caught_up(timeout=30)
            assert up_to_date.wait(30)
            print(replica.status())
            assert replica.status().behind_records == 0
        assert count(replica.bootstrap_servers, 25_000) == 25_000

    # And a small one: the last ten of each partition, at their offsets.
    with ottla.Replica(home / "tail", str(home / "replica"), "orders", last=10) as tail:
        tail.sync()
        assert [p.local_end - p.local_start for p in tail.status().partitions] == [10, 10, 10]
        assert count(tail.bootstrap_servers, 30) == 30
