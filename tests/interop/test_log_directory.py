"""A log directory is Kafka's: what one of the two brokers wrote, the other one and Kafka's own dump tool read."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from segments import check_dump, dump
from servers import KafkaServer, OttlaServer, peers

#: Runs under the Python that has the clients: writes and reads with confluent-kafka.
PROGRAM = r"""
import hashlib, json, sys, uuid
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

asked = json.load(sys.stdin)
bootstrap, topic = asked["bootstrap"], asked["topic"]

def create():
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config=asked["config"])])[topic].result(30)

def write():
    T0 = 1_790_000_000_000
    for number, codec in enumerate(["none", "gzip", "snappy", "lz4", "zstd"]):
        producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 5,
                             "enable.idempotence": True, "batch.size": 20_000})
        for record in range(asked["records"]):
            producer.produce(topic, key=f"{codec} {record}", value=b"%d" % record * 60, partition=0,
                             timestamp=T0 + number * 10**6 + record, headers=[("codec", codec)])
        assert producer.flush(60) == 0
    for number in range(asked["transactions"]):
        producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"t{number % 3}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(topic, value=f"transaction {number}", partition=0, timestamp=T0 + 10**8 + number)
        producer.flush(30)
        (producer.abort_transaction if number % 3 == 1 else producer.commit_transaction)(30)

def churn():
    # The same keys again and again, some of them deleted, in transactions too where there are any.
    for number, codec in enumerate(["none", "gzip", "snappy", "lz4", "zstd"]):
        config = {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 5, "batch.size": 10_000}
        producer = Producer(config | {"enable.idempotence": number % 2 == 0})
        for record in range(asked["records"]):
            key = f"key {record % 40}"
            value = None if record % 40 == number else f"{codec} {record} ".encode() * 20
            producer.produce(topic, key=key, value=value, partition=0, headers=[("codec", codec)])
        assert producer.flush(60) == 0
    for number in range(asked["transactions"]):
        producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"t{number}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(topic, key=f"key {number}", value=f"transaction {number}", partition=0)
        producer.flush(30)
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(30)
    # They fill the segment that is not compacted.
    failed = []
    producer = Producer({"bootstrap.servers": bootstrap, "batch.size": 10_000})
    for record in range(asked["filler"]):
        producer.produce(topic, key=f"filler {record % 3}", value=b"x" * 1000, partition=0,
                         on_delivery=lambda error, message: failed.append(error) if error else None)
    assert producer.flush(60) == 0 and not failed, failed

def known():
    # What a reader of everything knows of each key in the end.
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "check.crcs": True,
                         "isolation.level": "read_committed", "enable.partition.eof": True})
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
    consumer.assign([TopicPartition(topic, 0, low)])
    state, count, last = {}, 0, -1
    while True:
        message = consumer.poll(30)
        assert message is not None, "nothing came for 30 s"
        if message.error():
            break
        assert message.offset() > last
        last = message.offset()
        count += 1
        state[message.key().decode()] = [message.offset(), (message.value() or b"").decode(), message.timestamp()[1]]
    consumer.close()
    # A deletion may be there still, or gone.
    return [high, count, {key: value for key, value in sorted(state.items()) if value[1]}]

def read():
    answer = {}
    for level in ["read_uncommitted", "read_committed"]:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "check.crcs": True,
                             "isolation.level": level, "enable.partition.eof": True, "auto.offset.reset": "error"})
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
        consumer.assign([TopicPartition(topic, 0, low)])
        digest, count = hashlib.sha256(), 0
        while True:
            message = consumer.poll(30)
            assert message is not None, "nothing came for 30 s"
            if message.error():
                assert message.error().name() == "_PARTITION_EOF", message.error()
                break
            record = (message.offset(), message.key(), message.value(), message.timestamp(), message.headers())
            digest.update(repr(record).encode())
            count += 1
        times = [TopicPartition(topic, 0, time) for time in asked["times"]]
        found = [consumer.offsets_for_times([time], timeout=30)[0].offset for time in times]
        answer[level] = [low, high, count, digest.hexdigest(), found]
        consumer.close()
    return answer

print(json.dumps({"create": create, "write": write, "read": read, "churn": churn, "known": known}[asked["step"]]()))
"""

CONFIG = {"segment.bytes": str(1 << 20), "retention.ms": "-1"}
TIMES = [0, 1_790_000_000_000 + 10**6 + 17, 1_790_000_000_000 + 3 * 10**6 + 5, 1_790_000_000_000 + 10**8]


def ask(step: str, bootstrap: str, topic: str, **more: Any) -> Any:
    """Runs one step of `PROGRAM`."""
    request = json.dumps({"step": step, "bootstrap": bootstrap, "topic": topic, "times": TIMES, **more})
    run = subprocess.run(
        [str(peers.python()), "-c", PROGRAM], input=request, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def available() -> None:
    for why in (KafkaServer.missing(), OttlaServer.missing(), peers.missing("python")):
        if why:
            pytest.skip(why)


@pytest.fixture
def start(tmp_path: Path, available: None) -> Iterator[Callable[..., Any]]:
    """Starts a broker of a kind; all are stopped in the end."""
    running: list[OttlaServer | KafkaServer] = []

    def start(kind: type[OttlaServer | KafkaServer]) -> OttlaServer | KafkaServer:
        server = kind(tmp_path)
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        server.stop(kill=True)


def only_logs(partition: Path) -> None:
    """Leaves the batches, and what says which topic they are of."""
    for file in partition.iterdir():
        if file.suffix != ".log" and file.name != "partition.metadata":
            file.unlink()


def test_what_kafka_wrote_opens_in_ottla(start: Callable[..., Any], tmp_path: Path) -> None:
    source = start(KafkaServer)
    ask("create", source.bootstrap, "orders", config=CONFIG)
    ask("write", source.bootstrap, "orders", records=6_000, transactions=6)
    expected = ask("read", source.bootstrap, "orders")
    written = source.logs / "orders-0"
    assert len(list(written.glob("*.log"))) > 1
    # Now the indexes are as large as they may become, and end in zeroes.
    killed = shutil.copytree(written, tmp_path / "killed")
    source.stop()
    stopped = shutil.copytree(written, tmp_path / "stopped")

    target = OttlaServer(tmp_path)
    for left, trim in [(stopped, False), (killed, False), (stopped, True)]:
        shutil.rmtree(target.data, ignore_errors=True)
        shutil.copytree(left, target.logs / "orders-0")
        if trim:
            only_logs(target.logs / "orders-0")
        target = start(OttlaServer)
        assert ask("read", target.bootstrap, "orders") == expected
        # And it goes on from there, with producer ids that the other broker has not given out.
        ask("write", target.bootstrap, "orders", records=10, transactions=0)
        more = ask("read", target.bootstrap, "orders")["read_committed"]
        assert more[1] == expected["read_committed"][1] + 50
        target.stop()
        check_dump(dump(target.logs / "orders-0", "--deep-iteration"))


def test_what_ottla_wrote_opens_in_kafka(start: Callable[..., Any], tmp_path: Path) -> None:
    source = start(OttlaServer)
    ask("create", source.bootstrap, "orders", config=CONFIG)
    ask("write", source.bootstrap, "orders", records=6_000, transactions=0)
    expected = ask("read", source.bootstrap, "orders")
    assert len(list((source.logs / "orders-0").glob("*.log"))) > 1
    killed = shutil.copytree(source.logs / "orders-0", tmp_path / "killed")
    source.stop()
    stopped = source.logs / "orders-0"
    check_dump(dump(stopped, "--deep-iteration"))
    check_dump(dump(killed, "--deep-iteration"))

    target = start(KafkaServer)
    for topic in ["stopped", "trimmed", "killed"]:
        ask("create", target.bootstrap, topic, config=CONFIG)
    target.stop()

    def hand_over(partition: Path, topic: str) -> Path:
        theirs: Path = target.logs / f"{topic}-0"
        identity = (theirs / "partition.metadata").read_bytes()
        shutil.rmtree(theirs)
        shutil.copytree(partition, theirs)
        (theirs / "partition.metadata").write_bytes(identity)
        return theirs

    hand_over(stopped, "stopped")
    only_logs(hand_over(stopped, "trimmed"))
    target.start()
    for topic in ["stopped", "trimmed"]:
        assert ask("read", target.bootstrap, topic) == expected
    target.stop()
    hand_over(killed, "killed")
    # As after a crash of its own, it looks at all that lies above the recovery point.
    (target.logs / ".kafka_cleanshutdown").unlink()
    (target.logs / "recovery-point-offset-checkpoint").unlink()
    target.start()
    for topic in ["stopped", "killed"]:
        assert ask("read", target.bootstrap, topic) == expected


COMPACTED = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "segment.bytes": str(1 << 20)}


def await_compaction(server: OttlaServer | KafkaServer, topic: str, records: int) -> Any:
    """Waits until few of so many records are left. Returns what is known of the keys: what was known before."""
    before = ask("known", server.bootstrap, topic)
    end = time.monotonic() + 60
    while (now := ask("known", server.bootstrap, topic))[1] > records // 3:
        assert time.monotonic() < end, f"not compacted: {now[1]} of {records} records are left"
        time.sleep(1)
    assert now[0] == before[0] and now[2] == before[2], "compaction changes nothing that is known"
    return now


def test_what_ottla_compacted_opens_in_kafka(start: Callable[..., Any], tmp_path: Path) -> None:
    source = OttlaServer(tmp_path, "--config", "log.cleaner.backoff.ms=100")
    try:
        source.start()
        ask("create", source.bootstrap, "latest", config=COMPACTED | {"segment.bytes": "100000"})
        ask("churn", source.bootstrap, "latest", records=2_000, transactions=0, filler=150)
        known = await_compaction(source, "latest", 10_000)
        # And once more over what is compacted already, by a broker that was killed.
        source.restart(kill=True)
        ask("churn", source.bootstrap, "latest", records=1_000, transactions=0, filler=150)
        known = await_compaction(source, "latest", 5_000)
    finally:
        source.stop()
    left = source.logs / "latest-0"
    text = dump(left, "--deep-iteration")
    check_dump(text)
    assert "deleteHorizonMs: OptionalLong[" in text, "deletions have their time"
    assert not [file.name for file in left.iterdir() if file.suffix in (".cleaned", ".swap", ".deleted")]

    target = start(KafkaServer)
    ask("create", target.bootstrap, "latest", config=COMPACTED)
    target.stop()
    theirs = target.logs / "latest-0"
    identity = (theirs / "partition.metadata").read_bytes()
    shutil.rmtree(theirs)
    shutil.copytree(left, theirs)
    (theirs / "partition.metadata").write_bytes(identity)
    target.start()
    assert ask("known", target.bootstrap, "latest")[2] == known[2]


def test_what_kafka_compacted_opens_in_ottla_and_is_compacted_there(start: Callable[..., Any], tmp_path: Path) -> None:
    source = start(KafkaServer)
    ask("create", source.bootstrap, "latest", config=COMPACTED)
    ask("churn", source.bootstrap, "latest", records=4_000, transactions=4, filler=1_500)
    known = await_compaction(source, "latest", 20_000)
    # (Its own tool finds fault with its time indexes then: entries for batches of which nothing is left.)
    source.stop()

    target = OttlaServer(tmp_path, "--config", "log.cleaner.backoff.ms=100", "--config", "cleanup.policy=compact")
    shutil.copytree(source.logs / "latest-0", target.logs / "latest-0")
    for setting in ["min.cleanable.dirty.ratio=0.01", "segment.bytes=100000"]:
        target.options += ("--config", setting)
    try:
        target.start()
        assert ask("known", target.bootstrap, "latest")[2] == known[2]
        ask("churn", target.bootstrap, "latest", records=2_000, transactions=0, filler=150)
        await_compaction(target, "latest", 10_000)
    finally:
        target.stop()
    check_dump(dump(target.logs / "latest-0", "--deep-iteration"))
