"""The files are Kafka's: its dump tool reads Ottla's, each broker goes on where the other stopped."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import CONFLUENT, check_same, sample
from servers import KafkaServer, OttlaServer, Server, kafka

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PARTITIONS = 2
#: It moved.
DUMP = ("org.apache." if kafka.RENAMED else "") + "kafka.tools.DumpLogSegments"


@pytest.fixture
def own_server(tmp_path: Path, server_kind: type[OttlaServer | KafkaServer]) -> Iterator[Server]:
    """A broker of this test's own, which it may stop and look into."""
    for why in (server_kind.missing(), CONFLUENT.missing(), KafkaServer.missing()):
        if why:
            pytest.skip(why)
    running = server_kind(tmp_path / "own")
    try:
        running.start()
        yield running
    finally:
        running.stop(kill=True)


def fill(server: Server, topic: str) -> list[dict]:
    """A topic with a bit of everything, and what was sent."""
    CONFLUENT.do("create", server.bootstrap, topic=topic, partitions=PARTITIONS)
    records = []
    for codec in CODECS:
        batch = sample(CONFLUENT, 300, PARTITIONS, f"{topic}-{codec}")
        CONFLUENT.do("produce", server.bootstrap, topic=topic, codec=codec, records=batch)
        records += batch
    return records


def dump(*arguments: str) -> str:
    command = kafka.java(DUMP, list(arguments), options=kafka.TOOL_OPTIONS)
    run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
    assert "Exception" not in run.stderr, run.stderr
    output: str = run.stdout
    return output


def test_kafkas_dump_tool_reads_them(own_server: Server, topic: str) -> None:
    records = fill(own_server, topic)
    own_server.stop()
    for partition in range(PARTITIONS):
        directory = own_server.logs / f"{topic}-{partition}"
        logs = sorted(directory.glob("*.log"))
        output = dump("--deep-iteration", "--files", ",".join(map(str, logs)))
        offsets = [int(offset) for offset in re.findall(r"^\| offset: (\d+) ", output, re.MULTILINE)]
        wanted = sum(record["partition"] == partition for record in records)
        assert offsets == list(range(wanted)), f"{directory}: {output[:2000]}"
        for codec in CODECS:
            assert f"compresscodec: {codec}" in output
        assert "isvalid: false" not in output
        assert "isValid: false" not in output
        # A broker that was stopped leaves its indexes; Kafka's tool finds what is wrong in them.
        indexes = [path for kind in ("index", "timeindex") for path in directory.glob(f"*.{kind}")]
        if indexes:
            output = dump("--verify-index-only", "--files", ",".join(map(str, sorted(indexes))))
            assert "ismatch" not in output, output
            assert "out of order" not in output, output


def test_kafka_goes_on_where_ottla_stopped(tmp_path: Path, topic: str) -> None:
    for why in (OttlaServer.missing(), CONFLUENT.missing(), KafkaServer.missing()):
        if why:
            pytest.skip(why)
    ottla, apache = OttlaServer(tmp_path / "ottla"), KafkaServer(tmp_path / "apache")
    try:
        ottla.start()
        records = fill(ottla, topic)
        ottla.stop()
        apache.start()
        CONFLUENT.do("create", apache.bootstrap, topic=topic, partitions=PARTITIONS)
        apache.stop()
        for partition in range(PARTITIONS):
            here = apache.logs / f"{topic}-{partition}"
            # Kafka knows a partition by the id in partition.metadata, and makes the rest again from the .log files.
            for old in here.iterdir():
                if old.name != "partition.metadata":
                    old.unlink()
            for log in (ottla.logs / here.name).glob("*.log"):
                shutil.copy(log, here)
        apache.start()
        # The broker may give a new producer an id that one of the other broker's has in these files: no idempotence.
        more = sample(CONFLUENT, 100, PARTITIONS, f"{topic}-more")
        CONFLUENT.do("produce", apache.bootstrap, topic=topic, codec="zstd", records=more, idempotent=False)
        records += more
        received = CONFLUENT.do("consume", apache.bootstrap, topic=topic, partitions=PARTITIONS, count=len(records))
        check_same(CONFLUENT, records, received)
    finally:
        ottla.stop(kill=True)
        apache.stop(kill=True)


def test_ottla_goes_on_where_kafka_stopped(tmp_path: Path, topic: str) -> None:
    for why in (OttlaServer.missing(), CONFLUENT.missing(), KafkaServer.missing()):
        if why:
            pytest.skip(why)
    ottla, apache = OttlaServer(tmp_path / "ottla"), KafkaServer(tmp_path / "apache")
    try:
        apache.start()
        records = fill(apache, topic)
        apache.stop()
        ottla.start()
        CONFLUENT.do("create", ottla.bootstrap, topic=topic, partitions=PARTITIONS)
        ottla.stop()
        for partition in range(PARTITIONS):
            here = ottla.logs / f"{topic}-{partition}"
            identity = (here / "partition.metadata").read_bytes()
            shutil.rmtree(here)
            # All of Kafka's files, its indexes too.
            shutil.copytree(apache.logs / here.name, here)
            (here / "partition.metadata").write_bytes(identity)
        ottla.start()
        # The broker may give a new producer an id that one of the other broker's has in these files: no idempotence.
        more = sample(CONFLUENT, 100, PARTITIONS, f"{topic}-more")
        CONFLUENT.do("produce", ottla.bootstrap, topic=topic, codec="zstd", records=more, idempotent=False)
        records += more
        received = CONFLUENT.do("consume", ottla.bootstrap, topic=topic, partitions=PARTITIONS, count=len(records))
        check_same(CONFLUENT, records, received)
        stored = sorted((r["timestamp"], r["offset"]) for r in received if r["partition"] == 0)
        instant = stored[len(stored) // 2][0]
        expected = min(r["offset"] for r in received if r["partition"] == 0 and r["timestamp"] >= instant)
        answer = CONFLUENT.do("offsets", ottla.bootstrap, topic=topic, partitions=PARTITIONS, times=[instant])
        assert answer["times"][str(instant)]["0"] == expected
    finally:
        ottla.stop(kill=True)
        apache.stop(kill=True)
