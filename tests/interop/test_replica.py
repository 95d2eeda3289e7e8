"""Local replicas of a real Kafka: its bytes, at its offsets, through all that its topics go through."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ottla
import pytest
from segments import check_dump, dump
from servers import KafkaServer, peers
from test_log_directory import CONFIG, ask

LONG = 60.0


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    for why in (KafkaServer.missing(), peers.missing("python")):
        if why:
            pytest.skip(why)
    server = KafkaServer(tmp_path_factory.mktemp("replicas"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


def batches(partition: Path) -> bytes:
    """Every byte of a partition's segments."""
    return b"".join(file.read_bytes() for file in sorted(partition.glob("*.log")))


def until(what: str, is_so: Callable[[], Any], timeout: float = LONG) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end, f"it is not so after {timeout} s: {what}"
        time.sleep(0.05)


def numbered(servers: str, topic: str, count: int, first: int = 0, **options: Any) -> None:
    with ottla.KafkaProducer(bootstrap_servers=servers, linger_ms=5, **options) as producer:
        for number in range(first, first + count):
            producer.send(topic, b"%d" % number, b"%d" % (number % 97))


def values(servers: str, topic: str, count: int) -> list[int]:
    consumer = ottla.KafkaConsumer(topic, bootstrap_servers=servers, group_id=None, auto_offset_reset="earliest")
    with consumer:
        return sorted(int(record.value) for record in consumer.consume(count, timeout=LONG))


def test_a_replica_is_kafkas_bytes_with_every_codec_and_transactions(
    kafka: KafkaServer, topic: str, tmp_path: Path
) -> None:
    ask("create", kafka.bootstrap, topic, config=CONFIG)
    ask("write", kafka.bootstrap, topic, records=2_000, transactions=6)
    with ottla.Replica(tmp_path / "replica", kafka.bootstrap, topic) as replica:
        first = replica.sync()
        assert first.extent == "full"
        assert ask("read", replica.bootstrap_servers, topic) == ask("read", kafka.bootstrap, topic)
        ask("write", kafka.bootstrap, topic, records=300, transactions=3)
        second = replica.sync()
        assert (second.extent, second.partitions[0].start) == ("incremental", first.partitions[0].end)
        assert replica.sync().records == 0
        # Live, and read all the while.
        replica.follow()
        ask("write", kafka.bootstrap, topic, records=300, transactions=3)
        replica.caught_up(LONG)
        assert ask("read", replica.bootstrap_servers, topic) == ask("read", kafka.bootstrap, topic)
        (status,) = replica.status().partitions
        assert (status.behind_records, status.error) == (0, None)
    here = tmp_path / "replica" / f"{topic}-0"
    assert batches(here) == batches(kafka.logs / f"{topic}-0")
    check_dump(dump(here))


def test_a_replica_goes_on_when_kafka_is_killed_and_started_again(
    kafka: KafkaServer, topic: str, tmp_path: Path
) -> None:
    ask("create", kafka.bootstrap, topic, config=CONFIG)
    numbered(kafka.bootstrap, topic, 1_000)
    with ottla.Replica(tmp_path / "replica", kafka.bootstrap, topic, follow=True) as replica:
        replica.caught_up(LONG)
        kafka.stop(kill=True)
        until("it is said that the cluster is away", lambda: replica.status().error)
        assert values(replica.bootstrap_servers, topic, 1_000) == list(range(1_000))
        kafka.start()
        numbered(kafka.bootstrap, topic, 500, first=1_000)
        replica.caught_up(LONG)
        assert values(replica.bootstrap_servers, topic, 1_500) == list(range(1_500))
        until("nothing is wrong", lambda: not replica.status().error)
    assert batches(tmp_path / "replica" / f"{topic}-0") == batches(kafka.logs / f"{topic}-0")


@pytest.mark.parametrize("live", [False, True], ids=["once", "live"])
def test_a_topic_that_kafka_made_anew_is_refused_or_started_over(
    kafka: KafkaServer, topic: str, tmp_path: Path, live: bool
) -> None:
    admin = ottla.KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    ask("create", kafka.bootstrap, topic, config=CONFIG)
    numbered(kafka.bootstrap, topic, 200)
    with (
        ottla.Replica(tmp_path / "kept", kafka.bootstrap, topic, follow=live) as kept,
        ottla.Replica(tmp_path / "anew", kafka.bootstrap, topic, recreated="restart", follow=live) as anew,
    ):
        for replica in (kept, anew):
            replica.caught_up(LONG) if live else replica.sync()
        admin.delete_topics([topic])
        until("it is deleted", lambda: topic not in admin.list_topics())
        ask("create", kafka.bootstrap, topic, config=CONFIG)
        numbered(kafka.bootstrap, topic, 50, first=1_000)
        if live:
            until("it is refused", lambda: "another topic of that name" in (kept.status().error or ""))
            until("it is started over", lambda: [p.local_end for p in anew.status().partitions] == [50])
            anew.caught_up(LONG)
        else:
            with pytest.raises(ottla.errors.AlreadyExistsError, match="source_topic_id="):
                kept.sync()
            assert anew.sync().records == 50
        assert values(kept.bootstrap_servers, topic, 200) == list(range(200))
        assert values(anew.bootstrap_servers, topic, 50) == list(range(1_000, 1_050))
    admin.close()


def test_retention_and_compaction_go_on_while_a_replica_follows(kafka: KafkaServer, topic: str, tmp_path: Path) -> None:
    compacted = f"{topic}-compacted"
    small = {"segment.bytes": "1048576", "segment.ms": "1000", "file.delete.delay.ms": "0"}
    ask("create", kafka.bootstrap, topic, config={**small, "retention.bytes": "1048576", "retention.ms": "-1"})
    fast = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "0"}
    ask("create", kafka.bootstrap, compacted, config={**small, **fast})
    with ottla.Replica(tmp_path / "replica", kafka.bootstrap, f"{topic}.*", follow=True) as replica:
        for _ in range(3):
            ask("churn", kafka.bootstrap, compacted, records=400, transactions=2, filler=1_200)
            ask("churn", kafka.bootstrap, topic, records=400, transactions=2, filler=1_200)
            replica.caught_up(LONG)
        assert not replica.status().error
        high, _, state = ask("known", kafka.bootstrap, compacted)
        replica.caught_up(LONG)
        ours = ask("known", replica.bootstrap_servers, compacted)
        assert (ours[0], ours[2]) == (high, state)
        # One that comes later gets what is left.
        with ottla.Replica(tmp_path / "late", kafka.bootstrap, f"{topic}.*") as late:
            late.sync()
            found = ask("known", late.bootstrap_servers, compacted)
            assert (found[0], found[2]) == (high, state)
    check_dump(dump(tmp_path / "replica" / f"{compacted}-0"))
    check_dump(dump(tmp_path / "replica" / f"{topic}-0"))


def test_a_part_of_a_topic_begins_where_kafka_says(kafka: KafkaServer, topic: str, tmp_path: Path) -> None:
    ask("create", kafka.bootstrap, topic, config=CONFIG)
    ask("write", kafka.bootstrap, topic, records=500, transactions=0)
    since = 1_790_000_000_000 + 2 * 10**6 + 100
    with ottla.KafkaConsumer(bootstrap_servers=kafka.bootstrap) as consumer:
        place = ottla.TopicPartition(topic, 0)
        found = consumer.offsets_for_times({place: since})[place]
    assert found is not None
    expected = found.offset
    assert expected == 1_100
    with ottla.Replica(tmp_path / "since", kafka.bootstrap, topic, since=since) as replica:
        replica.sync()
        low, high, count, *_ = ask("read", replica.bootstrap_servers, topic)["read_committed"]
        assert (low, high, count) == (expected, 2_500, 1_400)
    with ottla.Replica(tmp_path / "last", kafka.bootstrap, topic, last=7, follow=True) as replica:
        replica.caught_up(LONG)
        ask("write", kafka.bootstrap, topic, records=1, transactions=0)
        replica.caught_up(LONG)
        low, high, count, *_ = ask("read", replica.bootstrap_servers, topic)["read_committed"]
        assert (low, high, count) == (2_493, 2_505, 12)


def test_a_cluster_that_asks_for_a_login_is_one_line_about_that(tmp_path: Path, kafka: KafkaServer) -> None:
    """What a person sees, of a listener that speaks something else than was said."""
    program = [sys.executable, "-m", "ottla", "replicate", kafka.bootstrap, str(tmp_path / "replica")]
    options = ["-X", "security_protocol=SASL_PLAINTEXT", "-X", "sasl_mechanism=PLAIN", "-X", "sasl_plain_username=a",
               "-X", "sasl_plain_password=b", "-X", "bootstrap_timeout_ms=3000"]  # fmt: skip
    run = subprocess.run([*program, *options], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode != 0
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert "SASL" in run.stderr.upper()
    assert not (tmp_path / "replica").exists()
