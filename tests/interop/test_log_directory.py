"""A log directory is Kafka's: what one of the two brokers wrote, the other one and Kafka's own dump tool read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import KafkaServer, OttlaServer, kafka, peers

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

print(json.dumps({"create": create, "write": write, "read": read}[asked["step"]]()))
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


def dump(directory: Path) -> str:
    """What Kafka's own tool says of all files of a partition."""
    names = [".log", ".index", ".timeindex", ".txnindex", ".snapshot"]
    files = sorted(str(file) for file in directory.iterdir() if file.suffix in names)
    command = kafka.java(
        "org.apache.kafka.tools.DumpLogSegments",
        ["--deep-iteration", "--files", ",".join(files)],
        options=kafka.TOOL_OPTIONS,
    )
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout + run.stderr


def check_dump(text: str) -> None:
    """The tool found nothing wrong."""
    wrong = [
        line
        for line in text.splitlines()
        if re.search(r"mismatch|corrupt|isvalid: false|exception", line, re.IGNORECASE)
    ]
    assert not wrong, "\n".join(wrong[:10])


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
        check_dump(dump(target.logs / "orders-0"))


def test_what_ottla_wrote_opens_in_kafka(start: Callable[..., Any], tmp_path: Path) -> None:
    source = start(OttlaServer)
    ask("create", source.bootstrap, "orders", config=CONFIG)
    ask("write", source.bootstrap, "orders", records=6_000, transactions=0)
    expected = ask("read", source.bootstrap, "orders")
    assert len(list((source.logs / "orders-0").glob("*.log"))) > 1
    killed = shutil.copytree(source.logs / "orders-0", tmp_path / "killed")
    source.stop()
    stopped = source.logs / "orders-0"
    check_dump(dump(stopped))
    check_dump(dump(killed))

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
