"""Replicate, back up, restore, snapshots, check: what crosses into Python. What they do is tested in the core."""

import dataclasses
import pickle
import subprocess
import sys

import ottla
import pytest
from ottla import Broker, KafkaConsumer, KafkaProducer, errors


def produce(servers, topic, count, start=0):
    with KafkaProducer(bootstrap_servers=servers, linger_ms=5) as producer:
        for number in range(start, start + count):
            key, value = b"k%d" % (number % 7), b"v%d" % number
            producer.send(topic, value, key, [("n", b"%d" % number)], timestamp_ms=1_700_000_000_000 + number)


def read(servers, topic):
    """Everything that can be seen of a topic's records, by place."""
    with KafkaConsumer(bootstrap_servers=servers, group_id=None) as consumer:
        partitions = [ottla.TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        left = sum(consumer.end_offsets(partitions).values())
        records = consumer.consume(left, timeout=30)
    assert len(records) == left
    return {(r.partition, r.offset): (r.key, r.value, r.timestamp, r.headers) for r in records}


@pytest.fixture
def broker():
    with Broker(config={"num.partitions": 3}) as broker:
        yield broker


@pytest.mark.parametrize("kind", ["broker", "address", "url", "memory", "directory", "closed directory", "path"])
def test_each_kind_of_source_is_copied_in_full_and_then_what_is_new(tmp_path, topic, kind):
    data = None if kind in {"broker", "address", "url", "memory"} else tmp_path / "data"
    with Broker(data, listen=None if kind == "memory" else "127.0.0.1:0", config={"num.partitions": 3}) as broker:
        servers = broker.bootstrap_servers
        produce(servers, topic, 100)
        if kind in {"closed directory", "path"}:
            broker.close()
            servers = str(data)
        source = {
            "broker": broker,
            "address": servers,
            "url": f"kafka://{servers}/",
            "memory": servers,
            "directory": str(data),
            "closed directory": str(data),
            "path": data,
        }[kind]
        first = ottla.replicate(source, tmp_path / "replica", topic)
        assert (first.extent, first.records, len(first.partitions)) == ("full", 100, 3)
        whole = ottla.backup(source, tmp_path / "backup")
        assert (whole.extent, whole.records, whole.copied.records, whole.parent) == ("full", 100, 100, None)
        produce(servers, topic, 10, start=100)
        second = ottla.replicate(source, str(tmp_path / "replica"), [topic])
        assert (second.extent, second.records) == ("incremental", 10)
        assert [p.start for p in second.partitions] == [p.end for p in first.partitions]
        more = ottla.backup(source, str(tmp_path / "backup"))
        assert (more.extent, more.records, more.new_records, more.parent) == ("incremental", 110, 10, whole.id)
        assert more.shared_bytes == whole.bytes
        expected = read(servers, topic)
    ottla.restore(tmp_path / "backup", tmp_path / "restored")
    assert len(expected) == 110
    assert read(str(tmp_path / "replica"), topic) == expected
    assert read(str(tmp_path / "restored"), topic) == expected


def test_a_full_copy_reads_what_it_has_again(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 50)
    ottla.replicate(broker, tmp_path / "replica")
    ottla.backup(broker, tmp_path / "backup")
    assert ottla.replicate(broker, tmp_path / "replica").records == 0
    again = ottla.replicate(broker, tmp_path / "replica", full=True)
    assert (again.extent, again.records) == ("full", 50)
    assert read(str(tmp_path / "replica"), topic) == read(broker.bootstrap_servers, topic)
    assert ottla.backup(broker, tmp_path / "backup").new_records == 0
    assert ottla.backup(broker, tmp_path / "backup", full=True).copied.records == 50


def test_snapshots_are_listed_and_restored_by_name_with_topics_and_groups(broker, tmp_path, topic):
    servers = broker.bootstrap_servers
    produce(servers, topic, 30)
    with KafkaConsumer(topic, bootstrap_servers=servers, group_id="g", auto_offset_reset="earliest") as consumer:
        assert len(consumer.consume(30, timeout=30)) == 30
        consumer.commit()
    first = ottla.backup(broker, tmp_path / "backup")
    produce(servers, topic, 5, start=30)
    produce(servers, f"{topic}-other", 5)
    second = ottla.backup(broker, tmp_path / "backup", f"{topic}, {topic}-oth.*")
    listed = ottla.snapshots(tmp_path / "backup")
    assert [snapshot.id for snapshot in listed] == [first.id, second.id]
    assert [(snapshot.records, snapshot.topics) for snapshot in listed] == [(30, 1), (40, 2)]
    assert dataclasses.replace(second, copied=None) == listed[1]
    older = ottla.restore(tmp_path / "backup", tmp_path / "older", first.id[:10])
    assert (older.snapshot, older.copied.records, older.groups) == (first.id, 30, ("g",))
    some = ottla.restore(tmp_path / "backup", f"memory:{topic}", topics=[f"{topic}-other"])
    assert (some.snapshot, some.copied.records) == (second.id, 5)
    assert len(read(f"memory:{topic}", f"{topic}-other")) == 5
    with KafkaConsumer(
        topic, bootstrap_servers=str(tmp_path / "older"), group_id="g", consumer_timeout_ms=1500
    ) as consumer:
        produce(str(tmp_path / "older"), topic, 2, start=30)
        assert sorted(record.value for record in consumer) == [b"v30", b"v31"]


def test_what_is_not_there_is_named_and_nothing_is_made_for_it(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 1)
    missing = tmp_path / "missing"
    for call in (
        lambda: ottla.replicate(missing, tmp_path / "new"),
        lambda: ottla.backup(str(missing), tmp_path / "new"),
        lambda: ottla.backup("memory:missing", tmp_path / "new"),
        lambda: ottla.replicate(broker, tmp_path / "new", "missing"),
        lambda: ottla.backup(broker, tmp_path / "new", ["missing"]),
        lambda: ottla.restore(missing, tmp_path / "new"),
        lambda: ottla.snapshots(missing),
        lambda: ottla.check(missing),
    ):
        with pytest.raises(errors.NotFoundError, match="missing"):
            call()
    ottla.backup(broker, tmp_path / "backup")
    for name, arguments in (("00", ()), ("latest", (["missing"],))):
        with pytest.raises(errors.NotFoundError):
            ottla.restore(tmp_path / "backup", tmp_path / "new", name, *arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"backup"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.NotFoundError, match="empty"):
        ottla.backup(tmp_path / "empty", tmp_path / "new")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_live_broker_gets_a_point_in_time_then_all_and_is_compared(broker, tmp_path, topic):
    servers = broker.bootstrap_servers
    ottla.KafkaAdminClient(bootstrap_servers=servers).create_topics({topic: {"configs": {"retention.ms": "-1"}}})
    produce(servers, topic, 100)
    produce(servers, topic, 50, start=100)
    ottla.backup(broker, tmp_path / "backup", topic)
    with Broker() as target:
        address, name = f"kafka://{target.bootstrap_servers}", f"{topic}-2"
        at = 1_700_000_000_000 + 99
        first = ottla.restore(tmp_path / "backup", address, at=at, rename={topic: name}, client_id="restorer")
        assert 0 < first.copied.records <= 100
        behind = ottla.verify(tmp_path / "backup", target, rename={topic: name})
        assert not all(partition.is_alike for partition in behind)
        assert sum(partition.lacking for partition in behind) == 150 - first.copied.records
        rest = ottla.restore(tmp_path / "backup", address, rename={topic: name})
        assert rest.copied.records == 150 - first.copied.records
        verified = ottla.verify(tmp_path / "backup", target, rename={topic: name})
        assert sum(partition.same for partition in verified) == 150
        assert all(partition.is_alike for partition in verified)
        assert read(target.bootstrap_servers, name) == read(servers, topic)
        produce(target.bootstrap_servers, name, 1)
        with pytest.raises(errors.AlreadyExistsError, match="force"):
            ottla.restore(tmp_path / "backup", address, rename={topic: name})
        ottla.restore(tmp_path / "backup", address, rename={topic: name}, force=True)
        assert read(target.bootstrap_servers, name) == read(servers, topic)


def test_what_cannot_be_done_says_why(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 1)
    ottla.backup(broker, tmp_path / "backup")
    with pytest.raises(errors.InvalidError, match="s3://, gs:// or az://"):
        ottla.backup(broker, "ftp://bucket/backup")
    with pytest.raises(errors.InvalidError, match="partitions are chosen"):
        ottla.restore(tmp_path / "backup", tmp_path / "new", partitions=["orders"])
    with pytest.raises(errors.NotFoundError, match="no such directory"):
        ottla.restore(tmp_path / "backup", f"logdir:{tmp_path / 'new'}")
    with pytest.raises(errors.InvalidError, match="regular expression"):
        ottla.replicate(broker, tmp_path / "replica", "pay[")
    with Broker(tmp_path / "data") as open_here:
        produce(open_here.bootstrap_servers, topic, 1)
        with pytest.raises(errors.InvalidError, match="has the directory open"):
            ottla.restore(tmp_path / "backup", tmp_path / "data")
        for source in (open_here, open_here.bootstrap_servers, tmp_path / "data"):
            for full in (False, True):
                with pytest.raises(errors.InvalidError, match="same log"):
                    ottla.replicate(source, tmp_path / "data", full=full)
        assert len(read(open_here.bootstrap_servers, topic)) == 1
        produce(open_here.bootstrap_servers, topic, 1)
    with pytest.raises(errors.ClosedError):
        ottla.backup(open_here, tmp_path / "backup")
    for neither in ("missing", "s3://bucket/data"):
        with pytest.raises(errors.InvalidError, match="HOST:PORT"):
            ottla.backup(neither, tmp_path / "backup")
    with pytest.raises(errors.KafkaTimeoutError, match="after 300 ms.*127.0.0.1:1"):
        ottla.backup("127.0.0.1:1", tmp_path / "backup", bootstrap_timeout_ms=300)
    with pytest.raises(errors.KafkaConfigurationError, match="no_such_option"):
        ottla.replicate(broker, tmp_path / "replica", no_such_option=1)
    with pytest.raises(TypeError, match="bootstrap_servers"):
        ottla.replicate(broker, tmp_path / "replica", bootstrap_servers="localhost:9092")
    with pytest.raises(TypeError):
        ottla.backup(1, tmp_path / "backup")
    with pytest.raises(TypeError):
        ottla.backup(broker, tmp_path / "backup", topics=1)


def test_a_directory_of_another_process_names_its_owner(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 1)
    ottla.backup(broker, tmp_path / "backup")
    code = "import sys, ottla; b = ottla.Broker(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout.readline() == "open\n"
        for call in (
            lambda: ottla.backup(tmp_path / "data", tmp_path / "backup"),
            lambda: ottla.replicate(broker, tmp_path / "data"),
            lambda: ottla.restore(tmp_path / "backup", tmp_path / "data"),
        ):
            with pytest.raises(errors.FencedError, match=f"ottla serve.*owner_pid={owner.pid}"):
                call()
    finally:
        owner.communicate("", timeout=30)


def test_progress_is_told_and_what_it_raises_ends_the_copy(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 2000)
    told = []
    copied = ottla.replicate(broker, tmp_path / "replica", progress=told.append)
    assert told[-1] == ottla.Progress(3, 3, 2000, 2000, 2000, copied.bytes)
    assert told[-1].share == 1.0
    told.clear()
    snapshot = ottla.backup(broker, tmp_path / "backup", progress=told.append)
    assert (told[-1].records, told[-1].bytes) == (2000, snapshot.bytes)

    class EnoughError(Exception):
        pass

    def enough(progress):
        raise EnoughError(progress)

    with pytest.raises(EnoughError):
        ottla.restore(tmp_path / "backup", tmp_path / "restored", progress=enough)
    ottla.restore(tmp_path / "backup", tmp_path / "restored")
    assert read(str(tmp_path / "restored"), topic) == read(broker.bootstrap_servers, topic)


def test_a_damaged_repository_is_reported(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 30)
    snapshot = ottla.backup(broker, tmp_path / "backup")
    report = ottla.check(tmp_path / "backup", read_data=True)
    assert report.is_sound
    assert (report.snapshots, report.read_bytes) == (1, report.stored_bytes)
    damaged = max((tmp_path / "backup" / "objects").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.chmod(0o644)
    damaged.write_bytes(data)
    assert ottla.check(tmp_path / "backup").is_sound
    report = ottla.check(tmp_path / "backup", read_data=True)
    assert not report.is_sound
    (problem,) = report.problems
    assert problem.partition.topic == topic
    assert problem.offsets[0] == 0
    assert problem.snapshots == (snapshot.id,) or snapshot.id.startswith(problem.snapshots[0])
    with pytest.raises(errors.CorruptError):
        ottla.restore(tmp_path / "backup", tmp_path / "restored")


def test_results_are_plain_values_that_read_well(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 1234)
    copied = ottla.replicate(broker, tmp_path / "replica")
    snapshot = ottla.backup(broker, tmp_path / "backup")
    listed = ottla.snapshots(tmp_path / "backup")
    restored = ottla.restore(tmp_path / "backup", tmp_path / "restored")
    assert repr(copied).startswith("<Copied full: 1,234 records, ")
    lines = str(copied).splitlines()
    assert lines[0].split() == ["topic", "partition", "kind", "offsets", "records", "bytes"]
    assert lines[1].startswith(topic)
    assert len(lines) == 5
    assert str(snapshot).splitlines()[-1].startswith(f"snapshot {snapshot.id[:12]}, full: 1,234 records, ")
    assert len(str(listed).splitlines()) == 2
    for value in (copied, snapshot, listed, listed[0], restored):
        page = value._repr_html_()
        assert page.count("<table>") == page.count("</table>") == 1
        assert "1,234" in page
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 (its own)
    with pytest.raises(AttributeError):
        copied.partitions[0].records = 0
    odd = dataclasses.replace(copied.partitions[0], topic="<b>")
    page = ottla.Copied((odd,) * 50)._repr_html_()
    assert "<b>" not in page.split("</div>", 1)[1]
    assert "and 10 more" in page
    assert snapshot.time.timestamp() == snapshot.time_ms / 1000
