"""A replica of three brokers of Apache Kafka: nothing is lost and nothing is twice, whatever happens to them.

$OTTLA_SOAK says how often each broker is killed; once when it is not set.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import DRIVERS, OTTLA, PYTHON, Running, check_acknowledged
from program import Program, ok, wait_until
from segments import check_same, dumped_batches
from servers import KafkaCluster, OttlaServer, peers

PARTITIONS = 3
SOAK = int(os.environ.get("OTTLA_SOAK", "1"))
#: Acknowledged between two faults, at least.
ENOUGH = 1_500
Start = Callable[[Program], Program]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    for why in (KafkaCluster.missing(), OttlaServer.missing(), OTTLA.missing()):
        if why:
            pytest.skip(why)
    with KafkaCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def started() -> Iterator[Start]:
    """Takes programs that are killed when the test has ended, if they run still."""
    running: list[Program] = []

    def take(one: Program) -> Program:
        running.append(one)
        return one

    yield take
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
            one.process.wait()


def create(cluster: KafkaCluster, topic: str, partitions: int = PARTITIONS, **config: str) -> None:
    """A topic that needs two of its three replicas to take a record."""
    options = [f"{name.replace('_', '.')}={value}" for name, value in {"min_insync_replicas": "2", **config}.items()]
    configs = [part for option in options for part in ("--config", option)]
    ok(
        "topics",
        cluster.bootstrap,
        "create",
        topic,
        "--partitions",
        str(partitions),
        "--replication-factor",
        "3",
        *configs,
    )
    await_in_sync(cluster, topic)


def described(cluster: KafkaCluster, topic: str) -> list[dict[str, Any]]:
    """Each partition's leader, in-sync replicas, start and end."""
    (line,) = ok("topics", cluster.bootstrap, "describe", topic, "--json").lines
    partitions: list[dict[str, Any]] = line["partitions"]
    return partitions


def await_in_sync(cluster: KafkaCluster, *topics: str) -> None:
    for topic in topics:
        wait_until(
            f"each replica of {topic} is in sync",
            lambda topic=topic: all(len(p["in_sync_replicas"]) == 3 for p in described(cluster, topic)),  # type: ignore[misc]
            timeout=60,
        )


def records(place: str | Path, topic: str) -> dict[tuple[int, int], str]:
    lines = ok("consume", place, topic).lines
    stored = {(line["partition"], line["offset"]): str(line["value"]) for line in lines}
    assert len(stored) == len(lines), "a reader got a record twice"
    return stored


def test_a_replica_has_all_that_was_acknowledged_while_each_broker_is_killed(
    cluster: KafkaCluster, started: Start, tmp_path: Path
) -> None:
    topics = ["theirs", "ours"]
    for topic in topics:
        create(cluster, topic)
    followed, copied = tmp_path / "followed", tmp_path / "copied"
    chosen = ["--topics", ",".join(topics)]
    following = started(Program("replicate", cluster.bootstrap, followed, "--follow", *chosen))
    arguments = [str(PARTITIONS), "4"]
    theirs = Running(
        tmp_path / "theirs", peers.python(), DRIVERS / "firehose.py", cluster.bootstrap, "theirs", *arguments
    )
    ours = Running(tmp_path / "ours", PYTHON, DRIVERS / "ottla_firehose.py", cluster.bootstrap, "ours", *arguments)
    extents = set()
    try:
        for _ in range(SOAK):
            for node in cluster.nodes:
                theirs.wait_for_more(ENOUGH, "acknowledgement")
                cluster.kill(node)
                theirs.wait_for_more(ENOUGH, "acknowledgement")
                ours.wait_for_more(ENOUGH, "acknowledgement")
                extents |= {
                    line["extent"] for line in ok("replicate", cluster.bootstrap, copied, *chosen, "--json").lines
                }
                cluster.start()
                await_in_sync(cluster, *topics)
                cluster.elect()
        theirs.wait_for_more(ENOUGH, "acknowledgement")
        theirs.end()
        ours.end()
    finally:
        theirs.kill()
        ours.kill()

    total = sum(partition["end"] for topic in topics for partition in described(cluster, topic))
    before = sum(line["records"] for line in following.lines if "extent" in line)
    following.wait_until_caught_up(total - before)
    assert following.end(signal.SIGINT) == 0
    assert following.lines[-1]["records"] == total - before, "nothing was written twice"
    lines = ok("replicate", cluster.bootstrap, copied, *chosen, "--json").lines
    assert extents | {line["extent"] for line in lines} == {"full", "incremental"}
    assert not [line for line in following.lines + lines if line.get("hole") or line.get("parted_at")]

    sent = {"theirs": theirs.lines, "ours": [line[1:] for line in ours.lines if line[0] == "sent"]}
    epochs = set()
    for topic in topics:
        check_acknowledged(records(followed, topic), sent[topic])
        for partition in described(cluster, topic):
            name = f"{topic}-{partition['partition']}"
            for node in cluster.nodes:
                for replica in (followed, copied):
                    epochs |= {batch.leader_epoch for batch in check_same(cluster.logs(node) / name, replica / name)}
    assert len(epochs) >= 3, epochs
    assert dumped_batches(followed / "ours-0") == dumped_batches(cluster.logs(1) / "ours-0")

    # The consumer read everything, and never passed over a record. A group may be given some again.
    got = [(int(p), int(offset), number) for what, number, p, offset in ours.lines if what == "got"]
    at = dict.fromkeys(range(PARTITIONS), 0)
    for number, offset, _ in got:
        assert offset <= at[number], f"offsets from {at[number]} on were passed over: partition={number}"
        at[number] = max(at[number], offset + 1)
    check_acknowledged({(number, offset): value for number, offset, value in got}, sent["ours"])
