"""What was acknowledged with acks=all is there after `kill -9`, once and in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from clients import CONFLUENT, DRIVERS, Running, check_acknowledged, decode
from servers import Server, peers

PARTITIONS = 4
#: Many segments, so that crashes hit rolls, too. Kafka takes none that are so small.
SEGMENTS = {"ottla": {"segment.bytes": "20000"}, "kafka": {}}
ROUNDS = {"ottla": 12, "kafka": 2}


def test_kill_9_loses_nothing_acknowledged(server: Server, topic: str, tmp_path: Path) -> None:
    if why := CONFLUENT.missing():
        pytest.skip(why)
    CONFLUENT.do("create", server.bootstrap, topic=topic, partitions=PARTITIONS, config=SEGMENTS[server.name])
    firehose = Running(
        tmp_path / "errors", peers.python(), DRIVERS / "firehose.py", server.bootstrap, topic, str(PARTITIONS)
    )
    try:
        chance = random.Random(1)
        for _ in range(ROUNDS[server.name]):
            firehose.wait_for_more(chance.randrange(200, 4_000), "acknowledgement")
            server.restart(kill=True)
        firehose.end()
    finally:
        firehose.kill()

    count = len(firehose.lines)
    stored = CONFLUENT.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=count)
    at = {(record["partition"], record["offset"]): (decode(record["value"]) or b"").decode() for record in stored}
    check_acknowledged(at, firehose.lines)
    if server.name == "ottla":
        segments = [len(list((server.logs / f"{topic}-{number}").glob("*.log"))) for number in range(PARTITIONS)]
        assert min(segments) > 1, segments
