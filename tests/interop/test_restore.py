"""Restores to a real Kafka: every record at its offset, every group where it stood, by every way there is."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from program import Serve, in_sync, ok, run
from segments import batches, check_dump, check_same, dump
from servers import KafkaCluster, KafkaServer, OttlaServer, kafka, ottla, peers

SHAPES = Path(__file__).parent / "drivers" / "shapes.py"


def shapes(step: str, bootstrap: str, **more: Any) -> Any:
    """Runs one step of `drivers/shapes.py`."""
    request = json.dumps({"step": step, "bootstrap": bootstrap, **more})
    done = subprocess.run(
        [str(peers.python()), str(SHAPES)], input=request, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{step}: {done.stderr[-3000:]}"
    return json.loads(done.stdout)


def until(what: str, is_so: Callable[[], Any], timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end, f"it is not so after {timeout} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def available() -> None:
    for why in (KafkaServer.missing(), OttlaServer.missing(), peers.missing("python")):
        if why:
            pytest.skip(why)


def is_on_three(bootstrap: str, topic: str) -> bool:
    return all(len(replicas) == 3 for replicas in in_sync(bootstrap, topic))


class Broker:
    """A Kafka broker, or three, that can be stopped and started."""

    def __init__(
        self,
        data: Path,
        brokers: int = 1,
        listeners: dict[str, str] | None = None,
        scram: dict[str, str] | None = None,
        log_dirs: list[Path] | None = None,
        **config: str,
    ) -> None:
        config = KafkaCluster.CONFIG | {"log.cleaner.backoff.ms": "200"} | config
        self.kafka = kafka.KafkaBroker(
            data, brokers, config, heap="320m", options=kafka.SHORT_LIVED, listeners=listeners, scram=scram
        )
        if log_dirs:
            # Beside the one that it has, whose place is known when it has been started.
            config["log.dirs"] = ",".join(map(str, [data / "node-1" / "logs", *log_dirs]))
            self.kafka.config = config
        self.kafka.start()

    @property
    def bootstrap(self) -> str:
        return str(self.kafka.bootstrap_servers)

    @property
    def target(self) -> str:
        return f"kafka://{self.bootstrap}"

    def logs(self, node: int = 1) -> Path:
        return next(Path(each["logs"]) for each in self.kafka.nodes if each["id"] == node)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Broker]]:
    """Starts brokers; all are killed in the end."""
    running: list[Broker] = []

    def start(count: int = 1, **config: Any) -> Broker:
        running.append(Broker(tmp_path_factory.mktemp("kafka") / "data", count, **config))
        return running[-1]

    yield start
    for one in running:
        one.kafka.stop(kill=True)


class Source:
    """A broker with topics of every shape, what they hold, and a backup of them."""

    def __init__(self, broker: Broker, repository: Path) -> None:
        self.broker, self.repository = broker, repository
        shapes("create", broker.bootstrap)
        shapes("write", broker.bootstrap)
        shapes("compact", broker.bootstrap)
        shapes("commit", broker.bootstrap)
        self.records = shapes("read", broker.bootstrap)
        self.groups = shapes("groups", broker.bootstrap)
        self.go_on = shapes("go_on", broker.bootstrap)
        ok("backup", broker.target, repository)


@pytest.fixture(scope="module")
def source(brokers: Callable[..., Broker], tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(brokers(), tmp_path_factory.mktemp("backup") / "repository")


def partitions(logs: Path) -> list[Path]:
    """The directories of the topics' partitions."""
    return sorted(directory for directory in logs.iterdir() if directory.is_dir() and directory.name[0] != "_")


def stored(logs: Path, source: Source) -> dict[str, list[bytes]]:
    """The batches of each partition, from its log start on."""
    starts = {directory: source.records[f"{directory.name} read_uncommitted"][0] for directory in partitions(logs)}
    return {directory.name: [batch.data for batch in batches(directory, at)] for directory, at in starts.items()}


def test_a_stopped_brokers_directory_comes_back_byte_for_byte(source: Source, tmp_path: Path) -> None:
    broker, logs = source.broker, source.broker.logs()
    repository = str(source.repository)
    refused = run("restore", repository, f"logdir:{logs}")
    assert refused.code == 1
    assert "stop it first" in refused.err
    broker.kafka.stop()
    before = stored(logs, source)
    assert len(before) == 10
    # Nothing is lacking, so nothing is written.
    for line in ok("restore", repository, f"logdir:{logs}", "--json").lines:
        assert line.get("bytes", 0) == 0, line
    # All is lost but the metadata and what groups committed.
    for directory in partitions(logs):
        shutil.rmtree(directory)
    planned = ok("restore", repository, f"logdir:{logs}", "--dry-run", "--json").lines
    assert sum(line["bytes"] for line in planned) == sum(len(data) for stored in before.values() for data in stored)
    assert partitions(logs) == []
    ok("restore", repository, f"logdir:{logs}", "--broker", "1")
    assert stored(logs, source) == before
    for directory in partitions(logs):
        check_dump(dump(directory, "--deep-iteration"))
    broker.kafka.start()
    assert shapes("read", broker.bootstrap) == source.records
    assert shapes("groups", broker.bootstrap) == source.groups
    assert shapes("go_on", broker.bootstrap) == source.go_on


def test_a_new_cluster_serves_the_directories_and_then_gets_the_groups(
    source: Source, brokers: Callable[..., Broker], tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    target = brokers(log_dirs=[second], **{"log.cleaner.backoff.ms": "3600000"})
    shapes("create", target.bootstrap)
    # Indexes of its own, which must not be believed, and a topic with something else in it.
    ok("produce", target.bootstrap, "codecs", given=b'{"partition": 0, "value": "other"}\n')
    target.kafka.stop()
    repository, logs = source.repository, target.logs()
    where = f"logdir:{logs},{second}"
    refused = run("restore", repository, where)
    assert refused.code == 2
    assert "partition=codecs-0" in refused.err
    assert run("restore", repository, where, "--topics", "nothing").code == 3
    ok("restore", repository, where, "--force")
    homes = [directory for home in (logs, second) for directory in partitions(home)]
    assert len(homes) == 10
    assert len({directory.parent for directory in homes}) == 2
    assert not any(batch.leader_epoch for directory in homes for batch in batches(directory))
    target.kafka.start()
    assert shapes("read", target.bootstrap) == source.records
    restored = ok("restore", repository, target.target, "--json").lines
    assert restored[-1]["groups"] == 2
    assert sum(line.get("records", 0) for line in restored) == 0
    assert shapes("groups", target.bootstrap) == source.groups
    # Its epochs go up, and nobody who reads takes that for a loss.
    target.kafka.restart()
    assert shapes("read", target.bootstrap) == source.records
    assert shapes("go_on", target.bootstrap) == source.go_on


def kafka_tool(name: str, *arguments: str) -> str:
    command = kafka.java(name, list(arguments), options=kafka.TOOL_OPTIONS)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout


ELECT = """
import sys
from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
wanted = [TopicPartition(sys.argv[2], partition) for partition in range(int(sys.argv[3]))]
admin.elect_leaders(ElectionType.UNCLEAN, wanted).result(30)
(topic,) = admin.list_topics(sys.argv[2], 30).topics.values()
sys.exit(any(partition.leader < 0 for partition in topic.partitions.values()))
"""


def test_one_broker_of_three_fetches_only_what_is_newer(brokers: Callable[..., Broker], tmp_path: Path) -> None:
    cluster, repository = brokers(3), tmp_path / "repository"
    shapes("create", cluster.bootstrap, replicas=3)
    shapes("write", cluster.bootstrap, scale=40)
    ok("topics", cluster.bootstrap, "create", "alone", "--partitions", "6", "--replication-factor", "1")
    ok("produce", cluster.bootstrap, "alone", "--lines", given=b"".join(b"%d\n" % n for n in range(3_000)))
    alone = sorted(ok("consume", cluster.bootstrap, "alone", "--lines").text.split())
    ok("backup", cluster.target, repository)

    def sizes(node: int) -> dict[Path, int]:
        """Of what may be there: one partition was emptied, and its deleted batches may lie in its files still."""
        files = [file for directory in partitions(cluster.logs(node)) for file in directory.glob("*.log")]
        return {file: file.stat().st_size for file in files if file.parent.name != "trimmed-1"}

    total = sum(sizes(2).values())
    lost = sorted(directory.name for directory in cluster.logs(2).glob("alone-*"))
    assert 0 < len(lost) < 6
    # A disk of broker 2 is replaced: nothing of it is left, and it is formatted anew.
    cluster.kafka.stop(2, kill=True)
    shapes("write", cluster.bootstrap, first=10**6)
    expected = shapes("read", cluster.bootstrap)
    shutil.rmtree(cluster.logs(2))
    cluster.logs(2).mkdir()
    state = json.loads((cluster.kafka.data / kafka.STATE).read_text())
    properties = cluster.logs(2).parent / "server.properties"
    kafka_tool("kafka.tools.StorageTool", "format", "-t", state["cluster"], "-c", str(properties))
    refused = run("restore", repository, f"logdir:{cluster.logs(2)}", "--broker", "3")
    assert refused.code == 2
    assert "wanted=3 found=2" in refused.err
    ok("restore", repository, f"logdir:{cluster.logs(2)}", "--broker", "2")
    assert sorted(directory.name for directory in cluster.logs(2).glob("alone-*")) == lost
    restored = sizes(2)
    assert sum(restored.values()) == total
    inodes = {file: file.stat().st_ino for file in restored}
    cluster.kafka.start()

    # The controller knows another directory of what has no other replica, and elects nobody who has lost one by itself.
    elect = [str(peers.python()), "-c", ELECT, cluster.bootstrap, "alone", "6"]
    until("all partitions have a leader", lambda: subprocess.run(elect, timeout=60).returncode == 0)

    def rejoined() -> bool:
        topics = ["appended", "codecs", "compacted", "empty", "transactions", "trimmed"]
        return all(2 in replicas for topic in topics for replicas in in_sync(cluster.bootstrap, topic))

    until("broker 2 is in sync", rejoined)
    # It went on in the files that were restored, and got as many bytes as were written meanwhile.
    fetched = sum(size - restored.get(file, 0) for file, size in sizes(2).items())
    assert inodes == {file: file.stat().st_ino for file in restored}
    newer = sum(size for file, size in sizes(1).items() if not file.parent.name.startswith("alone")) - sum(
        size for file, size in restored.items() if not file.parent.name.startswith("alone")
    )
    print(f"restored {total} bytes, fetched {fetched}, newer {newer}")
    assert fetched == newer
    assert 0 < fetched < total / 20
    # Now the others go, and what it has is all there is.
    cluster.kafka.stop(1)
    cluster.kafka.stop(3)
    for directory in partitions(cluster.logs(2)):
        if not directory.name.startswith("alone"):
            start = expected[f"{directory.name} read_uncommitted"][0]
            check_same(cluster.logs(1) / directory.name, directory, start)
    cluster.kafka.start()
    assert shapes("read", cluster.bootstrap) == expected
    assert sorted(ok("consume", cluster.bootstrap, "alone", "--lines").text.split()) == alone


def test_a_live_cluster_gets_every_record_at_its_offset(source: Source, brokers: Callable[..., Broker]) -> None:
    # Its compaction would go on where the source's has stopped.
    target, repository = brokers(**{"log.cleaner.backoff.ms": "3600000"}), source.repository
    planned = ok("restore", repository, target.target, "--dry-run", "--json").lines
    assert len(planned) == 10
    assert ok("topics", target.bootstrap, "--json").lines == []
    ok("restore", repository, target.target)
    expected = shapes("read", source.broker.bootstrap, levels=["read_committed"], kinds=False)
    assert shapes("read", target.bootstrap, levels=["read_committed"], kinds=False) == expected
    assert shapes("groups", target.bootstrap) == source.groups
    assert shapes("go_on", target.bootstrap) == source.go_on
    # Again: nothing new, and nothing twice.
    again = ok("restore", repository, target.target, "--json").lines
    assert again[-1]["groups"] == 2
    assert sum(line.get("records", 0) for line in again) == 0
    assert shapes("read", target.bootstrap, levels=["read_committed"], kinds=False) == expected


def test_topics_get_other_names_and_what_is_there_is_not_touched(
    source: Source, brokers: Callable[..., Broker]
) -> None:
    target, repository = brokers(), source.repository
    chosen: list[str | Path] = ["restore", repository, target.target, "--topics", "codecs,trimmed,empty"]
    topics = ["codecs", "empty", "trimmed"]
    ok("topics", target.bootstrap, "create", "codecs", "--partitions", "2")
    ok("produce", target.bootstrap, "codecs", "--lines", given=b"something else\n")
    refused = run(*chosen)
    assert refused.code == 1
    assert "holds other records" in refused.err
    assert "--force" in refused.err
    ok("topics", target.bootstrap, "create", "empty", "--partitions", "3")
    assert run("restore", repository, target.target, "--topics", "empty").code == 2
    assert [line["topic"] for line in ok("topics", target.bootstrap, "--json").lines] == ["codecs", "empty"]
    expected = shapes("read", source.broker.bootstrap, topics=topics)
    ok(*chosen, "--rename", "codecs=first", "--rename", "empty=second")
    renamed = {"codecs": "first", "empty": "second"}
    assert shapes("read", target.bootstrap, topics=topics, renamed=renamed) == expected
    assert ok("consume", target.bootstrap, "codecs", "--lines").text.split("\n")[0] == "something else"
    ok(*chosen, "--force")
    assert shapes("read", target.bootstrap, topics=topics) == expected
    (described,) = ok("topics", target.bootstrap, "describe", "codecs", "--json").lines
    held = ("max.message.bytes", "message.timestamp.type", "cleanup.policy")
    assert not any(name in json.dumps(described) for name in held), described


def test_a_restore_that_is_killed_goes_on(source: Source, brokers: Callable[..., Broker]) -> None:
    target, repository = brokers(**{"log.cleaner.backoff.ms": "3600000"}), source.repository
    command = [str(ottla()), "restore", str(repository), target.target]
    killed = 0
    for number in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            # Later each time, so that each has a chance to come further.
            process.wait(0.2 + 0.1 * number)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -9, errors.decode()
    else:
        raise AssertionError("it does not come to its end")
    assert killed > 3
    expected = shapes("read", source.broker.bootstrap, levels=["read_committed"], kinds=False)
    assert shapes("read", target.bootstrap, levels=["read_committed"], kinds=False) == expected
    assert shapes("groups", target.bootstrap) == source.groups


def test_where_markers_are_refused_transactions_fill_the_gaps(source: Source, brokers: Callable[..., Broker]) -> None:
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    secured = {"authorizer.class.name": authorizer, "super.users": "User:ANONYMOUS;User:admin"}
    jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    target = brokers(
        listeners={"LOGIN": "SASL_PLAINTEXT"},
        scram={"restorer": "secret"},
        **secured,
        **{"sasl.enabled.mechanisms": "SCRAM-SHA-256", "listener.name.login.scram-sha-256.sasl.jaas.config": jaas},
    )
    login = target.kafka.listener("LOGIN")
    acls = ["--bootstrap-server", target.bootstrap, "--add", "--allow-principal", "User:restorer"]
    ours = ["--transactional-id", "ottla-restore-", "--resource-pattern-type", "prefixed"]
    for scope in (["--topic", "*"], ["--group", "*"], ours):
        kafka_tool("org.apache.kafka.tools.AclCommand", *acls, "--operation", "All", *scope)
    options = ["-X", "security_protocol=SASL_PLAINTEXT", "-X", "sasl_mechanism=SCRAM-SHA-256"]
    options += ["-X", "sasl_plain_username=restorer", "-X", "sasl_plain_password=secret"]
    chosen: list[str | Path] = [
        "restore",
        source.repository,
        f"kafka://{login}",
        "--topics",
        "transactions,trimmed,empty",
        *options,
    ]
    ok(*chosen)
    topics = ["transactions", "trimmed", "empty"]
    expected = shapes("read", source.broker.bootstrap, levels=["read_committed"], topics=topics)
    assert shapes("read", target.bootstrap, levels=["read_committed"], topics=topics) == expected


def test_what_is_live_is_compared_with_the_backup(source: Source, brokers: Callable[..., Broker]) -> None:
    repository = source.repository
    (*_, whole) = ok("verify", repository, source.broker.target, "--json").lines
    records = sum(found[2] for name, found in source.records.items() if name.endswith("read_committed"))
    assert (whole["records"], whole["partitions"], whole["wrong"]) == (records, 10, 0)
    target = brokers()
    ok("restore", repository, target.target, "--topics", "trimmed", "--rename", "trimmed=other")
    ok("verify", repository, target.target, "--topics", "trimmed", "--rename", "trimmed=other")
    assert run("verify", repository, target.target, "--topics", "trimmed").code == 3
    # As many records, of which some are others; one too few; some removed; some more, which is nobody's business.
    ok("topics", target.bootstrap, "create", "trimmed", "--partitions", "3")
    values = "".join(f'{{"partition": 2, "value": "{"x" if n == 31 else n}", "timestamp": 0}}\n' for n in range(40))
    ok("produce", target.bootstrap, "trimmed", given=values.encode())
    done = run("verify", repository, target.target, "--topics", "trimmed", "--json")
    assert done.code == 6
    by_partition = {line["partition"]: line for line in done.lines[:-1]}
    assert (by_partition[0]["lacking"], by_partition[1]["lacking"]) == (27, 0)
    assert (by_partition[2]["differing"], by_partition[2]["lacking"]) == (40, 10)
    assert by_partition[2]["first"] == "timestamps differ offset=0"
    ok("produce", target.bootstrap, "other", given=b'{"partition": 0, "value": "more"}\n')
    ok("verify", repository, target.target, "--topics", "trimmed", "--rename", "trimmed=other")


def test_a_point_in_time_comes_back_by_each_way(source: Source, brokers: Callable[..., Broker], tmp_path: Path) -> None:
    target, origin = brokers(), source.broker
    ok("topics", origin.bootstrap, "create", "moments", "--partitions", "2", "--config", "retention.ms=-1")
    for minute in range(6):
        line = {"partition": minute % 2, "value": str(minute), "timestamp": 1_790_000_000_000 + 60_000 * minute}
        ok("produce", origin.bootstrap, "moments", given=json.dumps(line).encode())
    ok("consume", origin.bootstrap, "moments", "-G", "moments", "-c", "6")
    repository = tmp_path / "repository"
    ok("backup", origin.target, repository, "--topics", "moments")
    # 2026-09-21T14:13:20Z is minute 0.
    at = ["--at", "2026-09-21T14:16:20Z", "--at", "moments:1=1"]

    def found(place: str | Path) -> list[str]:
        return sorted(ok("consume", place, "moments", "--lines").text.split())

    ok("restore", repository, tmp_path / "log", *at)
    assert found(tmp_path / "log") == ["0", "1", "2"]
    ok("restore", repository, target.target, *at)
    assert found(target.bootstrap) == ["0", "1", "2"]
    ok("restore", repository, target.target, "--partitions", "moments:0")
    assert found(target.bootstrap) == ["0", "1", "2", "4"]
    ok("restore", repository, target.target)
    assert found(target.bootstrap) == ["0", "1", "2", "3", "4", "5"]
    ok("restore", repository, tmp_path / "part", "--partitions", "moments:1", "--at", "-1h")
    assert found(tmp_path / "part") == ["1", "3", "5"]
    assert run("restore", repository, target.target, *at).code == 1
    for wrong, code in [("yesterday", 2), ("moments:7=1", 3), ("moments=1", 2)]:
        assert run("restore", repository, tmp_path / "none", "--at", wrong).code == code, wrong
    assert run("restore", repository, tmp_path / "none", "--partitions", "moments:2").code == 3


def test_an_embedded_leader_and_its_followers_get_it_and_then_what_is_new(
    source: Source, serve: Callable[..., Serve], tmp_path: Path
) -> None:
    leader = serve("leader")
    followers = [serve(f"f{n}", "--follow", leader.address, "--node-id", str(n)) for n in (1, 2)]
    origin, repository = source.broker.bootstrap, tmp_path / "repository"
    topics = ["codecs", "empty", "trimmed"]
    ok("backup", source.broker.target, repository, "--topics", ",".join([*topics, "transactions"]))
    # Nothing of ours fills the gaps that markers leave.
    refused = run("restore", repository, f"kafka://{leader.address}")
    assert refused.code == 2
    assert "transactions-0" in refused.err
    assert ok("topics", leader.address, "--json").lines == []
    chosen: list[str | Path] = [
        "restore",
        repository,
        f"kafka://{leader.address}",
        "--topics",
        ",".join(topics),
        "--json",
    ]
    ok(*chosen)
    expected = shapes("read", origin, topics=topics)
    assert shapes("read", leader.address, topics=topics) == expected
    for topic in topics:
        until(f"{topic} is in sync", partial(is_on_three, leader.address, topic))
    ok("produce", origin, "codecs", given=b'{"partition": 1, "value": "new"}\n' * 3)
    ok("backup", source.broker.target, repository, "--topics", ",".join([*topics, "transactions"]))
    restored = ok(*chosen).lines
    assert sum(line.get("records", 0) for line in restored) == 3
    # All are killed when it has returned.
    for one in [leader, *followers]:
        one.process.kill()
        one.process.wait()
    expected = shapes("read", origin, topics=topics)
    for name in ("leader", "f1", "f2"):
        again = serve(name)
        if name != "leader":
            # Until it leads it shows no more than what its leader had told it that all have.
            ok("promote", again.address, "--unclean")
        assert shapes("read", again.address, topics=topics) == expected, name
        again.end()


def test_three_brokers_get_it_and_keep_it_when_all_are_killed(source: Source, brokers: Callable[..., Broker]) -> None:
    target = brokers(3, **{"log.cleaner.backoff.ms": "3600000"})
    ok("restore", source.repository, target.target, "--replication-factor", "3")
    target.kafka.stop(kill=True)
    target.kafka.start()
    for topic in ["appended", "codecs", "compacted", "empty", "transactions", "trimmed"]:
        until(f"{topic} is in sync", partial(is_on_three, target.bootstrap, topic))
    ok("verify", source.repository, target.target)
    assert shapes("groups", target.bootstrap) == source.groups
    arguments = ["--bootstrap-server", target.bootstrap, "--topic", "codecs", "--group", "librdkafka"]
    arguments += ["--timeout-ms", "8000", "--formatter-property", "print.offset=true"]
    read = kafka_tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer", *arguments, "--isolation-level", "read_committed"
    )
    offsets = [line for line in read.splitlines() if line.startswith("Offset:")]
    # Where the group had committed nothing it begins at the end.
    stood = {partition: offset for topic, partition, offset, _ in source.groups["librdkafka"] if topic == "codecs"}
    ends = {partition: source.records[f"codecs-{partition} read_committed"][1] for partition in stood}
    assert len(offsets) == sum(ends[partition] - offset for partition, offset in stood.items()) > 0
