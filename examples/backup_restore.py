"""A day in the life of a backup: the leader is lost, the topic comes back, and the group goes on where it stood.

Run: python examples/backup_restore.py
"""

import shutil
import tempfile
from pathlib import Path

import ottla
from ottla import KafkaConsumer, KafkaProducer


def produce(servers: str, numbers: range) -> None:
    """Payments, each with a key, a time of its own, and a header."""
    with KafkaProducer(bootstrap_servers=servers, compression_type="lz4", linger_ms=5) as producer:
        for number in numbers:
            producer.send(
                "payments",
                key=b"account-%d" % (number % 50),
                value=b'{"payment": %d, "cents": %d}' % (number, number * 7 % 10_000),
                timestamp_ms=1_760_000_000_000 + number,
                headers=[("trace", b"%08x" % number)],
            )


def read_in_group(servers: str, count: int) -> list[tuple]:
    """Read so many records as a member of the group `ledger`, and commit: everything that a record is."""
    with KafkaConsumer(
        "payments",
        bootstrap_servers=servers,
        group_id="ledger",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        records = consumer.consume(count, timeout=30)
        consumer.commit()
    return [(r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in records]


with tempfile.TemporaryDirectory() as temporary:
    home = Path(temporary)
    with ottla.Broker(home / "leader", config={"num.partitions": 4, "retention.ms": -1}) as leader:
        servers = leader.bootstrap_servers
        produce(servers, range(30_000))
        seen = read_in_group(servers, 12_000)
        morning = ottla.backup(leader, home / "backup")
        print(f"in the morning  {morning!r}")

        produce(servers, range(30_000, 40_000))
        noon = ottla.backup(leader, home / "backup")
        print(f"at noon         {noon!r}")
        assert (noon.records, noon.new_records) == (40_000, 10_000)

    # Does the repository hold what it says? Here every byte of it is read.
    report = ottla.check(home / "backup", read_data=True)
    assert report.is_sound
    print(f"checked         {report.read_bytes:,} bytes in {report.objects} objects, {len(report.problems)} problems")

    shutil.rmtree(home / "leader")
    print("the leader is gone, and its disk with it\n")

    restored = ottla.restore(home / "backup", home / "restored")
    print(restored)
    assert restored.groups == ("ledger",)

    # The directory is a log again. The group goes on: nothing is read twice, nothing is left out.
    seen += read_in_group(str(home / "restored"), 28_000)
    places = {(partition, offset) for partition, offset, *_ in seen}
    assert len(seen) == len(places) == 40_000
    numbers = sorted(int(headers[0][1], 16) for *_, headers in seen)
    assert numbers == list(range(40_000))
    for _, _, timestamp, key, value, headers in seen:
        number = int(headers[0][1], 16)
        assert (timestamp, key) == (1_760_000_000_000 + number, b"account-%d" % (number % 50))
        assert value == b'{"payment": %d, "cents": %d}' % (number, number * 7 % 10_000)
    print(f"\nthe group read {len(seen):,} payments, each once: 12,000 before and 28,000 after")

    # An older snapshot is as near as the newest: this is the topic as it was in the morning.
    earlier = ottla.restore(home / "backup", home / "morning", snapshot=morning.id[:8])
    assert earlier.copied.records == 30_000
    print(f"as it was in the morning: {earlier.copied.records:,} payments")
