"""A replica of three brokers of Apache Kafka: nothing is lost and nothing is twice, whatever happens to them.

$OTTLA_SOAK says how often each broker is killed; once when it is not set.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clients import DRIVERS, OTTLA, PYTHON, Running, check_acknowledged, records
from program import Program, Serve, ok, run, wait_until
from segments import check_same, dumped_batches
from servers import KafkaCluster, OttlaServer, peers
from test_log_directory import ask

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


def described(address: str, topic: str) -> list[dict[str, Any]]:
    """Each partition's leader, in-sync replicas, start and end."""
    (line,) = ok("topics", address, "describe", topic, "--json").lines
    partitions: list[dict[str, Any]] = line["partitions"]
    return partitions


def await_in_sync(cluster: KafkaCluster, *topics: str) -> None:
    """Waits until every broker knows these topics and has all that is theirs."""
    for topic in topics:
        for address in cluster.bootstrap.split(","):

            def are_in_sync(topic: str = topic, address: str = address) -> bool:
                done = run("topics", address, "describe", topic, "--json")
                return done.code == 0 and all(len(p["in_sync_replicas"]) == 3 for p in done.lines[0]["partitions"])

            wait_until(f"each replica of {topic} is in sync, says {address}", are_in_sync, timeout=60)


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

    total = sum(partition["end"] for topic in topics for partition in described(cluster.bootstrap, topic))
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
        for partition in described(cluster.bootstrap, topic):
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


CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def contents(address: str) -> dict[int, tuple[Any, ...]]:
    """All records of the compacted topic, committed or not."""
    lines = ok("consume", address, "latest").lines
    return {line["offset"]: (line["key"], line["value"], line["timestamp"]) for line in lines}


#: Turns of the churn between two faults.
TURNS = 8


def test_a_replica_is_what_its_source_is_while_transactions_compaction_and_retention_go_on(
    cluster: KafkaCluster, serve: Callable[..., Serve], tmp_path: Path
) -> None:
    create(cluster, "transactions", 1, segment_ms="1000")
    often = {"segment_ms": "500"}
    create(
        cluster,
        "latest",
        1,
        cleanup_policy="compact",
        min_cleanable_dirty_ratio="0.01",
        delete_retention_ms="100",
        **often,
    )
    create(cluster, "retained", 1, retention_bytes="60000", **often)
    create(cluster, "deleted", 1, **often)
    topics = ["transactions", "latest", "retained", "deleted"]
    chosen = ["--topics", ",".join(topics)]
    replica = serve("replica", "--follow", cluster.bootstrap, "--async", *chosen)
    copied = tmp_path / "copied"
    ends = dict.fromkeys(topics, 0)
    holes: dict[str, int] = dict.fromkeys(topics, 0)
    churn = Running(tmp_path / "churn", peers.python(), DRIVERS / "churn.py", cluster.bootstrap)

    def state(address: str, topic: str) -> tuple[int, int]:
        (partition,) = described(address, topic)
        return partition["start"], partition["end"]

    def copy() -> None:
        """Copies what is new, and looks whether holes are where the source had gone on, and nowhere else."""
        before = {topic: state(cluster.bootstrap, topic)[0] for topic in topics}
        for line in ok("replicate", cluster.bootstrap, copied, *chosen, "--json").lines:
            topic = line["topic"]
            if line["hole"]:
                assert line["hole"][0] == ends[topic] < line["hole"][1], line
                holes[topic] += 1
            else:
                assert before[topic] <= ends[topic], f"offsets from {ends[topic]} on are missing: {line}"
            ends[topic] = line["end"]

    def delete() -> None:
        ok("topics", cluster.bootstrap, "delete-records", "deleted", "--before", "end")

    try:
        for at in range(2 * SOAK):
            churn.wait_for_more(TURNS, "turn")
            leader = described(cluster.bootstrap, "transactions")[0]["leader"]
            cluster.kill(leader)
            churn.wait_for_more(TURNS, "turn")
            copy()
            if at % 2 == 1:
                # Away for so long that all of what it lacks is gone, of two of the topics.
                replica.process.send_signal(signal.SIGSTOP)
                away = {topic: state(cluster.bootstrap, topic)[1] for topic in topics}
                churn.wait_for_more(TURNS, "turn")
            delete()
            cluster.start()
            await_in_sync(cluster, *topics)
            if at % 2 == 1:
                while state(cluster.bootstrap, "retained")[0] <= away["retained"]:
                    churn.wait_for_more(1, "turn")
                replica.process.send_signal(signal.SIGCONT)
            cluster.elect()
        churn.wait_for_more(TURNS, "turn")
        delete()
        churn.say("end")
        while churn.lines[-1] != ["open"]:
            churn.wait_for_more(1, "turn")

        for topic in topics:
            wait_until(
                f"{topic} is the same here as there",
                lambda topic=topic: state(replica.address, topic) == state(cluster.bootstrap, topic),  # type: ignore[misc]
            )
        copy()
        assert holes["transactions"] == holes["latest"] == 0 < holes["deleted"]
        lacking = re.findall(r"no longer has .* partition=(\w+)-0", "\n".join(replica.errors))
        assert set(lacking) == {"retained", "deleted"}

        again = serve("copied")
        for topic in ["transactions", "retained", "deleted"]:
            leader = described(cluster.bootstrap, topic)[0]["leader"]
            source, start = cluster.logs(leader) / f"{topic}-0", state(cluster.bootstrap, topic)[0]
            lines = dumped_batches(source, start)
            for place in (replica, again):
                found = check_same(source, place.data / f"{topic}-0", start)
            # Most of it is waiting.
            with ThreadPoolExecutor() as pool:
                addresses = (cluster.bootstrap, replica.address, again.address)
                read, *others = pool.map(lambda address, topic=topic: ask("read", address, topic), addresses)
            assert others == [read, read]
            assert dumped_batches(replica.data / f"{topic}-0", start) == lines
            if topic == "transactions":
                assert len({batch.leader_epoch for batch in found}) >= 3
                text = "\n".join(lines)
                for word in ("isTransactional: true", "isControl: true", *(f"compresscodec: {c}" for c in CODECS)):
                    assert word in text, f"there is no '{word}' in the log"
                assert read["read_committed"][2] < read["read_uncommitted"][2]

        # What is left of the compacted topic there is here, as it is there; and no key has another value.
        wait_until("it is compacted", lambda: len(contents(cluster.bootstrap)) < ends["latest"] // 4)
        left, known = contents(cluster.bootstrap), ask("known", cluster.bootstrap, "latest")
        for place in (replica, again):
            assert left.items() <= contents(place.address).items()
            assert ask("known", place.address, "latest")[::2] == known[::2]
    finally:
        churn.kill()
