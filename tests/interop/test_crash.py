"""What was acknowledged with acks=all is there after `kill -9`, once and in order."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from pathlib import Path

import pytest
from clients import CONFLUENT, DRIVERS, decode
from servers import Server, peers

PARTITIONS = 4
#: Many segments, so that crashes hit rolls, too. Kafka takes none that are so small.
SEGMENTS = {"ottla": {"segment.bytes": "20000"}, "kafka": {}}
ROUNDS = {"ottla": 12, "kafka": 2}


def test_kill_9_loses_nothing_acknowledged(server: Server, topic: str, tmp_path: Path) -> None:
    if why := CONFLUENT.missing():
        pytest.skip(why)
    CONFLUENT.do("create", server.bootstrap, topic=topic, partitions=PARTITIONS, config=SEGMENTS[server.name])
    errors = tmp_path / "errors"
    firehose = subprocess.Popen(
        [str(peers.python()), str(DRIVERS / "firehose.py"), server.bootstrap, topic, str(PARTITIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors.open("wb"),
        text=True,
    )
    assert firehose.stdin is not None
    acknowledged: list[tuple[str, int, int]] = []

    def listen() -> None:
        assert firehose.stdout is not None
        for line in firehose.stdout:
            number, partition, offset = line.split()
            acknowledged.append((number, int(partition), int(offset)))

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        chance = random.Random(1)
        for _ in range(ROUNDS[server.name]):
            enough, end = len(acknowledged) + chance.randrange(200, 4_000), time.monotonic() + 60
            while len(acknowledged) < enough:
                assert firehose.poll() is None, f"the producer gave up: {errors.read_text()[-1000:]}"
                assert time.monotonic() < end, "nothing is acknowledged any more"
                time.sleep(0.005)
            server.restart(kill=True)
        firehose.stdin.close()
        assert firehose.wait(90) == 0, "a record was not delivered in the end"
    finally:
        firehose.kill()
        listener.join()

    stored = CONFLUENT.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=len(acknowledged))
    at = {(record["partition"], record["offset"]): decode(record["value"]) for record in stored}
    lost = [entry for entry in acknowledged if at.get((entry[1], entry[2])) != entry[0].encode()]
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged records are not where they were, e.g. {lost[:5]}"
    if server.name == "ottla":
        segments = [len(list((server.logs / f"{topic}-{number}").glob("*.log"))) for number in range(PARTITIONS)]
        assert min(segments) > 1, segments
    for partition in range(PARTITIONS):
        numbers = [int(value or b"") for (p, _), value in sorted(at.items()) if p == partition]
        assert numbers == sorted(set(numbers)), "a record is there twice, or out of order"
