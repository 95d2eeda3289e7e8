"""What a person does with Kafka, done with each real client, against each broker.

The list is the same for all: create a topic, produce with each codec, consume and compare, consume in a group of two
with a rebalance, commit, restart the broker, go on, list offsets by time, delete records, delete the topic.
"""

from __future__ import annotations

import time
from collections import defaultdict

import pytest
from clients import CONFLUENT, OTTLA, Client, check_same, sample
from servers import Server

PARTITIONS = 4
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def able(client: Client, step: str) -> Client:
    """The client itself, or the one that does this step for it."""
    if step not in client.lacks:
        return client
    if why := CONFLUENT.missing():
        pytest.skip(f"{client.name} cannot {step}, and of the client that does it instead: {why}")
    return CONFLUENT


def create(client: Client, server: Server, topic: str, partitions: int = PARTITIONS) -> None:
    able(client, "create").do("create", server.bootstrap, topic=topic, partitions=partitions)


def test_a_topic_is_created_listed_and_deleted(server: Server, client: Client, topic: str) -> None:
    create(client, server, topic)
    assert client.do("topics", server.bootstrap).get(topic) == PARTITIONS
    able(client, "delete").do("delete", server.bootstrap, topic=topic)
    patience = time.monotonic() + 10
    while topic in client.do("topics", server.bootstrap):
        assert time.monotonic() < patience, "the topic is listed 10 s after it was deleted"


def test_producing_creates_an_absent_topic(server: Server, client: Client, topic: str) -> None:
    records = sample(client, 10, 1, topic)
    client.do("produce", server.bootstrap, topic=topic, codec="none", records=records)
    assert client.do("topics", server.bootstrap).get(topic) == 1
    check_same(client, records, client.do("consume", server.bootstrap, topic=topic, partitions=1, count=len(records)))


@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_as_they_were_sent(server: Server, client: Client, topic: str, codec: str) -> None:
    create(client, server, topic)
    records = sample(client, 200, PARTITIONS, f"{topic}-{codec}")
    before = int(time.time() * 1000)
    placed = client.do("produce", server.bootstrap, topic=topic, codec=codec, records=records)
    received = client.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=len(records))
    check_same(client, records, received)
    if placed is not None:
        at = {(record["partition"], record["offset"]): record for record in received}
        for record, (partition, offset) in zip(records, placed, strict=True):
            assert at[partition, offset]["value"] == record["value"]
    if not client.stamps:
        after = int(time.time() * 1000)
        assert all(before <= record["timestamp"] <= after for record in received)
    if client is not CONFLUENT and CONFLUENT.missing() is None:
        read = CONFLUENT.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=len(records))
        check_same(client, records, read)


@pytest.mark.parametrize("codec", CODECS)
def test_records_of_another_client_are_read(server: Server, client: Client, topic: str, codec: str) -> None:
    writer = OTTLA if client is CONFLUENT else CONFLUENT
    if why := writer.missing():
        pytest.skip(why)
    create(client, server, topic)
    records = sample(writer if client is CONFLUENT else client, 200, PARTITIONS, f"{topic}-{codec}")
    writer.do("produce", server.bootstrap, topic=topic, codec=codec, records=records)
    received = client.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=len(records))
    check_same(client, records, received)


def test_a_group_rebalances_commits_and_goes_on_after_a_restart(server: Server, client: Client, topic: str) -> None:
    create(client, server, topic)
    group = f"g-{topic}"
    first = sample(client, 120, PARTITIONS, f"{topic}-first")
    client.do("produce", server.bootstrap, topic=topic, codec="none", records=first)
    result = client.do("group", server.bootstrap, topic=topic, partitions=PARTITIONS, group=group, count=len(first))
    alone, together, again = result["phases"]
    everything = list(range(PARTITIONS))
    assert alone == [everything]
    assert len(together) == 2
    assert all(len(share) == PARTITIONS // 2 for share in together)
    assert sorted(together[0] + together[1]) == everything
    assert again == [everything]
    check_same(client, first, result["records"])

    server.restart()

    second = sample(client, 80, PARTITIONS, f"{topic}-second")
    client.do("produce", server.bootstrap, topic=topic, codec="lz4", records=second)
    resumed = client.do("resume", server.bootstrap, topic=topic, partitions=PARTITIONS, group=group, count=len(second))
    if resumed["committed"] is not None:
        read: dict[str, int] = defaultdict(int)
        for record in result["records"]:
            read[str(record["partition"])] += 1
        assert resumed["committed"] == dict(read)
    check_same(client, second, resumed["records"])


def test_offsets_are_found_by_time(server: Server, client: Client, topic: str) -> None:
    create(client, server, topic)
    for part in range(3):
        records = sample(client, 40, PARTITIONS, f"{topic}-{part}")
        client.do("produce", server.bootstrap, topic=topic, codec="gzip" if part == 1 else "none", records=records)
    stored = client.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=120)
    stamps = sorted(record["timestamp"] for record in stored)
    times = [stamps[0] - 1000, stamps[0], stamps[20], stamps[60] + 1, stamps[-1], stamps[-1] + 1]
    answer = client.do("offsets", server.bootstrap, topic=topic, partitions=PARTITIONS, times=times)
    for partition in range(PARTITIONS):
        here = sorted((r["offset"], r["timestamp"]) for r in stored if r["partition"] == partition)
        assert answer["earliest"][str(partition)] == 0
        assert answer["latest"][str(partition)] == len(here)
        for instant in times:
            expected = next((offset for offset, stamp in here if stamp >= instant), -1)
            found = answer["times"][str(instant)].get(str(partition), -1)
            assert found == expected, f"partition {partition}, {instant}: {here}"


def test_deleted_records_are_gone(server: Server, client: Client, topic: str) -> None:
    create(client, server, topic)
    deleting = able(client, "delete_records")
    records = sample(client, 200, PARTITIONS, topic)
    client.do("produce", server.bootstrap, topic=topic, codec="none", records=records)
    stored = client.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=len(records))
    count = {p: sum(record["partition"] == p for record in stored) for p in range(PARTITIONS)}
    before = {"0": min(17, count[0]), "1": count[1]}
    assert deleting.do("delete_records", server.bootstrap, topic=topic, before=before) == before
    answer = client.do("offsets", server.bootstrap, topic=topic, partitions=PARTITIONS, times=[])
    assert answer["earliest"] == {"0": before["0"], "1": before["1"], "2": 0, "3": 0}
    assert answer["latest"] == {str(p): count[p] for p in count}
    kept = [r for r in stored if r["offset"] >= before.get(str(r["partition"]), 0)]
    received = client.do("consume", server.bootstrap, topic=topic, partitions=PARTITIONS, count=len(kept))
    assert sorted((r["partition"], r["offset"]) for r in received) == sorted(
        (r["partition"], r["offset"]) for r in kept
    )
    check_same(client, kept, received)
